"""p(x | z) where z chooses among K distributions, once for a datum or once for each of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from latentia.distributions import observed


class Choices(Protocol):
    """K distributions over one observation: `Emissions`, or any other that answer these."""

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x | z = k) of what is observed, in nats, (M, K), for x (M, ...)."""
        ...

    def given(self, z: Tensor) -> Distribution:
        """p(x | z) for one-hot z (..., K)."""
        ...

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        """p(x | z, the observed part of x), for x and mask (*batch, ...) and z (S, *batch, K)."""
        ...


class Emitted(Distribution):
    """p(x | z) = prod_t p(x_t | z_t), batch shape (S, B). Its log-density reads each of the K once for each
    observation, however many draws of z there are.

    Args:
        choices: the K distributions of an observation.
        z: one-hot, (S, B, K) where z is chosen once a datum, (S, B, T, K) once a step, zero beyond the end.
        event_shape: of x.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, choices: Choices, z: Tensor, event_shape: Sequence[int]):
        self.choices, self.z = choices, z
        super().__init__(z.shape[:2], torch.Size(event_shape), validate_args=False)

    @property
    def plain(self) -> Distribution:
        """p(x | z) as torch has it, with shapes of its own."""
        return self._whole(self.choices.given(self.z))

    def _whole(self, given: Distribution) -> Distribution:
        shape = given.batch_shape + given.event_shape
        if shape[2:].numel() == math.prod(self.event_shape):
            return given
        return given.expand(self.batch_shape + self.event_shape)  # a bag, of as many symbols as are asked for

    @property
    def support(self) -> constraints.Constraint:
        return self.plain.support  # type: ignore[return-value]

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        x = self.plain.sample(torch.Size(sample_shape))
        return x.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        return observed.expected(self.plain).reshape(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.plain.variance.reshape(*self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | z) in nats, (S, B), for x (B, *event)."""
        return self.log_prob_of(value, None)

    def log_prob_of(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The same of what is observed: sum_t sum_k z_tk log p(x_t | k)."""
        rows = self._observations(x), None if mask is None else self._observations(mask)
        nodes = self.choices.log_prob(*rows).unflatten(0, self.z.shape[1:-1])
        # 0 * -inf: what is not chosen adds nothing, however impossible
        return torch.where(self.z != 0, self.z * nodes, 0.0).flatten(2).sum(-1)

    def given(self, x: Tensor, mask: Tensor | None) -> Distribution:
        """p(x | z, the observed part of x)."""
        if mask is None:
            return self.plain
        if x.ndim > self.z.ndim - 1:
            x, mask = x.flatten(self.z.ndim - 2), mask.flatten(self.z.ndim - 2)
        return self._whole(self.choices.conditional(x, mask, self.z))

    def _observations(self, x: Tensor) -> Tensor:
        """(M, ...): a row for each choice."""
        rows = x.flatten(0, self.z.ndim - 3) if self.z.ndim > 3 else x
        return rows.flatten(1) if rows.ndim > 2 else rows


@observed.log_prob.register
def _(p: Emitted, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.log_prob_of(x, mask)


@observed.given.register
def _(p: Emitted, x: Tensor, mask: Tensor | None) -> Distribution:
    return p.given(x, mask)


@observed.plain.register
def _(p: Emitted) -> Distribution:
    return p.plain
