"""Symbols one after another, from any network that says how probable each is after those before: ways to choose them.

A network is asked for the logits of the next symbol alone, and keeps what it needs of those before (`State`): no prefix
is computed twice. Rows that have ended are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from latentia.errors import OptionError

State = dict[str, Tensor]
"""What a network remembers of a prefix, (N, ...) each."""
Choice = Callable[[Tensor], Tensor]
"""From logits (N, V) to a symbol each, (N,)."""

FULL = 0.75
"""The share of rows still going on below which those that have ended are taken out."""


class Steps(Protocol):
    """What can be decoded: N rows of symbols."""

    def begin(self) -> tuple[Tensor, State]:
        """Logits of the first symbol, (N, V), and the state."""
        ...

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the symbol after `symbol`, (N, V), and the state after it. The rows of a state may be chosen, in
        any order and as often as one likes."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How to choose symbols.

    Attributes:
        method: sample, each symbol drawn from what the model says of it, changed as the options below ask for (without
            them a draw from the model itself); greedy, always the most probable; beam, the text that is most probable
            among those that a search of `width` finds.
        temperature: the logits are divided by it: below 1 the probable becomes more so.
        top_k: only so many most probable symbols, 0 for all (Fan et al. 2018).
        top_p: only the fewest most probable symbols that together have at least this probability (nucleus sampling,
            Holtzman et al. 2020, section 3.1).
        width: texts that the search keeps at each step.
        length_penalty: the search compares log p(x) / length^a: with 0 it looks for the most probable text, which is
            often a short one.

    Raises:
        OptionError: a number outside of its range.
    """

    method: Literal["sample", "greedy", "beam"] = "sample"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    width: int = 5
    length_penalty: float = 0.0

    def __post_init__(self):
        if self.method not in ("sample", "greedy", "beam"):
            raise OptionError(f"method={self.method!r}: choose one of sample, greedy, beam")
        if not 0 < self.temperature < math.inf:
            raise OptionError(f"temperature={self.temperature}: it must be a positive number")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p={self.top_p}: it must be above 0 and at most 1")
        if self.top_k < 0 or self.width < 1:
            raise OptionError(f"top_k={self.top_k}, width={self.width}: at least 0 and at least 1")
        if not 0 <= self.length_penalty < math.inf:
            raise OptionError(f"length_penalty={self.length_penalty}: it must be at least 0")
        changed = (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0)
        if changed and self.method != "sample":
            raise OptionError(f"temperature, top_k and top_p are for method='sample', not {self.method!r}")


def decode(steps: Steps, length: int, end: int | None, how: Decoding, given: Tensor | None = None) -> Tensor:
    """Texts (N, T), 0 beyond their ends; those that have not ended by `length` are cut off there.

    Args:
        end: the symbol that ends a text; None where all have `length` symbols.
        given: (N, P), what the texts begin with, -1 where a symbol is to be chosen.
    """
    if how.method == "beam":
        return beam(steps, length, end, how.width, how.length_penalty, given).symbols[:, 0]
    return forwards(steps, length, end, choice(how), given)


def choice(how: Decoding) -> Choice:
    """How one symbol is chosen."""
    if how.method == "greedy":
        return lambda logits: logits.argmax(-1)
    return lambda logits: draw(narrowed(logits / how.temperature, how.top_k, how.top_p))


def draw(logits: Tensor) -> Tensor:
    """A draw of softmax(logits) in each row, (N,): the first of exponential clocks that rings."""
    return (logits.softmax(-1) / torch.empty_like(logits).exponential_()).argmax(-1)


