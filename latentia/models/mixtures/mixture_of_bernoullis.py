"""Mixture of Bernoullis: every datum belongs to one of K clusters, which says how probable each 1 is.

    z ~ Categorical(weights)
    x_d | z = k ~ Bernoulli(probs[k, d]),   d = 1..D, independent given z

    log p(x) = log sum_k weights[k] prod_d probs[k, d]^x_d (1 - probs[k, d])^(1 - x_d)
    p(z = k | x) = weights[k] p(x | z = k) / p(x)

Naive Bayes without its labels, or latent class analysis. The posterior is exact, so EM climbs log p(x) itself: the
M-step sets weights and probs to responsibility-weighted frequencies (Bishop 2006, section 9.3.3), smoothed by a Beta
prior. Missing values are marginalised exactly: their factors are left out.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from latentia.distributions import OneHot
from latentia.distributions.emissions import (
    BernoulliEmissions,
    Emitted,
    log_normalised,
    log_probabilities,
    smoothed,
)
from latentia.errors import DataError
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics

EMPTY = 1e-12
"""The weight below which a component counts as empty."""


class MixtureOfBernoullis(ExactModel, DirectedModel):
    """p(x) = sum_k weights[k] prod_d Bernoulli(x_d; probs[k, d]), x of 0 and 1.

    Args:
        event_shape: of one x, (D,) for a row or (H, W) for an image (comes from the data).
        components: K, the number of clusters.
        smoothing: s, pseudo-count of a value in each cluster and coordinate, on average of 0 and 1: 2 s pseudo-data
            with the coordinate's frequency of ones in all data, a Beta prior. 0 is maximum likelihood, which may give
            new data probability 0.

    Parameters: weights (K,), probs (K, *event).
    """

    binary: ClassVar = True

    def __init__(self, event_shape: tuple[int, ...], components: int = 8, smoothing: float = 0.1):
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.emissions = BernoulliEmissions(components, math.prod(self.event_shape), smoothing)

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def probs(self) -> Tensor:
        """p(x = 1 | z = k), (K, *event)."""
        return self.emissions.probs.unflatten(1, self.event_shape)

    def prior(self, frame: Frame) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits).expand(frame.size, -1)})

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        return Emitted(self.emissions, z, self.event_shape)

    def posterior(self, batch: Batch) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits) + self.emissions.log_prob(*_rows(batch))})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.logits.data.zero_()
        self.emissions.start(*_rows(batch), batch.weights, generator)

    def statistics(self, batch: Batch, posterior: OneHot) -> Statistics:
        responsibility = posterior.expectations(batch.weights)["node"]
        return {"count": responsibility.sum(0), **self.emissions.statistics(*_rows(batch), responsibility)}

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        return self.emissions.mixture_step(*_rows(batch), batch.weights, log_probabilities(self.logits), hard)

    def update(self, total: Statistics) -> None:
        counts = smoothed(total["count"], 0.0, self.logits.log_softmax(-1), strict=True)
        self.logits.data = log_normalised(counts).to(self.logits)
        self.emissions.update(total)

    def log_prior(self) -> Tensor:
        return self.emissions.log_prior()

    def free_parameters(self) -> int:
        """K - 1 weights, and K D probabilities."""
        return len(self.logits) - 1 + self.emissions.free_parameters()

    def concerns(self) -> list[str]:
        empty = (self.weights.detach() < EMPTY).nonzero().flatten().tolist()
        return [f"component {k} is empty: use fewer components or more restarts" for k in empty]

    def canonical(self) -> None:
        """Components by falling weight."""
        order = self.logits.detach().argsort(descending=True, stable=True)
        self.logits.data = self.logits.data[order]
        self.emissions.reorder(order)

    def check(self, batch: Batch) -> None:
        if batch.x.shape[1:] != self.event_shape:
            raise DataError(f"the model takes x of shape {self.event_shape}, the data have {tuple(batch.x.shape[1:])}")
        self.emissions.check(*_rows(batch))


def _rows(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """x and its mask, (B, D)."""
    return batch.x.flatten(1), None if batch.mask is None else batch.mask.flatten(1)


def tiny(seed: int) -> tuple[MixtureOfBernoullis, Batch]:
    """Two components over images of 2 x 2 bits, and eight of them with two bits missing."""
    generator = torch.Generator().manual_seed(seed)
    model = MixtureOfBernoullis((2, 2), components=2, smoothing=0.25).double()
    for parameter in model.parameters():
        parameter.data = 1.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (8, 2, 2), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1, 0] = mask[3, 0, 1] = False
    return model, Batch.of(x, mask)
