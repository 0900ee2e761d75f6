"""Products of bits and of one-hot values, against torch's own and by enumeration."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, OneHotCategorical
from torch.distributions import kl_divergence as torchs

from latentia import gradients
from latentia.distributions import Bernoullis, Categoricals, Joint, OneHot
from latentia.distributions.discrete import count, enumerable, finite
from latentia.distributions.divergence import kl_given, kl_terms

KINDS = {
    "bits": (Bernoullis, lambda logits: Independent(Bernoulli(logits=logits), 1), (5, 3)),
    "values": (Categoricals, lambda logits: Independent(OneHotCategorical(logits=logits), 1), (5, 2, 3)),
}


def pair(kind, seed=0):
    torch.manual_seed(seed)
    ours, theirs, shape = KINDS[kind]
    logits = 2 * torch.randn(shape, dtype=torch.float64)
    return ours(logits), theirs(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_entropy_and_kl_are_torchs(kind):
    (ours, theirs), (prior, other) = pair(kind), pair(kind, 1)
    z = theirs.sample((7,))
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    terms = kl_terms(ours, prior)
    assert terms is not None
    assert terms.shape == (5, ours.event_shape[0])
    torch.testing.assert_close(terms.sum(-1), torchs(theirs, other))
    # of layers too, where it is of conditionals
    drawn = kl_given(Joint({"a": ours}), Joint({"a": prior}), {"a": z})["a"]
    torch.testing.assert_close(drawn, terms.expand(7, *terms.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_all_values_are_gone_through_once(kind):
    p, _ = pair(kind)
    z = p.enumerate_support()
    assert len(z) == count(p) == len(z[:, 0].flatten(1).unique(dim=0))
    assert enumerable(p)
    torch.testing.assert_close(p.log_prob(z).logsumexp(0), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close((p.log_prob(z).exp().reshape(*z.shape[:2], *(1,) * (z.ndim - 2)) * z).sum(0), p.mean)
    assert (p.log_prob(p.mode) >= p.log_prob(z) - 1e-12).all()
    assert not p.has_enumerate_support  # its mean is not the probabilities of all its values
    assert count(Bernoullis(torch.zeros(1, 40))) == 2.0**40
    assert not enumerable(Categoricals(torch.zeros(1, 20, 10)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["sample", "noise"])
def test_draws_have_the_mean_and_are_corners(kind, way):
    p, _ = pair(kind)
    view = finite(p)
    assert view is not None
    number = 40_000
    z = p.sample((number,)) if way == "sample" else view.hard(view.logits + view.noise((number,)))
    assert ((z == 0) | (z == 1)).all()
    if kind == "values":
        assert (z.sum(-1) == 1).all()
    error = (p.mean * (1 - p.mean) / number).sqrt()
    assert ((z.mean(0) - p.mean).abs() < 5 * error).all()
    noisy = view.logits + view.noise((10,))
    torch.testing.assert_close(view.soft(noisy, 1e-4), view.hard(noisy), atol=1e-3, rtol=0)
    assert abs(float(view.soft(noisy, 1e4).mean()) - (1 / 2 if kind == "bits" else 1 / 3)) < 1e-3


def test_views_of_torchs_own_and_of_one_hot():
    logits = torch.randn(4, 3, dtype=torch.float64)
    for p in (OneHotCategorical(logits=logits), OneHot({"node": logits}), Independent(Bernoulli(logits=logits), 1)):
        view = finite(p)
        assert view is not None
        torch.testing.assert_close(view.mean, p.mean)
    assert finite(torch.distributions.Normal(logits, 1.0)) is None


def test_layers_are_summed_out_with_the_densities_of_their_draws():
    """Two layers of which the upper depends on the lower: every pair of values, with what each was drawn from."""
    torch.manual_seed(0)
    weight, logits = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    q = Joint({"a": Bernoullis(logits), "b": lambda z: Bernoullis(z["a"] @ weight)})
    entropy = -gradients.enumerate(q, gradients.OfDraw(q, lambda drawn: drawn.log_q))
    a = q.first.enumerate_support()
    upper = Bernoullis(a @ weight)
    by_hand = q.first.entropy() + (q.first.log_prob(a).exp() * upper.entropy()).sum(0)
    torch.testing.assert_close(entropy, by_hand)
    assert math.isclose(float(gradients.enumerate(q, lambda z: torch.ones(z["a"].shape[:2]).double()).sum()), 4.0)
