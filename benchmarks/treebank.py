"""Grammars from sentences alone, on the freely distributed tenth of the Penn Treebank.

    python benchmarks/treebank.py baselines
    python benchmarks/treebank.py PCFG --seeds 3
    python benchmarks/treebank.py NeuralPCFG --seeds 3
    python benchmarks/treebank.py CompoundPCFG --seeds 3
    python benchmarks/treebank.py LanguageModel --most 20
    python benchmarks/treebank.py URNNG --most 20

Protocol: punctuation and currency signs removed, lower case, N for numbers; sentences of 2 to 40 words; the order
shuffled once with seed 0, and a tenth each for validation and for the test; the vocabulary is that of the training
part, words seen once are "<unk>". F1 is unlabelled, without spans of one word and of the whole sentence; a sentence
that has no gold span has recall 1 (`latentia.tasks.parse.Agreement`). Of the seeds the one of the highest validation
bound is named, never that of the highest F1. Perplexity counts the end of a sentence as a word more; that of the
compound PCFG is by its bound, so at most that, and the URNNG's by importance samples of q. Trees are those of minimum
risk. The language model is an LSTM of the URNNG's size, with the same words and ends; it has no trees. Results go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latentia.data import Dataset, load, read
from latentia.learners import EM, Gradient
from latentia.measure.marginal import log_marginal
from latentia.model import LatentVariableModel, TractableModel
from latentia.models import PCFG, URNNG, CompoundPCFG, LanguageModel, NeuralPCFG
from latentia.objectives import Objective, elbo, exact
from latentia.tasks import parse
from latentia.tasks.parse import (
    Agreement,
    Parser,
    agreement,
    balanced,
    gold,
    left_branching,
    oracle,
    random_tree,
    right_branching,
)

RESULTS = Path(__file__).parent / "results"
GENERATORS: dict[str, Any] = {"URNNG": URNNG, "LanguageModel": LanguageModel}
"""What writes a sentence with its end as a symbol."""


def parts(path: str, most: int, ends: bool = False) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test sentences of 2 to `most` words; with `ends` each has its end as a symbol more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sentences of one word, which are left out
        raw = read(path)
    raw = raw.take([len(words) <= most for words in raw.values])
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0)).numpy()
    tenth = len(raw) // 10
    train = load(raw.take(order[2 * tenth :]), min_count=2, ends=ends)
    validation, test = (load(raw.take(order[a : a + tenth]), schema=train.schema) for a in (0, tenth))
    return train, validation, test


def make(name: str, parsed: argparse.Namespace, symbols: int) -> LatentVariableModel:
    labels = {"nonterminals": parsed.nonterminals, "preterminals": parsed.preterminals}
    if name == "PCFG":
        return PCFG(symbols, smoothing=parsed.smoothing, **labels).double()
    if name == "NeuralPCFG":
        return NeuralPCFG(symbols, hidden=parsed.hidden, **labels)
    if name in GENERATORS:
        # the end is the last symbol
        size = {"embedding": parsed.embedding, "hidden": parsed.hidden, "dropout": parsed.dropout}
        reader = {"reader": parsed.reader} if name == "URNNG" else {}
        return GENERATORS[name](symbols, symbols - 1, **size, **reader)
    return CompoundPCFG(symbols, hidden=parsed.hidden, encoder=parsed.hidden, latent=parsed.latent, **labels)


def fit(model: LatentVariableModel, train: Dataset, validation: Dataset, parsed: argparse.Namespace, seed: int) -> None:
    if isinstance(model, PCFG):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the number of steps is the protocol's
            EM(steps=parsed.steps, restarts=1).fit(model, train, seed=seed)
        return
    learner = Gradient(
        objective_of(model, parsed.samples),
        epochs=parsed.epochs,
        batch_size=parsed.batch_size,
        lr=parsed.lr,
        clip=3.0,
        patience=parsed.epochs,
    )
    learner.fit(model, train, validation=validation, seed=seed)


def objective_of(model: LatentVariableModel, samples: int) -> Objective:
    """log p(x) where it is exact, else its bound; of the URNNG by so many trees a sentence."""
    if isinstance(model, TractableModel):
        return exact
    return partial(elbo, samples=samples, stl=True) if isinstance(model, URNNG) else elbo


@torch.no_grad()
def bound(model: LatentVariableModel, data: Dataset, samples: int) -> float:
    """log p(x), or its bound by one draw of z (or of the URNNG so many), in nats a sentence."""
    model.eval()
    total = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _, batch in data.by_length(32):
            batch = batch.to(model.anchor)
            total += float(objective_of(model, samples)(model, batch).value.double().sum())
    return total / len(data)


def perplexity(value: float, data: Dataset) -> float:
    """Of so many nats a sentence; its end, which is a symbol or goes without, is a word more."""
    assert data.lengths is not None
    return math.exp(-value / (float(data.lengths.double().mean()) + (not data.schema.ends)))


def as_row(found: Agreement) -> dict[str, float]:
    return {"sentence F1": 100 * found.sentence, "corpus F1": 100 * found.corpus}


def baselines(test: Dataset) -> dict[str, dict[str, float]]:
    people = gold(test)
    generator = torch.Generator().manual_seed(0)
    trees = {
        "left-branching": [left_branching(one.words) for one in people],
        "right-branching": [right_branching(one.words) for one in people],
        "balanced": [balanced(one.words) for one in people],
        "random": [random_tree(one.words, generator) for one in people],
        "oracle": [oracle(one) for one in people],
    }
    return {name: as_row(agreement(found, people)) for name, found in trees.items()}


def agreed(model: LatentVariableModel, test: Dataset) -> dict:
    found = agreement(parse(model, test), gold(test))
    labels = {label: [100 * share, count] for label, (share, count) in list(found.labels.items())[:8]}
    return {**as_row(found), "labels found": labels}


def one_seed(name: str, parsed: argparse.Namespace, seed: int, data: tuple[Dataset, Dataset, Dataset]) -> dict:
    train, validation, test = data
    begin = time.time()
    torch.manual_seed(seed)
    assert train.schema.levels is not None
    model = make(name, parsed, train.schema.levels)
    fit(model, train, validation, parsed, seed)
    row: dict = {"seed": seed, **(agreed(model, test) if isinstance(model, Parser) else {})}
    value = bound(model, test, parsed.samples)
    row |= {"validation bound": bound(model, validation, parsed.samples), "test bound": value}
    if isinstance(model, URNNG):
        sampled = log_marginal(model, test, importance_samples=parsed.importance_samples, seed=0)
        value = float(sampled.value.mean())
        row |= {"test log p": value, "effective sample size": float(sampled.effective_sample_size.mean())}
    row |= {"perplexity": perplexity(value, test), "minutes": (time.time() - begin) / 60}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=["baselines", "PCFG", "NeuralPCFG", "CompoundPCFG", *GENERATORS])
    parser.add_argument("--data", default="../shared/data/treebank/treebank.zip")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=40, help="words of the longest sentence")
    parser.add_argument("--nonterminals", type=int, default=30)
    parser.add_argument("--preterminals", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--embedding", type=int, default=128, help="of the URNNG and the language model")
    parser.add_argument("--reader", type=int, default=128, help="of the URNNG's q")
    parser.add_argument("--dropout", type=float, default=0.5, help="of the URNNG and the language model")
    parser.add_argument("--samples", type=int, default=4, help="trees a sentence, of the URNNG's gradient")
    parser.add_argument("--importance_samples", type=int, default=1000, help="of the URNNG's perplexity")
    parser.add_argument("--smoothing", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=50, help="of EM")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parsed = parser.parse_args()
    data = parts(parsed.data, parsed.most, parsed.row in GENERATORS)
    sizes = ", ".join(f"{len(part):,}" for part in data)
    print(f"{sizes} sentences to learn from, to choose by, to test on; {data[0].schema.levels:,} words", flush=True)
    path = RESULTS / (f"treebank_{parsed.row}" + ("" if parsed.most == 40 else f"_{parsed.most}") + ".json")
    if parsed.row == "baselines":
        result: dict = {"rows": baselines(data[2])}
        for name, row in result["rows"].items():
            print(f"{name:16} sentence F1 {row['sentence F1']:.1f}, corpus F1 {row['corpus F1']:.1f}", flush=True)
    else:
        rows = [one_seed(parsed.row, parsed, seed, data) for seed in range(parsed.seeds)]
        result = {"options": vars(parsed) | {"data": Path(parsed.data).name}, "sentences": sizes, "rows": rows}
        result["chosen"] = max(rows, key=lambda row: row["validation bound"])
        if len(rows) > 1 and "sentence F1" in rows[0]:
            scores = [row["sentence F1"] for row in rows]
            result["sentence F1"] = [statistics.mean(scores), statistics.stdev(scores)]
            print(
                f"{parsed.row}: sentence F1 {statistics.mean(scores):.1f} ± {statistics.stdev(scores):.1f}", flush=True
            )
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
