"""Convolutional ladder: stochastic layers of feature maps, with inference from both ends.

    z_L        ~ Normal(mean_L, diag(variance_L)), learned
    z_l | z_>l ~ Normal(mean_l(z_>l), diag(variance_l(z_>l))),    l = L-1, ..., 1
    x | z      ~ Bernoulli(decoder(z)), Categorical or Normal, coordinate by coordinate

    q(z | x) = prod_l q(z_l | z_>l, x), from the top down like the prior, each relative to the prior:
    q(z_l | z_>l, x) = Normal(mean_l + shift_l(z_>l, x), diag((scale_l * ratio_l(z_>l, x))^2))
    KL_l = 1/2 sum (shift^2 / scale^2 + ratio^2 - log ratio^2 - 1),   the expectation over z_>l ~ q

The inference from both ends, a deterministic pass up that meets the generative pass down, is that of Soenderby et al.
(2016) and Kingma et al. (2016); the residual normal that of Vahdat and Kautz (2020), section 3.2. What z_>l say is
carried down by a state to which each z_l is added, so each layer, and x, sees all latents above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentia.distributions.joint import Conditional, Joint
from latentia.errors import OptionError
from latentia.model import Batch, Frame
from latentia.models.vaes.vae import VAE
from latentia.networks.conv import Enlarged, brief
from latentia.networks.conv import _Layout as ImageLayout
from latentia.networks.mlp import glorot

LARGEST_LOG_SCALE = 5.0
HEAD = 0.1


class ConvLadder(VAE):
    """p(x, z) = prod_l Normal(z_l; mean_l(z_>l), diag(variance_l(z_>l))) p(x | decoder(z)), z_l (maps, H_l, W_l).

    z is a dict: "z1" next to x, "z2" above it, and so on. Free bits for each layer are an option of the objective:
    `elbo(model, batch, free_bits=0.5, free="latent")`.

    Args:
        event_shape: of an image: (H, W), (H, W, C), or (C, H, W) where C < W (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        latents: feature maps of z_1, z_2, ..., from x up.
        scales: by how much z_1 is coarser than x, z_2 than z_1, ..., in height and width: with 2, 2, 2 the layers
            of a 28 x 28 image have 14 x 14, 7 x 7 and 4 x 4.
        channels: feature maps of the deterministic layers.
        blocks: residual blocks a layer, on the way up and on the way down.
        dropout: share of the numbers inside each block of the pass up that is dropped while learning; on the way down
            each latent's distribution is asked for more than once, and has to be the same one.
        likelihood: bernoulli (x in {0, 1}), categorical (x in 0..symbols-1), or gaussian with learned mean
            and diagonal variance.

    Raises:
        OptionError: x is no image, no latents, or another number of `scales` than of `latents`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        latents: Sequence[int] = (32, 32, 32),
        scales: Sequence[int] = (2, 2, 2),
        channels: int = 64,
        blocks: int = 4,
        dropout: float = 0.0,
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
    ):
        if not latents or len(latents) != len(scales):
            raise OptionError(f"latents={list(latents)}, scales={list(scales)}: one scale for each layer of latents")
        if not 0 <= dropout < 1:
            raise OptionError(f"dropout={dropout}: it must be at least 0 and below 1")
        layout = ImageLayout(event_shape, symbols or 1 if likelihood == "categorical" else 1)
        sizes = _sizes(layout, scales)
        encoder = _Up(layout, scales, channels, blocks, dropout)
        decoder = _Output(layout, sizes[0], channels, 2 if likelihood == "gaussian" else 1)
        super().__init__(event_shape, symbols, likelihood=likelihood, encoder=encoder, decoder=decoder)
        self.own = True
        self.layers = nn.ModuleList(
            _Layer(maps, channels, blocks, below) for maps, below in zip(latents, [sizes[1], *sizes[1:-1]], strict=True)
        )
        self.top = nn.Parameter(torch.zeros(channels, *sizes[-1]))

    def prior(self, frame: Frame) -> Joint:
        top = len(self.layers)
        parts: dict[str, Conditional] = {f"z{top}": self._layer(top).prior(self.top).expand((frame.size,))}
        for layer in range(top - 1, 0, -1):
            parts[f"z{layer}"] = partial(self._prior_given, layer)
        return Joint(parts)

    def posterior(self, batch: Batch) -> Joint:
        features = self.encoder(self._inputs(batch))
        top = len(self.layers)
        parts: dict[str, Conditional] = {f"z{top}": self._layer(top).posterior(self.top, features[-1])}
        for layer in range(top - 1, 0, -1):
            parts[f"z{layer}"] = partial(self._posterior_given, layer, features[layer - 1])
        return Joint(parts)

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        return super().likelihood(self._state(0, z), frame)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, blocks that add little, a posterior that is nearly the prior, and an output bias at which
        the decoder begins with the data's own frequencies."""
        self._standardise(batch)
        glorot(self, generator)
        blocks = [module for module in self.modules() if isinstance(module, _Block)]
        layers: list[Any] = list(self.layers)
        heads = [head for layer in layers for head in (layer.prior_head[-1], layer.posterior_head[-1])]
        with torch.no_grad():
            for block in blocks:
                block.second.weight *= len(blocks) ** -0.5
            for head in heads:
                head.weight *= HEAD
            self.top.zero_()
            self.decoder.output_bias.copy_(self._average(batch))  # type: ignore[operator, union-attr]

    def _layer(self, layer: int) -> _Layer:
        return self.layers[layer - 1]  # type: ignore[return-value]

    def _state(self, layer: int, z: dict[str, Tensor]) -> Tensor:
        """What the latents above `layer` say to it, (S, B, channels, H, W)."""
        state: Tensor = self.top
        for above in range(len(self.layers), layer, -1):
            state = self._layer(above)(state, z[f"z{above}"])
        return state

    def _prior_given(self, layer: int, z: dict[str, Tensor]) -> Distribution:
        return self._layer(layer).prior(self._state(layer, z))

    def _posterior_given(self, layer: int, features: Tensor, z: dict[str, Tensor]) -> Distribution:
        return self._layer(layer).posterior(self._state(layer, z), features)


