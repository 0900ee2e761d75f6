"""The network that writes a sentence and its tree together: a recurrent neural network grammar over binary trees."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentia.distributions.decoding import draw
from latentia.errors import CapabilityError
from latentia.kernels.vocabulary import log_probabilities
from latentia.networks.stack_lstm import Composition, Nodes, StackLSTM

TRIES = 1000
"""Draws of a sentence, all too long, before it is given up."""


class Written(NamedTuple):
    """Sentences with their trees.

    Attributes:
        x: (R, T), 0 behind the last word; words: (R,), how many there are.
        z: (R, T, T), their trees.
    """

    x: Tensor
    words: Tensor
    z: Tensor


class ShiftReduce(nn.Module):
    """Words and actions, each given all before them (Dyer et al. 2016; Kim et al. 2019, section 2.1).

    SHIFT writes a word and puts it on the stack; REDUCE makes one of the two parts on top of the stack. With fewer than
    two parts there it must be SHIFT. With one, the sentence may END, where ends are modelled; where they are not, all
    are reduced once no word is left to write, and what must be done has probability 1.

    Args:
        symbols: V; end: the symbol that says that a sentence has ended, which is none of its words; None: lengths are
            given.
        embedding: W, width of words and of parts; hidden: of the stack LSTM; layers: of it.
        dropout: of what goes into the stack LSTM and comes out of it, while learning.
    """

    def __init__(self, symbols: int, end: int | None, embedding: int, hidden: int, layers: int, dropout: float):
        super().__init__()
        self.symbols, self.end = symbols, end
        self.embedding = nn.Embedding(symbols, embedding)
        self.composition = Composition(embedding)
        self.stack = StackLSTM(embedding, hidden, layers, dropout)
        self.actions = nn.Linear(hidden, 1 if end is None else 2)
        self.narrow = nn.Linear(hidden, embedding, bias=False) if hidden != embedding else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.drop = nn.Dropout(dropout)

    def terms(self, x: Tensor, nodes: Nodes, lengths: Tensor) -> Tensor:
        """log p of each word of x (R, T) and of the actions since the word before it, in nats, (R, T); of the END, with
        the actions before it, in the place behind the last word. `lengths` (R,) are the words of each."""
        words = nodes.height == 0
        leaves = self.embedding(x[nodes.tree[words], nodes.start[words]])
        features = self.drop(self.stack(self.composition(leaves, nodes), nodes))
        # the stack before a word: that on which the first part of something has just been put
        before = torch.zeros_like(x)
        first = ~nodes.is_right & (nodes.end + 1 < lengths[nodes.tree])
        before[nodes.tree[first], nodes.end[first] + 1] = first.nonzero().squeeze(-1) + 1
        inside = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)
        shown = self.narrow(features[before[inside]])
        found = log_probabilities(shown, self.embedding.weight, self.possible_bias, x[inside])
        return features.new_zeros(x.shape).masked_scatter(inside, found) + self._actions(
            features[1:], x, nodes, lengths
        )

    def _actions(self, features: Tensor, x: Tensor, nodes: Nodes, lengths: Tensor) -> Tensor:
        """log p of the action after each node, where there is a choice, in the place of the word to come, (R, T)."""
        last = nodes.end + 1 == lengths[nodes.tree]
        logits = self.actions(features)
        reduce = torch.where(nodes.is_right, logits[:, 0], -logits[:, 0])
        choice = nodes.below >= 0
        if self.end is None:
            choice = choice & ~last
        else:
            over = torch.where(last, logits[:, 1], -logits[:, 1])
            reduce, choice = torch.where(choice, reduce, over), torch.ones_like(choice)
        value = nn.functional.logsigmoid(reduce[choice])
        place = (nodes.tree * x.shape[1] + nodes.end + 1)[choice]
        return value.new_zeros(x.numel()).index_add(0, place, value).view(x.shape)

    @property
    def possible_bias(self) -> Tensor:
        """The words' biases, (V,): the end is no word."""
        if self.end is None:
            return self.bias
        none = torch.arange(self.symbols, device=self.bias.device) == self.end
        return self.bias.masked_fill(none, -torch.inf)

    @torch.no_grad()
    def write(self, size: int, most: int, lengths: Tensor | None = None) -> Written:
        """Sentences and trees. Where ends are modelled a sentence of more than `most` words is drawn again; else there
        are `lengths` (size,) words of each.

        Raises:
            CapabilityError: a sentence was longer each time.
        """
        device = self.bias.device
        x = torch.zeros(size, most, dtype=torch.long, device=device)
        count, z = torch.zeros(size, dtype=torch.long, device=device), self.bias.new_zeros(size, most, most)
        left = torch.arange(size, device=device)
        for _ in range(TRIES):
            if not len(left):
                longest = int(count.max()) if size else 0
                return Written(x[:, :longest], count, z[:, :longest, :longest])
            made, done = _Stack(self, len(left), most, None if lengths is None else lengths[left]).run()
            x[left], count[left], z[left] = made
            left = left[~done]
        raise CapabilityError(
            f"{len(left)} of {size} sentences had more than {most} words each time, {TRIES} times: this model hardly "
            "ever comes to an end; raise length, or fit the model first"
        )


