"""Training of soft attention against a PyTorch loop written by hand, in turn, on one core, in target tokens a second.

    python benchmarks/attention_speed.py                      Multi30k, German to English
    python benchmarks/attention_speed.py --pairs 300 --rounds 1

`LatentAttention(attention="soft")` by the learner `Gradient`, a pass over the pairs, beside the loop that a textbook
has: the same network with torch's own modules, minibatches at random padded to the longest on both sides, all logits at
once, `cross_entropy` without the padding, `clip_grad_norm_` and `torch.optim.Adam`. Given the same parameters the two
have the same log p(x | source), which is looked at first. Tokens are subwords of the target, ends among them; what
counts is the median of the rounds' processor seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from latent_attention import DATA, pairs
from text_speed import RESULTS, race
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from latentia.batch import Batch
from latentia.data import Dataset
from latentia.learners import Gradient
from latentia.models import LatentAttention
from latentia.objectives import exact

IGNORED = -100


class ByHand(nn.Module):
    """The networks of soft attention, as one would write them."""

    def __init__(self, symbols: int, source_symbols: int, hidden: int, dropout: float):
        super().__init__()
        self.end, self.begin, self.hidden = symbols, symbols + 1, hidden
        self.source, self.target = nn.Embedding(source_symbols, hidden), nn.Embedding(symbols + 2, hidden)
        self.encoder = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.decoder = nn.GRU(hidden, hidden, batch_first=True)
        self.first, self.query = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.of_state, self.of_memory = nn.Linear(hidden, hidden), nn.Linear(2 * hidden, hidden, bias=False)
        self.output, self.drop = nn.Linear(hidden, symbols + 1), nn.Dropout(dropout)

    def forward(self, source: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.drop(self.source(source)), lengths, batch_first=True, enforce_sorted=False)
        memory = self.drop(pad_packed_sequence(self.encoder(packed)[0], batch_first=True)[0])
        there = torch.arange(memory.shape[1]) < lengths.unsqueeze(1)
        mean = memory.sum(1) / lengths.unsqueeze(1)
        state = self.first(mean).tanh().unsqueeze(0)
        states = self.drop(self.decoder(self.drop(self.target(before)), state)[0])
        scores = self.query(states) @ memory.transpose(1, 2) / (2 * self.hidden) ** 0.5
        attention = scores.masked_fill(~there.unsqueeze(1), -torch.inf).softmax(-1)
        return self.output(self.drop((self.of_state(states) + self.of_memory(attention @ memory)).tanh()))


def padded(batch: Batch, end: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source, its lengths, the words before each, and the words to come, padded to the longest of each side."""
    source, longest = batch.context, int(batch.ends.max())
    assert source is not None
    steps = torch.arange(longest + 1)
    words = torch.cat([batch.x[:, :longest], torch.zeros_like(batch.x[:, :1])], 1)
    words = words.masked_fill(steps == batch.ends.unsqueeze(1), end)
    before = torch.cat([torch.full_like(words[:, :1], end + 1), words[:, :-1]], 1)
    target = words.masked_fill(steps > batch.ends.unsqueeze(1), IGNORED)
    return source.x[:, : int(source.ends.max())], source.ends, before, target


def cross_entropy(model: ByHand, batch: Batch, reduction: str) -> Tensor:
    source, lengths, before, target = padded(batch, model.end)
    logits = model(source, lengths, before).flatten(0, 1)
    return nn.functional.cross_entropy(logits, target.flatten(), ignore_index=IGNORED, reduction=reduction)


def train_by_hand(model: ByHand, data: Dataset, size: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for index in torch.randperm(len(data)).split(size):
        loss = cross_entropy(model, data.batch(index), "sum") / len(index)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()


def train(model: LatentAttention, data: Dataset, size: int, pool: int) -> None:
    how = {"epochs": 1, "batch_size": size, "clip": 5.0, "patience": None, "pool": pool}
    Gradient(exact, progress=False, fresh=False, **how).fit(model, data)


@torch.no_grad()
def agree(ours: LatentAttention, theirs: ByHand, data: Dataset) -> float:
    """The largest difference in log p(x | source) between the two, given the same parameters."""
    parts = {
        theirs.source: ours.reader.embedding,
        theirs.encoder: ours.reader.recurrent,
        theirs.target: ours.writer.embedding,
        theirs.decoder: ours.writer.recurrent,
        theirs.first: ours.writer.begin,
        theirs.query: ours.scorer.map,
        theirs.of_state: ours.head.of_state,
        theirs.of_memory: ours.head.of_memory,
        theirs.output: ours.head.output,
    }
    for mine, other in parts.items():
        other.load_state_dict(mine.state_dict())
    ours.eval()
    theirs.eval()
    batch = data.batch(slice(0, 20))
    value = -cross_entropy(theirs, batch, "none").unflatten(0, (20, -1)).sum(1)
    return float((value - ours.posterior(batch).log_partition).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    for name, value in {"pairs": 3000, "subwords": 4000, "hidden": 128, "batch_size": 64, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=RESULTS / "attention_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = pairs(options.data, "train", options.pairs, None, options.subwords)
    sizes = data.schema.sizes()
    torch.manual_seed(0)
    ours = LatentAttention(sizes["symbols"], sizes["source_symbols"], "soft", options.hidden, options.dropout)
    theirs = ByHand(sizes["symbols"], sizes["source_symbols"], options.hidden, options.dropout)
    gap, tokens = agree(ours, theirs, data), int(data.batch().ends.sum()) + len(data)
    seconds = race(
        {
            "latentia": lambda: train(ours, data, options.batch_size, 1),
            "latentia, batches by length": lambda: train(ours, data, options.batch_size, 8),
            "by hand": lambda: train_by_hand(theirs, data, options.batch_size),
        },
        options.rounds,
    )
    result = {
        "pairs": len(data),
        "the two differ by, nats": gap,
        "target tokens a second": {name: tokens / value for name, value in seconds.items()},
        "times the loop": {name: seconds["by hand"] / value for name, value in seconds.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
