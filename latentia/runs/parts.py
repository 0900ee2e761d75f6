"""The data of a run, and how they are shared out to learn from, to stop by, and to measure."""

from __future__ import annotations

from dataclasses import dataclass
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
    """The data with the classes that labels say known to the model.

    Args:
        some: where not one is known, the data as they are.
    """
    if not isinstance(data, Dataset) or not data.schema.classes:
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
    order = np.random.default_rng(seed_for(seed, 7)).permutation(len(raw))
    test = _share(len(raw), source.holdout)
    rest = len(raw) - test
    validation = _share(rest, source.validation)
    cuts = (order[test + validation :], order[test : test + validation], order[:test])
    return tuple(raw.take(np.sort(cut)) for cut in cuts)  # type: ignore[return-value]


def _share(count: int, fraction: float) -> int:
    return min(max(round(count * fraction), 1), count - 1) if fraction and count > 1 else 0