class _Stack:
    """The stacks of sentences that are being written."""

    def __init__(self, network: ShiftReduce, size: int, most: int, lengths: Tensor | None):
        self.network, self.most, self.lengths = network, most, lengths
        bottom, device = network.stack.bottom(), network.bias.device
        self.state = bottom.new_zeros(size, most + 1, *bottom.shape[1:])
        self.state[:, 0] = bottom
        self.parts = bottom.new_zeros(size, most + 1, 2, network.embedding.embedding_dim)
        self.start = torch.zeros(size, most + 1, dtype=torch.long, device=device)
        self.depth, self.count = (torch.zeros(size, dtype=torch.long, device=device) for _ in range(2))
        self.x = torch.zeros(size, most, dtype=torch.long, device=device)
        self.z = bottom.new_zeros(size, most, most)
        self.done = torch.zeros(size, dtype=torch.bool, device=device)

    def run(self) -> tuple[Written, Tensor]:
        """The sentences, and which of them came to an end in time."""
        going = torch.arange(len(self.x), device=self.x.device)
        while len(going):
            features = self.state[going, self.depth[going], -1, 0]
            reduce, over = self._choices(going, features)
            self.done[going[over]] = True
            self._reduce(going[reduce])
            shift = ~reduce & ~over & (self.count[going] < self.most)
            self._shift(going[shift], features[shift])
            going = going[reduce | shift]
        return Written(self.x, self.count, self.z), self.done

    def _choices(self, rows: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows reduce, and which have come to their end."""
        chance = self.network.actions(features).sigmoid()
        drawn = torch.rand_like(chance) < chance
        several, one = self.depth[rows] > 1, self.depth[rows] == 1
        if self.network.end is not None:
            return drawn[:, 0] & several, drawn[:, 1] & one
        assert self.lengths is not None
        last = self.count[rows] == self.lengths[rows]
        return (drawn[:, 0] | last) & several, last & one

    def _shift(self, rows: Tensor, features: Tensor) -> None:
        network, at = self.network, self.count[rows]
        word = draw(torch.addmm(network.possible_bias, network.narrow(features), network.embedding.weight.mT))
        self.x[rows, at] = word
        self._push(rows, network.composition.word(network.embedding(word)), at)
        self.count[rows] += 1
        self.z[rows, at, at] = 1

    def _reduce(self, rows: Tensor) -> None:
        top = self.depth[rows]
        whole = self.network.composition.pair(self.parts[rows, top - 1], self.parts[rows, top])
        start = self.start[rows, top - 1]
        self.depth[rows] -= 2
        self._push(rows, whole, start)
        self.z[rows, start, self.count[rows] - 1] = 1

    def _push(self, rows: Tensor, part: Tensor, start: Tensor) -> None:
        below = self.state[rows, self.depth[rows]]
        self.depth[rows] += 1
        top = self.depth[rows]
        self.state[rows, top] = self.network.stack.push(part[:, 0], below)
        self.parts[rows, top], self.start[rows, top] = part, start
