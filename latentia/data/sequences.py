"""Ragged sequences and text: Python lists, files of sentences, and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latentia.data.files import readable
from latentia.data.raw import Raw
from latentia.errors import DataError

FIELDS = ("text", "tokens", "x")
FORMS = 'a list of numbers, of lists of numbers or of strings, or an object with "text", "tokens" or "x"'


def read_text(path: Path) -> Raw:
    """A sentence a line, tokens separated by white space; blank lines are skipped."""
    lines = _lines(path)
    return from_items([text for _, text in lines], path.name, np.array([line for line, _ in lines]))


def read_jsonl(path: Path) -> Raw:
    """A datum a line: a list, or an object with "text", "tokens" or "x"."""
    lines = _lines(path)
    items = [_item(text, f"{path.name}, line {line}") for line, text in lines]
    return from_items(items, path.name, np.array([line for line, _ in lines]))


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank. Split at newlines only: JSON may hold other separators."""
    with readable(path, "UTF-8 text"):
        text = path.read_bytes().decode("utf-8-sig")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path.name} is empty: it needs a line for each datum")
    return lines


def _item(text: str, place: str) -> object:
    try:
        item = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not JSON ({error.msg}): the line is truncated, or the file is no JSON lines file"
        ) from error
    if isinstance(item, dict):
        item = next((item[field] for field in FIELDS if field in item), None)
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
        value = _tokens(item, f"{source}, {place}") if text else _steps(item, f"{source}, {place}")
        if not len(value):
            raise DataError(f"{source}, {place}: an empty sequence: leave it out")
        values.append(value)
    if not text:
        values = _alike(values, source, places)
    return Raw("text" if text else "sequence", values, source=source, lines=lines)


def _is_text(item: object) -> bool:
    return isinstance(item, str) or (isinstance(item, (list, tuple)) and bool(item) and isinstance(item[0], str))


def _tokens(item: Sequence[str], place: str) -> list[str]:
    if isinstance(item, str):
        return item.split()
    if not all(isinstance(token, str) for token in item):
        raise DataError(f"{place}: strings mixed with other things: every token must be a string")
    return list(item)


def _steps(item: object, place: str) -> np.ndarray:
    """One sequence, (T,) or (T, D), of int64 or float64."""
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu().numpy()
    try:
        array = np.asarray(item)
        array = array.astype(np.float64) if array.dtype == object else array  # None is a missing value
    except (ValueError, TypeError) as error:
        raise DataError(f"{place}: not a sequence of numbers, or of equally long lists of numbers") from error
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DataError(f"{place}: a sequence must hold real numbers, (T,) or (T, D), not {array.dtype} {array.shape}")
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


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
