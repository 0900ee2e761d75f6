"""K Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from latentia.distributions.emissions.base import Emissions, Statistics, patterns
from latentia.errors import DataError

LOG_2PI = math.log(2 * math.pi)


class GaussianEmissions(Emissions):
    """p(x | z = k) = N(x; means[k], covariances[k]), x in R^D.

    Args:
        states: K.
        features: D.
        covariance: "full" or "diagonal".
        floor: the least variance of a component in any direction, as a fraction of the data's own
            variance: the M-step is the maximum under that constraint, so EM still never descends.
    """

    def __init__(self, states: int, features: int, covariance: str = "full", floor: float = 1e-6):
        super().__init__()
        self.covariance, self.floor = covariance, floor
        self.means = nn.Parameter(torch.zeros(states, features))
        self.log_scale = nn.Parameter(torch.zeros(states, features))
        if covariance == "full":
            self.below = nn.Parameter(torch.zeros(states, features * (features - 1) // 2))
        # statistics are taken around this point, so that far-away data lose no digits
        self.center: Tensor
        self.register_buffer("center", torch.zeros(features))

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors of the covariances, (K, D, D)."""
        diagonal = torch.diag_embed(self.log_scale.exp())
        if self.covariance != "full":
            return diagonal
        rows, columns = torch.tril_indices(*diagonal.shape[1:], offset=-1, device=diagonal.device)
        lower = torch.zeros_like(diagonal)
        lower[:, rows, columns] = self.below
        return diagonal + lower

    @property
    def covariances(self) -> Tensor:
        """(K, D, D)."""
        tril = self.scale_tril
        return tril @ tril.mT

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.covariance == "diagonal":
            log_prob = Normal(self.means, self.log_scale.exp(), validate_args=False).log_prob(x.unsqueeze(1))
            return (log_prob if mask is None else torch.where(mask.unsqueeze(1), log_prob, 0.0)).sum(-1)
        if mask is None or bool(mask.all()):
            return _log_normal(x, self.means, self.scale_tril)
        covariances, log_prob = self.covariances, x.new_zeros(len(x), len(self.means))
        for seen, rows in patterns(mask):
            tril = torch.linalg.cholesky(covariances[:, seen][:, :, seen])
            log_prob = log_prob.index_copy(0, rows, _log_normal(x[rows][:, seen], self.means[:, seen], tril))
        return log_prob

    def given(self, z: Tensor) -> Distribution:
        mean = z @ self.means
        if self.covariance == "diagonal":
            return Normal(mean, z @ self.log_scale.exp(), validate_args=False)
        return MultivariateNormal(
            mean, scale_tril=torch.einsum("...k,kij->...ij", z, self.scale_tril), validate_args=False
        )

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        if self.covariance == "diagonal":
            return self.given(z)
        means, left = self._filled(x.reshape(-1, x.shape[-1]), mask.reshape(-1, x.shape[-1]))
        chosen = z.reshape(len(z), -1, z.shape[-1])
        mean = torch.einsum("smk,mkd->smd", chosen, means).reshape(*z.shape[:-1], -1)
        spread = torch.einsum("smk,mkde->smde", chosen, left).reshape(*mean.shape, x.shape[-1])
        # an observed coordinate has no variance left; a normal wants some
        tiny = 1e-12 * torch.diag_embed(self.covariances.diagonal(dim1=-2, dim2=-1).amin(0))
        return MultivariateNormal(mean, spread + tiny, validate_args=False)

    def _filled(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_observed, k], (M, K, D), and the covariance that is left, (M, K, D, D)."""
        covariances = self.covariances
        filled = torch.where(mask.unsqueeze(1), x.unsqueeze(1), self.means)
        left = covariances.new_zeros(len(x), *covariances.shape)
        for seen, rows in patterns(mask):
            hidden = torch.tensor([d for d in range(x.shape[1]) if d not in set(seen.tolist())], device=x.device).long()
            if len(hidden) == 0:
                continue
            across = covariances[:, hidden][:, :, seen]
            gain = torch.linalg.solve(covariances[:, seen][:, :, seen], across.mT).mT
            surprise = x[rows][:, seen].unsqueeze(1) - self.means[:, seen]
            shift = torch.einsum("khs,mks->mkh", gain, surprise)
            filled[rows.unsqueeze(-1), :, hidden] = (self.means[:, hidden] + shift).transpose(1, 2)
            rest = covariances[:, hidden][:, :, hidden] - gain @ across.mT
            block = torch.zeros_like(covariances)
            block[:, hidden.unsqueeze(-1), hidden] = rest
            left[rows] = block
        return filled, left

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        observed = torch.ones_like(x) if mask is None else mask.to(x)
        mass = observed * weight.unsqueeze(-1).to(x)
        count = mass.sum(0).clamp(min=torch.finfo(x.dtype).tiny)
        mean = (mass * x).sum(0) / count
        variance = (mass * (x - mean) ** 2).sum(0) / count
        variance = torch.where(variance > 0, variance, 1.0)
        self.center.copy_(mean)
        standard = torch.where(observed > 0, (x - mean) / variance.sqrt(), 0.0)
        centers = _kmeans(standard, weight, len(self.means), generator)
        nearest = torch.cdist(standard, centers).argmin(1)
        self.means.data = mean + centers * variance.sqrt()
        self.log_scale.data = 0.5 * variance.log().expand_as(self.log_scale).clone()
        if self.covariance == "full":
            self.below.data.zero_()
        responsibility = nn.functional.one_hot(nearest, len(self.means)).to(x) * weight.unsqueeze(-1).to(x)
        self.update(self.statistics(x, mask, responsibility))

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        seen = torch.ones_like(x) if mask is None else mask.to(x)
        seen = seen * responsibility.sum(1, keepdim=True)
        away = torch.where(seen > 0, x - self.center, 0.0)
        # of what is observed, not expected: a floor that moved with the parameters would let EM descend
        spread = torch.stack([seen.sum(0), (seen * away).sum(0), (seen * away**2).sum(0)])
        return {"spread": spread, **self._moments(x, mask, responsibility)}

    def _moments(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        count = responsibility.sum(0)
        if mask is None or bool(mask.all()):
            away = x - self.center
            total = responsibility.T @ away
            if self.covariance == "diagonal":
                return {"count": count, "sum": total, "square": responsibility.T @ away**2}
            outer = torch.stack([away.T @ (away * r.unsqueeze(-1)) for r in responsibility.unbind(1)])
            return {"count": count, "sum": total, "square": outer}
        if self.covariance == "diagonal":
            away = torch.where(mask.unsqueeze(1), x.unsqueeze(1), self.means) - self.center
            left = (~mask).to(x).unsqueeze(1) * (2 * self.log_scale).exp()
            r = responsibility.unsqueeze(-1)
            return {"count": count, "sum": (r * away).sum(0), "square": (r * (away**2 + left)).sum(0)}
        filled, left = self._filled(x, mask)
        away = filled - self.center
        return {
            "count": count,
            "sum": torch.einsum("mk,mkd->kd", responsibility, away),
            "square": torch.einsum("mk,mkd,mke->kde", responsibility, away, away)
            + torch.einsum("mk,mkde->kde", responsibility, left),
        }

    def update(self, total: Statistics) -> None:
        count, present = total["count"], total["count"] > 0
        safe = torch.where(present, count, 1.0)
        mean = total["sum"] / safe.unsqueeze(-1)
        floor = self.floor * _variance_of_all(total)
        if self.covariance == "diagonal":
            variance = total["square"] / safe.unsqueeze(-1) - mean**2
            log_scale = 0.5 * torch.maximum(variance, floor).log()
        else:
            covariance = total["square"] / safe[:, None, None] - mean.unsqueeze(-1) * mean.unsqueeze(-2)
            tril = torch.linalg.cholesky(_lifted(covariance, floor))
            log_scale = tril.diagonal(dim1=-2, dim2=-1).log()
            rows, columns = torch.tril_indices(*tril.shape[1:], offset=-1, device=tril.device)
            self.below.data = torch.where(present.unsqueeze(-1), tril[:, rows, columns], self.below.data)
        # a component that nothing belongs to keeps what it had
        self.means.data = torch.where(present.unsqueeze(-1), mean + self.center, self.means.data)
        self.log_scale.data = torch.where(present.unsqueeze(-1), log_scale, self.log_scale.data)

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 2 or x.shape[-1] != self.means.shape[-1]:
            raise DataError(f"the model has {self.means.shape[-1]} features, the data {tuple(x.shape[1:])}")


def _log_normal(x: Tensor, means: Tensor, tril: Tensor) -> Tensor:
    """log N(x; means_k, tril_k tril_k^T), (M, K)."""
    whitened = torch.linalg.solve_triangular(tril, (x.unsqueeze(0) - means.unsqueeze(1)).mT, upper=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (whitened**2).sum(1).T - log_det - 0.5 * x.shape[1] * LOG_2PI


def _variance_of_all(total: Statistics) -> Tensor:
    """The variance of all the data, (D,), from the components' sums; 1 where it is zero, so that a floor exists."""
    count, first, square = total["spread"]
    count = count.clamp(min=torch.finfo(count.dtype).tiny)
    second, mean = square / count, first / count
    variance = second - mean**2
    # what cancellation leaves of a constant column is noise, not a variance
    return torch.where(variance > 1e-12 * second, variance, 1.0)


def _lifted(covariance: Tensor, floor: Tensor) -> Tensor:
    """The covariances (K, D, D) with eigenvalues of at least `floor` (D,), in coordinates where the floor is 1."""
    unit = floor.sqrt()
    relative = covariance / unit.unsqueeze(-1) / unit
    values, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    if bool((values >= 1).all()):
        return covariance
    lifted = (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT
    return torch.where((values < 1).any(-1)[:, None, None], lifted * unit.unsqueeze(-1) * unit, covariance)


def _kmeans(x: Tensor, weight: Tensor, k: int, generator: torch.Generator, steps: int = 10) -> Tensor:
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
