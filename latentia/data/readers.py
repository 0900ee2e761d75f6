"""`read`: whatever the user has, as a `Raw`."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from latentia.data import arrays, audio, bags, images, sequences, spreadsheets, tables, treebanks
from latentia.data.builtin import BUILTIN
from latentia.data.cells import cells_of
from latentia.data.columns import asked, raw_of
from latentia.data.prose import Prose, texts
from latentia.data.raw import BEYOND, KINDS, NOUNS, Raw, first, inexact
from latentia.data.series import series
from latentia.errors import DataError, OptionError

TABLES = {
    ".csv": tables.read_csv,
    ".tsv": tables.read_csv,
    ".parquet": tables.read_parquet,
    ".xlsx": spreadsheets.read_xlsx,
}
ARRAYS = {".npy": arrays.read_npy, ".npz": arrays.read_npz, ".mat": arrays.read_mat}
LINES = {".txt": sequences.read_text, ".jsonl": sequences.read_jsonl, **bags.BAGS}
FOLDERS = "folders"
"""The labels of images: the names of the folders in which they lie."""
TREES = {".mrg": treebanks.read_brackets, ".zip": treebanks.read_zip, ".conllu": treebanks.read_conllu}
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
    group: str | None = None,
    time: str | None = None,
    text_column: str | None = None,
    prose: Prose | None = None,
    kinds: dict[str, str] | None = None,
) -> Raw:
    """Read data and refuse what cannot be used.

    Args:
        source: the name of built-in data, a path, an array, a tensor, a table of pandas, polars, Arrow or any other
            library that narwhals knows, a list of ragged sequences, or a `Raw`, which is returned as it is.
        key: which array of a .npz or .mat file, or which field of the objects of a .jsonl file.
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
            array of the same file, an array (N,), or "folders" for images that lie in a folder for each class.
        group, time: of a table whose rows are steps, the columns that say which series a row belongs to and when it
            was (see `latentia.data.series`); `kind="sequence"` alone makes one series of all rows of a table whose
            columns have names.
        text_column: the column of a table, or the key of a .jsonl file's objects, that holds a text.
        prose: how a text becomes words; None: what stands between white space.
        kinds: of what kind columns are, where nothing is said of them in `columns`.

    Raises:
        DataError: names the file, the row or line and the column, and says what to do.
        OptionError: no such kind.
    """
    if kind not in ("auto", *KINDS):
        raise OptionError(f"kind={kind!r}: choose auto, {', '.join(KINDS)}")
    if isinstance(source, Raw):
        return source if weight is None else weighted(source, weight)
    # a file of pairs of texts has no columns to name
    if kind == "text" and text_column is None and (plain := plain_text(source)) is not None:
        source = plain
    table = open_table(source)
    if group is not None or time is not None or (kind == "sequence" and table is not None and table.names):
        chosen = Columns(columns, (), exclude, kinds or {})
        return _steps(source, table, group, time, chosen, weight, context, labels)
    if kind == "text" and context is not None and (plain := plain_text(context)) is not None:
        context = plain
    beside = Beside.of(source, table, context, labels)
    name = weight if isinstance(weight, str) and table is not None else None
    taken = [*beside.columns, *([name] if name else [])]
    if kind == "text" and table is not None and text_column is None:
        text_column = _only_column(table, columns, taken)
    chosen = Columns(columns, tuple(taken), exclude, kinds or {})
    raw = _texts(source, table, text_column) if text_column is not None else _x(source, table, key, chosen)
    if table is not None and name is not None:
        weight = np.asarray(table.select([name]).raw().values)[:, 0]
    raw = raw if vocabulary is None else bags.in_words(raw, Path(vocabulary))
    if isinstance(weight, str):
        raise DataError(f"{name_of(source)} has no column {weight!r}: give the weights as an array")
    raw = beside.put(finite(as_kind(raw, kind)))
    raw = raw if weight is None else weighted(raw, weight)
    return raw if prose is None or prose == Prose() else prose.apply(raw)


class Columns(NamedTuple):
    """Which columns of a table are x: those that are chosen, or all but those that are `taken` by what stands beside x;
    without those to `exclude`. `kinds` says of what kind they are where `chosen` does not."""

    chosen: Sequence[str] | str | None
    taken: tuple[str, ...]
    exclude: Sequence[str] | str | None
    kinds: dict[str, str]

    def of(self, table: tables.Table) -> Raw:
        chosen, said = asked(self.chosen, table.names)
        out = table.select(split(self.exclude)).names if self.exclude else ()
        left = table.without([*([] if chosen else self.taken), *out])
        left = left if chosen is None else left.select(chosen)
        return raw_of(left, {name: kind for name, kind in self.kinds.items() if name in left.names} | said)


def _x(source, table: tables.Table | None, key: str | None, columns: Columns) -> Raw:
    """x alone: the columns of a table, or all there is."""
    if isinstance(source, Raw):
        return source
    if table is not None:
        return columns.of(table)
    if columns.chosen is not None or columns.exclude is not None:
        raise DataError(
            f"{name_of(source)} names no columns to choose from: columns are for .csv, .tsv, .parquet, .xlsx and data "
            "frames"
        )
    return _read(source, key)


def _only_column(table: tables.Table, columns, taken: list[str]) -> str:
    """The column of texts. Raises `DataError` where there are several."""
    chosen = table.without(taken).names if columns is None else split(columns)
    if len(chosen) != 1:
        raise DataError(f"{table.source} has {', '.join(chosen)}: say which one holds the text with columns=")
    return chosen[0]


def _texts(source, table: tables.Table | None, column: str) -> Raw:
    """The texts in a column, or under a key. Raises `DataError` for a source that has neither."""
    if table is not None:
        return texts(table, column)
    path = path_of(source)
    if path is None or path.suffix.lower() != ".jsonl":
        raise DataError(
            f"{name_of(source)} has no columns: text_column is for .csv, .tsv, .parquet, .xlsx, pandas and .jsonl"
        )
    return sequences.read_jsonl(existing(path), column)


def _steps(source, table, group, time, columns: Columns, weight, context, labels) -> Raw:
    """A table whose rows are steps. Raises `DataError` for one that has no named columns, and for what stands beside
    x: a series has no cell of its own where that could be."""
    if table is None or not table.names:
        raise DataError(
            f"{name_of(source)} has no named columns: group and time are for .csv, .tsv, .parquet, .xlsx, pandas"
        )
    if any(part is not None for part in (weight, context, labels)):
        raise OptionError("rows that are steps of a series have neither weight, nor context, nor labels: leave it out")
    chosen, said = asked(columns.chosen, table.names)
    left = table.without(list(table.select(split(columns.exclude)).names)) if columns.exclude else table
    known = {name: kind for name, kind in columns.kinds.items() if name in (chosen or left.names)}
    return finite(series(left, group, time, chosen, known | said))


@dataclass(frozen=True)
class Beside:
    """What stands beside x: a context, labels, and the columns of the table that they are."""

    context: Raw | None = None
    labels: object = None
    columns: tuple[str, ...] = ()
    inside: bool = False
    """Whether the data are to bring their labels with them."""

    @classmethod
    def of(cls, source, table: tables.Table | None, context, labels) -> Beside:
        """Raises `DataError` for a column, a key or a file that is not there."""
        columns: list[str] = []
        if inside := isinstance(labels, str) and labels == FOLDERS:
            labels = None
        elif isinstance(labels, str):
            if table is not None:
                columns.append(labels)
                labels = table.labels(labels)
            elif _is_file(labels):
                labels = _labels(read(labels))
            elif (path := path_of(source)) is not None and path.suffix.lower() == ".jsonl":
                labels = sequences.jsonl_labels(existing(path), labels)
            else:
                labels = _labels(_read(source, labels))
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
        return cls(context, labels, tuple(columns), inside)

    def put(self, raw: Raw) -> Raw:
        """`raw` with its context and labels. Raises `DataError` where those are not one for each datum."""
        if self.context is not None and len(self.context) != len(raw):
            raise DataError(
                f"{self.context.source} has {len(self.context)} data for the {len(raw)} of {raw.source}: a context is "
                "one for each datum, in the same order"
            )
        if self.context is not None and self.context.kind == raw.kind == "text":
            _check_parallel(raw, self.context)
        raw = raw if self.context is None else replace(raw, context=self.context)
        if self.inside and raw.labels is None:
            raise raw.error(f"labels={FOLDERS!r} is for a folder of images with a folder in it for each class")
        return raw if self.labels is None else replace(raw, labels=checked_length(self.labels, raw, "labels"))


def _check_parallel(raw: Raw, source: Raw) -> None:
    """Raise `DataError` where two files of text have their blank lines, which are no data, at different places: from
    there on line i of the one would be taken for the translation of another line."""
    if raw.lines is None or source.lines is None:
        return
    apart = np.flatnonzero(np.asarray(raw.lines) != np.asarray(source.lines))
    if len(apart):
        line = min(int(raw.lines[apart[0]]), int(source.lines[apart[0]]))
        raise DataError(
            f"{raw.source} and {source.source} are parallel, and line {line} is blank in one of them only: "
            "leave the pair out of both"
        )


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


def plain_text(source) -> Raw | None:
    """What a file that is named as text, though its suffix is none of text's, holds: of `.tsv` pairs of texts, the
    source and then x; of a suffix that no reader knows (`.de`, `.en`), a sentence a line. None of all else."""
    path = path_of(source)
    if path is None or not path.is_file():
        return None
    suffix = path.suffix.lower()
    if suffix == ".tsv":
        return sequences.read_pairs(existing(path))
    known = suffix in (*TABLES, *ARRAYS, *LINES, *TREES, ".idx", ".gz") or arrays.is_idx(path)
    return None if known else sequences.read_text(existing(path))


def open_table(source) -> tables.Table | None:
    """The source's cells where it is a table with columns: pandas, .csv, .tsv, .parquet or .xlsx. Else None."""
    if isinstance(source, pd.DataFrame):
        return tables.from_frame(source, "the pandas table")
    path = path_of(source)
    if path is None and not isinstance(source, (str, np.ndarray, torch.Tensor, list, tuple)):
        return tables.from_any(source)
    reader = None if path is None else TABLES.get(tables.suffix(path))
    return None if path is None or reader is None else reader(existing(path))


