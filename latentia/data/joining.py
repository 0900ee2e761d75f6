"""Results beside what they are results of: the rows as they stand in the source, cell for cell, and new columns behind.

What is written has the form of what was read: a .csv with its own separator, .tsv, .parquet, .jsonl. Rows of arrays and
of built-in data, which name nothing, have their numbers alone.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from latentia.data import images, sequences, tables
from latentia.data.builtin import BUILTIN
from latentia.data.dataset import Dataset
from latentia.data.files import atomic_write, read_text
from latentia.data.readers import path_of
from latentia.errors import DataError, OptionError

Column = Sequence[Any]
FORMS = (".csv", ".tsv", ".parquet", ".jsonl")
DECIMALS = re.compile(r"[+-]?\d*(?:([.,])(\d*))?")
MANY = 6
"""Decimals from which on they are not the column's own, but those of some arithmetic."""


@dataclass(frozen=True)
class Origin:
    """What each of N data was in its source.

    Attributes:
        numbers: the row of each, from 1. Blank lines count, so that they are those of the file.
        columns: the cells of each, by the names of all columns of the source, those that no model has seen among them;
            the name of a folder's files, the line of a text. Empty where the source has no such thing.
        all: whether these are all rows of the source, in its order.
        suffix: of the source's form, .csv where it has none of `FORMS`.
        separator: of a .csv.
    """

    numbers: list[int]
    columns: Mapping[str, Column]
    all: bool = False
    suffix: str = ".csv"
    separator: str = ","


def origin(source: Any, data: Dataset) -> Origin:
    """What `data`, which were read from `source`, were there."""
    rows = list(range(1, len(data) + 1)) if data.rows is None else data.rows.tolist()
    found = _whole(source)
    if found is None or not rows or max(rows) > len(found.numbers):
        return Origin(rows, {})
    some = {name: [cells[row - 1] for row in rows] for name, cells in found.columns.items()}
    numbers = [found.numbers[row - 1] for row in rows]
    return replace(found, numbers=numbers, columns=some, all=rows == list(range(1, len(found.numbers) + 1)))


def _whole(source: Any) -> Origin | None:
    """All rows of the source; None where it has nothing to tell but numbers, or is not there."""
    if isinstance(source, pd.DataFrame):
        return _of_frame(source)
    path = path_of(source)
    if path is None or str(source) in BUILTIN or not path.exists():
        return None
    if path.is_dir():
        names = [file.name for file in images.listed(path)]
        return Origin(list(range(1, len(names) + 1)), {"file": names})
    read = {".csv": _of_csv, ".tsv": _of_csv, ".parquet": _of_parquet, ".txt": _of_text, ".jsonl": _of_jsonl}
    reader = read.get(path.suffix.lower())
    return None if reader is None else reader(path)


def _of_frame(frame: pd.DataFrame) -> Origin:
    columns = {str(name): frame.iloc[:, j].tolist() for j, name in enumerate(frame.columns)}
    return Origin(list(range(1, len(frame) + 1)), columns)


def _of_csv(path: Path) -> Origin:
    table = tables.read_csv(path)
    numbers, blank = [], 0
    assert table.lines is not None  # a text file has lines
    lines = table.lines.tolist()
    for i, cells in enumerate(zip(*table.columns, strict=True)):
        numbers.append(i + 1 + blank)
        ended = lines[i] + 1 + sum(str(cell).count("\n") for cell in cells)
        blank += lines[i + 1] - ended if i + 1 < len(lines) else 0
    suffix = path.suffix.lower()
    columns: dict[str, Column] = {name: list(cells) for name, cells in zip(table.names, table.columns, strict=True)}
    return Origin(numbers, columns, suffix=suffix, separator=tables.separator_of(path, read_text(path)))


def _of_parquet(path: Path) -> Origin:
    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Origin(list(range(1, table.num_rows + 1)), columns, suffix=".parquet")


def _of_text(path: Path) -> Origin:
    lines = sequences.lines_of(path)
    return Origin([number for number, _ in lines], {"text": [text.strip() for _, text in lines]})


def _of_jsonl(path: Path) -> Origin:
    lines = [(number, json.loads(text)) for number, text in sequences.lines_of(path)]
    items = [item if isinstance(item, dict) else {"text" if isinstance(item, str) else "x": item} for _, item in lines]
    names = dict.fromkeys(name for item in items for name in item)
    columns = {name: [item.get(name) for item in items] for name in names}
    return Origin([number for number, _ in lines], columns, suffix=".jsonl")


