"""Charts of spans: [i, j] is what is said of the words from i to j, both counted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def diagonals(chart: Tensor) -> list[Tensor]:
    """A chart (..., N, N) by the width of spans, from 1 to N: (..., N - w + 1) each, from the left."""
    return [chart.diagonal(offset, -2, -1) for offset in range(chart.shape[-1])]


class Splits(NamedTuple):
    """The binary nodes of trees that are given as charts of their spans.

    Attributes:
        where: (M, dims), the index of the tree each is in, of a batch of any shape.
        i, k, j: (M,): words i to j, of which the left child has those up to k.
        valid: which trees are trees, of the batch's shape.
    """

    where: tuple[Tensor, ...]
    i: Tensor
    k: Tensor
    j: Tensor
    valid: Tensor

    @classmethod
    def of(cls, spans: Tensor, lengths: Tensor) -> Splits:
        """Of trees (..., N, N), True where a constituent is, over `lengths` words each, broadcastable to (...)."""
        size, batch = spans.shape[-1], spans.ndim - 2
        word = torch.arange(size, device=spans.device)
        upper = spans & (word.unsqueeze(-1) <= word)
        longer = spans & (word.unsqueeze(-1) < word)
        second = torch.zeros_like(upper)
        second[..., :-1, :] = upper[..., 1:, :]
        # [i, k, j]: a constituent, its first part, its second part
        both = longer.unsqueeze(-2) & upper.unsqueeze(-1) & second.unsqueeze(-3)
        *where, i, k, j = both.nonzero(as_tuple=True)
        once = ((both.sum(-2) == 1) | ~longer).flatten(-2).all(-1)
        lengths = lengths.expand(spans.shape[:batch])
        whole = spans[..., 0, :].gather(-1, (lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        count = spans.flatten(-2).sum(-1) == (2 * lengths - 1).clamp(min=0)
        return cls(tuple(where), i, k, j, once & count & (whole | (lengths == 0)))
