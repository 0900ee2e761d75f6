"""A causal context coder for label maps: each pixel's label given those of its neighbours that come before.

    log2 p(y) = sum_ij log2 p(y_ij | the labels at W, N, NW, NE, WW, NN of it)

p is a table of counts over training maps, blended over contexts of 0, 2, 4 and 6 neighbours, and goes on to count
within the map that it codes. An arithmetic coder makes bytes of it, and everything is whole numbers: a file is read
back bit for bit on any machine.

    Weinberger, Seroussi and Sapiro (2000), "The LOCO-I lossless image compression algorithm", section II, for causal
    templates; Witten and Bell (1991), "The zero-frequency problem", method C, for the blend
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentia.errors import DataError, OptionError
from latentia.kernels import label_maps as kernel
from latentia.kernels import range_coder

NEIGHBOURS = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))
"""W, N, NW, NE, WW, NN, as steps down and right."""
DEPTHS = (0, 2, 4, 6)
MOST_PIXELS = 2**26
SIZE = struct.Struct("<HH")
"""A file begins with height and width."""


class MapCoder(ABC):
    """Label maps to bytes and back, and to files."""

    @abstractmethod
    def encode(self, labels: np.ndarray) -> bytes:
        """The bytes of a map (H, W)."""

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """The map (H, W), bytes, that `encode` was given."""

    def write(self, labels: np.ndarray, path: str | os.PathLike) -> None:
        Path(path).write_bytes(self.encode(labels))

    def read(self, path: str | os.PathLike) -> np.ndarray:
        return self.decode(Path(path).read_bytes())


def check_labels(labels: np.ndarray, known: int) -> np.ndarray:
    """A map (H, W) as bytes. Raises `DataError` where it is none, or has labels of `known` or more."""
    found = np.asarray(labels)
    if found.ndim != 2 or found.dtype.kind not in "iu" or not found.size:
        raise DataError(f"a label map is (H, W) of whole numbers, and this is {found.shape} of {found.dtype}")
    if max(found.shape) > 65535:
        raise DataError(f"a label map has at most 65,535 rows and columns, and this has {found.shape}")
    if found.min() < 0 or found.max() >= known:
        raise DataError(f"labels go from {found.min()} to {found.max()}, and the coder knows 0 to {known - 1}")
    return np.ascontiguousarray(found, np.uint8)


class ContextCoder(MapCoder):
    """Label maps to bytes and back, by counts of training maps.

    Args:
        maps: of training, (N, H, W) whole numbers 0..labels - 1, or a list of (H, W).
        labels: L, at most 255.
        neighbours: steps (down, right) to pixels that come before in raster order, the most telling first.
        depths: how many of them make a context, growing; a context that is not in the table leaves it to the ones
            before.
        gain: how much a pixel of the map that is coded counts, where one of training counts 1; 0: not at all.

    Raises:
        DataError: labels out of range, or no map.
        OptionError: neighbours that do not come before, or depths that do not grow.
    """

    def __init__(
        self,
        maps: np.ndarray | Sequence[np.ndarray],
        labels: int,
        neighbours: Sequence[tuple[int, int]] = NEIGHBOURS,
        depths: Sequence[int] = DEPTHS,
        gain: int = 8,
    ):
        if not all(down < 0 or (down == 0 and right < 0) for down, right in neighbours):
            raise OptionError(f"neighbours={neighbours}: each comes before its pixel, (0, -1) or (-1, any)")
        deepest = max(depths, default=0)
        if list(depths) != sorted(set(depths)) or not 0 <= deepest <= len(neighbours):
            raise OptionError(f"depths={depths}: growing, up to the {len(neighbours)} neighbours")
        if not 1 < labels <= 255 or (labels + 1) ** deepest > 2**62:
            raise OptionError(
                f"labels={labels}: from 2 to 255, and few enough for contexts of {deepest} to have a number"
            )
        self.labels, self.gain = labels, gain
        self.offsets = np.array(neighbours, np.int64).reshape(-1, 2)
        self.depths = np.array(depths, np.int64)
        checked = [self.checked(one) for one in maps]
        if not checked:
            raise DataError("no map to count labels in")
        tables = [self._counted(checked, depth) for depth in depths]
        self.first = np.cumsum([0, *(len(keys) for keys, _ in tables)])
        self.keys = np.concatenate([keys for keys, _ in tables])
        self.counts = np.concatenate([counts for _, counts in tables])

    def checked(self, labels: np.ndarray) -> np.ndarray:
        """A map (H, W) as bytes. Raises `DataError` where it is none, or has labels that the coder does not know."""
        return check_labels(labels, self.labels)

    @property
    def table(self) -> tuple[np.ndarray, ...]:
        """What the kernels look contexts up in."""
        return self.offsets, self.depths, self.keys, self.first

    def _counted(self, maps: list[np.ndarray], depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The contexts of one depth that occur, sorted, and how often each label follows them, (contexts, L)."""
        seen: dict[int, int] = {}
        for one in maps:
            pairs = _contexts(one, self.offsets[:depth], self.labels) * self.labels + one
            for pair, count in zip(*(part.tolist() for part in np.unique(pairs, return_counts=True)), strict=True):
                seen[pair] = seen.get(pair, 0) + count
        pairs, number = np.array(list(seen), np.int64), np.array(list(seen.values()), np.int64)
        keys, row = np.unique(pairs // self.labels, return_inverse=True)
        counts = np.zeros((len(keys), self.labels), np.int64)
        counts[row, pairs % self.labels] = number
        return keys, counts

    def encode(self, labels: np.ndarray) -> bytes:
        """The bytes of a map (H, W). Raises `DataError` as `checked` does."""
        found = self.checked(labels)
        bits = buffer(found)
        size = kernel.encode_map(found, *self.table, self.counts.copy(), self.gain, range_coder.begin(), bits)
        return SIZE.pack(*found.shape) + trimmed(bits, size)

    def decode(self, data: bytes) -> np.ndarray:
        """The map (H, W), bytes, that `encode` was given. Raises `DataError` where the bytes begin with no size."""
        shape, bits = opened(data)
        found = np.empty(shape, np.uint8)
        kernel.decode_map(found, *self.table, self.counts.copy(), self.gain, range_coder.begin(), bits)
        return found


def _contexts(labels: np.ndarray, offsets: np.ndarray, count: int) -> np.ndarray:
    """The number of each pixel's context, (H, W)."""
    height, width = labels.shape
    far = int(np.abs(offsets).max(initial=0))
    around = np.pad(labels.astype(np.int64), ((far, 0), (far, far)), constant_values=count)
    found, place = np.zeros(labels.shape, np.int64), 1
    for down, right in offsets.tolist():
        found += place * around[far + down :, far + right :][:height, :width]
        place *= count + 1
    return found


def buffer(labels: np.ndarray) -> np.ndarray:
    """Room for the code of a map: a frequency is at least 1 of 2^21 or so, 3 bytes a label, beside the places."""
    return np.zeros(4 * labels.size + 64, np.uint8)


def trimmed(bits: np.ndarray, size: int) -> bytes:
    """The bytes that were written, without zeros at the end: they are what is read there anyway."""
    return bits[:size].tobytes().rstrip(b"\0")


def opened(data: bytes) -> tuple[tuple[int, int], np.ndarray]:
    """The height and width at the beginning, and the bytes behind them."""
    shape = SIZE.unpack_from(data) if len(data) >= SIZE.size else (0, 0)
    if not 0 < shape[0] * shape[1] <= MOST_PIXELS:
        raise DataError(f"{len(data)} bytes that begin with no size of a label map: was the file cut off?")
    return shape, np.frombuffer(data, np.uint8, offset=SIZE.size)
