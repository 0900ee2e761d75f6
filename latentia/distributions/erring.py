"""Values that are told with errors: what the number of wrong values is the log-probability of."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from latentia.distributions import observed
from latentia.distributions.bounded import Bounded
from latentia.distributions.discrete import Shape


class Erring(Bounded):
    """x_d is the value y_d with probability 1 - (V - 1) e, and each of the others with e = 1 / (exp(slope) + V - 1):

        log p(x | y) = -slope (number of x_d != y_d) - D log (1 + (V - 1) exp(-slope))

    While y is being learned it is V chances a coordinate, and the number of errors its mean. exp of that sums to no
    more than 1 over x, as it is convex in the chances, so that it is a bound, and the density where they are 0 and 1.

    Args:
        chances: (*batch, *event, V), which sum to 1.
        slope: nats that an error costs.
        dimensions: of the event.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, chances: Tensor, slope: float, dimensions: int):
        shape = chances.shape[:-1]
        super().__init__(shape[: len(shape) - dimensions], shape[len(shape) - dimensions :], validate_args=False)
        self.chances, self.slope = chances, slope

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    @property
    def values(self) -> int:
        return self.chances.shape[-1]

    @property
    def mean(self) -> Tensor:
        """y, the likeliest value: what x is rebuilt as."""
        return self.chances.argmax(-1).to(self.chances)

    @property
    def mode(self) -> Tensor:
        return self.mean

    def terms(self, value: Tensor) -> Tensor:
        """The bound of each coordinate, (*batch, *event)."""
        index = value.long().expand(self.chances.shape[:-1]).unsqueeze(-1)
        right = self.chances.gather(-1, index).squeeze(-1)
        return self.slope * (right - 1) - math.log1p((self.values - 1) * math.exp(-self.slope))

    def log_prob_bound(self, value: Tensor) -> Tensor:
        return self.terms(value).flatten(len(self.batch_shape)).sum(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]
        with torch.no_grad():
            y = self.mean.expand(self._extended_shape(torch.Size(sample_shape)))
            wrong = (self.values - 1) / (math.exp(self.slope) + self.values - 1)
            other = (y + torch.randint_like(y, 1, self.values)) % self.values if self.values > 1 else y
            return torch.where(torch.rand_like(y) < wrong, other, y)


@observed.log_prob_bound.register
def _(p: Erring, x: Tensor, mask: Tensor | None) -> Tensor:
    terms = p.terms(x if mask is None else torch.where(mask, x, 0))
    terms = terms if mask is None else torch.where(mask, terms, 0.0)
    return terms.flatten(len(p.batch_shape)).sum(-1)


@observed.given.register
def _(p: Erring, x: Tensor, mask: Tensor | None) -> Erring:
    return p  # coordinates are independent
