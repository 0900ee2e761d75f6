"""Responsibilities in place: two passes over rows that lie in the cache, with the exponential between them."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from latentia.kernels.compiled import njit

LOWEST = -80.0
"""Where exp adds nothing to a sum in float64, and below which the machine's own takes 30 times as long."""
FORBIDDEN = -1e29
"""So far below the peak is what cannot be."""
NEVER, NOTHING = -85.0, math.exp(-82.5)
"""What stands for the impossible before exp, and what tells it after: its share is 0, that of the unlikely is not."""


def responsibilities(log_joint: Tensor, weight: np.ndarray) -> float:
    """Put weight (M,) times softmax of each row in the place of log_joint (M, K); sum_m weight_m logsumexp of row m."""
    rows = log_joint.numpy()
    peak = np.empty(len(rows), rows.dtype)
    _subtract_peak(rows, peak)
    log_joint.exp_()
    return _normalise(rows, peak, weight)


@njit(nogil=True, cache=True, fastmath=True, forceinline=True)
def _largest(row):
    largest = row[0]
    for k in range(1, len(row)):
        largest = max(largest, row[k])
    return largest


# no assumption that there is no NaN: one must come through to the value
@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def _subtract_peak(rows, peak):
    lowest, never, impossible = rows.dtype.type(LOWEST), rows.dtype.type(NEVER), rows.dtype.type(FORBIDDEN)
    for m in range(rows.shape[0]):
        peak[m] = _largest(rows[m])
        for k in range(rows.shape[1]):
            away = rows[m, k] - peak[m]
            rows[m, k] = (never if away < impossible else lowest) if away < lowest else away


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def _normalise(rows, peak, weight):
    value, zero, nothing = 0.0, rows.dtype.type(0), rows.dtype.type(NOTHING)
    for m in range(rows.shape[0]):
        if weight[m] == 0:
            # an absent datum adds nothing, even when it is impossible
            rows[m] = 0
            continue
        total = rows.dtype.type(0)
        for k in range(rows.shape[1]):
            share = rows[m, k]
            rows[m, k] = zero if share < nothing else share
            total += rows[m, k]
        scale = weight[m] / total
        for k in range(rows.shape[1]):
            rows[m, k] *= scale
        value += np.float64(weight[m]) * (np.float64(peak[m]) + np.log(np.float64(total)))
    return value
