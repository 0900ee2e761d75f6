"""`read`: whatever the user has, as a `Raw`."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from latentia.data import arrays, bags, images, sequences, tables
from latentia.data.builtin import BUILTIN
from latentia.data.cells import cells_of
from latentia.data.columns import asked, raw_of
from latentia.data.raw import BEYOND, KINDS, NOUNS, Raw, first, inexact
from latentia.errors import DataError, OptionError

TABLES = {".csv": tables.read_csv, ".tsv": tables.read_csv, ".parquet": tables.read_parquet}
ARRAYS = {".npy": arrays.read_npy, ".npz": arrays.read_npz, ".mat": arrays.read_mat}
LINES = {".txt": sequences.read_text, ".jsonl": sequences.read_jsonl, **bags.BAGS}
CHANNELS = (1, 2, 3, 4)


def read(
    source,
    *,
    key: str | None = None,
    columns: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    kind: str = "auto",
    weight=None,
    vocabulary: str | os.PathLike | None = None,
    context=None,
    labels=None,
    kinds: dict[str, str] | None = None,
) -> Raw:
    """Read data and refuse what cannot be used.

    Args:
        source: the name of built-in data, a path, an array, a tensor, a table of pandas, polars, Arrow or any other
            library that narwhals knows, a list of ragged sequences, or a `Raw`, which is returned as it is.
        key: which array of a .npz or .mat file.
        columns: which columns of a table, names or one string with commas. A name may have a kind behind it, as in
            "age:real,plan:category": real, category, binary or count; where all have one, the other columns are there
            too.
        exclude: which columns of a table to leave out.
        kind: "table", "sequence", "text" or "image"; "auto" decides by the file, the shape and the dtype.
        weight: (N,) numbers of 0 or more, 0 = absent, 2 = seen twice; or the name of a table's column, which is then
            none of the columns of x.
        vocabulary: a file with a word a line, which makes bags of words and other sequences of whole numbers text:
            line i + 1 names symbol i.
        context: what a model conditions on: columns of the table by their names (numbers or categories), which are then
            none of the columns of x; the key of another array of the same file; or another source of as many data.
        labels: what each datum is, partly empty where that is not known: a column of the table, the key of another
            array of the same file, or an array (N,).
        kinds: of what kind columns are, where nothing is said of them in `columns`.

    Raises:
        DataError: names the file, the row or line and the column, and says what to do.
        OptionError: no such kind.
    """
    if kind not in ("auto", *KINDS):
        raise OptionError(f"kind={kind!r}: choose auto, {', '.join(KINDS)}")
    if isinstance(source, Raw):
        return source if weight is None else weighted(source, weight)
    table = open_table(source)
    beside = Beside.of(source, table, context, labels)
    if table is not None:
        taken = [*beside.columns, *([weight] if isinstance(weight, str) else [])]
        chosen, said = asked(columns, table.names)
        if isinstance(weight, str):
            weight = np.asarray(table.select([weight]).raw().values)[:, 0]
        out = list(table.select(split(exclude)).names) if exclude else []
        left = table.without([*([] if chosen else taken), *out])
        left = left if chosen is None else left.select(chosen)
        raw = raw_of(left, {name: kind for name, kind in (kinds or {}).items() if name in left.names} | said)
    elif columns is not None or exclude is not None:
        raise DataError(
            f"{name_of(source)} names no columns to choose from: columns are for .csv, .tsv, .parquet and data frames"
        )
    else:
        raw = _read(source, key)
    raw = raw if vocabulary is None else bags.in_words(raw, Path(vocabulary))
    if isinstance(weight, str):
        raise DataError(f"{name_of(source)} has no column {weight!r}: give the weights as an array")
    raw = beside.put(finite(as_kind(raw, kind)))
    return raw if weight is None else weighted(raw, weight)


@dataclass(frozen=True)
class Beside:
    """What stands beside x: a context, labels, and the columns of the table that they are."""

    context: Raw | None = None
    labels: object = None
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, source, table: tables.Table | None, context, labels) -> Beside:
        """Raises `DataError` for a column, a key or a file that is not there."""
        columns: list[str] = []
        if isinstance(labels, str):
            if table is not None:
                columns.append(labels)
                labels = table.labels(labels)
            else:
                labels = _labels(read(labels) if path_of(labels).exists() else _read(source, labels))  # type: ignore[union-attr]
        if context is not None and table is not None and not _is_file(context):
            chosen = split(context)
            columns += chosen
            context = cells_of(table.select(chosen))
        elif context is not None and not isinstance(context, Raw):
            other = open_table(context) if not isinstance(context, str) or _is_file(context) else None
            if other is not None:
                context = cells_of(other)
            else:
                keyed = isinstance(context, str) and not _is_file(context)
                context = finite(_read(source, context)) if keyed else read(context)
        return cls(context, labels, tuple(columns))

    def put(self, raw: Raw) -> Raw:
        """`raw` with its context and labels. Raises `DataError` where those are not one for each datum."""
        if self.context is not None and len(self.context) != len(raw):
            raise DataError(
                f"{self.context.source} has {len(self.context)} data for the {len(raw)} of {raw.source}: a context is "
                "one for each datum, in the same order"
            )
        raw = raw if self.context is None else replace(raw, context=self.context)
        return raw if self.labels is None else replace(raw, labels=checked_length(self.labels, raw, "labels"))


def _is_file(source) -> bool:
    path = path_of(source)
    return path is not None and path.exists()


def _labels(raw: Raw) -> np.ndarray:
    values = np.asarray(raw.values)
    if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
        raise DataError(f"{raw.source} is no file of labels: it must hold one number for each datum")
    return values.reshape(-1)


def weighted(raw: Raw, weight) -> Raw:
    """`raw` with a weight for each datum. Raises `DataError` for a number below 0, or none."""
    weight = checked_length(weight, raw, "weights").astype(np.float64)
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        i = int(bad.argmax())
        raise raw.error(f"the weight is {weight[i]:g}: a weight is a number of 0 or more", (i,))
    return replace(raw, weight=weight)


def checked_length(values, raw: Raw, what: str) -> np.ndarray:
    """`values` as an array (N,). Raises `DataError` where they are not one for each datum."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.shape != (len(raw),):
        raise DataError(
            f"{what} of shape {array.shape} for the {len(raw)} data of {raw.source}: give one for each datum"
        )
    return array


