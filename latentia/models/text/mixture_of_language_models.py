"""Mixture of language models: each sentence is written by one of K language models, and nobody says which.

    z ~ Categorical(weights)
    x_t | x_1..t-1, z = k ~ Categorical(softmax(W h_t + b)),   h_t = LSTM or Transformer of model k,   up to </s>

    log p(x) = log sum_k weights[k] prod_t p(x_t | x_1..t-1, k), the end counted
    p(z = k | x) = weights[k] p(x | k) / p(x)

Model 1 of Kim, Wiseman and Rush (2018), "A tutorial on deep latent variable models of natural language". The models
have networks of their own, or share one that is told which it is. In `MixtureOfLanguageModels` z is summed out exactly,
at the cost of K passes; in `InferredMixtureOfLanguageModels` a network guesses it, q(z | x), and log p(x) has the lower
bound E_q log p(x | z) - KL(q(z | x) || p(z)), whose expectation is a sum over z.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical

from latentia.batch import Batch, Frame
from latentia.distributions import Joint, OneHot
from latentia.distributions.sentence import AutoregressiveCategorical, Written, WrittenByOneOf, check_sentences
from latentia.model import DirectedModel, TractableModel
from latentia.networks.decoder import decoder, encoder, start_decoder


class _Mixture(DirectedModel):
    """p(x, z) = weights[z] p(x | z): all but the posterior."""

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
        components: int = 4,
        shared: bool = True,
        network: Literal["lstm", "transformer"] = "lstm",
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        dropout: float = 0.0,
        tie: bool = True,
        length: int = 100,
    ):
        super().__init__()
        self.symbols, self.end, self.length = symbols, end, length
        self.logits = nn.Parameter(torch.zeros(components))
        self.size: dict[str, Any] = {"embedding": embedding, "hidden": hidden, "layers": layers, "dropout": dropout}
        self.size |= {"heads": heads, "positions": positions, "length": length}
        if shared:
            route = ("initial", "inputs") if network == "lstm" else ("prefix", "inputs")
            writers = [decoder(network, symbols, given=components, route=route, tie=tie, **self.size)]
        else:
            writers = [decoder(network, symbols, tie=tie, **self.size) for _ in range(components)]
        self.shared, self.decoders = shared, nn.ModuleList(writers)

    @property
    def weights(self) -> Tensor:
        """p(z), (K,)."""
        return self.logits.softmax(-1)

    def prior(self, frame: Frame) -> Distribution:
        return OneHot({"node": self.logits.log_softmax(-1).expand(frame.size, -1)})

    def likelihood(self, z: Any, frame: Frame) -> AutoregressiveCategorical:
        decoders: Any = list(self.decoders)
        words = Written(decoders[0], z, z.shape[:2]) if self.shared else WrittenByOneOf(decoders, z)
        return AutoregressiveCategorical(words, z[..., 0], frame.room(self.length), self.end)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Components of equal weight, with random networks."""
        self.logits.data.zero_()
        start_decoder(self, batch.x, batch.observed, batch.weights, generator)

    def check(self, batch: Batch) -> None:
        check_sentences(batch.x, batch.observed, self.symbols, self.end)


class MixtureOfLanguageModels(_Mixture, TractableModel):
    """p(x) = sum_k weights[k] p(x | k), exactly.

    Args:
        symbols: V, the end among them (comes from the data).
        end: the symbol that ends a sentence; None: lengths are given (comes from the data).
        components: K.
        shared: one network, told which component it is; or K networks.
        network: lstm or transformer.
        embedding: width of a word's vector.
        hidden: width of each network; layers: how many.
        heads, positions: of a transformer: rotary, or learned for `length` symbols at most.
        dropout: of what goes into the networks and comes out of them, while learning.
        tie: the output layer's weights are the words' vectors.
        length: symbols that a generated sentence has at most.

    Parameters: weights (K,), and the networks'.
    """

    def posterior(self, batch: Batch) -> OneHot:
        every = torch.eye(len(self.logits), dtype=self.anchor.dtype, device=self.anchor.device)
        z = every.unsqueeze(1).expand(-1, batch.size, -1)
        return OneHot({"node": self.logits.log_softmax(-1) + self.log_likelihood(batch, z).mT})


class InferredMixtureOfLanguageModels(_Mixture):
    """The same joint, with q(z | x) from a network that reads the sentence.

    Args:
        symbols, end, components, shared, network, embedding, hidden, layers, heads, positions, dropout, tie, length: as
            `MixtureOfLanguageModels` has them.
    """

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
        components: int = 4,
        shared: bool = True,
        network: Literal["lstm", "transformer"] = "lstm",
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        dropout: float = 0.0,
        tie: bool = True,
        length: int = 100,
    ):
        size = (network, embedding, hidden, layers, heads, positions, dropout, tie, length)
        super().__init__(symbols, end, components, shared, *size)
        self.encoder = encoder(network, symbols, components, **self.size)

    def prior(self, frame: Frame) -> Joint:
        return _summed(self.logits.expand(frame.size, -1))

    def likelihood(self, z: Any, frame: Frame) -> AutoregressiveCategorical:
        return super().likelihood(z["z"], frame)

    def posterior(self, batch: Batch) -> Joint:
        return _summed(self.encoder(batch.x.long(), batch.observed, batch.ends))

    def clusters(self, batch: Batch) -> Tensor:
        """q(z | x), (B, K)."""
        return self.encoder(batch.x.long(), batch.observed, batch.ends).softmax(-1)


def _summed(logits: Tensor) -> Joint:
    """One of K values, which is summed over wherever an expectation is taken."""
    return Joint({"z": OneHotCategorical(logits=logits, validate_args=False)}, summed=["z"])


def tiny(seed: int) -> tuple[MixtureOfLanguageModels, Batch]:
    """Two networks over three symbols of which the last is the end, and sentences of at most three."""
    model = MixtureOfLanguageModels(3, 2, components=2, shared=False, embedding=2, hidden=2, length=3).double()
    return model, _given(model, seed)


def tiny_shared(seed: int) -> tuple[MixtureOfLanguageModels, Batch]:
    """Two components with one transformer."""
    sizes: dict[str, Any] = {"embedding": 2, "hidden": 4, "heads": 2, "length": 3}
    model = MixtureOfLanguageModels(3, 2, components=2, network="transformer", **sizes).double()
    return model, _given(model, seed)


def tiny_inferred(seed: int) -> tuple[InferredMixtureOfLanguageModels, Batch]:
    """Two components that a network tells apart."""
    model = InferredMixtureOfLanguageModels(3, 2, components=2, embedding=2, hidden=2, length=3).double()
    return model, _given(model, seed)


def _given(model: _Mixture, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0], [0, 2, 0]])
    return Batch.of(x, lengths=torch.tensor([3, 2, 3, 1, 2]))
