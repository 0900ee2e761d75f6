"""A sequence of any length as a fixed number of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.errors import OptionError
from latentia.networks.lstm import LSTMReader
from latentia.networks.routes import Lookup, within
from latentia.networks.transformer import TransformerReader


class Resampled(nn.Module):
    """What learned queries find when each looks at the steps of a sequence, side by side: (N, T, inputs) and lengths
    (N,) to (N, vectors H). A perceiver's resampler of one layer (Jaegle et al. 2021, section 3), as latent diffusion
    for text has it before its latents (Lovelace et al. 2023, section 4.1).

    Args:
        reader: what makes a state of each step; vectors: how many queries; heads: of their attention.

    Raises `OptionError` where vectors is below 1, or heads do not divide the states' width.
    """

    def __init__(self, reader: LSTMReader | TransformerReader, vectors: int, heads: int = 4):
        super().__init__()
        width = reader.outputs
        if vectors < 1:
            raise OptionError(f"vectors={vectors}: it must be at least 1")
        if width % heads:
            raise OptionError(f"hidden={width}: it must be a multiple of heads={heads}")
        self.reader, self.outputs = reader, vectors * width
        self.queries = nn.Parameter(torch.empty(vectors, width).normal_())
        self.lookup, self.norm = Lookup(width, heads), nn.LayerNorm(width)

    @torch.no_grad()
    def begin_own(self, generator: torch.Generator) -> None:
        """Queries that ask different things."""
        self.queries.copy_(torch.empty(self.queries.shape).normal_(generator=generator))

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        steps = self.reader.steps(inputs, lengths)
        asked = self.queries.expand(len(steps), -1, -1)
        return self.norm(asked + self.lookup(asked, steps, within(inputs, lengths))).flatten(1)
