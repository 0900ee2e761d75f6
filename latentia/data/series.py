"""Time series in a table: a step a row, and columns that say which series it belongs to, and when it was."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd

from latentia.data.columns import raw_of
from latentia.data.raw import Raw
from latentia.data.tables import MISSING, Table, number
from latentia.errors import DataError


def series(
    table: Table,
    group: str | None,
    time: str | None,
    columns: list[str] | None = None,
    kinds: dict[str, str] | None = None,
) -> Raw:
    """The rows of a table as sequences of vectors, one for each value of `group`, in the order of `time`.

    Args:
        group: the column that names the series; None: all rows are one.
        time: the column of numbers or dates to sort by; None: as the rows stand.
        columns: those of x; None: all others. One of text makes sequences of its words.
        kinds: of what kind columns are, by name, where that is said.

    Raises:
        DataError: a column that is not there, a cell of `group` or `time` that is empty, a time that is neither a
            number nor a date, and two rows of one series at the same time.
    """
    taken = [name for name in (group, time) if name is not None]
    chosen = table.select(columns) if columns else table.without(taken)
    first = _members(table, group)
    order = [rows if time is None else rows[_sorted(table, time, rows)] for rows in first]
    lines = None if table.lines is None else table.lines[[rows.min() for rows in first]]
    cells = chosen.columns[0] if chosen.columns else []
    if len(chosen.columns) == 1 and not kinds and any(isinstance(cell, str) and number(cell) is None for cell in cells):
        words = [
            [_word(cell, table, i) for i, cell in zip(rows, (cells[i] for i in rows), strict=True)] for rows in order
        ]
        return Raw("text", words, source=table.source, lines=lines)
    raw = raw_of(chosen, kinds or {})
    values, told = np.asarray(raw.values), {"told": raw.told, "mixed": raw.mixed}
    return Raw("sequence", [values[rows] for rows in order], chosen.names, table.source, lines=lines, **told)


def _members(table: Table, group: str | None) -> list[np.ndarray]:
    """The rows of each series, in the order in which the series begin."""
    if group is None:
        return [np.arange(len(table.columns[0]))]
    found: dict[str, list[int]] = {}
    for i, cell in enumerate(table.select([group]).columns[0]):
        found.setdefault(_word(cell, table, i, group), []).append(i)
    return [np.array(rows) for rows in found.values()]


def _word(cell: object, table: Table, row: int, column: str | None = None) -> str:
    text = str(cell).strip()
    if text.lower() in MISSING or cell is None:
        which = f", column {column!r}" if column else ""
        raise DataError(
            f"{table.source}, {_place(table, row)}{which} is empty: every step needs one; leave the row out"
        )
    return text


def _place(table: Table, row: Any) -> str:
    return f"row {row + 1}" if table.lines is None else f"line {table.lines[row]}"


def _sorted(table: Table, time: str, rows: np.ndarray) -> np.ndarray:
    cells = table.select([time]).columns[0]
    moments = np.array([_moment(cells[i], table, time, i) for i in rows])
    order = np.argsort(moments, kind="stable")
    twice = np.flatnonzero(np.diff(moments[order]) == 0)
    if len(twice):
        one, other = rows[order[twice[0]]], rows[order[twice[0] + 1]]
        raise DataError(
            f"{table.source}, {_place(table, one)} and {_place(table, other)} are at the same {time!r} of one series: "
            "name the column that parts the series with group= (--group), or correct them"
        )
    return order


def _moment(cell: object, table: Table, time: str, row: int) -> float:
    """A number as it is, a date as seconds."""
    value = number(cell)
    if value is None:
        try:
            value = cast(pd.Timestamp, pd.Timestamp(str(cell))).timestamp()
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{table.source}, {_place(table, row)}, column {time!r} holds {str(cell)[:80]!r}, which is neither a "
                "number nor a date such as 2026-11-29 12:30"
            ) from error
    if not np.isfinite(value):
        raise DataError(f"{table.source}, {_place(table, row)}, column {time!r} is empty: leave the row out")
    return value
