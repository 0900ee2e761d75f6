"""From the columns of a table to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Columns(nn.Module):
    """x (..., D) to (..., `outputs`): a category as a one-hot row, a number as it is, and zeros where it is hidden.

    Args:
        levels: of each column, how many categories 0, 1, ... it has; 0 for a column of numbers.
    """

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.levels = tuple(levels)
        self.outputs = sum(count or 1 for count in self.levels)

    def forward(self, x: Tensor, seen: Tensor | None, like: Tensor) -> Tensor:
        """Args:
        seen: the shape of x, False where it is hidden.
        like: of the dtype that the network takes.
        """
        parts = []
        for d, count in enumerate(self.levels):
            part = x[..., d : d + 1].to(like.dtype)
            if count:
                part = nn.functional.one_hot(x[..., d].long().clamp(0, count - 1), count).to(like.dtype)
            parts.append(part if seen is None else torch.where(seen[..., d : d + 1], part, 0.0))
        return torch.cat(parts, -1)
