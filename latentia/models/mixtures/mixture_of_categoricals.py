"""Mixture of categoricals: every datum belongs to one of K clusters, which says how probable each symbol is.

    z ~ Categorical(weights)
    documents, any number of words drawn alike:      x_t | z = k ~ Categorical(probs[k]),      t = 1..T
    rows of D columns, each with its own symbols:    x_d | z = k ~ Categorical(probs[k, d]),   d = 1..D

    log p(x) = log sum_k weights[k] prod_t probs[k, x_t]
    p(z = k | x) = weights[k] p(x | z = k) / p(x)

Naive Bayes without its labels: the mixture of unigrams for text (Nigam et al. 2000), latent class analysis for tables.
The posterior is exact, so EM climbs log p(x) itself: the M-step sets weights and probs to responsibility-weighted
frequencies, smoothed by a Dirichlet prior. Missing values are marginalised exactly: their factors are left out. The
length T of a document is given, not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.distributions import OneHot
from latentia.distributions.emissions import (
    CategoricalVectorEmissions,
    Emitted,
    log_normalised,
    log_probabilities,
    smoothed,
)
from latentia.errors import DataError
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics

EMPTY = 1e-12
"""The weight below which a component counts as empty."""


class MixtureOfCategoricals(ExactModel, DirectedModel):
    """p(x) = sum_k weights[k] prod_t Categorical(x_t; probs[k]), or with probs[k, d] for each column d.

    Args:
        symbols: V, the number of words or levels (comes from the data); for rows also of each column its own.
        features: D, for rows of D columns; None for documents (comes from the data).
        components: K, the number of clusters.
        smoothing: s, pseudo-count of a symbol in each cluster and column, on average: s V pseudo-counts, divided as
            in all data, a Dirichlet prior. 0 is maximum likelihood, which may give new data probability 0.
        length: T of the documents that are generated where no lengths are given.

    Parameters: weights (K,), probs (K, V) for documents and (K, D, V) for rows, V then being the largest.
    """

    by_column = True
    """It takes columns of categories, each with its own number of them."""

    def __init__(
        self,
        symbols: int | Sequence[int],
        features: int | None = None,
        components: int = 8,
        smoothing: float = 0.01,
        length: int = 20,
    ):
        super().__init__()
        self.length = length
        self.logits = nn.Parameter(torch.zeros(components))
        self.emissions = CategoricalVectorEmissions(components, symbols, features, smoothing)

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def columns(self) -> tuple[int, ...]:
        """How many levels each column has, () for documents."""
        return self.emissions.symbols if self.emissions.features is not None else ()

    @property
    def probs(self) -> Tensor:
        """p(symbol | z = k), (K, V) for documents and (K, D, V) for rows."""
        probs = self.emissions.probs
        return probs if self.emissions.features is not None else probs.squeeze(1)

    def prior(self, frame: Frame) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits).expand(frame.size, -1)})

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        """Documents of `self.length` words where the frame has no lengths."""
        return Emitted(self.emissions, z, (self.emissions.features or frame.room(self.length),))

    def posterior(self, batch: Batch) -> OneHot:
        return OneHot({"node": log_probabilities(self.logits) + self.emissions.log_prob(batch.x, batch.seen)})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.logits.data.zero_()
        self.emissions.start(batch.x, batch.seen, batch.weights, generator)

    def statistics(self, batch: Batch, posterior: OneHot) -> Statistics:
        responsibility = posterior.expectations(batch.weights)["node"]
        return {"count": responsibility.sum(0), **self.emissions.statistics(batch.x, batch.seen, responsibility)}

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        return self.emissions.mixture_step(batch.x, batch.seen, batch.weights, log_probabilities(self.logits), hard)

    def update(self, total: Statistics) -> None:
        counts = smoothed(total["count"], 0.0, self.logits.log_softmax(-1), strict=True)
        self.logits.data = log_normalised(counts).to(self.logits)
        self.emissions.update(total)

    def log_prior(self) -> Tensor:
        return self.emissions.log_prior()

    def free_parameters(self) -> int:
        """K - 1 weights, and for each cluster and column one less than the levels that the data have in it."""
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
        if batch.x.ndim != 2:
            raise DataError(
                f"a mixture of categoricals takes documents (B, T) or rows (B, D), and the data have shape "
                f"{tuple(batch.x.shape)}: flatten each datum to a row"
            )
        self.emissions.check(batch.x, batch.seen)


def tiny(seed: int) -> tuple[MixtureOfCategoricals, Batch]:
    """Two topics over three words, and documents of at most four words with two of them hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = MixtureOfCategoricals(symbols=3, components=2, smoothing=0.2, length=4).double()
    for parameter in model.parameters():
        parameter.data = 1.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (8, 4), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([4, 2, 3, 1, 4, 4, 3, 2]))
