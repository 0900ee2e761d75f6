"""Ragged sequences and text: Python lists, files of sentences, and JSON lines."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from latentia.data.files import decoded
from latentia.data.files import read_text as read_file
from latentia.data.raw import BEYOND, EXACT, Raw, first, is_writable
from latentia.errors import DataError

FIELDS = ("text", "tokens", "x")
SOURCE = "context"
"""The field of a JSON object that x is given, and a model conditions on."""
FORMS = 'a list of numbers, of lists of numbers or of strings, or an object with "text", "tokens" or "x"'

LARGEST = 2**63 - 1
RARE = 0.01
"""The share of values that are not whole up to which they may be slips among symbols."""


def read_text(path: Path) -> Raw:
    """A sentence a line, tokens separated by white space; blank lines are skipped."""
    lines = lines_of(path)
    return from_items([text for _, text in lines], path.name, np.array([line for line, _ in lines]))


def read_jsonl(path: Path, key: str | None = None) -> Raw:
    """A datum a line: a list, or an object with "text", "tokens" or "x", or with `key` where one is named."""
    lines = lines_of(path)
    numbers = np.array([line for line, _ in lines])
    parsed = [_json(text, f"{path.name}, line {line}") for line, text in lines]
    items = [_item(part, f"{path.name}, line {line}", key) for part, line in zip(parsed, numbers, strict=True)]
    raw = from_items(items, path.name, numbers)
    given = [part.get(SOURCE) if isinstance(part, dict) else None for part in parsed]
    if all(one is None for one in given):
        return raw
    for one, line in zip(given, numbers, strict=True):
        if not isinstance(one, (list, str)) or not one:
            raise DataError(
                f'{path.name}, line {line}: no "{SOURCE}", which other lines have: give it to all or to none'
            )
    return replace(raw, context=from_items(given, f"the context of {path.name}", numbers))


def jsonl_labels(path: Path, key: str) -> np.ndarray:
    """What each object of the file says under a key, (N,) strings: "" where it says nothing, null, or an empty text.

    Raises:
        DataError: no object has the key, or there is a list or an object under it.
    """
    parsed = [(_json(text, f"{path.name}, line {line}"), line) for line, text in lines_of(path)]
    if not any(isinstance(part, dict) and key in part for part, _ in parsed):
        raise DataError(f"{path.name}: no line has a field {key!r}, which is to hold the labels")
    found = []
    for part, line in parsed:
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(value, (list, dict)):
            raise DataError(f"{path.name}, line {line}: {key!r} is a label, a text or a number, and no list or object")
        found.append("" if value is None else f"{value:g}" if isinstance(value, float) else str(value))
    return np.array(found)


def read_pairs(path: Path) -> Raw:
    """Two texts a line with a tab between them: the source, which is the context, and x."""
    lines = lines_of(path)
    numbers = np.array([line for line, _ in lines])
    pairs = [text.split("\t") for _, text in lines]
    for pair, line in zip(pairs, numbers, strict=True):
        if len(pair) != 2 or not all(part.strip() for part in pair):
            raise DataError(
                f"{path.name}, line {line}: {len(pair)} texts between tabs, and a pair is two: source, text"
            )
    source, text = zip(*pairs, strict=True)
    context = from_items(source, f"the source of {path.name}", numbers)
    return replace(from_items(text, path.name, numbers), context=context)


def lines_of(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank. Split at newlines only: JSON may hold other separators."""
    return _not_blank(read_file(path), path.name)


def read_lines(data: bytes, source: str) -> list[tuple[int, str]]:
    """(number, text) of the lines of UTF-8 text that are not blank. Raises `DataError` for other bytes, or no line."""
    return _not_blank(decoded(data, source), source)


def _not_blank(text: str, source: str) -> list[tuple[int, str]]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{source} is empty: it needs a line for each datum")
    return lines


def _json(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not JSON ({error.msg}): the line is truncated, or the file is no JSON lines file"
        ) from error
    except (RecursionError, ValueError) as error:
        deep = isinstance(error, RecursionError)
        reason = "lists within lists without end" if deep else "a number of thousands of digits"
        raise DataError(f"{place}: {reason}: it is no datum; the line is damaged") from error


def _item(item: object, place: str, key: str | None = None) -> object:
    if isinstance(item, dict):
        if key is not None and key not in item:
            has = ", ".join(map(repr, item)) or "none at all"
            raise DataError(f"{place}: no field {key!r}; it has {has[:200]}")
        item = next((item[field] for field in ((key,) if key else FIELDS) if field in item), None)
    if not isinstance(item, (list, str)):
        raise DataError(f"{place}: a line must be {FORMS}")
    return item


