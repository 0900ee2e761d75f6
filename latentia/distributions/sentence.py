"""Symbols drawn one after another, up to an end that is a symbol too."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from latentia.distributions import observed
from latentia.errors import CapabilityError, DataError

MOST_FILLINGS = 4096
"""Ways to fill in hidden symbols that are summed over: a pass of the network each."""


class AutoregressiveCategorical(Distribution):
    """p(x) = prod_t p(x_t | x_1, ..., x_{t-1}), each a categorical over V symbols, up to the first `end`, which counts.

    `log_prob` is one call of `logits` ("teacher forcing"), `sample` one for each step. What comes after the end is
    nothing: 0 in draws, and not looked at. With T steps at most, a draw that has not ended by then is cut off there.

    Args:
        logits: symbols (S, B, T) or (B, T) to logits (S, B, T, V), of which those of step t must not depend on x_t or
            what comes after it.
        like: any tensor of the batch shape (S, B), dtype and device.
        steps: T.
        end: the symbol that ends x; None where all x have T steps.
        known: (B,), how many symbols each x has, where that is known of x that are hidden in part.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        like: Tensor,
        steps: int,
        end: int | None = None,
        known: Tensor | None = None,
    ):
        self.logits, self.like, self.end, self.known = logits, like, end, known
        super().__init__(like.shape, torch.Size([steps]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        blank = torch.zeros(*self.batch_shape, 1, dtype=torch.long, device=self.like.device)
        return constraints.integer_interval(0, self.logits(blank).shape[-1] - 1)

    def lengths(self, x: Tensor) -> Tensor:
        """How many symbols x (..., T) has, its end among them, (...)."""
        if self.end is None:
            return torch.full(x.shape[:-1], x.shape[-1], device=x.device)
        before = (x == self.end).cumsum(-1) - (x == self.end).long()
        return (before == 0).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats, (S, B), for x (B, T) or (S, B, T)."""
        inside = torch.arange(value.shape[-1], device=value.device) < self.lengths(value).unsqueeze(-1)
        return torch.where(inside, self.terms(value), 0.0).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        """log p(x_t | x_1, ..., x_{t-1}) in nats, (S, B, T)."""
        log_probs = self.logits(value.long()).log_softmax(-1)
        return log_probs.gather(-1, value.long().expand(log_probs.shape[:-1]).unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if len(sample_shape):
            raise NotImplementedError("draws of several samples: make them part of the batch shape")
        x = torch.zeros(*self.batch_shape, *self.event_shape, dtype=torch.long, device=self.like.device)
        over = torch.zeros(self.batch_shape, dtype=torch.bool, device=self.like.device)
        for t in range(self.event_shape[0]):
            if bool(over.all()):
                break
            logits = self.logits(x[..., : t + 1])[..., t, :]
            drawn = torch.distributions.Categorical(logits=logits, validate_args=False).sample()
            x[..., t] = torch.where(over, 0, drawn)
            over = over | (drawn == self.end) if self.end is not None else over
        return x

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
        hidden = needed & ~mask
        symbols = int(self.support.upper_bound) + 1  # type: ignore[attr-defined]
        most = int(hidden.sum(-1).max()) if hidden.numel() else 0
        if symbols**most > MOST_FILLINGS:
            raise DataError(
                f"a datum has {most} hidden symbols before its last observed one: an autoregressive model sums over "
                f"the {symbols}^{most} ways to fill them in, and {MOST_FILLINGS} are the most"
            )
        place, count = (hidden.cumsum(-1) - 1).clamp(min=0), hidden.sum(-1)
        # up to and with the symbol after which there may be nothing
        goes_on = (
            needed if self.known is None else torch.arange(x.shape[-1], device=x.device) < self.known.unsqueeze(-1)
        )
        terms = []
        for filling in range(symbols**most):
            digit = torch.tensor([filling // symbols**d % symbols for d in range(max(most, 1))], device=x.device)
            filled = torch.where(hidden, digit[place], torch.where(mask, x, 0).long())
            term = torch.where(needed, self.terms(filled), 0.0).sum(-1)
            # an end that is filled in would leave nothing to come
            possible = (self.lengths(filled) > (goes_on.sum(-1) - 1)) & (filling < symbols**count)
            terms.append(term.where(possible, -torch.inf))
        return torch.logsumexp(torch.stack(terms), 0)


@observed.log_prob.register
def _(p: AutoregressiveCategorical, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.log_prob(x) if mask is None else p.marginal(x, mask)


@observed.given.register
def _(p: AutoregressiveCategorical, x: Tensor, mask: Tensor | None) -> Distribution:
    """Raises `CapabilityError` where symbols are hidden: those before others cannot be drawn forwards."""
    if mask is None:
        return p
    raise CapabilityError("an autoregressive model of symbols cannot yet be given a part of them")


@observed.ending.register
def _(p: AutoregressiveCategorical, lengths: Tensor | None) -> AutoregressiveCategorical:
    return AutoregressiveCategorical(p.logits, p.like, p.event_shape[0], p.end, lengths)


@observed.ends.register
def _(p: AutoregressiveCategorical, x: Tensor) -> Tensor | None:
    return None if p.end is None else p.lengths(x)
