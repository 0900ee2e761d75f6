"""Probabilistic principal component analysis: a few Gaussian factors, mixed linearly, with the same noise everywhere.

    z     ~ Normal(0, I),                       z in R^K
    x | z ~ Normal(mean + weight z, noise^2 I), x in R^D, K < D

    log p(x) = log Normal(x; mean, weight weight' + noise^2 I)
    p(z | x) = Normal(M^-1 weight' (x - mean), noise^2 M^-1),  M = weight' weight + noise^2 I

The linear-Gaussian model of Tipping and Bishop (1999). The maximum of the likelihood is known: the columns of `weight`
span the K leading principal directions, and noise^2 is the average of the variances left over (section 3.2). It is
where learning starts, and already ends unless values are missing: those are marginalised exactly, and EM (section 3.3)
climbs on from there. All is exact, so this is also the model on which estimates of log p(x) are tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentia.distributions.canonical import LOG_2PI, CanonicalGaussian
from latentia.distributions.emissions.base import check_scale
from latentia.errors import DataError, OptionError, check_not_negative
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics


class ProbabilisticPCA(ExactModel, DirectedModel):
    """p(x) = Normal(x; mean, weight weight' + noise^2 I).

    Args:
        event_shape: the shape of one x, of D entries (comes from the data).
        latent: K, the number of factors, less than D.
        floor: the least noise^2, as a fraction of the average variance of the data: without one the likelihood of
            data that lie in K dimensions is unbounded.

    Parameters: weight (D, K), mean (D,), log_noise, the logarithm of the noise's standard deviation.
    """

    def __init__(self, event_shape: Sequence[int], latent: int = 10, floor: float = 1e-6):
        super().__init__()
        check_not_negative(floor=floor)
        self.event_shape, self.latent, self.floor = tuple(event_shape), latent, floor
        size = math.prod(self.event_shape)
        if not 1 <= latent < size:
            raise OptionError(f"latent={latent}: choose from 1 to {size - 1}, as x has {size} entries")
        self.weight = nn.Parameter(torch.eye(size, latent))
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_noise = nn.Parameter(torch.zeros(()))
        # sums are taken around it, so that data far from the origin lose no digits
        self.center: Tensor
        self.register_buffer("center", torch.zeros(size))
        self.least: Tensor
        self.register_buffer("least", torch.zeros(()))

    def prior(self, frame: Frame) -> Independent:
        zeros = self.anchor.new_zeros(frame.size, self.latent)
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1, validate_args=False)

    def likelihood(self, z: Tensor, frame: Frame) -> Normal:
        location = (z @ self.weight.mT + self.mean).unflatten(-1, self.event_shape)
        return Normal(location, self.log_noise.exp().expand(location.shape), validate_args=False)

    def posterior(self, batch: Batch) -> CanonicalGaussian:
        away = batch.x.flatten(1) - self.mean
        precision = (-2 * self.log_noise).exp()
        eye = torch.eye(self.latent, dtype=away.dtype, device=away.device)
        if batch.mask is None:
            count, inner = away.shape[1], self.weight.mT @ self.weight
        else:
            seen = batch.mask.flatten(1).to(away)
            away = torch.where(batch.mask.flatten(1), away, 0.0)
            count = seen.sum(-1)
            inner = (seen @ self._pairs()).unflatten(-1, (self.latent, self.latent))
        constant = -0.5 * precision * (away**2).sum(-1) - count * (self.log_noise + 0.5 * LOG_2PI)
        return CanonicalGaussian(
            constant - 0.5 * self.latent * LOG_2PI, precision * (away @ self.weight), eye + precision * inner
        )

    def _pairs(self) -> Tensor:
        """weight_dk weight_dl, (D, K K)."""
        return (self.weight.unsqueeze(-1) * self.weight.unsqueeze(-2)).flatten(1)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """The maximum of the likelihood, in closed form; what is missing is taken at its column's mean."""
        x, seen = batch.x.flatten(1).double(), batch.observed.flatten(1) * batch.weights.double().unsqueeze(-1)
        mean = (x * seen).sum(0) / seen.sum(0).clamp(min=1e-300)
        away = torch.where(batch.observed.flatten(1), x - mean, 0.0)
        share = batch.weights.double() / batch.weights.double().sum()
        variance, directions = torch.linalg.eigh((away * share.unsqueeze(-1)).mT @ away)
        self.center.copy_(mean)
        self.least.copy_((self.floor * variance.mean()).clamp(min=1e-300))
        noise = variance[: -self.latent].mean().clamp(min=float(self.least))
        self._set(directions[:, -self.latent :] * (variance[-self.latent :] - noise).clamp(min=0).sqrt(), mean, noise)

    def _set(self, weight: Tensor, mean: Tensor, noise: Tensor) -> None:
        self.weight.data, self.mean.data = weight.to(self.weight), mean.to(self.mean)
        self.log_noise.data = 0.5 * noise.log().to(self.log_noise)

    def statistics(self, batch: Batch, posterior: CanonicalGaussian) -> Statistics:
        """Of (z, 1) and x - center, coordinate by coordinate, over the data that show the coordinate."""
        weights = batch.weights.unsqueeze(-1)
        x = batch.x.flatten(1) - self.center
        code = torch.cat([posterior.mean, torch.ones_like(weights)], 1)
        spread = nn.functional.pad(posterior.covariance, (0, 1, 0, 1))
        if batch.mask is None:
            second = ((weights * code).mT @ code + weights.sum() * spread).expand(x.shape[1], -1, -1)
            seen = weights.expand_as(x)
        else:
            seen = weights * batch.mask.flatten(1)
            x = torch.where(batch.mask.flatten(1), x, 0.0)
            products = code.unsqueeze(-1) * code.unsqueeze(-2) + spread
            second = (seen.mT @ products.flatten(1)).unflatten(-1, products.shape[1:])
        return {"second": second, "cross": (seen * x).mT @ code, "square": (seen * x**2).sum(0)}

    def update(self, total: Statistics) -> None:
        """Regress each coordinate of x on (z, 1); what is left over is noise."""
        second, cross = total["second"].double(), total["cross"].double()
        count = second[:, -1, -1]
        # a coordinate that nobody has seen depends on nothing
        eye = torch.eye(self.latent + 1, dtype=second.dtype, device=second.device)
        second = torch.where((count > 0)[:, None, None], second, eye)
        slopes = self._slopes(second, cross)
        # what is left over by the mean that the dtype holds, far from the origin not the best one
        slopes[:, -1] = (slopes[:, -1] + self.center).to(self.mean).double() - self.center
        fitted = torch.einsum("di,dij,dj->", slopes, second, slopes)
        left = total["square"].double().sum() - 2 * (slopes * cross).sum() + fitted
        noise = (left / count.sum()).clamp(min=float(self.least.clamp(min=1e-300)))
        self._set(slopes[:, :-1], slopes[:, -1] + self.center, noise)

    def _slopes(self, second: Tensor, cross: Tensor) -> Tensor:
        """The regression of each coordinate on (z, 1), (D, K + 1), given what of it is frozen."""
        weight, mean = self.weight.double(), (self.mean - self.center).double()
        if self.weight.requires_grad and self.mean.requires_grad:
            return torch.linalg.solve(second, cross)
        if self.weight.requires_grad:
            weight = torch.linalg.solve(second[:, :-1, :-1], cross[:, :-1] - mean.unsqueeze(-1) * second[:, :-1, -1])
        elif self.mean.requires_grad:
            mean = (cross[:, -1] - (second[:, -1, :-1] * weight).sum(-1)) / second[:, -1, -1]
        return torch.cat([weight, mean.unsqueeze(-1)], 1)

    def canonical(self) -> None:
        """Factors along the principal directions, by falling variance, each with its largest weight positive."""
        weight = self.weight.detach()
        order = (weight**2).sum(0).argsort(descending=True, stable=True)
        inner = (weight.mT @ weight)[order][:, order]
        skew = (inner - inner.diag().diag()).abs().max()
        if skew > 1e4 * torch.finfo(weight.dtype).eps * inner.diag().max():
            directions, scale, _ = torch.linalg.svd(weight, full_matrices=False)
            weight = directions * scale
        else:
            weight = weight[:, order]
        largest = weight.gather(0, weight.abs().argmax(0, keepdim=True))
        self.weight.data = torch.where(largest < 0, -weight, weight)

    def free_parameters(self) -> int:
        """The mean, the noise, and the weights up to a rotation of z."""
        size = len(self.mean)
        return size + 1 + size * self.latent - self.latent * (self.latent - 1) // 2

    def concerns(self) -> list[str]:
        if 2 * float(self.log_noise) > math.log(1.001 * max(float(self.least), 1e-300)):
            return []
        return ["the noise is at its floor: the data lie in few dimensions; use fewer factors, or raise floor"]

    def check(self, batch: Batch) -> None:
        if tuple(batch.x.shape[1:]) != self.event_shape:
            raise DataError(f"the model takes x of shape {self.event_shape}, the data have {tuple(batch.x.shape[1:])}")
        check_scale(batch.x.flatten(1), None if batch.mask is None else batch.mask.flatten(1))


def tiny(seed: int) -> tuple[ProbabilisticPCA, Batch]:
    """One factor behind two coordinates, and seven points of which one is seen by half."""
    generator = torch.Generator().manual_seed(seed)
    model = ProbabilisticPCA(event_shape=(2,), latent=1).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = False
    return model, Batch.of(x, mask)
