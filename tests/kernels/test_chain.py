"""The fused kernels of the chain against its recursion: sums, best paths, filtering, and the E-step's counts."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.distributions import Chain
from latentia.distributions.semiring import log_sum, max_sum
from latentia.kernels import chain as kernel
from latentia.kernels import chain_torch

SHAPES = st.tuples(st.integers(0, 9), st.integers(1, 7), st.integers(1, 9))  # B, T, K: whole fours and what is left
SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True, params=[1, 3], ids=["one thread", "three threads"], scope="module")
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def make(shape, seed, scale=2.0, impossible=False, by_datum=False):
    """Potentials and ragged lengths, some of them 0."""
    batch, steps, states = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    potentials = {"initial": normal(batch, states) if by_datum else normal(states)}
    potentials |= {"transition": normal(1, states, states), "node": normal(batch, steps, states)}
    if impossible:
        for name, share in (("transition", 0.5), ("node", 0.2)):
            gone = torch.rand(potentials[name].shape, generator=generator) < share
            potentials[name][gone] = -torch.inf
    return Chain(potentials, torch.randint(steps + 1, (batch,), generator=generator))


def gradients(value, leaves, weight):
    found = torch.autograd.grad(value, list(leaves.values()), weight, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves.values(), strict=True)]


# --------------------------------------------------------------------------------------- value and gradient


@quick
@given(SHAPES, SEEDS, st.booleans(), st.booleans())
def test_values_and_gradients_equal_the_recursions(shape, seed, impossible, by_datum):
    chain = make(shape, seed, impossible=impossible, by_datum=by_datum)
    leaves = {name: phi.clone().requires_grad_() for name, phi in chain.log_potentials.items()}
    value, expected = chain.fused(leaves), chain.recursion(leaves, log_sum)
    possible = expected > -1e29
    assert torch.equal(value > -1e29, possible)
    close(value[possible], expected[possible])
    weight = possible * torch.linspace(-1, 2, shape[0], dtype=torch.float64)
    for one, other in zip(gradients(value, leaves, weight), gradients(expected, leaves, weight), strict=True):
        close(one, other, 1e-8)


@quick
@given(SHAPES, SEEDS, st.booleans(), st.booleans())
def test_expected_scores_marginals_and_their_gradients_equal_the_recursions(shape, seed, impossible, by_datum):
    chain, other = make(shape, seed, impossible=impossible, by_datum=by_datum), make(shape, seed + 1, by_datum=by_datum)
    possible = chain.recursion(chain.log_potentials, log_sum) > -1e29
    chain, other = chain._part(chain.log_potentials, possible), other._part(other.log_potentials, possible)
    found = []
    for family in (Chain, Slow):
        leaves, scores = (
            {name: phi.clone().requires_grad_() for name, phi in of.log_potentials.items()} for of in (chain, other)
        )
        weight = torch.linspace(-1, 2, len(chain.lengths), dtype=torch.float64)
        value = family(leaves, chain.lengths).expected_score(scores)
        slopes = gradients(value, {**leaves, **{f"score of {name}": phi for name, phi in scores.items()}}, weight)
        marginals = family(leaves, chain.lengths).marginals
        found.append([value, *slopes, marginals, *gradients(marginals, leaves, other.log_potentials["node"].cos())])
    for one, another in zip(*found, strict=True):
        close(one, another, 1e-8)


class Slow(Chain):
    """The same distribution without a kernel."""

    _fast = False


@pytest.mark.parametrize("by_datum", [False, True])
def test_draws_are_as_frequent_as_enumeration_says(by_datum):
    chain = make((3, 3, 2), 5, scale=1.0, by_datum=by_datum)
    chain, draws = Chain(chain.log_potentials, torch.tensor([3, 0, 2])), 20_000
    torch.manual_seed(0)
    z = chain.sample((draws,))
    assert z.shape == (draws, 3, 3, 2)
    assert bool((z.sum(-1) == (torch.arange(3) < chain.lengths.unsqueeze(-1))).all())
    for path in itertools.product(range(2), repeat=3):
        for b, length in ((0, 3), (2, 2)):
            wanted = torch.eye(2, dtype=torch.float64)[list(path)] * (torch.arange(3) < length).unsqueeze(-1)
            share = float((z[:, b] == wanted).all(-1).all(-1).double().mean())
            p = float(chain.log_prob(wanted.expand(1, 3, 3, 2))[0, b].exp())
            # 12 different comparisons, each at 5 standard errors: one in 100,000 seeds fails
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / draws)


@quick
@given(SHAPES, SEEDS, st.sampled_from([1.0, 30.0, 300.0]))
def test_torch_and_numba_say_the_same(shape, seed, scale):
    chain = make(shape, seed, scale)
    values = []
    for run in (kernel._ScaledChain, chain_torch.ScaledChain):
        leaves = [chain.log_potentials[name].clone().requires_grad_() for name in ("initial", "transition", "node")]
        value, margin = run.apply(leaves[0], leaves[1][0], leaves[2], chain.lengths)
        values.append((value, margin > kernel.SMALLEST_MARGIN, leaves))
    (one, safe, leaves), (other, also, others) = values
    assert torch.equal(safe, also)
    close(one[safe], other[safe])
    found = torch.autograd.grad(one, leaves, safe.double())
    expected = torch.autograd.grad(other, others, safe.double())
    for left, right in zip(found, expected, strict=True):
        close(left, right)


def surprised(surprise, steps):
    """State 1 cannot be left or reached from 0 but at the start, where it is as good as lost; then each step is
    e^surprise more likely in it."""
    node = torch.zeros(1, steps, 2, dtype=torch.float64)
    node[..., 1] = surprise
    transition = torch.tensor([[[0.0, -torch.inf], [-torch.inf, 0.0]]], dtype=torch.float64)
    initial = torch.tensor([0.0, -1000.0], dtype=torch.float64)
    return Chain({"initial": initial, "transition": transition, "node": node})


@pytest.mark.parametrize(("surprise", "steps"), [(900.0, 3), (60.0, 30), (15.0, 200)])
def test_a_state_lost_to_underflow_is_noticed(surprise, steps):
    """Also where no single step is out of the ordinary, and only many of them together bring the state back."""
    chain = surprised(surprise, steps)
    close(chain.log_partition, torch.logaddexp(torch.zeros(1), torch.tensor([-1000.0 + surprise * steps])).double())
    _, safe = kernel.log_partition(chain.log_potentials, chain.lengths)
    assert not bool(safe)


def test_an_unreachable_state_that_fits_better_does_no_harm():
    """Its beta would overflow: e^5 a step for 1,000 steps."""
    chain = surprised(5.0, 1000)
    chain = Chain({**chain.log_potentials, "initial": torch.tensor([0.0, -torch.inf], dtype=torch.float64)})
    found = chain.expectations()
    assert bool(kernel.log_partition(chain.log_potentials, chain.lengths)[1])
    close(chain.log_partition, torch.zeros(1, dtype=torch.float64))
    close(found["node"][0, :, 0], torch.ones(1000, dtype=torch.float64))
    close(found["transition"][0], torch.tensor([[999.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_only_what_is_lost_is_computed_again():
    """One bad sequence among good ones: theirs is still the kernel's result, and its own the recursion's."""
    good, bad = make((5, 6, 2), 0), surprised(900.0, 6)
    node = torch.cat([good.log_potentials["node"], bad.log_potentials["node"]])
    shared = {name: bad.log_potentials[name] for name in ("initial", "transition")}
    chain = Chain({**shared, "node": node}, torch.tensor([6, 6, 6, 6, 6, 6]))
    _, safe = kernel.log_partition(chain.log_potentials, chain.lengths)
    assert safe.tolist() == [True] * 5 + [False]
    close(chain.log_partition, chain.recursion(chain.log_potentials, log_sum))
    found = chain.expectations()
    leaves = {name: phi.clone().requires_grad_() for name, phi in chain.log_potentials.items()}
    expected = gradients(chain.recursion(leaves, log_sum), leaves, torch.ones(6, dtype=torch.float64))
    for one, other in zip(found.values(), expected, strict=True):
        close(one, other)


# ------------------------------------------------------------------------------------- paths and filtering


@quick
@given(SHAPES, SEEDS, st.booleans(), st.sampled_from([1.0, 1000.0]))
def test_the_best_path_is_the_recursions(shape, seed, by_datum, scale):
    chain = make(shape, seed, scale, by_datum=by_datum)
    value, states = kernel.best_path(chain.log_potentials, chain.lengths)
    close(value, chain.recursion(chain.log_potentials, max_sum))
    close(chain.mode, chain.hard().expectations()["node"])
    close(chain.score(chain.mode.unsqueeze(0))[0], value)
    inside = torch.arange(shape[1]) < chain.lengths.unsqueeze(-1)
    assert torch.equal(states >= 0, inside)


def test_of_equal_paths_the_best_is_one():
    potentials = {"initial": torch.zeros(3), "transition": torch.zeros(1, 3, 3), "node": torch.zeros(2, 4, 3)}
    mode = Chain(potentials).mode
    assert torch.equal(mode.sum(-1), torch.ones(2, 4))
    assert torch.equal(mode, Chain(potentials).hard().expectations()["node"])


@quick
@given(SHAPES, SEEDS, st.booleans())
def test_filtering_is_the_last_marginal_of_what_came_so_far(shape, seed, by_datum):
    chain = make(shape, seed, by_datum=by_datum)
    found = chain.filtered
    for t in range(shape[1]):
        inside = t < chain.lengths
        node = chain.log_potentials["node"][:, : t + 1]
        so_far = Chain({**chain.log_potentials, "node": node}, chain.lengths.clamp(max=t + 1))
        close(found[inside, t], so_far.marginals[inside, t])
        assert not found[~inside, t].any()


def test_filtering_falls_back_and_takes_steps_of_their_own():
    lost = surprised(60.0, 30)
    close(lost.filtered, lost._filtered())
    close(lost.filtered[0, -1], torch.tensor([0.0, 1.0], dtype=torch.float64))
    steps = torch.randn(3, 2, 2, dtype=torch.float64)
    potentials = {**make((2, 4, 2), 0).log_potentials, "transition": steps}
    close(Chain(potentials).filtered[:, -1], Chain(potentials).marginals[:, -1])


# ------------------------------------------------------------------------------------------------ counts


def tables(shape, seed, symbols):
    """A chain over rows of a table, as counts take it, and the same chain with a node for each step."""
    generator = torch.Generator().manual_seed(seed)
    chain = make(shape, seed)
    batch, steps, states = shape
    table = torch.randn(symbols, states, generator=generator, dtype=torch.float64)
    row = torch.randint(symbols, (batch, steps), generator=generator)
    initial, transition = chain.log_potentials["initial"], chain.log_potentials["transition"]
    weight = torch.rand(batch, generator=generator, dtype=torch.float64)
    weight[::3] = 0.0
    nodes = Chain({"initial": initial, "transition": transition, "node": table[row]}, chain.lengths)
    return nodes, (initial, transition[0], table, row, chain.lengths, weight)


@quick
@given(SHAPES, SEEDS, st.booleans(), st.booleans(), st.sampled_from([8, 2**16]))
def test_counts_are_the_sums_of_marginals(shape, seed, hard, own_rows, block):
    symbols = shape[0] * shape[1] if own_rows else 3
    chain, (initial, transition, table, row, lengths, weight) = tables(shape, seed, max(symbols, 1))
    if own_rows:
        row = torch.arange(symbols).view(shape[:2])
        chain = Chain({**chain.log_potentials, "node": table[row]}, lengths)
    chain = chain.hard() if hard else chain
    before, kernel.BLOCK = kernel.BLOCK, block
    try:
        count = kernel.best_counts if hard else kernel.expected_counts
        found = count(initial, transition, table, row, lengths, weight, own_rows)
    finally:
        kernel.BLOCK = before
    expected = chain.expectations(weight)
    close(found.initial, expected["initial"])
    close(found.transition, expected["transition"][0])
    close(found.table, torch.zeros_like(table).index_add_(0, row.flatten(), expected["node"].flatten(0, 1)))
    close(found.value, chain.log_partition)
    assert bool(found.safe.all())


def test_counts_leave_out_what_is_lost():
    chain = surprised(60.0, 30)
    initial, transition = chain.log_potentials["initial"], chain.log_potentials["transition"][0]
    table = torch.cat([chain.log_potentials["node"][0, :1], torch.zeros(1, 2, dtype=torch.float64)])
    row = torch.tensor([[0] * 30, [1] * 30])
    found = kernel.expected_counts(
        initial, transition, table, row, torch.tensor([30, 30]), torch.ones(2), own_rows=False
    )
    assert found.safe.tolist() == [False, True]
    close(found.transition, torch.tensor([[29.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    close(found.table, torch.tensor([[0.0, 0.0], [30.0, 0.0]], dtype=torch.float64))


def test_a_chain_with_transition_probabilities_of_all_sizes_counts_its_steps():
    """Enumerated: each path's weight, by plain loops."""
    _, (initial, transition, table, row, lengths, weight) = tables((3, 4, 3), 5, 2)
    found = kernel.expected_counts(initial, transition, table, row, lengths, weight, own_rows=False)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for b in range(3):
        paths = list(itertools.product(range(3), repeat=int(lengths[b])))
        scores = []
        for path in paths:
            score = float(initial[path[0]]) if path else 0.0
            score += sum(float(transition[i, k]) for i, k in itertools.pairwise(path))
            score += sum(float(table[row[b, t], k]) for t, k in enumerate(path))
            scores.append(score)
        total = math.log(sum(map(math.exp, scores)))
        assert float(found.value[b]) == pytest.approx(total, abs=1e-12)
        for path, score in zip(paths, scores, strict=True):
            for i, k in itertools.pairwise(path):
                expected[i, k] += float(weight[b]) * math.exp(score - total)
    close(found.transition, expected, 1e-12)
