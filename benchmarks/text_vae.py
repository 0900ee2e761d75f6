"""Language models against text VAEs with the same decoder: collapse, its remedies, and what the latents are worth.

    python benchmarks/text_vae.py                               all rows, on the captions
    python benchmarks/text_vae.py --rows "language model" VAE   some of them; what is saved is kept
    python benchmarks/text_vae.py --corpus ptb --rows "language model" VAE "pretraining, free bits 0.25"

Data: English captions of Flickr30k (29,000 to learn from, lower case, punctuation apart), or the Penn Treebank in
Mikolov's form. Every row has the same LSTM as its decoder, the same seed, data, dropout and number of epochs (the
pretraining among these), and keeps the epoch with the best validation value of its own objective. What is reported is
of test sentences that no choice was made by, with dropout off and the end of the sentence counted: the NLL by
importance sampling, with the paired difference to the language model and its standard error; perplexity a word; the
reconstruction and the KL; mutual information (of the test sentences, not of a minibatch); active units; the verdict;
and the CPU seconds of fitting. A row is saved as soon as it is done.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from latentia.data import Dataset, load
from latentia.evaluate import evaluate, standard_error
from latentia.learners import Gradient
from latentia.models import LanguageModel, TextVAE
from latentia.objectives import elbo, exact

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1].parent / "shared" / "data"
LM = "language model"
WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")


class Row(NamedTuple):
    """What differs from the plain VAE: options of the objective, of the learner, and of the model."""

    objective: Callable[..., Any] = elbo
    learner: dict[str, Any] = {}  # noqa: RUF012  # never changed
    model: dict[str, Any] = {}  # noqa: RUF012


ANNEALED = {"anneal": "linear", "anneal_share": 0.5}
ROWS: dict[str, Row] = {
    LM: Row(exact),
    "VAE": Row(),
    "annealing": Row(learner=ANNEALED),
    "free bits 0.25": Row(partial(elbo, free_bits=0.25)),
    "pretraining, free bits 0.25": Row(partial(elbo, free_bits=0.25), {"pretrain": 4, **ANNEALED}),
    "aggressive": Row(learner={"aggressive": True, **ANNEALED}),
    "skip, annealing": Row(learner=ANNEALED, model={"route": ("initial", "inputs", "skip")}),
    "cyclical annealing": Row(learner={"anneal": "cyclical", "cycles": 4}),
    "word dropout 0.3": Row(learner=ANNEALED, model={"word_dropout": 0.3}),
}


def captions(path: Path) -> list[str]:
    """The sentences of a file, in lower case, with punctuation apart."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [" ".join(WORD.findall(line.lower())) for line in file if line.strip()]


def corpus(options: argparse.Namespace) -> tuple[Dataset, Dataset, Dataset]:
    """Sentences to learn from, to choose the epoch by, and to test on; words by those to learn from."""
    if options.corpus == "captions":
        folder = Path(options.data or DATA / "multi30k" / "captions")
        names = ("train.1.en.gz", "val.1.en.gz", "test_2016.1.en.gz")
        texts = [captions(folder / name) for name in names]
    else:
        folder = Path(options.data or DATA / "ptb")
        names = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
        texts = [(folder / name).read_text("utf-8").splitlines() for name in names]
    texts = [[text for text in part if text.strip()] for part in texts]
    train = load(texts[0][: options.train], ends=True, min_count=options.min_count, max_length=options.max_length)
    rest = [load(part, schema=train.schema) for part in texts[1:]]
    return train, rest[0], rest[1].subset(slice(0, options.test))


def build(name: str, options: argparse.Namespace, train: Dataset) -> LanguageModel | TextVAE:
    size: dict[str, Any] = {"embedding": options.embedding, "hidden": options.hidden, "dropout": options.dropout}
    size |= {"symbols": train.schema.levels, "end": train.schema.end}
    return LanguageModel(**size) if name == LM else TextVAE(latent=options.latent, **size, **ROWS[name].model)


