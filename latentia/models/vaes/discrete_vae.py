"""Discrete VAE: an autoencoder whose code is bits, or values of an alphabet; in two layers the sigmoid belief network.

    z     ~ prod_d Bernoulli(z_d; p_d), or prod_d Categorical(z_d; p_d) with every z_d one-hot
    x | z ~ Bernoulli(decoder(z)), Categorical or Normal, coordinate by coordinate

    q(z | x) = prod_d Bernoulli(z_d; encoder(x)_d), or Categorical
    log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z)), the KL in closed form

With two layers p(z_2) p(z_1 | z_2) p(x | z_1) draws from the top down and q(z_1 | x) q(z_2 | z_1) from x up. Nothing
here can be reparameterised: the gradient of E_q is an estimate, by one of those in `latentia.gradients`.

Mnih and Gregor (2014), "Neural variational inference and learning in belief networks"; the networks and the learned
prior are those of Tucker et al. (2017), section 5, the values those of Jang, Gu and Poole (2017), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.discrete import Bernoullis, Categoricals
from latentia.distributions.joint import Conditional, Joint
from latentia.errors import OptionError
from latentia.model import Batch, Frame
from latentia.models.vaes.vae import VAE
from latentia.networks.conv import ConvDecoder, ConvEncoder
from latentia.networks.mlp import MLP, glorot


class DiscreteVAE(VAE):
    """p(x, z) = p(z) p(x | decoder(z)), with z bits (B, D), or one-hot values (B, D, K); of two layers a dict with
    "z1", next to x, and "z2" above it.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        latents: D of z_1, and of z_2 where there are two layers.
        values: K, the values that each latent may have; 2 are bits.
        hidden: for each layer the widths of the hidden layers between it and what is below it, from below up, the
            generative networks have them in reverse; [[]] is a linear model.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli (x in {0, 1}), categorical (x in 0..symbols-1), or gaussian with learned mean
            and diagonal variance.
        network: between x and z_1: mlp, or for images convolutions in blocks that are residual or gated, without
            `hidden`.
        channels: of the convolutions at a half, a quarter, ... of the image's height and width.

    Raises:
        OptionError: another number of `hidden` than of `latents`, more than two layers, or fewer than two values.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        latents: Sequence[int] = (200,),
        values: int = 2,
        hidden: Sequence[Sequence[int]] = ((200,),),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "leaky_relu",
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
        network: Literal["mlp", "residual", "gated"] = "mlp",
        channels: Sequence[int] = (32, 64),
    ):
        if len(latents) not in (1, 2) or len(latents) != len(hidden):
            raise OptionError(
                f"latents={list(latents)}, hidden={[list(widths) for widths in hidden]}: one list of hidden widths for "
                "each layer of latents, of which there are one or two"
            )
        if values < 2:
            raise OptionError(f"values={values}: a latent has at least two")
        super().__init__(event_shape, symbols, latents[0], hidden[0], activation, likelihood)
        self.latents, self.values = tuple(latents), values
        widths = [size * (1 if values == 2 else values) for size in latents]
        self._between(widths[0], hidden[0], activation, network, channels)
        steps = list(zip(pairwise(widths), hidden[1:], strict=True))
        self.up = nn.ModuleList(MLP([low, *between, high], activation) for (low, high), between in steps)
        self.down = nn.ModuleList(MLP([high, *reversed(between), low], activation) for (low, high), between in steps)
        self.prior_logits = nn.Parameter(torch.zeros(widths[-1]))

    def _between(
        self, width: int, hidden: Sequence[int], activation: str, network: str, channels: Sequence[int]
    ) -> None:
        """The networks between x and z_1."""
        levels, numbers = self.symbols or 1, 2 if self.family == "gaussian" else 1
        inputs = math.prod(self.event_shape) * levels
        if network == "mlp":
            self.encoder = MLP([inputs, *hidden, width], activation)
            self.decoder = MLP([width, *reversed(hidden), numbers * inputs], activation)
            return
        image: dict[str, Any] = {"channels": channels, "block": network, "activation": activation, "levels": levels}
        self.encoder = ConvEncoder(self.event_shape, width, **image)
        self.decoder = ConvDecoder(width, self.event_shape, numbers=numbers, **image)

    def prior(self, frame: Frame) -> Distribution:
        top = self._of(self.prior_logits.expand(frame.size, -1))
        if len(self.latents) == 1:
            return top
        return Joint({"z2": top, "z1": self._given("z2", self.down[0])})

    def posterior(self, batch: Batch) -> Distribution:
        first = self._of(self.encoder(self._inputs(batch)))
        if len(self.latents) == 1:
            return first
        parts: dict[str, Conditional] = {"z1": first, "z2": self._given("z1", self.up[0])}
        return Joint(parts)

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        return super().likelihood(self._told(z if isinstance(z, Tensor) else z["z1"]), frame)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, an output bias at which the decoder begins with the data's own frequencies, an encoder that
        sees x less its mean, and a uniform prior."""
        super().start(batch, generator)
        for network in (*self.up, *self.down):
            glorot(network, generator)
        if isinstance(self.encoder, MLP):
            first: Any = self.encoder[0]
            first.bias.data.copy_(-(first.weight @ self._inputs(batch).mean(0)))
        self.prior_logits.data.zero_()

    def _of(self, logits: Tensor) -> Bernoullis | Categoricals:
        return Bernoullis(logits) if self.values == 2 else Categoricals(logits.unflatten(-1, (-1, self.values)))

    def _told(self, z: Tensor) -> Tensor:
        """What a network sees of z: bits as -1 and 1, so that a bit that is 0 moves what is below as one that is 1."""
        return 2 * z - 1 if self.values == 2 else z.flatten(-2)

    def _given(self, name: str, network: nn.Module) -> Callable[[dict[str, Tensor]], Distribution]:
        return lambda z: self._of(network(self._told(z[name])))


def _tiny(seed: int, **options: Any) -> tuple[DiscreteVAE, Batch]:
    generator = torch.Generator().manual_seed(seed)
    model = DiscreteVAE(event_shape=(3,), activation="tanh", **options).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)


def tiny(seed: int) -> tuple[DiscreteVAE, Batch]:
    """Three bits, three binary pixels of which one is missing once."""
    return _tiny(seed, latents=(3,), hidden=((4,),))


def tiny_values(seed: int) -> tuple[DiscreteVAE, Batch]:
    """Two latents of three values each."""
    return _tiny(seed, latents=(2,), hidden=((4,),), values=3)


def tiny_layers(seed: int) -> tuple[DiscreteVAE, Batch]:
    """Two layers of two bits and one."""
    return _tiny(seed, latents=(2, 1), hidden=((4,), (3,)))
