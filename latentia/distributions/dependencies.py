"""Projective dependency trees: every word has a head, and no two arcs cross."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured


class Dependencies(Structured):
    """score(z) = sum_m node[h, m] over words m with their heads h, the head of the root being itself.

    z is 0 and 1, (B, N, N): z[h, m] = 1 where h is the head of m, z[m, m] = 1 where m is the root, of which there is
    one. z is zero beyond `lengths`; there is one tree of no words, of score 0.

    Args:
        log_potentials: `node` (B, N, N).
        lengths: (B,), N where it is left out.

    Reference: Eisner (1996), "Three new probabilistic models for dependency parsing"; Koo et al. (2007), section 3.
    """

    dimensions: ClassVar = {"node": 2}

    def __init__(self, log_potentials: Potentials, lengths: Tensor | None = None, sum: Semiring = log_sum):
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lengths = torch.full((1,), node.shape[-1], device=node.device) if lengths is None else lengths

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lengths, sum)

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        """Spans with their head at one end are complete (all modifiers found) or open (an arc from end to end)."""
        node = log_potentials["node"]
        size = node.shape[-1]
        word = sum.start(torch.zeros_like(node[..., 0]))
        # by the width of the span less 1, headed by its first and by its last word
        first, last = [word], [word]
        opened_first: list[Tensor] = []
        opened_last: list[Tensor] = []
        for gap in range(1, size):
            count = size - gap
            joined = _joined(first, last[::-1], 1, count, sum)
            opened_first.append(joined + node.diagonal(gap, -2, -1))
            opened_last.append(joined + node.diagonal(-gap, -2, -1))
            first.append(_joined(opened_first, first[::-1], 1, count, sum))
            last.append(_joined(last, opened_last[::-1], 0, count, sum))
        return self._total(node.diagonal(0, -2, -1), first, last, sum)

    def _total(self, root: Tensor, first: list[Tensor], last: list[Tensor], sum: Semiring) -> Tensor:
        total = sum.start(torch.where(self.lengths > 0, IMPOSSIBLE, torch.zeros_like(root[..., 0])))
        for length in range(1, root.shape[-1] + 1):
            parts = [sum.times(last[m][..., 0], first[length - 1 - m][..., m]) + root[..., m] for m in range(length)]
            total = torch.where(self.lengths == length, sum(torch.stack(parts, -1), -1), total)
        return total

    def score(self, z: Tensor) -> Tensor:
        # only z itself is possible where it is a tree: its N arcs are all that there are
        value = super().score(z)
        right = (z > 0).flatten(-2).sum(-1) == self.lengths
        return torch.where(right, value, -torch.inf)

    @property
    def minimum_risk(self) -> Tensor:
        """The tree of which most arcs are expected to be right, (B, N, N)."""
        return self._with({"node": self.marginals.detach()}).mode


def _joined(lefts: list[Tensor], rights: list[Tensor], shift: int, count: int, sum: Semiring) -> Tensor:
    """Two spans beside each other, added up over where they meet: the k-th on the right starts `shift` + k words after
    the one on the left."""
    parts = [
        sum.times(left[..., :count], right[..., k + shift : k + shift + count])
        for k, (left, right) in enumerate(zip(lefts, rights, strict=True))
    ]
    return sum(torch.stack(parts, -1), -1)
