"""Clusters of MNIST's digits that nobody labelled: test accuracy of a clustering VAE, k-means and PCA + mixture.

    python benchmarks/cluster_mnist.py --data ../shared/data/mnist

Protocol: every model has ten clusters and learns from the training images alone. The clustering VAE is fitted from
several seeds to 55,000 of them, dynamically binarized, and the bound of the other 5,000 chooses one; k-means (on grey
levels) and the mixture (full covariances, on 20 principal components) are chosen among their restarts by the likelihood
of the training data. Labels are used once, at the end: the share of the 10,000 test images whose class is the one that
their cluster is given, clusters and classes matched one to one (Hungarian method). Result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.data import Dataset, load
from latentia.learners import EM, Gradient
from latentia.model import LatentVariableModel
from latentia.models import ClusteringVAE, GaussianMixture, KMeans
from latentia.runs.directory import environment
from latentia.tasks.agreement import one_to_one, v_measure
from latentia.tasks.cluster import classes, cluster

RESULTS = Path(__file__).parent / "results"
PUBLISHED = {"VaDE, Jiang et al. (2017), 70,000 images, best of its runs": 0.9446}


def part(folder: Path, name: str, **options: Any) -> Dataset:
    """Images with their labels, which no model sees."""
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read()[8:], dtype=np.uint8)
    return load(folder / f"{name}-images-idx3-ubyte.gz", labels=labels, **options)


def rows(data: Dataset, values: Tensor) -> Dataset:
    """The same data as a table."""
    return replace(load(values.double(), kind="table"), labels=data.labels)


def principal(train: Tensor, test: Tensor, count: int) -> tuple[Tensor, Tensor]:
    center = train.mean(0)
    _, vectors = torch.linalg.eigh((train - center).T @ (train - center))
    axes = vectors[:, -count:]
    return (train - center) @ axes, (test - center) @ axes


def scored(model: LatentVariableModel, test: Dataset) -> dict[str, float]:
    found, named = cluster(model, test, batch_size=1000), classes(test)
    return {"test_accuracy": one_to_one(found, named), "test_nmi": v_measure(found, named)}


def shallow(options: argparse.Namespace) -> list[dict[str, Any]]:
    train, test = (part(options.data, name) for name in ("train", "t10k"))
    grey, grey_test = (data.x.flatten(1).double() / 255 for data in (train, test))
    few, few_test = principal(grey, grey_test, 20)
    results = []
    for name, model, learner, x, x_test in (
        ("k-means", KMeans(784, 10), EM(hard=True, steps=100, restarts=options.restarts), grey, grey_test),
        (
            "PCA-20 + mixture",
            GaussianMixture(20, 10),
            EM(steps=200, tol=1e-4, restarts=options.restarts),
            few,
            few_test,
        ),
    ):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # grey MNIST has pixels that never vary
            learner.fit(model.double(), rows(train, x))
        found = {"model": name, "restarts": options.restarts, **scored(model, rows(test, x_test))}
        results.append({**found, "seconds": round(time.perf_counter() - began, 1)})
        print(results[-1], flush=True)
    return results


def fitted(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: its validation bound, and, for whoever chooses by that, its test accuracy."""
    torch.set_num_threads(1 if options.jobs > 1 else torch.get_num_threads())
    train, test = (part(options.data, name, binarize="dynamic") for name in ("train", "t10k"))
    fit, validation = train.split(1 / 12, seed=0)
    model = ClusteringVAE((28, 28), hidden=options.hidden, covariance=options.covariance, pretrain=options.pretrain)
    learner = Gradient(
        epochs=options.epochs, batch_size=256, lr=options.lr, schedule="cosine", precision=options.precision
    )
    began = time.perf_counter()
    history = learner.fit(model, fit, validation=validation, seed=seed, callbacks=[partial(_say, seed)])
    bounds = [record["validation_bound"] for record in history.records]
    found = {"seed": seed, "validation_bound": max(b for b in bounds if b is not None)}
    found |= {**scored(model, test), "weights": model.weights.tolist()}
    return found | {"epochs": len(bounds), "seconds": round(time.perf_counter() - began, 1)}


def _say(seed: int, record: Any) -> None:
    if record["epoch"] % 5 == 0:
        print(f"  seed {seed}, epoch {record['epoch']}: validation bound {record['validation_bound']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--hidden", type=int, nargs="+", default=[500, 500])
    parser.add_argument("--covariance", default="full")
    parser.add_argument("--pretrain", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="medium")
    parser.add_argument("--jobs", type=int, default=2, help="seeds learned at once, each on one core")
    parser.add_argument("--restarts", type=int, default=3, help="of k-means and the mixture")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not here: name the folder of MNIST's idx files with --data")
    RESULTS.mkdir(exist_ok=True)
    tried: list[dict[str, Any]] = []
    others = shallow(options)
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for found in pool.map(partial(fitted, options), options.seeds):
            tried.append(found)
            print(found, flush=True)
            # a long run that is stopped leaves what it has
            _write(options, tried, others)


def _write(options: argparse.Namespace, tried: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    chosen = max(tried, key=lambda found: found["validation_bound"]) if tried else None
    content = {
        "unit": "share of the 10,000 test images, clusters matched to classes one to one",
        "published": PUBLISHED,
        "chosen_by_validation_bound": chosen,
        "tried": tried,
        "others": others,
        "options": {name: str(value) for name, value in vars(options).items()},
        "environment": environment(),
    }
    (RESULTS / "cluster_mnist.json").write_text(json.dumps(content, indent=1) + "\n")
    for found in others:
        print(f"{found['model']:20s} {found['test_accuracy']:.1%}")
    if chosen is not None and others:
        print(f"{'clustering VAE':20s} {chosen['test_accuracy']:.1%}  (seed {chosen['seed']}, by the validation bound)")


if __name__ == "__main__":
    main()
