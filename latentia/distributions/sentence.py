"""Symbols drawn one after another, up to an end that is a symbol too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from latentia.distributions import observed
from latentia.distributions.decoding import Decoding, State, Steps, decode
from latentia.errors import DataError
from latentia.kernels.vocabulary import log_probabilities
from latentia.networks.decoder import Decoder

MOST_FILLINGS = 4096
"""Ways to fill in hidden symbols that are summed over: a pass of the network each."""


class Words(Steps, Protocol):
    """What says how probable each symbol is after those before: S x B rows of up to T symbols out of V."""

    @property
    def symbols(self) -> int:
        """V."""
        ...

    def terms(self, x: Tensor, inside: Tensor) -> Tensor:
        """log p(x_t | x_1, ..., x_{t-1}) in nats, (S, B, T), for x and `inside` (B, T) or (S, B, T); anything where it
        is not inside."""
        ...


class Written:
    """`Words` of a network that remembers.

    Args:
        decoder: the network; given: (S, B, C), what each row is written from, None for nothing; shape: (S, B).
    """

    def __init__(self, decoder: Decoder, given: Tensor | None, shape: Sequence[int]):
        self.decoder, self.given, self.shape = decoder, given, torch.Size(shape)

    @property
    def symbols(self) -> int:
        return self.decoder.symbols

    def terms(self, x: Tensor, inside: Tensor) -> Tensor:
        """Logits are made a chunk at a time, and only of the steps inside."""
        x, shape = x.long(), torch.Size([*self.shape, x.shape[-1]])
        where = inside.expand(shape).flatten().nonzero().squeeze(-1)
        features = self.decoder.features(x, self.given, self.shape, where)
        target = x.expand(shape).flatten().index_select(0, where)
        found = log_probabilities(features, self.decoder.table, self.decoder.bias, target)
        return found.new_zeros(shape.numel()).index_copy(0, where, found).reshape(shape)

    def begin(self) -> tuple[Tensor, State]:
        given = None if self.given is None else self.given.flatten(0, 1)
        return self.decoder.begin(given, self.shape.numel())

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        return self.decoder.step(symbol, state)


class WrittenByOneOf:
    """`Words` of K networks, of which each row has its own: `which` (S, B, K), one-hot."""

    def __init__(self, decoders: Sequence[Decoder], which: Tensor):
        self.decoders, self.shape, self.which = decoders, which.shape[:-1], which.argmax(-1).flatten()

    @property
    def symbols(self) -> int:
        return self.decoders[0].symbols

    def terms(self, x: Tensor, inside: Tensor) -> Tensor:
        steps = torch.Size([*self.shape, x.shape[-1]])
        x, inside = (part.expand(steps).flatten(0, 1) for part in (x, inside))
        order = [(self.which == k).nonzero().squeeze(-1) for k in range(len(self.decoders))]
        parts = zip(self.decoders, order, strict=True)
        found = [Written(one, None, (1, len(rows))).terms(x[rows], inside[rows])[0] for one, rows in parts if len(rows)]
        return torch.cat(found)[torch.cat(order).argsort()].unflatten(0, self.shape)

    def begin(self) -> tuple[Tensor, State]:
        return self._each(self.which, lambda one, rows: one.begin(None, len(rows)))

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        def go_on(one: Decoder, rows: Tensor) -> tuple[Tensor, State]:
            return one.step(symbol[rows], {name: part[rows] for name, part in state.items() if name != "which"})

        return self._each(state["which"], go_on)

    def _each(self, which: Tensor, function: Callable[[Decoder, Tensor], tuple[Tensor, State]]) -> tuple[Tensor, State]:
        """Every network on its own rows, and the rows in their order again."""
        order = [(which == k).nonzero().squeeze(-1) for k in range(len(self.decoders))]
        found = [function(one, rows) for one, rows in zip(self.decoders, order, strict=True) if len(rows)]
        back = torch.cat(order).argsort()
        state = {name: torch.cat([state[name] for _, state in found])[back] for name in found[0][1]}
        return torch.cat([logits for logits, _ in found])[back], state | {"which": which}


class Recomputed:
    """`Words` of a function from symbols (S, B, T) or (B, T) to logits (S, B, T, V): it is called with the whole prefix
    at each step."""

    def __init__(self, logits: Callable[[Tensor], Tensor], like: Tensor):
        self.logits, self.shape, self.device = logits, like.shape, like.device

    @property
    def symbols(self) -> int:
        return self.logits(torch.zeros(*self.shape, 1, dtype=torch.long, device=self.device)).shape[-1]

    def terms(self, x: Tensor, inside: Tensor) -> Tensor:
        log_probs = self.logits(x.long()).log_softmax(-1)
        return log_probs.gather(-1, x.long().expand(log_probs.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    def begin(self) -> tuple[Tensor, State]:
        rows = torch.arange(self.shape.numel(), device=self.device)
        state = {"row": rows, "x": rows.new_zeros(len(rows), 0)}
        return self._next(state), state

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        state = {"row": state["row"], "x": torch.cat([state["x"], symbol.unsqueeze(-1)], -1)}
        return self._next(state), state

    def _next(self, state: State) -> Tensor:
        """The function has a row for each of its own: several prefixes of one take several calls."""
        row, x = state["row"], state["x"]
        order = row.argsort(stable=True)
        first = torch.searchsorted(row[order], row[order])
        turn = torch.empty_like(row)
        turn[order] = torch.arange(len(row), device=row.device) - first
        found = []
        for k in range(int(turn.max()) + 1 if len(turn) else 0):
            mine = (turn == k).nonzero().squeeze(-1)
            whole = x.new_zeros(self.shape.numel(), x.shape[1] + 1)
            whole[row[mine], :-1] = x[mine]
            logits = self.logits(whole.unflatten(0, self.shape))[..., -1, :]
            found.append((mine, logits.flatten(0, len(self.shape) - 1)[row[mine]]))
        total = torch.cat([logits for _, logits in found])
        return total[torch.cat([mine for mine, _ in found]).argsort()]


class AutoregressiveCategorical(Distribution):
    """p(x) = prod_t p(x_t | x_1, ..., x_{t-1}), each a categorical over V symbols, up to the first `end`, which counts.

    `log_prob` is one pass over all steps ("teacher forcing"), `sample` one step at a time, from what is remembered of
    those before. What comes after the end is nothing: 0 in draws, and not looked at. With T steps at most, a draw that
    has not ended by then is cut off there.

    Args:
        words: what says how probable each symbol is: `Written`, or a function from symbols (S, B, T) or (B, T) to
            logits (S, B, T, V), of which those of step t must not depend on x_t or what comes after it.
        like: any tensor of the batch shape (S, B), dtype and device.
        steps: T.
        end: the symbol that ends x; None where all x have T steps.
        known: (B,), how many symbols each x has, where that is known of x that are hidden in part.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(
        self,
        words: Words | Callable[[Tensor], Tensor],
        like: Tensor,
        steps: int,
        end: int | None = None,
        known: Tensor | None = None,
    ):
        self.words: Words = words if hasattr(words, "terms") else Recomputed(words, like)  # type: ignore[assignment]
        self.like, self.end, self.known = like, end, known
        super().__init__(like.shape, torch.Size([steps]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.words.symbols - 1)

    def lengths(self, x: Tensor) -> Tensor:
        """How many symbols x (..., T) has, its end among them, (...)."""
        if self.end is None:
            return torch.full(x.shape[:-1], x.shape[-1], device=x.device)
        before = (x == self.end).cumsum(-1) - (x == self.end).long()
        return (before == 0).sum(-1)

    def inside(self, x: Tensor) -> Tensor:
        """Which steps of x (..., T) are not beyond its end."""
        return torch.arange(x.shape[-1], device=x.device) < self.lengths(x).unsqueeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats, (S, B), for x (B, T) or (S, B, T)."""
        return self.sum_over(value, self.inside(value))

    def sum_over(self, x: Tensor, inside: Tensor) -> Tensor:
        """The sum of log p(x_t | x_1, ..., x_{t-1}) over the steps inside, (S, B)."""
        # what lies outside may be no symbol at all
        return torch.where(inside, self.words.terms(torch.where(inside, x, 0), inside), 0.0).sum(-1)

    def decode(self, how: Decoding, given: Tensor | None = None) -> Tensor:
        """x chosen in some other way than by drawing it, (S, B, T); `given` (S, B, P) begins it, see `decoding`."""
        with torch.no_grad():
            begun = None if given is None else given.expand(*self.batch_shape, -1).flatten(0, -2)
            return decode(self.words, self.event_shape[0], self.end, how, begun).unflatten(0, self.batch_shape)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if len(sample_shape):
            raise NotImplementedError("draws of several samples: make them part of the batch shape")
        return self.decode(Decoding())

    @property
    def mean(self) -> Tensor:
        """E[x], estimated, as it has no closed form: the symbols of one draw."""
        return self.sample().to(self.like.dtype)

    def marginal(self, x: Tensor, mask: Tensor) -> Tensor:
        """log p(x) of what is observed, (S, B): a hidden symbol is summed out, and where x has more symbols after it,
        it is not the end. Hidden symbols at the very end of x sum to one.

        Raises:
            DataError: too many of them: the sum is over all ways to fill them in.
        """
        needed = mask.flip(-1).cumsum(-1).flip(-1) > 0
        if self.end is not None and self.known is not None:
            # of what is known to go on the end is ruled out, hidden or not
            needed = needed | (torch.arange(x.shape[-1], device=x.device) < self.known.unsqueeze(-1) - 1)
        return torch.logsumexp(self.fillings(x, mask, needed)[0], 0)

    def fillings(self, x: Tensor, mask: Tensor, needed: Tensor) -> tuple[Tensor, Tensor]:
        """Every way to fill in the hidden ones of the symbols that are needed: the log-probability of these, (F, S, B),
        and the symbols, (F, B, T).

        Raises:
            DataError: more ways than `MOST_FILLINGS`.
        """
        hidden = needed & ~mask
        most = int(hidden.sum(-1).max()) if hidden.numel() else 0
        symbols = self.words.symbols if most else 1
        if symbols**most > MOST_FILLINGS:
            raise DataError(
                f"a datum has {most} hidden symbols before its last observed one: an autoregressive model sums over "
                f"the {symbols}^{most} ways to fill them in, and {MOST_FILLINGS} are the most"
            )
        place, count = (hidden.cumsum(-1) - 1).clamp(min=0), hidden.sum(-1)
        # up to and with the symbol after which there may be nothing
        steps = torch.arange(x.shape[-1], device=x.device)
        goes_on = needed if self.known is None else steps < self.known.unsqueeze(-1)
        terms, ways = [], []
        for filling in range(symbols**most):
            digit = torch.tensor([filling // symbols**d % symbols for d in range(max(most, 1))], device=x.device)
            filled = torch.where(hidden, digit[place], torch.where(mask, x, 0).long())
            # an end that is filled in would leave nothing to come
            possible = (self.lengths(filled) > (goes_on.sum(-1) - 1)) & (filling < symbols**count)
            terms.append(self.sum_over(filled, needed).where(possible, -torch.inf))
            ways.append(filled)
        return torch.stack(terms), torch.stack(ways)


class Filled(Distribution):
    """p(x | the observed part of x), by the probabilities of all ways to fill in the rest. Batch shape (S, B).

    Args:
        log_weight: (F, S, B), unnormalised; ways: (F, B, T), the symbols of each.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, log_weight: Tensor, ways: Tensor):
        self.share, self.ways = log_weight.softmax(0), ways
        super().__init__(log_weight.shape[1:], ways.shape[2:], validate_args=False)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if len(sample_shape):
            raise NotImplementedError("draws of several samples: make them part of the batch shape")
        way = torch.multinomial(self.share.flatten(1).mT, 1).view(self.batch_shape)
        return self.ways[way, torch.arange(self.batch_shape[1], device=way.device)]

    @property
    def mean(self) -> Tensor:
        """The expected symbols' numbers, (S, B, T)."""
        return torch.einsum("fsb,fbt->sbt", self.share, self.ways.to(self.share.dtype))


