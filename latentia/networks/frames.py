"""Networks over frames: vectors one after another, of which each datum has as many as its length says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.networks.ragged import states_of


class FrameEncoder(nn.Module):
    """Several frames stacked into one step, a bidirectional GRU over the steps, and a linear layer to C outputs.

    `forward(frames (B, T, D), lengths (B,))` gives (B, ceil(T / stride), C) and the lengths in steps. What lies beyond
    the end of a datum changes nothing.

    Args:
        features: D.
        outputs: C.
        hidden: units of each direction of each layer.
        layers: of the GRU.
        stride: frames in a step: of sounds of 10 ms each symbol lasts several.
        dropout: between layers, and before the outputs.
    """

    def __init__(
        self, features: int, outputs: int, hidden: int = 128, layers: int = 2, stride: int = 1, dropout: float = 0.0
    ):
        super().__init__()
        self.stride = stride
        self.recurrent = nn.GRU(
            features * stride,
            hidden,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden, outputs)

    def steps(self, lengths: Tensor) -> Tensor:
        """The lengths in steps, (B,), of those in frames."""
        return (lengths + self.stride - 1).div(self.stride, rounding_mode="floor")

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.arange(frames.shape[1], device=frames.device) < lengths.unsqueeze(-1)
        frames = torch.where(inside.unsqueeze(-1), frames, 0.0)
        frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % self.stride))
        stacked = frames.unflatten(1, (-1, self.stride)).flatten(2)
        lengths = self.steps(lengths)
        # a sequence has a step at least; those of data without any are not looked at
        read = states_of(self.recurrent, stacked, lengths.clamp(min=1))
        return self.output(self.dropout(read)), lengths


def restarted(module: nn.Module, generator: torch.Generator) -> None:
    """Fresh random weights for every layer inside, as torch gives them, from this generator."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
