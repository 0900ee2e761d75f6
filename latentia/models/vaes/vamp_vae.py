"""VampVAE: a variational autoencoder whose prior is a mixture of its own posteriors.

    k     ~ Uniform(1, ..., K)
    z | k ~ q(z | u_k)
    x | z ~ Bernoulli(decoder(z)), or another likelihood of the `VAE`

    log p(x) >= E_q(z|x) [log p(x | z) + log p(z) - log q(z | x)],   p(z) = 1/K sum_k q(z | u_k)

The pseudo-inputs u_k are points in the space of the encoder's inputs, learned with everything else. The prior that
makes the bound largest is the aggregate posterior, the mean of q(z | x) over all data; K of them approximate it, at
no parameters but themselves. The KL has no closed form and is sampled; log p(z) is exact.

Tomczak and Welling (2018), "VAE with a VampPrior", AISTATS, section 2. Here u_k may be any point, not only one that
data could be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from latentia.distributions.mixture import Mixture
from latentia.errors import OptionError
from latentia.model import Batch, Frame
from latentia.models.vaes.vae import VAE

NOISE = 0.01  # standard deviation of what sets apart pseudo-inputs that start at the same datum


class VampVAE(VAE):
    """p(x, z) = 1/K sum_k q(z | u_k) p(x | decoder(z)), with the encoder's own q.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        pseudo_inputs: K.
        latent: dimensions of z.
        hidden: widths of the hidden layers, from x to z; the decoder has them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli, categorical or gaussian, as for the VAE.
        encoder: your own module, as for the VAE.
        decoder: your own module, as for the VAE.
        posterior: diagonal or full covariance, or a flow, as for the VAE: maf has the fastest mixture.
        transforms: maps in a flow.
        flow_hidden: widths of the hidden layers of the network in each map of a flow.
        network: mlp, or for images convolutions in blocks that are residual or gated.
        channels: of the convolutions at a half, a quarter, ... of the image's height and width.

    Parameters: those of the VAE, and pseudo_inputs (K, inputs), which begin at data drawn at random.

    Raises:
        OptionError: an option that makes no sense.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        pseudo_inputs: int = 100,
        latent: int = 20,
        hidden: Sequence[int] = (200, 200),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "tanh",
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        posterior: Literal["diagonal", "full", "planar", "iaf", "maf", "spline"] = "diagonal",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64,),
        network: Literal["mlp", "residual", "gated"] = "mlp",
        channels: Sequence[int] = (32, 64),
    ):
        if pseudo_inputs < 1:
            raise OptionError(f"pseudo_inputs={pseudo_inputs}: at least 1 is needed")
        super().__init__(
            event_shape,
            symbols,
            latent=latent,
            hidden=hidden,
            activation=activation,
            likelihood=likelihood,
            encoder=encoder,
            decoder=decoder,
            posterior=posterior,
            transforms=transforms,
            flow_hidden=flow_hidden,
            network=network,
            channels=channels,
        )
        inputs = math.prod(self.event_shape) * (self.symbols or 1)
        self.pseudo_inputs = nn.Parameter(torch.rand(pseudo_inputs, inputs))

    def prior(self, frame: Frame) -> Mixture:
        count = len(self.pseudo_inputs)
        weights = self.pseudo_inputs.new_full((count,), -math.log(count))
        return Mixture(self.posterior_head(self.encoder(self.pseudo_inputs)), weights, frame.size)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """As the VAE, and pseudo-inputs at data drawn at random, by their weights, with a little noise."""
        super().start(batch, generator)
        count, weights = len(self.pseudo_inputs), batch.weights.cpu()
        again = count > int((weights > 0).sum())
        # of at most 2^24 data: as many as torch chooses among
        chosen = torch.multinomial(weights[: 2**24], count, replacement=again, generator=generator)
        points = self._inputs(batch.select(chosen.to(batch.x.device)))
        noise = torch.randn(points.shape, generator=generator, dtype=points.dtype)
        self.pseudo_inputs.data.copy_(points + NOISE * noise.to(points))


def tiny(seed: int) -> tuple[VampVAE, Batch]:
    """Three pseudo-inputs, one latent dimension, three binary pixels of which one is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = VampVAE(event_shape=(3,), pseudo_inputs=3, latent=1, hidden=(4,)).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)
