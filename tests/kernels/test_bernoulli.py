"""The fused log-likelihood of binary coordinates against the same sum step by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from latentia.kernels.bernoulli import log_likelihood, specification


def drawn(draws: int, data: int, shape: tuple[int, ...], scale: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(draws, data, *shape, generator=generator)
    return logits, torch.rand(data, *shape, generator=generator).round()


@given(
    draws=st.integers(1, 3),
    data=st.integers(0, 5),
    shape=st.sampled_from([(1,), (63,), (64,), (65,), (8, 8), (200,), (961,), (2000,)]),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1000.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_values_and_slopes_are_those_of_the_specification_in_float64(draws, data, shape, scale, seed):
    logits, x = drawn(draws, data, shape, scale, seed)
    weight = torch.rand(draws, data, generator=torch.Generator().manual_seed(seed))
    exact, logits = logits.double().requires_grad_(), logits.requires_grad_()
    found, true = log_likelihood(logits, x), specification(exact, x.double())
    (slope,) = torch.autograd.grad((found * weight).sum(), logits)
    (true_slope,) = torch.autograd.grad((true * weight.double()).sum(), exact)
    assert found.shape == (draws, data)
    torch.testing.assert_close(found.double(), true, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(slope.double(), true_slope, rtol=0, atol=1e-6)


@given(size=st.sampled_from([1, 64, 65, 130, 1025]), share=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_what_is_missing_counts_nothing_whatever_it_holds(size, share, seed):
    logits, x = drawn(2, 3, (size,), 3.0, seed)
    mask = torch.rand(3, size, generator=torch.Generator().manual_seed(seed)) < share
    exact, logits = logits.double().requires_grad_(), logits.requires_grad_()
    found, true = log_likelihood(logits, x.where(mask, torch.nan), mask), specification(exact, x.double(), mask)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    (true_slope,) = torch.autograd.grad(true.sum(), exact)
    torch.testing.assert_close(found.double(), true, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(slope.double(), true_slope, rtol=0, atol=1e-6)
    assert not slope[:, ~mask].any()
    assert torch.equal(found, log_likelihood(logits.where(mask, torch.inf), x, mask))


def test_grey_values_and_extreme_logits():
    logits = torch.tensor([[[-1e30, 88.0, -300.0, 5.0]]])
    x = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    torch.testing.assert_close(log_likelihood(logits, x), specification(logits.double(), x.double()).float())
    assert log_likelihood(torch.full((1, 1, 3), torch.nan), torch.ones(1, 3)).isnan().all()


def test_the_slope_of_the_slope():
    logits, x = drawn(2, 3, (5,), 1.0, 0)
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(log_likelihood(logits, x).sum(), logits, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), logits, create_graph=True)
    (third,) = torch.autograd.grad(curve.sum(), logits)
    probability = logits.detach().sigmoid()
    torch.testing.assert_close(curve.detach(), -probability * (1 - probability))
    torch.testing.assert_close(third, -probability * (1 - probability) * (1 - 2 * probability))


def test_without_a_gradient_the_values_are_the_same():
    logits, x = drawn(2, 3, (1000,), 3.0, 0)
    mask = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0)) < 0.5
    for seen in (None, mask):
        with torch.no_grad():
            plain = log_likelihood(logits, x, seen)
        learned = log_likelihood(logits.clone().requires_grad_(), x, seen)
        torch.testing.assert_close(plain, learned.detach(), rtol=1e-6, atol=0)


def test_the_slope_of_the_slope_where_values_are_missing():
    logits, x = drawn(2, 3, (5,), 1.0, 0)
    logits.requires_grad_()
    mask = torch.tensor([True, False, True, True, False]).expand(3, 5)
    (slope,) = torch.autograd.grad(log_likelihood(logits, x, mask).sum(), logits, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), logits)
    probability = logits.detach().sigmoid()
    torch.testing.assert_close(curve, torch.where(mask, -probability * (1 - probability), 0.0))


def test_a_hidden_nan_stays_hidden_from_the_slope_of_the_slope():
    logits, x = drawn(2, 3, (5,), 1.0, 0)
    mask = torch.tensor([True, False, True, True, False]).expand(3, 5)
    logits, x = logits.where(mask, torch.nan).requires_grad_(), x.where(mask, torch.nan)
    weight = torch.rand(2, 3).requires_grad_()
    (slope,) = torch.autograd.grad((log_likelihood(logits, x, mask) * weight).sum(), logits, create_graph=True)
    found = torch.autograd.grad(slope.sum(), [logits, weight])
    assert all(part.isfinite().all() for part in found)


def test_a_mask_of_another_shape_is_the_specifications_matter():
    logits, x = drawn(2, 3, (5,), 1.0, 0)
    mask = torch.rand(2, 3, 5) < 0.5
    torch.testing.assert_close(log_likelihood(logits, x, mask), specification(logits, x, mask))
    rows = torch.tensor([[True], [False], [True]])
    torch.testing.assert_close(log_likelihood(logits, x, rows), specification(logits, x, rows.expand(3, 5)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_tangent_is_refused_and_not_lost():
    logits, x = drawn(2, 3, (5,), 1.0, 0)
    with forward_ad.dual_level(), pytest.raises((NotImplementedError, RuntimeError), match=r"jvp|forward"):
        log_likelihood(forward_ad.make_dual(logits, torch.ones_like(logits)), x)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads):
    logits, x = drawn(4, 300, (100,), 3.0, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        true = specification(logits.double(), x.double())
        torch.testing.assert_close(log_likelihood(logits, x).double(), true, rtol=1e-6, atol=1e-4)
    finally:
        torch.set_num_threads(before)
