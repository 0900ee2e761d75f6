"""The least rate at which a finite source can be told with so much distortion: exact, by Blahut and Arimoto.

    R(D) = min I(x; y) over p(y | x) with E d(x, y) <= D

The curve is convex, and each of its points is where I(x; y) + slope * E d(x, y) is least, for some slope >= 0. There
p(y | x) is proportional to q(y) exp(-slope d(x, y)), q(y) being the marginal of y, and taking turns converges (Blahut
1972, "Computation of channel capacity and rate-distortion functions"; Arimoto 1972). Nothing that is learned from data
can lie below it: it is what a rate-distortion autoencoder of a known source is held against.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentia.errors import OptionError


class RatePoint(NamedTuple):
    """A point of R(D).

    Attributes:
        rate: I(x; y) in nats a symbol. distortion: E d(x, y).
        marginal: q(y), (Y,).
        gap: by how much rate + slope * distortion may be above its minimum, in nats, at most.
    """

    rate: float
    distortion: float
    marginal: Tensor
    gap: float


def blahut_arimoto(
    source: Tensor, distortion: Tensor, slope: float, *, tol: float = 1e-6, steps: int = 100_000
) -> RatePoint:
    """The point of R(D) with R'(D) = -slope.

    Args:
        source: p(x), (X,); distortion: d(x, y), (X, Y), both float64 or made so.
        slope: nats that a unit of distortion is worth.
        tol: it stops when `gap` is so small; steps: or after so many turns.

    Raises:
        OptionError: a source that is no distribution, a negative slope, or shapes that do not go together.
    """
    source, distortion = source.double(), distortion.double()
    if source.ndim != 1 or distortion.ndim != 2 or len(distortion) != len(source):
        raise OptionError(f"source {tuple(source.shape)} and distortion {tuple(distortion.shape)}: (X,) and (X, Y)")
    if bool((source < 0).any()) or abs(float(source.sum()) - 1) > 1e-6:
        raise OptionError("source: probabilities of at least 0 that sum to 1")
    source = source / source.sum()
    if not 0 <= slope < float("inf"):
        raise OptionError(f"slope={slope}: it must be a number of at least 0")
    # the least distortion of each x has the weight 1, so that no sum vanishes
    least = distortion.amin(1, keepdim=True)
    weight = (-slope * (distortion - least)).exp()
    marginal = torch.full((distortion.shape[1],), 1 / distortion.shape[1], dtype=torch.float64)
    gap = float("inf")
    for _ in range(steps):
        ratio = (source / (weight @ marginal)) @ weight
        # Blahut (1972), theorem 6: the minimum lies between these two
        gap = float(ratio.log().amax() - torch.special.xlogy(marginal * ratio, ratio).sum())
        marginal = marginal * ratio
        if gap <= tol:
            break
    total = weight @ marginal
    channel = weight * marginal / total.unsqueeze(-1)
    mean = float((source @ (channel * distortion)).sum())
    rate = -slope * (mean - float(source @ least.squeeze(-1))) - float(torch.special.xlogy(source, total).sum())
    return RatePoint(max(rate - _excess(source, channel, marginal), 0.0), mean, marginal, gap)


def _excess(source: Tensor, channel: Tensor, marginal: Tensor) -> float:
    """By how much E KL(p(y | x) || q(y)) is above I(x; y), where q is not yet the marginal of y."""
    own = source @ channel
    return float((torch.special.xlogy(own, own) - torch.special.xlogy(own, marginal)).sum())
