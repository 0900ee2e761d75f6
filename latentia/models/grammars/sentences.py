"""What grammars share: sentences of which charts can be held, a few at a time."""

from __future__ import annotations

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
    for wrong, reason in (
        (batch.ends < 2, "a grammar's sentences have two or more (its first rule makes two constituents)"),
        (batch.ends > MOST_WORDS, f"the chart of its constituents would be too large: {MOST_WORDS} are the most"),
    ):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            count = int(batch.ends[row])
            raise DataError(f"sentence {row + 1} has {count} word{'s' * (count != 1)}: {reason}; leave it out")


def blocks(batch: Batch, labels: int) -> list[Batch]:
    """The data, sentences of like length together, as many at a time as their charts leave room for."""
    order = batch.ends.argsort(descending=True, stable=True)
    found = []
    while len(order):
        size = max(BLOCK // (int(batch.ends[order[0]]) ** 2 * labels), 1)
        found.append(batch.select(order[:size]).cut())
        order = order[size:]
    return found
