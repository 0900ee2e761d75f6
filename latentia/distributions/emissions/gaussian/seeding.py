"""Where a fit begins: the center and the units of the data, and k-means on some of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.distributions.emissions.base import LARGEST
from latentia.distributions.emissions.gaussian.parameters import Gaussians
from latentia.kernels.blocks import block_rows, sum_blocks


def start(gaussians: Gaussians, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
    """`Emissions.start`."""
    _set_units(gaussians, x, mask, weight)
    some = sample(weight, max(10_000, 256 * len(gaussians.means)), generator)
    x, mask, weight = x[some], None if mask is None else mask[some], weight[some].to(x)
    standard = gaussians.standard(x) if mask is None else torch.where(mask, gaussians.standard(x), 0.0)
    if not len(x):
        standard, weight = gaussians.center.new_zeros(1, len(gaussians.center)), weight.new_ones(1)
    centers = kmeans(standard, weight, len(gaussians.means), generator)
    nearest = torch.cdist(standard, centers).argmin(1)
    gaussians.means.data = gaussians.center + centers * gaussians.unit
    unit = gaussians.unit.amax() if gaussians.round else gaussians.unit
    gaussians.log_scale.data = unit.log().expand_as(gaussians.log_scale).clone()
    if gaussians.dense:
        gaussians.below.data.zero_()
    if len(x):
        member = nn.functional.one_hot(nearest, len(gaussians.means)).to(x) * weight.unsqueeze(-1)
        gaussians.update(gaussians.statistics(x, mask, member))


def _set_units(gaussians: Gaussians, x: Tensor, mask: Tensor | None, weight: Tensor) -> None:
    """The mean and standard deviation of what is observed, in float64; a column that does not vary, its least value
    being its largest, has its size for unit."""
    low, high = _range(x, mask, weight)
    # below the reach of squares differences are none
    seen, varies = high >= low, high - low > 1 / LARGEST
    low, span = torch.where(seen, low, 0.0), torch.where(varies, high - low, 1.0)

    def block(part: slice) -> tuple[Tensor, ...]:
        mass = weight[part].double().unsqueeze(-1) * (1.0 if mask is None else mask[part])
        # from 0 to 1, so that no digits cancel and no square overflows
        y = torch.where(mass > 0, (x[part].double() - low) / span, 0.0)
        return mass.sum(0).expand(len(low)).clone(), (mass * y).sum(0), (mass * y**2).sum(0)

    count, first, second = sum_blocks(block, len(x), block_rows(x.shape[1], x))
    mean, square = (total / torch.where(count > 0, count, 1.0) for total in (first, second))
    deviation = span * (square - mean**2).clamp(min=torch.finfo(torch.float64).eps ** 2).sqrt()
    # smaller sizes, which only data of no weight can hide from `check`, are as good as 0
    size = torch.where(low.abs() > 1 / LARGEST, low.abs(), 1.0)
    gaussians.center.copy_(torch.where(varies, low + span * mean, low))
    unit = torch.where(varies, deviation, size)
    # one for all is that of the columns that vary, next to which the size of another may be vast
    gaussians.unit.copy_(unit[varies if bool(varies.any()) else ~varies].amax() if gaussians.round else unit)


def _range(x: Tensor, mask: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest observed value of each column, over data of some weight, (D,) in float64; inf and -inf
    where there is none."""
    low = torch.full((x.shape[1],), torch.inf, dtype=torch.float64, device=x.device)
    high = -low
    rows = block_rows(x.shape[1], x)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        there = (weight[part] > 0).unsqueeze(-1)
        there = there if mask is None else there & mask[part]
        low = torch.minimum(low, torch.where(there, x[part], torch.inf).amin(0).double())
        high = torch.maximum(high, torch.where(there, x[part], -torch.inf).amax(0).double())
    return low, high


def sample(weight: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most so many rows of some weight, at random: a starting point needs no more."""
    present = (weight > 0).nonzero().squeeze(-1)
    if len(present) <= most:
        return present
    order = torch.randint(len(present), (most,), generator=generator)
    return present[order.sort().values.to(present.device)]


def kmeans(x: Tensor, weight: Tensor, k: int, generator: torch.Generator, steps: int = 10) -> Tensor:
    """k-means++ seeding (Arthur and Vassilvitskii 2007) and a few Lloyd steps: centers (k, D)."""
    weight = weight.to(x)
    centers = x[torch.multinomial(weight, 1, generator=generator)]
    distance = torch.cdist(x, centers).squeeze(-1) ** 2
    while len(centers) < k:
        mass = distance * weight
        mass = mass if bool(mass.sum() > 0) else weight
        centers = torch.cat([centers, x[torch.multinomial(mass, 1, generator=generator)]])
        distance = torch.minimum(distance, torch.cdist(x, centers[-1:]).squeeze(-1) ** 2)
    for _ in range(steps):
        member = nn.functional.one_hot(torch.cdist(x, centers).argmin(1), k).to(x) * weight.unsqueeze(-1)
        count = member.sum(0).unsqueeze(-1)
        centers = torch.where(count > 0, member.T @ x / count.clamp(min=torch.finfo(x.dtype).tiny), centers)
    return centers
