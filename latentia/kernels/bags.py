"""Sums of rows of a table, one for each bag of row numbers, and their transpose.

Bag m is the numbers in row m of `index` (M, T), those of them where `mask` is True. With C_mi how often bag m has row
i, `sum_rows` is C @ table and `spread_rows` is C^T @ values: what a bag of words asks of log-probabilities, and what
its responsibilities give to the expected counts. C itself is never made, and each is the other's gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from latentia.errors import DataError
from latentia.kernels.compiled import njit


def sum_rows(table: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum of table[i] over the numbers i of each bag, (M, K), for table (R, K), int64 index (M, T) and its mask.

    Raises `IndexError` for a number that is no row of the table.
    """
    if table.device.type == "cpu":
        return _SumRows.apply(table, index, mask)
    seen = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
    count = seen.sum(1)
    return embedding_bag(index[seen], table, count.cumsum(0) - count, mode="sum")


def spread_rows(values: Tensor, index: Tensor, mask: Tensor | None, rows: int) -> Tensor:
    """For each i the sum of the values of the bags that have it, as often as they do: (rows, K) from values (M, K).

    Raises `IndexError` for a number that is no row.
    """
    if values.device.type == "cpu":
        return _SpreadRows.apply(values, index, mask, rows)
    seen = torch.ones_like(index, dtype=torch.bool) if mask is None else mask
    total = values.new_zeros(rows, values.shape[1])
    return total.index_add(0, index[seen], values.repeat_interleave(seen.sum(1), 0))


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        ctx.bags, ctx.rows = (index, mask), len(table)
        total = table.new_zeros(len(index), table.shape[1])
        _check(_sum(*_arrays(table, index, mask), total.numpy()), len(table))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        index, mask = ctx.bags
        return spread_rows(grads[0], index, mask, ctx.rows), None, None


class _SpreadRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, mask: Tensor | None, rows: int) -> Tensor:
        ctx.bags = (index, mask)
        total = values.new_zeros(rows, values.shape[1])
        _check(_spread(*_arrays(values, index, mask), total.numpy()), rows)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return sum_rows(grads[0], *ctx.bags), None, None, None


def _arrays(values: Tensor, index: Tensor, mask: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the kernels take; a mask of no size is none."""
    seen = np.zeros((0, 0), dtype=np.bool_) if mask is None else mask.contiguous().numpy()
    return values.detach().contiguous().numpy(), index.contiguous().numpy(), seen


def _check(wrong: int, rows: int) -> None:
    if wrong != FINE:
        raise IndexError(f"number {wrong} for a table of {rows} rows")


def check_rows(index: Tensor, rows: int) -> None:
    """Raise `DataError` for a number that is no row of a table of so many: kernels look rows up unchecked."""
    if not index.numel():
        return
    low, high = (int(end) for end in index.aminmax())
    if low < 0 or high >= rows:
        raise DataError(f"symbol {low if low < 0 else high} is outside 0..{rows - 1}, which is what the model knows")


FINE = np.iinfo(np.int64).min
"""What a kernel returns that has met no number but those of rows; else it stops at the first and returns that."""


@njit(nogil=True, cache=True)
def _sum(table, index, mask, total):
    for m in range(index.shape[0]):
        for t in range(index.shape[1]):
            if mask.size and not mask[m, t]:
                continue
            i = index[m, t]
            if i < 0 or i >= table.shape[0]:
                return i
            for k in range(table.shape[1]):
                total[m, k] += table[i, k]
    return FINE


@njit(nogil=True, cache=True)
def _spread(values, index, mask, total):
    for m in range(index.shape[0]):
        for t in range(index.shape[1]):
            if mask.size and not mask[m, t]:
                continue
            i = index[m, t]
            if i < 0 or i >= total.shape[0]:
                return i
            for k in range(values.shape[1]):
                total[i, k] += values[m, k]
    return FINE
