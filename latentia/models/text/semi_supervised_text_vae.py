"""Semi-supervised text VAE: what a sentence is, known for some of them, and a point in space for all else about it.

    y ~ Categorical(weights),    z ~ Normal(0, I)
    x_t | x_1..t-1, y, z ~ Categorical(softmax(W h_t + b)),   h_t = LSTM or Transformer(x_1..t-1, y, z),   up to </s>

    q(y | x) = Categorical(classifier(x)),    q(z | x, y) = Normal(mean(x, y), diag(variance(x, y)))

    where y is known:  log p(x, y) >= L(x, y) = E_q(z|x,y) [log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y)]
    where it is not:   log p(x) >= sum_y q(y | x) [L(x, y) - log q(y | x)]: the class is summed out exactly

The M2 of Kingma, Rezende, Mohamed and Welling (2014), section 3, with the decoder of the text VAE (Bowman et al. 2016).
Hu et al. (2017), "Toward controlled generation of text", have the same latents, and discriminators beside: here the
class is learned by likelihood alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.distributions import Joint
from latentia.distributions.heads import PosteriorHead, PriorHead
from latentia.distributions.sentence import AutoregressiveCategorical, Written, check_sentences
from latentia.errors import OptionError
from latentia.model import DirectedModel
from latentia.models.vaes.semi_supervised_vae import check_labels, class_and_code, class_beside, class_probabilities
from latentia.networks.decoder import NETWORKS, decoder, encoder, start_decoder


class SemiSupervisedTextVAE(DirectedModel):
    """p(x, y, z) = weights[y] Normal(z; 0, I) prod_t p(x_t | x_1, ..., x_{t-1}, y, z), up to and with the end, with
    latents {"y": one-hot (K,), "z": (latent,)}.

    Labels are `Batch.known["y"]`, (B, K), as those of the `SemiSupervisedVAE` are: a row marks with 1 the classes that
    a sentence may have, and zeros say nothing.

    Args:
        symbols: V, the end among them (comes from the data).
        end: the symbol that ends a sentence; None: lengths are given (comes from the data).
        classes: K (with labels, comes from them).
        latent: dimensions of z.
        network: of the encoder of z and of the decoder, lstm or transformer.
        classifier: what reads a sentence to tell its class: the mean of its words' vectors, whatever their order, an
            lstm or a transformer.
        embedding: width of a word's vector.
        hidden: width of the networks; layers: how many.
        heads, positions: of a transformer: rotary, or learned for `length` symbols at most.
        route: ways by which y and z reach the decoder, see `TextVAE`.
        dropout: of what goes into the networks and comes out of them, while learning.
        word_dropout: share of the words before the next one that the decoder is not shown while learning.
        tie: the output layer's weights are the words' vectors.
        length: symbols that a generated sentence has at most.

    Parameters: weights (K,), which are learned, and the networks'.
    """

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
        classes: int = 2,
        latent: int = 16,
        network: Literal["lstm", "transformer"] = "lstm",
        classifier: Literal["mean", "lstm", "transformer"] = "mean",
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 1,
        heads: int = 4,
        positions: Literal["rotary", "learned"] = "rotary",
        route: Sequence[str] = (),
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        tie: bool = True,
        length: int = 100,
    ):
        super().__init__()
        if classes < 1:
            raise OptionError(f"classes={classes}: at least 1 class is needed")
        if classifier not in ("mean", *NETWORKS):
            raise OptionError(f"classifier={classifier!r}: choose one of mean, {', '.join(NETWORKS)}")
        self.symbols, self.end, self.classes, self.latent, self.length = symbols, end, classes, latent, length
        self.logits = nn.Parameter(torch.zeros(classes))
        self.posterior_head, self.prior_head = PosteriorHead("diagonal", latent), PriorHead("normal", latent)
        size: dict[str, Any] = {"embedding": embedding, "hidden": hidden, "layers": layers, "dropout": dropout}
        size |= {"heads": heads, "positions": positions, "length": length}
        # x is read once, however many classes are summed over
        self.encoder, self.label = encoder(network, symbols, hidden, **size), nn.Linear(classes, hidden, bias=False)
        self.code = nn.Sequential(nn.Tanh(), nn.Linear(hidden, self.posterior_head.inputs))
        self.classifier = encoder(classifier, symbols, classes, **size)
        told: dict[str, Any] = {"given": latent + classes, "route": route, "word_dropout": word_dropout, "tie": tie}
        self.decoder = decoder(network, symbols, **size, **told)

    @property
    def weights(self) -> Tensor:
        """p(y), (K,)."""
        return self.logits.softmax(-1)

    def prior(self, frame: Frame) -> Joint:
        return class_beside(self.logits, self.prior_head(frame.size, self.anchor))

    def posterior(self, batch: Batch) -> Joint:
        read = (batch.x.long(), batch.observed, batch.ends)
        features = self.encoder(*read)

        def code(y: Tensor) -> Distribution:
            return self.posterior_head(self.code(features + self.label(y)))

        return class_and_code(self.classifier(*read), code, batch)

    def likelihood(self, z: Any, frame: Frame) -> AutoregressiveCategorical:
        given = torch.cat([z["z"], z["y"]], -1)
        words = Written(self.decoder, given, given.shape[:2])
        return AutoregressiveCategorical(words, given[..., 0], frame.room(self.length), self.end)

    def clusters(self, batch: Batch) -> Tensor:
        """q(y | x) of the classifier, given what is known of y, (B, K)."""
        return self.posterior(batch).first.mean

    def class_probabilities(self, batch: Batch, samples: int = 100) -> Tensor:
        """p(y | x), given what is known of y, (B, K): of p(x, y), estimated by so many importance samples of each
        q(z | x, y). It asks the decoder, where `clusters` asks the classifier."""
        return class_probabilities(self, batch, samples)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Classes of equal weight, and random networks; each symbol's bias says how often it is in the data."""
        self.logits.data.zero_()
        start_decoder(self, batch.x, batch.observed, batch.weights, generator)

    def check(self, batch: Batch) -> None:
        check_sentences(batch.x, batch.observed, self.symbols, self.end)
        check_labels(batch, self.classes)


def tiny(seed: int) -> tuple[SemiSupervisedTextVAE, Batch]:
    """Two classes, one latent dimension, three symbols of which the last is the end, and sentences of at most three;
    the class of one is known, that of another may be either."""
    generator = torch.Generator().manual_seed(seed)
    model = SemiSupervisedTextVAE(3, 2, latent=1, embedding=3, hidden=3, length=3).double()
    for parameter in model.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0], [0, 2, 0]])
    known = torch.zeros(5, 2, dtype=torch.float64)
    known[0, 1], known[1] = 1, 1
    return model, Batch.of(x, lengths=torch.tensor([3, 2, 3, 1, 2]), known={"y": known})
