"""Sparse labelling: a label map as few labelled pixels z, from which a local search y(z) gives all others.

    y(z) = y,    |z| small:    bits = log2 (n over k) for where the k labels are + the entropy code of what they are

Two searches, both deterministic in whole numbers, so that they give the same map on any machine:

- `nearest`: every pixel has the label of the nearest one of z, ties broken by the order of a flood. z is chosen
  greedily; the smallest is NP-hard to find.
- `predicted`: pixel by pixel the label that a `ContextCoder`'s table says is the likeliest given those before. z is
  what differs from it, and there is only one such z.

    McAllester, TTIC 31230, "Fundamentals of deep learning": lossy and lossless coding by latent variables
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from latentia.errors import DataError, OptionError
from latentia.kernels import label_maps as kernel
from latentia.kernels import range_coder
from latentia.segmentation.context import SIZE, ContextCoder, MapCoder, buffer, opened, trimmed

NUMBER = struct.Struct("<I")
"""After height and width a file has k, how many labels are given."""
FREE = 255
"""No label."""


class Sparse(NamedTuple):
    """A sparse labelling.

    Attributes:
        z: (H, W) bytes, `FREE` where no label is given.
        positions: bits of where the labels are, log2 (n over k).
        labels: bits of what they are, by the code that was written.
    """

    z: np.ndarray
    positions: float
    labels: float

    @property
    def given(self) -> int:
        """k, how many labels are given."""
        return int((self.z != FREE).sum())


class SparseCoder(MapCoder):
    """Label maps to bytes and back by sparse labelling.

    Args:
        context: the coder whose table says which label is the likeliest; of `nearest` it tells which labels there are.
        fill: nearest, or predicted.
        maps: for `nearest`: maps of training, whose own sparse labellings say which label comes near which; None: all
            labels are as likely at first.

    Raises:
        OptionError: another fill.
    """

    def __init__(
        self,
        context: ContextCoder,
        fill: Literal["nearest", "predicted"] = "nearest",
        maps: np.ndarray | Sequence[np.ndarray] | None = None,
    ):
        if fill not in ("nearest", "predicted"):
            raise OptionError(f"fill={fill!r}: nearest or predicted")
        self.context, self.fill = context, fill
        self.near = np.ones((context.labels + 1, context.labels), np.int64)
        if maps is not None and fill == "nearest":
            for one in maps:
                z, state, bits = self.select(one), range_coder.begin(), buffer(np.asarray(one))
                kernel.encode_labels(z, FREE, self.near, 1, state, bits)

    def select(self, labels: np.ndarray) -> np.ndarray:
        """z (H, W), with y(z) the map: greedily few pixels, or those that are not predicted."""
        found = self.context.checked(labels)
        z = np.empty_like(found)
        if self.fill == "nearest":
            kernel.sparse(found, FREE, z)
            return z
        given = np.empty(found.shape, np.bool_)
        kernel.surprises(found, *self.context.table, self.context.counts, given)
        return np.where(given, found, FREE).astype(np.uint8)

    def measured(self, labels: np.ndarray) -> tuple[Sparse, bytes]:
        """The sparse labelling of a map with its bits, and its bytes."""
        found, z = self.context.checked(labels), self.select(labels)
        given = z != FREE
        state, bits = range_coder.begin(), buffer(found)
        kernel.encode_places(given.ravel(), state, bits)
        after = int(state[range_coder.PLACE] + state[range_coder.PENDING])
        if self.fill == "nearest":
            kernel.encode_labels(z, FREE, self.near.copy(), 1, state, bits)
        else:
            kernel.encode_surprises(found, given, *self.context.table, self.context.counts, state, bits)
        size = kernel.finish(state, bits)
        data = SIZE.pack(*found.shape) + NUMBER.pack(int(given.sum())) + trimmed(bits, size)
        return Sparse(z, log2_choose(given.size, int(given.sum())), int(state[range_coder.PLACE]) - after), data

    def encode(self, labels: np.ndarray) -> bytes:
        """The bytes of a map (H, W)."""
        return self.measured(labels)[1]

    def decode(self, data: bytes) -> np.ndarray:
        """The map (H, W), bytes, that `encode` was given. Raises `DataError` for bytes that are none."""
        shape, rest = opened(data)
        count = NUMBER.unpack_from(data, SIZE.size)[0] if len(rest) >= NUMBER.size else math.inf
        if count > shape[0] * shape[1]:
            raise DataError(f"{len(data)} bytes are no sparse labelling of {shape[0]} x {shape[1]} pixels")
        state, bits, given = range_coder.begin(), rest[NUMBER.size :], np.empty(shape, np.bool_)
        kernel.begin_reading(state, bits)
        kernel.decode_places(given.ravel(), count, state, bits)
        y = np.empty(shape, np.uint8)
        if self.fill == "predicted":
            kernel.predicted_fill(given, *self.context.table, self.context.counts, y, state, bits)
            return y
        z = np.full(shape, FREE, np.uint8)
        kernel.decode_labels(given, z, FREE, self.near.copy(), 1, state, bits)
        return filled(z)


def filled(z: np.ndarray) -> np.ndarray:
    """y(z) by the nearest label, (H, W) bytes, for z (H, W) with `FREE` where no label is given. Raises `DataError`
    where none is."""
    if not (z != FREE).any():
        raise DataError("no pixel has a label: there is nothing to fill a map with")
    y = np.empty_like(z)
    kernel.nearest_fill(z, FREE, y, np.empty(z.size, np.int64))
    return y


def log2_choose(n: int, k: int) -> float:
    """log2 of n over k."""
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
