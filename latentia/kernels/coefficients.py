"""Grids of whole numbers that are mostly small, with tables of integer frequencies: what an image's code is made of.

A number of channel c at (i, j) has a table of frequencies for each context: how large the numbers are that come before
it, those of its own channel above and to the left, and those of the channels before at the same place. Contexts and
frequencies are whole numbers, so that an encoder and a decoder agree on every machine. A number beyond the table is
told as its last value, and how far beyond by Elias's gamma code.
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit
from latentia.kernels.range_coder import begin_reading, decode, encode, finish, target

BEFORE = 4
"""Channels before at the same place that count."""


@njit(nogil=True, cache=True, inline="always")
def _size(z, c, i, j):
    """How large a number is, 0 outside."""
    if c < 0 or i < 0 or j < 0 or j >= z.shape[2]:
        return np.int64(0)
    return np.int64(min(abs(z[c, i, j]), 15))


@njit(nogil=True, cache=True)
def context(z, c, i, j, bounds):
    """Which context a number of z (C, h, w) has: between which of `bounds` (K - 1,), growing, the sizes before it lie,
    added up with weights."""
    around = (
        2 * _size(z, c, i, j - 1) + 2 * _size(z, c, i - 1, j) + _size(z, c, i - 1, j - 1) + _size(z, c, i - 1, j + 1)
    )
    beside = np.int64(0)
    for before in range(1, BEFORE + 1):
        beside += _size(z, c - before, i, j)
    total = 2 * around + 3 * beside
    found = 0
    while found < len(bounds) and total >= bounds[found]:
        found += 1
    return found


@njit(nogil=True, cache=True)
def count(z, bounds, counts):
    """Add the numbers of z (C, h, w) to counts (C, K, V), value v standing for v - V // 2."""
    middle = counts.shape[2] // 2
    for c in range(z.shape[0]):
        for i in range(z.shape[1]):
            for j in range(z.shape[2]):
                counts[c, context(z, c, i, j, bounds), _cell(z[c, i, j], middle)] += 1


@njit(nogil=True, cache=True, inline="always")
def _cell(value, middle):
    return min(max(value + middle, 0), 2 * middle)


@njit(nogil=True, cache=True)
def _even(state, bits, bit):
    encode(state, bits, bit, 1, 2)


@njit(nogil=True, cache=True)
def _read_even(state, bits):
    bit = target(state, 2)
    decode(state, bits, bit, 1, 2)
    return bit


@njit(nogil=True, cache=True)
def write(z, bounds, below, state, bits):
    """Write z (C, h, w) by `below` (C, K, V + 1), the frequencies added up. Returns the number of bytes."""
    middle = (below.shape[2] - 2) // 2
    for c in range(z.shape[0]):
        for i in range(z.shape[1]):
            for j in range(z.shape[2]):
                table, cell = below[c, context(z, c, i, j, bounds)], _cell(z[c, i, j], middle)
                encode(state, bits, table[cell], table[cell + 1] - table[cell], table[len(table) - 1])
                if cell == 0 or cell == 2 * middle:
                    far = abs(z[c, i, j]) - middle + 1
                    digits = 0
                    while far >> (digits + 1):
                        digits += 1
                        _even(state, bits, 1)
                    _even(state, bits, 0)
                    for digit in range(digits - 1, -1, -1):
                        _even(state, bits, (far >> digit) & 1)
    return finish(state, bits)


@njit(nogil=True, cache=True)
def read(z, bounds, below, state, bits):
    """Read z (C, h, w), zeros before. Returns False for bits that are none of a code's."""
    middle = (below.shape[2] - 2) // 2
    begin_reading(state, bits)
    for c in range(z.shape[0]):
        for i in range(z.shape[1]):
            for j in range(z.shape[2]):
                table = below[c, context(z, c, i, j, bounds)]
                place, low, high = target(state, table[len(table) - 1]), 0, len(table) - 1
                while high - low > 1:
                    half = (low + high) >> 1
                    if table[half] <= place:
                        low = half
                    else:
                        high = half
                decode(state, bits, table[low], table[low + 1] - table[low], table[len(table) - 1])
                value = np.int64(low - middle)
                if low == 0 or low == 2 * middle:
                    digits = 0
                    while _read_even(state, bits):
                        digits += 1
                        if digits > 30:
                            return False
                    far = np.int64(1)
                    for _ in range(digits):
                        far = 2 * far + _read_even(state, bits)
                    value = far + middle - 1 if low else -(far + middle - 1)
                z[c, i, j] = value
    return True
