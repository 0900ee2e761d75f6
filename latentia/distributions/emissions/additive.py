"""A Gaussian whose mean is the sum of what M one-hot z contribute: x ~ N(center + sum_m W_m z^m, C).

log p(x | z) of what is observed as a function of z, and the regression of x on z that sets W and C in an M-step. Here x
is that around `center`, `weights` are W, (M, K, D), and `noise` is C, (D, D). `seen` are the distinct sets of
observed coordinates, each with the rows that have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from latentia.distributions.emissions.base import Statistics
from latentia.distributions.mean_field import Quadratic

LOG_2PI = math.log(2 * math.pi)
Moments = Callable[[Tensor], Tensor]
"""The sum over some rows, by their numbers, of E[z z'], (MK, MK)."""
Patterns = Iterable[tuple[Tensor, Tensor]]


def log_likelihood(x: Tensor, seen: Patterns, weights: Tensor, noise: Tensor) -> Quadratic:
    """log p(x_t | z_t) of what is observed of x (B, T, D), as a function of z_t."""
    (chains, states), shape = weights.shape[:2], x.shape[:2]
    x, own, weights = x.flatten(0, 1), own_block(weights), weights.flatten(0, 1)
    constant, linear = x.new_zeros(len(x)), x.new_zeros(len(x), len(weights))
    which = torch.zeros(len(x), dtype=torch.long, device=x.device)
    couplings = []
    for i, (columns, rows) in enumerate(seen):
        tril = torch.linalg.cholesky(noise[columns][:, columns])
        white_x = torch.linalg.solve_triangular(tril, x[rows][:, columns].mT, upper=False).mT
        white_w = torch.linalg.solve_triangular(tril, weights[:, columns].mT, upper=False).mT
        log_det = 2 * tril.diagonal().log().sum() + len(columns) * LOG_2PI
        constant = constant.index_copy(0, rows, -0.5 * ((white_x**2).sum(-1) + log_det))
        linear = linear.index_copy(0, rows, white_x @ white_w.mT - 0.5 * (white_w**2).sum(-1))
        couplings.append((white_w @ white_w.mT) * ~own)
        which[rows] = i
    linear = linear.unflatten(1, (chains, states)).unflatten(0, shape)
    return Quadratic(constant.unflatten(0, shape), linear, torch.stack(couplings), which.unflatten(0, shape))


def sums(x: Tensor, seen: Patterns, mean: Tensor, moments: Moments, weights: Tensor, noise: Tensor) -> Statistics:
    """Of rows x (N, D) and z, from weighted E[z], (N, MK); a missing x is what the seen ones predict.

    `cross` is the sum of E[z z'], `pull` of E[z x'], `square` of E[x x'], `count` of steps.
    """
    features, states = x.shape[1], weights.shape[1]
    cross = x.new_zeros(mean.shape[1], mean.shape[1])
    pull, square, count = cross.new_zeros(len(cross), features), x.new_zeros(features, features), x.new_zeros(())
    for columns, rows in seen:
        gain, slope, left = _prediction(columns, weights.flatten(0, 1), noise)
        some, there = mean[rows], x[rows][:, columns]
        # the states of the first chain add up to the weight of the step, and to 0 beyond the end
        mass = some[:, :states].sum(-1)
        both, joined = moments(rows), some.mT @ there
        cross, count = cross + both, count + mass.sum()
        pull = pull + joined @ gain.mT + both @ slope.mT
        mixed = slope @ joined @ gain.mT
        inner = gain @ ((mass.unsqueeze(-1) * there).mT @ there) @ gain.mT + slope @ both @ slope.mT
        square = square + inner + mixed + mixed.mT + mass.sum() * left
    return {"cross": cross, "pull": pull, "square": square, "count": count}


def _prediction(seen: Tensor, weights: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E[x | x_seen, z] = gain x_seen + slope z, and the covariance that is left: (D, D_seen), (D, MK) and (D, D)."""
    tril = torch.linalg.cholesky(noise[seen][:, seen])
    gain = torch.cholesky_solve(noise[seen], tril).mT if len(seen) else noise[:, seen]
    slope, left = weights.mT - gain @ weights[:, seen].mT, noise - gain @ noise[seen]
    # what is seen predicts itself
    gain[seen], slope[seen], left[seen], left[:, seen] = torch.eye(len(seen)).to(gain), 0.0, 0.0, 0.0
    return gain, slope, left


def regressed(total: Statistics, frozen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The likeliest W, (MK, D), unless it is frozen, and the covariance around it, (D, D), given these `sums`."""
    cross, pull, square = (total[name].double() for name in ("cross", "pull", "square"))
    if frozen is None:
        # only sums of contributions are determined: the pseudo-inverse takes the smallest of them
        weights = torch.linalg.pinv(cross, hermitian=True, rtol=1e-12) @ pull
    else:
        weights = frozen.double().flatten(0, 1)
    explained = weights.mT @ pull
    covariance = (square - explained - explained.mT + weights.mT @ cross @ weights) / total["count"]
    return weights, covariance


def floored_tril(covariance: Tensor, floor: Tensor) -> Tensor:
    """The Cholesky factor of the covariance (D, D) with variances of at least `floor` (D,) in every direction, in
    coordinates where the floor is 1."""
    unit = floor.sqrt()
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT) / unit / unit.unsqueeze(-1))
    lifted = (vectors * values.clamp(min=1.0)) @ vectors.mT * unit * unit.unsqueeze(-1)
    return torch.linalg.cholesky(lifted)


def spread_of(x: Tensor, observed: Tensor, weight: Tensor, center: Tensor) -> Tensor:
    """Count, sum and sum of squares of what is observed of each coordinate of x (B, T, D), around `center`, (3, D)."""
    # of what is observed, not expected: a floor that moved with the parameters would let EM descend
    # in float64, as far from the origin a sum has no digits left for the mean
    seen = observed.double() * weight.double()[:, None, None]
    away = torch.where(observed, x.double() - center, 0.0)
    return torch.stack([seen, seen * away, seen * away**2]).sum((1, 2))


def variance_of(spread: Tensor) -> Tensor:
    """The variance of each coordinate, (D,); 1 where it is zero, so that a floor exists."""
    count, first, square = spread
    count = count.clamp(min=torch.finfo(count.dtype).tiny)
    variance = square / count - (first / count) ** 2
    # what cancellation leaves of a constant column is noise, not a variance
    return torch.where(variance > 1e-12 * square / count, variance, 1.0)


def own_block(like: Tensor) -> Tensor:
    """Which pairs of states belong to one chain, (MK, MK) booleans, for parameters `like` (M, K, ...)."""
    chain = torch.arange(like.shape[0], device=like.device).repeat_interleave(like.shape[1])
    return chain.unsqueeze(-1) == chain
