"""The M-step: the likeliest means and covariances, none of whose variances is below the floor."""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.distributions.emissions.base import Statistics, check_whole
from latentia.distributions.emissions.gaussian.parameters import LEAST, Gaussians

NOISE = 4
"""Units in the last place by which values that should be equal may differ once their center is taken away."""


def update(gaussians: Gaussians, total: Statistics) -> None:
    # of independent columns each has as many data as are seen of it
    seen = total.get("seen", total["count"].unsqueeze(-1))
    mean = total["sum"] / torch.where(seen > 0, seen, 1.0)
    floor = max(gaussians.floor, LEAST) * _variance_of_all(gaussians, total)
    # far from the origin a dtype has few values to choose from: variances are those around the means that it holds,
    # or that are frozen, so that the M-step is the maximum among these
    rounded = (mean * gaussians.unit + gaussians.center).to(gaussians.means)
    kept = rounded if gaussians.means.requires_grad else gaussians.means.detach()
    held = (kept.double() - gaussians.center) / gaussians.unit
    if gaussians.dense:
        check_whole(gaussians.log_scale, gaussians.below)
        _set_matrices(gaussians, total, mean, held, floor)
    else:
        _set_variances(gaussians, total, mean, held, floor)
    _keep(gaussians, "means", rounded, seen > 0)


def _set_variances(gaussians: Gaussians, total: Statistics, mean: Tensor, held: Tensor, floor: Tensor) -> None:
    """Of statistics with these means, around those that are held."""
    many, square = total.get("seen", total["count"].unsqueeze(-1)), held * (2 * mean - held)
    count = many
    if gaussians.round:
        square, floor, count = square.sum(1, keepdim=True), floor.max(), count * mean.shape[1]
    if gaussians.covariance == "common":
        square, count = (square * total["count"].unsqueeze(-1)).sum(0, keepdim=True), count.sum(0, keepdim=True)
        variance = (total["square"] - square) / count.clamp(min=torch.finfo(count.dtype).tiny)
    else:
        safe = torch.where(count > 0, count, 1.0)
        variance = total["square"] / safe - square * many / safe
    _set_floored(gaussians, ((variance <= floor) & (count > 0)).any(-1))
    unit = gaussians.unit.amax() if gaussians.round else gaussians.unit
    _keep(gaussians, "log_scale", 0.5 * torch.maximum(variance, floor).log() + unit.log(), count > 0)


def _set_matrices(gaussians: Gaussians, total: Statistics, mean: Tensor, held: Tensor, floor: Tensor) -> None:
    count, present = total["count"], total["count"] > 0
    away = mean - held
    if gaussians.covariance == "tied":
        present = present.any().unsqueeze(0)
        whole = count.sum().clamp(min=torch.finfo(count.dtype).tiny)
        between = (count.unsqueeze(-1) * mean).mT @ mean - (count.unsqueeze(-1) * away).mT @ away
        covariance = ((total["square"][0] - between) / whole).unsqueeze(0)
    else:
        safe = torch.where(present, count, 1.0)[:, None, None]
        covariance = total["square"] / safe - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        covariance = covariance + away.unsqueeze(-1) * away.unsqueeze(-2)
    tril, floored = _factor(covariance, floor)
    rows, columns = torch.tril_indices(*tril.shape[1:], offset=-1, device=tril.device)
    _set_floored(gaussians, floored & present)
    _keep(gaussians, "log_scale", tril.diagonal(dim1=-2, dim2=-1).log() + gaussians.unit.log(), present.unsqueeze(-1))
    _keep(gaussians, "below", tril[:, rows, columns] * gaussians.unit[rows], present.unsqueeze(-1))


def _set_floored(gaussians: Gaussians, floored: Tensor) -> None:
    gaussians.floored.copy_(floored.expand_as(gaussians.floored) & gaussians.log_scale.requires_grad)


def _variance_of_all(gaussians: Gaussians, total: Statistics) -> Tensor:
    """The variance of all the data, (D,), 1 where it is zero, so that a floor exists."""
    count, first, square = total["spread"]
    count = count.clamp(min=torch.finfo(count.dtype).tiny)
    second, mean = square / count, first / count
    variance = second - mean**2
    # what rounding leaves of a constant column is noise, not a variance
    noise = (NOISE * torch.finfo(gaussians.means.dtype).eps) ** 2
    gaussians.constant.copy_((variance <= 1e-12 * second) | (variance <= noise))
    return torch.where(gaussians.constant, 1.0, variance)


def _keep(gaussians: Gaussians, name: str, value: Tensor, present: Tensor) -> None:
    """Set a parameter, except where nothing is `present`, (K or 1, D or 1): it keeps what it had."""
    parameter = getattr(gaussians, name)
    value = value.to(parameter)
    parameter.data = torch.where(present, value, parameter.data) if value.numel() else parameter.data


def _factor(covariance: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors of the covariances (K, D, D) with variances of at least `floor` (D,) in every direction, in
    coordinates where the floor is 1; and which had to be lifted, (K,)."""
    unit = floor.sqrt()
    relative = covariance / unit.unsqueeze(-1) / unit
    values, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    lifted = (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT
    low = (values < 1).any(-1)
    relative = torch.where(low[:, None, None], lifted, relative)
    return torch.linalg.cholesky(relative) * unit.unsqueeze(-1), low
