"""Tables: CSV, TSV, Parquet and pandas, all through the same cells, so that all give the same numbers."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet

from latentia.data.files import read_text, readable
from latentia.data.limits import judge
from latentia.data.raw import BEYOND, EXACT, Raw, is_writable
from latentia.errors import DataError

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "#n/a", "#na", "<na>", "-nan", "?", ".", "-"})
TOLD = frozenset({"?", ".", "-"})
"""Words for missing that could be something else, so that a table is told to have them."""
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
WHOLE = re.compile(r"[+-]?[0-9]+")
# 1,234 is one number with a comma between thousands, and another with a decimal comma
EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
GROUPED = re.compile(r"[+-]?\d{1,3}([., '\u2019\u00a0\u202f]\d{3})+([.,]\d+)?")
POINT = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
BOOLEANS = {"true": 1.0, "false": 0.0}


def number(cell: object) -> float | None:
    """The cell as a float: NaN where it is missing, None where it is not a number."""
    if isinstance(cell, str):
        return _parse(cell.strip().lower())
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return float("nan")
    if isinstance(cell, (bool, int, float, Decimal, np.bool_, np.integer, np.floating)):
        return _float(cell)
    return None


def _float(cell: object) -> float | None:
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return float("inf")  # the reader refuses it by its place
    except ValueError:
        return None  # a decimal that signals


def _is_rounded(cell: object, value: float) -> bool:
    """Whether a cell is a whole number that is not its float, so that others may become the same."""
    if not EXACT <= abs(value) < float("inf"):
        return False
    if isinstance(cell, str):
        return WHOLE.fullmatch(cell.strip()) is not None and int(cell) != int(value)
    return not isinstance(cell, (float, np.floating)) and int(cell) != int(value)  # type: ignore[call-overload]


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
        twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if twice:
            raise DataError(f"{self.source} has two columns named {twice[0]!r}: rename one of them")
        _refuse_surrogates(self.names, self.source)
        if not self.columns or not len(self.columns[0]):
            raise DataError(f"{self.source} is empty: it has no rows of data")

    def select(self, names: Sequence[str]) -> Table:
        """These columns, in this order. Raises `DataError` for one that is not there."""
        position = {name: j for j, name in enumerate(self.names)}
        missing = [name for name in names if name not in position]
        if missing:
            has = ", ".join(self.names) or "no column names"
            raise DataError(f"{self.source} has no column {missing[0]!r}: it has {has}")
        columns = [self.columns[position[name]] for name in names]
        return replace(self, names=tuple(names), columns=columns)

    def without(self, names: Sequence[str]) -> Table:
        """The columns whose names are not among `names`."""
        out = set(names)
        return self.select([name for name in self.names if name not in out]) if names else self

    def labels(self, name: str) -> np.ndarray:
        """One column, (N,), of numbers where all its cells are, else of strings."""
        cells = self.select([name]).columns[0]
        numbers = [number(cell) for cell in cells]
        if any(value is None or _is_rounded(cell, value) for cell, value in zip(cells, numbers, strict=True)):
            return np.array([str(cell) for cell in cells])
        return np.array(numbers, dtype=np.float64)

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
        words = sorted({cell.strip() for cell in cells if isinstance(cell, str)} & TOLD)
        if words:
            where = repr(self.names[j]) if self.names else j + 1
            warnings.warn(
                f"{self.source}, column {where}: {' and '.join(map(repr, words))} is read as missing", stacklevel=4
            )
        array = np.array(numbers, dtype=np.float64)
        if len(array) and np.nanmax(np.abs(array), initial=0) >= EXACT:
            rounded = [i for i, cell in enumerate(cells) if _is_rounded(cell, array[i])]
            if rounded:
                raise DataError(f"{self._place(j, rounded[0])}: {cells[rounded[0]]} has {BEYOND}")
        return array

    def _place(self, j: int, i: int) -> str:
        place = f"row {i + 1}" if self.lines is None else f"line {self.lines[i]}"
        return f"{self.source}, {place}, column {repr(self.names[j]) if self.names else j + 1}"

    def _holds_text(self, j: int, i: int) -> DataError:
        cell = self.columns[j][i]
        holds = "text" if isinstance(cell, str) else f"a {type(cell).__name__}"
        shown = cell if not isinstance(cell, str) or len(cell) <= 80 else f"{cell[:80]}..."
        return DataError(f"{self._place(j, i)} holds {holds}, {shown!r}, not a number: {self._advice(cell)}")

    def _advice(self, cell: object) -> str:
        text = cell.strip() if isinstance(cell, str) else ""
        if EITHER.fullmatch(text):
            whole, decimal = text.replace(",", ""), text.replace(",", ".")
            return (
                f"it is {whole} if the comma separates thousands, and {decimal} if it is a decimal comma: write it as "
                f"the one that is meant, and all of the table alike{self._pointed()}"
            )
        if DECIMAL_COMMA.fullmatch(text):
            return f"write decimals with a point{self._pointed()}"
        if GROUPED.fullmatch(text):
            return f"write numbers without separators between thousands, and decimals with a point{self._pointed()}"
        numeric = [name for name, cells in zip(self.names, self.columns, strict=False) if _is_numeric(cells)]
        if not numeric:
            return "every column must be numeric"
        return f"use the numeric columns with --columns {','.join(numeric)}"

    def _pointed(self) -> str:
        """A warning of numbers that would be read as they stand, and wrongly where points separate thousands."""
        for j, cells in enumerate(self.columns):
            found = next((i for i, cell in enumerate(cells) if _is_pointed(cell)), None)
            if found is not None:
                return (
                    f"; {cells[found].strip()!r} in column {repr(self.names[j]) if self.names else j + 1} is read as "
                    "a decimal: take out points between thousands"
                )
        return ""


def _is_pointed(cell: object) -> bool:
    return isinstance(cell, str) and POINT.fullmatch(cell.strip()) is not None


def _refuse_surrogates(names: Sequence[str], source: str) -> None:
    bad = next((name for name in names if not is_writable(name)), None)
    if bad is not None:
        raise DataError(f"{source} has a column named {bad!r}, which is no text that could be written: rename it")


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
    columns = [list(cells) for cells in zip(*records[1:], strict=True)]
    columns = _with_points(path, columns)
    if _is_row(records[0], columns):
        # taken for names, a row of data would be lost without a word
        only = (
            "only numbers" if all(number(cell) is not None for cell in records[0]) else "numbers, as in the rows below,"
        )
        raise DataError(
            f"{path.name}, line {lines[0]}: {only} where the names of the columns belong: if it is a row of data, add "
            "a line of names above it; if these are the names, begin each with a letter"
        )
    names = tuple(name.strip() or f"column {j + 1}" for j, name in enumerate(records[0]))
    table = Table(names, columns, path.name, np.array(lines[1:]))
    return _without_index(table) if not records[0][0].strip() else table


def _with_points(path: Path, columns: list[list]) -> list[list]:
    """The cells, in a file that commas do not separate with a point for each decimal comma.

    Only where a column is of such numbers alone, and one of them cannot be anything else (1,234 can).
    """
    found = []
    for cells in columns:
        texts = [cell.strip() for cell in cells if cell.strip().lower() not in MISSING]
        commas = [text for text in texts if "," in text]
        plain = all(DECIMAL_COMMA.fullmatch(text) or WHOLE.fullmatch(text) for text in texts)
        found.append(plain and any(not EITHER.fullmatch(text) for text in commas))
    # beside decimal commas a point may part thousands: 1.234 is then refused with what to do
    if not any(found) or any(_is_pointed(cell) for cells in columns for cell in cells):
        return columns
    warnings.warn(f"{path.name}: commas are read as decimal commas, such as 1,5 for 1.5", stacklevel=3)
    return [
        [cell.replace(",", ".") for cell in cells] if any(map(_has_comma, cells)) and _is_decimal(cells) else cells
        for cells in columns
    ]


def _has_comma(cell: str) -> bool:
    return "," in cell


def _is_decimal(cells: list[str]) -> bool:
    texts = (cell.strip() for cell in cells)
    return all(text.lower() in MISSING or DECIMAL_COMMA.fullmatch(text) or WHOLE.fullmatch(text) for text in texts)


def _without_index(table: Table) -> Table:
    """The table without a first column that has no name and counts the rows: an index that was written with it."""
    if len(table.columns) < 2:
        return table
    values = [number(cell) for cell in table.columns[0]]
    if values not in ([float(i) for i in range(len(values))], [float(i + 1) for i in range(len(values))]):
        return table
    warnings.warn(f"{table.source}: the first column has no name and counts the rows: it is left out", stacklevel=3)
    return replace(table, names=table.names[1:], columns=table.columns[1:])


def _is_row(record: Sequence[str], columns: Sequence[list]) -> bool:
    """Whether the first line looks like a row: only numbers, or numbers where the rows below have numbers, and text
    where they have text."""
    values = [number(cell) for cell in record]
    if None not in values:
        return True
    if all(value is None or value != value for value in values):
        return False  # not one number
    pairs = zip(values, columns, strict=False)
    return all((value is not None) == _is_numeric(cells) for value, cells in pairs if value == value)


def _records(path: Path) -> tuple[list[int], list[list[str]]]:
    """The records of the file that are not blank, and the line on which each starts."""
    lines, records, start = [], [], 1
    text = read_text(path)
    # pandas fills short lines silently; the csv module in its strict mode hides nothing
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(path, text), strict=True)
    for record in _checked(reader, path):
        if record:
            lines.append(start)
            records.append(record)
        start = reader.line_num + 1
    return lines, records


def suffix(path: Path) -> str:
    """The suffix that says what is in a file, gzipped or not: .csv of table.csv.gz."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() if last == ".gz" else last


