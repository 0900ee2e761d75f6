"""K Gaussians, with four kinds of covariance and with missing coordinates.

log N(x; mu, S) is linear in quadratic features of x, so that all K log-densities are one matrix product, and so
are the sufficient statistics. The features are those of y = (x - center) / unit, which has about mean 0 and
variance 1; where a Gaussian is so much tighter than the data that their terms would cancel, it is computed from its
Cholesky factor instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from latentia.distributions.emissions.base import Statistics, check_scale
from latentia.distributions.emissions.gaussian import densities, m_step, missing, patterns, seeding, statistics
from latentia.distributions.emissions.gaussian.parameters import COARSE, LEAST, Gaussians, dtype_name
from latentia.errors import DataError


class GaussianEmissions(Gaussians):
    """p(x | z = k) = N(x; means[k], covariances[k]), x in R^D.

    Args:
        states: K.
        features: D.
        covariance: "full"; "tied", one full matrix for all; "diagonal"; "spherical", one variance each; "common",
            one variance in all.
        floor: the least variance of a component in any direction, as a fraction of the data's own
            variance: the M-step is the maximum under that constraint, so EM still never descends.
    """

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mask = _of_some(mask)
        if mask is not None and self.dense:
            by_pattern = patterns.log_prob if patterns.applies(self, x) else missing.log_prob_missing
            return by_pattern(self, x, mask)
        return densities.log_prob(self, x, mask)

    def given(self, z: Tensor) -> Distribution:
        mean = z @ self.means
        if not self.dense:
            scale = self.log_scale.exp().expand_as(self.means)
            return Normal(mean, z @ scale, validate_args=False)
        return MultivariateNormal(
            mean, scale_tril=torch.einsum("...k,kij->...ij", z, self.scale_tril), validate_args=False
        )

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        if not self.dense:
            return self.given(z)
        means, left = self.filled(x.reshape(-1, x.shape[-1]), mask.reshape(-1, x.shape[-1]))
        chosen = z.reshape(len(z), -1, z.shape[-1])
        mean = torch.einsum("smk,mkd->smd", chosen, means).reshape(*z.shape[:-1], -1)
        spread = torch.einsum("smk,mkde->smde", chosen, left).reshape(*mean.shape, x.shape[-1])
        # an observed coordinate has no variance left; a normal wants some
        tiny = 1e-12 * torch.diag_embed(self.covariances.diagonal(dim1=-2, dim2=-1).amin(0))
        return MultivariateNormal(mean, spread + tiny, validate_args=False)

    def filled(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_observed, k], (M, K, D), and the covariance that is left, (M, K, D, D)."""
        return missing.fill(self, x, mask)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        seeding.start(self, x, mask, weight, generator)

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """float64 sums over the M observations, weighted by responsibility (M, K)."""
        mask = _of_some(mask)
        if mask is not None and self.dense:
            with_gradient = responsibility.requires_grad or not patterns.applies(self, x)
            by_pattern = missing.statistics_missing if with_gradient else patterns.statistics
            return by_pattern(self, x, mask, responsibility)
        return statistics.statistics(self, x, mask, responsibility)

    def mixture_step(
        self, x: Tensor, mask: Tensor | None, weight: Tensor, log_prior: Tensor, hard: bool = False
    ) -> tuple[Statistics, Tensor]:
        mask = _of_some(mask)
        if mask is None or not self.dense:
            return statistics.mixture_step(self, x, mask, weight, log_prior, hard)
        whole = mask.all(1)
        if not whole.any():
            return self._holed_step(x, mask, weight, log_prior, hard)
        holed = self._holed_step(x[~whole], mask[~whole], weight[~whole], log_prior, hard)
        full = statistics.mixture_step(self, x[whole], None, weight[whole], log_prior, hard)
        return {name: full[0][name] + value for name, value in holed[0].items()}, full[1] + holed[1]

    def _holed_step(
        self, x: Tensor, mask: Tensor, weight: Tensor, log_prior: Tensor, hard: bool
    ) -> tuple[Statistics, Tensor]:
        """`mixture_step` of rows of which something is missing, where coordinates are correlated."""
        with torch.no_grad():
            if patterns.applies(self, x):
                return patterns.mixture_step(self, x, mask, weight, log_prior, hard)
        return super().mixture_step(x, mask, weight, log_prior, hard)

    def update(self, total: Statistics) -> None:
        m_step.update(self, total)

    def concerns(self, count: Tensor) -> list[str]:
        found = []
        coarse = torch.finfo(self.means.dtype).eps * self.center.abs() > COARSE * self.unit
        if bool((coarse := coarse & ~self.constant).any()):
            found.append(
                f"column {self.numbers_of(coarse)} lies so far from 0 that {dtype_name(self.means.dtype)} holds few "
                "digits of how it varies: subtract an origin from it, or use float64"
            )
        if not (which := ((count > 0) & self.floored).nonzero().flatten().tolist()):
            return found
        names, flat = ", ".join(str(k) for k in which), self.numbers_of(self.constant)
        return [
            *found,
            f"the variance of component {names} is at its floor ({max(self.floor, LEAST):g} of the data's): collapsed "
            f"onto a few points{f' or onto constant columns ({flat})' if flat else ''}; use fewer "
            f"components{', a higher floor, or drop such columns' if flat else ' or a higher floor'}",
        ]

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 2 or x.shape[-1] != self.means.shape[-1]:
            raise DataError(f"the model has {self.means.shape[-1]} features, the data {tuple(x.shape[1:])}")
        check_scale(x, None if mask is None else mask.reshape(x.shape))


def _of_some(mask: Tensor | None) -> Tensor | None:
    """The mask, or None where it hides nothing."""
    return None if mask is None or bool(mask.all()) else mask
