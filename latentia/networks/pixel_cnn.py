"""A small convolutional network on binary images whose output at a pixel sees only the pixels before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latentia.errors import OptionError
from latentia.networks.mlp import ACTIVATIONS, MLP


class MaskedConv(nn.Conv2d):
    """A convolution that sees only the pixels before its own in row-major order, and with `centre` its own too."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, centre: bool):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        place = torch.arange(kernel * kernel).reshape(kernel, kernel)
        self.register_buffer("mask", place < kernel * kernel // 2 + centre, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, torch.where(self.mask, self.weight, 0.0), self.bias)


class PixelCNN(nn.Module):
    """(x, z) to one logit a pixel, which depends on the pixels before it and on all of z.

    Masked convolutions make features of the pixels before each (van den Oord, Kalchbrenner and Kavukcuoglu 2016,
    section 3), z makes maps of the image's size, and the two meet in a gate, tanh(f_x + f_z) * sigmoid(g_x + g_z)
    (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders", section 2.3). As z comes in after
    the convolutions, these are the same for all draws of z.

    Args:
        shape: (rows, columns).
        condition: dimensions of z.
        hidden: widths of the layers through which z becomes maps.
        channels: of the convolutions.
        layers: of convolutions; the first sees `kernel` x `kernel` pixels, and each other widens that by 2.
        kernel: odd.
        maps: of z.
        activation: a name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        condition: int,
        hidden: Sequence[int] = (200,),
        channels: int = 16,
        layers: int = 3,
        kernel: int = 7,
        maps: int = 4,
        activation: str = "relu",
    ):
        super().__init__()
        if kernel < 3 or kernel % 2 == 0:
            raise OptionError(f"kernel={kernel}: it must be odd and at least 3, to have pixels before its centre")
        if layers < 1:
            raise OptionError(f"layers={layers}: it must be at least 1")
        self.shape, self.pixels, self.maps = tuple(shape), shape[0] * shape[1], maps
        self.first = MaskedConv(1, channels, kernel, centre=False)
        self.more = nn.ModuleList(MaskedConv(channels, channels, 3, centre=True) for _ in range(layers - 1))
        self.before = nn.Linear(channels, 2 * channels)
        self.spread = MLP([condition, *hidden, maps * self.pixels], activation)
        self.above = nn.Linear(maps, 2 * channels, bias=False)
        self.mix = nn.Linear(channels, channels)
        self.logit = nn.Linear(channels, 1, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(self.pixels))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (..., pixels) and z (..., condition), whose leading dimensions broadcast, to (..., pixels)."""
        image: Any = self.first(x.reshape(-1, 1, *self.shape))
        for layer in self.more:
            image = image + layer(self.activation(image))
        seen = self.before(self.activation(image).flatten(2).mT).unflatten(0, x.shape[:-1])
        told = self.above(self.spread(z).unflatten(-1, (self.pixels, self.maps)))
        signal, gate = (seen + told).chunk(2, -1)
        features = self.activation(self.mix(signal.tanh() * gate.sigmoid()))
        return self.logit(features).squeeze(-1) + self.output_bias
