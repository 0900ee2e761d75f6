"""Text VAE: a sentence from a point in a continuous space.

    z ~ Normal(0, I)
    x_t | x_1..t-1, z ~ Categorical(softmax(W h_t + b)),   h_t = LSTM or Transformer(x_1..t-1, z),   up to </s>

    q(z | x) = Normal(mean(x), diag(variance(x))), by a network that reads x; or a full covariance, or a flow
    log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z)), the end of the sentence counted

Bowman et al. (2016), "Generating sentences from a continuous space". A decoder that sees all words before the next one
can do without z, and then the posterior collapses: KL 0, and log p(x) that of a language model. Against it: word
dropout and annealing (their section 3.1), cyclical annealing (Fu et al. 2019), free bits with an encoder that has been
pretrained (Li et al. 2019), aggressive training (He et al. 2019): `Gradient(anneal=, pretrain=, aggressive=)` and
`elbo(free_bits=)`; and z led past the network to the output (Dieng et al. 2019): route skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.distributions.heads import PosteriorHead, PriorHead
from latentia.distributions.sentence import AutoregressiveCategorical, Written, check_sentences
from latentia.model import DirectedModel
from latentia.networks.decoder import decoder, encoder, start_decoder


class TextVAE(DirectedModel):
    """p(x, z) = p(z) prod_t p(x_t | x_1, ..., x_{t-1}, z), up to and with the end.

    Args:
        symbols: V, the end among them (comes from the data).
        end: the symbol that ends a sentence; None: lengths are given (comes from the data).
        latent: dimensions of z.
        network: of encoder and decoder, lstm or transformer.
        embedding: width of a word's vector.
        hidden: width of the networks; layers: how many.
        heads, positions: of a transformer: rotary, or learned for `length` symbols at most.
        route: ways by which z reaches the decoder, any of: initial, the first state; inputs, beside every word; prefix,
            as words before the first; attention, a memory that every step looks at; skip, past the network to the
            output. Nothing: initial and inputs for an LSTM, prefix for a transformer.
        vectors: None: q is told the encoder's last state, or the mean of its states; else what so many learned queries
            find in all of them (`Resampled`), from which a sentence can be told word by word.
        dropout: of what goes into the networks and comes out of them, while learning.
        word_dropout: share of the words before the next one that the decoder is not shown while learning.
        tie: the output layer's weights are the words' vectors.
        posterior: diagonal or full covariance, or a flow: planar, iaf, maf or spline (see `PosteriorHead`).
        prior: normal, the standard one, or a flow that is learned: maf or spline (see `PriorHead`).
        transforms: maps in each flow; flow_hidden: widths of the hidden layers of each map's network.
        length: symbols that a generated sentence has at most.
    """

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
        latent: int = 32,
        network: Literal["lstm", "transformer"] = "lstm",
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        route: Sequence[str] = (),
        vectors: int | None = None,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        tie: bool = True,
        posterior: Literal["diagonal", "full", "planar", "iaf", "maf", "spline"] = "diagonal",
        prior: Literal["normal", "maf", "spline"] = "normal",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64,),
        length: int = 100,
    ):
        super().__init__()
        self.symbols, self.end, self.latent, self.length = symbols, end, latent, length
        self.posterior_head = PosteriorHead(posterior, latent, transforms, flow_hidden)
        self.prior_head = PriorHead(prior, latent, transforms, flow_hidden)
        size: dict[str, Any] = {"embedding": embedding, "hidden": hidden, "layers": layers, "dropout": dropout}
        shape: dict[str, Any] = {"heads": heads, "positions": positions, "length": length}
        self.encoder = encoder(network, symbols, self.posterior_head.inputs, vectors=vectors, **size, **shape)
        told: dict[str, Any] = {"given": latent, "route": route, "word_dropout": word_dropout, "tie": tie}
        self.decoder = decoder(network, symbols, **size, **shape, **told)

    def prior(self, frame: Frame) -> Distribution:
        return self.prior_head(frame.size, self.anchor)

    def posterior(self, batch: Batch) -> Distribution:
        return self.posterior_head(self.encoder(batch.x.long(), batch.observed, batch.ends))

    def likelihood(self, z: Tensor, frame: Frame) -> AutoregressiveCategorical:
        words = Written(self.decoder, z, z.shape[:2])
        return AutoregressiveCategorical(words, z[..., 0], frame.room(self.length), self.end)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Random networks; each symbol's bias says how often it is in the data; flows begin near the identity."""
        start_decoder(self, batch.x, batch.observed, batch.weights, generator)
        self.posterior_head.start(generator)
        self.prior_head.start(generator)

    def check(self, batch: Batch) -> None:
        check_sentences(batch.x, batch.observed, self.symbols, self.end)


def tiny(seed: int) -> tuple[TextVAE, Batch]:
    """One latent dimension, three symbols of which the last is the end, and sentences of at most three."""
    generator = torch.Generator().manual_seed(seed)
    model = TextVAE(3, 2, latent=1, embedding=3, hidden=3, length=3).double()
    return model, _given(model, generator)


def tiny_transformer(seed: int) -> tuple[TextVAE, Batch]:
    """The same by transformers, with z as a prefix and as a memory."""
    generator = torch.Generator().manual_seed(seed)
    model = TextVAE(3, 2, 1, "transformer", 2, 4, 1, 2, "learned", ("prefix", "attention"), length=5).double()
    return model, _given(model, generator)


def tiny_resampled(seed: int) -> tuple[TextVAE, Batch]:
    """The same by an LSTM of whose states two queries make z."""
    generator = torch.Generator().manual_seed(seed)
    model = TextVAE(3, 2, 1, "lstm", 2, 4, heads=2, vectors=2, length=3).double()
    return model, _given(model, generator)


def _given(model: TextVAE, generator: torch.Generator) -> Batch:
    for parameter in model.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0], [0, 2, 0]])
    return Batch.of(x, lengths=torch.tensor([3, 2, 3, 1, 2]))