def residual_normal(p: Distribution, shift: Tensor, log_ratio: Tensor) -> Independent:
    """Normal(mean + shift, (scale * ratio)^2), p being Normal(mean, scale^2): Vahdat and Kautz (2020), section 3.2."""
    return _normal(p.mean + shift, p.stddev * log_ratio.exp())


def _normal(mean: Tensor, scale: Tensor) -> Independent:
    return Independent(Normal(mean, scale, validate_args=False), 3, validate_args=False)


def _bounded(log_scale: Tensor) -> Tensor:
    """Nearly the same while it is small, and in float32 its exponential never overflows nor vanishes."""
    return LARGEST_LOG_SCALE * torch.tanh(log_scale / LARGEST_LOG_SCALE)


class _Layer(nn.Module):
    """One stochastic layer: p(z_l | state), q(z_l | state, features of x), and the state that goes down from it."""

    def __init__(self, maps: int, channels: int, blocks: int, below: tuple[int, int]):
        super().__init__()
        self.prior_head = nn.Sequential(nn.ELU(), nn.Conv2d(channels, 2 * maps, 3, padding=1))
        self.look = nn.Conv2d(channels, channels, 1)
        self.posterior_head = nn.Sequential(_Block(channels), nn.ELU(), nn.Conv2d(channels, 2 * maps, 3, padding=1))
        self.take = nn.Conv2d(maps, channels, 3, padding=1)
        self.down = nn.Sequential(*(_Block(channels) for _ in range(blocks)), Enlarged(below))

    def prior(self, state: Tensor) -> Independent:
        mean, log_scale = self._numbers(self.prior_head, state)
        return _normal(mean, _bounded(log_scale).exp())

    def posterior(self, state: Tensor, features: Tensor) -> Independent:
        shift, log_ratio = self._numbers(self.posterior_head, state + _over(self.look, features))
        return residual_normal(self.prior(state), shift, _bounded(log_ratio))

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        return _over(self.down, state + _over(self.take, z))

    def _numbers(self, head: nn.Module, state: Tensor) -> tuple[Tensor, Tensor]:
        """Two numbers for each latent, of the parameters' own precision."""
        first, second = _over(head, state).to(self.look.weight.dtype).chunk(2, -3)
        return first, second


class _Up(nn.Module):
    """The deterministic pass up: flat x, (B, inputs), to the features of each layer, (B, channels, H_l, W_l)."""

    def __init__(self, layout: ImageLayout, scales: Sequence[int], channels: int, blocks: int, dropout: float):
        super().__init__()
        self.layout = layout
        inputs = [layout.channels * layout.shape[-1], *[channels] * (len(scales) - 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, channels, 2 * (scale // 2) + 3, scale, padding=scale // 2 + 1),
                *(_Block(channels, dropout) for _ in range(blocks)),
            )
            for before, scale in zip(inputs, scales, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.layout.image(x)]
        with brief(x):
            for stage in self.stages:
                features.append(stage(features[-1]))
        return features[1:]


class _Output(nn.Module):
    """The last state, (..., channels, H_1, W_1), to the flat numbers of the likelihood, (..., outputs)."""

    def __init__(self, layout: ImageLayout, size: tuple[int, int], channels: int, numbers: int):
        super().__init__()
        self.layout, self.numbers = layout, numbers
        half = max(channels // 2, 1)
        self.network = nn.Sequential(
            nn.ELU(),
            nn.Conv2d(channels, half, 3, padding=1),
            Enlarged(size),
            _Block(half),
            nn.ELU(),
            nn.Conv2d(half, numbers * layout.channels * layout.shape[-1], 3, padding=1, bias=False),
        )
        self.output_bias = nn.Parameter(torch.zeros(numbers * layout.size))

    def forward(self, state: Tensor) -> Tensor:
        with brief(state):
            images = self.network(state.reshape(-1, *state.shape[-3:])).unflatten(1, (self.numbers, -1)).flatten(0, 1)
        return self.layout.flat(images).reshape(*state.shape[:-3], -1) + self.output_bias


class _Block(nn.Module):
    """x + a * sigmoid(b), with a and b by two convolutions: a gated residual block, without a norm, so that what a
    datum gets depends on that datum alone."""

    def __init__(self, channels: int, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.elu(self.first(nn.functional.elu(x)))
        return x + nn.functional.glu(self.second(self.dropout(inner)), 1)


def _over(network: nn.Module, images: Tensor) -> Tensor:
    """The network on images with any dimensions in front, (..., C, H, W)."""
    with brief(images):
        out = network(images.reshape(-1, *images.shape[-3:]))
    return out.reshape(*images.shape[:-3], *out.shape[1:])


def _sizes(layout: ImageLayout, scales: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of x, z_1, z_2, ..."""
    sizes = [(layout.height, layout.width)]
    for scale in scales:
        height, width = sizes[-1]
        sizes.append((-(-height // scale), -(-width // scale)))
    return sizes


def tiny(seed: int) -> tuple[ConvLadder, Batch]:
    """Two layers of one latent each, images of 2 x 2 binary pixels of which one is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = ConvLadder((2, 2), latents=(1, 1), scales=(2, 1), channels=2, blocks=1).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 2, 2), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 1, 0] = False
    return model, Batch.of(x, mask)