def is_table(source) -> bool:
    """Whether the source is a table that may name its columns: a data frame, or a file of one."""
    path = path_of(source)
    return isinstance(source, pd.DataFrame) or (path is not None and tables.suffix(path) in TABLES)


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
        sounds = any(file.suffix.lower() == ".wav" for file in path.iterdir())
        return audio.read_sounds(path) if sounds else images.read_folder(path)
    suffix = tables.suffix(path)
    if suffix == ".jsonl":
        return sequences.read_jsonl(path, key)
    if suffix in TREES:
        return TREES[suffix](path)
    if suffix == ".txt" and treebanks.is_bracketed(path):
        return treebanks.read_brackets(path)
    if suffix in LINES and not arrays.is_idx(path):
        return LINES[suffix](path)
    if suffix in ARRAYS:
        return from_array(ARRAYS[suffix](path, key), path.name)
    if suffix == ".idx" or path.name.lower().endswith((".idx.gz", "-ubyte", "-ubyte.gz")) or arrays.is_idx(path):
        array = arrays.read_idx(path)
        return from_array(array, path.name, auto="image" if array.ndim == 3 else "auto")
    known = ", ".join([*TABLES, *ARRAYS, *LINES, *TREES, ".idx", ".idx.gz", "-ubyte", "-ubyte.gz"])
    raise DataError(
        f"{path.name}: files of this kind are not read; known are {known}, and folders of "
        f"{', '.join(images.SUFFIXES)}; text, a sentence a line, in a file of any name by kind='text' (--kind text)"
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
