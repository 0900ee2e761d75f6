"""Rows of which not all is seen, where coordinates are correlated: each pattern has a Gaussian of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from latentia.distributions.emissions.base import Statistics
from latentia.distributions.emissions.gaussian.densities import LOG_2PI
from latentia.distributions.emissions.gaussian.parameters import Gaussians


def log_prob_missing(gaussians: Gaussians, x: Tensor, mask: Tensor) -> Tensor:
    log_prob = x.new_zeros(len(x), len(gaussians.means))
    for rows, seen in _groups(gaussians, mask):
        precision, log_det, _ = _observed(gaussians, seen)
        away = _away(gaussians, x[rows], seen)
        quadratic = (away * _times(precision, away)).sum(-1)
        constant = (seen * (LOG_2PI + 2 * gaussians.unit.log())).sum(-1, keepdim=True)
        part = -0.5 * (quadratic + log_det + constant)
        log_prob = log_prob.index_copy(0, rows, part.to(log_prob))
    return log_prob


def _away(gaussians: Gaussians, x: Tensor, seen: Tensor) -> Tensor:
    """(x - mu_k) / unit of what is seen, (M, K, D), 0 elsewhere."""
    return torch.where(seen.unsqueeze(1) > 0, (x.unsqueeze(1) - gaussians.means) / gaussians.unit, 0.0)


def _groups(gaussians: Gaussians, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows, and what is seen of them: one pattern (1, D) that many rows share, or a pattern for each, (m, D)."""
    patterns, which, counts = torch.unique(mask, dim=0, return_inverse=True, return_counts=True)
    common = counts >= 16
    for i in common.nonzero().flatten().tolist():
        for rows in (which == i).nonzero().squeeze(-1).split(max(2**21 // gaussians.means.numel(), 1)):
            yield rows, patterns[i : i + 1].to(gaussians.means)
    rare = (~common[which]).nonzero().squeeze(-1)
    for rows in rare.split(max(2**21 // (len(gaussians.means) * mask.shape[1] ** 2), 1)):
        if len(rows):
            yield rows, mask[rows].to(gaussians.means)


def _observed(gaussians: Gaussians, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the seen coordinates (m, D): the inverse of their covariance, with zeros elsewhere, (m, K or 1, D, D); its
    log-determinant; and cov(x, seen) times that inverse, whose rows predict what is not seen."""
    tril = gaussians.standard_tril()
    covariances = tril @ tril.mT
    both = (seen.unsqueeze(-1) * seen.unsqueeze(-2)).unsqueeze(1)
    # a one on the diagonal for each coordinate that is not there leaves the rest as it is
    chosen = both * covariances + torch.diag_embed(1 - seen).unsqueeze(1)
    factor = torch.linalg.cholesky(chosen)
    precision = both * torch.cholesky_inverse(factor)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return precision, log_det, covariances @ precision


def fill(gaussians: Gaussians, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """E[x | x_observed, k], (M, K, D), and the covariance that is left, (M, K, D, D)."""
    filled = x.new_zeros(len(x), *gaussians.means.shape)
    left = x.new_zeros(len(x), *gaussians.means.shape, x.shape[1])
    for rows, seen in _groups(gaussians, mask):
        filled[rows], left[rows] = _completed(gaussians, x[rows], seen)
    filled = torch.where(mask.unsqueeze(1), x.unsqueeze(1), filled * gaussians.unit + gaussians.center)
    return filled, left * gaussians.unit.unsqueeze(-1) * gaussians.unit


def _completed(gaussians: Gaussians, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """E[y | y_observed, k] for rows of which `seen`, (1, D) or (M, D), is observed, (M, K, D), and the covariance
    that is left, (1 or M, K, D, D)."""
    _, _, gain = _observed(gaussians, seen)
    hidden = 1 - seen
    predicted = gaussians.standard_mean() + _times(gain, _away(gaussians, x, seen))
    filled = torch.where(seen.unsqueeze(1) > 0, gaussians.standard(x).unsqueeze(1), predicted)
    tril = gaussians.standard_tril().expand(len(gaussians.means), -1, -1)
    covariances = tril @ tril.mT
    left = (covariances - gain @ covariances) * (hidden.unsqueeze(-1) * hidden.unsqueeze(-2)).unsqueeze(1)
    return filled, 0.5 * (left + left.mT)


def statistics_missing(gaussians: Gaussians, x: Tensor, mask: Tensor, responsibility: Tensor) -> Statistics:
    r, mass = responsibility.double(), mask.double() * responsibility.sum(1, keepdim=True).double()
    away = torch.where(mask, gaussians.standard(x), 0.0).double()
    # of what is observed, not expected: a floor that moved with the parameters would let EM descend
    spread = torch.stack([mass.sum(0), (mass * away).sum(0), (mass * away**2).sum(0)])
    states, count = gaussians.means.shape
    total, square = r.new_zeros(states, count), r.new_zeros(states, count, count)
    for rows, seen in _groups(gaussians, mask):
        filled, left = (part.double() for part in _completed(gaussians, x[rows], seen))
        filled, share = filled.transpose(0, 1), r[rows].mT.unsqueeze(-1)
        total += (share * filled).sum(1)
        square += (share * filled).mT @ filled
        shared = len(left) == 1
        square += r[rows].sum(0)[:, None, None] * left[0] if shared else torch.einsum("mk,mkde->kde", r[rows], left)
    square = square.sum(0, keepdim=True) if gaussians.covariance == "tied" else square
    return {"spread": spread, "count": r.sum(0), "sum": total, "square": square}


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (1 or M, K or 1, D, D) times vector (M, K, D)."""
    if len(matrix) == 1:
        return (matrix[0] @ vector.permute(1, 2, 0)).permute(2, 0, 1)
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