def split(columns: Sequence[str] | str) -> list[str]:
    """Column names, from a list of them or a string with commas."""
    return [name.strip() for name in columns.split(",")] if isinstance(columns, str) else list(columns)


def open_table(source) -> tables.Table | None:
    """The source's cells where it is a table with columns: pandas, or a .csv, .tsv or .parquet file. Else None."""
    if isinstance(source, pd.DataFrame):
        return tables.from_frame(source, "the pandas table")
    path = path_of(source)
    if path is None and not isinstance(source, (str, np.ndarray, torch.Tensor, list, tuple)):
        return tables.from_any(source)
    reader = None if path is None else TABLES.get(path.suffix.lower())
    return None if path is None or reader is None else reader(existing(path))


def path_of(source) -> Path | None:
    """The source as a path, None where it is no path or names built-in data."""
    named = isinstance(source, (str, os.PathLike)) and source not in BUILTIN
    return Path(source) if named else None


def name_of(source) -> str:
    """The source in a message: its file name or its type."""
    return Path(source).name if isinstance(source, (str, os.PathLike)) else f"the {type(source).__name__}"


def _read(source, key: str | None) -> Raw:
    """A source that is no table with columns."""
    if isinstance(source, str) and source in BUILTIN:
        return BUILTIN[source]()
    path = path_of(source)
    if path is not None:
        return _read_path(existing(path), key)
    if isinstance(source, torch.Tensor):
        return from_array(_from_torch(source), "the tensor")
    if isinstance(source, np.ma.MaskedArray):
        filled = from_array(np.ma.filled(source.astype(np.float64), np.nan), "the array")
        return replace(filled, whole=source.dtype.kind in "iu")
    if isinstance(source, np.ndarray) and source.dtype != object:
        return from_array(source, "the array")
    if isinstance(source, (list, tuple)) or (isinstance(source, np.ndarray) and source.ndim):
        return _from_list(list(source))
    raise DataError(
        f"data of type {type(source).__name__} are not read: give a path, an array, a tensor or a data frame"
    )