# ------------------------------------------------------------------------------------------------ writing


def beside(of: Origin, results: Mapping[str, Column], numbered: bool = True) -> dict[str, Column]:
    """The columns of the source, and the results behind them; a result whose name is taken is called name_2."""
    found: dict[str, Column] = {}
    for name, cells in [*([("row", of.numbers)] if numbered else []), *of.columns.items(), *results.items()]:
        free = name
        while free in found:
            free += "_2"
        found[free] = cells
    return found


def write_columns(columns: Mapping[str, Column], path: str | os.PathLike, separator: str = ",") -> None:
    """Write named columns as .csv, .tsv, .parquet or .jsonl; None is a missing value.

    Raises:
        OptionError: another suffix.
        DataError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMS:
        raise OptionError(f"{path}: this is written as {', '.join(FORMS)}")
    if suffix == ".parquet":
        content = _parquet(columns, path)
    elif suffix == ".jsonl":
        rows = zip(*columns.values(), strict=True)
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=str) for row in rows)
        content = "".join(f"{line}\n" for line in lines).encode()
    else:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", delimiter="\t" if suffix == ".tsv" else separator)
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
        content = text.getvalue().encode()
    atomic_write(path, content)


def _parquet(columns: Mapping[str, Column], path: Path) -> bytes:
    sink = io.BytesIO()
    try:
        table = pyarrow.table({name: pyarrow.array(list(cells)) for name, cells in columns.items()})
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise DataError(
            f"{path}: a column of several types cannot be written as Parquet ({error}): use .csv"
        ) from error
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


# ------------------------------------------------------------------------------------------------ filling in


def filled(of: Origin, names: Sequence[str], values: np.ndarray, hidden: np.ndarray) -> dict[str, Column]:
    """The columns of the source with what was missing filled in, to as many decimals as the column has; every other
    cell is as it was.

    Args:
        names: of the D columns of x; values: (N, D), in the units of the data; hidden: (N, D), True = fill in.
    """
    columns = dict(of.columns)
    for j, name in enumerate(names):
        cells = list(columns[name])
        write = _writer(cells)
        for i in np.flatnonzero(hidden[:, j]):
            cells[i] = write(values[i, j])
        columns[name] = cells
    return columns


def _writer(cells: Sequence[Any]) -> Any:
    """How a number is written among these cells."""
    texts = [cell.strip() for cell in cells if isinstance(cell, str)]
    known = [text for text in texts if text.lower() not in tables.MISSING and _is_number(text)]
    if any(isinstance(cell, str) for cell in cells):
        return _as_text(known)
    numbers = [cell for cell in cells if isinstance(cell, int | float) and cell == cell]
    if numbers and all(isinstance(cell, bool) for cell in numbers):
        return lambda value: bool(value >= 0.5)
    if numbers and all(isinstance(cell, int) for cell in numbers):
        return lambda value: round(float(value))
    decimals = max((_decimals(repr(float(cell))) for cell in numbers), default=MANY)
    return lambda value: round(float(value), decimals)


def _is_number(text: str) -> bool:
    return tables.number(text) is not None or tables.DECIMAL_COMMA.fullmatch(text) is not None


def _as_text(known: list[str]) -> Any:
    """How a number is written in a text file among cells that are written so."""
    truths = {text for text in known if text.lower() in tables.BOOLEANS}
    if known and len(truths) == len(set(known)):
        spelt = {tables.BOOLEANS[text.lower()]: text for text in known}
        yes, no = spelt.get(1.0, "true"), spelt.get(0.0, "false")
        return lambda value: value if isinstance(value, str) else yes if value >= 0.5 else no
    decimals = max((_decimals(text) for text in known), default=MANY)
    comma = any("," in text for text in known)

    def write(value: Any) -> str:
        if isinstance(value, str):  # the name of a category
            return value
        text = f"{float(value):.{decimals}f}"
        text = text.removeprefix("-") if not text.strip("-0.") else text  # no minus before a nought
        return text.replace(".", ",") if comma else text

    return write


def _decimals(text: str) -> int:
    """How many decimals a number is written with; `MANY` where it has an exponent, or more."""
    found = DECIMALS.fullmatch(text.removesuffix(".0") if text.endswith(".0") and "." in text else text)
    return MANY if found is None else min(len(found[2] or ""), MANY)
