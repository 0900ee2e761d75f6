"""Arithmetic coding with whole numbers: a symbol of frequency f among n costs log2(n / f) bits, almost.

The encoder keeps an interval of whole numbers below 2^32, [low, high], narrows it to a symbol's share, and gives out
each leading bit once both ends have it. Where they straddle the middle, bits are pending: they are the opposite of the
next one. The decoder keeps the same interval beside 32 bits of what it reads, so that the two agree bit for bit on
every machine: there is no floating-point number here.

    Witten, Neal and Cleary (1987), "Arithmetic coding for data compression", figures 3 and 4
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit

TOP = 2**32
HALF = 2**31
QUARTER = 2**30
MOST = 2**29
"""The sum of all frequencies is below this: every symbol then has a share of the interval."""
# places of the state: the interval, pending bits, the number of bits written or read, and what was read
LOW, HIGH, PENDING, PLACE, VALUE = 0, 1, 2, 3, 4


def begin() -> np.ndarray:
    """The state of an encoder, (5,) int64."""
    return np.array([0, TOP - 1, 0, 0, 0], np.int64)


@njit(nogil=True, cache=True)
def put_bit(bits, place, bit):
    """Write a bit at a place of bits, bytes that are 0 so far."""
    bits[place >> 3] |= np.uint8(bit << (7 - (place & 7)))


@njit(nogil=True, cache=True)
def put(state, bits, bit):
    """Write a bit, and the pending ones, which are its opposite."""
    put_bit(bits, state[PLACE], bit)
    state[PLACE] += 1
    while state[PENDING] > 0:
        put_bit(bits, state[PLACE], 1 - bit)
        state[PLACE] += 1
        state[PENDING] -= 1


@njit(nogil=True, cache=True)
def encode(state, bits, start, size, total):
    """Narrow the interval to [start, start + size) of `total`, size of at least 1."""
    width = state[HIGH] - state[LOW] + 1
    state[HIGH] = state[LOW] + width * (start + size) // total - 1
    state[LOW] = state[LOW] + width * start // total
    while True:
        if state[HIGH] < HALF:
            put(state, bits, 0)
        elif state[LOW] >= HALF:
            put(state, bits, 1)
            state[LOW] -= HALF
            state[HIGH] -= HALF
        elif state[LOW] >= QUARTER and state[HIGH] < HALF + QUARTER:
            state[PENDING] += 1
            state[LOW] -= QUARTER
            state[HIGH] -= QUARTER
        else:
            break
        state[LOW] = 2 * state[LOW]
        state[HIGH] = 2 * state[HIGH] + 1


@njit(nogil=True, cache=True)
def finish(state, bits):
    """Write what tells the last interval from its neighbours; what is read beyond the end is 0. Returns the number of
    bytes."""
    state[PENDING] += 1
    put(state, bits, 0 if state[LOW] < QUARTER else 1)
    return (state[PLACE] + 7) >> 3


@njit(nogil=True, cache=True)
def next_bit(state, bits):
    """The next bit, 0 beyond the end."""
    place = state[PLACE]
    state[PLACE] += 1
    if place >> 3 >= len(bits):
        return 0
    return (bits[place >> 3] >> (7 - (place & 7))) & 1


@njit(nogil=True, cache=True)
def begin_reading(state, bits):
    """Read the first 32 bits into the state of a decoder, which begins as an encoder's does."""
    for _ in range(32):
        state[VALUE] = 2 * state[VALUE] + next_bit(state, bits)


@njit(nogil=True, cache=True)
def target(state, total):
    """Which of `total` the next symbol's share contains."""
    width = state[HIGH] - state[LOW] + 1
    return ((state[VALUE] - state[LOW] + 1) * total - 1) // width


@njit(nogil=True, cache=True)
def decode(state, bits, start, size, total):
    """Narrow the interval as the encoder has, once `target` has told the symbol."""
    width = state[HIGH] - state[LOW] + 1
    state[HIGH] = state[LOW] + width * (start + size) // total - 1
    state[LOW] = state[LOW] + width * start // total
    while True:
        if state[HIGH] < HALF:
            shift = 0
        elif state[LOW] >= HALF:
            shift = HALF
        elif state[LOW] >= QUARTER and state[HIGH] < HALF + QUARTER:
            shift = QUARTER
        else:
            break
        state[LOW] = 2 * (state[LOW] - shift)
        state[HIGH] = 2 * (state[HIGH] - shift) + 1
        state[VALUE] = 2 * (state[VALUE] - shift) + next_bit(state, bits)
