"""Rows of which not all is seen, grouped by what is seen of them: each pattern's covariances are inverted once, and its
rows enter the sums by their first two moments alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from latentia.distributions.emissions.base import Statistics, responsibilities
from latentia.distributions.emissions.gaussian.densities import LOG_2PI
from latentia.distributions.emissions.gaussian.parameters import Gaussians
from latentia.kernels import patterns as kernel

HELD = 2**22
"""Numbers in the matrices of the patterns that are held at a time."""
BITS = 62
"""Columns whose pattern is one whole number."""


class Pattern(NamedTuple):
    """Rows of some patterns, and what they share.

    Attributes:
        rows: (m,), which rows they are.
        which: (m,), the pattern of each.
        seen: (P, D) of 0 and 1, in float64.
    """

    rows: Tensor
    which: Tensor
    seen: Tensor


def applies(gaussians: Gaussians, x: Tensor) -> bool:
    """Whether the kernels take such data: on a CPU, in float64, and no gradient is asked for."""
    plain = x.device.type == "cpu" and x.dtype == gaussians.means.dtype == torch.float64
    return plain and not torch.is_grad_enabled()


def grouped(gaussians: Gaussians, mask: Tensor) -> Iterator[Pattern]:
    """The rows of the mask by their patterns, some patterns at a time."""
    unique, which = _unique(mask)
    states = len(gaussians.log_scale)
    size = max(HELD // (states * mask.shape[1] ** 2), 1)
    if len(unique) <= size:
        yield Pattern(torch.arange(len(mask)), which, unique.double())
        return
    order = which.argsort(stable=True)
    ends = torch.searchsorted(which[order], torch.arange(0, len(unique) + size, size))
    for i, start in enumerate(range(0, len(unique), size)):
        rows = order[ends[i] : ends[i + 1]]
        yield Pattern(rows, which[rows] - start, unique[start : start + size].double())


def _unique(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a mask, and which of them each row is."""
    if mask.shape[1] > BITS:
        return torch.unique(mask, dim=0, return_inverse=True)
    # numbers are sorted many times faster than rows
    code = mask.double() @ (2.0 ** torch.arange(mask.shape[1]).double()) if mask.shape[1] <= 50 else _code(mask)
    values, which = torch.unique(code.long(), return_inverse=True)
    return (values.unsqueeze(1) >> torch.arange(mask.shape[1])) % 2 == 1, which


def _code(mask: Tensor) -> Tensor:
    return (mask.long() << torch.arange(mask.shape[1])).sum(1)


class Shared(NamedTuple):
    """Of the patterns (P, K or 1, ...): the inverse Cholesky factor of what is seen, what a log-density does not owe to
    y, the prediction of y from what is seen, and the covariance that is left."""

    whitening: Tensor
    constant: Tensor
    gain: Tensor
    left: Tensor


def _shared(gaussians: Gaussians, seen: Tensor) -> Shared:
    tril = gaussians.standard_tril().double()
    covariance = tril @ tril.mT
    both = (seen.unsqueeze(-1) * seen.unsqueeze(-2)).unsqueeze(1)
    # a one on the diagonal for each coordinate that is not there leaves the rest as it is
    factor = torch.linalg.cholesky(both * covariance + torch.diag_embed(1 - seen).unsqueeze(1))
    eye = torch.eye(seen.shape[1], dtype=seen.dtype)
    whitening = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False) * both
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = -log_det - (seen * (0.5 * LOG_2PI + gaussians.unit.double().log())).sum(-1, keepdim=True)
    gain = covariance @ (whitening.mT @ whitening)
    hidden = 1 - seen
    left = (covariance - gain @ covariance) * (hidden.unsqueeze(-1) * hidden.unsqueeze(-2)).unsqueeze(1)
    return Shared(whitening.contiguous(), constant.contiguous(), gain, 0.5 * (left + left.mT))


def _seen_only(gaussians: Gaussians, x: Tensor, mask: Tensor) -> Tensor:
    """y of x, 0 where nothing is seen."""
    return torch.where(mask, gaussians.standard(x), 0.0)


def log_prob(gaussians: Gaussians, x: Tensor, mask: Tensor) -> Tensor:
    """log p(x | k) of what is seen, (M, K)."""
    total, y = x.new_zeros(len(x), len(gaussians.means)), _seen_only(gaussians, x, mask)
    for pattern in grouped(gaussians, mask):
        total[pattern.rows] = _log_prob(gaussians, y[pattern.rows], pattern, _shared(gaussians, pattern.seen))
    return total


