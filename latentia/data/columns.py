"""Tables whose columns are each of their own kind: a number, a category, yes or no, a count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from latentia.data.raw import Raw, Told
from latentia.data.tables import BOOLEANS, Table, name_of, number
from latentia.errors import DataError, OptionError

KINDS = ("real", "category", "binary", "count")
MOST = 1000
"""Categories that a column may have: with more it is names or text, of which nothing can be learned."""
FEW = 20
"""So many different words are categories even where hardly one occurs twice."""
OVERDISPERSED = 10.0
"""Whole numbers whose variance is more than so many times their mean are no counts: an amount, a number that names."""
YES_OR_NO = (("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"), ("off", "on"))


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: "x1", "x2", ... where the table has none.
        kind: one of `KINDS`.
        names: the categories, in the order of their numbers; of yes or no those two, () where they are 1 and 0.
        shift, scale: of a real column, x = (value - shift) / scale.
    """

    name: str
    kind: str
    names: tuple[str, ...]
    shift: float
    scale: float

    def __str__(self) -> str:
        words = "yes/no" if self.kind == "binary" else self.kind
        shown = ", ".join(self.names[:6]) + (f", ... {len(self.names)} in all" if len(self.names) > 6 else "")
        return f"{self.name} ({words}: {shown})" if self.names else f"{self.name} ({words})"


def asked(columns: Sequence[str] | str | None, names: Sequence[str]) -> tuple[list[str] | None, dict[str, str]]:
    """Which columns are chosen, None for all, and the kinds of those of which it is said.

    "a,b" are these two, "a:real,b" these two with a word on the first; where every name has a kind, as in
    "a:real,b:category", the others are there too.
    """
    if columns is None:
        return None, {}
    parts = [part.strip() for part in columns.split(",")] if isinstance(columns, str) else list(columns)
    chosen, kinds, plain = [], {}, False
    for part in parts:
        name, mark, kind = part.rpartition(":")
        if mark and part not in names and (kind.strip() in KINDS or name.strip() in names):
            if kind.strip() not in KINDS:
                raise OptionError(f"--columns {part!r}: {kind.strip()!r} is none of {', '.join(KINDS)}")
            part, kinds[name.strip()] = name.strip(), kind.strip()
        else:
            plain = True
        chosen.append(part)
    return (chosen if plain else None), kinds


def raw_of(table: Table, kinds: dict[str, str]) -> Raw:
    """The table as numbers, a category as its position, with what its types and `kinds` say of each column.

    Columns of numbers alone, of which nothing is said, are what they always are.

    Raises:
        DataError: a column that is not there, that cannot be of the kind asked for, or of text that is no category.
    """
    if kinds:
        table.select(list(kinds))
    asked_of = [kinds.get(name, "") for name in table.names] or [""] * len(table.columns)
    found = [_column(table, j, kind) for j, kind in enumerate(asked_of)]
    mixed = any(told.kind == "category" for _, told, _ in found) or any(text for _, _, text in found) or bool(kinds)
    values = np.stack([cells for cells, _, _ in found], axis=1)
    told = tuple(told for _, told, _ in found)
    if not mixed and not any(told):
        told = ()
    return Raw("table", values, table.names, table.source, lines=table.lines, told=told, mixed=mixed)


def _column(table: Table, j: int, asked: str) -> tuple[np.ndarray, Told, bool]:
    """The cells of a column as numbers, what is told of it, and whether they are words."""
    cells, told = table.columns[j], table.told[j] if table.told else Told()
    kind, words = asked or told.kind, table.has_words(j)
    if kind in ("real", "count") or (not words and not kind):
        numbers = table.numbers(j)
        return numbers, Told(kind) if kind else _booleans(cells), False
    if not kind:
        table.check_words(j)
    names = _names(cells, told)
    known = told.names or _order(names)
    if kind == "binary" and set(known) <= {"0", "1"}:
        return table.numbers(j), Told(kind), False
    pair = None if kind == "category" else _yes_or_no(known) or (known if kind == "binary" else None)
    if pair is not None and len(pair) != 2:
        raise DataError(f"{table.source}, {table.column(j)}: yes or no has two values, and this has {len(known)}")
    found = Told("category", tuple(known)) if pair is None else Told("binary", tuple(pair))
    return positions(names, found.names), found, words


