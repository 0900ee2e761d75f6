"""Masked diffusion: symbols that are hidden one by one, a network that says what they were, and a bound on log p(x).

    q(z_t | x): each symbol hidden with probability t, on its own; all of them at t = 1
    p(x) goes back: what is hidden at t is shown at s < t with probability (t - s) / t, by a draw from the network

    log p(x) >= E_t[-(1 / t) sum_l hidden -log p(x_l | z_t)],   t ~ Uniform(0, 1)

Sahoo, Arriola, Schiff, Gokaslan, Marroquin, Chiu, Rush and Kuleshov (2024), "Simple and effective masked diffusion
language models" (MDLM), with the log-linear schedule alpha_t = 1 - t; Shi et al. (2024). The network does not see t:
what it has said of a text stays true until more of it is shown, and steps that show nothing need not ask it again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import constraints

from latentia.distributions import observed
from latentia.distributions.bounded import Bounded
from latentia.distributions.decoding import draw
from latentia.distributions.diffusion import spread
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.kernels.vocabulary import log_probabilities
from latentia.networks.transformer import Infiller


class Guess(Protocol):
    """What says of N texts of L symbols out of V what those that are hidden are, by those that are not.

    All take x and `hidden` (N, L), and `inside` (N, L), where there is a symbol at all, and `rows` (N,), which of the
    distribution's S x B texts each is; what lies under hidden is never read.
    """

    @property
    def symbols(self) -> int:
        """V."""
        ...

    def log_prob(self, x: Tensor, hidden: Tensor, inside: Tensor, rows: Tensor) -> Tensor:
        """log p(x_l | the symbols that are not hidden) in nats, (N, L), 0 where l is not hidden: here alone what lies
        under hidden is asked about."""
        ...

    def logits(self, x: Tensor, hidden: Tensor, inside: Tensor, rows: Tensor, where: Tensor) -> Tensor:
        """Logits of the symbols at `where` (M,) of the N x L, (M, V)."""
        ...


@dataclass(frozen=True)
class Showing:
    """How a masked diffusion is drawn from.

    Attributes:
        steps: T, of which those that show nothing cost nothing; None: a symbol at a time in a random order, the limit
            of many steps, by no more calls of the network than there are symbols.
        guidance: log-probabilities given nothing, plus this many times what the context adds to them: 1 is the model
            itself, above 1 the context counts for more, and the draws have no bound (Ho and Salimans 2022).

    Raises:
        OptionError: a number outside of its range.
    """

    steps: int | None = None
    guidance: float = 1.0

    def __post_init__(self):
        if self.steps is not None and self.steps < 1:
            raise OptionError(f"steps={self.steps}: at least 1 is needed, or None")
        if not 0 <= self.guidance < math.inf:
            raise OptionError(f"guidance={self.guidance}: it must be a number of at least 0")


class Guessed:
    """The `Guess` of a network.

    Args:
        network: which reads texts with holes.
        given: (B, C), what it is told of the context, None for nothing; otherwise: (B, C), what it is told of none.
        shape: (S, B); guidance: of logits alone, see `Showing`.
    """

    def __init__(
        self,
        network: Infiller,
        given: Tensor | None,
        shape: Sequence[int],
        otherwise: Tensor | None = None,
        guidance: float = 1.0,
    ):
        self.network, self.shape, self.guidance = network, torch.Size(shape), guidance
        self.given, self.otherwise = self._rows(given), self._rows(otherwise)

    def _rows(self, given: Tensor | None) -> Tensor | None:
        return None if given is None else given.expand(*self.shape, -1).flatten(0, -2)

    @property
    def symbols(self) -> int:
        return self.network.symbols

    def log_prob(self, x: Tensor, hidden: Tensor, inside: Tensor, rows: Tensor) -> Tensor:
        """Logits are made a chunk at a time, and only of what is hidden."""
        where = hidden.flatten().nonzero().squeeze(-1)
        features = self._features(self.given, x, hidden, inside, rows, where)
        target = x.flatten().index_select(0, where)
        found = log_probabilities(features, self.network.embedding.weight, self.network.bias, target)
        return found.new_zeros(x.numel()).index_copy(0, where, found).view(x.shape)

    def logits(self, x: Tensor, hidden: Tensor, inside: Tensor, rows: Tensor, where: Tensor) -> Tensor:
        found = self._logits(self.given, x, hidden, inside, rows, where)
        if self.guidance == 1 or self.given is None or self.otherwise is None:
            return found
        return torch.lerp(self._logits(self.otherwise, x, hidden, inside, rows, where), found, self.guidance)

    def _logits(self, given: Tensor | None, *asked: Tensor) -> Tensor:
        features = self._features(given, *asked)
        return torch.addmm(self.network.bias, features, self.network.embedding.weight.mT).log_softmax(-1)

    def _features(
        self, given: Tensor | None, x: Tensor, hidden: Tensor, inside: Tensor, rows: Tensor, where: Tensor
    ) -> Tensor:
        return self.network(x, hidden, inside, None if given is None else given[rows], where)


class MaskedSymbols(Bounded):
    """The distribution of texts of L symbols that a network and the masking make. Batch shape (S, B).

    With an `end`, x is a text up to and with it, and end again up to L, which is modelled: `log_prob_bound` counts all
    L symbols. It bounds the text's own probability too, which is no less, as a draw is cut off at its first end
    whatever follows there. Without one, lengths are given, and L is the longest.

    Args:
        guess: the network.
        like: any tensor of the batch shape (S, B), dtype and device.
        steps: L.
        end: the symbol that ends x; None where lengths are given.
        lengths: (B,), how many symbols each x has, its end among them, where that is known.
        draw_steps: in how many steps a draw is made, None for a symbol at a time, see `Showing`.
        bound_steps: T of the bound, which is then that of draws in so many steps; None for continuous time.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(
        self,
        guess: Guess,
        like: Tensor,
        steps: int,
        end: int | None = None,
        *,
        lengths: Tensor | None = None,
        draw_steps: int | None = None,
        bound_steps: int | None = None,
    ):
        self.guess, self.like, self.end, self.known_lengths = guess, like, end, lengths
        self.steps, self.draw_steps, self.bound_steps = steps, draw_steps, bound_steps
        self.known: tuple[Tensor, Tensor] | None = None
        super().__init__(like.shape, torch.Size([steps]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.guess.symbols - 1)

    def lengths(self, x: Tensor) -> Tensor:
        """How many symbols x (..., L) has, its end among them, (...)."""
        if self.end is None:
            return torch.full(x.shape[:-1], x.shape[-1], device=x.device)
        return (((x == self.end).cumsum(-1) - (x == self.end).long()) == 0).sum(-1)

    def log_prob_bound(self, value: Tensor) -> Tensor:
        """An unbiased estimate of a lower bound on log p(x) in nats, (S, B), for x (B, T) or (S, B, T), T <= L.

        In continuous time by a number n of hidden symbols, uniform from 1 to L, and n places at random:
        (L / n) sum log p(x_l | the others). Its mean is the one above with the time summed out: given t the number
        is binomial, and the integral of its probability over t, divided by t, is 1 / n (Hoogeboom et al. 2022,
        "Autoregressive diffusion models", section 3). No 1 / t that may be large is left in it.

        Raises:
            DataError: texts of more than L symbols, or, where the end is modelled, shorter ones without their end.
        """
        x, inside = self._whole(value)
        shape = torch.Size([*self.batch_shape, self.steps])
        x, inside = x.expand(shape).flatten(0, -2), inside.expand(shape).flatten(0, -2)
        count = inside.sum(-1)
        share = spread(self.batch_shape, self.like).flatten()
        noise = torch.rand(x.shape, dtype=self.like.dtype, device=x.device)
        if self.bound_steps is None:
            number = (share * count).long() + 1
            weight = count / number
            hidden = noise.masked_fill(~inside, 2.0).argsort(-1).argsort(-1) < number.unsqueeze(-1)
        else:
            step = (share * self.bound_steps).floor() + 1
            weight = self.bound_steps / step
            hidden = noise < (step / self.bound_steps).unsqueeze(-1)
        hidden = hidden & inside
        rows = torch.arange(len(x), device=x.device)
        total = self.guess.log_prob(x, hidden, inside, rows).sum(-1)
        return (weight * total).reshape(self.batch_shape)

    def _whole(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """x with all L symbols, and where there are any."""
        ends = self.known_lengths
        if ends is not None and value.shape[-1] > self.steps >= int(ends.max()):
            value = value[..., : self.steps]
        missing = self.steps - value.shape[-1]
        if missing < 0:
            raise DataError(
                f"a text of {value.shape[-1]} symbols, and this model has {self.steps} at most: cut it "
                "(--max_length), or give the model a longer --model.length"
            )
        x = padded(value.long(), missing, 0 if self.end is None else self.end)
        if ends is None:
            ends = torch.full(x.shape[:-1], value.shape[-1], device=x.device) if self.end is None else self.lengths(x)
        inside = torch.arange(x.shape[-1], device=x.device) < ends.unsqueeze(-1)
        if self.end is None:
            return torch.where(inside, x, 0), inside
        last = x.gather(-1, (ends - 1).clamp(min=0).expand(x.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        if bool(((last != self.end) & (ends < x.shape[-1])).any()):
            raise DataError(
                f"a text of fewer than {x.shape[-1]} symbols does not end in symbol {self.end}: give the model the "
                "length at which texts are cut (--model.length, the same as --max_length)"
            )
        return torch.where(inside, x, self.end), torch.ones_like(inside)

    def given(self, x: Tensor, mask: Tensor) -> MaskedSymbols:
        """The same with the symbols of x (B, T) that the mask shows fixed in draws, and, where the lengths are known,
        no end before them and nothing behind. These are draws of the process that shows these symbols first, not of
        p(hidden | shown), which orders in which they come later weigh too."""
        fixed = copy.copy(self)
        fixed._event_shape = torch.Size([x.shape[-1]])
        missing = self.steps - x.shape[-1]
        fixed.known = padded(torch.where(mask, x, 0).long(), missing, 0), padded(mask, missing, False)
        return fixed

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if len(sample_shape):
            raise NotImplementedError("draws of several samples: make them part of the batch shape")
        x, hidden, inside, banned = self._begin()
        rows = torch.arange(len(x), device=x.device)
        for chosen in self._shown(hidden):
            at = chosen.any(-1).nonzero().squeeze(-1)
            if not len(at):
                continue
            where = chosen[at].flatten().nonzero().squeeze(-1)
            logits = self.guess.logits(x[at], hidden[at], inside[at], rows[at], where)
            if self.end is not None:
                logits[banned[at].flatten()[where], self.end] = -torch.inf
            filled = x[at].flatten()
            filled[where] = draw(logits)
            x[at] = filled.view(len(at), -1)
            hidden[at] = hidden[at] & ~chosen[at]
        # of what is completed as many symbols as there were
        x = x.view(*self.batch_shape, -1)[..., : self.event_shape[0]]
        if self.end is None:
            return x
        return x.masked_fill(torch.arange(x.shape[-1], device=x.device) >= self.lengths(x).unsqueeze(-1), 0)

    def _begin(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, what of it is hidden, where there are symbols, and where none may be the end; S x B rows of each."""
        shape = torch.Size([*self.batch_shape, self.steps])
        x = torch.zeros(shape, dtype=torch.long, device=self.like.device)
        known, inside, banned = (torch.zeros_like(x, dtype=torch.bool) for _ in range(3))
        inside = ~inside
        steps = torch.arange(shape[-1], device=x.device)
        if self.end is None and self.known_lengths is not None:
            inside = (steps < self.known_lengths.unsqueeze(-1)).expand(shape)
        if self.known is not None:
            x, known = (part.expand(shape).clone() for part in self.known)
            if self.end is not None and self.known_lengths is not None:
                last = self.known_lengths.unsqueeze(-1)
                banned = (steps < last - 1).expand(shape)
                over = steps >= torch.where(last < self.steps, last - 1, last)
                x, known = torch.where(over, self.end, x), known | over
        return tuple(part.flatten(0, -2) for part in (x, inside & ~known, inside, banned))  # type: ignore[return-value]

    def _shown(self, hidden: Tensor) -> Iterator[Tensor]:
        """At each step which of what is hidden is shown; `hidden` changes in between."""
        if self.draw_steps is None:
            order = torch.rand(hidden.shape, device=hidden.device).masked_fill(~hidden, 2.0).argsort(-1).argsort(-1)
            for turn in range(int(hidden.sum(-1).max()) if hidden.numel() else 0):
                yield (order == turn) & hidden
            return
        for step in range(self.draw_steps, 0, -1):
            yield hidden & (torch.rand(hidden.shape, device=hidden.device) < 1 / step)

    @property
    def mean(self) -> Tensor:
        """E[x], estimated, as it has no closed form: the symbols of one draw."""
        return self.sample().to(self.like.dtype)


def padded(x: Tensor, steps: int, value: int | bool) -> Tensor:
    """x (..., T) with so many steps more, of this value."""
    return torch.cat([x, x.new_full((*x.shape[:-1], steps), value)], -1) if steps > 0 else x


@observed.log_prob_bound.register
def _(p: MaskedSymbols, x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        steps = torch.arange(x.shape[-1], device=x.device)
        inside = torch.ones_like(mask) if p.known_lengths is None else steps < p.known_lengths.unsqueeze(-1)
        if bool((inside & ~mask).any()):
            raise CapabilityError(
                "a masked diffusion has no bound on the probability of a text of which symbols are hidden: those that "
                "are shown in any order would have to be summed over; complete fills them in"
            )
    return p.log_prob_bound(x)


@observed.given.register
def _(p: MaskedSymbols, x: Tensor, mask: Tensor | None) -> MaskedSymbols:
    return p if mask is None else p.given(x, mask)


@observed.ending.register
def _(p: MaskedSymbols, lengths: Tensor | None) -> MaskedSymbols:
    ended = copy.copy(p)
    ended.known_lengths = lengths if lengths is not None else p.known_lengths
    return ended


@observed.ends.register
def _(p: MaskedSymbols, x: Tensor) -> Tensor | None:
    return None if p.end is None else p.lengths(x)
