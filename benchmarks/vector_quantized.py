"""Vector quantization (VQ) and finite scalar quantization (FSQ) on MNIST and on Frey faces: which codes are used, and
how long is an image in two stages?

    python benchmarks/vector_quantized.py
    python benchmarks/vector_quantized.py --rows "faces, fsq" --epochs 60

MNIST: images of the fixed binarization of Larochelle and Murray (2011), and test images of it. Frey faces:
1,965 grey images of 28 x 20, shuffled once, the last 200 held out; to the levels 0..255 uniform noise is added, so that
the density in levels is, in bits, a bound on the length of the image itself (Theis et al. 2016).

Each row is an autoencoder with 64 codes in 16 places, of one hidden layer (--network residual: convolutions, a code for
each cell of the smallest grid), learned with a prior beside it; then the prior alone. The bound is of test images, in
bits a dimension: what x costs given its codes, and what the codes cost. Usage is of the codes that test images have and
that training images have, with the perplexity of their shares; revived are the codes that were dead once, and began
anew. Draws go into one picture, a band of images a row, beside the figures in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat

from latentia.data import Dataset, load
from latentia.data.files import atomic_write
from latentia.data.grids import sheet
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import VectorQuantizedVAE
from latentia.report.codes import perplexity
from latentia.runs.directory import environment
from latentia.tasks import generate

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1].parent / "shared" / "data"
QUANTIZERS: dict[str, dict[str, Any]] = {
    "vq": {"quantizer": "vq", "codes": 64, "width": 8},
    "fsq": {"quantizer": "fsq", "levels": (4, 4, 4)},
}
ROWS = [f"{images}, {quantizer}" for images in ("digits", "faces") for quantizer in QUANTIZERS]
HELD_OUT = 200


def digits(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    folder = options.data / "binarized_mnist"
    parts = []
    for name, count in (("train", options.digits), ("test", options.test)):
        # the file holds each set under the name X
        x = loadmat(folder / f"binarized_mnist_{name}.mat")["X"]
        x = x[np.linspace(0, len(x) - 1, min(count, len(x))).astype(int)]  # like digits are together in the test file
        parts.append(torch.from_numpy(x.astype(np.float32)).reshape(-1, 28, 28))
    return load(parts[0], kind="image"), load(parts[1], kind="image")


def faces(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    x = load(options.data / "frey_faces" / "freyfaces_1965x560_uint8.npy").x.numpy().reshape(-1, 28, 20)
    random = np.random.default_rng(0)
    x = (x + random.random(x.shape))[random.permutation(len(x))].astype(np.float32)
    train = load(torch.from_numpy(x[:-HELD_OUT]), kind="image", values="real", scale="standard")
    return train, load(torch.from_numpy(x[-HELD_OUT:]), schema=train.schema)


def used(model: VectorQuantizedVAE, data: Dataset) -> tuple[int, float]:
    """How many codes the data have, and the perplexity of their shares."""
    with torch.no_grad():
        found = [model.codes(batch).flatten() for batch in data.batches(500, dtype=torch.float32)]
    count = torch.bincount(torch.cat(found), minlength=model.codebook.size)
    return int((count > 0).sum()), perplexity(count)


def measure(row: str, options: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """The figures of a row, and sixteen draws (16, height, width) between 0 and 1."""
    images, quantizer = row.split(", ")
    train, test = (digits if images == "digits" else faces)(options)
    model = VectorQuantizedVAE(
        train.schema.event_shape,
        likelihood="bernoulli" if images == "digits" else "gaussian",
        network=options.network,
        hidden=options.hidden,
        places=16,
        prior_hidden=options.prior_hidden,
        **QUANTIZERS[quantizer],
    )
    began = time.process_time()
    how: dict[str, Any] = {"lr": options.lr, "batch_size": 50, "schedule": "cosine", "progress": False}
    epochs = max(1, round(options.epochs * options.digits / len(train)))
    Gradient(epochs=epochs, **how).fit(model, train, seed=options.seed)
    model.freeze_codes()
    Gradient(epochs=max(1, epochs // 2), fresh=False, **how).fit(model, train, seed=options.seed)
    seconds = time.process_time() - began
    found = evaluate(model, test, importance_samples=1, seed=options.seed)
    dimension = math.prod(train.schema.event_shape)
    bits = dimension * math.log(2)
    on_test, on_train = used(model, test), used(model, train)
    drawn, _ = generate(model, 16, seed=options.seed, mean=True)
    picture = np.asarray(train.schema.decode(drawn.x)).reshape(16, *train.schema.event_shape)
    return {
        "bits_per_dim": -found.elbo / bits,
        # one sample says log p(x) of what is a single point
        "bits_per_dim_se": found.log_marginal_se / bits,
        "bits_per_dim_of_codes": found.kl / bits,
        "codes": model.codebook.size,
        "places": model.places,
        "used": on_test[0],
        "used_in_training": on_train[0],
        "perplexity": on_test[1],
        "revived": int(getattr(model.codebook, "revived", 0)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": epochs,
        "train": len(train),
        "test": len(test),
        "seconds": seconds,
    }, (picture / (1.0 if images == "digits" else 256.0)).clip(0, 1)


def table(rows: dict[str, Any]) -> str:
    lines = ["| | bits/dim | of the codes | used | perplexity | revived | CPU s |", "|---|--:|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {name} | {row['bits_per_dim']:.3f} ± {row['bits_per_dim_se']:.3f} | {row['bits_per_dim_of_codes']:.3f} | "
        f"{row['used']} of {row['codes']} | {row['perplexity']:.1f} | {row['revived']} | {row['seconds']:.0f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def drawn(pictures: list[np.ndarray], path: Path) -> None:
    """One picture, a band of sixteen images for each row of the table, on a ground of the largest size."""
    height, width = (max(picture.shape[i] for picture in pictures) for i in (1, 2))
    bands = [
        np.pad(one, ((0, 0), (0, height - one.shape[1]), (0, width - one.shape[2])), constant_values=1.0)
        for one in pictures
    ]
    atomic_write(path, sheet(np.stack(bands), 1.0))


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=str(ROWS))
    parser.add_argument("--epochs", type=int, default=10, help="over the digits; as many steps over the faces")
    parser.add_argument("--digits", type=int, default=10_000, help="to learn from")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--network", choices=("mlp", "residual"), default="mlp")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256])
    parser.add_argument("--prior_hidden", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "vector_quantized.json")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(1)
    rows, pictures = {}, []
    for name in options.rows:
        rows[name], picture = measure(name, options)
        pictures.append(picture)
        print(name, rows[name], flush=True)
        content = {
            "unit": "bits a dimension of the two-stage bound on test images; grey levels with uniform noise for faces",
            "rows": rows,
            "options": {key: str(value) for key, value in vars(options).items() if key not in ("data", "out", "rows")},
            "environment": environment(),
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n")
        drawn(pictures, options.out.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
