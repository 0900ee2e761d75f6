"""Fused inside-outside passes against the recursions that they compute, and where they must give up."""

import pytest
import torch

from latentia.distributions import Brackets, Tree
from latentia.distributions.semiring import max_sum
from latentia.kernels import brackets, cky, inside


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_brackets_are_the_recursion(dtype):
    node = (3 * torch.randn(5, 7, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    node[:, 1, 2] = -torch.inf
    lengths = torch.tensor([7, 0, 5, 1, 4])
    tree = Brackets({"node": node}, lengths)
    exact = {"node": tree.log_potentials["node"].double()}
    value, slopes = value_and_gradient(lambda phi: tree.recursion(phi, tree.sum), exact)
    found, fast = value_and_gradient(tree.fused, tree.log_potentials)
    assert bool(brackets.log_partition(node.clamp(min=-1e30), lengths)[1].all())
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert found.double().allclose(value, rtol=tolerance, atol=tolerance)
    assert fast[0].double().allclose(slopes[0], atol=tolerance)


def test_brackets_that_underflow_are_noticed_and_summed_in_logs():
    node = torch.zeros(2, 4, 4, dtype=torch.float64)
    node[0, 0, 2] = node[0, 1, 3] = node[0, 1, 2] = -1e30
    tree = Brackets({"node": node})
    assert brackets.log_partition(node, tree.lengths)[1].tolist() == [True, True]
    node[0, 1, 2] = 800.0  # in no tree, but of the width of the two spans that are in one
    tree = Brackets({"node": node})
    assert brackets.log_partition(node, tree.lengths)[1].tolist() == [False, True]
    assert tree.log_partition.allclose(tree.recursion(tree.log_potentials, tree.sum))
    assert tree.marginals[0, 2, 3] == 1
    assert tree.sample((3,))[:, 0, 2, 3].eq(1).all()


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_cky_is_the_recursion_under_the_maximum(own, spans):
    tree = Tree(potentials(6, own=own, spans=spans), LENGTHS)
    value, z = cky.best(tree.log_potentials, LENGTHS)
    assert value.allclose(tree.recursion(tree.log_potentials, max_sum), atol=1e-12)
    assert tree.score(z).allclose(value, atol=1e-12)
    assert tree.mode.equal(super(Tree, tree).mode)