def _names(cells: np.ndarray | list, told: Told) -> list[str]:
    """The cells as names of categories, "" where one is missing."""
    if isinstance(cells, np.ndarray) and told.names:
        return ["" if cell != cell else told.names[int(cell)] for cell in cells]
    return [name_of(cell) for cell in cells]


def _booleans(cells: np.ndarray | list) -> Told:
    """Yes or no as the cells spell it, where they are all True or False: these are the numbers 1 and 0 as well."""
    if isinstance(cells, np.ndarray):
        return Told()
    names = _order([name_of(cell) for cell in cells])
    pair = _yes_or_no(names)
    return Told("binary", pair) if pair and set(map(str.lower, pair)) == set(BOOLEANS) else Told()


def _order(names: Sequence[str]) -> tuple[str, ...]:
    """The different names: numbers by their size, then words by the alphabet."""
    found = {name for name in names if name}
    return tuple(sorted(found, key=lambda name: (number(name) is None, number(name) or 0.0, name)))


def _yes_or_no(names: Sequence[str]) -> tuple[str, ...] | None:
    """The two as no and yes, where they say that."""
    by_word = {name.lower(): name for name in names}
    pair = next((pair for pair in YES_OR_NO if set(pair) == set(by_word)), None)
    return None if pair is None or len(names) != 2 else tuple(by_word[word] for word in pair)