def separator_of(path: Path, text: str) -> str:
    """What stands between the fields of a text file."""
    if suffix(path) == ".tsv":
        return "\t"
    names = re.sub(r'"[^"]*"', "", next((line for line in io.StringIO(text) if line.strip()), ""))
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
    with readable(path, "Parquet"), pyarrow.parquet.ParquetFile(path) as file:
        judge(path.name, file.metadata.num_rows * file.metadata.num_columns, path.stat().st_size)
        frame = to_frame(pyarrow.parquet.read_table(path))
    return from_frame(frame, path.name)


def to_frame(table: pyarrow.Table, **options) -> pd.DataFrame:
    """The table for pandas; whole numbers with missing ones become float only where float64 holds them."""
    wide = [c for c in table.columns if pyarrow.types.is_integer(c.type) and c.type.bit_width == 64 and c.null_count]
    extremes = [value for column in wide for value in _extremes(column) if value is not None]
    large = any(abs(value) > EXACT for value in extremes)
    return table.to_pandas(integer_object_nulls=large, **options)


def _extremes(column: pyarrow.ChunkedArray) -> list:
    return list(pc.call_function("min_max", [column]).as_py().values())


def from_frame(frame: pd.DataFrame, source: str) -> Table:
    """A pandas table. Its index is no datum and is left out; columns numbered 0, 1, ... count as unnamed."""
    names = () if isinstance(frame.columns, pd.RangeIndex) else tuple(str(name) for name in frame.columns)
    return Table(names, [_cells(frame.iloc[:, j]) for j in range(frame.shape[1])], source)


def _cells(series: pd.Series) -> np.ndarray | list:
    if pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_complex_dtype(series):
        whole = pd.api.types.is_integer_dtype(series) and bool(series.notna().any())
        if whole and max(-int(series.min()), int(series.max())) > EXACT:
            return series.tolist()  # each cell is looked at
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return series.tolist()
