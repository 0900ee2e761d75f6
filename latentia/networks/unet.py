"""Features of every pixel of an image, from near and far: a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from latentia.errors import OptionError
from latentia.networks.conv import Residual, brief, enlarged
from latentia.networks.mlp import ACTIVATIONS


class UNet(nn.Module):
    """Images (B, inputs, H, W) to features (B, channels[0], H, W), of any height and width.

    Height and width are halved once for each further entry of `channels`, with a residual block at every resolution but
    the full one, and then doubled again, beside what that resolution had (Ronneberger, Fischer and Brox 2015).

    Args:
        inputs: channels of the images.
        channels: of each resolution, the full one first.
        activation: of the blocks.

    Raises:
        OptionError: no channels.
    """

    def __init__(self, inputs: int, channels: Sequence[int] = (24, 32, 48), activation: str = "gelu"):
        super().__init__()
        if not channels:
            raise OptionError("channels=(): one number for each resolution is needed")
        self.first = nn.Conv2d(inputs, channels[0], 3, padding=1)
        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(
            nn.Sequential(ACTIVATIONS[activation](), nn.Conv2d(a, b, 3, stride=2, padding=1), Residual(b, activation))
            for a, b in pairs
        )
        self.up = nn.ModuleList(
            nn.Sequential(ACTIVATIONS[activation](), nn.Conv2d(a + b, a, 3, padding=1)) for a, b in reversed(pairs)
        )

    def forward(self, images: Tensor) -> Tensor:
        with brief(images):
            seen = [self.first(images)]
            for halve in self.down:
                seen.append(halve(seen[-1]))
            out = seen.pop()
            for double in self.up:
                beside = seen.pop()
                size = cast(tuple[int, int], tuple(beside.shape[-2:]))
                out = double(torch.cat([beside, enlarged(out, size)], 1))
        return out.to(images.dtype)
