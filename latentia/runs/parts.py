"""The data of a run, and how they are shared out to learn from, to stop by, and to measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentia.data import Dataset, Raw, Schema, Stream
from latentia.data.blocks import Rows
from latentia.errors import DataError
from latentia.learners.settings import seed_for
from latentia.runs.config import Source

IN_MEMORY = 2**22
"""Numbers in the part of a stream that is held in memory for pictures and tasks."""


@dataclass
class Parts:
    """The data of a run, encoded by one schema that only the training part has shaped."""

    train: Dataset | Stream
    validation: Dataset | Stream
    test: Dataset | Stream


def encode_part(part: Raw | Rows, schema: Schema) -> Dataset | Stream:
    return schema.encode(part) if isinstance(part, Raw) else Stream(part, schema)


def in_memory(data: Dataset | Stream) -> Dataset:
    return data if isinstance(data, Dataset) else data.sample(max(IN_MEMORY // data.entries, 1))


def with_labels(data: Any, some: bool = False) -> Any:
    """The data with the classes, or the logical forms, that labels say known to the model.

    Args:
        some: where not one is known, the data as they are.
    """
    if not isinstance(data, Dataset) or not (data.schema.classes or data.schema.grammar):
        return data
    try:
        return data.labelled()
    except DataError:
        if some:
            return data
        raise


def split_parts(raw: Raw | Rows, source: Source, seed: int) -> tuple[Raw | Rows, Raw | Rows, Raw | Rows]:
    """Train, validation and test parts, every datum in one of them."""
    if isinstance(raw, Rows):
        rest, held_out = raw.split(source.holdout, seed_for(seed, 7))
        return *rest.split(source.validation, seed_for(seed, 7)), held_out
    if is_one_series(raw):
        return _in_time(raw, source)
    order = np.random.default_rng(seed_for(seed, 7)).permutation(len(raw))
    test = _share(len(raw), source.holdout)
    rest = len(raw) - test
    validation = _share(rest, source.validation)
    cuts = (order[test + validation :], order[test : test + validation], order[:test])
    return tuple(raw.take(np.sort(cut)) for cut in cuts)  # type: ignore[return-value]


def is_one_series(raw: Raw | Rows) -> bool:
    """Whether these are the steps of one sequence, of which parts can only be cut in time."""
    return isinstance(raw, Raw) and raw.kind in ("sequence", "text") and len(raw) == 1 and len(raw.values[0]) > 2


def _in_time(raw: Raw, source: Source) -> tuple[Raw, Raw, Raw]:
    """The beginning, the middle and the end of one sequence: what is held out comes after what is learned from."""
    steps = len(raw.values[0])
    test = _share(steps, source.holdout)
    validation = _share(steps - test, source.validation)
    ends = np.cumsum([steps - test - validation, validation, test])
    parts = (slice(end - size, end) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True))
    return tuple(  # type: ignore[return-value]
        replace(raw, values=[raw.values[0][part]]) if part.stop > part.start else raw.take(slice(0)) for part in parts
    )


def _share(count: int, fraction: float) -> int:
    return min(max(round(count * fraction), 1), count - 1) if fraction and count > 1 else 0
