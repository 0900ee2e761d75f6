"""The best string of frames: argmax_y p(y | frames), where p sums over CTC's alignments.

Frames are independent given the network, so that log-probabilities (T, C), the blank last, are all there is to know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.errors import OptionError

Prefix = tuple[int, ...]
LanguageModel = Callable[[Prefix], Sequence[float]]
"""A string to the log-probabilities of each symbol that may follow it, (V,), or of these and of its end, (V + 1,)."""


class Found(NamedTuple):
    """A string, and log p(string | frames) as far as the beam has kept its alignments, plus what was added to it."""

    symbols: tuple[int, ...]
    score: float


def greedy(log_probs: Tensor) -> tuple[int, ...]:
    """The string of the likeliest alignment, which need not be the likeliest string."""
    best = log_probs.argmax(-1).tolist()
    blank = log_probs.shape[-1] - 1
    return tuple(s for s, before in zip(best, [blank, *best], strict=False) if s not in (blank, before))


def prefix_beam(
    log_probs: Tensor,
    beam: int = 16,
    language_model: LanguageModel | None = None,
    weight: float = 1.0,
    bonus: float = 0.0,
    least: float = -12.0,
) -> list[Found]:
    """The `beam` best strings, best first, by prefix search: alignments that collapse to the same prefix are summed.

    Graves et al. (2006), section 3.2; Hannun et al. (2014), algorithm 1. With a beam that keeps every prefix it finds
    the likeliest string itself.

    Args:
        log_probs: (T, C), in nats, the blank in the last column.
        language_model: of strings; its log-probability counts `weight` times.
        bonus: added for each symbol, against the language model's liking for short strings.
        least: symbols with less log-probability than this in a frame are not tried there.

    Raises:
        OptionError: a beam below 1.
    """
    if beam < 1:
        raise OptionError(f"beam={beam}: keep at least one prefix")
    table = log_probs.detach().double().cpu().numpy()
    prior = _Prior(language_model, weight, bonus, table.shape[1] - 1)
    kept: dict[Prefix, Ways] = {(): Ways(0.0, -math.inf, 0.0)}
    for frame in table:
        grown = _grown(kept, frame, prior, least)
        kept = dict(sorted(grown.items(), key=lambda item: -item[1].score)[:beam])
    found = [Found(prefix, ways.score + prior.end(prefix)) for prefix, ways in kept.items()]
    return sorted(found, key=lambda one: -one.score)


class Ways(NamedTuple):
    """log of the sum of a prefix's alignments that end in a blank, and of those that do not; what is added for it."""

    blanks: float
    symbols: float
    extra: float

    @property
    def score(self) -> float:
        return float(np.logaddexp(self.blanks, self.symbols)) + self.extra


NONE = Ways(-math.inf, -math.inf, 0.0)


def _grown(kept: dict[Prefix, Ways], frame: np.ndarray, prior: _Prior, least: float) -> dict[Prefix, Ways]:
    """All prefixes after one more frame."""
    grown: dict[Prefix, Ways] = {}
    blank = len(frame) - 1
    tried = [int(symbol) for symbol in np.flatnonzero(frame[:blank] > least)]

    def add(prefix: Prefix, extra: float, blanks: float, symbols: float) -> None:
        there = grown.get(prefix, NONE)
        grown[prefix] = Ways(np.logaddexp(there.blanks, blanks), np.logaddexp(there.symbols, symbols), extra)

    for prefix, ways in kept.items():
        both = np.logaddexp(ways.blanks, ways.symbols)
        again = ways.symbols + frame[prefix[-1]] if prefix else -math.inf
        add(prefix, ways.extra, both + frame[blank], again)
        for symbol in tried:
            # a symbol like the last one is another only after a blank
            before = ways.blanks if prefix and symbol == prefix[-1] else both
            if before > -math.inf:
                add((*prefix, symbol), ways.extra + prior.next(prefix, symbol), -math.inf, before + frame[symbol])
    return grown


class _Prior:
    """What a language model and a bonus add for each symbol, asked once for each prefix."""

    def __init__(self, language_model: LanguageModel | None, weight: float, bonus: float, symbols: int):
        self.model, self.weight, self.bonus, self.symbols = language_model, weight, bonus, symbols
        self.known: dict[Prefix, Sequence[float]] = {}

    def _follows(self, prefix: Prefix) -> Sequence[float]:
        if self.model is None:
            return ()
        if prefix not in self.known:
            self.known[prefix] = self.model(prefix)
        return self.known[prefix]

    def next(self, prefix: Prefix, symbol: int) -> float:
        follows = self._follows(prefix)
        return self.bonus + (self.weight * float(follows[symbol]) if len(follows) else 0.0)

    def end(self, prefix: Prefix) -> float:
        follows = self._follows(prefix)
        return self.weight * float(follows[self.symbols]) if len(follows) > self.symbols else 0.0


def as_batch(strings: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Symbols (B, L), zeros behind the ends, and how many there are, (B,)."""
    lengths = torch.tensor([len(string) for string in strings])
    x = torch.zeros(len(strings), max(1, int(lengths.max()) if len(strings) else 1), dtype=torch.long)
    for row, string in zip(x, strings, strict=True):
        row[: len(string)] = torch.tensor(list(string), dtype=torch.long)
    return x, lengths
