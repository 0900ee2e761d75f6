"""Rows of Table 1 of Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", on MNIST.

    python benchmarks/burda.py --row 1L-k50 --device cuda --compile
    python benchmarks/burda.py --row 2L-k50 --device cuda --batch_size 100
    python benchmarks/burda.py --row 1L-k1 --scale 0.001 --samples 100      # an answer in minutes, and named so

Protocol: dynamic binarization, drawn anew for each batch; 59,600 training images, the last 400 are left out; tanh
200-200 and 50 latents (two layers: 100 and 50 latents, with 100-100 between them); Glorot weights, output bias at the
logit of the training means; Adam with eps 1e-4 and batches of 20; 3^i passes at 1e-3 * 10^(-i/7) for i = 0..7, 3,280
in all; 5,000 importance samples on the 10,000 test images, binarized once; a unit is active when its posterior mean
varies by more than 0.01, over 500 training images (as the paper's code has it) and over the test images. Adam's beta_1
is 0.9, as in the paper; its code has 0.99.

--scale shortens every stage alike and --batch_size B takes batches of B with the learning rate times sqrt(B / 20), the
square-root rule for Adam (Malladi et al. 2022): either is part of the name of the result, benchmarks/results/burda_*.
A command that was cut off goes on where it was when it is run again (--state holds the fit).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from nll import RESULTS, fitted, measured, whole_numbers_of, written

from latentia.data import load
from latentia.learners import Gradient
from latentia.models import VAE, LadderVAE
from latentia.objectives import Objective, elbo, iwae

PASSES, RATE, BATCH, TRAINING = 3280, 1e-3, 20, 59_600


@dataclass
class Row:
    """A model and an objective, with the published NLL and active units where there are any."""

    layers: int
    objective: Objective
    published: float | None
    active: str | None

    def model(self) -> VAE:
        if self.layers == 1:
            return VAE((28, 28), latent=50, hidden=(200, 200))
        return LadderVAE((28, 28), latents=(100, 50), hidden=((200, 200), (100, 100)))


ROWS = {
    "1L-k1": Row(1, elbo, 86.76, "19"),
    "1L-k5": Row(1, partial(iwae, samples=5), 85.54, "22"),
    "1L-k50": Row(1, partial(iwae, samples=50), 84.78, "25"),
    "2L-k1": Row(2, elbo, 85.33, "16+5"),
    "2L-k50": Row(2, partial(iwae, samples=50), 82.90, "26+7"),
    "1L-dreg-k50": Row(1, partial(iwae, samples=50, gradient="dreg"), None, None),
    "2L-dreg-k50": Row(2, partial(iwae, samples=50, gradient="dreg"), None, None),
}


def main() -> None:
    options = _options()
    folder = Path(options.data)
    if not folder.is_dir():
        sys.exit(f"{folder} is not here: name the folder of MNIST's idx files with --data")
    row, name = ROWS[options.row], _name(options)
    images = load(folder / "train-images-idx3-ubyte.gz", binarize="dynamic")
    train = images.subset(slice(0, min(options.first or TRAINING, TRAINING)))
    test = load(folder / "t10k-images-idx3-ubyte.gz", schema=images.schema).subset(slice(0, options.test_images))
    torch.manual_seed(options.seed)
    learner = Gradient(
        row.objective,
        epochs=max(round(PASSES * options.scale), 1),
        batch_size=options.batch_size,
        lr=RATE * math.sqrt(options.batch_size / BATCH),
        schedule="stages",
        eps=1e-4,
        precision=options.precision,
        device=options.device,
        compile=options.compile,
    )
    model = row.model()
    fit = fitted(learner, model, train, Path(options.state) / f"{name}.safetensors", seed=options.seed)
    whole_numbers_of(options.device)
    found = measured(model, test, train, options.samples, options.seed, options.memory * 2**20)
    result = {
        "row": options.row,
        "published_nll": row.published,
        "published_active_units": row.active,
        "scale": options.scale,
        "epochs": learner.epochs,
        "batch_size": learner.batch_size,
        "lr": learner.lr,
        "training_images": len(train),
        "seed": options.seed,
        "compile": options.compile,
        "fit": fit,
        **found,
    }
    path = written(name, result, Path(options.out))
    published = f", published {row.published}" if row.published else ""
    units = "+".join(str(count) for count in found["active_units_500_training"].values())
    print(f"{name}: NLL {found['nll']:.2f} ± {found['nll_se']:.2f} nats{published}; {units} units active; {path}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=list(ROWS), required=True)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of the four idx files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="the step; on a GPU it then runs as CUDA graphs")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 3,280 passes")
    parser.add_argument("--batch_size", type=int, default=BATCH)
    parser.add_argument("--precision", default="highest", help="of matrix products in the fit: highest, high, medium")
    parser.add_argument("--first", type=int, default=None, help="only so many training images")
    parser.add_argument("--test_images", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=5000, help="importance samples")
    parser.add_argument("--memory", type=int, default=256, help="MiB that a chunk of samples may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", default="runs/burda", help="folder of the fits, from which a command goes on")
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


def _name(options: argparse.Namespace) -> str:
    """Whatever is not the protocol is said in the name."""
    said = [("scale", options.scale, 1.0), ("batch", options.batch_size, BATCH), ("first", options.first, None)]
    said += [("precision", options.precision, "highest"), ("seed", options.seed, 0)]
    said += [("test", options.test_images, 10_000), ("samples", options.samples, 5000)]
    return "_".join(["burda", options.row, *(f"{name}-{value}" for name, value, usual in said if value != usual)])


if __name__ == "__main__":
    main()
