"""Ladder VAE: a deep latent Gaussian model with several stochastic layers.

    z_L         ~ Normal(0, I)
    z_l | z_l+1 ~ Normal(mean_l(z_l+1), diag(variance_l(z_l+1))),    l = L-1, ..., 1
    x | z_1     ~ Bernoulli(decoder(z_1)), Categorical or Normal, coordinate by coordinate

    q(z | x) = q(z_1 | x) prod_l q(z_l+1 | z_l), each normal with a diagonal covariance: from x up
    log p(x) >= E_q [log p(x | z_1) + log p(z) - log q(z | x)]

With two layers it is the second model of Burda, Grosse and Salakhutdinov (2016), section 5 (100 and 50 latents,
200-200 deterministic units between x and z_1 and 100-100 between z_1 and z_2); the layers are those of Rezende,
Mohamed and Wierstra (2014). The prior draws from the top down and the posterior from x up, so of their KL only the
uppermost layer's part has a closed form given z_L-1; the others are sampled, log q(z_l | ...) - log p(z_l | z_l+1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentia.distributions.joint import Conditional, Joint
from latentia.errors import OptionError
from latentia.model import Batch, Frame
from latentia.models.vaes.vae import VAE
from latentia.networks.mlp import MLP, glorot


class LadderVAE(VAE):
    """p(x, z) = Normal(z_L; 0, I) prod_l Normal(z_l; mean(z_l+1), diag(variance(z_l+1))) p(x | decoder(z_1)).

    z is a dict: "z1" next to x, "z2" above it, and so on.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        latents: dimensions of z_1, z_2, ..., from x up.
        hidden: for each z_l the widths of the hidden layers between it and what is below it, from below up; the
            generative networks have them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli (x in {0, 1}), categorical (x in 0..symbols-1), or gaussian with learned mean
            and diagonal variance.

    Raises:
        OptionError: no latents, or another number of `hidden` than of `latents`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        latents: Sequence[int] = (100, 50),
        hidden: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "tanh",
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
    ):
        if not latents or len(latents) != len(hidden):
            raise OptionError(
                f"latents={list(latents)}, hidden={[list(widths) for widths in hidden]}: one list of hidden widths for "
                "each layer of latents, and one layer at least"
            )
        super().__init__(event_shape, symbols, latents[0], hidden[0], activation, likelihood)
        self.latents = tuple(latents)
        steps = list(zip(pairwise(latents), hidden[1:], strict=True))
        self.up = nn.ModuleList(MLP([low, *widths, 2 * high], activation) for (low, high), widths in steps)
        self.down = nn.ModuleList(MLP([high, *reversed(widths), 2 * low], activation) for (low, high), widths in steps)

    def prior(self, frame: Frame) -> Joint:
        top = len(self.latents)
        zeros = self.anchor.new_zeros(frame.size, self.latents[-1])
        parts: dict[str, Conditional] = {f"z{top}": _normal(zeros, torch.zeros_like(zeros))}
        for layer in range(top - 1, 0, -1):
            parts[f"z{layer}"] = _given(f"z{layer + 1}", self.down[layer - 1])
        return Joint(parts)

    def posterior(self, batch: Batch) -> Joint:
        parts: dict[str, Conditional] = {"z1": _normal(*self.encoder(self._inputs(batch)).chunk(2, -1))}
        for layer in range(1, len(self.latents)):
            parts[f"z{layer + 1}"] = _given(f"z{layer}", self.up[layer - 1])
        return Joint(parts)

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        return super().likelihood(z["z1"], frame)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, and an output bias at which the decoder begins with the data's own frequencies."""
        super().start(batch, generator)
        for network in (*self.up, *self.down):
            glorot(network, generator)


def _normal(mean: Tensor, log_scale: Tensor) -> Independent:
    return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)


def _given(name: str, network: nn.Module) -> Callable[[dict[str, Tensor]], Distribution]:
    """z | z_name ~ Normal, by a network that gives means and log standard deviations."""
    return lambda z: _normal(*network(z[name]).chunk(2, -1))


def tiny(seed: int) -> tuple[LadderVAE, Batch]:
    """Two layers of one latent each, three binary pixels of which one is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = LadderVAE(event_shape=(3,), latents=(1, 1), hidden=((4,), (3,))).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)
