"""Sums over the columns of rows, each of which is of its own kind: log-densities of K distributions, and their
statistics, in a pass over the rows each.

Both go by one table, a few rows of K numbers a column, and for column d they begin at `first[d]`:

| kind     | what log-densities read                    | what statistics add up, times responsibility |
|----------|---------------------------------------------|----------------------------------------------|
| NORMAL   | mean; 1 / deviation; log of the normaliser | 1; y; y^2, where y = (x - center) / unit     |
| CATEGORY | log p(v), a row for each v                 | 1, in the row of v                           |
| COUNT    | log rate; rate                             | x; 1                                         |

Yes or no is a category of two. The M rows may hold anything where the mask is False.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from latentia.kernels.compiled import njit

NORMAL, CATEGORY, COUNT = 0, 1, 2
FINE = -1
"""What the kernels return that have met no value outside of its column's; else it is the column."""


class Layout(NamedTuple):
    """Where the columns are found in a table.

    Attributes:
        kind: (D,), NORMAL, CATEGORY or COUNT.
        first: (D,), the first row of each column.
        levels: (D,), how many values a category has.
        rows: of the table.
    """

    kind: np.ndarray
    first: np.ndarray
    levels: np.ndarray
    rows: int


def layout(kinds: list[int], levels: list[int]) -> Layout:
    """Of columns of these kinds, with so many values where they are categories."""
    sizes = [
        count if kind == CATEGORY else 3 if kind == NORMAL else 2 for kind, count in zip(kinds, levels, strict=True)
    ]
    first = np.cumsum([0, *sizes])
    return Layout(np.array(kinds), first[:-1], np.array(levels), int(first[-1]))


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def add_log_probs(x, mask, kind, first, levels, table, total):
    """Add log p(x_m | k) of what is observed to total (M, K)."""
    states = table.shape[1]
    for m in range(x.shape[0]):
        for d in range(x.shape[1]):
            if mask.size and not mask[m, d]:
                continue
            value, row = x[m, d], first[d]
            if kind[d] == CATEGORY:
                v = int(value)
                if v < 0 or v >= levels[d]:
                    return d
                for k in range(states):
                    total[m, k] += table[row + v, k]
            elif kind[d] == NORMAL:
                for k in range(states):
                    away = (value - table[row, k]) * table[row + 1, k]
                    total[m, k] += table[row + 2, k] - 0.5 * away * away
            else:
                if not value >= 0:
                    return d
                constant = math.lgamma(value + 1.0)
                for k in range(states):
                    total[m, k] += value * table[row, k] - table[row + 1, k] - constant
    return FINE


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def add_statistics(x, mask, kind, first, levels, center, unit, responsibility, total):
    """Add the sums over the M rows, weighted by responsibility (M, K), to total (rows, K)."""
    states = total.shape[1]
    for m in range(x.shape[0]):
        for d in range(x.shape[1]):
            if mask.size and not mask[m, d]:
                continue
            value, row = x[m, d], first[d]
            if kind[d] == CATEGORY:
                v = int(value)
                if v < 0 or v >= levels[d]:
                    return d
                for k in range(states):
                    total[row + v, k] += responsibility[m, k]
            elif kind[d] == NORMAL:
                away = (value - center[d]) / unit[d]
                for k in range(states):
                    share = responsibility[m, k]
                    total[row, k] += share
                    total[row + 1, k] += share * away
                    total[row + 2, k] += share * away * away
            else:
                for k in range(states):
                    total[row, k] += responsibility[m, k] * value
                    total[row + 1, k] += responsibility[m, k]
    return FINE
