"""The nearest of K centres: the inner loop of k-means.

|x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), so the nearest centre has the largest x c - |c|^2 / 2. Some rows at a time lie
across the vector lanes, so that the products, the comparison and the choice all run without a branch.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LANES = 256


@njit(nogil=True, cache=True, fastmath=True)
def nearest(x, shift, inverse, centers, weight, sums, counts, squares):
    """Add each row of y = (x - shift) inverse, x (M, D), to the sum of its nearest centre, weighted: sums (K, D) and
    counts (K,), and its squares to squares (D,), all in float64.

    Returns the weighted sum of squared distances to the nearest centres, in float64.
    """
    count, states = x.shape[1], centers.shape[0]
    across = np.empty((count, LANES), x.dtype)
    score = np.empty(LANES, x.dtype)
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
        for k in range(states):
            _products(across, centers[k], offset[k], score)
            if k == 0:
                for m in range(LANES):
                    best[m] = score[m]
                    which[m] = 0
            else:
                for m in range(LANES):
                    better = score[m] > best[m]
                    best[m] = score[m] if better else best[m]
                    which[m] = k if better else which[m]
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
