"""The coder against what it must be: the inverse of itself, as long as the information, as long as constriction's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.codec.factors import Bits, Cells, Choices, Even
from latentia.codec.latents import CELLS, line
from latentia.codec.stack import Stack, Starved
from latentia.errors import DataError, OptionError
from latentia.kernels import entropy


def bank(words, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, words, dtype=np.uint32)


def factors(seed, count):
    """One of each kind, and values of it."""
    draw = np.random.default_rng(seed)
    probs = torch.from_numpy(draw.beta(0.2, 0.2, count))
    shares = torch.from_numpy(draw.dirichlet(np.full(7, 0.2), 5))
    row = draw.integers(5, size=count)
    edges, loc, scale = line()[0], draw.normal(size=count), np.exp(draw.normal(size=count) - 2)
    zero, one = np.zeros(count), np.ones(count)
    whole = np.arange(31) - 0.5
    whole[0], whole[-1] = -np.inf, np.inf
    return [
        (Bits(probs), draw.integers(2, size=count)),
        (Choices(shares, row), draw.integers(7, size=count)),
        (Even(count, 5), draw.integers(32, size=count)),
        (Cells(edges, zero, one, loc, scale, floor=True), draw.integers(2**CELLS, size=count)),
        (Cells(whole, zero, one, 15 + 4 * loc, 9 * scale, True, normal=False), draw.integers(30, size=count)),
    ]


@given(seed=st.integers(0, 10_000), count=st.integers(0, 40), words=st.integers(0, 3))
@settings(max_examples=60)
def test_what_is_pushed_is_popped_and_the_message_is_as_it_was(seed, count, words):
    stack = Stack(bank(words, seed))
    told = factors(seed, count)
    for factor, values in told:
        factor.slots(values).push(stack)
    stack = Stack.from_bytes(stack.to_bytes())
    for factor, values in reversed(told):
        assert (factor.pop(stack) == values).all()
    assert stack.emptied(borrowed=0)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40))
@settings(max_examples=40)
def test_a_draw_from_the_message_gives_its_bits_back(seed, count):
    for factor, _ in [*factors(seed, count)]:
        stack = Stack(bank(4 * count + 4, seed))
        words, bits = stack.words.copy(), stack.bits
        values = factor.pop(stack)
        slots = factor.slots(values)
        assert bits - stack.bits == pytest.approx(slots.bits.sum(), abs=0.1 * count)
        slots.push(stack)
        assert (stack.words[: stack.bank] == words[: stack.bank]).all()
        assert stack.bits == bits


def test_the_message_is_as_long_as_the_information():
    draw = np.random.default_rng(1)
    probs = draw.beta(0.3, 0.3, 50_000)
    x = (draw.random(50_000) < probs).astype(np.int64)
    stack = Stack()
    Bits(torch.from_numpy(probs)).slots(x).push(stack)
    content = -np.log2(np.where(x == 1, probs, 1 - probs)).sum()
    assert stack.bits == pytest.approx(content, rel=1e-4)
    assert 8 * len(stack.to_bytes()) <= content * 1.001 + 64


def test_the_words_are_those_of_constriction():
    constriction = pytest.importorskip("constriction")
    draw = np.random.default_rng(2)
    symbols = draw.integers(256, size=500)
    theirs = constriction.stream.stack.AnsCoder()
    theirs.encode_reverse(symbols.astype(np.int32), constriction.stream.model.Uniform(256))
    stack = Stack()
    Choices(torch.ones(1, 256), np.zeros(500, dtype=np.int64)).slots(symbols).push(stack)
    assert 8 * len(stack.to_bytes()) <= 32 * len(theirs.get_compressed()) + 64
    probs = draw.beta(0.3, 0.3, 5000)
    x = (draw.random(5000) < probs).astype(np.int32)
    theirs = constriction.stream.stack.AnsCoder()
    theirs.encode_reverse(x, constriction.stream.model.Bernoulli(perfect=False), probs)
    stack = Stack()
    Bits(torch.from_numpy(probs)).slots(x).push(stack)
    assert stack.bits == pytest.approx(theirs.num_valid_bits(), rel=1e-3, abs=40)


@pytest.mark.parametrize("mean", [-9.0, 0.0, 3.0])
@pytest.mark.parametrize("deviation", [1e-3, 0.3, 5.0])
def test_cells_share_all_slots(mean, deviation):
    edges = line()[0]
    count = len(edges) - 1
    every = np.arange(count)
    parts = (np.zeros(count), np.ones(count), np.full(count, mean), np.full(count, deviation))
    for floor in (True, False):
        slots = Cells(edges, *parts, floor=floor).slots(every)
        assert int(slots.size.astype(np.int64).sum()) == 2**entropy.FINE
        assert (slots.start[1:] == slots.start[:-1] + slots.size[:-1]).all()
    chance = slots.size / 2**entropy.FINE
    below = np.array([0.5 * math.erfc(-(edge - mean) / deviation / 2**0.5) for edge in edges])
    np.testing.assert_allclose(chance, np.diff(below), atol=2.0 ** (1 - entropy.FINE))


def test_values_share_all_slots_however_improbable():
    probs = torch.tensor([[0.0, 1e-30, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 3e-39]], dtype=torch.float64)
    for row in range(3):
        slots = Choices(probs, np.full(4, row)).slots(np.arange(4))
        assert slots.size.min() >= 1
        assert int(slots.size.astype(np.int64).sum()) == 2**entropy.PRECISION
        assert (slots.start[1:] == slots.start[:-1] + slots.size[:-1]).all()


def test_quantiles_have_nine_digits():
    from scipy.special import ndtri

    share = np.concatenate([np.geomspace(1e-8, 0.5, 200), 1 - np.geomspace(1e-8, 0.5, 200)])
    found = np.empty(len(share))
    entropy.quantiles(share, found)
    np.testing.assert_allclose(found, ndtri(share), rtol=2e-9, atol=2e-9)


def test_no_words_left_is_said():
    with pytest.raises(Starved, match="initial_bits"):
        Even(100, 20).pop(Stack())


def test_what_is_no_message_and_no_value_is_refused():
    with pytest.raises(DataError, match="bytes"):
        Stack.from_bytes(b"12345")
    with pytest.raises(DataError, match="head"):
        Stack.from_bytes(bytes(8))
    with pytest.raises(DataError, match="outside"):
        Choices(torch.ones(1, 3), np.zeros(1, dtype=np.int64)).slots(np.array([3]))
    assert issubclass(Starved, OptionError)
