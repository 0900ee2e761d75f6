"""Unlabelled binary trees: the tree CRF."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.spans import Splits, diagonals
from latentia.distributions.structured import Potentials, Structured


class Brackets(Structured):
    """score(z) = sum_{i <= j} node[i, j] z[i, j], where z is the spans of a binary tree.

    z is 0 and 1, (B, N, N): z[i, j] = 1 where the words from i to j, both counted, are a constituent. A tree over n
    words has 2 n - 1 of them: the words themselves and n - 1 longer ones, the sentence among them. What begins or ends
    beyond `lengths` is zero. There is one tree of no words, of score 0.

    Args:
        log_potentials: `node` (B, N, N), of which what is below the diagonal is not looked at.
        lengths: (B,), N where it is left out.

    Reference: Kim et al. (2019), "Unsupervised recurrent neural network grammars", section 2.2.
    """

    dimensions: ClassVar = {"node": 2}

    def __init__(self, log_potentials: Potentials, lengths: Tensor | None = None, sum: Semiring = log_sum):
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lengths = torch.full((1,), node.shape[-1], device=node.device) if lengths is None else lengths

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lengths, sum)

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        node = log_potentials["node"]
        spans = diagonals(node)
        cells = [sum.start(spans[0])]
        total = sum.start(torch.where(self.lengths > 0, IMPOSSIBLE, torch.zeros_like(node[..., 0, 0])))
        for width in range(1, len(spans) + 1):
            if width > 1:
                count = spans[width - 1].shape[-1]
                parts = [
                    sum.times(cells[k - 1][..., :count], cells[width - k - 1][..., k : k + count])
                    for k in range(1, width)
                ]
                cells.append(sum(torch.stack(parts, -1), -1) + spans[width - 1])
            total = torch.where(self.lengths == width, cells[-1][..., 0], total)
        return total

    def score(self, z: Tensor) -> Tensor:
        node = self.log_potentials["node"]
        value = (z.to(node) * node).sum((-2, -1))
        valid = Splits.of(z > 0, self.lengths).valid
        return torch.where(valid & (value > IMPOSSIBLE / 10), value, -torch.inf)

    @property
    def minimum_risk(self) -> Tensor:
        """The tree of which most constituents are expected to be right, (B, N, N) (Goodman 1996, section 3)."""
        return self._with({"node": self.marginals.detach()}).mode