@observed.log_prob.register
def _(p: AutoregressiveCategorical, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.log_prob(x) if mask is None else p.marginal(x, mask)


@observed.given.register
def _(p: AutoregressiveCategorical, x: Tensor, mask: Tensor | None) -> Distribution:
    """By all ways to fill in what is hidden. Raises `DataError` where they are too many."""
    if mask is None:
        return p
    steps = torch.arange(x.shape[-1], device=x.device)
    needed = mask | (steps < (x.shape[-1] if p.known is None else p.known.unsqueeze(-1)))
    log_weight, ways = p.fillings(x, mask, needed)
    return Filled(log_weight, torch.where(needed, ways, 0))


@observed.ending.register
def _(p: AutoregressiveCategorical, lengths: Tensor | None) -> AutoregressiveCategorical:
    return AutoregressiveCategorical(p.words, p.like, p.event_shape[0], p.end, lengths)


@observed.ends.register
def _(p: AutoregressiveCategorical, x: Tensor) -> Tensor | None:
    return None if p.end is None else p.lengths(x)


def check_sentences(x: Tensor, observed: Tensor, symbols: int, end: int | None) -> None:
    """Raise `DataError` for x that a model of `symbols` symbols, which `end` ends, cannot have."""
    if x.ndim != 2:
        raise DataError(f"this model takes sentences, x (B, T) of symbols, not shape {tuple(x.shape)}")
    if x.is_floating_point() and not bool((x == x.round())[observed].all()):
        raise DataError("this model takes sentences of symbols, which are whole numbers: say --values symbols")
    seen = x[observed]
    if seen.numel() and not 0 <= int(seen.min()) <= int(seen.max()) < symbols:
        raise DataError(f"symbol {int(seen.max() if seen.min() >= 0 else seen.min())} is outside 0..{symbols - 1}")
    if end is None:
        return
    over = ((x == end) & observed).cumsum(-1) > 0
    again = over[:, :-1] & observed[:, 1:]
    if bool(again.any()):
        row = int(again.any(-1).nonzero()[0])
        raise DataError(
            f"datum {row + 1} goes on after symbol {end}, which ends a sentence: it may only be the last of one"
        )
