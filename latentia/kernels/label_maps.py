"""Label maps, pixel by pixel in whole numbers: what the pixels before say of the next one, its code, and local fills.

A context is the labels of some pixels that come before, in raster order; what lies outside the map is a label of its
own. Contexts of growing depth are blended: at each the frequencies are its own counts and, with the weight of BACKING
observations for each of its distinct labels, those of the depth below (Witten and Bell 1991, method C, whose weight is
1: on street scenes 16 takes a tenth off). All of it is integers: an encoder and a decoder agree on every machine.
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit
from latentia.kernels.range_coder import begin_reading, decode, encode, finish, target

SCALE = 2**20
"""The sum of blended frequencies, about."""
BACKING = 16


@njit(nogil=True, cache=True)
def find(keys, low, high, key):
    """The place of a key among the sorted keys[low:high], -1 where it is not there."""
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        elif keys[middle] > key:
            high = middle
        else:
            return middle
    return -1


@njit(nogil=True, cache=True)
def predict(y, i, j, offsets, depths, keys, first, counts, frequency, rows):
    """Set `frequency` (L,), each at least 1, for pixel (i, j) given those before it, and `rows` (len(depths),) to the
    contexts that were found, -1 where there was none. Returns the sum of the frequencies."""
    width, labels = y.shape[1], len(frequency)
    frequency[:] = SCALE // labels
    rows[:] = -1
    key, place, used = np.int64(0), np.int64(1), 0
    for level in range(len(depths)):
        while used < depths[level]:
            row, column = i + offsets[used, 0], j + offsets[used, 1]
            outside = row < 0 or column < 0 or column >= width
            key += place * (labels if outside else np.int64(y[row, column]))
            place *= labels + 1
            used += 1
        found = find(keys, first[level], first[level + 1], key)
        if found < 0:
            break
        rows[level] = found
        seen, distinct = np.int64(0), np.int64(0)
        for k in range(labels):
            seen += counts[found, k]
            distinct += counts[found, k] > 0
        for k in range(labels):
            own = SCALE * np.int64(counts[found, k])
            frequency[k] = (own + BACKING * distinct * frequency[k]) // (seen + BACKING * distinct)
    total = np.int64(0)
    for k in range(labels):
        frequency[k] += 1
        total += frequency[k]
    return total


@njit(nogil=True, cache=True)
def learn(rows, label, counts, gain):
    """Count a label in every context that was found, as `gain` observations."""
    for row in rows:
        if row >= 0:
            counts[row, label] += gain


@njit(nogil=True, cache=True)
def encode_map(y, offsets, depths, keys, first, counts, gain, state, bits):
    """Write a map (H, W); `counts` are changed by what it holds. Returns the number of bytes."""
    frequency, rows = np.empty(counts.shape[1], np.int64), np.empty(len(depths), np.int64)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            total = predict(y, i, j, offsets, depths, keys, first, counts, frequency, rows)
            label = np.int64(y[i, j])
            encode(state, bits, frequency[:label].sum(), frequency[label], total)
            learn(rows, label, counts, gain)
    return finish(state, bits)


@njit(nogil=True, cache=True)
def decode_map(y, offsets, depths, keys, first, counts, gain, state, bits):
    """Read a map (H, W) into y."""
    frequency, rows = np.empty(counts.shape[1], np.int64), np.empty(len(depths), np.int64)
    begin_reading(state, bits)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            total = predict(y, i, j, offsets, depths, keys, first, counts, frequency, rows)
            label, start = which(frequency, target(state, total))
            decode(state, bits, start, frequency[label], total)
            y[i, j] = label
            learn(rows, label, counts, gain)


@njit(nogil=True, cache=True)
def which(frequency, place):
    """The label whose share a place lies in, and where the share begins."""
    label, start = 0, np.int64(0)
    while start + frequency[label] <= place:
        start += frequency[label]
        label += 1
    return label, start


@njit(nogil=True, cache=True)
def encode_places(given, state, bits):
    """Write which of n pixels (n,) are given, their number k known: log2 of n over k bits, as each pixel is one of
    those left with the probability k' / n' (Cover 1973, "Enumerative source encoding")."""
    left, among = np.int64(given.sum()), np.int64(len(given))
    for place in range(len(given)):
        yes = np.int64(given[place])
        if 0 < left < among:
            encode(state, bits, 0 if yes else left, left if yes else among - left, among)
        left -= yes
        among -= 1


@njit(nogil=True, cache=True)
def decode_places(given, left, state, bits):
    """Read which pixels are given, of which there are `left`."""
    among = np.int64(len(given))
    for place in range(len(given)):
        yes = np.int64(left > 0)
        if 0 < left < among:
            yes = np.int64(target(state, among) < left)
            decode(state, bits, 0 if yes else left, left if yes else among - left, among)
        given[place] = yes
        left -= yes
        among -= 1


@njit(nogil=True, cache=True)
def nearest_fill(z, free, y, queue):
    """Set y (H, W) to the label of the nearest pixel of z that has one, by steps up, left, right and down.

    Of several that are as near, that which the queue reaches first: it begins with the pixels of z in raster order, and
    each gives its label to those above, left, right and below that have none yet. z has `free` where it has no label.
    """
    height, width = z.shape
    head, tail = 0, 0
    for i in range(height):
        for j in range(width):
            y[i, j] = z[i, j]
            if z[i, j] != free:
                queue[tail] = i * width + j
                tail += 1
    while head < tail:
        i, j = queue[head] // width, queue[head] % width
        head += 1
        for side in range(4):
            row, column = i + (side == 3) - (side == 0), j + (side == 2) - (side == 1)
            if 0 <= row < height and 0 <= column < width and y[row, column] == free:
                y[row, column] = y[i, j]
                queue[tail] = row * width + column
                tail += 1


@njit(nogil=True, cache=True)
def middles(wrong, queue, marked):
    """Mark the middle pixel, in the order of a flood, of each connected part of `wrong` (H, W), which is used up.
    Returns how many there are."""
    height, width = wrong.shape
    parts = 0
    for start in range(height * width):
        if not wrong[start // width, start % width]:
            continue
        wrong[start // width, start % width] = False
        queue[0] = start
        head, tail = 0, 1
        while head < tail:
            i, j = queue[head] // width, queue[head] % width
            head += 1
            for side in range(4):
                row, column = i + (side == 3) - (side == 0), j + (side == 2) - (side == 1)
                if 0 <= row < height and 0 <= column < width and wrong[row, column]:
                    wrong[row, column] = False
                    queue[tail] = row * width + column
                    tail += 1
        middle = queue[tail // 2]
        marked[middle // width, middle % width] = True
        parts += 1
    return parts


@njit(nogil=True, cache=True)
def sparse(y, free, z):
    """Set z to few pixels of y (H, W) from which `nearest_fill` gives all of y, greedily.

    Begin with one pixel; to each connected part that is filled wrongly give its middle pixel, until none is; then leave
    out each pixel, in raster order, without which the fill is still y.
    """
    height, width = y.shape
    filled, queue = np.empty_like(y), np.empty(height * width, np.int64)
    wrong, marked = np.empty(y.shape, np.bool_), np.zeros(y.shape, np.bool_)
    z[:] = free
    z[height // 2, width // 2] = y[height // 2, width // 2]
    while True:
        nearest_fill(z, free, filled, queue)
        wrong[:] = filled != y
        marked[:] = False
        if middles(wrong, queue, marked) == 0:
            break
        for i in range(height):
            for j in range(width):
                if marked[i, j]:
                    z[i, j] = y[i, j]
    given = np.flatnonzero(z.ravel() != free)
    kept = len(given)
    for place in given:
        if kept == 1:
            break
        i, j = place // width, place % width
        z[i, j] = free
        nearest_fill(z, free, filled, queue)
        if same(filled, y):
            kept -= 1
        else:
            z[i, j] = y[i, j]


@njit(nogil=True, cache=True)
def same(one, other):
    for i in range(one.shape[0]):
        for j in range(one.shape[1]):
            if one[i, j] != other[i, j]:
                return False
    return True


@njit(nogil=True, cache=True)
def neighbour(z, free, i, j):
    """The label of the nearest pixel of z before (i, j) in raster order, by steps; L where there is none. Of several as
    near the first one, from the row of (i, j) upwards and from left to right. z has `free` where it has no label."""
    width = z.shape[1]
    best, label = np.int64(2**40), np.int64(-1)
    for row in range(i, -1, -1):
        if i - row >= best:
            break
        reach = best - (i - row)
        for column in range(max(j - reach + 1, 0), min(j + reach, j if row == i else width)):
            if z[row, column] != free and i - row + abs(j - column) < best:
                best, label = i - row + abs(j - column), np.int64(z[row, column])
    return label


@njit(nogil=True, cache=True)
def encode_labels(z, free, counts, gain, state, bits):
    """Write the labels of z in raster order, each given the nearest before it: counts (L + 1, L), at least 1 each."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            if z[i, j] == free:
                continue
            row, label = neighbour(z, free, i, j), np.int64(z[i, j])
            encode(state, bits, counts[row, :label].sum(), counts[row, label], counts[row].sum())
            counts[row, label] += gain


