"""Raw text as documents of words: lower case, punctuation, stop words, runs of words."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace

import numpy as np

from latentia.data.raw import Raw
from latentia.data.tables import MISSING, Table
from latentia.errors import DataError, OptionError

WORDS = {
    "spaces": re.compile(r"\S+"),
    "punctuation": re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]"),
    "letters": re.compile(r"\w\w+"),
}
"""What counts as a word: what stands between spaces; words and marks of punctuation apart; words of two letters or
more, without punctuation, as scikit-learn's CountVectorizer has them."""
STOP_WORDS = ("none", "english")


@dataclass(frozen=True)
class Prose:
    """How a text becomes words.

    Attributes:
        lower: lower case.
        words: a key of `WORDS`.
        stop_words: "english" leaves out scikit-learn's list of 318 (`ENGLISH_STOP_WORDS`).
        ngrams: runs of up to so many words are words too, joined by "_".

    Raises:
        OptionError: no such words or stop words, or n-grams below 1.
    """

    lower: bool = False
    words: str = "spaces"
    stop_words: str = "none"
    ngrams: int = 1

    def __post_init__(self):
        for name, known in (("words", tuple(WORDS)), ("stop_words", STOP_WORDS)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name}={getattr(self, name)!r}: choose {', '.join(known)}")
        if self.ngrams < 1:
            raise OptionError(f"ngrams={self.ngrams}: it must be at least 1")

    def cut(self, text: str) -> list[str]:
        """The words of one text, in their order; longer runs after all single words."""
        found = WORDS[self.words].findall(text.lower() if self.lower else text)
        if self.stop_words != "none":
            stop = _stop_words()
            found = [word for word in found if word.lower() not in stop]
        runs = ("_".join(found[i : i + n]) for n in range(2, self.ngrams + 1) for i in range(len(found) - n + 1))
        return [*found, *runs]

    def _cut_all(self, raw: Raw) -> list[list[str]]:
        return [self.cut(" ".join(words)) for words in raw.values]

    def apply(self, raw: Raw) -> Raw:
        """The same texts in these words, and their contexts where those are texts too; those without a word are left
        out, with a warning that says how many.

        Raises:
            DataError: `raw` is no text, or no text has a word.
        """
        if raw.kind != "text":
            raise raw.error("lower, words, stop_words and ngrams are for text, and these data are none: leave them out")
        values, context = self._cut_all(raw), raw.context
        kept = np.array([bool(words) for words in values])
        if context is not None and context.kind == "text":
            context = replace(context, values=self._cut_all(context))
            kept &= np.array([bool(words) for words in context.values])
        if not kept.any():
            raise raw.error("no text has a word left: see --words and --stop_words")
        if not kept.all():
            where = raw.where((int(kept.argmin()),))
            warnings.warn(
                f"{raw.source}: {np.count_nonzero(~kept):,} texts without a word are left out, the first at {where}",
                stacklevel=2,
            )
        found = replace(raw, values=values, context=context)
        return found if kept.all() else found.take(kept)


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # a second to import

    return ENGLISH_STOP_WORDS


def texts(table: Table, column: str) -> Raw:
    """One column of a table as texts, words separated by white space. Raises `DataError` for an empty cell."""
    cells = table.select([column]).columns[0]
    for i, cell in enumerate(cells):
        if cell is None or str(cell).strip().lower() in MISSING:
            place = f"row {i + 1}" if table.lines is None else f"line {table.lines[i]}"
            raise DataError(f"{table.source}, {place}, column {column!r} has no text: leave the row out")
    return Raw("text", [str(cell).split() for cell in cells], source=table.source, lines=table.lines)
