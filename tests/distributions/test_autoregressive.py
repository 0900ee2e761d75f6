"""Binary vectors drawn one coordinate after the other: probabilities, frequencies, given coordinates."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from latentia.distributions.autoregressive import AutoregressiveBernoulli


def chained(size: int, batch: int = 2, event: tuple[int, ...] | None = None, known: torch.Tensor | None = None):
    """l_d = b_d + sum_{e<d} w_de x_e, and as if (S, B) were the batch shape."""
    generator = torch.Generator().manual_seed(size)
    weight = torch.randn(size, size, dtype=torch.float64, generator=generator).tril(-1)
    bias = torch.randn(batch, size, dtype=torch.float64, generator=generator)
    return AutoregressiveBernoulli(lambda x: bias + x @ weight.T, bias[:, 0], event or (size,), known)


def every(size: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * size).reshape(-1, 1, size)


@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 6))
def test_probabilities_sum_to_one(size):
    total = torch.logsumexp(chained(size).log_prob(every(size)), 0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)


def test_terms_are_the_conditionals():
    p, x = chained(4), every(4)
    terms = p.terms(x)
    torch.testing.assert_close(terms.sum(-1), p.log_prob(x))
    both = torch.stack([p.terms(x * torch.tensor([1, 1, 0, 0])), p.terms(x * torch.tensor([1, 1, 0, 1]))])
    torch.testing.assert_close(both[0, ..., :3], both[1, ..., :3])


def test_draws_have_the_frequencies_of_log_prob():
    torch.manual_seed(0)
    p, draws = chained(3), 20_000
    x = p.sample((draws,))
    place = (x @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()
    expected = p.log_prob(every(3)).exp() * draws
    for b in range(2):
        counts = torch.bincount(place[:, b], minlength=8)
        statistic = float(((counts - expected[:, b]) ** 2 / expected[:, b]).sum())
        assert chi2.sf(statistic, 7) > 1e-5


def test_the_mean_is_near_the_true_one_and_varies_less_than_draws():
    torch.manual_seed(0)
    p = chained(3)
    truth = (p.log_prob(every(3)).exp().unsqueeze(-1) * every(3)).sum(0)
    means = torch.stack([p.mean for _ in range(900)])
    error = means.std(0) / 30
    assert bool(((means.mean(0) - truth).abs() < 6 * error + 1e-9).all())
    assert bool((means.var(0) <= truth * (1 - truth) * 1.3).all())
    assert bool((means.var(0)[:, 0] < 1e-20).all())  # the first coordinate has no predecessors to vary with


def test_what_is_known_is_given_and_the_rest_follows():
    torch.manual_seed(0)
    known = torch.tensor([1.0, math.nan, math.nan], dtype=torch.float64)
    p, draws = chained(3, known=known), 20_000
    x = p.sample((draws,))
    assert bool((x[..., 0] == 1).all())
    joint = p.log_prob(every(3)).exp().where(every(3)[..., 0] == 1, 0.0)
    truth = (joint.unsqueeze(-1) * every(3)).sum(0) / joint.sum(0).unsqueeze(-1)
    assert bool(((x.mean(0) - truth).abs() < 6 * 0.5 / draws**0.5).all())


def test_events_keep_their_shape():
    p = chained(6, event=(2, 3))
    assert p.sample((5,)).shape == (5, 2, 2, 3)
    assert p.sample().shape == p.mean.shape == (2, 2, 3)
    assert p.log_prob(p.sample((5,))).shape == (5, 2)
    assert p.support.is_discrete  # type: ignore[attr-defined]
