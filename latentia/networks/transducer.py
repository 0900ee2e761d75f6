"""From one sequence to another, symbol by symbol, with attention and with copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.networks.attention import Scorer, SourceReader, WordHead, Writer, averaged
from latentia.networks.routes import State

LEAST = 1e-30
"""What nothing that could be copied weighs beside the best copy: its logarithm is finite."""


class Transducer(nn.Module):
    """Logits of each symbol from those before it and a source: attention (Bahdanau et al. 2015), and copies (Gu et al.
    2016, section 3.3).

    A symbol's weight is that of writing it plus those of all source positions whose symbol it is the copy of; which of
    these it was, nobody says.

    Args:
        source_symbols, symbols: of the source, and of what is written.
        copies: (source_symbols,), the symbol that each of the source is copied as, -1 for none.
        hidden: units of every network; dropout: of embeddings and of all that is fed to a linear layer.
    """

    kind: Tensor
    targets: Tensor

    def __init__(self, source_symbols: int, symbols: int, copies: Sequence[int], hidden: int, dropout: float):
        super().__init__()
        self.symbols = symbols
        self.reader = SourceReader(source_symbols, hidden, dropout)
        self.writer = Writer(symbols, hidden, 2 * hidden, dropout)
        self.scorer, self.copier = Scorer(hidden, 2 * hidden), Scorer(hidden, 2 * hidden)
        self.head = WordHead(symbols, hidden, 2 * hidden, dropout)
        targets = sorted({target for target in copies if target >= 0})
        kind = [targets.index(target) if target >= 0 else len(targets) for target in copies]
        self.register_buffer("targets", torch.tensor(targets, dtype=torch.long), persistent=False)
        self.register_buffer("kind", torch.tensor(kind, dtype=torch.long), persistent=False)

    def read(self, x: Tensor, lengths: Tensor) -> State:
        """What is remembered of sources (B, J), of `lengths` (B,) symbols each: a row for each of them."""
        there = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)
        x = torch.where(there, x, 0)
        memory = self.reader(x, lengths)
        copied = torch.where(there, self.kind[x], len(self.targets))
        chosen = nn.functional.one_hot(copied, len(self.targets) + 1)[..., :-1].to(memory)
        return {"memory": memory, "there": there, "copied": chosen}

    def forward(self, y: Tensor, source: State) -> Tensor:
        """Logits of each step of y (R, T) before it is seen, (R, T, V), of as many sources."""
        return self.logits(self.writer(y, averaged(source["memory"], source["there"])), source)

    def begin(self, source: State) -> tuple[Tensor, State]:
        """Logits of the first symbol, (R, V), and the state."""
        return self._next(
            self.writer.after(None, self.writer.first(averaged(source["memory"], source["there"]))), source
        )

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the symbol after `symbol` (R,), and the state after it."""
        return self._next(self.writer.after(symbol, state["hidden"]), state)

    def _next(self, hidden: Tensor, source: State) -> tuple[Tensor, State]:
        return self.logits(hidden.unsqueeze(1), source)[:, 0], {**source, "hidden": hidden}

    def logits(self, states: Tensor, source: State) -> Tensor:
        memory, nowhere = source["memory"], ~source["there"].unsqueeze(1)
        attention = self.scorer(states, memory).masked_fill(nowhere, -torch.inf).softmax(-1)
        written = self.head(states, attention @ memory)
        if not len(self.targets):
            return written
        scores = self.copier(states, memory).masked_fill(nowhere, -torch.inf)
        top = scores.amax(-1, keepdim=True).detach()
        copied = ((scores - top).exp() @ source["copied"]).clamp(min=LEAST).log() + top
        return written.index_copy(-1, self.targets, torch.logaddexp(written[..., self.targets], copied))


def repeated(source: State, times: int) -> State:
    """The rows of the sources, all of them so often one after the other."""
    return {name: part.expand(times, *part.shape).flatten(0, 1) for name, part in source.items()}
