"""What a reader found, before a schema says how models are to see it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from latentia.errors import DataError

KINDS = ("table", "sequence", "text", "image")
NOUNS = {"table": "a table", "sequence": "sequences", "text": "text", "image": "images"}


@dataclass(frozen=True, eq=False)
class Raw:
    """Data as given.

    Attributes:
        kind: "table", "sequence", "text" or "image".
        values: table (N, D); image (N, H, W) or (N, H, W, C); sequence (N, T), (N, T, D) or a list of N ragged
            arrays (T,) or (T, D); text a list of N token lists. NaN is a missing value.
        names: the names of a table's columns, () where the source has none.
        source: the file's name, for messages.
        labels: (N,), what each datum is, where that is known; never seen by a model.
        trees: (N,), the tree of each sentence in brackets, where that is known; never seen by a model.
        rows: (N,), each datum's own number in the source, from 1.
        weight: (N,), 0 = absent, 2 = seen twice.
        lines: (N,), the line of the file where each datum starts, for sources that have lines.
        levels: how many grey levels the source can hold, where it says so.
        whole: the values were given as whole numbers, though a missing one among them makes the array float.
        context: what the model conditions on, a datum for each of these.
    """

    kind: str
    values: np.ndarray | list
    names: tuple[str, ...] = ()
    source: str = "data"
    labels: np.ndarray | None = None
    rows: np.ndarray | None = None
    lines: np.ndarray | None = None
    levels: int | None = None
    weight: np.ndarray | None = None
    whole: bool = False
    context: Raw | None = None
    trees: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not is_writable(self.source):  # the name of a file may be any bytes; reports and schemas are UTF-8
            object.__setattr__(self, "source", self.source.encode("utf-8", "replace").decode())
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(1, len(self) + 1))

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index) -> Raw:
        """The data at `index`: an array of positions, of booleans, or a slice. Row numbers stay those of the source."""
        positions = np.arange(len(self))[index]

        def pick(field):
            return [field[i] for i in positions] if isinstance(field, list) else field[positions]

        parts = {name: getattr(self, name) for name in ("values", "labels", "trees", "rows", "lines", "weight")}
        context = None if self.context is None else self.context.take(positions)
        return replace(self, context=context, **{name: pick(part) for name, part in parts.items() if part is not None})

    def fingerprint(self) -> str:
        """The sha256 of values, names, weights, labels and context, in hex: it changes when the data do."""
        digest = hashlib.sha256(json.dumps([self.kind, self.names]).encode())
        for part in self.values if isinstance(self.values, list) else [self.values]:
            digest.update(_content(part))
        if self.weight is not None:
            digest.update(_content(self.weight))
        if self.labels is not None:
            digest.update(_content([str(label) for label in self.labels]))
        if self.context is not None:
            digest.update(self.context.fingerprint().encode())
        return digest.hexdigest()

    def where(self, index: tuple[int, ...]) -> str:
        """The place of one value in words, such as "line 3, column 'waiting'"."""
        row, *rest = (int(i) for i in index)
        assert self.rows is not None  # __post_init__ has set it
        words = [f"row {self.rows[row]}" if self.lines is None else f"line {self.lines[row]}"]
        if self.kind in ("sequence", "text"):
            words += [f"step {rest[0] + 1}"] if rest else []
            rest = rest[1:]
        if self.kind == "image" and rest:
            words.append(f"pixel {tuple(i + 1 for i in rest)}")
        elif rest:
            words.append(self.column(rest[0]))
        return ", ".join(words)

    def column(self, j: int) -> str:
        """The name of column j for messages."""
        return f"column {self.names[j]!r}" if self.names else f"column {j + 1}"

    def error(self, message: str, index: tuple[int, ...] | None = None) -> DataError:
        """A `DataError` that names the source, and the place where there is one."""
        return DataError(
            f"{self.source}: {message}" if index is None else f"{self.source}, {self.where(index)}: {message}"
        )


def is_writable(text: str) -> bool:
    """Whether the text can be written as UTF-8: half of a pair of surrogates cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


EXACT = 2**53
"""The largest whole number up to which float64 holds every one."""


def inexact(values: np.ndarray) -> np.ndarray:
    """Which whole numbers float64 cannot hold: of those above 2^53, different ones would become the same."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not values.size:
        return np.zeros(values.shape, dtype=bool)
    if int(values.max()) <= EXACT and int(values.min()) >= -EXACT:
        return np.zeros(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):  # the largest of all become 2^63 or 2^64, and do not come back
        return values.astype(np.float64).astype(values.dtype) != values


BEYOND = (
    "more digits than float64 holds, which has every whole number up to 2^53 only: subtract a constant, divide, or "
    "leave the column out"
)


def first(values: np.ndarray | list, test: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """The index of the first value for which the elementwise `test` holds, None where there is none."""
    if isinstance(values, list):
        found = ((i, first(np.asarray(value), test)) for i, value in enumerate(values))
        return next(((i, *inner) for i, inner in found if inner is not None), None)
    bad = test(values)
    return tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape)) if bad.any() else None


def _content(part: np.ndarray | list[str]) -> bytes:
    if isinstance(part, list):
        return json.dumps(part).encode()
    return f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes()
