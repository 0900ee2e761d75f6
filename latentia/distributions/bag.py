"""Symbols in any order, each drawn alike: from one distribution, or from a mixture of the same K."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from latentia.distributions import observed
from latentia.distributions.emissions.rows import known_symbols


class MixedBag(Distribution):
    """p(x) = prod_t sum_k share_k probs[k, x_t]: x (T,) symbols, each on its own. Batch shape (S, B).

    Its log-density reads of `probs` the columns of the symbols that there are, not a distribution over all for each.

    Args:
        share: (S, B, K), rows sum to one.
        probs: (K, V), rows sum to one.
        steps: T.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, share: Tensor, probs: Tensor, steps: int):
        self.share, self.probs = share, probs
        super().__init__(share.shape[:-1], torch.Size([steps]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.probs.shape[-1] - 1)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        mixed = (self.share @ self.probs).expand(*sample_shape, *self.batch_shape, -1)
        drawn = torch.multinomial(mixed.flatten(0, -2), max(self.event_shape[0], 1), replacement=True)
        return drawn.reshape(*mixed.shape[:-1], -1)[..., : self.event_shape[0]]

    @property
    def mean(self) -> Tensor:
        """The expected symbol's number, (S, B, T)."""
        levels = torch.arange(self.probs.shape[-1], dtype=self.share.dtype, device=self.share.device)
        return (self.share @ self.probs @ levels).unsqueeze(-1).expand(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats, (S, B), for x (B, T)."""
        return observed.log_prob(self, value, None)


@observed.log_prob.register
def _(p: MixedBag, x: Tensor, mask: Tensor | None) -> Tensor:
    symbols = known_symbols(x, mask, p.probs.shape[-1])
    each = torch.einsum("sbk,kbt->sbt", p.share, p.probs[:, symbols])
    log_prob = each.clamp(min=torch.finfo(each.dtype).tiny).log()
    return (log_prob if mask is None else torch.where(mask, log_prob, 0.0)).sum(-1)


@observed.given.register
def _(p: MixedBag, x: Tensor, mask: Tensor | None) -> Distribution:
    return p


@observed.plain.register
def _(p: MixedBag) -> Distribution:
    return Categorical(probs=(p.share @ p.probs).unsqueeze(-2), validate_args=False).expand(
        p.batch_shape + p.event_shape
    )


class Bag(Distribution):
    """p(x) = prod_t exp(log_probs[x_t]): x (T,) symbols, each on its own. Batch shape (S, B).

    Args:
        log_probs: (S, B, V), log-probabilities; steps: T.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, log_probs: Tensor, steps: int):
        self.log_probs = log_probs
        super().__init__(log_probs.shape[:-1], torch.Size([steps]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.log_probs.shape[-1] - 1)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        probs = self.log_probs.exp().expand(*sample_shape, *self.log_probs.shape)
        drawn = torch.multinomial(probs.flatten(0, -2), max(self.event_shape[0], 1), replacement=True)
        return drawn.reshape(*probs.shape[:-1], -1)[..., : self.event_shape[0]]

    @property
    def mean(self) -> Tensor:
        """The expected symbol's number, (S, B, T)."""
        levels = torch.arange(self.log_probs.shape[-1], dtype=self.log_probs.dtype, device=self.log_probs.device)
        return (self.log_probs.exp() @ levels).unsqueeze(-1).expand(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats, (S, B), for x (B, T)."""
        return observed.log_prob(self, value, None)


@observed.log_prob.register
def _(p: Bag, x: Tensor, mask: Tensor | None) -> Tensor:
    symbols = known_symbols(x, mask, p.log_probs.shape[-1])
    each = p.log_probs.gather(-1, symbols.expand(*p.batch_shape, -1))
    return (each if mask is None else torch.where(mask, each, 0.0)).sum(-1)


@observed.given.register
def _(p: Bag, x: Tensor, mask: Tensor | None) -> Distribution:
    return p


@observed.plain.register
def _(p: Bag) -> Distribution:
    return Categorical(logits=p.log_probs.unsqueeze(-2), validate_args=False).expand(p.batch_shape + p.event_shape)
