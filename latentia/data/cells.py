"""Columns of numbers and of categories side by side, as what stands beside x comes: a class, an age, a place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latentia.data.raw import Raw
from latentia.data.tables import MISSING, Table, number
from latentia.errors import DataError

MOST = 1000
"""Categories that a column may have: with more it is names or text, of which nothing can be learned."""


def cells_of(table: Table) -> Raw:
    """The table as text, (N, D), "" where a cell is missing: what is a number is told by `column`."""
    columns = [[_cell(cell) for cell in column] for column in table.columns]
    return Raw("table", np.array(columns, dtype=np.str_).T, table.names, table.source, lines=table.lines)


def _cell(cell: object) -> str:
    text = repr(float(cell)) if isinstance(cell, (float, np.floating)) else str(cell).strip()
    return "" if text.lower() in MISSING or text == "<NA>" else text


def is_cells(raw: Raw) -> bool:
    """Whether these are cells of text, of which each column is numbers or categories."""
    return isinstance(raw.values, np.ndarray) and raw.values.dtype.kind == "U"


def kinds(raw: Raw) -> tuple[tuple[tuple[str, ...], ...], tuple[float, ...], tuple[float, ...]]:
    """Of each column its categories, () where it is of numbers; and of the numbers shift and scale, 0 and 1 elsewhere.

    Raises:
        DataError: a column without an observed value, or one of text that hardly repeats itself.
    """
    categories, shift, scale = [], [], []
    for j, column in enumerate(np.asarray(raw.values).T):
        found = column[column != ""]
        if not len(found):
            raise DataError(f"{raw.source}, {raw.column(j)}: no value is observed: leave the column out")
        values = [number(cell) for cell in found]
        if None in values:
            categories.append(tuple(np.unique(found).tolist()))
            shift, scale = [*shift, 0.0], [*scale, 1.0]
            if len(categories[-1]) > MOST:
                raise DataError(
                    f"{raw.source}, {raw.column(j)}: {len(categories[-1]):,} different words, which is more than "
                    f"{MOST:,} categories: leave the column out"
                )
            continue
        numbers = np.array(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise DataError(f"{raw.source}, {raw.column(j)}: a number is infinite: correct it, or leave the cell empty")
        spread = float(numbers.std())
        categories.append(())
        shift, scale = [*shift, float(numbers.mean())], [*scale, spread if spread > 0 else 1.0]
    return tuple(categories), tuple(shift), tuple(scale)


def numbered(raw: Raw, categories: tuple[tuple[str, ...], ...]) -> Raw:
    """The cells as numbers, a category as its position, NaN where one is missing.

    Raises:
        DataError: a cell that is no number where the run had numbers, or none of the categories that it had.
    """
    values = np.full(np.shape(raw.values), np.nan)
    for j, known in enumerate(categories):
        position = {name: k for k, name in enumerate(known)}
        for i, cell in enumerate(np.asarray(raw.values)[:, j]):
            if cell == "":
                continue
            value = position.get(cell) if known else number(cell)
            if value is None or not np.isfinite(value):
                what = f"none of {', '.join(known)[:200]}" if known else "not a finite number"
                raise raw.error(f"{str(cell)[:80]!r} is {what}", (i, j))
            values[i, j] = value
    return replace(raw, values=values)


def named(values: np.ndarray, categories: tuple[tuple[str, ...], ...]) -> np.ndarray:
    """The inverse of `numbered`, (N, D) of objects: names of categories, and numbers."""
    found = np.asarray(values, dtype=object).copy()
    for j, known in enumerate(categories):
        if known:
            found[:, j] = [known[round(value)] if value == value else np.nan for value in values[:, j]]
    return found


def given(text: str, names: tuple[str, ...], source: str = "--given") -> Raw:
    """One row from text such as "species=Adelie, mass=3700"; what is not named is missing.

    Raises:
        DataError: a name that is none of the columns, or one without a value.
    """
    row = dict.fromkeys(names, "")
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign or name.strip() not in row:
            raise DataError(
                f"{source} {part.strip()!r}: write COLUMN=VALUE, with commas between, of {', '.join(names)[:200]}"
            )
        row[name.strip()] = _cell(value)
    return Raw("table", np.array([list(row.values())], dtype=np.str_), names, source)


def classes_of(labels: np.ndarray) -> tuple[str, ...]:
    """The names of the classes, in order; NaN and "" are none."""
    names = [name for name in map(label, labels) if name]
    return tuple(sorted(set(names), key=lambda name: (number(name) is None, number(name) or 0.0, name)))


def label(value: object) -> str:
    """A label as the name of its class: 3.0 is 3, and "" a label that is not known."""
    if isinstance(value, (float, np.floating)):
        return "" if value != value else f"{value:g}"
    return _cell(value)


def one_hot(labels: np.ndarray, classes: tuple[str, ...], source: str) -> np.ndarray:
    """(N, K) with a 1 for the class of each, and zeros where it is not known. Raises `DataError` for another class."""
    position = {name: k for k, name in enumerate(classes)}
    rows = np.zeros((len(labels), len(classes)))
    for i, value in enumerate(labels):
        name = label(value)
        if name and name not in position:
            raise DataError(f"{source}, label {i + 1}: {name!r} is none of the classes {', '.join(classes)[:200]}")
        if name:
            rows[i, position[name]] = 1.0
    return rows
