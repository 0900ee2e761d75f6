"""MNIST with 100 labels, ten of each class: test error of M2, and of M2 on the codes of a VAE (M1 + M2).

    python benchmarks/semi_supervised_mnist.py --data ../shared/data/mnist

Protocol of Kingma et al. (2014): 50,000 training images, dynamically binarized, of which 100, drawn at random ten of
each class, have labels; several draws of the 100; the error on the 10,000 test images, its mean and standard deviation
over the draws. As there, options were chosen on the other 10,000 training images, whose labels are known for that:
--validate measures on them, with draws of the 100 from 100 on, which the test does not use, and writes nothing. No
model sees the 10,000. Beside it, what the same 100 labels give alone: nearest neighbour and logistic regression on
grey levels, and M2's classifier with no other images.

M2 learns in two parts. In the first its classifier learns from the labels alone, and the decoder by that classifier;
in the second the bound of the images without labels teaches the classifier too. (Validation error of one draw after
two passes: 20.4 % so, 24.9 % where the bound taught in both.) Labelled images are repeated at a lower weight, so that
each step sees some. M1 is one VAE of the training images, learned without labels, and M2 learns from its posterior
means: --models "M1 + M2" (with options that were chosen for M2, not for it). Result goes to benchmarks/results/.
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
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.models import VAE, SemiSupervisedVAE
from latentia.objectives import supervised
from latentia.runs.directory import environment
from latentia.tasks import encode

RESULTS = Path(__file__).parent / "results"
PUBLISHED = {"neural network, 100 labels": [25.81, None], "M2": [11.97, 1.71], "M1 + M2": [3.33, 0.14]}
KNOWN, TRAIN = 100, 50_000
REPEATS, WEIGHT = 50, 0.2
"""How often a pass meets each labelled image, and what it then counts beside one without a label."""
VALIDATION_DRAWS = 100


def images(folder: Path, name: str) -> tuple[Dataset, Tensor]:
    data = load(folder / f"{name}-images-idx3-ubyte.gz", binarize="dynamic")
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        return data, torch.from_numpy(np.frombuffer(file.read()[8:], dtype=np.uint8).astype(np.int64))


def chosen(named: Tensor, seed: int) -> Tensor:
    """Ten data of each class, at random."""
    order = torch.randperm(len(named), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[named[order] == k][: KNOWN // 10] for k in range(10)])


def taught(data: Dataset, known: Tensor, named: Tensor) -> Dataset:
    """All data without labels, and the known ones REPEATS times with theirs."""
    again = known.repeat(REPEATS)
    z = torch.cat([torch.zeros(len(data), 10), nn.functional.one_hot(named[again], 10).float()])
    weight = torch.cat([torch.ones(len(data)), torch.full((len(again),), WEIGHT)]).double()
    return replace(data.subset(torch.cat([torch.arange(len(data)), again])), known={"y": z}, weight=weight, labels=None)


def classifier(inputs: int) -> nn.Sequential:
    # with 100 labels dropout is worth a per cent
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(inputs, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, 10))


def model_for(data: Dataset) -> SemiSupervisedVAE:
    shape = tuple(data.x.shape[1:])
    pixels = len(shape) > 1
    return SemiSupervisedVAE(
        shape,
        latent=50 if pixels else 10,
        hidden=(500,),
        activation="relu",
        likelihood="bernoulli" if pixels else "gaussian",
        classifier=classifier(math.prod(shape)),
    )


@torch.no_grad()
def errors(model: SemiSupervisedVAE, test: Dataset, named: Tensor) -> dict[str, float]:
    """Of the classifier, and of the decoder by importance sampling on the first 1,000, in per cent."""
    model.eval()
    batches = list(test.frozen(0).batches(500, dtype=torch.float32))
    wrong = torch.cat([model.clusters(batch).argmax(-1) for batch in batches]) != named
    asked = [model.class_probabilities(batch, 10).argmax(-1) for batch in batches[:2]]
    decoder = torch.cat(asked) != named[:1000]
    return {"error": 100 * float(wrong.double().mean()), "decoder_error": 100 * float(decoder.double().mean())}


def learned(options: argparse.Namespace, train: Dataset, known: Tensor, named: Tensor, seed: int) -> SemiSupervisedVAE:
    # own modules begin as torch made them
    torch.manual_seed(seed)
    model, data = model_for(train), taught(train, known, named)
    objective = partial(supervised, alpha=options.alpha)
    learner = Gradient(
        partial(objective, teacher="labels"), epochs=options.first, batch_size=options.batch_size, lr=options.lr,
        precision=options.precision,
    )  # fmt: skip
    learner.fit(model, data, seed=seed)
    learner = replace(learner, objective=objective, epochs=options.epochs, schedule="cosine", fresh=False)
    learner.fit(model, data, seed=seed + 1000)
    return model


def alone(train: Dataset, known: Tensor, named: Tensor, test: Dataset, truth: Tensor, seed: int) -> dict[str, float]:
    """Errors of what learns from the labelled images and no others, in per cent."""
    grey, few, y = train.x[known].flatten(1), test.x.flatten(1), named[known]
    found = {}
    for name, rule in (
        ("nearest neighbour, 100 labels", KNeighborsClassifier(1)),
        ("logistic regression, 100 labels", LogisticRegression(max_iter=1000)),
    ):
        found[name] = 100 * float((rule.fit(grey, y).predict(few) != truth.numpy()).mean())
    torch.manual_seed(seed)
    network = classifier(grey.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.bernoulli(grey)), y).backward()
        optimizer.step()
    with torch.no_grad():
        guess = network.eval()(test.frozen(0).x.flatten(1).float()).argmax(-1)
    return found | {"M2's classifier, 100 labels": 100 * float((guess != truth).double().mean())}


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
    spread = float(values.std()) if len(values) > 1 else None
    return {"error": float(values.mean()), "error_sd": spread, "draws": draws}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["M2"], help='"M2", "M1 + M2" or both')
    parser.add_argument("--alpha", type=float, default=10.0, help="of each meeting with a labelled image")
    parser.add_argument("--first", type=int, default=1, help="passes in which only labels teach the classifier")
    parser.add_argument("--epochs", type=int, default=21, help="passes after them")
    parser.add_argument("--m1_epochs", type=int, default=15)
    parser.add_argument("--batch_size", type=int, default=55)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="medium")
    parser.add_argument("--validate", action="store_true", help="measure on validation images, and write nothing")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not here: name the folder of MNIST's idx files with --data")
    every, named = images(options.data, "train")
    train, named, rest = every.subset(slice(TRAIN)), named[:TRAIN], (every.subset(slice(TRAIN, None)), named[TRAIN:])
    test, truth = rest if options.validate else images(options.data, "t10k")
    results: dict[str, list[dict[str, Any]]] = {}
    seeds = [VALIDATION_DRAWS * options.validate + draw for draw in range(options.draws)]
    for seed in seeds:
        for name, error in alone(train, chosen(named, seed), named, test, truth, seed).items():
            results.setdefault(name, []).append({"draw": seed, "error": error})
    for name in options.models:
        pair = coded(options, train, test) if name != "M2" else (train, test)
        for seed in seeds:
            began = time.perf_counter()
            model = learned(options, pair[0], chosen(named, seed), named, seed)
            seconds = round(time.perf_counter() - began, 1)
            found = {"draw": seed, **errors(model, pair[1], truth), "seconds": seconds}
            print(name, found, flush=True)
            results.setdefault(name, []).append(found)
            if not options.validate:
                _write(options, results)
    for name, draws in results.items():
        print(f"{name}: {summary(draws)['error']:.2f} ± {summary(draws)['error_sd'] or math.nan:.2f} %", flush=True)


def _write(options: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> None:
    content = {
        "unit": "per cent of the 10,000 test images; mean and standard deviation over draws of the 100 labels",
        "published": PUBLISHED,
        "results": {name: summary(draws) for name, draws in results.items()},
        "options": {name: str(value) for name, value in vars(options).items()},
        "environment": environment(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "semi_supervised_mnist.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
