"""Masked diffusion on three symbols and three places, where every text, mask, order and step can be enumerated."""

import itertools
import math

import pytest
import torch

from latentia.distributions import observed
from latentia.distributions.masked import MaskedSymbols
from latentia.errors import CapabilityError, DataError
from latentia.testing import agrees
from latentia.testing.expect import require_frequencies

DOUBLE = torch.float64
V, L = 3, 3
TEXTS = torch.cartesian_prod(*[torch.arange(V)] * L)
STATES = torch.cartesian_prod(*[torch.arange(V + 1)] * L)
"""Every text with any of its symbols hidden, which is symbol V."""


class Table:
    """A guess of its own for every state: (4^3, 3, 3) logits, which no text has to agree with."""

    def __init__(self, seed=0, scale=1.5):
        generator = torch.Generator().manual_seed(seed)
        self.table = scale * torch.randn(len(STATES), L, V, generator=generator, dtype=DOUBLE)
        self.symbols, self.calls = V, 0

    def of(self, x, hidden):
        state = torch.where(hidden, V, x)
        number = state @ torch.tensor([(V + 1) ** 2, V + 1, 1])
        return self.table[number]

    def log_prob(self, x, hidden, inside, rows):
        terms = self.of(x, hidden).log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return torch.where(hidden, terms, 0.0)

    def logits(self, x, hidden, inside, rows, where):
        self.calls += 1
        return self.of(x, hidden).flatten(0, 1)[where].clone()


def masked(rows, table, **options):
    return MaskedSymbols(table, torch.zeros(1, rows, dtype=DOUBLE), L, **options)


def log_probs(table, hidden):
    """log p(x_l | what is not hidden) of every text, (27, 3)."""
    return table.log_prob(TEXTS, hidden.expand(len(TEXTS), -1), None, None)


def masks():
    return [torch.tensor(mask) for mask in itertools.product([False, True], repeat=L)]


def continuous_bound(table):
    """The integral over t, in closed form: a mask of n hidden symbols has the weight (n - 1)! (L - n)! / L!."""
    total = torch.zeros(len(TEXTS), dtype=DOUBLE)
    for mask in masks():
        n = int(mask.sum())
        if n:
            total += math.factorial(n - 1) * math.factorial(L - n) / math.factorial(L) * log_probs(table, mask).sum(-1)
    return total


def stepped_bound(table, steps):
    total = torch.zeros(len(TEXTS), dtype=DOUBLE)
    for step in range(1, steps + 1):
        t = step / steps
        for mask in masks():
            n = int(mask.sum())
            total += t**n * (1 - t) ** (L - n) / step * log_probs(table, mask).sum(-1)
    return total


def by_order(table):
    """The probability of each text in each order of showing its symbols, (6, 27), in nats."""
    found = []
    for order in itertools.permutations(range(L)):
        hidden, total = torch.ones(L, dtype=torch.bool), torch.zeros(len(TEXTS), dtype=DOUBLE)
        for place in order:
            total = total + log_probs(table, hidden)[:, place]
            hidden[place] = False
        found.append(total)
    return torch.stack(found)


def sampled_in(table, steps):
    """The probability of each text when it is drawn in so many steps, by the chain over all states."""
    numbers = {tuple(state.tolist()): i for i, state in enumerate(STATES)}
    share = torch.zeros(len(STATES), dtype=DOUBLE)
    share[numbers[(V,) * L]] = 1.0
    probs = table.table.softmax(-1)
    for step in range(steps, 0, -1):
        after = torch.zeros_like(share)
        for i, state in enumerate(STATES.tolist()):
            if share[i] == 0:
                continue
            ways = [[(symbol, 1.0)] for symbol in state]
            for place, symbol in enumerate(state):
                if symbol == V:
                    ways[place] = [(V, 1 - 1 / step)] + [(v, float(probs[i, place, v]) / step) for v in range(V)]
            for way in itertools.product(*ways):
                after[numbers[tuple(symbol for symbol, _ in way)]] += share[i] * math.prod(p for _, p in way)
        share = after
    return torch.stack([share[numbers[tuple(text.tolist())]] for text in TEXTS])


def test_in_continuous_time_the_bound_is_the_mean_over_orders():
    """And so no more than the log of their mean, which is what a symbol at a time draws from."""
    table = Table()
    orders = by_order(table)
    torch.testing.assert_close(continuous_bound(table), orders.mean(0))
    exact = orders.logsumexp(0) - math.log(len(orders))
    torch.testing.assert_close(exact.exp().sum(), torch.ones((), dtype=DOUBLE))
    assert bool((continuous_bound(table) <= exact).all())
    assert float((exact - continuous_bound(table)).max()) > 0.1


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_in_steps_the_bound_is_no_more_than_what_is_drawn(steps):
    table = Table()
    drawn = sampled_in(table, steps)
    torch.testing.assert_close(drawn.sum(), torch.ones((), dtype=DOUBLE))
    bound = stepped_bound(table, steps)
    assert bool((bound <= drawn.log() + 1e-12).all())
    if steps == 1:  # all at once: nothing is lost
        torch.testing.assert_close(bound, drawn.log())


def consistent(seed=3):
    """The guess that is right of a distribution over all texts: its conditionals."""
    table = Table()
    probs = torch.randn(len(TEXTS), generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).mul(1.5).softmax(0)
    for i, state in enumerate(STATES):
        agree = ((state == V) | (state == TEXTS)).all(-1)
        for place in range(L):
            mass = torch.stack([probs[agree & (TEXTS[:, place] == v)].sum() for v in range(V)])
            table.table[i, place] = (mass / mass.sum()).log()
    return table, probs


