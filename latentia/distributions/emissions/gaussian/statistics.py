"""The sums over the data that an M-step asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.distributions.emissions.base import Statistics, responsibilities
from latentia.distributions.emissions.gaussian.densities import beyond, features, natural_for, of_features, prepared
from latentia.distributions.emissions.gaussian.parameters import Gaussians
from latentia.kernels.blocks import block_rows, sum_blocks
from latentia.kernels.quadratic import expectations, plain, symmetric


def statistics(gaussians: Gaussians, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
    """float64 sums over the M observations, weighted by responsibility (M, K); a mask only without correlations."""

    def block(part: slice) -> tuple[Tensor, ...]:
        seen = None if mask is None else mask[part]
        return _products(gaussians, features(gaussians, x[part], seen, reuse=True), x[part], responsibility[part], seen)

    return of_products(gaussians, sum_blocks(block, len(x), block_rows(_width(gaussians), x)), mask is not None)


def mixture_step(
    gaussians: Gaussians, x: Tensor, mask: Tensor | None, weight: Tensor, log_prior: Tensor, hard: bool = False
) -> tuple[Statistics, Tensor]:
    """`Emissions.mixture_step` in one pass over the data; a mask only without correlations."""
    if mask is None and not hard and gaussians.covariance != "tied" and plain(x):
        found = _whole_step(gaussians, x, weight, log_prior)
        if found is not None:
            return found
    natural, safe = prepared(gaussians, x, mask)

    def block(part: slice) -> tuple[Tensor, ...]:
        seen = None if mask is None else mask[part]
        phi = features(gaussians, x[part], seen, reuse=True)
        log_joint = of_features(gaussians, phi, natural, x[part], seen, safe).add_(log_prior)
        responsibility, value = responsibilities(log_joint, weight[part], hard)
        return *_products(gaussians, phi, x[part], responsibility, seen), value

    *sums, value = sum_blocks(block, len(x), block_rows(_width(gaussians), x))
    return of_products(gaussians, tuple(sums), mask is not None), value


def _whole_step(gaussians: Gaussians, x: Tensor, weight: Tensor, log_prior: Tensor) -> tuple[Statistics, Tensor] | None:
    """`mixture_step` of rows of which all is seen, or None where it turns out that rounding would show."""
    natural = natural_for(gaussians, None)
    # the first feature is 1
    folded = torch.cat([natural[:1] + log_prior, natural[1:]])
    rows = block_rows(_width(gaussians), x)
    linear, value, far = expectations(x, weight, gaussians.center, gaussians.unit, folded, rows)
    if len(x) and len(beyond(gaussians, far, None, natural, x.new_zeros(1))):
        return None
    return of_products(gaussians, (linear, linear[:, 0]), False), value


def _width(gaussians: Gaussians) -> int:
    """About how many features there are."""
    count = gaussians.means.shape[1]
    return count * (count + 1) // 2 if gaussians.covariance == "full" else 2 * count


def _products(
    gaussians: Gaussians, phi: Tensor, x: Tensor, responsibility: Tensor, mask: Tensor | None
) -> tuple[Tensor, ...]:
    """Sums in which the statistics are linear: responsibility^T Phi, the counts, and for a tied matrix x x^T."""
    linear = (responsibility.mT @ phi).double()
    # the first feature is 1 where nothing is missing
    each = linear[:, 0].clone() if mask is None else responsibility.sum(0, dtype=torch.float64)
    if gaussians.covariance != "tied":
        return linear, each
    away = gaussians.standard(x)
    square = (away * responsibility.sum(1, keepdim=True)).mT @ away
    return linear, each, square.double()


def of_products(gaussians: Gaussians, sums: tuple[Tensor, ...], holed: bool) -> Statistics:
    """The statistics in terms of responsibility^T Phi, (K, F), and the counts, (K,); `holed` where a mask hides some of
    the data, and Phi begins with what is seen."""
    count = gaussians.means.shape[1]
    linear, each = sums[:2]
    if gaussians.dense:
        total = linear[:, 1 : 1 + count]
        tied = gaussians.covariance == "tied"
        square = sums[2].unsqueeze(0) if tied else symmetric(linear[:, 1 + count :], count)
        spread = torch.stack([each.sum().expand(count), total.sum(0), square.sum(0).diagonal()])
        return {"spread": spread, "count": each, "sum": total, "square": square}
    mass, total, square = linear.split([linear.shape[1] - 2 * count, count, count], 1)
    spread = torch.stack([mass.expand(-1, count).sum(0), total.sum(0), square.sum(0)])
    if gaussians.covariance == "diagonal":
        # each column by itself: what is missing says nothing of it, and EM need not wait for it to be believed
        seen = mass.expand(-1, count).contiguous()
        return {"spread": spread, "count": each, "seen": seen, "sum": total, "square": square}
    if holed:
        mean = gaussians.standard_mean().double()
        hidden = (each.unsqueeze(-1) - mass).clamp(min=0)
        total = total + hidden * mean
        square = square + hidden * (mean**2 + gaussians.standard_variance().double())
    square = square.sum(1, keepdim=True) if gaussians.round else square
    square = square.sum(0, keepdim=True) if gaussians.covariance == "common" else square
    return {"spread": spread, "count": each, "sum": total, "square": square}
