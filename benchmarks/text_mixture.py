"""A mixture of language models against one language model of as many parameters: is z worth anything, and what are the
clusters?

    python benchmarks/text_mixture.py                   captions
    python benchmarks/text_mixture.py --corpus ptb

Data and reading are those of text_vae.py. Rows: one LSTM; K components by one LSTM that is told which it is; K LSTMs of
their own with a table of words each. The hidden width of the one LSTM is chosen so that the parameters are as many as
those of each mixture, from below: the difference is told. Perplexity is of test sentences, the end counted and dropout
off; log p(x) is exact in all rows, and the gain over the language model of equal parameters is paired, sentence by
sentence. Clusters are told by the words that are most over-represented in them: the highest ratios of a word's share in
the cluster, by responsibilities, to its share in all training sentences, of words with at least a hundred occurrences.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from text_vae import corpus

from latentia.data import Dataset
from latentia.evaluate import evaluate, standard_error
from latentia.learners import Gradient
from latentia.models import LanguageModel, MixtureOfLanguageModels
from latentia.objectives import exact
from latentia.runs.directory import environment
from latentia.tasks import responsibilities

RESULTS = Path(__file__).parent / "results"
MIXTURES = {"shared network": True, "networks of their own": False}
COMMON = 100


def mixture(name: str, symbols: int, end: int | None, options: argparse.Namespace) -> MixtureOfLanguageModels:
    shared = MIXTURES[name]
    width = options.hidden if shared else max(1, options.hidden // options.components)
    size: dict[str, Any] = {"embedding": width, "hidden": width, "dropout": options.dropout if shared else 0.0}
    return MixtureOfLanguageModels(symbols, end, options.components, shared=shared, **size)


def alike(parameters: int, symbols: int, end: int | None, options: argparse.Namespace) -> LanguageModel:
    """The widest language model that has no more parameters."""
    width = 1
    while _size(LanguageModel(symbols, end, embedding=width + 1, hidden=width + 1)) <= parameters:
        width += 1
    return LanguageModel(symbols, end, embedding=width, hidden=width, dropout=options.dropout)


def _size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def measure(model: Any, data: tuple[Dataset, Dataset, Dataset], options: argparse.Namespace) -> tuple[dict, Any]:
    """Fit and evaluate: the figures, and log p(x) of each test sentence."""
    train, validation, test = data
    learner = Gradient(
        exact, epochs=options.epochs, batch_size=options.batch_size, lr=options.lr, schedule="cosine", clip=5.0,
        patience=None, progress=False,
    )  # fmt: skip
    began = time.process_time()
    learner.fit(model, train, validation=validation, seed=options.seed)
    seconds = time.process_time() - began
    found = evaluate(model, test, seed=options.seed)
    assert found.each is not None
    return {
        "nll": -found.log_marginal,
        "nll_se": found.log_marginal_se,
        "perplexity": found.perplexity,
        "parameters": _size(model),
        "seconds": seconds,
        "units": found.units,
    }, found.each[:, 0]


def clusters(model: Any, train: Dataset, count: int = 10) -> list[dict[str, Any]]:
    """The weight of each cluster, and the words that are most over-represented in it."""
    some = train.subset(slice(0, 5000))
    batch, share = some.batch(), responsibilities(model, some).double()
    said = torch.zeros(share.shape[1], len(train.schema.vocabulary), dtype=torch.float64)
    for k in range(share.shape[1]):
        weight = share[:, k : k + 1] * batch.observed
        said[k].index_add_(0, torch.where(batch.observed, batch.x, 0).long().flatten(), weight.flatten())
    total = said.sum(0)
    ratio = (said / said.sum(-1, keepdim=True)) / (total / total.sum())
    ratio = torch.where(total >= COMMON, ratio, 0.0)
    words = train.schema.vocabulary
    return [
        {"share": float(share[:, k].mean()), "words": [[words[i], round(float(ratio[k, i]), 2)] for i in best]}
        for k, best in enumerate(ratio.topk(count, -1).indices.tolist())
    ]


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=("captions", "ptb"), default="captions")
    parser.add_argument("--data", help="folder of the corpus; ../shared/data/... if left out")
    parser.add_argument("--rows", nargs="+", choices=list(MIXTURES), default=["shared network"], metavar="ROW")
    parser.add_argument("--components", type=int, default=4)
    parser.add_argument("--train", type=int, help="sentences to learn from; all if left out")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--min_count", type=int, default=3)
    parser.add_argument("--max_length", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="benchmarks/results/text_mixture_CORPUS.json if left out")
    options = parser.parse_args(given)
    options.out = options.out or RESULTS / f"text_mixture_{options.corpus}.json"
    return options


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(1)
    data = corpus(options)
    data = (data[0], data[1].subset(slice(0, options.validation)), data[2])
    symbols, end = len(data[0].schema.vocabulary), data[0].schema.end
    rows: dict[str, Any] = {}
    for name in options.rows:
        model = mixture(name, symbols, end, options)
        plain, each = measure(alike(_size(model), symbols, end, options), data, options)
        print(f"one language model of as many parameters as {name}: {plain}", flush=True)
        rows[f"one, as many parameters as {name}"] = plain
        found, other = measure(model, data, options)
        gain = other - each
        ones = torch.ones_like(each)
        found["gain"] = float(gain.mean())
        found["gain_se"] = standard_error(torch.stack([other, ones], 1), torch.stack([each, ones], 1))
        share = responsibilities(model, data[2])
        found["entropy_of_clusters"] = float(torch.special.entr(share.double().mean(0)).sum())
        found["entropy_given_x"] = float(torch.special.entr(share.double()).sum(-1).mean())
        found["clusters"] = clusters(model, data[0])
        rows[name] = found
        print(f"{name}: {found}", flush=True)
        write(rows, data, options)
    print(table(rows))


def write(rows: dict[str, Any], data: tuple[Dataset, Dataset, Dataset], options: argparse.Namespace) -> None:
    content = {
        "unit": "nats a test sentence, its end counted; gain over one language model of as many parameters",
        "rows": rows,
        "data": {"train": len(data[0]), "test": len(data[2]), "symbols": data[0].schema.levels},
        "options": {key: str(value) for key, value in vars(options).items() if key not in ("data", "out")},
        "environment": environment(),
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


def table(rows: dict[str, Any]) -> str:
    lines = ["| | parameters | NLL | perplexity | gain | CPU s |", "|---|--:|--:|--:|--:|--:|"]
    for name, row in rows.items():
        gain = f"{row['gain']:+.2f} ± {row['gain_se']:.2f}" if "gain" in row else ""
        assert math.isfinite(row["nll"])
        lines.append(
            f"| {name} | {row['parameters']:,} | {row['nll']:.2f} ± {row['nll_se']:.2f} | {row['perplexity']:.1f} | "
            f"{gain} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
