"""Transforms of images of any size into a grid of numbers, and back: what a code for images is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.errors import OptionError
from latentia.networks.conv import brief


class Analysis(nn.Module):
    """Images (..., inputs) to (..., channels, h, w): a linear map of overlapping squares, of twice the side of a block
    and one for each block, and what a small network finds in its neighbours' numbers on top. An image that is no
    multiple of a block is continued by its last row and column.

    Args:
        event_shape: of an image, (H, W) or (H, W, C).
        channels: numbers for each block, no more than it has itself.
        block: its side, in pixels, an even number.
        hidden: channels of the small network.

    Attributes:
        grid: (h, w), blocks of an image.

    Raises:
        OptionError: no image, no even block, or more channels than numbers in it.
    """

    def __init__(self, event_shape: Sequence[int], channels: int, block: int, hidden: int):
        super().__init__()
        if len(event_shape) not in (2, 3):
            raise OptionError(f"a transform is of images, (H, W) or (H, W, C), and x is {tuple(event_shape)}")
        self.size, self.colours = tuple(event_shape[:2]), event_shape[2] if len(event_shape) == 3 else 1
        if block < 2 or block % 2 or not 1 <= channels <= block**2 * self.colours:
            raise OptionError(
                f"block={block}, channels={channels}: a block has an even side, and at least as many numbers as there "
                f"are channels: {block}^2 x {self.colours}"
            )
        self.block, self.grid = block, tuple(-(-side // block) for side in self.size)
        self.linear = nn.Conv2d(self.colours, channels, 2 * block, block, block // 2, bias=False)
        self.around = Around(channels, hidden)

    def images(self, x: Tensor) -> Tensor:
        """x (N, inputs) as (N, colours, H', W'), whole blocks of it."""
        images = x.reshape(-1, *self.size, self.colours).permute(0, 3, 1, 2)
        below, right = (self.block * count - side for count, side in zip(self.grid, self.size, strict=True))
        return nn.functional.pad(images, (0, right, 0, below), mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        images = self.images(x.flatten(0, -2))
        with brief(images):
            out = self.around(self.linear(images))
        return out.to(x.dtype).unflatten(0, x.shape[:-1])

    def principal(self, x: Tensor) -> Tensor:
        """The directions in which blocks of x (N, inputs) vary most, (channels, colours, block, block), orthonormal: no
        linear map of blocks, with as many numbers, rebuilds them better (Karhunen and Loève)."""
        blocks = nn.functional.unfold(self.images(x).double(), self.block, stride=self.block).transpose(1, 2)
        blocks = blocks.flatten(0, 1)
        directions = torch.linalg.eigh(blocks.T @ blocks).eigenvectors.flip(1)[:, : self.linear.out_channels]
        # the sign is nobody's choice
        directions = directions * directions.sum(0, keepdim=True).sign().where(directions.sum(0) != 0, 1.0)
        return directions.T.unflatten(1, (self.colours, self.block, self.block))


class Synthesis(nn.Module):
    """The way back, (..., channels, h, w) to images (..., inputs): what a small network finds in the neighbours'
    numbers, the linear map backwards, and a filter over the edges of blocks, on squares of 2 x 2 pixels.

    Args: those of `Analysis`.
    """

    def __init__(self, event_shape: Sequence[int], channels: int, block: int, hidden: int):
        super().__init__()
        self.size, colours = tuple(event_shape[:2]), event_shape[2] if len(event_shape) == 3 else 1
        self.around = Around(channels, hidden)
        self.linear = nn.ConvTranspose2d(channels, colours, 2 * block, block, block // 2, bias=False)
        self.filter = nn.Sequential(nn.PixelUnshuffle(2), Around(4 * colours, 24), nn.PixelShuffle(2))

    def forward(self, z: Tensor) -> Tensor:
        height, width = self.size
        with brief(z):
            out = self.filter(self.linear(self.around(z.flatten(0, -4))))[..., :height, :width]
        return out.to(z.dtype).permute(0, 2, 3, 1).flatten(1).unflatten(0, z.shape[:-3])


class Around(nn.Module):
    """x + conv(gelu(conv(x))), which begins as x itself."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(nn.functional.gelu(self.first(x)))

    def start(self, generator: torch.Generator) -> None:
        weight = torch.randn(self.first.weight.shape, generator=generator)
        self.first.weight.data.copy_(weight / math.sqrt(weight[0].numel()))
        for values in (self.first.bias, self.last.weight, self.last.bias):
            assert values is not None
            values.data.zero_()
