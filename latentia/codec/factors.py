"""Probabilities that symbols are pushed and popped by: integers, made of a model's floating-point numbers in one place.

A factor is N distributions. `slots` says which slots the values (N,) have, `pop` takes N values from a message. Both
see the same floating-point numbers and go through the same kernels, so that what one pushes the other pops.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from latentia.codec.stack import Stack
from latentia.errors import DataError
from latentia.kernels import entropy


class Slots(NamedTuple):
    """The slots of N symbols, each start..start+size-1 of 2^precision, (N,) uint32."""

    start: np.ndarray
    size: np.ndarray
    precision: int

    @property
    def bits(self) -> np.ndarray:
        """The information content of each symbol, log2(2^precision / size), (N,) float32, in which a logarithm takes a
        fifth of the time."""
        return np.float32(self.precision) - np.log2(self.size.astype(np.float32))

    def push(self, stack: Stack) -> None:
        # a value without a slot was never drawn: it comes of a message that is decoded wrongly, whose data are refused
        stack.push(self.start, np.maximum(self.size, 1), self.precision)


class Factor(Protocol):
    """N distributions over values that are whole numbers from 0."""

    def slots(self, values: np.ndarray) -> Slots:
        """Of values (N,) int64."""
        ...

    def pop(self, stack: Stack) -> np.ndarray:
        """N values, (N,) int64, the first one first."""
        ...


class Bits:
    """N Bernoullis. Args: probs (N,), of a 1, which are rounded to multiples of 2^-24 other than 0 and 1."""

    def __init__(self, probs: Tensor):
        self.probs = probs.detach().contiguous().numpy()

    def slots(self, values: np.ndarray) -> Slots:
        start, size = (np.empty(len(values), dtype=np.uint32) for _ in range(2))
        entropy.bits(self.probs, values, entropy.PRECISION, start, size)
        return Slots(start, size, entropy.PRECISION)

    def pop(self, stack: Stack) -> np.ndarray:
        found = np.empty(len(self.probs), dtype=np.int64)
        stack.pop(entropy.pop_bits, self.probs, found, entropy.PRECISION)
        return found


class Choices:
    """N distributions over V values each.

    Args:
        probs: (M, V), not negative; they need not sum to one.
        row: (N,), which of the M each is; in order, where it is left out.

    Raises:
        DataError: more values than there are slots.
    """

    def __init__(self, probs: Tensor, row: np.ndarray | None = None):
        self.probs = _array(probs)
        self.row = np.arange(len(probs)) if row is None else row
        if probs.shape[-1] > 2 ** (entropy.PRECISION - 4):
            raise DataError(f"codes are of at most {2 ** (entropy.PRECISION - 4):,} values, not {probs.shape[-1]:,}")

    def slots(self, values: np.ndarray) -> Slots:
        start, size = (np.empty(len(values), dtype=np.uint32) for _ in range(2))
        if len(values) and not 0 <= values.min() <= values.max() < self.probs.shape[1]:
            raise DataError(f"value {int(values.max())} is outside 0..{self.probs.shape[1] - 1}, which the model knows")
        entropy.intervals(self.probs, self.row, values, entropy.PRECISION, start, size)
        return Slots(start, size, entropy.PRECISION)

    def pop(self, stack: Stack) -> np.ndarray:
        found = np.empty(len(self.row), dtype=np.int64)
        stack.pop(entropy.pop_values, self.probs, self.row, found, entropy.PRECISION)
        return found


class Even:
    """N choices of one of 2^precision values alike."""

    def __init__(self, count: int, precision: int):
        self.count, self.precision = count, precision

    def slots(self, values: np.ndarray) -> Slots:
        return Slots(values.astype(np.uint32), np.ones(len(values), dtype=np.uint32), self.precision)

    def pop(self, stack: Stack) -> np.ndarray:
        found = np.empty(self.count, dtype=np.int64)
        stack.pop(entropy.pop_even, found, self.precision)
        return found


class Cells(NamedTuple):
    """What cell of a line N numbers lie in, each by a normal distribution of its own.

    Attributes:
        edges: (n + 1,), between n cells of the standard line, the first one -inf and the last one inf.
        shift, width: (N,), the n-th line's edges are shift + width edges.
        loc, scale: (N,), of the normals.
        floor: every cell gets a slot. Without it a cell has one only where the normal has some 2^-28, which is enough
            for cells that the normal itself has drawn, and leaves it nothing that it would not draw.
        normal: whether the cells are of equal probability under Normal(shift, width).
    """

    edges: np.ndarray
    shift: np.ndarray
    width: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    floor: bool
    normal: bool = True

    def slots(self, values: np.ndarray) -> Slots:
        start, size = (np.empty(len(values), dtype=np.uint32) for _ in range(2))
        each = int(self.floor)
        entropy.cells(*self[:5], values, each, entropy.FINE, start, size)
        return Slots(start, size, entropy.FINE)

    def pop(self, stack: Stack) -> np.ndarray:
        found = np.empty(len(self.loc), dtype=np.int64)
        stack.pop(entropy.pop_cells, *self[:5], int(self.floor), self.normal, entropy.FINE, found)
        return found


def _array(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().to(torch.float64).numpy())