def measure(name: str, data: tuple[Dataset, Dataset, Dataset], options: argparse.Namespace) -> dict[str, Any]:
    """Fit and evaluate one row."""
    train, validation, test = data
    model, row = build(name, options, train), ROWS[name]
    learner = Gradient(
        row.objective,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        schedule="cosine",
        clip=5.0,
        patience=None,
        progress=False,
        **row.learner,
    )
    began = time.process_time()
    history = learner.fit(model, train, validation=validation, seed=options.seed)
    seconds = time.process_time() - began
    options.keep.mkdir(parents=True, exist_ok=True)
    model.schema = train.schema
    model.save(kept(name, options, "safetensors"))
    found = evaluate(model, test, importance_samples=options.importance_samples, seed=options.seed)
    assert found.each is not None
    torch.save(found.each[:, 0].clone(), kept(name, options, "each.pt"))
    return {
        "nll": -found.log_marginal,
        "nll_se": found.log_marginal_se,
        "perplexity": found.perplexity,
        "reconstruction": found.reconstruction,
        "kl": found.kl,
        "mutual_information": found.mutual_information,
        "active_units": found.active_units,
        "verdict": found.verdict,
        "units": found.units,
        "seconds": seconds,
        "parameters": model.free_parameters(),
        "course": [[record["bound"], record["kl"], record["validation_bound"]] for record in history.records],
    }


def kept(name: str, options: argparse.Namespace, suffix: str) -> Path:
    """Where a row's model, or its log p(x) of each test sentence, is kept: none of the results, which are summaries."""
    return options.keep / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.{suffix}"


def compared(rows: dict[str, Any], options: argparse.Namespace) -> None:
    """By how much each row's NLL is below the language model's, sentence by sentence."""
    if LM not in rows or not kept(LM, options, "each.pt").exists():
        return
    plain = torch.load(kept(LM, options, "each.pt"))
    for name, row in rows.items():
        if kept(name, options, "each.pt").exists():
            each = torch.load(kept(name, options, "each.pt"))
            one, other = (torch.stack([part, torch.ones_like(part)], 1) for part in (each, plain))
            row["gain"], row["gain_se"] = float((each - plain).mean()), standard_error(one, other)


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| | NLL | gain over the language model | perplexity | reconstruction | KL | MI | active | CPU s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        gain = f"{row['gain']:+.2f} ± {row['gain_se']:.2f}" if name != LM and "gain" in row else ""
        lines.append(
            f"| {name} | {row['nll']:.2f} ± {row['nll_se']:.2f} | {gain} | {row['perplexity']:.2f} | "
            f"{row['reconstruction']:.2f} | {row['kl']:.2f} | {row['mutual_information']:.2f} | "
            f"{row['active_units']} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=("captions", "ptb"), default="captions")
    parser.add_argument("--data", help="folder of the corpus; ../shared/data/... if left out")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=str(list(ROWS))
    )
    parser.add_argument("--train", type=int, help="sentences to learn from; all if left out")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--embedding", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--min_count", type=int, default=3)
    parser.add_argument("--max_length", type=int, default=60)
    parser.add_argument("--importance_samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file; benchmarks/results/text_vae_CORPUS.json if left out")
    parser.add_argument("--keep", type=Path, help="folder for the fitted models; runs/text_vae_CORPUS if left out")
    options = parser.parse_args(given)
    options.keep = options.keep or Path("runs") / f"text_vae_{options.corpus}"
    options.out = options.out or RESULTS / f"text_vae_{options.corpus}.json"
    return options


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(1)
    how = {name: str(value) for name, value in vars(options).items() if name not in ("rows", "out", "data", "keep")}
    saved = json.loads(options.out.read_text()) if options.out.exists() else {"options": how, "rows": {}}
    if saved["options"] != how:
        sys.exit(f"{options.out} holds rows of other options: choose another --out")
    data = corpus(options)
    saved["data"] = {
        "train": len(data[0]), "validation": len(data[1]), "test": len(data[2]), "symbols": data[0].schema.levels,
        "unknown": data[2].unknown, "words": int(data[2].batch().ends.sum()),
    }  # fmt: skip
    for name in options.rows:
        if name in saved["rows"]:
            continue
        saved["rows"][name] = measure(name, data, options)
        saved["rows"] = {known: saved["rows"][known] for known in ROWS if known in saved["rows"]}
        compared(saved["rows"], options)
        options.out.write_text(json.dumps(saved, indent=None, separators=(",", ":")) + "\n")
        print(f"{name}: {saved['rows'][name]['verdict']}", flush=True)
    compared(saved["rows"], options)
    print(table(saved["rows"]), f"\n{saved['data']}")


if __name__ == "__main__":
    main()
