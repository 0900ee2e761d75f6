"""From the columns of a table to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.errors import OptionError


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


class DroppedColumns(Columns):
    """The same, of which all is hidden of a share of the rows while learning, so that a network learns to do without
    too: what classifier-free guidance needs (Ho and Salimans 2022, section 3.2).

    Args:
        levels: as above; drop: the share.
    """

    def __init__(self, levels: Sequence[int], drop: float):
        super().__init__(levels)
        if not 0 <= drop < 1:
            raise OptionError(f"drop_context={drop}: it must be at least 0 and below 1")
        self.drop = drop

    def rows(self, x: Tensor | None, seen: Tensor | None, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """What a network is told of a context (size, D), and what it is told where all of it is hidden, (size, outputs)
        each: the same where there is no x."""
        none = like.new_zeros(size, self.outputs)
        if x is None:
            return none, none
        return self(x.flatten(1), None if seen is None else seen.flatten(1), like), none

    def forward(self, x: Tensor, seen: Tensor | None, like: Tensor) -> Tensor:
        found = super().forward(x, seen, like)
        if not self.training or not self.drop:
            return found
        return found * (torch.rand(len(found), 1, device=found.device) >= self.drop)
