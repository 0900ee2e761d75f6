"""The Gaussian in canonical form: a quadratic log-potential, whose log-partition is known in closed form."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, constraints, register_kl

from latentia.distributions.unnormalised import Unnormalised

LOG_2PI = math.log(2 * math.pi)


class CanonicalGaussian(Unnormalised):
    """p(z) = exp(score(z)) / Z with score(z) = constant + linear' z - z' precision z / 2, z in R^D.

    Hence mean = precision^-1 linear and log Z = constant + (linear' mean - log |precision| + D log 2 pi) / 2. As the
    posterior of a linear-Gaussian model it carries the joint: score(z) = log p(x, z), log Z = log p(x). Koller and
    Friedman (2009), section 14.2.1.

    Args:
        constant: (B,), nats.
        linear: (B, D).
        precision: (B, D, D), or (D, D) where all data share it; positive definite.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, constant: Tensor, linear: Tensor, precision: Tensor):
        self.constant, self.linear, self.precision = constant, linear, precision
        self.tril = torch.linalg.cholesky(precision)
        self.location = _times(linear, torch.cholesky_inverse(self.tril))
        super().__init__(linear.shape[:-1], linear.shape[-1:], validate_args=False)

    @property
    def log_partition(self) -> Tensor:
        """log Z in nats, (B,)."""
        return self.constant + 0.5 * (self.linear * self.location).sum(-1) + 0.5 * self._dimensions - self._log_det

    @property
    def _dimensions(self) -> float:
        return self.event_shape[0] * LOG_2PI

    @property
    def _log_det(self) -> Tensor:
        """Half the log-determinant of the precision."""
        return self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def covariance(self) -> Tensor:
        """(B, D, D), or (D, D) where it is shared."""
        return torch.cholesky_inverse(self.tril)

    @property
    def mean(self) -> Tensor:
        return self.location

    @property
    def mode(self) -> Tensor:
        return self.location

    @property
    def variance(self) -> Tensor:
        return self.covariance.diagonal(dim1=-2, dim2=-1).expand(self.linear.shape)

    def score(self, z: Tensor) -> Tensor:
        """The log-potential of z (S, B, D), (S, B)."""
        return self.constant + (z * self.linear).sum(-1) - 0.5 * (_times(z, self.precision) * z).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        # from the residual: score - log Z would lose the digits that the two have in common
        white = _times(value - self.location, self.tril)
        return self._log_det - 0.5 * (white**2).sum(-1) - 0.5 * self._dimensions

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        noise = torch.randn(*sample_shape, *self.linear.shape, dtype=self.linear.dtype, device=self.linear.device)
        eye = torch.eye(self.event_shape[0], dtype=noise.dtype, device=noise.device)
        return self.location + _times(noise, torch.linalg.solve_triangular(self.tril, eye, upper=False))

    def entropy(self) -> Tensor:
        """In nats, (B,)."""
        value = 0.5 * (self.event_shape[0] + self._dimensions) - self._log_det
        return value.expand(self.batch_shape)

    def hard(self) -> Self:
        """All mass on the mode, whose score is then the log-partition: what hard EM takes expectations under."""
        return _Point(self.constant, self.linear, self.precision)  # type: ignore[return-value]


class _Point(CanonicalGaussian):
    @property
    def covariance(self) -> Tensor:
        return torch.zeros_like(self.precision)

    @property
    def log_partition(self) -> Tensor:
        return self.score(self.location)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (..., B, D) times matrix (D, D) or (B, D, D)."""
    return rows @ matrix if matrix.ndim == 2 else (rows.unsqueeze(-2) @ matrix).squeeze(-2)


@register_kl(CanonicalGaussian, Independent)
def _kl_canonical_normal(q: CanonicalGaussian, p: Independent) -> Tensor:
    """KL(q || p) in nats, (B,), where p is a product of normals."""
    normal = p.base_dist
    if not isinstance(normal, Normal):
        raise NotImplementedError(f"KL between a Gaussian and independent {type(normal).__name__}")
    square = (q.variance + (q.mean - normal.loc) ** 2) / normal.variance
    return 0.5 * (square - 1).sum(-1) + normal.scale.log().sum(-1) + q._log_det
