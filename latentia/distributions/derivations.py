"""Sentences and their trees, written together: a shift-reduce generator given the tree."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from latentia.distributions.decoding import State
from latentia.distributions.spans import Splits
from latentia.errors import CapabilityError
from latentia.networks.stack_lstm import Nodes


def nodes_of(spans: Tensor, lengths: Tensor) -> tuple[Nodes, Tensor]:
    """The constituents of trees (R, N, N), True where there is one, over `lengths` (R,) words each; and which of them
    are trees at all, (R,): of others there are no nodes."""
    splits = Splits.of(spans, lengths)
    valid = splits.valid & (lengths > 0)
    tree, start, end = (spans & valid.view(-1, 1, 1)).nonzero(as_tuple=True)
    number = torch.full(spans.shape, -1, device=spans.device)
    number[tree, start, end] = torch.arange(len(tree), device=spans.device)
    kept = valid[splits.where[0]]
    row, i, k, j = (part[kept] for part in (splits.where[0], splits.i, splits.k, splits.j))
    order = (j - i).argsort(stable=True)
    row, i, k, j = row[order], i[order], k[order], j[order]
    whole, one, other = number[row, i, j], number[row, i, k], number[row, k + 1, j]
    left, right, below = (torch.full_like(tree, -1) for _ in range(3))
    left[whole], right[whole] = one, other
    is_right = torch.zeros_like(tree, dtype=torch.bool)
    is_right[other] = True
    height, depth = torch.zeros_like(tree), torch.zeros_like(tree)
    widths = torch.bincount(j - i).tolist()
    triples = list(zip(whole.split(widths), one.split(widths), other.split(widths), strict=True))
    for parent, first, second in triples:
        height[parent] = 1 + torch.maximum(height[first], height[second])
    for parent, first, second in reversed(triples):
        below[first], below[second] = below[parent], first
        depth[first], depth[second] = depth[parent], depth[parent] + 1
    return Nodes(tree, start, end, left, right, below, is_right, height, depth), valid


class Generator(Protocol):
    """What writes words and builds trees over them, see `latentia.models.grammars.urnng`."""

    symbols: int

    def terms(self, x: Tensor, nodes: Nodes, lengths: Tensor) -> Tensor:
        """log p of each word with the actions before it, (R, T)."""
        ...


class Derived:
    """`Words` of sentences whose trees are known, so that the terms of a sentence add up to log p(x, z).

    Args:
        generator: what writes words and trees.
        z: (S, B, T, T), trees; lengths: (B,), the words of each.
    """

    def __init__(self, generator: Generator, z: Tensor, lengths: Tensor):
        self.generator, self.shape = generator, z.shape[:2]
        self.lengths = lengths.expand(self.shape).flatten()
        self.nodes, self.valid = nodes_of(z.flatten(0, 1) > 0, self.lengths)

    @property
    def symbols(self) -> int:
        return self.generator.symbols

    def terms(self, x: Tensor, inside: Tensor) -> Tensor:
        x = x.long().expand(*self.shape, x.shape[-1]).flatten(0, 1)
        found = self.generator.terms(x, self.nodes, self.lengths)
        return torch.where(self.valid.unsqueeze(-1), found, -torch.inf).unflatten(0, self.shape)

    def begin(self) -> tuple[Tensor, State]:
        raise CapabilityError("words are not chosen for a tree that is given: generate writes both together")

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        return self.begin()