def positions(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """The position of each name among those that are known, NaN where it is "" or unknown."""
    place = {name: float(k) for k, name in enumerate(known)}
    return np.array([place.get(name, np.nan) for name in names])


def settled(raw: Raw) -> Raw:
    """The same table with the kind of every column told, from its values where nothing else says it.

    Two different whole numbers are yes or no if they are 0 and 1, and else categories; whole numbers from 0 or 1 with a
    variance that a count may have are counts; all else is real.
    """
    values = rows(raw).astype(np.float64)
    told = list(raw.told or [Told()] * values.shape[1])
    for j, one in enumerate(told):
        if one.kind and (one.names or one.kind != "category"):
            continue
        column = values[:, j]
        kind = one.kind or _tell(column[~np.isnan(column)])
        names: tuple[str, ...] = ()
        if kind == "category":
            labels = [name_of(value) for value in column]
            names = _order(labels)
            values[:, j] = positions(labels, names)
        told[j] = Told(kind, names)
    return replace(raw, values=_apart(raw, values), told=tuple(told), mixed=True)


def rows(raw: Raw) -> np.ndarray:
    """The rows of a table, or the steps of all sequences, (M, D)."""
    values = raw.values if isinstance(raw.values, list) else [np.asarray(raw.values)]
    if not len(values):
        return np.zeros((0, max(len(raw.told), len(raw.names))))  # an empty part of a split
    return np.concatenate([np.reshape(value, (-1, np.shape(value)[-1])) for value in values])


def _apart(raw: Raw, values: np.ndarray) -> np.ndarray | list:
    """The inverse of `rows`."""
    if not isinstance(raw.values, list):
        return values.reshape(np.shape(raw.values))
    return np.split(values, np.cumsum([len(value) for value in raw.values])[:-1]) if raw.values else []


def index_of(raw: Raw, i: int, j: int) -> tuple[int, ...]:
    """Where cell j of row i of `rows` is."""
    if not isinstance(raw.values, list):
        return (*map(int, np.unravel_index(i, np.shape(raw.values)[:-1])), j)
    ends = np.cumsum([len(value) for value in raw.values])
    which = int(np.searchsorted(ends, i, side="right"))
    return which, i - int(ends[which] - len(raw.values[which])), j


def _tell(values: np.ndarray) -> str:
    """The kind of a column of numbers, all of them observed."""
    if not len(values) or not np.array_equal(values, np.round(values)):
        return "real"
    different = np.unique(values)
    if set(different) <= {0.0, 1.0}:
        return "binary"
    if len(different) == 2:
        return "category"
    small = different[0] in (0.0, 1.0) and values.var() <= OVERDISPERSED * max(values.mean(), 1.0)
    return "count" if small else "real"


def judge(raw: Raw, kinds: Sequence[str], names: Sequence[tuple[str, ...]]) -> None:
    """Raise `DataError` for categories that hardly repeat themselves: nothing can be learned of names and texts."""
    values = rows(raw)
    for j, known in enumerate(names):
        observed = int(np.count_nonzero(~np.isnan(values[:, j])))
        if kinds[j] == "category" and (len(known) > MOST or (len(known) > FEW and 2 * len(known) > observed)):
            raise DataError(
                f"{raw.source}, {raw.column(j)}: {len(known):,} different words in {observed:,} cells, too many to be "
                f"categories: leave the column out{f' by --exclude {raw.names[j]}' if raw.names else ''}"
            )


def coded(raw: Raw, columns: Sequence[Column]) -> Raw:
    """The same rows with the numbers that these columns give to their categories.

    Raises:
        DataError: a cell that its column cannot have, with its place.
    """
    values = rows(raw).astype(np.float64)
    for j, column in enumerate(columns):
        own, given = raw.told[j] if raw.told else Told(), values[:, j].copy()
        if column.kind in ("category", "binary") and (column.names or own.names) and own.names != column.names:
            values[:, j] = _renamed(raw, j, given, own, column)
        elif column.kind in ("real", "count") and own.kind == "category":
            _refuse(raw, j, ~np.isnan(given), own, "no number, and the column of the run had numbers")
        if column.kind in ("count", "binary"):
            _check_numbers(raw, j, values[:, j], column)
    told = tuple(Told(column.kind, column.names) for column in columns)
    return replace(raw, values=_apart(raw, values), told=told)


def _renamed(raw: Raw, j: int, given: np.ndarray, told: Told, column: Column) -> np.ndarray:
    """The positions that the column's own names have."""
    seen = ~np.isnan(given)
    labels, where = np.unique(given[seen], return_inverse=True)
    names = [told.names[int(value)] if told.names else name_of(value) for value in labels]
    known = column.names or ("0", "1")
    found = positions(names, known)
    bad = np.zeros(len(given), dtype=bool)
    bad[seen] = np.isnan(found)[where]
    if bad.any():
        what = f"none of {', '.join(known)[:200]}, which are what the run has learned of"
        _refuse(raw, j, bad, told, what)
    given[seen] = found[where]
    return given


def _refuse(raw: Raw, j: int, bad: np.ndarray, told: Told, what: str) -> None:
    if bad.any():
        i = int(bad.argmax())
        value = float(rows(raw)[i, j])
        shown = told.names[int(value)] if told.names else name_of(value)
        raise raw.error(f"{shown[:80]!r} is {what}", index_of(raw, i, j))


def _check_numbers(raw: Raw, j: int, values: np.ndarray, column: Column) -> None:
    top = 1 if column.kind == "binary" else np.inf
    bad = (values < 0) | (values > top) | (values % 1 > 0)
    _refuse(raw, j, bad, Told(), "no count (0, 1, 2, ...)" if column.kind == "count" else "neither 0 nor 1")


def named(values: np.ndarray, columns: Sequence[Column]) -> np.ndarray:
    """The inverse of `coded` for values (..., D) in their own units: an array of objects, names and numbers."""
    found = np.asarray(values, dtype=object).copy()
    for j, column in enumerate(columns):
        if column.names:
            cells = [column.names[round(value)] if value == value else np.nan for value in values[..., j].flat]
            found[..., j] = np.array(cells, dtype=object).reshape(values.shape[:-1])
    return found
