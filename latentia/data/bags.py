"""Bags of words: files of counts by word number, and the vocabulary that gives the numbers their words.

Two forms, a document a line. LDA-C (Blei): `N id:count id:count ...`, N the number of different words, ids from 0.
Labelled, as svmlight writes sparse rows: `label id:count ...`, ids from 1. A bag becomes the sequence of its word
numbers from 0, each as often as it is counted: the order means nothing to a model of bags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from latentia.data.files import read_text
from latentia.data.limits import judge_repeated
from latentia.data.raw import Raw
from latentia.errors import DataError

LARGEST = 2**31  # a count or a word number beyond it is a damaged file


def read_ldac(path: Path) -> Raw:
    """Documents in the form of LDA-C. Those without a word are left out, as blank lines are."""

    def checked(head: str, pairs: np.ndarray, place: str) -> np.ndarray:
        if not head.isdecimal() or len(head) >= 20 or int(head) != len(pairs):
            raise DataError(
                f"{place}: it begins with {head[:20]!r} and has {len(pairs)} id:count pairs: N must be their number"
            )
        return pairs

    return _read(path, checked, least=0)[0]


def read_labelled(path: Path) -> Raw:
    """Documents in the form `label id:count ...`, and their labels. Those without a word are left out."""
    raw, labels = _read(path, lambda head, pairs, place: pairs, least=1)
    return replace(raw, labels=np.array(labels))


BAGS: dict[str, Callable[[Path], Raw]] = {
    ".dat": read_ldac,
    ".ldac": read_ldac,
    ".feat": read_labelled,
    ".svmlight": read_labelled,
}


def _read(path: Path, checked: Callable[[str, np.ndarray, str], np.ndarray], least: int) -> tuple[Raw, list[str]]:
    """The documents of a file, ids counted from `least`, and what each line begins with."""
    values, heads, lines = [], [], []
    pairs_so_far = tokens = 0
    for number, line in _lines(path):
        head, *rest = line.split()
        place = f"{path.name}, line {number}"
        pairs = checked(head, _pairs(rest, place, least), place)
        pairs_so_far, tokens = pairs_so_far + len(pairs), tokens + int(pairs[:, 1].sum())
        judge_repeated(place, tokens, pairs_so_far, "its counts are out of proportion")
        words = np.repeat(pairs[:, 0] - least, pairs[:, 1])
        if len(words):
            values.append(words)
            heads.append(head)
            lines.append(number)
    if not values:
        raise DataError(f"{path.name} holds no word: it needs a line of id:count pairs for each document")
    return Raw("sequence", values, source=path.name, lines=np.array(lines)), heads


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip())


def _pairs(fields: list[str], place: str, least: int) -> np.ndarray:
    """(U, 2) whole numbers, id and count. Raises `DataError` for anything else."""
    bad = next((field for field in fields if not _is_pair(field)), None)
    if bad is not None:
        raise DataError(f"{place}: {bad[:60]!r} is no id:count pair of whole numbers")
    numbers = [int(part) for field in fields for part in field.split(":")]
    pairs = np.array(numbers, dtype=np.int64).reshape(-1, 2)
    low = pairs[:, 0] < least
    if low.any():
        raise DataError(f"{place}: word {pairs[low][0, 0]}, and in this form they count from {least}")
    return pairs


def _is_pair(field: str) -> bool:
    parts = field.split(":")
    return len(parts) == 2 and all(part.isdecimal() and len(part) < 20 and int(part) < LARGEST for part in parts)


def in_words(raw: Raw, path: Path) -> Raw:
    """Symbols as words: line i + 1 of the vocabulary begins with the word of symbol i.

    Raises:
        DataError: a vocabulary with a word twice, data that are no symbols, a symbol without a word.
    """
    words = _vocabulary(path)
    if raw.kind != "sequence" or any(np.ndim(value) != 1 or value.dtype.kind not in "iu" for value in raw.values):
        raise raw.error("a vocabulary is for bags of words and sequences of whole numbers, and these data are neither")
    for i, value in enumerate(raw.values):
        outside = (value < 0) | (value >= len(words))
        if outside.any():
            word = value[outside][0]
            raise raw.error(f"symbol {word} has no word: {path.name} has {len(words)}, counted from 0", (i,))
    return replace(raw, kind="text", values=[[words[v] for v in value] for value in raw.values])


def _vocabulary(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: the vocabulary is a file with a word a line")
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        word = line.split()[0]
        if number != len(lines) + 1:
            raise DataError(f"{path.name}, line {len(lines) + 1}: a blank line: line i + 1 names symbol i")
        if word in lines:
            raise DataError(f"{path.name}, line {number}: {word!r} stands on line {lines[word]} already")
        lines[word] = number
    return list(lines)
