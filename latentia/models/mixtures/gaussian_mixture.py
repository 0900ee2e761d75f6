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

from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentia.distributions import OneHot
from latentia.distributions.emissions import Emitted, GaussianEmissions, log_normalised, log_probabilities, smoothed
from latentia.errors import DataError
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics

EMPTY = 1e-12
"""The weight below which a component counts as empty."""


class GaussianMixture(ExactModel, DirectedModel):
    """p(x) = sum_k weights[k] N(x; means[k], covariances[k]).

    Args:
        features: D, the number of columns (comes from the data).
        components: K, the number of clusters.
        covariance: "full"; "tied", one full matrix for all; "diagonal"; "spherical", one variance each; "common",
            one variance in all.
        floor: least variance of a component in any direction, as a fraction of the data's own variance:
            without one the likelihood of K >= 2 components is unbounded.

    Parameters: weights (K,), means (K, D), covariances (K, D, D).
    """

    def __init__(
        self,
        features: int,
        components: int = 8,
        covariance: Literal["full", "tied", "diagonal", "spherical", "common"] = "full",
        floor: float = 1e-6,
    ):
        super().__init__()
        self.emissions = GaussianEmissions(components, features, covariance, floor)
        self.logits = nn.Parameter(torch.zeros(components))

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def means(self) -> Tensor:
        return self.emissions.means

    @property
    def covariances(self) -> Tensor:
        return self.emissions.covariances

    def prior(self, frame: Frame) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits).expand(frame.size, -1)})

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        return Emitted(self.emissions, z, self.means.shape[1:])

    def posterior(self, batch: Batch) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits) + self._log_prob(batch)})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.logits.data.zero_()
        mask = None if batch.mask is None else batch.mask.flatten(1)
        self.emissions.start(batch.x.flatten(1), mask, batch.weights, generator)

    def statistics(self, batch: Batch, posterior: OneHot) -> Statistics:
        responsibility = posterior.expectations(batch.weights)["node"]
        mask = None if batch.mask is None else batch.mask.flatten(1)
        return self.emissions.statistics(batch.x.flatten(1), mask, responsibility)

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        mask = None if batch.mask is None else batch.mask.flatten(1)
        return self.emissions.mixture_step(
            batch.x.flatten(1), mask, batch.weights, log_probabilities(self.logits), hard
        )

    def update(self, total: Statistics) -> None:
        counts = smoothed(total["count"], 0.0, self.logits.log_softmax(-1), strict=True)
        self.logits.data = log_normalised(counts).to(self.logits)
        self.emissions.update(total)

    def free_parameters(self) -> int:
        """K - 1 weights, and the Gaussians' own."""
        return len(self.logits) - 1 + self.emissions.free_parameters()

    def concerns(self) -> list[str]:
        weights = self.weights.detach()
        empty = (weights < EMPTY).nonzero().flatten().tolist()
        found = [f"component {k} is empty: use fewer components or more restarts" for k in empty]
        return found + self.emissions.concerns((weights >= EMPTY).double())

    def condition(self, x: Any) -> GaussianMixture:
        """p(x_hidden | x_seen): the mixture over the coordinates that are NaN in x (D,), given the others.

        Its components are the same clusters: weights p(z = k | x_seen), and each Gaussian conditioned (Bishop 2006,
        section 2.3.1). Raises `DataError` when nothing is hidden.
        """
        batch = Batch.of(torch.as_tensor(x).reshape(1, -1).to(self.means))
        self.check(batch)
        hidden = (~batch.observed[0]).nonzero().flatten()
        if len(hidden) == 0:
            raise DataError("x has no NaN: there is nothing to condition, and the density is that of posterior(batch)")
        with torch.no_grad():
            mean, left = self.emissions.filled(batch.x, batch.observed)
            # of clusters of equal weight, as k-means has them, x makes some likelier than others
            other = GaussianMixture(len(hidden), len(self.weights), "full").to(self.means)
            other.logits.data = self.posterior(batch).log_potentials["node"][0].log_softmax(-1)
            other.emissions.set(mean[0][:, hidden], left[0][:, hidden][:, :, hidden])
        return other

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
