"""Values in the units of the data, to files that `read` reads back."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentia.data.files import atomic_write
from latentia.data.grids import exact
from latentia.errors import DataError

if TYPE_CHECKING:
    from latentia.data.schema import Schema


def write(schema: Schema, values: np.ndarray | list, path: str | os.PathLike) -> None:
    """Write decoded values in the form that the suffix names.

    Raises:
        DataError: a suffix that does not fit the kind, nothing to write, or a file that cannot be written.
    """
    forms = FORMS[schema.kind]
    suffix = Path(path).suffix.lower()
    if suffix not in forms:
        raise DataError(
            f"{path}: data of kind {schema.kind} can be written as {', '.join(forms)}, not as {suffix or 'this'}"
        )
    if not len(values):
        raise DataError(f"{path}: there is nothing to write")
    atomic_write(path, forms[suffix](schema, values))


def as_csv(schema: Schema, values: np.ndarray | list) -> bytes:
    """A table's decoded values as a .csv file."""
    names = schema.names or tuple(f"x{j + 1}" for j in range(schema.event_shape[0]))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in values)
    return file.getvalue().encode()


def _cell(value: np.number | str) -> str:
    """The shortest text that reads back as the same number; nothing for a missing one. Names as they are."""
    if isinstance(value, str):
        return value
    number = float(value)
    return "" if np.isnan(number) else str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def short(value: float) -> str:
    """Four digits of a number, as one would write it."""
    size = abs(value)
    return f"{value:,.0f}" if 1e4 <= size < 1e9 else f"{value:.4g}"


def _jsonl(schema: Schema, values: np.ndarray | list) -> bytes:
    lines = (json.dumps(plain(value), ensure_ascii=False) for value in values)
    return "".join(f"{line}\n" for line in lines).encode()


def plain(value: np.ndarray | list) -> list:
    """A list for JSON, which has no NaN: a missing value is null."""
    if isinstance(value, list):
        return value
    plain = value.astype(object)
    plain[plain != plain] = None  # only NaN is not itself
    return plain.tolist()


def _txt(schema: Schema, values: np.ndarray | list) -> bytes:
    return "".join(" ".join(words) + "\n" for words in values).encode()


def _npy(schema: Schema, values: np.ndarray | list) -> bytes:
    if schema.kinds:
        raise DataError("an array of .npy has no names of categories: write a table as .csv, sequences as .jsonl")
    file = io.BytesIO()
    np.save(file, _padded(values) if isinstance(values, list) else values, allow_pickle=False)
    return file.getvalue()


def _padded(parts: list[np.ndarray]) -> np.ndarray:
    """Ragged sequences as one array; NaN, which is read as missing, behind their ends."""
    longest = max(map(len, parts))
    if all(len(part) == longest for part in parts):
        return np.stack(parts)
    padded = np.full((len(parts), longest, *parts[0].shape[1:]), np.nan)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _png(schema: Schema, values: np.ndarray | list) -> bytes:
    if schema.chroma:
        raise DataError(
            "chroma is no picture without its grey image (latentia.data.colour.coloured has both): write .npy"
        )
    images = np.asarray(values, dtype=np.float64)
    if images.ndim > 4 or (images.ndim == 4 and images.shape[-1] not in (1, 3, 4)):
        raise DataError(
            f"images of shape {images.shape[1:]} cannot be shown: (H, W), (H, W, 1), (H, W, 3) and (H, W, 4) can"
        )
    return exact(np.nan_to_num(images) / _white(schema, images))


def _white(schema: Schema, images: np.ndarray) -> float:
    """The value that is shown as white."""
    if schema.values == "binary":
        return 1.0
    if schema.levels is not None:
        return max(schema.levels - 1.0, 1.0)
    scaled = schema.scale != (1.0,) and not any(schema.shift)
    return schema.scale[0] if scaled else max(1.0, float(np.nanmax(images)))


FORMS = {
    "table": {".csv": as_csv, ".npy": _npy},
    "sequence": {".jsonl": _jsonl, ".npy": _npy},
    "text": {".txt": _txt, ".jsonl": _jsonl},
    "image": {".png": _png, ".npy": _npy},
    "array": {".npy": _npy},
}
