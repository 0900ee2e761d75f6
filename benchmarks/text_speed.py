"""Text models against hand-written PyTorch loops, in turn, on one core.

    python benchmarks/text_speed.py            training and sampling; some minutes
    python benchmarks/text_speed.py --quick    small sizes, seconds

Training: a language model of one LSTM, tied weights and dropout, a pass over the same captions by the learner
`Gradient`, beside the loop that a textbook has: the same network with torch's own modules, minibatches at random padded
to the longest, all logits at once, `cross_entropy` without the padding, `clip_grad_norm_` and `torch.optim.Adam`.
Tokens are those of the data, the end of each sentence among them. Sampling: captions from the language model, beside a
loop that reads the whole prefix anew at each step, and beside one that keeps the LSTM's state. Every contender is run
in turn, several times; the median counts.

bf16: where the processor has units for it, the fit is run at `precision="medium"` too; where it has none, that is said.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.models import LanguageModel
from latentia.objectives import exact
from latentia.tasks import generate

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1].parent / "shared" / "data" / "multi30k" / "captions"
WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")


def captions(path: Path, count: int) -> Dataset:
    with gzip.open(path / "train.1.en.gz", "rt", encoding="utf-8") as file:
        texts = [" ".join(WORD.findall(line.lower())) for line in file][:count]
    return load([text for text in texts if text], ends=True, min_count=3)


class ByHand(nn.Module):
    """The network of `LanguageModel`, as one would write it."""

    def __init__(self, symbols: int, embedding: int, hidden: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(symbols + 1, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.drop, self.output = nn.Dropout(dropout), nn.Linear(hidden, symbols)
        self.begin = symbols
        if embedding == hidden:
            self.output.weight = nn.Parameter(self.embedding.weight[:symbols].detach().clone())

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        features, state = self.lstm(self.drop(self.embedding(x)), state)
        return self.output(self.drop(features)), state


def train_by_hand(model: ByHand, data: Dataset, options: argparse.Namespace) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, lengths = data.x, data.lengths
    assert lengths is not None
    model.train()
    for index in torch.randperm(len(x)).split(options.batch_size):
        longest = int(lengths[index].max())
        rows = x[index, :longest]
        target = rows.masked_fill(torch.arange(longest) >= lengths[index].unsqueeze(1), -100)
        before = torch.cat([torch.full((len(rows), 1), model.begin), rows[:, :-1]], 1)
        logits, _ = model(before)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum")
        optimizer.zero_grad()
        (loss / len(rows)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()


def train(model: LanguageModel, data: Dataset, options: argparse.Namespace, precision: Any = "highest") -> None:
    how: dict[str, Any] = {"epochs": 1, "batch_size": options.batch_size, "clip": 5.0, "patience": None}
    Gradient(exact, progress=False, fresh=False, precision=precision, **how).fit(model, data)


@torch.no_grad()
def sample_by_hand(model: ByHand, count: int, steps: int, end: int, cached: bool) -> Tensor:
    model.eval()
    x, state = torch.full((count, 1), model.begin), None
    over = torch.zeros(count, dtype=torch.bool)
    for _ in range(steps):
        logits, state = model(x[:, -1:], state) if cached else model(x)
        drawn = torch.multinomial(logits[:, -1].softmax(-1), 1)
        x = torch.cat([x, drawn], 1)
        over |= drawn.squeeze(1) == end
        if bool(over.all()):
            break
    return x[:, 1:]


def race(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median processor seconds of each, all in turn, after one turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, function in contenders.items():
            began = time.process_time()
            function()
            if turn:
                found[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def agree(ours: LanguageModel, theirs: ByHand, data: Dataset) -> float:
    """The largest difference in log p(x) between the two, given the same parameters: they are the same network."""
    state = theirs.state_dict()
    decoder = ours.decoder
    with torch.no_grad():
        decoder.embedding.weight.copy_(state["embedding.weight"][:-1])
        decoder.before.copy_(state["embedding.weight"][-1])
        theirs.output.weight.copy_(state["embedding.weight"][:-1])
        decoder.bias.copy_(state["output.bias"])
        decoder.writer.load_state_dict({name: part for name, part in state.items() if name.startswith("lstm")})
        ours.eval()
        theirs.eval()
        batch = data.batch(slice(0, 20))
        before = torch.cat([torch.full((20, 1), theirs.begin), batch.x[:, :-1]], 1)
        terms = theirs(before)[0].log_softmax(-1).gather(-1, batch.x.unsqueeze(-1)).squeeze(-1)
        value = torch.where(batch.inside, terms, 0.0).sum(-1)
        return float((value - ours.posterior(batch).log_partition).abs().max())


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "text_speed.json")
    options = parser.parse_args(given)
    if options.quick:
        options.sentences, options.samples, options.rounds = 300, 50, 1
    torch.set_num_threads(1)
    data = captions(options.data, options.sentences)
    symbols, end = data.schema.levels or 0, data.schema.end or 0
    torch.manual_seed(0)
    size: dict[str, Any] = {"embedding": options.hidden, "hidden": options.hidden, "dropout": 0.3}
    ours, theirs = LanguageModel(symbols, end, length=40, **size), ByHand(symbols, **size)
    gap = agree(ours, theirs, data)
    tokens = int(data.batch().ends.sum())
    contenders = {
        "latentia": lambda: train(ours, data, options), "by hand": lambda: train_by_hand(theirs, data, options)
    }  # fmt: skip
    units = torch.cpu.get_capabilities()  # type: ignore[attr-defined]
    bf16 = bool(units.get("amx_bf16") or units.get("avx512_bf16"))
    if bf16:
        contenders["latentia, bf16"] = lambda: train(ours, data, options, "medium")
    seconds = race(contenders, options.rounds)
    drawn = race(
        {
            "latentia": lambda: generate(ours, options.samples),
            "by hand, cached": lambda: sample_by_hand(theirs, options.samples, 40, end, True),
            "by hand, prefix anew": lambda: sample_by_hand(theirs, options.samples, 40, end, False),
        },
        options.rounds,
    )
    result = {
        "symbols": symbols,
        "tokens": tokens,
        "the two differ by, nats": gap,
        "training, tokens a second": {name: tokens / value for name, value in seconds.items()},
        "training, times the loop": seconds["by hand"] / seconds["latentia"],
        "sampling, captions a second": {name: options.samples / value for name, value in drawn.items()},
        "bf16": "units are there" if bf16 else "this processor has no bf16 units: all is float32",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
