"""Gaussian mixture: every datum belongs to one of K clusters, and each cluster is a Gaussian.

    z ~ Categorical(weights)
    x | z = k ~ Normal(means[k], covariances[k])

    log p(x) = log sum_k weights[k] N(x; means[k], covariances[k])
    p(z = k | x) = weights[k] N(x; means[k], covariances[k]) / p(x)

The posterior is exact, so EM (Dempster, Laird and Rubin 1977) climbs log p(x) itself: the M-step sets weights,
means and covariances to the responsibility-weighted frequency, mean and covariance (Bishop 2006, section 9.2).
Missing coordinates are marginalised exactly.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions import OneHot
from latentia.distributions.emissions import GaussianEmissions, log_normalised
from latentia.model import Batch, DirectedModel, ExactModel, Statistics


class GaussianMixture(ExactModel, DirectedModel):
    """p(x) = sum_k weights[k] N(x; means[k], covariances[k]).

    Args:
        features: D, the number of columns (comes from the data).
        components: K, the number of clusters.
        covariance: "full", or "diagonal".
        floor: least variance of a component in any direction, as a fraction of the data's own variance:
            without one the likelihood of K >= 2 components is unbounded.

    Parameters: weights (K,), means (K, D), covariances (K, D, D).
    """

    def __init__(
        self,
        features: int,
        components: int = 8,
        covariance: Literal["full", "diagonal"] = "full",
        floor: float = 1e-6,
    ):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.emissions = GaussianEmissions(components, features, covariance, floor)

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def means(self) -> Tensor:
        return self.emissions.means

    @property
    def covariances(self) -> Tensor:
        return self.emissions.covariances

    def prior(self, batch: Batch) -> OneHot:
        return OneHot({"node": self.logits.log_softmax(-1).expand(batch.size, -1)})

    def likelihood(self, z: Tensor, batch: Batch) -> Distribution:
        return self.emissions.given(z)

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        return (z * self._log_prob(batch)).sum(-1)

    def conditional(self, z: Tensor, batch: Batch) -> Distribution:
        return self.emissions.conditional(batch.x.flatten(1), batch.observed.flatten(1), z)

    def posterior(self, batch: Batch) -> OneHot:
        return OneHot({"node": self.logits.log_softmax(-1) + self._log_prob(batch)})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.logits.data.zero_()
        mask = None if batch.mask is None else batch.mask.flatten(1)
        self.emissions.start(batch.x.flatten(1), mask, batch.weights, generator)

    def statistics(self, batch: Batch, posterior: OneHot) -> Statistics:
        responsibility = posterior.expectations(batch.weights)["node"]
        mask = None if batch.mask is None else batch.mask.flatten(1)
        return self.emissions.statistics(batch.x.flatten(1), mask, responsibility)

    def update(self, total: Statistics) -> None:
        self.logits.data = log_normalised(total["count"])
        self.emissions.update(total)

    def canonical(self) -> None:
        """Components by falling weight."""
        order = self.logits.detach().argsort(descending=True, stable=True)
        self.logits.data = self.logits.data[order]
        self.emissions.reorder(order)

    def check(self, batch: Batch) -> None:
        self.emissions.check(batch.x.flatten(1), batch.mask)

    def _log_prob(self, batch: Batch) -> Tensor:
        return self.emissions.log_prob(batch.x.flatten(1), None if batch.mask is None else batch.mask.flatten(1))


def tiny(seed: int) -> tuple[GaussianMixture, Batch]:
    """Two overlapping components in the plane, and seven points of which one is seen by half."""
    generator = torch.Generator().manual_seed(seed)
    model = GaussianMixture(features=2, components=2).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = False
    return model, Batch.of(x, mask)
