"""What half the pixels cost: a missing-data VAE on MNIST with holes, and the same model on complete data.

    python benchmarks/missing_mnist.py --data ../shared/data/mnist

Protocol: of each training image every pixel is hidden with probability 1/2, once and for all (missing completely at
random). Both models have the same network, the same steps and seeds, and dynamic binarization. They climb the ELBO
first, while the weight of its KL rises from 0 to 1, then the importance-weighted bound: without that start the model of
halves leaves latents unused that the data could pay for, and never takes them up again. Both are judged on COMPLETE
test images, by importance-sampled log p(x). An encoder that has only seen halves proposes badly for whole images, so
the proposals of both are refined for each image. Result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from latentia.data import Dataset, load
from latentia.distributions.heads import PosteriorHead
from latentia.evaluate import log_marginal
from latentia.inference.refinement import refined
from latentia.learners import Gradient, History
from latentia.models import MissingDataVAE
from latentia.networks import MLP
from latentia.objectives import elbo, iwae
from latentia.runs.directory import environment

RESULTS = Path(__file__).parent / "results"


def holed(data: Dataset, share: float, seed: int) -> Dataset:
    """The data with each pixel hidden with probability `share`."""
    if not share:
        return data
    mask = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(seed)) >= share
    return replace(data, x=torch.where(mask, data.x, 0.0), mask=mask)


def measured(options: argparse.Namespace, share: float, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1 if options.jobs > 1 else torch.get_num_threads())
    train = load(options.data / "train-images-idx3-ubyte.gz", binarize="dynamic")
    test = load(options.data / "t10k-images-idx3-ubyte.gz", schema=train.schema).subset(slice(0, options.first))
    # wider than the decoder: it runs once a datum, not once a sample, and many patterns of holes are hard to read
    numbers = PosteriorHead(options.posterior, options.latent).inputs
    encoder = MLP([28 * 28, *options.encoder, numbers], options.activation)
    network = {"latent": options.latent, "hidden": options.hidden, "activation": options.activation}
    model = MissingDataVAE((28, 28), encoder=encoder, posterior=options.posterior, **network)
    began = time.perf_counter()
    history = _fit(model, options, holed(train, share, seed), seed)
    seconds = time.perf_counter() - began
    found = log_marginal(refined(model, samples=4), test, importance_samples=options.importance_samples)
    result = {
        "missing": share,
        "seed": seed,
        "test_log_p": float(found.value.mean()),
        "test_log_p_se": float(found.value.std() / len(found.value) ** 0.5),
        "test_elbo": float(found.elbo.mean()),
        "effective_sample_size": float(found.effective_sample_size.mean()),
        "training_bound_of_what_is_observed": history.records[-1]["bound"],
        "fit_seconds": round(seconds, 1),
    }
    return result | {"hole_error": _error(model, test, seed), "each": found.value}


def _fit(model: MissingDataVAE, options: argparse.Namespace, data: Dataset, seed: int) -> History:
    def say(record: Any) -> None:
        share = "half" if data.mask is not None else "complete"
        print(f"  {share}, epoch {record['epoch']}: {record['bound']:.2f}, {record['seconds']:.0f} s", flush=True)

    common: dict[str, Any] = {
        "batch_size": 100,
        "lr": options.lr,
        "precision": "medium",
        "clip": 10.0,
        "progress": False,
    }
    if options.rising:
        rise = Gradient(elbo, epochs=options.rising, anneal="linear", anneal_share=1.0, **common)
        rise.fit(model, data, seed=seed, callbacks=[say])
    climb = Gradient(
        partial(iwae, samples=options.samples, gradient=options.gradient),
        epochs=options.epochs,
        schedule="cosine",
        warmup=300,
        fresh=not options.rising,
        **common,
    )
    return climb.fit(model, data, seed=seed + 1, callbacks=[say])


@torch.no_grad()
def _error(model: MissingDataVAE, test: Dataset, seed: int) -> float:
    """The share of hidden pixels of test images that the likelier value gets wrong, half of all being hidden."""
    hidden = holed(test.frozen(0), 0.5, seed + 1).subset(slice(0, 200))
    filled = torch.cat([model.impute(batch, 200) for batch in hidden.batches(20, dtype=torch.float32)])
    asked = ~hidden.batch().observed
    truth = test.frozen(0).x[:200]
    return float(((filled > 0.5).to(truth) != truth)[asked].double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--latent", type=int, default=50)
    parser.add_argument("--encoder", type=int, nargs="+", default=[600, 600], help="widths of its hidden layers")
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 200], help="the decoder's, backwards")
    parser.add_argument("--posterior", default="full", help="diagonal or full covariance")
    parser.add_argument("--activation", default="gelu")
    parser.add_argument("--rising", type=int, default=30, help="epochs of the ELBO, the weight of the KL rising")
    parser.add_argument("--samples", type=int, default=10, help="K of the bound that is climbed then")
    parser.add_argument("--gradient", default="dreg", choices=["pathwise", "dreg"], help="of the encoder in that bound")
    parser.add_argument("--epochs", type=int, default=80, help="of that bound")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--first", type=int, default=1000, help="test images")
    parser.add_argument("--importance_samples", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2, help="models learned at once, each on one core")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not here: name the folder of MNIST's idx files with --data")
    results = []
    for seed in options.seeds:
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            complete, half = pool.map(partial(measured, options, seed=seed), (0.0, 0.5))
        gap = complete.pop("each") - half.pop("each")
        loss = {"seed": seed, "loss": float(gap.mean()), "loss_se": float(gap.std() / len(gap) ** 0.5)}
        print(complete, half, loss, sep="\n", flush=True)
        results.append({"complete": complete, "half_missing": half, **loss})
    content = {
        "unit": "nats per complete test image",
        "results": results,
        "options": {name: str(value) for name, value in vars(options).items()},
        "environment": environment(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "missing_mnist.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
