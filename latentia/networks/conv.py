"""Convolutional encoder and decoder of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from latentia.errors import OptionError
from latentia.networks.mlp import ACTIVATIONS


def brief(images: Tensor) -> AbstractContextManager[Any]:
    """The context in which convolutions of these images, and all between them, are in bf16: where the precision of
    products is "medium" (`torch.set_float32_matmul_precision`), which by itself reaches no convolution, and the device
    has units for it."""
    if images.dtype not in (torch.float32, torch.bfloat16) or not _has_brief(images.device.type):
        return nullcontext()
    return torch.autocast(images.device.type, torch.bfloat16)


def _has_brief(kind: str) -> bool:
    if torch.get_float32_matmul_precision() != "medium":
        return False
    units = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    return kind == "cuda" or (kind == "cpu" and bool(units.get("avx512_bf16")))


# what torch.compiler.assume_constant_result does, which imports all of the compiler for it: 1.9 s
_has_brief._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Residual(nn.Module):
    """x + conv(a(conv(a(x)))): He et al. (2016), with the activation before each convolution."""

    def __init__(self, channels: int, activation: str = "gelu"):
        super().__init__()
        self.block = nn.Sequential(
            ACTIVATIONS[activation](),
            nn.Conv2d(channels, channels, 3, padding=1),
            ACTIVATIONS[activation](),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Gated(nn.Module):
    """conv(x) * sigmoid(conv'(x)), a convolution that says what passes (Dauphin et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, 2 * outputs, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.glu(self.conv(x), 1)


class Enlarged(nn.Module):
    """`enlarged` to a size that is known beforehand."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(x, self.size)


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Each pixel of (..., h, w) repeated to ceil(H / h) by ceil(W / w), and what is beyond (H, W) cut off.

    Where H / h is whole it is `nn.Upsample`, but the slope is a sum: that of `nn.Upsample` torch.compile adds up pixel
    by pixel, with atomic operations.
    """
    height, width = (-(-large // small) for large, small in zip(size, x.shape[-2:], strict=True))
    repeated = x[..., :, None, :, None].expand(*x.shape[:-1], height, x.shape[-1], width)
    return repeated.flatten(-4, -3).flatten(-2)[..., : size[0], : size[1]]


def _residual(inputs: int, outputs: int, stride: int, activation: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), Residual(outputs, activation))


def _gated(inputs: int, outputs: int, stride: int, activation: str) -> nn.Module:
    return nn.Sequential(Gated(inputs, outputs, stride), Gated(outputs, outputs))


BLOCKS = {"residual": _residual, "gated": _gated}


class ConvEncoder(nn.Module):
    """A flat image (..., inputs) to (..., outputs): each stage halves height and width, a linear map ends it.

    Args:
        event_shape: of an image: (H, W), (H, W, C), or (C, H, W) where C < W.
        outputs: how many numbers come out.
        channels: of each stage.
        block: residual, or gated (which has no other activation).
        activation: in the residual blocks, and before the linear map.
        levels: entries of x for each value of the image, side by side: the symbols of a one-hot x.

    Raises:
        OptionError: no image, another block, or no stage.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        outputs: int,
        channels: Sequence[int] = (32, 64),
        block: str = "residual",
        activation: str = "gelu",
        levels: int = 1,
    ):
        super().__init__()
        self.layout = _Layout(event_shape, levels)
        sizes = _sizes(self.layout, channels, block)
        widths = [self.layout.channels * levels, *channels]
        stages = [BLOCKS[block](widths[i], widths[i + 1], 2, activation) for i in range(len(channels))]
        (height, width), last = sizes[-1], ACTIVATIONS[activation]()
        self.layers = nn.Sequential(*stages, last, nn.Flatten(), nn.Linear(channels[-1] * height * width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        with brief(x):
            out = self.layers(self.layout.image(x.flatten(0, -2)))
        return out.to(x.dtype).unflatten(0, x.shape[:-1])


class ConvDecoder(nn.Module):
    """z (..., latent) to flat images (..., outputs): the stages of a `ConvEncoder` backwards, each followed by an
    upsampling of nearest neighbours; a convolution ends it.

    Args:
        latent: how many numbers come in.
        event_shape, channels, block, activation, levels: as the encoder's.
        numbers: images that come out, one after the other: 2 for means and scales.

    Attributes:
        output_bias: (outputs,), one for each value that comes out, pixel by pixel.
    """

    def __init__(
        self,
        latent: int,
        event_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        block: str = "residual",
        activation: str = "gelu",
        levels: int = 1,
        numbers: int = 1,
    ):
        super().__init__()
        self.layout = _Layout(event_shape, levels)
        self.numbers = numbers
        sizes = _sizes(self.layout, channels, block)
        height, width = sizes[-1]
        layers: list[nn.Module] = [
            nn.Linear(latent, channels[-1] * height * width),
            nn.Unflatten(-1, (channels[-1], height, width)),
        ]
        widths = [channels[-1], *channels[::-1]]
        for i, size in enumerate(reversed(sizes[:-1])):
            # a block at every resolution but the full one, where it would cost more than all others
            layers += [BLOCKS[block](widths[i], widths[i + 1], 1, activation), Enlarged(size)]
        outputs = self.layout.channels * levels * numbers
        layers += [ACTIVATIONS[activation](), nn.Conv2d(channels[0], outputs, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers)
        self.output_bias = nn.Parameter(torch.zeros(numbers * self.layout.size))

    def forward(self, z: Tensor) -> Tensor:
        with brief(z):
            images = self.layers(z.flatten(0, -2)).unflatten(1, (self.numbers, -1)).flatten(0, 1)
        return self.layout.flat(images).view(*z.shape[:-1], -1) + self.output_bias


class _Layout:
    """Between a flat x, in the order of the data, and the (N, C * levels, H, W) that convolutions take."""

    def __init__(self, event_shape: Sequence[int], levels: int):
        self.shape = (*event_shape, levels)
        self.size = math.prod(self.shape)
        if len(event_shape) not in (2, 3):
            raise OptionError(f"convolutions take images, (H, W) or (H, W, C), and x is {tuple(event_shape)}: use mlp")
        if len(event_shape) == 2:
            self.order, self.channels = (3, 1, 2), 1
            self.height, self.width = event_shape
        elif event_shape[0] < event_shape[2]:
            self.order = (1, 4, 2, 3)
            self.channels, self.height, self.width = event_shape
        else:
            self.order = (3, 4, 1, 2)
            self.height, self.width, self.channels = event_shape

    def image(self, x: Tensor) -> Tensor:
        return x.unflatten(1, self.shape).permute(0, *self.order).reshape(len(x), -1, self.height, self.width)

    def flat(self, images: Tensor) -> Tensor:
        apart = images.reshape(len(images), *(self.shape[axis - 1] for axis in self.order))
        back = sorted(range(len(self.order)), key=lambda place: self.order[place])
        return apart.permute(0, *(place + 1 for place in back)).flatten(1)


def _sizes(layout: _Layout, channels: Sequence[int], block: str) -> list[tuple[int, int]]:
    """Height and width before the first stage and after each."""
    if block not in BLOCKS:
        raise OptionError(f"block={block!r}: choose one of {', '.join(BLOCKS)}")
    if not channels:
        raise OptionError("channels=(): one number for each stage is needed")
    sizes = [(layout.height, layout.width)]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class GridEncoder(ConvEncoder):
    """The stages of a `ConvEncoder` without its linear map: a flat image (..., inputs) to (..., cells, outputs), with
    numbers for each cell of the smallest grid, row by row.

    Attributes:
        cells: of the grid.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        outputs: int,
        channels: Sequence[int] = (32, 64),
        block: str = "residual",
        activation: str = "gelu",
        levels: int = 1,
    ):
        super().__init__(event_shape, 1, channels, block, activation, levels)
        self.grid = _sizes(self.layout, channels, block)[-1]
        self.cells = math.prod(self.grid)
        self.layers = nn.Sequential(*list(self.layers)[:-2], nn.Conv2d(channels[-1], outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        with brief(x):
            out = self.layers(self.layout.image(x.flatten(0, -2)))
        return out.to(x.dtype).flatten(2).mT.unflatten(0, x.shape[:-1])


class GridDecoder(ConvDecoder):
    """The way back: (..., cells, inputs) to flat images (..., outputs)."""

    def __init__(
        self,
        inputs: int,
        event_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        block: str = "residual",
        activation: str = "gelu",
        levels: int = 1,
        numbers: int = 1,
    ):
        super().__init__(1, event_shape, channels, block, activation, levels, numbers)
        self.grid = _sizes(self.layout, channels, block)[-1]
        self.layers = nn.Sequential(nn.Conv2d(inputs, channels[-1], 1), *list(self.layers)[2:])

    def forward(self, z: Tensor) -> Tensor:
        with brief(z):
            cells = z.flatten(0, -3).mT.unflatten(-1, self.grid)
            images = self.layers(cells).unflatten(1, (self.numbers, -1)).flatten(0, 1)
        return self.layout.flat(images).view(*z.shape[:-2], -1) + self.output_bias
