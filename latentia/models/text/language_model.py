"""Language model: a sentence word by word, each given all before it, and no latent variable at all.

    x_t | x_1..t-1 ~ Categorical(softmax(W h_t + b)),   h_t = LSTM or Transformer(x_1..t-1),   up to the symbol </s>

    log p(x) = sum_t log p(x_t | x_1..t-1), exact, the end counted

It is what every latent-variable model of text is judged against, with the same network as its decoder: a text VAE that
is no better has latents that say nothing which the words before do not say (Bowman et al. 2016, section 3.1). Its z has
one value, so that all that is asked of other models can be asked of it: log p(x) is exact, the KL and the mutual
information are 0.

Mikolov et al. (2010); Zaremba, Sutskever and Vinyals (2014) for LSTMs; output weights tied to the words' vectors (Press
and Wolf 2017); Vaswani et al. (2017), with the normalisation before each part and rotary positions (Su et al. 2021).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from latentia.batch import Batch, Frame
from latentia.distributions import OneHot
from latentia.distributions.sentence import AutoregressiveCategorical, Written, check_sentences
from latentia.model import DirectedModel, TractableModel
from latentia.networks.decoder import decoder, start_decoder


class LanguageModel(TractableModel, DirectedModel):
    """p(x) = prod_t p(x_t | x_1, ..., x_{t-1}), up to and with the end.

    Args:
        symbols: V, the end among them (comes from the data).
        end: the symbol that ends a sentence; None: lengths are given (comes from the data).
        network: lstm or transformer.
        embedding: width of a word's vector.
        hidden: width of the network; layers: how many.
        heads, positions: of a transformer: rotary, or learned for `length` symbols at most.
        dropout: of what goes into the network and comes out of it, while learning.
        tie: the output layer's weights are the words' vectors.
        length: symbols that a generated sentence has at most.
    """

    def __init__(
        self,
        symbols: int,
        end: int | None = None,
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
        size: dict[str, Any] = {"embedding": embedding, "hidden": hidden, "layers": layers, "dropout": dropout}
        shape: dict[str, Any] = {"heads": heads, "positions": positions, "length": length, "tie": tie}
        self.decoder = decoder(network, symbols, **size, **shape)

    def prior(self, frame: Frame) -> OneHot:
        """One value."""
        return OneHot({"node": self.anchor.new_zeros(frame.size, 1)})

    def likelihood(self, z: Tensor, frame: Frame) -> AutoregressiveCategorical:
        words = Written(self.decoder, None, z.shape[:2])
        return AutoregressiveCategorical(words, z[..., 0], frame.room(self.length), self.end)

    def posterior(self, batch: Batch) -> OneHot:
        z = self.anchor.new_ones(1, batch.size, 1)
        return OneHot({"node": self.log_likelihood(batch, z).mT})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        start_decoder(self.decoder, batch.x, batch.observed, batch.weights, generator)

    def check(self, batch: Batch) -> None:
        check_sentences(batch.x, batch.observed, self.symbols, self.end)


def tiny(seed: int) -> tuple[LanguageModel, Batch]:
    """Three symbols of which the last is the end, and sentences of at most three, one with a symbol hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = LanguageModel(3, 2, embedding=3, hidden=4, length=3).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.tensor([[0, 1, 2], [1, 2, 0], [1, 0, 1], [2, 0, 0], [0, 2, 0]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = False
    return model, Batch.of(x, mask, torch.tensor([3, 2, 3, 1, 2]))
