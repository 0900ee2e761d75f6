"""Values as whole numbers: what codes are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.errors import DataError, OptionError

MOST = 2**20
"""Values that a column may have."""


class Lattice(NamedTuple):
    """The values that x may have: shift + width i, i = 0, ..., levels - 1, column by column or all alike.

    Attributes:
        shift, width: (E,) float64, E the numbers of one x, of a step where it has steps, or 1; in the model's units.
        levels: how many values the column with the most of them has.
    """

    shift: np.ndarray
    width: np.ndarray
    levels: int

    @classmethod
    def of(cls, batch: Batch) -> Lattice:
        """Of data that are whole numbers from 0.

        Raises:
            DataError: they are not.
        """
        x = batch.x if batch.seen is None else torch.where(batch.seen, batch.x, torch.zeros_like(batch.x))
        if not x.numel():
            raise DataError("there are no data to compress")
        if x.is_floating_point() and not bool((x == x.round()).all()):
            raise DataError(
                "real numbers have endlessly many digits, and no code of finite length: say by --precision to what "
                "multiple they may be rounded, as in --precision 0.01"
            )
        low, high = (float(end) for end in x.aminmax())
        if low < 0 or high >= MOST:
            raise DataError(f"codes are of whole numbers from 0 to {MOST - 1:,}, and the data have {low:g} to {high:g}")
        return cls(np.zeros(1), np.ones(1), int(high) + 1)

    @property
    def whole(self) -> bool:
        """Whether values are their own numbers."""
        return not self.shift.any() and bool((self.width == 1).all())

    def numbers(self, x: Tensor) -> Tensor:
        """The number i of each value, x (B, D) to int64 (B, D); beyond the lattice where the value is."""
        if self.whole:
            return x.long()
        shift, width = (torch.from_numpy(part) for part in (self.shift, self.width))
        columns = x.double().unflatten(1, (-1, len(shift)))
        return ((columns - shift) / width).round().long().flatten(1)

    def values(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The value of each number, int64 (B, D) to x (B, D)."""
        if self.whole:
            return index.to(dtype)
        shift, width = (torch.from_numpy(part) for part in (self.shift, self.width))
        columns = index.unflatten(1, (-1, len(shift)))
        return (shift + width * columns.double()).flatten(1).to(dtype)

    def edges(self) -> np.ndarray:
        """(levels + 1,), between the values in units of `width` from `shift`, the first and the last one open."""
        edges = np.arange(self.levels + 1) - 0.5
        edges[0], edges[-1] = -np.inf, np.inf
        return edges


def multiples(values: Tensor, precision: float, shift: np.ndarray, scale: np.ndarray) -> Lattice:
    """The multiples of `precision` between the least and the largest of values (N, E), which are in the model's units:
    (data - shift) / scale.

    Raises:
        OptionError: a precision that is none, or so small that there are too many multiples.
    """
    if not 0 < precision < float("inf"):
        raise OptionError(f"precision={precision}: it must be a number above 0")
    data = values.double().numpy() * scale + shift
    low = np.rint(data.min(0) / precision)
    count = int(np.rint(data.max(0) / precision - low).max()) + 1
    if count > MOST:
        raise OptionError(f"precision={precision}: there would be {count:,} values in a column, and {MOST:,} at most")
    return Lattice((low * precision - shift) / scale, precision / scale, count)
