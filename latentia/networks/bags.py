"""What reads a bag of words."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def counts(x: Tensor, seen: Tensor, symbols: int, like: Tensor) -> Tensor:
    """How often each bag has each symbol, (B, V), from symbols (B, T) of which those that are seen count."""
    total = like.new_zeros(len(x), symbols)
    return total.scatter_add_(1, torch.where(seen, x, 0).long(), seen.to(like.dtype))


class BagReader(nn.Module):
    """log(1 + counts), (B, V), through a network: a word that comes twice as often says less than twice as much."""

    def __init__(self, symbols: int, network: nn.Module):
        super().__init__()
        self.symbols, self.network = symbols, network

    def forward(self, x: Tensor, seen: Tensor, like: Tensor) -> Tensor:
        return self.network(counts(x, seen, self.symbols, like).log1p())


class MeanReader(nn.Module):
    """A sequence of vectors as their mean, whatever their order: (N, T, `outputs`) and lengths (N,) to (N, `outputs`).
    What lies beyond the end must be zero."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        return inputs.sum(1) / lengths.clamp(min=1).unsqueeze(-1)
