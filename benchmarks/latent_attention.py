# pyright: reportMissingImports=false
"""Attention as a latent variable on Multi30k, German to English: soft, summed out, and variational, at equal networks.

    python benchmarks/latent_attention.py                          all rows, one after another
    python benchmarks/latent_attention.py --rows soft exact        some of them; what is saved is kept

29,000 pairs, lower case, subwords of 4,000 on each side learned from the training part. Every row has the same
networks, seed, minibatches and epochs, and keeps the epoch with the best validation value of its own objective. What
is reported is of the 1,000 pairs of test_2016_flickr: exact log p(x | source) by enumeration of the positions for all
rows, as perplexity a subword and in nats a sentence (the end counted), the paired difference to soft attention with its
standard error, and BLEU of a beam search of width 5 by sacrebleu where it is installed. Deng et al. (2018), table 1,
have on IWSLT14 soft 7.17, variational 6.08, exact 6.34.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from latentia.data import Dataset, load
from latentia.data.prose import Prose
from latentia.evaluate import standard_error
from latentia.learners import Gradient
from latentia.models import LatentAttention, VariationalAttention
from latentia.objectives import alignment_elbo, exact
from latentia.tasks import decode

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "multi30k" / "pairs"
SOFT = "soft"


class Row(NamedTuple):
    model: Callable[..., Any]
    objective: Callable[..., Any] = exact


ROWS = {
    SOFT: Row(partial(LatentAttention, attention="soft")),
    "exact": Row(partial(LatentAttention, attention="exact")),
    "variational, enumerated": Row(VariationalAttention, alignment_elbo),
    "variational, sampled": Row(VariationalAttention, partial(alignment_elbo, samples=2)),
}


def pairs(folder: Path, name: str, count: int | None, train: Dataset | None, size: int) -> Dataset:
    sides = []
    for side in ("en", "de"):
        with gzip.open(folder / f"{name}.{side}.gz", "rt", encoding="utf-8") as file:
            sides.append([line.strip() for line in file][:count])
    how: dict[str, Any] = {"tokens": "subwords", "max_vocabulary": size, "max_length": 50}
    how = how if train is None else {"schema": train.schema}
    return load(sides[0], context=sides[1], prose=Prose(lower=True, words="punctuation"), **how)


@torch.no_grad()
def each(model: Any, data: Dataset) -> torch.Tensor:
    """log p(x | source) of every pair, exactly, in nats, (N,)."""
    exactly = getattr(model, "generative", model).eval()
    found = torch.zeros(len(data), dtype=torch.float64)
    for index, batch in data.by_length(50):
        found[index] = exactly.posterior(batch).log_partition.double()
    return found


def bleu(model: Any, data: Dataset, count: int) -> dict[str, Any]:
    """Corpus BLEU of beams of width 5 of the first pairs, its signature, and how long the translations are."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        return {"bleu": None, "signature": "sacrebleu is not installed"}
    some = data.subset(slice(0, count))
    assert some.context is not None
    x, lengths = decode(model, some.context.batch(), width=5)
    written = [" ".join(words) for words in data.schema.decode(x, None, lengths)]
    true = [" ".join(words) for words in some.decoded()]
    metric = BLEU(tokenize="none", lowercase=True)
    score = metric.corpus_score(written, [true])
    return {"bleu": score.score, "signature": str(metric.get_signature())}


def measure(name: str, train: Dataset, validation: Dataset, test: Dataset, asked: argparse.Namespace) -> dict[str, Any]:
    row, sizes = ROWS[name], train.schema.sizes()
    size = {key: sizes[key] for key in ("symbols", "source_symbols")}
    model = row.model(**size, hidden=asked.hidden, dropout=asked.dropout)
    learner = Gradient(
        row.objective,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        lr=asked.lr,
        schedule="cosine",
        clip=5.0,
        patience=None,
        precision=asked.precision,
        progress=False,
    )
    began = time.process_time()
    history = learner.fit(model, train, validation=validation, seed=asked.seed)
    seconds = time.process_time() - began
    value = each(model, test)
    asked.keep.mkdir(parents=True, exist_ok=True)
    torch.save(value, asked.keep / f"{name}.pt")
    assert test.lengths is not None
    symbols = int(test.lengths.sum()) + len(test)
    return {
        "perplexity": math.exp(-float(value.sum()) / symbols),
        "nats_a_sentence": -float(value.mean()),
        "parameters": sum(part.numel() for part in model.parameters()),
        "cpu_seconds": seconds,
        "course": [record["validation_bound"] for record in history.records],
        **bleu(model, test, asked.translated),
    }


def compared(rows: dict[str, Any], keep: Path) -> None:
    if not (keep / f"{SOFT}.pt").exists():
        return
    soft = torch.load(keep / f"{SOFT}.pt")
    for name, row in rows.items():
        if (keep / f"{name}.pt").exists():
            other = torch.load(keep / f"{name}.pt")
            one, two = (torch.stack([part, torch.ones_like(part)], 1) for part in (other, soft))
            row["gain"], row["gain_se"] = float((other - soft).mean()), standard_error(one, two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--precision", default="highest", choices=["highest", "medium"])
    defaults = {"train": 29000, "epochs": 6, "batch_size": 64, "hidden": 128, "subwords": 4000, "translated": 300}
    for name, value in {**defaults, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "latent_attention.json")
    parser.add_argument("--keep", type=Path, default=Path("runs/latent_attention"), help="for log p of each pair")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    how = {name: str(value) for name, value in vars(asked).items() if name not in ("rows", "out", "data", "keep")}
    saved = json.loads(asked.out.read_text()) if asked.out.exists() else {"options": how, "rows": {}}
    if saved["options"] != how:
        raise SystemExit(f"{asked.out} holds rows of other options: choose another --out")
    train = pairs(asked.data, "train", asked.train, None, asked.subwords)
    validation, test = (pairs(asked.data, name, None, train, 0) for name in ("val", "test_2016_flickr"))
    for name in asked.rows:
        if name not in saved["rows"]:
            saved["rows"][name] = measure(name, train, validation, test, asked)
        compared(saved["rows"], asked.keep)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n")
        print(name, json.dumps(saved["rows"][name]), flush=True)


if __name__ == "__main__":
    main()
