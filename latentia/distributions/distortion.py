"""How far x is from what it is rebuilt as."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.observed import expected

Distortion = Callable[[Tensor, Tensor], Tensor]
"""d(x, y) of each coordinate, for x (B, *event) and y (S, B, *event), (S, B, *event), at least 0."""


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(x - y)^2."""
    return (x - y) ** 2


def hamming(x: Tensor, y: Tensor) -> Tensor:
    """1 where the nearest whole number to y is not x. No gradient flows through it: measure by it, and learn by `elbo`
    of a `RateDistortion`."""
    return (x != y.round()).to(y)


def distortions(p: Distribution, x: Tensor, seen: Tensor | None, distortion: Distortion) -> Tensor:
    """d(x, E[x | z]) of what is `seen`, all where it is None, summed, (S, B); p is p(x | z)."""
    y = expected(p)
    each = distortion(x.to(y.dtype), y)
    each = each if seen is None else torch.where(seen, each, 0.0)
    return each.flatten(2).sum(-1)
