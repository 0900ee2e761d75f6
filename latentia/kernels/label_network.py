"""A small masked convolution over label maps, in whole numbers: what the pixels before say of the next one.

The first layer looks up a row of numbers for the label at each of N places before the pixel, and for the band of rows
and the band of columns that it lies in, and adds them up: a convolution of one-hot maps whose kernel is masked. Two
layers of rectified sums follow. Numbers are fixed-point, sums are of 64 bits and cannot overflow where weights are
below 2^17 and layers no wider than 128, and the exponential is a table: what an encoder and a decoder compute is the
same on every machine.
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit
from latentia.kernels.label_maps import which
from latentia.kernels.range_coder import begin_reading, decode, encode, finish, target

BITS = 12
"""Fractional bits of weights and of units."""
STEPS = 64
"""Logits are whole numbers of so many to a nat."""
SHIFT = 2 * BITS - 6


@njit(nogil=True, cache=True)
def look(y, i, j, offsets, near, down, across, units):
    """Set `units`, the sums of the first layer, for pixel (i, j): near (N, L + 1, units), of which label L is outside
    of the map; down (bands, units) and across (bands, units), of where the pixel lies."""
    height, width = y.shape
    units[:] = 0
    units += down[i * down.shape[0] // height]
    units += across[j * across.shape[0] // width]
    for n in range(len(offsets)):
        row, column = i + offsets[n, 0], j + offsets[n, 1]
        outside = row < 0 or column < 0 or column >= width
        label = near.shape[1] - 1 if outside else np.int64(y[row, column])
        for h in range(len(units)):
            units[h] += near[n, label, h]


@njit(nogil=True, cache=True)
def predict(y, i, j, network, falling, units, middle, frequency):
    """Set `frequency` (L,), each at least 1, for pixel (i, j) given those before it, and return their sum. Of the first
    layer's units the last L are logits, and the others go through the layers."""
    offsets, near, down, across, second, second_bias, third = network
    hidden = second.shape[0]
    look(y, i, j, offsets, near, down, across, units)
    middle[:] = second_bias << BITS
    for h in range(hidden):
        if units[h] > 0:
            for g in range(len(middle)):
                middle[g] += units[h] * second[h, g]
    for k in range(len(frequency)):
        frequency[k] = units[hidden + k] << BITS
    for g in range(len(middle)):
        unit = middle[g] >> BITS
        if unit > 0:
            for k in range(len(frequency)):
                frequency[k] += unit * third[g, k]
    for k in range(len(frequency)):
        frequency[k] = frequency[k] >> SHIFT
    largest, total = frequency.max(), np.int64(0)
    for k in range(len(frequency)):
        frequency[k] = falling[min(largest - frequency[k], len(falling) - 1)]
        total += frequency[k]
    return total


@njit(nogil=True, cache=True)
def encode_map(y, network, falling, units, middle, frequency, state, bits):
    """Write a map (H, W). Returns the number of bytes."""
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            total = predict(y, i, j, network, falling, units, middle, frequency)
            label = np.int64(y[i, j])
            encode(state, bits, frequency[:label].sum(), frequency[label], total)
    return finish(state, bits)


@njit(nogil=True, cache=True)
def decode_map(y, network, falling, units, middle, frequency, state, bits):
    """Read a map (H, W) into y."""
    begin_reading(state, bits)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            total = predict(y, i, j, network, falling, units, middle, frequency)
            label, start = which(frequency, target(state, total))
            decode(state, bits, start, frequency[label], total)
            y[i, j] = label
