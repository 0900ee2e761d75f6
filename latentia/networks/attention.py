"""An encoder and a decoder with attention: networks that score source positions and words, and know no probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentia.networks.ragged import states_of


class SourceReader(nn.Module):
    """Words of a source to a vector for each, (B, J) and lengths (B,) to (B, J, 2 hidden), by a bidirectional GRU."""

    def __init__(self, symbols: int, hidden: int, dropout: float):
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(symbols, hidden), nn.Dropout(dropout)
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inputs = self.dropout(self.embedding(x))
        return self.dropout(states_of(self.recurrent, inputs, lengths.clamp(min=1)))


class Writer(nn.Module):
    """The words so far to a state for each step, (B, T) to (B, T, hidden), that has not seen the step's own word."""

    def __init__(self, symbols: int, hidden: int, memory: int, dropout: float):
        super().__init__()
        # one more than the words: what stands before the first
        self.embedding, self.dropout = nn.Embedding(symbols + 1, hidden), nn.Dropout(dropout)
        self.begin = nn.Linear(memory, hidden)
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True)

    def forward(self, x: Tensor, summary: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(x[:, :1], self.embedding.num_embeddings - 1), x[:, :-1]], 1)
        state = self.first(summary).unsqueeze(0)
        if not len(x):
            return state.new_zeros(*x.shape, state.shape[-1])
        return self.dropout(self.recurrent(self.dropout(self.embedding(before)), state.contiguous())[0])

    def first(self, summary: Tensor) -> Tensor:
        """What the recurrent network begins from, (B, memory) to (B, hidden)."""
        return self.begin(summary).tanh()

    def after(self, word: Tensor | None, state: Tensor) -> Tensor:
        """The state after one more word (B,), of before the first where it is None."""
        mark = self.embedding.num_embeddings - 1
        word = torch.full((len(state),), mark, device=state.device) if word is None else word
        inputs = self.dropout(self.embedding(word)).unsqueeze(1)
        return self.recurrent(inputs, state.unsqueeze(0).contiguous())[1][0]


class Scorer(nn.Module):
    """Scores of pairs of a state (B, T, hidden) and a memory (B, J, memory): (B, T, J), bilinear."""

    def __init__(self, hidden: int, memory: int):
        super().__init__()
        self.map = nn.Linear(hidden, memory)

    def forward(self, states: Tensor, memory: Tensor) -> Tensor:
        return self.map(states) @ memory.mT / memory.shape[-1] ** 0.5


class WordHead(nn.Module):
    """A state and what was attended to, to logits of words: any leading dimensions that broadcast."""

    def __init__(self, symbols: int, hidden: int, memory: int, dropout: float):
        super().__init__()
        self.of_state, self.of_memory = nn.Linear(hidden, hidden), nn.Linear(memory, hidden, bias=False)
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(hidden, symbols)

    def features(self, states: Tensor, attended: Tensor) -> Tensor:
        return self.dropout((self.of_state(states) + self.of_memory(attended)).tanh())

    def forward(self, states: Tensor, attended: Tensor) -> Tensor:
        return self.output(self.features(states, attended))


def averaged(memory: Tensor, there: Tensor) -> Tensor:
    """The mean of a source's vectors (B, J, M) at the positions that there are, (B, M)."""
    inside = there.unsqueeze(-1)
    return (memory * inside).sum(1) / inside.sum(1).clamp(min=1)
