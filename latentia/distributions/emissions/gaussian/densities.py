"""Log-densities as one matrix product with the features of x, and by the Cholesky factor where rounding would show."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentia.distributions.emissions.gaussian.parameters import Gaussians
from latentia.kernels.blocks import block_rows, map_blocks
from latentia.kernels.quadratic import flattened, products, reach, squares

LOG_2PI = math.log(2 * math.pi)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}
"""Nats by which rounding may change a log-density, in the worst case, before the Cholesky factor is asked."""


def log_prob(gaussians: Gaussians, x: Tensor, mask: Tensor | None) -> Tensor:
    """log p(x | k), (M, K); a mask only without correlations."""
    natural, safe = prepared(gaussians, x, mask)
    if torch.is_grad_enabled() or len(x) < 512:
        return of_features(gaussians, features(gaussians, x, mask), natural, x, mask, safe)

    def block(part: slice) -> Tensor:
        seen = None if mask is None else mask[part]
        return of_features(gaussians, features(gaussians, x[part], seen, reuse=True), natural, x[part], seen, safe)

    return torch.cat(map_blocks(block, len(x), block_rows(len(natural), x)))


def features(gaussians: Gaussians, x: Tensor, mask: Tensor | None, reuse: bool = False) -> Tensor:
    """Phi(x), (M, F), in which log-densities and statistics are linear. A mask only without correlations. With
    `reuse`, in memory that the next such call of this thread writes over."""
    if gaussians.covariance == "full":
        return products(x, gaussians.center, gaussians.unit, reuse)
    if gaussians.covariance == "tied":
        return torch.cat([torch.ones_like(x[:, :1]), gaussians.standard(x)], 1)
    if mask is None:
        return squares(x, gaussians.center, gaussians.unit, reuse)
    seen = mask.to(x)
    away = torch.where(mask, gaussians.standard(x), 0.0)
    return torch.cat([seen, away, away**2], 1)


def natural_parameters(gaussians: Gaussians) -> Tensor:
    """eta, (F, K): log p(x | k) = Phi(x) eta_k; with a term besides that all k share where the matrix is tied."""
    means = gaussians.standard_mean()
    if not gaussians.dense:
        precision = 1 / gaussians.standard_variance()
        constant = -0.5 * (means**2 * precision + LOG_2PI) - gaussians.log_scale
        constant = torch.cat([constant, means * precision, -0.5 * precision], 1)
        return constant.mT
    tril = gaussians.standard_tril()
    precision = torch.cholesky_inverse(tril)
    log_det = gaussians.log_scale.sum(-1)
    slope = (precision @ means.unsqueeze(-1)).squeeze(-1)
    constant = -0.5 * (means * slope).sum(-1) - log_det - 0.5 * means.shape[1] * LOG_2PI
    linear = torch.cat([constant.unsqueeze(-1), slope], 1)
    return linear.mT if gaussians.covariance == "tied" else torch.cat([linear, -0.5 * flattened(precision)], 1).mT


def natural_for(gaussians: Gaussians, mask: Tensor | None) -> Tensor:
    """eta for features with or without a mask."""
    natural = natural_parameters(gaussians)
    if gaussians.dense or mask is not None:
        return natural
    count = gaussians.means.shape[1]
    return torch.cat([natural[:count].sum(0, keepdim=True), natural[count:]])


def prepared(gaussians: Gaussians, x: Tensor, mask: Tensor | None) -> tuple[Tensor, bool]:
    """eta for these data, and whether no row of them needs the Cholesky factor."""
    natural = natural_for(gaussians, mask)
    # a tied matrix adds a term of each row's own
    if gaussians.covariance == "tied":
        return natural, False
    return natural, not len(_doubtful(gaussians, x, mask, natural.detach(), x.new_zeros(1)))


def of_features(
    gaussians: Gaussians, phi: Tensor, natural: Tensor, x: Tensor, mask: Tensor | None, safe: bool
) -> Tensor:
    """log p(x | k), (M, K), from Phi(x), and by the Cholesky factor where rounding would show."""
    if safe:
        return phi @ natural
    log_prob, shared = phi @ natural, phi.new_zeros(len(phi), 1)
    if gaussians.covariance == "tied":
        white = torch.linalg.solve_triangular(gaussians.standard_tril()[0], gaussians.standard(x).mT, upper=False)
        shared = 0.5 * (white**2).sum(0).unsqueeze(-1)
        log_prob = log_prob - shared
    which = _doubtful(gaussians, x, mask, natural.detach(), shared.detach())
    if len(which) == 0:
        return log_prob
    return log_prob.index_copy(1, which, _log_normal(gaussians, x, mask, which))


def _doubtful(gaussians: Gaussians, x: Tensor, mask: Tensor | None, natural: Tensor, shared: Tensor) -> Tensor:
    """The components whose log-densities rounding may change by more than the tolerance."""
    if len(x) == 0:
        return torch.zeros(0, dtype=torch.long, device=x.device)
    seen = x if mask is None else torch.where(mask, x, gaussians.center)
    return beyond(gaussians, reach(seen, gaussians.center) / gaussians.unit, mask, natural, shared)


def beyond(gaussians: Gaussians, far: Tensor, mask: Tensor | None, natural: Tensor, shared: Tensor) -> Tensor:
    """As `_doubtful`, for rows whose |y| is at most `far`, (D,)."""
    farthest = (gaussians.center + far * gaussians.unit).unsqueeze(0)
    largest = features(gaussians, farthest, None if mask is None else torch.ones_like(mask[:1])).squeeze(0)
    terms = largest.abs() @ natural.abs() + shared.amax()
    # a comparison that NaN fails, so that what overflows is doubtful too
    fine = torch.finfo(far.dtype).eps * terms <= TOLERANCE.get(far.dtype, 1e-2)
    return (~fine).nonzero().squeeze(-1)


def _log_normal(gaussians: Gaussians, x: Tensor, mask: Tensor | None, which: Tensor) -> Tensor:
    """log N(x; mu_k, S_k) for the components `which`, from differences x - mu_k."""
    away = (x.unsqueeze(0) - gaussians.means[which].unsqueeze(1)) / gaussians.unit
    if not gaussians.dense:
        scale = gaussians.standard_log_scale().exp().expand_as(gaussians.means)[which].unsqueeze(1)
        log_scale = gaussians.log_scale.expand_as(gaussians.means)[which].unsqueeze(1)
        terms = -0.5 * (away / scale) ** 2 - log_scale - 0.5 * LOG_2PI
        return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1).mT
    factors = gaussians.standard_tril().expand(len(gaussians.means), -1, -1)[which]
    white = torch.linalg.solve_triangular(factors, away.mT, upper=False)
    log_det = gaussians.log_scale.expand(len(gaussians.means), -1)[which].sum(-1)
    return -0.5 * (white**2).sum(1).mT - log_det - 0.5 * x.shape[1] * LOG_2PI
