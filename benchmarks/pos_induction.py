"""Parts of speech without a teacher: 45 hidden states against the 45 tags of the Wall Street Journal sample.

    python benchmarks/pos_induction.py --data ../shared/data/treebank/treebank.zip --seeds 10 --steps 300

Protocol, that of the published number: the 3,914 sentences of the freely distributed tenth of the Penn Treebank with
punctuation and without traces, 94,084 words; as many states as there are tags; each seed a single random start; states
by the best path. There is nothing held out: what the models learn from is what they are measured on, as in all of
the literature on this task, so these are figures of the training set. Words are taken as they are written, none is
replaced by "unknown", and nothing is known of them but which they are. The published row knows more: it emits word
vectors that were learned from a much larger text. The seed of the highest training log p(x) is given too, which is
what one could choose without looking at the tags. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
import warnings
import zipfile
from pathlib import Path

import torch

from latentia.data import Dataset, load
from latentia.learners import EM, Gradient
from latentia.model import LatentVariableModel, TractableModel
from latentia.models import HMM, NeuralHMM
from latentia.objectives import exact
from latentia.tasks import decode_path
from latentia.tasks.agreement import many_to_one, v_measure

RESULTS = Path(__file__).parent / "results"
TAGS = 45
LEAF = re.compile(r"\(([^\s()]+) ([^\s()]+)\)")
PUBLISHED = {
    "model": "Gaussian HMM on pretrained word vectors (He, Neubig and Berg-Kirkpatrick 2018, their code's page)",
    "chosen": "about; the best of 10 restarts by training log p(x)",
    "many_to_one": 0.765,
    "v_measure": 0.692,
}


def sentences(path: Path) -> list[list[tuple[str, str]]]:
    """(tag, word) of every sentence, without traces."""
    with zipfile.ZipFile(path) as archive:
        files = sorted(name for name in archive.namelist() if name.endswith(".mrg"))
        text = "\n".join(archive.read(name).decode("latin1") for name in files)
    # a tree begins at the first column, and its lines after that are indented
    trees = re.split(r"^\(", text, flags=re.MULTILINE)[1:]
    leaves = [[leaf for leaf in LEAF.findall(tree) if leaf[0] != "-NONE-"] for tree in trees]
    return [leaf for leaf in leaves if leaf]


def numbered(rows: list[list[str]]) -> list[list[int]]:
    number: dict[str, int] = {}
    return [[number.setdefault(item, len(number)) for item in row] for row in rows]


def measure(model: LatentVariableModel, data: Dataset, tags: torch.Tensor) -> dict[str, float]:
    """Agreement of the best paths with the tags, and the mean log p(x) of a sentence, on the training set."""
    path, lengths = decode_path(model, data)
    found = torch.cat([row[:length] for row, length in zip(path, lengths.tolist(), strict=True)])
    assert isinstance(model, TractableModel)
    with torch.no_grad():
        values = [
            model.posterior(batch).log_partition.double() for batch in data.batches(512, dtype=model.anchor.dtype)
        ]
    return {
        "many_to_one": many_to_one(found, tags),
        "v_measure": v_measure(found, tags),
        "log_marginal": float(torch.cat(values).mean()),
        "states_used": len(found.unique()),
    }


def by_em(data: Dataset, symbols: int, seed: int, options: argparse.Namespace) -> LatentVariableModel:
    model = HMM(symbols=symbols, states=TAGS, smoothing=options.smoothing).double()
    EM(steps=options.steps, tol=options.tol, progress=False).fit(model, data, seed=seed)
    return model


def by_gradient(data: Dataset, symbols: int, seed: int, options: argparse.Namespace) -> LatentVariableModel:
    model = NeuralHMM(symbols, TAGS, options.hidden, dropout=options.dropout)
    learner = Gradient(
        exact, epochs=options.epochs, batch_size=options.batch_size, lr=options.lr, schedule="cosine", clip=5.0,
        progress=False,
    )  # fmt: skip
    learner.fit(model, data, seed=seed)
    return model


LEARN = {"HMM": by_em, "NeuralHMM": by_gradient}


def summary(runs: list[dict[str, float]]) -> dict[str, float | dict[str, float]]:
    """Mean and standard deviation over the seeds, and the seed of the highest training log p(x)."""
    names = ("many_to_one", "v_measure", "log_marginal", "seconds")
    found: dict[str, float | dict[str, float]] = {}
    for name in names:
        values = [run[name] for run in runs]
        found[name] = statistics.mean(values)
        found[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
    found["best_by_log_marginal"] = max(runs, key=lambda run: run["log_marginal"])
    return found


def table(results: dict) -> str:
    lines = [
        "| model | seeds | many-to-one, % | V-measure | nats a sentence | best by log p(x): M-1, V | seconds a seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        s = result["summary"]
        best = s["best_by_log_marginal"]
        lines.append(
            f"| {name} | {len(result['runs'])} | {100 * s['many_to_one']:.1f} ± {100 * s['many_to_one_sd']:.1f} "
            f"| {s['v_measure']:.3f} ± {s['v_measure_sd']:.3f} | {s['log_marginal']:.2f} ± {s['log_marginal_sd']:.2f} "
            f"| {100 * best['many_to_one']:.1f}, {best['v_measure']:.3f} | {s['seconds']:.0f} |"
        )
    published = f"{100 * PUBLISHED['many_to_one']:.1f}, {PUBLISHED['v_measure']:.3f}"
    return "\n".join([*lines, f"| {PUBLISHED['model']} | 10 | | | | {published} | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/treebank/treebank.zip", help="zip of .mrg files")
    parser.add_argument("--models", nargs="+", choices=LEARN, default=list(LEARN))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300, help="of EM")
    parser.add_argument("--tol", type=float, default=1e-3, help="of EM, nats a sentence")
    parser.add_argument("--smoothing", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=40, help="of the NeuralHMM")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "pos_induction.json")
    options = parser.parse_args()
    if not Path(options.data).is_file():
        sys.exit(f"{options.data} is not here: name the zip of the treebank sample with --data")
    tagged = sentences(Path(options.data))
    words = numbered([[word for _, word in sentence] for sentence in tagged])
    tags = torch.tensor([tag for row in numbered([[tag for tag, _ in s] for s in tagged]) for tag in row])
    data = load(words, kind="sequence")
    symbols = max(map(max, words)) + 1
    print(
        f"{len(words):,} sentences, {len(tags):,} words, {symbols:,} different ones, {len(tags.unique())} tags",
        flush=True,
    )

    results: dict = {}
    for name in options.models:
        learn, runs = LEARN[name], []
        for seed in range(options.seeds):
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the table says how many steps there were
                model = learn(data, symbols, seed, options)
            seconds = time.perf_counter() - began
            runs.append({"seed": seed, "seconds": seconds, **measure(model, data, tags)})
            print(name, " ".join(f"{key} {value:.4g}" for key, value in runs[-1].items()), flush=True)
        results[name] = {"runs": runs, "summary": summary(runs)}
    settings = {key: value for key, value in vars(options).items() if key not in ("data", "out")}
    content = {
        "evaluated_on": "the training set, as published",
        "settings": settings,
        "threads": torch.get_num_threads(),
        "results": results,
        "published": PUBLISHED,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
