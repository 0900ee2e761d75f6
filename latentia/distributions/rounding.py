"""Whole numbers and the noise that stands for rounding: what a quantised code is learned by.

    q(z | y) = y + Uniform(-1/2, 1/2)         p(z) = P(z - 1/2 < w < z + 1/2),  w ~ a mixture of logistics

p is the density of w + Uniform(-1/2, 1/2), and at a whole number it is the probability that w rounds to it: -log p(z)
of a noisy z tells, without a jump anywhere, what rounding will cost (Ballé, Laparra and Simoncelli 2017, "End-to-end
optimized image compression", section 3).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from latentia.distributions.discrete import Shape, inside

SLACK = 1e-4
"""By how much a number may lie beyond half a unit from y, which float32 rounds."""


class Dithered(Distribution):
    """y + Uniform(-1/2, 1/2) of each coordinate.

    Args:
        mean: y, (B, *event).
    """

    has_rsample = True
    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, mean: Tensor):
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)
        self.loc = mean

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The whole number that is told instead of a draw."""
        return self.loc.round()

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.loc, 1 / 12)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]
        noise = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise - 0.5

    def log_prob(self, value: Tensor) -> Tensor:
        """0 within half a unit of y, else -inf, in nats."""
        outside = ((value - self.loc).abs() > 0.5 + SLACK).flatten(-len(self.event_shape)).any(-1)
        # y's gradient is that of a constant
        return torch.where(outside, -torch.inf, 0 * (value - self.loc).flatten(-len(self.event_shape)).sum(-1))


class Rounded(Distribution):
    """p(z) = prod_d sum_k weight_ck [s((z_d + 1/2 - loc_ck) / scale_ck) - s((z_d - 1/2 - loc_ck) / scale_ck)] of
    coordinates d that lie in channels c, s being the sigmoid.

    Args:
        log_weights, loc, scale: (C, K), of the mixture of each channel.
        size: B. shape: (C, *places) of one z.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, log_weights: Tensor, loc: Tensor, scale: Tensor, size: int, shape: Shape):
        super().__init__(torch.Size([size]), torch.Size(shape), validate_args=False)
        self.log_weights, self.loc, self.scale = log_weights, loc, scale

    def terms(self, value: Tensor) -> Tensor:
        """log p of each coordinate, the shape of `value`."""
        flat = value.reshape(*value.shape[: value.ndim - len(self.event_shape)], len(self.loc), -1, 1)
        loc, scale = self.loc.unsqueeze(-2), self.scale.unsqueeze(-2)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), of which nothing cancels
        cell = logsigmoid((flat + 0.5 - loc) / scale) + logsigmoid((loc - flat + 0.5) / scale)
        cell = cell + torch.log(-torch.expm1(-1 / scale))
        return torch.logsumexp(cell + self.log_weights.unsqueeze(-2), -1).reshape(value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.terms(value).flatten(-len(self.event_shape)).sum(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            places = shape.numel() // len(self.loc)
            which = torch.multinomial(self.log_weights.exp(), places, replacement=True)
            loc, scale = (part.gather(1, which) for part in (self.loc, self.scale))
            drawn = loc + scale * inside(torch.rand_like(loc)).logit() + torch.rand_like(loc) - 0.5
            count = shape.numel() // self.event_shape.numel()
            return drawn.unflatten(1, (count, -1)).transpose(0, 1).reshape(shape)

    @property
    def mean(self) -> Tensor:
        return self._spread((self.log_weights.exp() * self.loc).sum(-1))

    @property
    def variance(self) -> Tensor:
        """Of the mixture, and of the noise."""
        weight = self.log_weights.exp()
        mean = (weight * self.loc).sum(-1, keepdim=True)
        return self._spread((weight * ((self.loc - mean) ** 2 + (torch.pi * self.scale) ** 2 / 3)).sum(-1) + 1 / 12)

    def _spread(self, values: Tensor) -> Tensor:
        """(C,) at every place, (B, C, *places)."""
        return values.reshape(-1, *(1,) * (len(self.event_shape) - 1)).expand(*self.batch_shape, *self.event_shape)