def _from_torch(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _from_list(items: list) -> Raw:
    if items and all(item is None or (np.isscalar(item) and not isinstance(item, str)) for item in items):
        items = [float("nan") if item is None else item for item in items]
        return from_array(np.asarray(items), "the list")
    return sequences.from_items(items, "the list")


def existing(path: Path) -> Path:
    """The path itself. Raises `DataError` for one where nothing is, or nothing that can be read as often as needed."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, PermissionError):
            raise DataError(
                f"{path} may not be looked at (permission denied): change its folder's permissions"
            ) from error
        raise DataError(
            f"{path} does not exist: give a file, a folder of images, or one of {', '.join(BUILTIN)}"
        ) from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise DataError(f"{path} is a pipe or a device, which may never end: write what comes from it to a file first")
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise DataError(f"{path.name} is empty (0 bytes): write or fetch it again")
    return path


def _read_path(path: Path, key: str | None) -> Raw:
    if path.is_dir():
        return images.read_folder(path)
    suffix = path.suffix.lower()
    if suffix in LINES and not arrays.is_idx(path):
        return LINES[suffix](path)
    if suffix in ARRAYS:
        return from_array(ARRAYS[suffix](path, key), path.name)
    if suffix == ".idx" or path.name.lower().endswith((".idx.gz", "-ubyte", "-ubyte.gz")) or arrays.is_idx(path):
        array = arrays.read_idx(path)
        return from_array(array, path.name, auto="image" if array.ndim == 3 else "auto")
    known = ", ".join([*TABLES, *ARRAYS, *LINES, ".idx", ".idx.gz", "-ubyte", "-ubyte.gz"])
    raise DataError(
        f"{path.name}: files of this kind are not read; known are {known}, and folders of {', '.join(images.SUFFIXES)}"
    )


def from_array(array: np.ndarray, source: str, auto: str = "auto") -> Raw:
    """An array of numbers: 2-D is a table, 3-D of whole numbers and 4-D images, 3-D of floats sequences (N, T, D).

    Raises:
        DataError: an array that is empty, complex, of objects or text, or of no such shape.
    """
    if array.dtype.kind == "c":
        raise DataError(f"{source} holds complex numbers: give real and imaginary parts as columns of their own")
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{source} holds values of type {array.dtype}, not numbers: convert them, for instance with astype(float)"
        )
    if array.ndim not in (1, 2, 3, 4):
        raise DataError(f"{source} has shape {array.shape}: give (N,), (N, D), (N, T, D), (N, H, W) or (N, H, W, C)")
    if not array.size:
        raise DataError(f"{source} is empty: its shape is {array.shape}")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if array.ndim <= 2:
        return Raw("table", array.reshape(len(array), -1), source=source)
    if auto == "image" or array.ndim == 4 or array.dtype.kind != "f":
        return _channels_last(Raw("image", array, source=source))
    return Raw("sequence", array, source=source)


def _channels_last(raw: Raw) -> Raw:
    shape = np.shape(raw.values)
    if len(shape) == 4 and shape[-1] not in CHANNELS:
        raise raw.error(f"images of shape {shape} have {shape[-1]} channels: channels come last, (N, H, W, C)")
    return raw


def as_kind(raw: Raw, kind: str) -> Raw:
    """The same values seen as another kind. Raises `DataError` where the shape does not allow it."""
    if kind in ("auto", raw.kind):
        return raw
    if raw.kind == "text" or kind == "text":
        raise raw.error(f"holds {NOUNS[raw.kind]}, which cannot be read as {NOUNS[kind]}")
    if raw.mixed:
        raise raw.error("columns of words or counts are a table's: leave out --kind, or the columns by --exclude")
    values = _stacked(raw) if isinstance(raw.values, list) else np.asarray(raw.values)
    if kind == "table":
        return replace(raw, kind=kind, values=values.reshape(len(values), -1), names=())
    if kind == "sequence":
        if values.ndim == 4:
            raise raw.error("images with channels cannot be read as sequences: give (N, T) or (N, T, D)")
        return replace(raw, kind=kind, values=values, names=())
    return _channels_last(replace(raw, kind=kind, values=_square(raw, values), names=()))


def _stacked(raw: Raw) -> np.ndarray:
    lengths = sorted({len(value) for value in raw.values})
    if len(lengths) > 1:
        raise raw.error(
            f"sequences of {lengths[0]} to {lengths[-1]} steps are neither a table nor images: use kind='sequence'"
        )
    return np.stack(list(raw.values))


def _square(raw: Raw, values: np.ndarray) -> np.ndarray:
    if values.ndim > 2:
        return values
    side = math.isqrt(values.shape[1])
    if side * side != values.shape[1]:
        raise raw.error(f"rows of {values.shape[1]} values are no square images: reshape the array to (N, H, W)")
    return values.reshape(-1, side, side)


def finite(raw: Raw) -> Raw:
    """`raw` itself. Raises `DataError` at the first infinite value, or whole number that float64 cannot hold."""
    if raw.kind == "text":
        return raw
    index = first(raw.values, np.isinf)
    if index is not None:
        raise raw.error("an infinite value: correct it, or leave it empty (NaN), which means missing", index)
    index = first(raw.values, inexact)
    if index is not None:
        raise raw.error(f"{np.asarray(raw.values[index[0]])[index[1:]]}: {BEYOND}", index)
    return raw
