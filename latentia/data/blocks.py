"""Files that are read a block of rows at a time, so that they may be larger than memory: .npy and Parquet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as arrow
import pyarrow.parquet

from latentia.data import arrays, readers, tables
from latentia.data.files import readable
from latentia.data.limits import judge
from latentia.data.raw import Raw
from latentia.errors import DataError, OptionError

SUFFIXES = (".npy", ".parquet")
VALUES = 2**20
"""Numbers that a block or batch has where nobody says how many data."""
MOST = 2**16
"""Data that it has then, at most."""


class File(Protocol):
    """A file of rows."""

    path: Path

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Raw:
        """The rows from `start`, before `stop`."""
        ...


class ArrayFile:
    """The rows of a .npy file. They are read, not mapped: pages of a map would count as this process's memory."""

    def __init__(self, path: Path, weight: np.ndarray | None = None):
        self.path, self.weight = path, weight
        with readable(path, "a .npy array"):
            arrays.check_npy(path)
            header = np.lib.format.open_memmap(path, mode="r")
        if not header.ndim:
            raise DataError(f"{path.name} holds one number and no rows: give (N,) or (N, D)")
        self.dtype, self.shape, self.offset = header.dtype, header.shape, header.offset
        if not header.flags.c_contiguous:
            raise DataError(f"{path.name} is in Fortran's order, column by column: save it with np.ascontiguousarray")
        if weight is not None and weight.shape != self.shape[:1]:
            raise DataError(f"weights of shape {weight.shape} for the {self.shape[0]} data of {path.name}")

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> Raw:
        width = math.prod(self.shape[1:])
        offset = self.offset + start * width * self.dtype.itemsize
        with readable(self.path, "a .npy array"):
            values = np.fromfile(self.path, self.dtype, (stop - start) * width, offset=offset)
            values = values.reshape(stop - start, *self.shape[1:])
        raw = _numbered(readers.from_array(values, self.path.name), start)
        return raw if self.weight is None else readers.weighted(raw, self.weight[start:stop])


class ParquetFile:
    """The rows of a Parquet file, of which one row group is held at a time."""

    def __init__(self, path: Path, columns: Sequence[str] | str | None = None, weight: str | None = None):
        self.path, self.weight = path, weight
        with readable(path, "Parquet"):
            self.file = pyarrow.parquet.ParquetFile(path)
            index = _index(self.file)
        found = {field.name: field.type for field in self.file.schema_arrow if field.name not in index}
        self.names = tuple(readers.split(columns)) if columns is not None else tuple(n for n in found if n != weight)
        for name in (*self.names, *([weight] if weight else [])):
            self._check(name, found)
        groups = range(self.file.metadata.num_row_groups)
        self.starts = np.cumsum([0, *(self.file.metadata.row_group(i).num_rows for i in groups)])
        self._held: tuple[int, Raw] | None = None

    def _check(self, name: str, found: dict[str, arrow.DataType]) -> None:
        if name not in found:
            raise DataError(f"{self.path.name} has no column {name!r}: it has {', '.join(found)}")
        if not _is_numeric(found[name]):
            numeric = ",".join(other for other in found if _is_numeric(found[other]))
            raise DataError(
                f"{self.path.name}, column {name!r} holds {found[name]}, not numbers: "
                + (f"use the numeric columns with --columns {numeric}" if numeric else "every column must be numeric")
            )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> Raw:
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        parts = []
        for group in range(first, last + 1):
            begin = int(self.starts[group])
            parts.append(self._group(group).take(slice(max(start - begin, 0), stop - begin)))
        return _numbered(joined(parts), start)

    def _group(self, group: int) -> Raw:
        if self._held is None or self._held[0] != group:
            self._held = None  # two groups at once are more than is promised
            names = list(dict.fromkeys([*self.names, *([self.weight] if self.weight else [])]))
            rows = int(self.starts[group + 1] - self.starts[group])
            judge(f"{self.path.name}, row group {group}", rows * len(names), self.path.stat().st_size)
            with readable(self.path, "Parquet"):
                found = self.file.read_row_group(group, columns=names, use_threads=False)
                frame = tables.to_frame(found, ignore_metadata=True)
            table = tables.from_frame(frame, self.path.name)
            raw = table.select(self.names).raw()
            weight = None if self.weight is None else np.asarray(table.select([self.weight]).raw().values)[:, 0]
            self._held = group, raw if weight is None else readers.weighted(raw, weight)
        return self._held[1]


def _index(file: pyarrow.parquet.ParquetFile) -> set[str]:
    """The columns in which pandas has saved an index, which is no datum."""
    metadata = file.schema_arrow.pandas_metadata or {}
    return {name for name in metadata.get("index_columns", []) if isinstance(name, str)}


