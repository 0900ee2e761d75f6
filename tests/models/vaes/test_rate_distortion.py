"""The rate-distortion autoencoder: closed forms of sources whose R(D) is known, its bounds, and what it refuses."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from latentia import gradients, testing
from latentia.data import as_dataset
from latentia.distributions.distortion import hamming, squared
from latentia.errors import DataError, OptionError
from latentia.learners import Gradient
from latentia.measure.rate_distortion import blahut_arimoto, rated
from latentia.model import Batch
from latentia.models import RateDistortion
from latentia.models.vaes import rate_distortion as module
from latentia.objectives import elbo, rate_distortion

TINY = {"numbers": module.tiny, "bits": module.tiny_bits, "values": module.tiny_values}


@pytest.mark.parametrize("kind", TINY)
def test_checks(kind):
    ran = testing.check_model(TINY[kind], seeds=(0,))
    asked = {"check_bounds"} if kind == "numbers" else set()  # the others have a bound alone
    assert asked | {"check_gradients", "check_kl", "check_posterior"} <= set(ran)


def normal_source(count=256, deviation=2.0):
    """The quantiles of a normal distribution in the middle of shares: no draw's noise, and nearly its variance."""
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    x = torch.special.ndtri(shares)
    return as_dataset(Batch.of((deviation * x / x.std(unbiased=False)).unsqueeze(-1).float()))


@pytest.mark.parametrize("distortion", [1.0, 0.1])
def test_a_normal_source(distortion):
    """R(D) = log(variance / D) / 2 (Cover and Thomas 2006, theorem 10.3.2), from above by 2 %."""
    data = normal_source()
    model = RateDistortion((1,), slope=1 / (2 * distortion), latent=1, hidden=())
    options: dict[str, Any] = {"epochs": 300, "batch_size": 256, "lr": 0.1, "schedule": "cosine", "clip": 1.0}
    Gradient(partial(elbo, samples=4), patience=None, **options).fit(model, data)
    found = rated(model, data, samples=100)
    least = 0.5 * math.log(4 / found.distortion)
    assert found.distortion == pytest.approx(distortion, rel=0.03)
    assert least - 0.005 < found.rate < 1.02 * least
    # the sandwich
    assert found.upper is not None
    assert found.lower - 4 * found.lower_se < found.rate
    assert found.lower < found.upper + 4 * (found.lower_se + (found.upper_se or 0))
    assert found.lower == pytest.approx(found.rate, abs=0.05)


def _entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@pytest.mark.parametrize(("p", "slope"), [(0.3, 2.5), (0.5, 4.0)])
def test_a_coin(p, slope):
    """R(D) = H(p) - H(D) (theorem 10.3.1), exact by Blahut and Arimoto, from above by 2 %."""
    x = (torch.arange(200) < 200 * p).float().unsqueeze(-1)
    data = as_dataset(Batch.of(x))
    model = RateDistortion((1,), slope=slope, distortion="hamming", channel="bits", latent=1, hidden=())
    objective = partial(elbo, estimator=gradients.enumerate)
    Gradient(objective, epochs=400, batch_size=200, lr=0.1, schedule="cosine", patience=None).fit(model, data)
    least = blahut_arimoto(torch.tensor([1 - p, p]), 1 - torch.eye(2), slope)
    found = rated(model, data, distortion=hamming, samples=2000)
    assert found.distortion == pytest.approx(least.distortion, abs=3 * found.distortion_se + 0.01)
    # the sum over z is exact: what is minimised is at most 2 % above the least there is
    with torch.no_grad():
        cost = -float(objective(model, data.batch()).value.mean()) - math.log1p(math.exp(-slope))
    best = least.rate + slope * least.distortion
    assert best - 1e-6 < cost < best + 0.02 * least.rate
    d = found.distortion
    assert found.rate < 1.02 * (_entropy(p) - _entropy(d)) + 3 * slope * found.distortion_se


def test_the_objective_is_the_models_own_up_to_a_constant():
    model, batch = module.tiny(0)
    value = []
    for objective in (elbo, partial(rate_distortion, slope=1.5)):
        torch.manual_seed(0)
        value.append(objective(model, batch).value)
    observed = batch.observed.sum(-1)
    assert torch.allclose(value[0] - value[1], 0.5 * observed.double() * math.log(1.5 / math.pi))


def test_any_distortion():
    def absolute(x, y):
        return (x - y).abs()

    data = normal_source(128)
    model = RateDistortion((1,), latent=1, hidden=())
    ends = []
    for slope in (0.2, 5.0):
        objective = partial(rate_distortion, slope=slope, distortion=absolute)
        Gradient(objective, epochs=60, batch_size=64, lr=3e-2, patience=None).fit(model, data)
        ends.append(rated(model, data, distortion=absolute))
    assert ends[0].rate < ends[1].rate
    assert ends[0].distortion > ends[1].distortion


@pytest.mark.slow
def test_a_flow_as_the_entropy_model():
    """Two points, told apart by a channel whose marginal is no normal: r learned is nearer to it."""
    x = torch.cat([torch.full((100, 1), -1.0), torch.full((100, 1), 1.0)])
    data, rates = as_dataset(Batch.of(x)), []
    for prior in ("normal", "spline"):
        model = RateDistortion((1,), slope=20.0, latent=1, hidden=(), prior=prior)
        Gradient(elbo, epochs=150, batch_size=100, lr=3e-2, schedule="cosine", patience=None).fit(model, data)
        rates.append(rated(model, data, samples=50))
    assert rates[1].rate < rates[0].rate
    assert all(one.lower < math.log(2) + 0.01 for one in rates)


def test_what_makes_no_sense_is_refused():
    refused: list[dict[str, Any]] = [{"slope": 0.0}, {"distortion": "angle"}, {"channel": "smoke"}]
    for options in [*refused, {"channel": "bits", "prior": "maf"}]:
        with pytest.raises(OptionError):
            RateDistortion((2,), **options)
    with pytest.raises(OptionError):
        RateDistortion((2,), symbols=1, distortion="hamming")
    model = RateDistortion((2,), distortion="hamming", channel="bits")
    for x in (torch.full((3, 2), 0.5), torch.zeros(3, 4)):
        with pytest.raises(DataError):
            model.check(Batch.of(x))
    with pytest.raises(OptionError):
        rate_distortion(model, Batch.of(torch.zeros(3, 2)), slope=-1.0)


def test_squares_and_errors():
    x, y = torch.tensor([[0.0, 1.0]]), torch.tensor([[[0.4, 0.2]]])
    assert torch.allclose(squared(x, y), torch.tensor([[[0.16, 0.64]]]))
    assert hamming(x, y).tolist() == [[[0.0, 1.0]]]
