"""PixelVAE: a variational autoencoder whose pixels depend on z and on the pixels before them.

    z     ~ Normal(0, I)
    x | z ~ prod_d Bernoulli(x_d; decoder(x_1, ..., x_{d-1}, z)_d), pixels in row-major order

    q(z | x) = Normal(mean(x), diag(variance(x)))
    log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z))

The decoder is a small PixelCNN that is conditioned on z (Gulrajani et al. 2017, "PixelVAE"). It could model x without
any z, and under the plain bound it learns to: this is the model on which posterior collapse shows, and on which
remedies are measured (benchmarks/collapse.py).

Missing pixels after the last one observed drop out of the likelihood; each of the others, on which later pixels
depend, is summed out, so there may only be a few of them. They enter the encoder as zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentia.distributions.autoregressive import AutoregressiveBernoulli
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame
from latentia.networks.mlp import ACTIVATIONS, MLP, glorot
from latentia.networks.pixel_cnn import MaskedConv, PixelCNN


class PixelVAE(DirectedModel):
    """p(x, z) = Normal(z; 0, I) prod_d Bernoulli(x_d; decoder(x_1, ..., x_{d-1}, z)_d).

    Args:
        event_shape: (rows, columns) of one x (comes from the data).
        latent: dimensions of z.
        hidden: widths of the encoder's hidden layers, and in reverse of those that spread z over the image.
        channels: of the decoder's convolutions.
        layers: of the decoder's convolutions: the more, the farther back a pixel sees, and the less it needs z.
        kernel: the first of them sees `kernel` x `kernel` pixels, those after its centre masked; odd.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        encoder: your own module, (B, D) to (B, 2 * latent): means, then log standard deviations.
        decoder: your own module, called with x (..., D) and z (..., latent), whose leading dimensions broadcast, to D
            logits of which the d-th must not depend on x_d or what comes after it.
    """

    binary: ClassVar = True

    def __init__(
        self,
        event_shape: Sequence[int],
        latent: int = 20,
        hidden: Sequence[int] = (200,),
        channels: int = 16,
        layers: int = 3,
        kernel: int = 7,
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "relu",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise OptionError(f"activation={activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        self.event_shape, self.latent = tuple(event_shape), latent
        if decoder is None and len(self.event_shape) != 2:
            raise OptionError(f"event_shape={self.event_shape}: PixelVAE convolves images of (rows, columns); use VAE")
        self.encoder = encoder or MLP([math.prod(self.event_shape), *hidden, 2 * latent], activation)
        self.decoder = decoder or PixelCNN(
            self.event_shape, latent, list(reversed(hidden)), channels, layers, kernel, activation=activation
        )

    def prior(self, frame: Frame) -> Independent:
        zeros = self.anchor.new_zeros(frame.size, self.latent)
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1, validate_args=False)

    def posterior(self, batch: Batch) -> Independent:
        x = batch.x if batch.mask is None else torch.where(batch.mask, batch.x, 0.0)
        mean, log_scale = self.encoder(x.flatten(1).to(self.anchor.dtype)).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)

    def likelihood(self, z: Tensor, frame: Frame) -> AutoregressiveBernoulli:
        return AutoregressiveBernoulli(lambda x: self.decoder(x, z), z[..., 0], self.event_shape)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, and an output bias at which the decoder begins with the data's own frequencies."""
        for network in (self.encoder, self.decoder):
            if isinstance(network, MLP | PixelCNN):
                glorot(network, generator)
        if isinstance(self.decoder, PixelCNN):
            _begin(self.decoder, batch, generator)

    def check(self, batch: Batch) -> None:
        if tuple(batch.x.shape[1:]) != self.event_shape:
            raise DataError(f"the model takes x of shape {self.event_shape}, the data have {tuple(batch.x.shape[1:])}")
        x = batch.x[batch.observed]
        if not bool(((x == 0) | (x == 1)).all()):
            raise DataError("a Bernoulli likelihood needs values 0 or 1: binarize grey images (--binarize dynamic)")


@torch.no_grad()
def _begin(decoder: PixelCNN, batch: Batch, generator: torch.Generator) -> None:
    for layer in (module for module in decoder.modules() if isinstance(module, MaskedConv)):
        bound = (3 / (layer.weight[0].numel() / 2)) ** 0.5  # half of what a convolution sees is masked
        layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=generator))
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    seen = batch.observed.flatten(1) * batch.weights.unsqueeze(-1)
    mean = (batch.x.flatten(1) * seen).sum(0) / seen.sum(0).clamp(min=1e-12)
    decoder.output_bias.copy_(mean.clamp(1e-3, 1 - 1e-3).logit())


def tiny(seed: int) -> tuple[PixelVAE, Batch]:
    """One latent dimension, 2 x 2 binary pixels of which one is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = PixelVAE((2, 2), latent=1, hidden=(3,), channels=2, layers=2, kernel=3, activation="tanh").double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 2, 2), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0, 1] = False
    return model, Batch.of(x, mask)
