"""ProdLDA: a document mixes topics, and its words come from the product of these, not from their mixture.

    h ~ Normal(mu, diag(s^2)),   theta = softmax(h)
    x_t | theta ~ Categorical(softmax(norm(theta B))),   each word t on its own

    mu_k = 0,   s_k^2 = (1 - 1 / K) / a:   the Laplace approximation of Dirichlet(a, ..., a) in the softmax basis
    q(h | x) = Normal(mean(x), diag(variance(x))), by a network of log(1 + counts)

A topic says which words are more and which are less likely, and topics are multiplied: a product of experts, sharper
than any mixture. norm is batch normalisation: without it, and that of the encoder's outputs, the posterior collapses to
its prior early in learning. z is h. The order of words means nothing, the length of a document is given, and a missing
word is left out.

Srivastava and Sutton (2017), "Autoencoding variational inference for topic models", ICLR: sections 3.2 to 3.4 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentia.batch import Batch, Frame
from latentia.distributions.bag import Bag
from latentia.errors import OptionError
from latentia.model import DirectedModel
from latentia.models.topics.continuous_naive_bayes import check_documents, few_documents
from latentia.networks.bags import BagReader, counts
from latentia.networks.mlp import MLP, glorot


class Centred(nn.BatchNorm1d):
    """Batch normalisation to variance 1 around a mean that is learned: (N, C) to (N, C). It learns no scale, with which
    the encoder's outputs could collapse all the same."""

    def __init__(self, features: int):
        super().__init__(features, affine=False)
        self.centre = nn.Parameter(torch.zeros(features))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.centre


class ProdLDA(DirectedModel):
    """p(x, h) = Normal(h; mu, diag(s^2)) prod_t softmax(norm(softmax(h) B))[x_t].

    Args:
        symbols: V, the number of words (comes from the data).
        topics: K, at least 2.
        concentration: a, of the Dirichlet that the prior approximates (1 in the authors' code).
        hidden: widths of the encoder's hidden layers.
        dropout: of the encoder's last hidden layer and of theta, while learning.
        length: T of the documents that are generated where no lengths are given.

    Parameters: weights (K, V), B, unnormalised.
    """

    def __init__(
        self,
        symbols: int,
        topics: int = 50,
        concentration: float = 1.0,
        hidden: Sequence[int] = (100, 100),
        dropout: float = 0.2,
        length: int = 50,
    ):
        super().__init__()
        if topics < 2 or not concentration > 0 or not 0 <= dropout < 1:
            raise OptionError("topics must be at least 2, concentration above 0, and dropout at least 0 and below 1")
        self.symbols, self.length = symbols, length
        self.scale = ((1 - 1 / topics) / concentration) ** 0.5
        body = MLP([symbols, *hidden], "softplus")
        self.encoder = BagReader(symbols, nn.Sequential(body, nn.Softplus(), nn.Dropout(dropout)))
        self.mean, self.log_variance = nn.Linear(hidden[-1], topics), nn.Linear(hidden[-1], topics)
        self.mean_norm, self.log_variance_norm = Centred(topics), Centred(topics)
        self.drop = nn.Dropout(dropout)
        self.weights = nn.Parameter(torch.empty(topics, symbols))
        self.norm = Centred(symbols)
        nn.init.xavier_uniform_(self.weights)

    @property
    def topics(self) -> Tensor:
        """(K, V): the words' distribution of each topic alone."""
        alone = torch.eye(len(self.weights), dtype=self.anchor.dtype, device=self.anchor.device)
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        logits = (alone @ self.weights - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        return (logits + norm.centre).softmax(-1)

    def prior(self, frame: Frame) -> Distribution:
        zeros = self.anchor.new_zeros(frame.size, len(self.weights))
        return Independent(Normal(zeros, torch.full_like(zeros, self.scale), validate_args=False), 1)

    def posterior(self, batch: Batch) -> Distribution:
        features = self.encoder(batch.x, batch.observed, self.anchor)
        mean = self.mean_norm(self.mean(features))
        log_variance = self.log_variance_norm(self.log_variance(features))
        return Independent(Normal(mean, (0.5 * log_variance).exp(), validate_args=False), 1)

    def likelihood(self, z: Tensor, frame: Frame) -> Bag:
        """Documents of `self.length` words where the frame has no lengths."""
        logits = self.drop(z.softmax(-1)) @ self.weights
        normal = self.norm(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
        return Bag(normal.log_softmax(-1), frame.room(self.length))

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, words as frequent as in the data, and batch normalisation as if nothing had been seen."""
        glorot(self, generator)
        bound = (6 / sum(self.weights.shape)) ** 0.5
        drawn = torch.empty(self.weights.shape).uniform_(-bound, bound, generator=generator)
        self.weights.data.copy_(drawn)
        for norm in (self.mean_norm, self.log_variance_norm, self.norm):
            norm.reset_running_stats()
            norm.centre.data.zero_()
        total = batch.weights.to(self.anchor) @ counts(batch.x, batch.observed, self.symbols, self.anchor)
        self.norm.centre.data.copy_((total + 1).log().log_softmax(-1))

    def check(self, batch: Batch) -> None:
        check_documents(batch, self.symbols)


def tiny(seed: int) -> tuple[ProdLDA, Batch]:
    """Two topics over three words, and documents of at most three, with one hidden; as it is after learning."""
    generator = torch.Generator().manual_seed(seed)
    model = ProdLDA(symbols=3, topics=2, concentration=0.7, hidden=(2,), length=3).double().eval()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    for norm in (model.mean_norm, model.log_variance_norm, model.norm):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return model, few_documents(generator)
