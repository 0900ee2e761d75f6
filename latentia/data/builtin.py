"""Data that need no download."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

from latentia.data.raw import Raw


def digits() -> Raw:
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 with the grey levels 0 to 16, and their labels."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return Raw("image", data.images.astype(np.uint8), source="digits", labels=data.target, levels=17)


def sentences() -> Raw:
    """English sentences of 3 to 40 words from the Python manual (`pydoc_data.topics`), lowercase, without repeats.

    They differ a little from one Python version to the next, as the manual does.
    """
    from pydoc_data.topics import topics

    found = [words for topic in sorted(topics) for block in _prose(topics[topic]) for words in _sentences(block)]
    unique = dict.fromkeys(tuple(words) for words in found if 3 <= len(words) <= 40)
    return Raw("text", [list(words) for words in unique], source="sentences")


BUILTIN: dict[str, Callable[[], Raw]] = {"digits": digits, "sentences": sentences}

_BULLET = re.compile(r"^(\s*)([*-]|\d+\.|\[\d+\])(\s+)", re.MULTILINE)
_LITERAL = re.compile(r">>>|::=|^\s*(Traceback|\.\.\.|\||\+-)", re.MULTILINE)
_CODE = re.compile(r"[{}\\<>=|~^@#]")
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[(*]*[A-Z\"'])")
_WHOLE = re.compile(r"[(*]*[A-Z\"'].*[.!?:][\"')\]]*$")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:\.\d+)*")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|vs|cf)\.(?! +[A-Z])")


def _prose(topic: str) -> Iterator[str]:
    """The paragraphs and list items of running text, each on one line."""
    for block in re.split(r"\n\s*\n", topic):
        if _LITERAL.search(block):
            continue
        # a change of indentation starts a list item, a definition, or code, whose lines make no sentences
        lines = _BULLET.sub(r"\n\1 \3", block).splitlines()
        for _, part in groupby(lines, key=lambda line: len(line) - len(line.lstrip())):
            yield " ".join(line.strip() for line in part)


def _sentences(paragraph: str) -> Iterator[list[str]]:
    """The words of each complete sentence: it starts and ends as one, and quotes no code."""
    text = _ABBREVIATIONS.sub(lambda match: match[1].replace(".", ""), paragraph)
    for sentence in _END.split(text):
        if _WHOLE.match(sentence) and not _CODE.search(sentence):
            yield [word.lower() for word in _WORD.findall(sentence)]