def from_items(items: Sequence, source: str, lines: np.ndarray | None = None) -> Raw:
    """Ragged data: strings and lists of strings are text; lists of numbers, or of equally long lists, sequences.

    Raises:
        DataError: an item that is empty, no sequence of numbers, or unlike the first one.
    """
    places = [f"row {i + 1}" if lines is None else f"line {lines[i]}" for i in range(len(items))]
    if not places:
        raise DataError(f"{source} is empty: it holds no sequence")
    text = _is_text(items[0])
    values: list = []
    for item, place in zip(items, places, strict=True):
        if isinstance(item, (list, tuple, str)) and not item:
            raise DataError(f"{source}, {place}: an empty sequence: leave it out")
        if _is_text(item) != text:
            raise DataError(
                f"{source}, {place}: {'numbers' if text else 'text'} where {places[0]} holds "
                f"{'text' if text else 'numbers'}: give one or the other"
            )
        value = (
            _writable(_tokens(item, f"{source}, {place}"), f"{source}, {place}")
            if text
            else _steps(item, f"{source}, {place}")
        )
        if not len(value):
            raise DataError(f"{source}, {place}: an empty sequence: leave it out")
        values.append(value)
    if text:
        return Raw("text", values, source=source, lines=lines)
    raw = Raw("sequence", _alike(values, source, places), source=source, lines=lines)
    return _as_symbols(raw) if any(map(_has_whole, items)) else raw


def _has_whole(item: object) -> bool:
    """Whether one number a step is given, and at least one of them as a whole number."""
    if isinstance(item, (list, tuple)):
        return any(isinstance(value, (int, np.integer)) for value in item)
    kind = np.asarray(item.detach().cpu() if isinstance(item, torch.Tensor) else item).dtype.kind
    return kind in "biu" and np.ndim(item) == 1  # type: ignore[arg-type]


def _as_symbols(raw: Raw) -> Raw:
    """Whole numbers are symbols, though one of them be missing, or written as 2.0."""
    values = [np.asarray(value) for value in raw.values]
    if values[0].dtype.kind != "f" or values[0].ndim != 1:
        return raw
    broken = sum(int(np.count_nonzero(_is_broken(value))) for value in values)
    if broken:
        index = first(values, _is_broken)
        assert index is not None  # there are some
        if broken <= RARE * sum(map(len, values)):
            found = values[index[0]][index[1]]
            warnings.warn(
                f"{raw.source}, {raw.where(index)}: {found:g} among whole numbers: for it all count as real values and "
                "not as symbols; if they are symbols, correct it",
                stacklevel=2,
            )
        return raw
    missing = any(np.isnan(value).any() for value in values)
    return replace(raw, values=values if missing else [value.astype(np.int64) for value in values], whole=True)


def _is_broken(value: np.ndarray) -> np.ndarray:
    """Which values are observed, and no whole numbers of 64 bits."""
    return ~np.isnan(value) & ((value != np.round(value)) | (np.abs(value) >= 2.0**63))


def _is_text(item: object) -> bool:
    return isinstance(item, str) or (isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], str))


def _tokens(item: Sequence[str], place: str) -> list[str]:
    if isinstance(item, str):
        return item.split()
    if not all(isinstance(token, str) for token in item):
        raise DataError(f"{place}: strings mixed with other things: every token must be a string")
    return list(item)


def _writable(tokens: list[str], place: str) -> list[str]:
    bad = next((token for token in tokens if not is_writable(token)), None)
    if bad is not None:
        raise DataError(f"{place}: {bad!r} has half of a pair of surrogates, which is no letter: correct it")
    return tokens


def _steps(item: object, place: str) -> np.ndarray:
    """One sequence, (T,) or (T, D), of int64 or float64."""
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu().numpy()
    try:
        array = np.asarray(item)
        if array.dtype.kind in "fO":
            _refuse_large(item, place)
        array = array.astype(np.float64) if array.dtype == object else array  # None is a missing value
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place}: not a sequence of numbers, or of equally long lists of numbers") from error
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DataError(f"{place}: a sequence must hold real numbers, (T,) or (T, D), not {array.dtype} {array.shape}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > LARGEST:
        raise DataError(f"{place}: {array.max()} is beyond {LARGEST}, the largest whole number that is read")
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def _refuse_large(item: object, place: str) -> None:
    """Raise `DataError` for a whole number in a list (of lists) that float64, for its neighbours, cannot hold."""
    if not isinstance(item, (list, tuple)):
        return
    for value in item:
        if isinstance(value, (list, tuple)):
            _refuse_large(value, place)
        elif isinstance(value, (int, np.integer)) and abs(int(value)) > EXACT:
            digits = str(value) if abs(int(value)) < 10**30 else "a number of more than 30 digits"
            raise DataError(f"{place}: {digits}: {BEYOND}")


def _alike(values: list[np.ndarray], source: str, places: list[str]) -> list[np.ndarray]:
    """The sequences in one dtype. Raises `DataError` where the steps differ in size."""
    for value, place in zip(values, places, strict=True):
        if value.shape[1:] != values[0].shape[1:]:
            raise DataError(
                f"{source}, {place}: steps of shape {value.shape[1:]} where {places[0]} has {values[0].shape[1:]}: "
                "every step must have the same size"
            )
    dtype = np.result_type(*{value.dtype for value in values})
    return [value.astype(dtype) for value in values]