@njit(nogil=True, cache=True)
def decode_labels(given, z, free, counts, gain, state, bits):
    """Read the labels of the pixels that are given (H, W) into z, which is `free` everywhere."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            if not given[i, j]:
                continue
            row = neighbour(z, free, i, j)
            total = counts[row].sum()
            label, start = which(counts[row], target(state, total))
            decode(state, bits, start, counts[row, label], total)
            z[i, j] = label
            counts[row, label] += gain


@njit(nogil=True, cache=True)
def surprises(y, offsets, depths, keys, first, counts, given):
    """Mark in `given` (H, W) the pixels that are not the likeliest given those before them."""
    frequency, rows = np.empty(counts.shape[1], np.int64), np.empty(len(depths), np.int64)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            predict(y, i, j, offsets, depths, keys, first, counts, frequency, rows)
            given[i, j] = np.argmax(frequency) != y[i, j]


@njit(nogil=True, cache=True)
def encode_surprises(y, given, offsets, depths, keys, first, counts, state, bits):
    """Write the labels of the pixels that are given, each one of those that are not the likeliest."""
    frequency, rows = np.empty(counts.shape[1], np.int64), np.empty(len(depths), np.int64)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if given[i, j]:
                predict(y, i, j, offsets, depths, keys, first, counts, frequency, rows)
                frequency[np.argmax(frequency)] = 0
                label = np.int64(y[i, j])
                encode(state, bits, frequency[:label].sum(), frequency[label], frequency.sum())


@njit(nogil=True, cache=True)
def predicted_fill(given, offsets, depths, keys, first, counts, y, state, bits):
    """Set y to the likeliest label of each pixel given those before it, but where a label is given: it is read."""
    frequency, rows = np.empty(counts.shape[1], np.int64), np.empty(len(depths), np.int64)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            predict(y, i, j, offsets, depths, keys, first, counts, frequency, rows)
            label = np.argmax(frequency)
            if given[i, j]:
                frequency[label] = 0
                total = frequency.sum()
                label, start = which(frequency, target(state, total))
                decode(state, bits, start, frequency[label], total)
            y[i, j] = label
