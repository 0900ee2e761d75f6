"""Mixtures of Bernoullis on MNIST in its fixed binarization: exact test NLL with 50 and with 500 components.

    python benchmarks/bernoulli_mixture.py --data ../shared/data/binarized_mnist

Protocol: 50,000 training images; EM in float32 for a fixed number of steps from several seeds and with several
weights of the Beta prior; the 10,000 validation images choose one fit for each number of components, and only that
one sees the 10,000 test images. log p(x) is exact, in float64. Result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from scipy.io import loadmat

from latentia.data import Dataset, load
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import MixtureOfBernoullis
from latentia.runs.directory import environment

RESULTS = Path(__file__).parent / "results"


def part(folder: Path, name: str) -> Dataset:
    return load(loadmat(folder / f"binarized_mnist_{name}.mat")["X"].reshape(-1, 28, 28), kind="image")


def nll(model: MixtureOfBernoullis, data: Dataset) -> float:
    """Nats per image, exact."""
    return -evaluate(model, data).log_marginal


def fitted(
    train: Dataset, components: int, smoothing: float, seed: int, steps: int
) -> tuple[MixtureOfBernoullis, float]:
    model = MixtureOfBernoullis((28, 28), components, smoothing)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixed number of steps is the protocol
        EM(steps=steps, tol=0).fit(model, train, seed=seed)
    return model.double(), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/binarized_mnist"))
    parser.add_argument("--components", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--smoothing", type=float, nargs="+", default=[0.2, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not here: name the folder of the three .mat files with --data")
    train, valid, test = (part(options.data, name) for name in ("train", "valid", "test"))
    results = []
    for components in options.components:
        tried, best = [], None
        for smoothing in options.smoothing:
            for seed in options.seeds:
                model, seconds = fitted(train, components, smoothing, seed, options.steps)
                found = {
                    "smoothing": smoothing,
                    "seed": seed,
                    "seconds": round(seconds, 1),
                    "valid_nll": nll(model, valid),
                }
                print(components, found, flush=True)
                tried.append(found)
                if best is None or found["valid_nll"] < best[0]["valid_nll"]:
                    best = found, model
        assert best is not None
        chosen, model = best
        chosen = {"components": components, **chosen, "train_nll": nll(model, train), "test_nll": nll(model, test)}
        print(f"{components} components: test NLL {chosen['test_nll']:.3f} nats", flush=True)
        results.append({**chosen, "steps": options.steps, "tried": tried})
    RESULTS.mkdir(exist_ok=True)
    content = {
        "unit": "nats per image",
        "threads": torch.get_num_threads(),
        "results": results,
        "environment": environment(),
    }
    (RESULTS / "bernoulli_mixture.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
