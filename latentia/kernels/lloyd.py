"""The nearest of K centres: the inner loop of k-means.

|x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), so the nearest centre has the largest x c - |c|^2 / 2. Some rows at a time lie
across the vector lanes, so that the products, the comparison and the choice all run without a branch.
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit

LANES = 256


@njit(nogil=True, cache=True, fastmath=True)
def nearest(x, shift, inverse, centers, weight, sums, counts, squares):
    """Add each row of y = (x - shift) inverse, x (M, D), to the sum of its nearest centre, weighted: sums (K, D) and
    counts (K,), and its squares to squares (D,), all in float64.

    Returns the weighted sum of squared distances to the nearest centres, in float64.
    """
    count, states = x.shape[1], centers.shape[0]
    across = np.empty((count, LANES), x.dtype)
    one, two = np.empty(LANES, x.dtype), np.empty(LANES, x.dtype)
    three, four = np.empty(LANES, x.dtype), np.empty(LANES, x.dtype)
    best = np.empty(LANES, x.dtype)
    which = np.empty(LANES, np.int32)
    offset = np.empty(states, x.dtype)
    for k in range(states):
        offset[k] = -0.5 * np.sum(centers[k] ** 2)
    inertia = 0.0
    for start in range(0, x.shape[0], LANES):
        rows = min(LANES, x.shape[0] - start)
        for m in range(rows):
            for d in range(count):
                across[d, m] = (x[start + m, d] - shift[d]) * inverse
        for m in range(rows, LANES):
            for d in range(count):
                across[d, m] = 0
        best[:] = np.finfo(x.dtype).min
        which[:] = 0
        whole = states - states % 4
        # four centres in one pass over the outcome: what the best was is loaded and stored once for them
        for k in range(0, whole, 4):
            _products(across, centers[k], offset[k], one)
            _products(across, centers[k + 1], offset[k + 1], two)
            _products(across, centers[k + 2], offset[k + 2], three)
            _products(across, centers[k + 3], offset[k + 3], four)
            for m in range(LANES):
                first = k + 1 if two[m] > one[m] else k
                last = k + 3 if four[m] > three[m] else k + 2
                upper, lower = max(one[m], two[m]), max(three[m], four[m])
                index, value = last if lower > upper else first, max(upper, lower)
                which[m] = index if value > best[m] else which[m]
                best[m] = max(value, best[m])
        for k in range(whole, states):
            _products(across, centers[k], offset[k], one)
            for m in range(LANES):
                which[m] = k if one[m] > best[m] else which[m]
                best[m] = max(one[m], best[m])
        for m in range(rows):
            w = np.float64(weight[start + m])
            k = which[m]
            counts[k] += w
            square = 0.0
            for d in range(count):
                away = np.float64((x[start + m, d] - shift[d]) * inverse)
                sums[k, d] += w * away
                squares[d] += w * away * away
                square += (away - centers[k, d]) ** 2
            inertia += w * square
    return inertia


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _products(across, center, offset, score):
    """score[m] = offset + sum_d center[d] across[d, m]: eight dimensions a pass, to keep the sums in registers."""
    count = across.shape[0]
    for m in range(LANES):
        score[m] = offset
    d = 0
    while d + 8 <= count:
        c0, c1, c2, c3 = center[d], center[d + 1], center[d + 2], center[d + 3]
        c4, c5, c6, c7 = center[d + 4], center[d + 5], center[d + 6], center[d + 7]
        for m in range(LANES):
            score[m] += (
                (c0 * across[d, m] + c1 * across[d + 1, m])
                + (c2 * across[d + 2, m] + c3 * across[d + 3, m])
                + (c4 * across[d + 4, m] + c5 * across[d + 5, m])
                + (c6 * across[d + 6, m] + c7 * across[d + 7, m])
            )
        d += 8
    while d < count:
        c0 = center[d]
        for m in range(LANES):
            score[m] += c0 * across[d, m]
        d += 1
