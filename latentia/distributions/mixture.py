"""A mixture of distributions of one family, the same for every datum."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Mixture(Distribution):
    """p(z) = sum_k exp(log_weights[k]) parts[k](z), for a batch of (B,) data that all have it.

    torch's `MixtureSameFamily` has a mixture for each datum, and draws from all parts to keep one.

    Args:
        parts: batch shape (K,), of any family, over z (*event).
        log_weights: (K,), normalised.
        size: B.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, parts: Distribution, log_weights: Tensor, size: int):
        self.parts, self.log_weights = parts, log_weights
        super().__init__(torch.Size([size]), parts.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.parts.support  # type: ignore[return-value]

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = self._extended_shape(torch.Size(sample_shape))
        count = shape[: len(shape) - len(self.event_shape)].numel()
        with torch.no_grad():
            part = torch.multinomial(self.log_weights.exp(), count, replacement=True)
            # the first draw that wants part k takes the first of k's, the second the second, ...
            order = part.argsort(stable=True)
            first = torch.searchsorted(part[order], torch.arange(len(self.log_weights), device=part.device))
            place = torch.empty_like(part).scatter_(0, order, torch.arange(count, device=part.device))
            place = place - first[part]
            drawn = self.parts.sample((int(place.max()) + 1,))  # type: ignore[arg-type]
        return drawn[place, part].reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) in nats, (S, B)."""
        split = value.ndim - len(self.event_shape)
        apart = self.parts.log_prob(value.reshape(-1, 1, *self.event_shape))
        total = torch.logsumexp(apart + self.log_weights, -1).reshape(value.shape[:split])
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    @property
    def mean(self) -> Tensor:
        """E[z], (B, *event)."""
        mean = torch.tensordot(self.log_weights.exp(), self.parts.mean, 1)
        return mean.expand(self.batch_shape + self.event_shape)