def _log_prob(gaussians: Gaussians, y: Tensor, pattern: Pattern, shared: Shared) -> Tensor:
    total = y.new_zeros(len(y), len(gaussians.means))
    arrays = (pattern.which, pattern.seen, gaussians.standard_mean().detach(), shared.whitening, shared.constant)
    kernel.add_log_normals(y.numpy(), *(part.detach().contiguous().numpy() for part in arrays), total.numpy())
    return total


def statistics(gaussians: Gaussians, x: Tensor, mask: Tensor, responsibility: Tensor) -> Statistics:
    """float64 sums over the M rows, weighted by responsibility (M, K)."""
    sums, y = _Sums(gaussians), _seen_only(gaussians, x, mask)
    for pattern in grouped(gaussians, mask):
        sums.add(y[pattern.rows], pattern, _shared(gaussians, pattern.seen), responsibility[pattern.rows])
    return sums.statistics()


def mixture_step(
    gaussians: Gaussians, x: Tensor, mask: Tensor, weight: Tensor, log_prior: Tensor, hard: bool
) -> tuple[Statistics, Tensor]:
    """`Emissions.mixture_step`, with each pattern's matrices made once."""
    sums, y, value = _Sums(gaussians), _seen_only(gaussians, x, mask), torch.zeros((), dtype=torch.float64)
    for pattern in grouped(gaussians, mask):
        own, shared = y[pattern.rows], _shared(gaussians, pattern.seen)
        log_joint = _log_prob(gaussians, own, pattern, shared).add_(log_prior)
        share, part = responsibilities(log_joint, weight[pattern.rows], hard)
        sums.add(own, pattern, shared, share)
        value = value + part
    return sums.statistics(), value


class _Sums:
    """The sums over the rows of patterns, as an M-step asks for them."""

    def __init__(self, gaussians: Gaussians):
        states, features = gaussians.means.shape
        self.gaussians, self.mean = gaussians, gaussians.standard_mean().detach().double()
        self.count, self.total = self.mean.new_zeros(states), self.mean.new_zeros(states, features)
        self.square = self.mean.new_zeros(states, features, features)
        self.spread = self.mean.new_zeros(3, features)

    def add(self, y: Tensor, pattern: Pattern, shared: Shared, responsibility: Tensor) -> None:
        count, first, square = self._moments(y, pattern, responsibility)
        # of what is observed, not expected: a floor that moved with the parameters would let EM descend
        seen = torch.stack([pattern.seen.mT @ count.sum(1), first.sum((0, 1)), square.sum((0, 1)).diagonal()])
        self.spread += seen
        hidden = (1 - pattern.seen).unsqueeze(1)
        # E[y | seen, k] = linear y + offset
        linear = torch.diag_embed(pattern.seen).unsqueeze(1) + hidden.unsqueeze(-1) * shared.gain
        offset = hidden * (self.mean - (shared.gain @ self.mean.unsqueeze(-1)).squeeze(-1))
        moved = (linear @ first.unsqueeze(-1)).squeeze(-1)
        cross = moved.unsqueeze(-1) * offset.unsqueeze(-2)
        own = offset.unsqueeze(-1) * offset.unsqueeze(-2) + shared.left
        self.count += count.sum(0)
        self.total += (moved + count.unsqueeze(-1) * offset).sum(0)
        self.square += (linear @ square @ linear.mT + cross + cross.mT + count[..., None, None] * own).sum(0)

    def _moments(self, y: Tensor, pattern: Pattern, responsibility: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, features = self.mean.shape
        count = y.new_zeros(len(pattern.seen), states)
        first, lower = count.new_zeros(*count.shape, features), count.new_zeros(*count.shape, features, features)
        parts = (count.numpy(), first.numpy(), lower.numpy())
        shares = responsibility.detach().double().contiguous().numpy()
        kernel.add_moments(y.numpy(), pattern.which.contiguous().numpy(), shares, *parts)
        return count, first, lower + lower.tril(-1).mT

    def statistics(self) -> Statistics:
        square = self.square.sum(0, keepdim=True) if self.gaussians.covariance == "tied" else self.square
        return {"spread": self.spread, "count": self.count, "sum": self.total, "square": square}
