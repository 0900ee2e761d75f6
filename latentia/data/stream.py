"""`Stream`: data larger than memory, read again at every pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.data.blocks import Rows
from latentia.data.dataset import Dataset
from latentia.data.raw import Raw
from latentia.data.schema import Schema, rows_of, weights_of
from latentia.errors import DataError, OptionError
from latentia.model import Batch

START = 2**21
"""Numbers in the part of a stream from which a starting point is chosen, unless that is fewer than `ROWS` data."""
ROWS = 2**13


@dataclass(frozen=True, eq=False)
class Stream:
    """N data in a .npy or Parquet file, of which a block of rows is held at a time.

    EM and `evaluate` take a stream wherever they take a `Dataset`: a pass over the data is a pass over the file.
    For anything else take a `sample`.

    Attributes:
        rows: which rows of which file.
        schema: what x is.
    """

    rows: Rows
    schema: Schema
    seen: tuple[int, ...] | None = None
    """What the file was when the stream was opened, see `_stamp`."""

    @classmethod
    def open(
        cls,
        source,
        *,
        schema: Schema | None = None,
        columns=None,
        kind: str = "auto",
        values: str = "auto",
        scale: str = "none",
        binarize: str = "none",
        weight=None,
        seed: int = 0,
    ) -> Stream:
        """The stream of a file, by `schema` where one is given, else by a first pass over the file.

        Args:
            source: the path of a .npy file (in C's order) or a Parquet file.
            schema, columns, kind, values, scale, binarize, seed: as for `latentia.data.load`; binarize may not be
                "dynamic".
            weight: the name of a Parquet file's column, or (N,) numbers of 0 or more for a .npy file.

        Raises:
            DataError: a file that is no stream, or values that cannot be used.
            OptionError: an option that makes no sense.
        """
        kind = schema.kind if schema is not None and kind == "auto" else kind
        rows = Rows.open(source, columns=columns, kind=kind, weight=weight)
        return cls(rows, schema or survey(rows, values=values, scale=scale, binarize=binarize, seed=seed))

    def __post_init__(self) -> None:
        if self.schema.binarize == "dynamic":
            raise OptionError(
                "binarize='dynamic' draws anew for each batch, and a stream is to be the same each pass: say 'fixed'"
            )
        if self.seen is None:
            object.__setattr__(self, "seen", _stamp(self.rows.file.path))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def entries(self) -> int:
        """How many numbers the x of a datum has."""
        return self.rows.width

    @property
    def enough(self) -> int:
        """So many data, if there are more, are enough to choose a starting point by."""
        return max(START // self.entries, ROWS)

    def chunks(self, size: int | None = None, seed: int | None = None) -> Iterator[Dataset]:
        """All data in parts that fit in memory: from `size` rows of the file each, None = of a million numbers."""
        self._unchanged()
        for raw in self.rows.blocks(size, seed):
            yield self.schema.encode(raw)
        self._unchanged()

    def _unchanged(self) -> None:
        """Raise `DataError` where the file is no longer the one that the stream was opened on: a fit would learn from
        other data at each pass."""
        path = self.rows.file.path
        if _stamp(path) != self.seen:
            raise DataError(
                f"{path.name} has changed while it was read: let nothing write to it, and begin again; what was "
                "learned from it so far is of data that no longer are"
            )

    def batches(self, size: int, *, sort: bool = False, dtype: torch.dtype | None = None) -> Iterator[Batch]:
        """Every datum once, in the file's order, from `size` rows at a time. A stream cannot `sort`."""
        return (chunk.batch(dtype=dtype) for chunk in self.chunks(size))

    def batch(self, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The data at these positions, which rise; all where there are none."""
        return self.subset(slice(None) if index is None else index).batch(dtype=dtype)

    def prepared(self, like: Tensor, size: int | None = None) -> Iterable[Batch]:
        """The batches of a pass over the data, read again each time that they are gone through."""
        return _Pass(self, like, size)

    def shuffled(self, like: Tensor, size: int, seed: int) -> Iterator[Batch]:
        """Every datum once, in blocks of `size` rows of the file, the blocks in a random order."""
        return (chunk.batch().to(like) for chunk in self.chunks(size, seed))

    def subset(self, index: Tensor | slice) -> Dataset:
        """The data at `index`, a slice or positions that rise, in memory."""
        chosen = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index.cpu().numpy()
        found = self.schema.encode(self.rows.take(chosen))
        self._unchanged()
        return found

    def sample(self, count: int, seed: int = 0) -> Dataset:
        """So many data at random, in memory, in the file's order."""
        return self.subset(draw(count, len(self), torch.Generator().manual_seed(seed)))

    def frozen(self, seed: int) -> Stream:
        """Itself: a stream draws nothing anew."""
        return self

    def split(self, fraction: float, seed: int = 0) -> tuple[Stream, Stream]:
        """(rest, part): about `fraction` of the data, at random: each row belongs to one by its number and the seed."""
        rest, part = self.rows.split(fraction, seed)
        return replace(self, rows=rest), replace(self, rows=part)

    def part(self, start: int, stop: int) -> Stream:
        """Those in the file's rows from `start`, before `stop`."""
        return replace(self, rows=self.rows.part(start, stop))


def _stamp(path: Path) -> tuple[int, ...]:
    """Which file there is, how long it is, and when it was last written: cheap enough to ask at each pass."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def draw(count: int, total: int, generator: torch.Generator) -> Tensor:
    """So many different positions of a total of so many, at random, in rising order; all where there are no more."""
    if total <= 2**20:
        return torch.randperm(total, generator=generator)[:count].sort().values
    found = torch.zeros(0, dtype=torch.long)
    while len(found) < min(count, total):
        found = torch.cat([found, torch.randint(total, (count,), generator=generator)]).unique()
    return found[torch.randperm(len(found), generator=generator)[:count].sort().values]


@dataclass(frozen=True)
class _Pass:
    stream: Stream
    like: Tensor
    size: int | None

    def __iter__(self) -> Iterator[Batch]:
        return (chunk.batch().to(self.like) for chunk in self.stream.chunks(self.size))


class _Column:
    """Mean and variance of each column of what has been seen, relative to its largest value, and its extremes.

    Moments of blocks are merged by the formula of Chan, Golub and LeVeque (1983), in units in which no square
    underflows or overflows.
    """

    def __init__(self, columns: int):
        self.weight, self.mean, self.square, self.size = (np.zeros(columns) for _ in range(4))
        self.low, self.high = np.full(columns, np.inf), np.full(columns, -np.inf)
        self.binary = True

    def add(self, rows: np.ndarray, weight: np.ndarray | None) -> None:
        seen = ~np.isnan(rows)
        values = np.where(seen, rows, 0.0)
        self.binary &= bool(((values == 0) | (values == 1)).all())
        self.low = np.minimum(self.low, np.where(seen, rows, np.inf).min(0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(seen, rows, -np.inf).max(0, initial=-np.inf))
        size = np.maximum(self.size, np.abs(values).max(0, initial=0.0))
        unit = np.where(size > 0, size, 1.0)
        ratio, values = self.size / unit, values / unit
        share = seen * (1.0 if weight is None else weight)
        mass = share.sum(0)
        mean = (share * values).sum(0) / np.where(mass > 0, mass, 1.0)
        total = np.where(self.weight + mass > 0, self.weight + mass, 1.0)
        gap = mean - self.mean * ratio
        self.square = (
            self.square * ratio**2 + (share * (values - mean) ** 2).sum(0) + gap**2 * self.weight * mass / total
        )
        self.mean = self.mean * ratio + gap * mass / total
        self.weight, self.size = self.weight + mass, size

    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(shift, scale): the mean, and the standard deviation, 1 where a column is constant."""
        deviation = self.size * np.sqrt(self.square / np.where(self.weight > 0, self.weight, 1.0))
        scale = np.where((self.low == self.high) | (deviation == 0), 1.0, deviation)
        return tuple((self.size * self.mean).tolist()), tuple(scale.tolist())


def survey(
    rows: Rows, *, values: str = "auto", scale: str = "auto", binarize: str = "none", seed: int = 0, **_: object
) -> Schema:
    """`Schema.of` these rows, in one pass over them: what it needs to know of the values are moments and extremes."""
    found: _Column | None = None
    template: Raw | None = None
    largest, observed = 0.0, 0
    for raw in rows.blocks():
        largest = max(largest, float(np.nanmax(raw.values, initial=0.0)))
        observed += int(np.count_nonzero(~np.isnan(raw.values)))
        raw = raw if raw.weight is None else raw.take(raw.weight > 0)
        if len(raw):
            template = template or raw
            table = rows_of(raw).astype(np.float64)
            found = found or _Column(table.shape[1])
            found.add(table, weights_of(raw))
    if found is None or template is None:
        raise DataError(f"{rows.source}: every weight is 0: there are no data")
    if values == "auto" and binarize == "none" and np.asarray(template.values).dtype.kind == "f" and not found.binary:
        values = "real"  # of values between 0 and 1 the extremes do not tell
    options: dict[str, Any] = {"values": values, "scale": scale, "binarize": binarize, "seed": seed}
    schema = Schema.of(_extremes(template, found), observed=observed, **options)
    if schema.values in ("levels", "symbols") and schema.levels is not None:
        return replace(schema, levels=max(schema.levels, 1 + int(largest)))
    if schema.values != "real" or scale == "none" or (schema.kind, scale) == ("image", "auto"):
        return schema
    shift, factor = found.scaling()
    return replace(schema, shift=shift, scale=factor)


def _extremes(raw: Raw, found: _Column) -> Raw:
    """Two data of the kind of `raw`: the least value of every column, and the largest."""
    shape = np.shape(raw.values)[1:]
    rows = [np.where(np.isfinite(edge), edge, np.nan) for edge in (found.low, found.high)]
    dtype = np.asarray(raw.values).dtype
    values = np.stack([np.broadcast_to(row, shape) for row in rows])
    return replace(raw, values=values.astype(dtype), rows=np.array([1, 2]), weight=None)
