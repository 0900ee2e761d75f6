"""Binary vectors drawn one coordinate after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid


class AutoregressiveBernoulli(Distribution):
    """p(x) = prod_d Bernoulli(x_d; sigmoid(l_d(x_1, ..., x_{d-1}))), coordinates in row-major order.

    `log_prob` is one call of `logits` ("teacher forcing"), `sample` one for each coordinate.

    Args:
        logits: values (..., D) to l, (..., D), of which the d-th must not depend on x_d or what comes after it. Called
            with all dimensions, or with fewer leading ones that broadcast to `like`'s.
        like: any tensor of the batch shape, dtype and device that draws shall have.
        event_shape: D is the product of it.
        known: broadcastable to (*batch_shape, *event_shape): what is not NaN is given, not drawn. The draws of the rest
            are then draws given that only where none of it comes before a known value.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(
        self, logits: Callable[[Tensor], Tensor], like: Tensor, event_shape: Sequence[int], known: Tensor | None = None
    ):
        self.logits, self.like, self.known = logits, like, known
        super().__init__(like.shape, torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.terms(value).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        """log p(x_d | x_1, ..., x_{d-1}) in nats, (..., D)."""
        x = value.flatten(-len(self.event_shape)).to(self.like.dtype)
        return logsigmoid((2 * x - 1) * self.logits(x))

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._decode(sample_shape)[0]

    @property
    def mean(self) -> Tensor:
        """E[x], estimated, as it has no closed form: p(x_d = 1 | x_1, ..., x_{d-1}) along one draw, without bias, and
        with less variance than that of the draw itself."""
        return self._decode(())[1]

    @torch.no_grad()
    def _decode(self, sample_shape: torch.Size | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """x drawn, and the probability of a 1 that each coordinate had: (*sample_shape, *batch_shape, *event_shape)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        size = math.prod(self.event_shape)
        given = self.like.new_full(self.event_shape, math.nan) if self.known is None else self.known
        given = given.flatten(-len(self.event_shape)).expand(*shape, size)
        x, chance, uniform = torch.zeros_like(given), torch.zeros_like(given), torch.rand_like(given)
        for d in range(size):
            free = given[..., d].isnan()
            # a network's call is what costs
            chance[..., d] = given[..., d]
            if bool(free.any()):
                chance[..., d] = torch.where(free, self.logits(x)[..., d].sigmoid(), given[..., d])
            x[..., d] = (uniform[..., d] < chance[..., d]).to(x.dtype)
        return x.unflatten(-1, self.event_shape), chance.unflatten(-1, self.event_shape)
