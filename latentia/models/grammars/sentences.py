"""What grammars share: sentences of which charts can be held, a few at a time."""

from __future__ import annotations

from torch import Tensor

from latentia.distributions import sentence
from latentia.distributions.emissions.rows import check_symbols
from latentia.errors import DataError
from latentia.model import Batch

MOST_WORDS = 200
"""A chart grows with the square of a sentence's words, and the work with the cube."""
BLOCK = 2**23
"""Numbers in the charts that are held in memory at a time."""


def check_sentences(batch: Batch, symbols: int) -> None:
    """Raise `DataError` for what no grammar has written, or whose chart is too large."""
    if batch.x.ndim != 2:
        raise DataError(f"a grammar writes sentences of symbols, x (B, T), not data of shape {tuple(batch.x.shape)}")
    check_symbols(batch.x, batch.seen, symbols)
    _check_words(batch.ends, 2, "a grammar's sentences have two or more (its first rule makes two constituents)")


def check_written(batch: Batch, symbols: int, end: int | None) -> None:
    """Raise `DataError` for what no generator of words and trees has written up to its end, or whose chart is too
    large."""
    sentence.check_sentences(batch.x, batch.observed, symbols, end)
    _check_words(batch.ends if end is None else batch.ends - 1, 1, "a tree has one or more")
    if end is None:
        return
    last = batch.ends.unsqueeze(-1) - 1
    cut = batch.observed.gather(1, last).squeeze(1) & (batch.x.gather(1, last).squeeze(1) != end)
    if bool(cut.any()):
        row = int(cut.nonzero()[0])
        raise DataError(
            f"sentence {row + 1} does not end (its last symbol is not {end}), and a tree is of a whole sentence: leave "
            "it out, or cut none (--max_length)"
        )


def _check_words(counts: Tensor, least: int, reason: str) -> None:
    most = f"the chart of its constituents would be too large: {MOST_WORDS} are the most"
    for wrong, why in ((counts < least, reason), (counts > MOST_WORDS, most)):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            count = int(counts[row])
            raise DataError(f"sentence {row + 1} has {count} word{'s' * (count != 1)}: {why}; leave it out")


def blocks(batch: Batch, labels: int) -> list[Batch]:
    """The data, sentences of like length together, as many at a time as their charts leave room for."""
    order = batch.ends.argsort(descending=True, stable=True)
    found = []
    while len(order):
        size = max(BLOCK // (int(batch.ends[order[0]]) ** 2 * labels), 1)
        found.append(batch.select(order[:size]).cut())
        order = order[size:]
    return found
