"""Vector-quantized VAE: an autoencoder whose code is a few words of a codebook, and a model of the words.

    c     ~ prod_m p(c_m | c_1, ..., c_{m-1}), an autoregressive prior over M codes of K
    x | c ~ Bernoulli(decoder(e_c)), Categorical or Normal, coordinate by coordinate, e_c the vectors of the codes

    q(c | x) = 1 where each c_m is the code nearest to encoder(x)_m
    log p(x) >= log p(x | c(x)) + log p(c(x)): both parts of the code length of x

The encoder learns by the gradient at the code, handed on to what the code is nearest to (straight through), and is held
near its codes; the codebook follows by moving averages, and codes that die begin anew; or it is a grid of scalars that
nothing is learned of (FSQ). The prior learns from the codes, to which its gradient says nothing: with the autoencoder,
and afterwards alone (`freeze_codes`).

van den Oord, Vinyals and Kavukcuoglu (2017), "Neural discrete representation learning"; Mentzer et al. (2024), "Finite
scalar quantization". The prior is a gated recurrent network where the paper has a PixelCNN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.codes import CodePrior, Quantized
from latentia.errors import OptionError
from latentia.model import Batch, Frame
from latentia.models.vaes.vae import VAE
from latentia.networks.codebook import ScalarCodebook, VectorCodebook
from latentia.networks.conv import GridDecoder, GridEncoder
from latentia.networks.mlp import MLP, glorot

FEW = 1000
"""Data whose vectors a codebook begins at."""


class VectorQuantizedVAE(VAE):
    """p(x, z) = p(c) p(x | decoder(z)), z (B, M, D) the vectors of the codes c.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        codes: K, the size of the codebook (vq).
        width: D, of a code's vector (vq).
        places: M, the codes of a datum, by an mlp; of convolutions there is one for each cell of their smallest grid.
        quantizer: vq, vectors that follow the data; fsq, all combinations of `levels`.
        levels: of each number of a code's vector (fsq): [8, 5, 5, 5] are 1,000 codes.
        commitment: weight of the squared distance between what the encoder gives and its code (vq).
        hidden: widths of the hidden layers of the mlp, from x to z; the decoder has them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli, categorical or gaussian, as for the VAE.
        network: mlp, or for images convolutions in blocks that are residual or gated.
        channels: of the convolutions at a half, a quarter, ... of the image's height and width.
        prior_hidden: width of the prior's recurrent layer.

    Raises:
        OptionError: an option that is none of these.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        codes: int = 128,
        width: int = 16,
        places: int = 8,
        quantizer: Literal["vq", "fsq"] = "vq",
        levels: Sequence[int] = (8, 5, 5),
        commitment: float = 0.25,
        hidden: Sequence[int] = (200,),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "relu",
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
        network: Literal["mlp", "residual", "gated"] = "mlp",
        channels: Sequence[int] = (32, 64),
        prior_hidden: int = 128,
    ):
        if quantizer not in ("vq", "fsq"):
            raise OptionError(f"quantizer={quantizer!r}: choose one of vq, fsq")
        if places < 1:
            raise OptionError(f"places={places}: a datum has at least one code")
        super().__init__(event_shape, symbols, 1, hidden, activation, likelihood)
        self.codebook = VectorCodebook(codes, width) if quantizer == "vq" else ScalarCodebook(levels)
        # what fsq rounds lies between its levels, and needs nothing to hold it there
        self.commitment = commitment if quantizer == "vq" else 0.0
        width = self.codebook.width
        many, numbers = self.symbols or 1, 2 if likelihood == "gaussian" else 1
        inputs = math.prod(self.event_shape) * many
        if network == "mlp":
            self.places = places
            self.encoder = MLP([inputs, *hidden, places * width], activation)
            self.decoder = MLP([places * width, *reversed(hidden), numbers * inputs], activation)
        else:
            image: dict[str, Any] = {"channels": channels, "block": network, "activation": activation, "levels": many}
            self.encoder = GridEncoder(self.event_shape, width, **image)
            self.decoder = GridDecoder(width, self.event_shape, numbers=numbers, **image)
            self.places = self.encoder.cells
        self.word_prior = WordPrior(self.codebook.size, self.places, prior_hidden)

    def prior(self, frame: Frame) -> CodePrior:
        return CodePrior(self.word_prior, self.codebook, frame.size, self.places, self.anchor)

    def posterior(self, batch: Batch) -> Quantized:
        h = self._vectors(batch)
        q = Quantized(h, self.codebook, self.commitment)
        if self.training and h.requires_grad:
            self.codebook.learn(h.detach().flatten(0, 1), q.codes.flatten())
        return q

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        return super().likelihood(z.flatten(-2) if isinstance(self.decoder, MLP) else z, frame)

    def codes(self, batch: Batch) -> Tensor:
        """The numbers of the codes of each datum, (B, M)."""
        return self.codebook.index(self._vectors(batch))

    def freeze_codes(self) -> None:
        """Leave the autoencoder as it is, so that a further fit (`Gradient(fresh=False)`) learns the prior alone."""
        for network in (self.encoder, self.decoder):
            network.requires_grad_(False)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """As a VAE, with a codebook of vectors that the encoder gives, and a prior that is nearly uniform."""
        super().start(batch, generator)
        for network in (self.encoder, self.decoder):
            if isinstance(network, GridEncoder | GridDecoder):
                glorot(network, generator)
        rows = torch.randperm(batch.size, generator=generator)[:FEW].to(batch.x.device)
        with torch.no_grad():
            self.codebook.start(self._vectors(batch.select(rows)).flatten(0, 1), generator)
        self.word_prior.start(generator)

    def _vectors(self, batch: Batch) -> Tensor:
        """What the encoder gives, (B, M, D)."""
        return self.encoder(self._inputs(batch)).view(batch.size, self.places, self.codebook.width)


class WordPrior(nn.Module):
    """Codes (N, M') to logits (N, M', K), M' up to M: a gated recurrent network over the codes before each, with a bias
    of each place's own."""

    def __init__(self, size: int, places: int, hidden: int):
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(size + 1, hidden)
        self.cell = nn.GRU(hidden, hidden, batch_first=True)
        self.logit = nn.Linear(hidden, size)
        self.place = nn.Parameter(torch.zeros(places, size))

    def forward(self, codes: Tensor) -> Tensor:
        before = nn.functional.pad(codes[:, :-1], (1, 0), value=self.size)
        states, _ = self.cell(self.embedding(before))
        return self.logit(states) + self.place[: codes.shape[1]]

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        for parameter in self.parameters():
            bound = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        self.place.zero_()
        self.logit.weight.mul_(0.1)
        self.logit.bias.zero_()


def _tiny(seed: int, **options: Any) -> tuple[VectorQuantizedVAE, Batch]:
    generator = torch.Generator().manual_seed(seed)
    model = VectorQuantizedVAE((3,), hidden=(4,), activation="tanh", places=2, prior_hidden=3, **options).double()
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.ndim > 1 and b.is_floating_point())):
        tensor.data = 0.7 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model.eval(), Batch.of(x, mask)


def tiny(seed: int) -> tuple[VectorQuantizedVAE, Batch]:
    """Two codes of three, three binary pixels of which one is missing once."""
    return _tiny(seed, codes=3, width=2)


def tiny_scalars(seed: int) -> tuple[VectorQuantizedVAE, Batch]:
    """The same with six codes, of three levels and two."""
    return _tiny(seed, quantizer="fsq", levels=(3, 2))