def test_of_right_conditionals_the_bound_is_tight_and_rises_with_the_steps():
    table, probs = consistent()
    torch.testing.assert_close(continuous_bound(table), probs.log())
    means = torch.stack([probs @ stepped_bound(table, steps) for steps in (1, 2, 4, 16, 256)])
    assert bool((means.diff() > 0).all())
    torch.testing.assert_close(means[-1], probs @ probs.log(), rtol=0, atol=5e-3)
    torch.testing.assert_close(sampled_in(table, 40), probs, rtol=0, atol=5e-3)


@pytest.mark.parametrize("steps", [None, 1, 4])
def test_the_estimate_is_without_bias(steps):
    table = Table()
    p = masked(len(TEXTS), table, bound_steps=steps)
    torch.manual_seed(0)
    found = torch.stack([p.log_prob_bound(TEXTS)[0] for _ in range(2000)])
    assert agrees(found, continuous_bound(table) if steps is None else stepped_bound(table, steps), slack=1e-12)


@pytest.mark.parametrize("steps", [None, 1, 3])
def test_draws_have_the_probabilities_of_their_steps(steps):
    table = Table()
    torch.manual_seed(0)
    x = masked(20_000, table, draw_steps=steps).sample()[0]
    orders = by_order(table)
    expected = orders.exp().mean(0) if steps is None else sampled_in(table, steps)
    counts = torch.bincount(x @ torch.tensor([V * V, V, 1]), minlength=len(TEXTS))
    require_frequencies("draws have the frequencies of enumeration", counts, expected)


def test_steps_that_show_nothing_cost_nothing():
    table = Table()
    masked(1, table, draw_steps=1000).sample()
    assert table.calls <= L


def test_what_is_known_stays_and_the_rest_is_drawn_given_it():
    table, probs = consistent()
    x, mask = torch.tensor([[1, 0, 2]]).expand(4000, L), torch.tensor([[True, False, True]]).expand(4000, L)
    torch.manual_seed(0)
    drawn = observed.given(masked(4000, table), x, mask).sample()[0]
    assert bool((drawn[:, [0, 2]] == torch.tensor([1, 2])).all())
    agree = (TEXTS[:, 0] == 1) & (TEXTS[:, 2] == 2)
    require_frequencies("infilling", torch.bincount(drawn[:, 1], minlength=V), probs[agree] / probs[agree].sum())


def test_an_end_is_followed_by_ends_which_count():
    """A text up to its end is bounded by what it is with ends behind, and a shorter row is the same text."""
    table = Table()
    ends = TEXTS[:, 1:].eq(2) | TEXTS[:, :-1].ne(2)
    whole = TEXTS[ends.all(-1)]
    p = MaskedSymbols(table, torch.zeros(1, len(whole), dtype=DOUBLE), L, end=2)
    torch.manual_seed(0)
    found = torch.stack([p.log_prob_bound(whole)[0] for _ in range(3000)])
    numbers = whole @ torch.tensor([V * V, V, 1])
    assert agrees(found, continuous_bound(table)[numbers])
    exact = by_order(table).exp().mean(0)
    length = p.lengths(TEXTS)
    for text, bound in zip(whole, continuous_bound(table)[numbers], strict=True):
        same = (p.lengths(text) == length) & ((text == TEXTS) | (torch.arange(L) >= p.lengths(text))).all(-1)
        assert float(bound) <= float(exact[same].sum().log())
    one, found = MaskedSymbols(table, torch.zeros(1, 1, dtype=DOUBLE), L, end=2), []
    for rows in ([0, 2], [0, 2, 0], [0, 2, 2]):
        torch.manual_seed(1)
        found.append(one.log_prob_bound(torch.tensor([rows])))
    assert found[0] == found[1] == found[2]


def test_draws_stop_at_their_end():
    torch.manual_seed(0)
    p = masked(500, Table(), end=2)
    x = p.sample()[0]
    lengths = observed.ends(p, x)
    beyond = torch.arange(L) >= lengths.unsqueeze(-1)
    assert bool((x[beyond] == 0).all())
    assert set(lengths.tolist()) == {1, 2, 3}


def test_what_is_hidden_of_a_text_of_known_length_is_not_its_end():
    p = observed.ending(masked(300, Table(), end=2), torch.full((300,), 3))
    x, mask = torch.zeros(300, L, dtype=torch.long), torch.zeros(300, L, dtype=torch.bool)
    torch.manual_seed(0)
    drawn = observed.given(p, x, mask).sample()[0]
    assert bool((drawn[:, :2] != 2).all())
    assert set(drawn[:, 2].tolist()) == {0, 1, 2}


def test_lengths_that_are_given_leave_the_rest_out():
    table = Table()
    p = observed.ending(masked(2, table), torch.tensor([2, 3]))
    x = torch.tensor([[1, 0, 0], [1, 0, 2]])
    torch.manual_seed(0)
    first = p.log_prob_bound(x)
    torch.manual_seed(0)
    torch.testing.assert_close(p.log_prob_bound(torch.tensor([[1, 0, 2], [1, 0, 2]])), first)


def test_what_cannot_be_bounded_is_refused():
    p = masked(1, Table(), end=2)
    with pytest.raises(DataError, match="does not end in symbol 2"):
        observed.ending(p, torch.tensor([2])).log_prob_bound(torch.tensor([[0, 1]]))
    with pytest.raises(DataError, match="4 symbols"):
        p.log_prob_bound(torch.tensor([[0, 1, 0, 2]]))
    mask = torch.tensor([[True, False, True]])
    with pytest.raises(CapabilityError, match="complete fills them in"):
        observed.log_prob_bound(p, torch.tensor([[0, 1, 2]]), mask)
    with pytest.raises(CapabilityError, match="only a bound"):
        observed.log_prob(p, torch.tensor([[0, 1, 2]]), mask)
