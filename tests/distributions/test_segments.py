"""Labels of pixels: every shortcut gives what the recursion over all labellings does."""

import pytest
import torch

from latentia.distributions import RowSegments, Segments
from latentia.distributions.structured import Structured
from latentia.testing.brute_force import nodes

DOUBLE = torch.float64


def make(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    potentials = {"node": torch.randn(3, 2, 3, 2, generator=generator, dtype=DOUBLE)}
    if kind is RowSegments:
        potentials["transition"] = torch.randn(2, 2, generator=generator, dtype=DOUBLE)
    return kind(potentials)


@pytest.mark.parametrize("kind", [Segments, RowSegments])
def test_shortcuts_are_the_recursion(kind):
    q, p = make(kind), make(kind, 1)
    z, log_weight = nodes(q)
    weight = log_weight.exp()
    torch.testing.assert_close(weight.sum(0), torch.ones(3, dtype=DOUBLE))
    torch.testing.assert_close(q.log_partition, q.recursion(q.log_potentials, q.sum))
    torch.testing.assert_close(q.score(z).logsumexp(0), q.log_partition)
    torch.testing.assert_close(q.score(z), Structured.score(q, z))
    marginals = torch.einsum("sb,sbhwk->bhwk", weight, z)
    torch.testing.assert_close(q.marginals, marginals)
    torch.testing.assert_close(q._marginals(), marginals)
    torch.testing.assert_close(q.entropy(), -(weight * log_weight).sum(0))
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), (weight * (log_weight - p.log_prob(z))).sum(0))
    best = z[log_weight.argmax(0), torch.arange(3)]
    assert torch.equal(q.mode, best)
    assert torch.equal(q.hard().expectations()["node"], best)
    scores, found = q.top_k(3)
    torch.testing.assert_close(scores, log_weight.sort(0, descending=True).values[:3])
    assert torch.equal(found[0], best)


@pytest.mark.parametrize("kind", [Segments, RowSegments])
def test_gradients_are_those_of_the_recursion(kind):
    q = make(kind)
    leaves = {name: phi.clone().requires_grad_() for name, phi in q.log_potentials.items()}
    fast = torch.autograd.grad(kind(leaves).log_partition.sum(), list(leaves.values()))
    slow = torch.autograd.grad(q.recursion(leaves, q.sum).sum(), list(leaves.values()))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [Segments, RowSegments])
def test_a_pixel_without_a_label_is_impossible(kind):
    q = make(kind)
    z = q.mode.unsqueeze(0).clone()
    z[0, 1, 0, 0] = 0
    assert q.score(z)[0].isneginf().tolist() == [False, True, False]
