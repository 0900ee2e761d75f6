"""Fused inside-outside passes against the recursions that they compute, and where they must give up."""

import pytest
import torch

from latentia.distributions import Tree
from latentia.kernels import inside


def potentials(seed, scale=2.0, own=False, size=7, kinds=(3, 4), batch=5, dtype=torch.float64, spans=True):
    generator = torch.Generator().manual_seed(seed)
    some, symbols = kinds[0], sum(kinds)
    shapes = {"root": (some,), "rule": (some, symbols, symbols), "word": (size, kinds[1])}
    shapes |= {"node": (size, size, symbols)} if spans else {}
    return {
        name: (
            scale * torch.randn(*((batch,) if own or name in ("word", "node") else ()), *shape, generator=generator)
        ).to(dtype)
        for name, shape in shapes.items()
    }


LENGTHS = torch.tensor([6, 2, 5, 3, 7])
WEIGHT = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.5], dtype=torch.float64)


def value_and_gradient(run, log_potentials):
    leaves = {name: phi.detach().clone().requires_grad_() for name, phi in log_potentials.items()}
    value = run(leaves)
    return value.detach(), torch.autograd.grad((value * WEIGHT.to(value)).sum(), list(leaves.values()))


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("dtype", "scale", "tolerance"), [(torch.float64, 5.0, 1e-12), (torch.float32, 2.0, 1e-5)])
def by_recursion(log_potentials):
    tree = Tree(log_potentials, LENGTHS)
    return tree.recursion(tree.log_potentials, tree.sum)


def by_chart(log_potentials):
    return inside.log_partition(Tree(log_potentials, LENGTHS).log_potentials, LENGTHS)[0]


def fused(log_potentials):
    tree = Tree(log_potentials, LENGTHS)
    return tree.fused(tree.log_potentials)


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("dtype", "scale", "tolerance"), [(torch.float64, 5.0, 1e-12), (torch.float32, 2.0, 1e-5)])
def test_the_chart_is_the_recursion(own, spans, dtype, scale, tolerance):
    given = potentials(0, scale, own, dtype=dtype, spans=spans)
    value, slopes = value_and_gradient(by_recursion, {name: phi.double() for name, phi in given.items()})
    found, fast = value_and_gradient(by_chart, given)
    assert bool(inside.log_partition(Tree(given, LENGTHS).log_potentials, LENGTHS)[1].all())
    assert found.dtype == torch.float64
    assert found.allclose(value, rtol=0, atol=10 * tolerance)
    for one, other in zip(fast, slopes, strict=True):
        assert one.dtype == dtype
        assert one.double().allclose(other, rtol=0, atol=tolerance)


def test_one_of_two_shared_potentials_may_be_each_sentences_own():
    given = potentials(1)
    given["root"] = torch.stack([given["root"] * (b - 2) for b in range(5)])
    value, slopes = value_and_gradient(by_recursion, given)
    found, fast = value_and_gradient(fused, given)
    assert found.allclose(value)
    assert all(one.allclose(other) for one, other in zip(fast, slopes, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_underflows_inside_a_cell_is_noticed_and_summed_in_logs(dtype):
    # the only way up is by symbols that are e^-60, and then e^-600, less likely in their cells than others
    given = potentials(2, 0.5, dtype=dtype)
    given["node"][..., 0] += 60.0
    given["node"][1, ..., 0] += 540.0
    given["root"][0] = given["rule"][:, 0] = given["rule"][:, :, 0] = -1e30
    value, slopes = value_and_gradient(by_recursion, {name: phi.double() for name, phi in given.items()})
    _, safe = inside.log_partition(given, LENGTHS)
    assert not bool(safe[1])
    found, fast = value_and_gradient(fused, given)
    assert found.double().allclose(value, rtol=1e-6)
    for one, other in zip(fast, slopes, strict=True):
        assert one.double().allclose(other, atol=1e-5)


def test_impossible_spans_are_no_underflow():
    given = potentials(3)
    given["node"][:, 0, 1] = -1e30
    given["node"][4, 2:4, 5] = -1e30
    tree = Tree(given, LENGTHS)
    value, safe = inside.log_partition(given, LENGTHS)
    assert safe.tolist() == [True, False, True, True, True]  # the second sentence has no tree but that of those words
    expected = tree.recursion(given, tree.sum)
    assert value[safe].allclose(expected[safe])
    assert tree.log_partition[1] == -torch.inf
    assert (tree.marginals[safe, 0, 1] == 0).all()


def test_sentences_in_blocks_are_those_in_one(monkeypatch):
    given = potentials(5, spans=False)
    value, slopes = value_and_gradient(fused, given)
    monkeypatch.setattr("latentia.distributions.tree.BLOCK", 2 * 7 * 7 * 3)
    found, blocks = value_and_gradient(fused, given)
    assert found.allclose(value, rtol=1e-14)
    assert all(one.allclose(other, atol=1e-14) for one, other in zip(blocks, slopes, strict=True))


def test_a_batch_of_nothing():
    given = potentials(4, batch=0)
    tree = Tree(given, LENGTHS[:0])
    assert tree.log_partition.shape == (0,)
    assert tree.marginals.shape == tree.log_potentials["node"].shape
