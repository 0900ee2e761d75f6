"""Tables: CSV, TSV, Parquet and pandas, all through the same cells, so that all give the same numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet

from latentia.data.files import readable
from latentia.data.raw import Raw
from latentia.errors import DataError

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
BOOLEANS = {"true": 1.0, "false": 0.0}


def number(cell: object) -> float | None:
    """The cell as a float: NaN where it is missing, None where it is not a number."""
    if isinstance(cell, str):
        return _parse(cell.strip().lower())
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return float("nan")
    if isinstance(cell, (bool, int, float, Decimal, np.bool_, np.integer, np.floating)):
        return float(cell)
    return None


def _parse(text: str) -> float | None:
    if text in MISSING:
        return float("nan")
    if text in BOOLEANS:
        return BOOLEANS[text]
    try:
        return None if "_" in text else float(text)  # Python's float reads 1_000; no spreadsheet means that
    except ValueError:
        return None


@dataclass(frozen=True)
class Table:
    """Named columns of cells that are not numbers yet.

    Attributes:
        names: () where the source names no columns.
        columns: D columns of N cells each: a numeric array, or a list of strings and other objects.
        source: the file's name, for messages.
        lines: (N,), the line of each row in a text file.
    """

    names: tuple[str, ...]
    columns: Sequence[np.ndarray | list]
    source: str
    lines: np.ndarray | None = None

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise DataError(f"{self.source} has two columns named {twice[0]!r}: rename one of them")
        if not self.columns or not len(self.columns[0]):
            raise DataError(f"{self.source} is empty: it has no rows of data")

    def select(self, names: Sequence[str]) -> Table:
        """These columns, in this order. Raises `DataError` for one that is not there."""
        missing = [name for name in names if name not in self.names]
        if missing:
            has = ", ".join(self.names) or "no column names"
            raise DataError(f"{self.source} has no column {missing[0]!r}: it has {has}")
        columns = [self.columns[self.names.index(name)] for name in names]
        return replace(self, names=tuple(names), columns=columns)

    def without(self, names: Sequence[str]) -> Table:
        """The columns whose names are not among `names`."""
        return self.select([name for name in self.names if name not in names]) if names else self

    def labels(self, name: str) -> np.ndarray:
        """One column, (N,), of numbers where all its cells are, else of strings."""
        cells = self.select([name]).columns[0]
        numbers = [number(cell) for cell in cells]
        return np.array([str(cell) for cell in cells]) if None in numbers else np.array(numbers, dtype=np.float64)

    def raw(self) -> Raw:
        """The table as float64 values (N, D). Raises `DataError` for a column that holds text."""
        columns = [self._numbers(j) for j in range(len(self.columns))]
        return Raw("table", np.stack(columns, axis=1), self.names, self.source, lines=self.lines)

    def _numbers(self, j: int) -> np.ndarray:
        cells = self.columns[j]
        if isinstance(cells, np.ndarray):
            return cells
        numbers = [number(cell) for cell in cells]
        if None in numbers:
            raise self._holds_text(j, numbers.index(None))
        return np.array(numbers, dtype=np.float64)

    def _holds_text(self, j: int, i: int) -> DataError:
        cell = self.columns[j][i]
        place = f"row {i + 1}" if self.lines is None else f"line {self.lines[i]}"
        holds = "text" if isinstance(cell, str) else f"a {type(cell).__name__}"
        column = repr(self.names[j]) if self.names else str(j + 1)
        return DataError(
            f"{self.source}, {place}, column {column} holds {holds}, {cell!r}, not a number: {self._advice(cell)}"
        )

    def _advice(self, cell: object) -> str:
        if isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell.strip()):
            return "write decimals with a point"
        numeric = [name for name, cells in zip(self.names, self.columns, strict=False) if _is_numeric(cells)]
        if not numeric:
            return "every column must be numeric"
        return f"use the numeric columns with --columns {','.join(numeric)}"


def _is_numeric(cells: np.ndarray | list) -> bool:
    return isinstance(cells, np.ndarray) or all(number(cell) is not None for cell in cells)


def read_csv(path: Path) -> Table:
    """A .csv or .tsv file in UTF-8, whose first line names the columns. A .csv whose first line has semicolons or tabs
    and no comma is separated by those."""
    lines, records = _records(path)
    if not records:
        raise DataError(f"{path.name} is empty: a table needs a line of column names and a line for each row")
    width = len(records[0])
    for line, record in zip(lines, records, strict=True):
        if len(record) != width:
            raise DataError(
                f"{path.name}, line {line}: {len(record)} fields where line {lines[0]} has {width}: "
                "the file is truncated, or a separator inside a field is not quoted"
            )
    if all(number(cell) is not None for cell in records[0]):
        # taken for names, a row of data would be lost without a word
        raise DataError(
            f"{path.name}, line {lines[0]}: only numbers where the names of the columns belong: add that line"
        )
    names = tuple(name.strip() or f"column {j + 1}" for j, name in enumerate(records[0]))
    columns = [list(cells) for cells in zip(*records[1:], strict=True)]
    return Table(names, columns, path.name, np.array(lines[1:]))


def _records(path: Path) -> tuple[list[int], list[list[str]]]:
    """The records of the file that are not blank, and the line on which each starts."""
    lines, records, start = [], [], 1
    with readable(path, "UTF-8 text"), path.open(newline="", encoding="utf-8-sig") as file:
        # pandas fills short lines silently; the csv module in its strict mode hides nothing
        reader = csv.reader(file, delimiter=_separator(path), strict=True)
        for record in _checked(reader, path):
            if record:
                lines.append(start)
                records.append(record)
            start = reader.line_num + 1
    return lines, records


def _separator(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig") as file:
        names = re.sub(r'"[^"]*"', "", next((line for line in file if line.strip()), ""))
    return "," if "," in names else next((mark for mark in ";\t" if mark in names), ",")


def _checked(reader, path: Path) -> Iterator[list[str]]:
    """The reader's records; its errors name the line where the faulty record starts."""
    start = 1
    try:
        for record in reader:
            yield record
            start = reader.line_num + 1
    except csv.Error as error:
        unclosed = "a quote is never closed, the file may be truncated"
        reason = unclosed if "unexpected end of data" in str(error) else str(error)
        raise DataError(f"{path.name}, line {start}: {reason}") from error


def read_parquet(path: Path) -> Table:
    """A .parquet file."""
    with readable(path, "Parquet"):
        frame = pyarrow.parquet.read_table(path).to_pandas()
    return from_frame(frame, path.name)


def from_frame(frame: pd.DataFrame, source: str) -> Table:
    """A pandas table. Its index is no datum and is left out; columns numbered 0, 1, ... count as unnamed."""
    names = () if isinstance(frame.columns, pd.RangeIndex) else tuple(str(name) for name in frame.columns)
    return Table(names, [_cells(frame.iloc[:, j]) for j in range(frame.shape[1])], source)


def _cells(series: pd.Series) -> np.ndarray | list:
    if pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_complex_dtype(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return series.tolist()