def narrowed(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits with -inf for all but the most probable symbols, at least one."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        share = ordered.softmax(-1)
        # those before it have less than top_p: it is still needed
        needed = share.cumsum(-1) - share < top_p
        logits = logits.masked_fill(~torch.zeros_like(needed).scatter(-1, order, needed), -torch.inf)
    return logits


@torch.no_grad()
def forwards(steps: Steps, length: int, end: int | None, choose: Choice, given: Tensor | None = None) -> Tensor:
    """One symbol after another in each row, (N, T)."""
    logits, state = steps.begin()
    x = torch.zeros(len(logits), length, dtype=torch.long, device=logits.device)
    going = torch.arange(len(logits), device=logits.device)
    for t in range(length):
        symbol = choose(logits)
        if given is not None and t < given.shape[1]:
            asked = given[going, t]
            symbol = torch.where(asked >= 0, asked, symbol)
        x[going, t] = symbol
        if t + 1 == length:
            break
        left = symbol != end if end is not None else torch.ones_like(symbol, dtype=torch.bool)
        if int(left.sum()) <= FULL * len(going) or not bool(left.any()):
            kept = left.nonzero().squeeze(-1)
            going, symbol, state = going[kept], symbol[kept], {name: part[kept] for name, part in state.items()}
            if not len(going):
                break
        logits, state = steps.step(symbol, state)
    return x if end is None else _until(x, end)


def _until(x: Tensor, end: int) -> Tensor:
    """x with 0 beyond the first `end`."""
    over = (x == end).cumsum(-1) - (x == end).long() > 0
    return x.masked_fill(over, 0)


class Beam(NamedTuple):
    """What a search has found for each of N rows, best first.

    Attributes:
        symbols: (N, W, T), 0 beyond the ends; where there are fewer than W texts, the rest are repeated.
        log_prob: (N, W), in nats; -inf for a repetition.
    """

    symbols: Tensor
    log_prob: Tensor


@torch.no_grad()
def beam(
    steps: Steps, length: int, end: int | None, width: int, penalty: float = 0.0, given: Tensor | None = None
) -> Beam:
    """The most probable texts that a beam search finds: at each step the `width` best, be they over or not, stay.

    With `penalty` 0 and a width no smaller than the number of prefixes it finds the mode itself.
    """
    logits, state = steps.begin()
    rows, symbols = logits.shape
    first = torch.arange(rows, device=logits.device).repeat_interleave(width)
    state = {name: part[first] for name, part in state.items()}
    score = logits.new_full((rows, width), -torch.inf)
    score[:, 0] = 0.0
    x = torch.zeros(rows, width, length, dtype=torch.long, device=logits.device)
    over, counts = torch.zeros_like(score, dtype=torch.bool), torch.zeros_like(score)
    logits = logits[first]
    for t in range(length):
        terms = _terms(logits, given, t, width).unflatten(0, (rows, width))
        # what is over stays as it is, once
        stay = torch.full_like(terms, -torch.inf)
        stay[..., 0] = 0.0
        total = score.unsqueeze(-1) + torch.where(over.unsqueeze(-1), stay, terms)
        longer = counts + (~over).to(counts)
        rank = total / longer.clamp(min=1).unsqueeze(-1) ** penalty
        chosen = rank.flatten(1).topk(width, -1).indices
        parent, symbol = chosen // symbols, chosen % symbols
        score, over, counts = total.flatten(1).gather(1, chosen), over.gather(1, parent), longer.gather(1, parent)
        x = x.gather(1, parent.unsqueeze(-1).expand(-1, -1, length))
        x[..., t] = torch.where(over, 0, symbol)
        over = over | (symbol == end) if end is not None else over
        if t + 1 == length or bool((over | (score == -torch.inf)).all()):
            break
        at = (torch.arange(rows, device=x.device).unsqueeze(-1) * width + parent).flatten()
        logits, state = steps.step(x[..., t].flatten(), {name: part[at] for name, part in state.items()})
    order = (score / counts.clamp(min=1) ** penalty).argsort(dim=-1, descending=True, stable=True)
    x = x.gather(1, order.unsqueeze(-1).expand_as(x))
    return Beam(x, score.gather(1, order))


def _terms(logits: Tensor, given: Tensor | None, t: int, width: int) -> Tensor:
    """log p of the next symbol, with no other than the one that is given."""
    terms = logits.log_softmax(-1)
    if given is None or t >= given.shape[1]:
        return terms
    asked = given[:, t].repeat_interleave(width).unsqueeze(-1)
    other = torch.arange(terms.shape[-1], device=terms.device) != asked
    return terms.masked_fill(other & (asked >= 0), -torch.inf)
