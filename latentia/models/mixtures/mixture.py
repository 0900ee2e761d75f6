"""Mixture over columns of their own kind: every row of a table belongs to one of K clusters.

    z ~ Categorical(weights)
    numbers:        x_d | z = k ~ Normal(means[k, d], deviations[k, d]^2)
    categories:     x_d | z = k ~ Categorical(probs[k, d]),   of V_d values
    yes or no:      x_d | z = k ~ Bernoulli(probs[k, d])
    counts:         x_d | z = k ~ Poisson(rates[k, d])

    log p(x) = log sum_k weights[k] prod_d p(x_d | z = k)
    p(z = k | x) = weights[k] prod_d p(x_d | z = k) / p(x)

Columns are independent within a cluster: the latent class model for categories (Lazarsfeld and Henry 1968), latent
profiles for numbers, and both together (McLachlan and Peel 2000, section 5.4; Hunt and Jorgensen 1999 for missing
values). The posterior is exact, so EM climbs log p(x) itself, and the M-step sets each parameter to a
responsibility-weighted mean, variance or frequency. Missing values are marginalised exactly: their factors are left
out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.distributions import OneHot
from latentia.distributions.columns import Column
from latentia.distributions.emissions import ColumnEmissions, Emitted, log_normalised, log_probabilities, smoothed
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics

EMPTY = 1e-12
"""The weight below which a component counts as empty."""


class Mixture(ExactModel, DirectedModel):
    """p(x) = sum_k weights[k] prod_d p(x_d | z = k), x a row of numbers, categories, yes or no, and counts.

    Args:
        columns: what each column holds: "real", "binary", "count", or the number of its categories (comes from the
            data).
        components: K, the number of clusters.
        floor: least variance of a number within a cluster, as a fraction of the column's own: without one the
            likelihood of K >= 2 components is unbounded.
        smoothing: pseudo-count of a category, and of yes and no, in each cluster, on average, and of rows with the mean
            count: priors around what all data show. 0 is maximum likelihood, which may give new rows probability 0.

    x is (B, D) of floats: a category is its position from 0, yes is 1 and no 0.

    Parameters: weights (K,), and those of `emissions`, by kind: `emissions.part("real").means` (K, D_real),
    `emissions.part("category").probs` (K, D_category, V), `emissions.part("binary").probs` (K, D_binary),
    `emissions.part("count").rates` (K, D_count).
    """

    def __init__(self, columns: Sequence[Column], components: int = 8, floor: float = 1e-6, smoothing: float = 0.01):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.emissions = ColumnEmissions(components, columns, floor, smoothing)

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What each column holds."""
        return self.emissions.columns

    def prior(self, frame: Frame) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits).expand(frame.size, -1)})

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        return Emitted(self.emissions, z, (len(self.columns),))

    def posterior(self, batch: Batch) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits) + self.emissions.log_prob(batch.x, batch.mask)})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.logits.data.zero_()
        self.emissions.start(batch.x, batch.mask, batch.weights, generator)

    def statistics(self, batch: Batch, posterior: OneHot) -> Statistics:
        responsibility = posterior.expectations(batch.weights)["node"]
        sums = self.emissions.statistics(batch.x, batch.mask, responsibility)
        return {"count": responsibility.sum(0, dtype=torch.float64), **sums}

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        return self.emissions.mixture_step(batch.x, batch.mask, batch.weights, log_probabilities(self.logits), hard)

    def update(self, total: Statistics) -> None:
        counts = smoothed(total["count"], 0.0, self.logits.log_softmax(-1), strict=True)
        self.logits.data = log_normalised(counts).to(self.logits)
        self.emissions.update(total)

    def log_prior(self) -> Tensor:
        return self.emissions.log_prior()

    def free_parameters(self) -> int:
        """K - 1 weights, and for each cluster two numbers a real column, one less than its categories a category, one
        number for yes or no, and one for a count."""
        return len(self.logits) - 1 + self.emissions.free_parameters()

    def concerns(self) -> list[str]:
        weights = self.weights.detach()
        empty = (weights < EMPTY).nonzero().flatten().tolist()
        found = [f"component {k} is empty: use fewer components or more restarts" for k in empty]
        return found + self.emissions.concerns((weights >= EMPTY).double())

    def canonical(self) -> None:
        """Components by falling weight."""
        order = self.logits.detach().argsort(descending=True, stable=True)
        self.logits.data = self.logits.data[order]
        self.emissions.reorder(order)

    def check(self, batch: Batch) -> None:
        self.emissions.check(batch.x, batch.mask)


def tiny(seed: int) -> tuple[Mixture, Batch]:
    """Two clusters of rows of a number, one of three categories, and yes or no, of which each is hidden once."""
    generator = torch.Generator().manual_seed(seed)
    model = Mixture(("real", 3, "binary"), components=2, smoothing=0.2).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    number = torch.randn(7, 1, generator=generator, dtype=torch.float64)
    category, binary = (torch.randint(levels, (7, 1), generator=generator).double() for levels in (3, 2))
    x = torch.cat([number, category, binary], 1)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = mask[3, 2] = mask[4, 0] = mask[4, 1] = False
    return model, Batch.of(x, mask)


def tiny_counts(seed: int) -> tuple[Mixture, Batch]:
    """Two clusters of rows of two categories, of two and of three values, and a count."""
    generator = torch.Generator().manual_seed(seed)
    model = Mixture((2, 3, "count"), components=2, smoothing=0.2).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    parts = [torch.randint(levels, (7, 1), generator=generator).double() for levels in (2, 3, 4)]
    x = torch.cat(parts, 1)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = mask[3, 2] = False
    return model, Batch.of(x, mask)
