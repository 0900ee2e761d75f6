"""R(D) of Blahut and Arimoto against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from latentia.errors import OptionError
from latentia.measure.rate_distortion import blahut_arimoto


def binary_entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("slope", [2.5, 4.0, 8.0])
def test_a_coin_with_errors(p, slope):
    """R(D) = H(p) - H(D) with D = 1 / (1 + e^slope), where that is below p (Cover and Thomas 2006, theorem 10.3.1)."""
    found = blahut_arimoto(torch.tensor([1 - p, p]), 1 - torch.eye(2), slope)
    error = 1 / (1 + math.exp(slope))
    if error >= p:
        assert found.rate == pytest.approx(0, abs=1e-3)
        assert found.distortion == pytest.approx(p, abs=1e-3)
        return
    assert found.distortion == pytest.approx(error, abs=1e-5)
    assert found.rate == pytest.approx(binary_entropy(p) - binary_entropy(error), abs=1e-3)
    assert found.gap <= 1e-6


@pytest.mark.parametrize("distortion", [0.8, 0.3, 0.1])
def test_a_normal_with_squared_errors(distortion):
    """R(D) = log(1 / D) / 2 for a variance of 1, on a grid that is fine beside the error (theorem 10.3.2)."""
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    source = (-(x**2) / 2).softmax(0)
    slope = 1 / (2 * distortion)
    found = blahut_arimoto(source, (x.unsqueeze(1) - x) ** 2, slope, tol=1e-5)
    assert found.distortion == pytest.approx(distortion, abs=1e-3)
    assert found.rate == pytest.approx(0.5 * math.log(1 / distortion), abs=1e-3)


def test_the_ends_of_the_curve():
    source = torch.tensor([0.5, 0.25, 0.25])
    none = blahut_arimoto(source, 1 - torch.eye(3), 0.0)
    assert none.rate == pytest.approx(0, abs=1e-9)
    all_of_it = blahut_arimoto(source, 1 - torch.eye(3), 40.0)
    assert all_of_it.rate == pytest.approx(1.5 * math.log(2), abs=1e-6)
    assert all_of_it.distortion == pytest.approx(0, abs=1e-9)


def test_what_makes_no_sense_is_refused():
    square = 1 - torch.eye(2)
    for source, distortion, slope in (
        (torch.tensor([0.5, 0.6]), square, 1.0),
        (torch.tensor([0.5, 0.5]), square, -1.0),
        (torch.tensor([0.5, 0.5]), torch.ones(3, 2), 1.0),
    ):
        with pytest.raises(OptionError):
            blahut_arimoto(source, distortion, slope)
