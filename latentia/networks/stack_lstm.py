"""Networks that read a binary tree as a shift-reduce parser meets it: a stack LSTM, and what composes two parts.

A step of the stack depends on what lies below and on the part that is put there, a part on its own two parts alone. So
all parts of one height are composed at once, and all that are put at one depth of the stack are read at once: of trees
that are known it takes as many steps as they are high and their stacks deep, for any number of trees.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Nodes(NamedTuple):
    """The constituents of binary trees, M of them, each as a parser meets it. All (M,).

    Attributes:
        tree: which tree it is of; start, end: its first and last word.
        left, right: its two parts, by their numbers; -1 of a word.
        below: what lies under it on the stack; -1 where there is nothing.
        is_right: whether it is the second part of another.
        height: 0 of a word, else one more than its higher part's.
        depth: how many lie under it on the stack.
    """

    tree: Tensor
    start: Tensor
    end: Tensor
    left: Tensor
    right: Tensor
    below: Tensor
    is_right: Tensor
    height: Tensor
    depth: Tensor


class StackLSTM(nn.Module):
    """An LSTM whose steps may be taken back: the state after a part is put on the stack is a step from that of the part
    below it (Dyer et al. 2015, "Transition-based dependency parsing with stack long short-term memory", section 2.1).

    The state of an empty stack is a step from a vector of its own.

    Args:
        inputs: W, width of what is put on the stack; hidden: H; layers: L.
        dropout: of what goes into every layer, while learning.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.outputs, self.layers = hidden, layers
        self.before = nn.Parameter(torch.zeros(inputs))
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.drop = nn.Dropout(dropout)

    def bottom(self) -> Tensor:
        """The state of an empty stack, (1, L, 2, H): hidden and cell of each layer."""
        return self.push(self.before.unsqueeze(0), self.before.new_zeros(1, self.layers, 2, self.outputs))

    def push(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The state after one more part, (N, L, 2, H), from its vector (N, W) and the state of what lies under it."""
        found = []
        for layer, below in enumerate(state.unbind(1)):
            weight, back, bias = self._weights(layer)
            found.append(_step(torch.addmm(bias, self.drop(inputs), weight.mT), below, back))
            inputs = found[-1][:, 0]
        return torch.stack(found, 1)

    def forward(self, inputs: Tensor, nodes: Nodes) -> Tensor:
        """The last layer's features, (1 + M, H): those of an empty stack, and those of each stack that a node has just
        been put on, from the nodes' vectors (M, W)."""
        bottom = self.bottom()
        order, sizes = _levels(nodes.depth)
        # what is put at a depth lies on something of the depth before: its place among those
        place = torch.cat([torch.arange(size, device=order.device) for size in sizes] or [order])[order.argsort()]
        below = torch.where(nodes.below >= 0, place[nodes.below], 0)[order].split(sizes)
        for layer in range(self.layers):
            weight, back, bias = self._weights(layer)
            gates = torch.addmm(bias, self.drop(inputs), weight.mT)[order].split(sizes)
            states = [bottom[:, layer]]
            for gate, index in zip(gates, below, strict=True):
                states.append(_step(gate, states[-1].index_select(0, index), back))
            features = torch.cat([state[:, 0] for state in states])
            inputs = features[1:][order.argsort()]
        return torch.cat([bottom[:, -1, 0], inputs])

    def _weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        bias = getattr(self.lstm, f"bias_ih_l{layer}") + getattr(self.lstm, f"bias_hh_l{layer}")
        return getattr(self.lstm, f"weight_ih_l{layer}"), getattr(self.lstm, f"weight_hh_l{layer}"), bias


def _step(gates: Tensor, state: Tensor, back: Tensor) -> Tensor:
    """Hidden and cell after a step, (N, 2, H), from the inputs' share of the gates (N, 4 H) and the state before."""
    hidden, cell = state.unbind(1)
    enter, forget, new, out = torch.addmm(gates, hidden, back.mT).chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return torch.stack([out.sigmoid() * cell.tanh(), cell], 1)


class Composition(nn.Module):
    """Two parts of a tree as one, by the binary tree LSTM (Tai, Socher and Manning 2015, section 3.2).

    A part is its vector and its cell, (N, 2, W); the cell of a word is zeros.

    Args:
        width: W.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gates = nn.Linear(2 * width, 5 * width)

    def word(self, vector: Tensor) -> Tensor:
        """(N, 2, W) from (N, W)."""
        return torch.stack([vector, torch.zeros_like(vector)], 1)

    def pair(self, left: Tensor, right: Tensor) -> Tensor:
        """(N, 2, W) from two such."""
        (one, first), (other, second) = left.unbind(1), right.unbind(1)
        enter, keep, too, new, out = self.gates(torch.cat([one, other], -1)).chunk(5, -1)
        cell = enter.sigmoid() * new.tanh() + keep.sigmoid() * first + too.sigmoid() * second
        return torch.stack([out.sigmoid() * cell.tanh(), cell], 1)

    def forward(self, words: Tensor, nodes: Nodes) -> Tensor:
        """The vectors of all nodes, (M, W), from those of the nodes that are words, in their order."""
        order, sizes = _levels(nodes.height)
        rank = order.argsort()
        left, right = (rank[part.clamp(min=0)][order].split(sizes) for part in (nodes.left, nodes.right))
        parts = self.word(words)
        for one, other in zip(left[1:], right[1:], strict=True):
            parts = torch.cat([parts, self.pair(parts.index_select(0, one), parts.index_select(0, other))])
        return parts[rank, 0]


def _levels(of: Tensor) -> tuple[Tensor, list[int]]:
    """The nodes in the order of their levels, and how many are of each."""
    return of.argsort(stable=True), torch.bincount(of).tolist()
