"""Neural variational document model: a document's words from a point in space, which a deep network guesses.

    z ~ Normal(0, I)
    x_t | z ~ Categorical(softmax(f(z))),   each word t on its own;  f is linear, or a network

    q(z | x) = Normal(mean(x), diag(variance(x))) by a network of log(1 + counts)
    log p(x) >= E_q(z|x) sum_t log softmax(f(z))[x_t] - KL(q(z | x) || p(z))

Miao, Yu and Blunsom (2016), "Neural variational inference for text processing", section 3: with a linear f it is a
log-linear model of words, `ContinuousNaiveBayes`, whose posterior is amortised by a multilayer perceptron. The order of
words means nothing, the length of a document is given, and a missing word is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.distributions.bag import Bag
from latentia.distributions.heads import PosteriorHead, PriorHead
from latentia.model import DirectedModel
from latentia.models.topics.continuous_naive_bayes import check_documents, few_documents
from latentia.networks.bags import BagReader, counts
from latentia.networks.mlp import MLP, glorot


class NVDM(DirectedModel):
    """p(x, z) = p(z) prod_t softmax(f(z))[x_t].

    Args:
        symbols: V, the number of words (comes from the data).
        latent: dimensions of z.
        hidden: widths of the encoder's hidden layers.
        decoder_hidden: widths of the decoder's, none for the log-linear one of the paper.
        posterior: diagonal or full covariance, or a flow: planar, iaf, maf or spline (see `PosteriorHead`).
        prior: normal, the standard one, or a flow that is learned: maf or spline (see `PriorHead`).
        length: T of the documents that are generated where no lengths are given.
    """

    def __init__(
        self,
        symbols: int,
        latent: int = 50,
        hidden: Sequence[int] = (500,),
        decoder_hidden: Sequence[int] = (),
        posterior: Literal["diagonal", "full", "planar", "iaf", "maf", "spline"] = "diagonal",
        prior: Literal["normal", "maf", "spline"] = "normal",
        length: int = 50,
    ):
        super().__init__()
        self.symbols, self.length = symbols, length
        self.prior_head, self.posterior_head = PriorHead(prior, latent), PosteriorHead(posterior, latent)
        self.encoder = BagReader(symbols, MLP([symbols, *hidden, self.posterior_head.inputs], "relu"))
        self.decoder = MLP([latent, *decoder_hidden, symbols], "relu")

    @property
    def topics(self) -> Tensor:
        """(2 latent, V): the words' distribution where one dimension of z is 1, or -1, and the others are 0."""
        one = torch.eye(self.posterior_head.latent, dtype=self.anchor.dtype, device=self.anchor.device)
        return self.decoder(torch.cat([one, -one])).softmax(-1)

    def prior(self, frame: Frame) -> Distribution:
        return self.prior_head(frame.size, self.anchor)

    def posterior(self, batch: Batch) -> Distribution:
        return self.posterior_head(self.encoder(batch.x, batch.observed, self.anchor))

    def likelihood(self, z: Tensor, frame: Frame) -> Bag:
        """Documents of `self.length` words where the frame has no lengths."""
        return Bag(self.decoder(z).log_softmax(-1), frame.room(self.length))

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, words as frequent as in the data, and flows that begin near the identity."""
        glorot(self.encoder, generator)
        glorot(self.decoder, generator)
        self.posterior_head.start(generator)
        self.prior_head.start(generator)
        total = batch.weights.to(self.anchor) @ counts(batch.x, batch.observed, self.symbols, self.anchor)
        self.decoder.output_bias.data.copy_((total + 1).log().log_softmax(-1))

    def check(self, batch: Batch) -> None:
        check_documents(batch, self.symbols)


def tiny(seed: int) -> tuple[NVDM, Batch]:
    """One latent dimension over three words, and documents of at most three, with one hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = NVDM(symbols=3, latent=1, hidden=(2,), decoder_hidden=(2,), length=3).double()
    for parameter in model.parameters():
        # no unit of a ReLU is to be dead
        parameter.data = 0.3 + 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, few_documents(generator)
