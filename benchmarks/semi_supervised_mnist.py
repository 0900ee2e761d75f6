"""MNIST with 100 labels, ten of each class: test error of M2, and of M2 on the codes of a VAE (M1 + M2).

    python benchmarks/semi_supervised_mnist.py --data ../shared/data/mnist

Protocol of Kingma et al. (2014): the labels of 100 training images, drawn at random ten of each class, are known, and
no others are looked at before the end: nothing is chosen by a validation set. Several draws of the 100; the error on
the 10,000 test images, its mean and standard deviation over the draws. M2 learns from the pixels of --pixels training
images, dynamically binarized; M1 is one VAE of all 60,000, learned without labels, and M2 learns from its posterior
means. Labelled data are repeated at a lower weight, so that each step sees some. Result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.models import VAE, SemiSupervisedVAE
from latentia.objectives import supervised
from latentia.run import environment
from latentia.tasks import encode

RESULTS = Path(__file__).parent / "results"
PUBLISHED = {"M2": [11.97, 1.71], "M1 + M2": [3.33, 0.14]}
KNOWN = 100
REPEATS = 20
"""How often a pass meets each labelled datum, each time at so much less weight."""


def classes(folder: Path, name: str) -> Tensor:
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        return torch.from_numpy(np.frombuffer(file.read()[8:], dtype=np.uint8).astype(np.int64))


def chosen(named: Tensor, seed: int) -> Tensor:
    """Ten data of each class, at random."""
    order = torch.randperm(len(named), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[named[order] == k][: KNOWN // 10] for k in range(10)])


def taught(data: Dataset, known: Tensor, named: Tensor, most: int) -> Dataset:
    """`most` data without labels, at random, and the known ones, REPEATS times at 1 / REPEATS of their weight."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:most]
    index = torch.cat([order, known.repeat(REPEATS)])
    z = torch.zeros(len(index), 10)
    again = known.repeat(REPEATS)
    z[len(order) + torch.arange(len(again)), named[again]] = 1
    weight = torch.ones(len(index), dtype=torch.float64)
    weight[len(order) :] = 1 / REPEATS
    return replace(data.subset(index), z=z, weight=weight, labels=None)


@torch.no_grad()
def errors(model: SemiSupervisedVAE, test: Dataset, named: Tensor) -> dict[str, float]:
    """Of the classifier, and of the decoder by importance sampling on the first 1,000, in per cent."""
    batches = list(test.frozen(0).batches(500, dtype=torch.float32))
    wrong = torch.cat([model.clusters(batch).argmax(-1) for batch in batches]) != named
    asked = [model.class_probabilities(batch, 10).argmax(-1) for batch in batches[:2]]
    decoder = torch.cat(asked) != named[:1000]
    return {"error": 100 * float(wrong.double().mean()), "decoder_error": 100 * float(decoder.double().mean())}


def learned(
    options: argparse.Namespace, model: SemiSupervisedVAE, train: Dataset, test: Dataset, named: list[Tensor], seed: int
) -> dict[str, Any]:
    most = options.pixels if model.family == "bernoulli" else len(train)
    data = taught(train, chosen(named[0], seed), named[0], most)
    objective = partial(supervised, alpha=options.alpha * most / KNOWN)
    epochs = options.epochs if model.family == "bernoulli" else options.code_epochs
    learner = Gradient(
        objective, epochs=epochs, batch_size=200, lr=options.lr, schedule="cosine", precision=options.precision
    )
    began = time.perf_counter()
    learner.fit(model, data, seed=seed)
    found = {"draw": seed, **errors(model, test, named[1]), "seconds": round(time.perf_counter() - began, 1)}
    print(model.family, found, flush=True)
    return found


def coded(options: argparse.Namespace, train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """The posterior means of a VAE that has seen no labels, in units of their standard deviations."""
    model = VAE((28, 28), latent=50, hidden=(500, 500), activation="relu")
    learner = Gradient(epochs=options.m1_epochs, batch_size=200, schedule="cosine", precision=options.precision)
    learner.fit(model, replace(train, labels=None), seed=0)
    codes: list[Any] = [encode(model, data, batch_size=1000) for data in (train, test)]
    # units that follow the prior say nothing, and scaling them up would say it loudly
    active = codes[0].var(0) > 0.01
    print(f"M1: {int(active.sum())} active units", flush=True)
    first = load(codes[0][:, active].double(), kind="table", scale="standard")
    return first, load(codes[1][:, active].double(), schema=first.schema)


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    values = torch.tensor([draw["error"] for draw in draws], dtype=torch.float64)
    spread = float(values.std()) if len(values) > 1 else math.nan
    return {"error": float(values.mean()), "error_sd": spread, "draws": draws}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["M1 + M2", "M2"])
    parser.add_argument("--alpha", type=float, default=0.1, help="of the paper: times data over labelled data")
    parser.add_argument("--pixels", type=int, default=20_000, help="training images that M2 learns from")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--code_epochs", type=int, default=10)
    parser.add_argument("--m1_epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="medium")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not here: name the folder of MNIST's idx files with --data")
    train, test = (
        load(options.data / f"{name}-images-idx3-ubyte.gz", binarize="dynamic") for name in ("train", "t10k")
    )
    named = [classes(options.data, name) for name in ("train", "t10k")]
    results: dict[str, Any] = {}
    for name in options.models:
        pair = coded(options, train, test) if name != "M2" else (train, test)
        draws = []
        for seed in range(options.draws):
            model = SemiSupervisedVAE((28, 28), latent=50, hidden=(500,))
            if name != "M2":
                model = SemiSupervisedVAE(pair[0].x.shape[1:], latent=10, hidden=(500,), likelihood="gaussian")
            draws.append(learned(options, model, *pair, named, seed))
            results[name] = summary(draws)
            _write(options, results)
        print(f"{name}: {results[name]['error']:.2f} ± {results[name]['error_sd']:.2f} %", flush=True)


def _write(options: argparse.Namespace, results: dict[str, Any]) -> None:
    content = {
        "unit": "per cent of the 10,000 test images; mean and standard deviation over draws of the 100 labels",
        "published": PUBLISHED,
        "results": results,
        "options": {name: str(value) for name, value in vars(options).items()},
        "environment": environment(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "semi_supervised_mnist.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
