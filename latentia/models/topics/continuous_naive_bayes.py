"""Continuous naive Bayes: every word of a document drawn alike, from a distribution that a point in space decides.

    z ~ Normal(0, I)
    x_t | z ~ Categorical(softmax(W z + b)),   each word t on its own

    q(z | x) = Normal(mean(x), diag(variance(x))) by a linear map of log(1 + counts), or a network
    log p(x) >= E_q(z|x) sum_t log softmax(W z + b)[x_t] - KL(q(z | x) || p(z))

Model 2 of Kim, Wiseman and Rush (2018), "A tutorial on deep latent variable models of natural language": naive Bayes
whose class is a vector. The order of words means nothing, the length of a document is given, and a missing word is left
out. `NVDM` is the same generation with a deeper guess, `ProdLDA` a product of topics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.distributions.bag import Bag
from latentia.distributions.emissions.rows import check_symbols
from latentia.distributions.heads import PosteriorHead, PriorHead
from latentia.errors import DataError
from latentia.model import DirectedModel
from latentia.networks.bags import BagReader, counts
from latentia.networks.mlp import MLP, glorot


class ContinuousNaiveBayes(DirectedModel):
    """p(x, z) = Normal(z; 0, I) prod_t softmax(W z + b)[x_t].

    Args:
        symbols: V, the number of words (comes from the data).
        latent: dimensions of z.
        hidden: widths of the encoder's hidden layers, none for a linear map.
        length: T of the documents that are generated where no lengths are given.

    Parameters: decoder.weight (V, latent), W; decoder.bias (V,), b.
    """

    def __init__(self, symbols: int, latent: int = 20, hidden: Sequence[int] = (), length: int = 50):
        super().__init__()
        self.symbols, self.length = symbols, length
        self.prior_head, self.posterior_head = PriorHead("normal", latent), PosteriorHead("diagonal", latent)
        self.encoder = BagReader(symbols, MLP([symbols, *hidden, self.posterior_head.inputs], "softplus"))
        self.decoder = nn.Linear(latent, symbols)

    @property
    def topics(self) -> Tensor:
        """(2 latent, V): softmax(b + w_d) and softmax(b - w_d), what the two directions of each dimension speak of."""
        ways = torch.cat([self.decoder.weight.mT, -self.decoder.weight.mT])
        return (self.decoder.bias + ways).softmax(-1)

    def prior(self, frame: Frame) -> Distribution:
        return self.prior_head(frame.size, self.anchor)

    def posterior(self, batch: Batch) -> Distribution:
        return self.posterior_head(self.encoder(batch.x, batch.observed, self.anchor))

    def likelihood(self, z: Tensor, frame: Frame) -> Bag:
        """Documents of `self.length` words where the frame has no lengths."""
        return Bag(self.decoder(z).log_softmax(-1), frame.room(self.length))

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, and words as frequent as in the data."""
        glorot(self, generator)
        total = batch.weights.to(self.anchor) @ counts(batch.x, batch.observed, self.symbols, self.anchor)
        self.decoder.bias.data.copy_((total + 1).log().log_softmax(-1))

    def check(self, batch: Batch) -> None:
        check_documents(batch, self.symbols)


def check_documents(batch: Batch, symbols: int) -> None:
    """Raise `DataError` for x that is no bag of `symbols` words."""
    if batch.x.ndim != 2:
        raise DataError(f"this model takes documents of words, x (B, T), not shape {tuple(batch.x.shape)}")
    check_symbols(batch.x, batch.seen, symbols)


def tiny(seed: int) -> tuple[ContinuousNaiveBayes, Batch]:
    """One latent dimension over three words, and documents of at most three, with one hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = ContinuousNaiveBayes(symbols=3, latent=1, hidden=(2,), length=3).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, few_documents(generator)


def few_documents(generator: torch.Generator) -> Batch:
    """Documents of at most three of three words, with one hidden."""
    x = torch.randint(3, (5, 3), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = False
    return Batch.of(x, mask, lengths=torch.tensor([3, 2, 3, 1, 3]))
