"""The convolutional ladder on MNIST in the fixed binarization of Larochelle and Murray (2011).

    python benchmarks/conv_ladder.py --device cuda --compile
    python benchmarks/conv_ladder.py --epochs 1 --first 1000 --samples 20 --test_images 100    # named so

Protocol: 50,000 training and 10,000 validation images, whose bound chooses the epoch; NLL by 1,000 importance samples
on the 10,000 test images. Three layers of 32 maps, 4 residual blocks a layer and direction, 64 channels, half a nat
free for each layer and datum, as in the published ladder (github.com/addtt/ladder-vae-pytorch: -ELBO 82.14, NLL 79.24
for three layers), which has batch norm, where this one has residual normals (Vahdat and Kautz 2020) and no norm. The
result and its command go to benchmarks/results/conv_ladder*.json. A command that was cut off goes on where it was when
it is run again (--state holds the fit).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from nll import RESULTS, fitted, measured, whole_numbers_of, written
from scipy.io import loadmat

from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.models import ConvLadder
from latentia.objectives import elbo

PUBLISHED = 79.24


def main() -> None:
    options = _options()
    folder = Path(options.data)
    if not folder.is_dir():
        sys.exit(f"{folder} is not here: name the folder of the three .mat files with --data")
    train, validation, test = (_images(folder, part) for part in ("train", "valid", "test"))
    train, validation = _spread(train, options.first), _spread(validation, options.first)
    test = _spread(test, options.test_images)
    torch.manual_seed(options.seed)
    model = ConvLadder(
        (28, 28),
        latents=options.latents,
        scales=options.scales,
        channels=options.channels,
        blocks=options.blocks,
        dropout=options.dropout,
    )
    learner = Gradient(
        partial(elbo, free_bits=options.free_bits, free="latent"),
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        schedule="cosine",
        warmup=options.warmup,
        clip=options.clip,
        patience=None,
        precision=options.precision,
        device=options.device,
        compile=options.compile,
    )
    name = _name(options)
    state = Path(options.state) / f"{name}.safetensors"
    fit = fitted(learner, model, train, state, validation=validation, seed=options.seed)
    whole_numbers_of(options.device)
    found = measured(model, test, train, options.samples, options.seed, options.memory * 2**20)
    settings = {name: value for name, value in vars(options).items() if name not in ("data", "out", "state")}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"published_nll": PUBLISHED, **settings, "parameters": parameters, "fit": fit, **found}
    path = written(name, result, Path(options.out))
    print(f"{name}: NLL {found['nll']:.2f} ± {found['nll_se']:.2f} nats, published {PUBLISHED}; {path}")


def _images(folder: Path, part: str) -> Dataset:
    x = loadmat(folder / f"binarized_mnist_{part}.mat")["X"].reshape(-1, 28, 28)
    return load(x, kind="image", values="binary")


def _spread(data: Dataset, count: int) -> Dataset:
    """So many of the data, from the whole of them: the files have like digits together."""
    return data.subset(torch.linspace(0, len(data) - 1, min(count, len(data)), dtype=torch.float64).round().long())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/binarized_mnist", help="folder of the three .mat files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="the step; on a GPU it then runs as CUDA graphs")
    parser.add_argument("--latents", type=int, nargs="+", default=[32, 32, 32])
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 2, 2])
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--free_bits", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--clip", type=float, default=100.0)
    parser.add_argument("--precision", default="high", help="of matrix products in the fit: highest, high, medium")
    parser.add_argument("--first", type=int, default=50_000, help="only so many training images, from the whole file")
    parser.add_argument("--test_images", type=int, default=10_000, help="only so many, from the whole file")
    parser.add_argument("--samples", type=int, default=1000, help="importance samples")
    parser.add_argument("--memory", type=int, default=1024, help="MiB that a chunk of samples may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", default="runs/conv_ladder", help="folder of the fits, from which a command goes on")
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


def _name(options: argparse.Namespace) -> str:
    """Whatever shortens the protocol, and the seed, is said in the name; the file has every setting."""
    said = [("epochs", options.epochs, 200), ("first", options.first, 50_000), ("seed", options.seed, 0)]
    said += [("layers", len(options.latents), 3), ("channels", options.channels, 64), ("blocks", options.blocks, 4)]
    said += [("test", options.test_images, 10_000), ("samples", options.samples, 1000)]
    return "_".join(["conv_ladder", *(f"{name}-{value}" for name, value, usual in said if value != usual)])


if __name__ == "__main__":
    main()