def _is_numeric(kind: arrow.DataType) -> bool:
    types = arrow.types
    return any(test(kind) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


def _numbered(raw: Raw, start: int) -> Raw:
    return replace(raw, rows=np.arange(start + 1, start + 1 + len(raw)))


def joined(parts: Sequence[Raw]) -> Raw:
    """Blocks of the same file, one after the other."""
    if len(parts) == 1:
        return parts[0]
    fields = {name: [getattr(part, name) for part in parts] for name in ("values", "rows", "weight")}
    return replace(parts[0], **{n: None if f[0] is None else np.concatenate(f) for n, f in fields.items()})


def open_file(path: Path, columns=None, weight=None) -> File:
    """Raises `DataError` for a file that cannot be read block by block."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        if not (weight is None or isinstance(weight, str)):
            raise DataError(f"{path.name}: the weights of a Parquet stream are one of its columns: give its name")
        return ParquetFile(path, columns, weight)
    if suffix != ".npy":
        raise DataError(f"{path.name} is no stream: only {' and '.join(SUFFIXES)} are read block by block; convert it")
    if columns is not None or isinstance(weight, str):
        raise DataError(f"{path.name} has no named columns: only Parquet streams have")
    return ArrayFile(path, None if weight is None else np.asarray(weight, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Rows:
    """Some of a file's rows: those from `start` to `stop` whose number draws a number in [low, high).

    The draw depends on the seed and on the row's number alone, so that parts need no list of their rows.
    """

    file: File
    kind: str
    start: int
    stop: int
    low: float = 0.0
    high: float = 1.0
    seed: int = 0

    @classmethod
    def open(cls, source, *, columns=None, kind: str = "auto", weight=None, first: int | None = None) -> Rows:
        """All rows of the file, or the `first` so many. See `latentia.data.read`."""
        path = readers.path_of(source)
        if path is None:
            raise DataError(f"{readers.name_of(source)} is no stream: give the path of a {' or '.join(SUFFIXES)} file")
        file = open_file(readers.existing(path), columns, weight)
        if not len(file):
            raise DataError(f"{path.name} is empty: it has no rows of data")
        found = readers.as_kind(file.read(0, 1), kind).kind
        return cls(file, found, 0, min(len(file), first or len(file)))

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        if self.whole:
            return self.stop - self.start
        return sum(int(self._mine(start, stop).sum()) for start, stop in _spans(self.start, self.stop, MOST))

    @property
    def source(self) -> str:
        """The file's name, for messages."""
        return self.file.path.name

    def fingerprint(self) -> str:
        """The sha256 of the file's bytes, in hex."""
        with self.file.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def whole(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    @cached_property
    def width(self) -> int:
        """How many numbers a row has."""
        return max(math.prod(np.shape(self.read(self.start, self.start + 1).values)[1:]), 1)

    @property
    def size(self) -> int:
        """How many rows make a block of about a million numbers."""
        return min(max(VALUES // self.width, 1), MOST)

    def split(self, fraction: float, seed: int) -> tuple[Rows, Rows]:
        """(rest, part): about `fraction` of the rows, at random. Raises `OptionError` unless it is in [0, 1)."""
        if not 0 <= fraction < 1:
            raise OptionError(f"fraction={fraction}: it must be at least 0 and below 1")
        if not self.whole and seed != self.seed:
            raise OptionError(f"seed={seed}: a part is split further by the seed that made it, {self.seed}")
        cut = self.low + (1 - fraction) * (self.high - self.low)
        return replace(self, high=cut, seed=seed), replace(self, low=cut, seed=seed)

    def part(self, start: int, stop: int) -> Rows:
        """The rows of the file from `start`, before `stop`, that are among these."""
        return replace(self, start=max(start, self.start), stop=min(stop, self.stop))

    def read(self, start: int, stop: int) -> Raw:
        raw = readers.finite(readers.as_kind(self.file.read(start, stop), self.kind))
        return raw if self.whole else raw.take(self._mine(start, stop))

    def blocks(self, size: int | None = None, seed: int | None = None) -> Iterator[Raw]:
        """All rows, from `size` rows of the file at a time, in their order, or the blocks in a random one by `seed`."""
        spans = _spans(self.start, self.stop, size or self.size)
        order = range(len(spans)) if seed is None else np.random.default_rng(seed).permutation(len(spans))
        return (raw for raw in (self.read(*spans[i]) for i in order) if len(raw))

    def take(self, index: np.ndarray) -> Raw:
        """The rows at these positions, which rise, among those that there are."""
        found, before = [], 0
        for raw in self.blocks():
            if not len(index) or before > index[-1]:
                break
            here = index[(index >= before) & (index < before + len(raw))] - before
            found += [raw.take(here)] if len(here) else []
            before += len(raw)
        return joined(found) if found else self.read(self.start, self.start + 1).take(slice(0))

    def _mine(self, start: int, stop: int) -> np.ndarray:
        drawn = uniform(np.arange(start, stop, dtype=np.uint64), self.seed)
        return (drawn >= self.low) & (drawn < self.high)


def _spans(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + size, stop)) for begin in range(start, stop, size)]


def uniform(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each of these, by splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        state = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        state += np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53
