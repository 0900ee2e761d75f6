"""Posterior collapse and its remedies, side by side: a PixelVAE on MNIST, whose decoder can do without its latents.

    python benchmarks/collapse.py                                  14 x 14 images, 3,000 of them, on one core
    python benchmarks/collapse.py --size 28 --images 50000 --epochs 100 --device cuda

Data: MNIST, at --size 14 shrunk by the mean of each 2 x 2 pixels, binarized dynamically (anew at each step while
learning, once for validation and test). Every row is the same model, seed, data and number of epochs, the pretraining
among these, and keeps the epoch with the best validation value of its own objective; one row has another decoder, and
says so. What is reported is of test images that no choice was made by: the NLL by importance sampling, with the
difference to the plain ELBO and its standard error image by image; the KL; the mutual information under the aggregate
posterior; active units; and the CPU seconds of fitting. A row is saved as soon as it is done; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import avg_pool2d

from latentia.data import Dataset, load
from latentia.evaluate import evaluate, standard_error
from latentia.inference.refinement import refined, semi_amortized
from latentia.learners import Gradient
from latentia.model import LatentVariableModel
from latentia.models import PixelVAE
from latentia.objectives import elbo

RESULTS = Path(__file__).parent / "results"
PLAIN = "plain ELBO"
LATENT = 16


class Row(NamedTuple):
    """What differs from the plain ELBO: options of the objective, of the learner, and of the model."""

    objective: Callable[..., Any] = elbo
    learner: dict[str, Any] = {}  # noqa: RUF012  # never changed
    model: dict[str, Any] = {}  # noqa: RUF012
    measured: Callable[[LatentVariableModel], LatentVariableModel] = lambda model: model


ROWS = {
    PLAIN: Row(),
    "linear annealing": Row(learner={"anneal": "linear", "anneal_share": 0.5}),
    "cyclical annealing": Row(learner={"anneal": "cyclical", "cycles": 4}),
    "beta 0.5": Row(partial(elbo, beta=0.5)),
    "free bits, 0.25 a dimension": Row(partial(elbo, free_bits=0.25)),
    "free bits, 4 in total": Row(partial(elbo, free_bits=4.0, free="total")),
    "pretraining, reset, annealing, free bits 0.25": Row(
        partial(elbo, free_bits=0.25), {"pretrain": 5, "anneal": "linear", "anneal_share": 0.5}
    ),
    "decoder that sees 3 x 3 pixels": Row(model={"layers": 1, "kernel": 3}),
    "aggressive": Row(learner={"aggressive": True}),
    "aggressive, linear annealing": Row(learner={"aggressive": True, "anneal": "linear", "anneal_share": 0.5}),
    "semi-amortised, 3 steps": Row(
        partial(semi_amortized, steps=3, lr=0.3), measured=partial(refined, steps=20, lr=0.1)
    ),
}


def images(path: Path, size: int, begin: int, count: int) -> Dataset:
    """So many images of a file, `size` x `size`, dynamically binarized."""
    grey = load(path).subset(slice(begin, begin + count)).x.float()
    if size == 14:
        grey = avg_pool2d(grey.unsqueeze(1), 2).squeeze(1)
    return load(grey.round().byte().numpy(), binarize="dynamic")


def measure(row: Row, data: tuple[Dataset, Dataset, Dataset], options: argparse.Namespace) -> dict[str, Any]:
    """Fit and evaluate one row."""
    train, validation, test = data
    model = PixelVAE(train.schema.event_shape, latent=LATENT, **row.model)
    learner = Gradient(
        row.objective,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        patience=None,
        device=options.device,
        progress=False,
        **row.learner,
    )
    began = time.process_time()
    history = learner.fit(model, train, validation=validation, seed=options.seed)
    seconds = time.process_time() - began
    found = evaluate(row.measured(model), test, importance_samples=options.importance_samples, seed=options.seed)
    assert found.each is not None
    return {
        "nll": -found.log_marginal,
        "nll_se": found.log_marginal_se,
        "elbo": found.elbo,
        "kl": found.kl,
        "mutual_information": found.mutual_information,
        "active_units": found.active_units,
        "effective_sample_size": found.effective_sample_size,
        "seconds": seconds,
        "inference_steps": sum(record.get("inference_steps", 0) for record in history.records),
        "aggressive_epochs": sum("inference_steps" in record for record in history.records),
        "course": [[record["bound"], record["kl"], record["validation_bound"]] for record in history.records],
        "each": found.each[:, 0].tolist(),
    }


def compared(rows: dict[str, Any]) -> None:
    """The difference of each row's NLL to the plain ELBO's, image by image."""
    plain = torch.tensor(rows[PLAIN]["each"], dtype=torch.float64)
    for row in rows.values():
        each = torch.tensor(row["each"], dtype=torch.float64)
        one, other = (torch.stack([part, torch.ones_like(part)], 1) for part in (each, plain))
        row["difference"], row["difference_se"] = float((plain - each).mean()), standard_error(one, other)


def ceiling(rows: dict[str, Any]) -> str:
    """What the mutual information cannot exceed, being estimated on so many images."""
    return f"at most {math.log(len(rows[PLAIN]['each'])):.2f}"


def table(rows: dict[str, Any]) -> str:
    lines = [
        f"| | NLL | less the plain ELBO's | KL | mutual information, {ceiling(rows)} | active units | CPU seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {row['nll']:.2f} ± {row['nll_se']:.2f} | {row['difference']:+.2f} ± {row['difference_se']:.2f} | "
        f"{row['kl']:.2f} | {row['mutual_information']:.2f} | {row['active_units']}/{LATENT} | {row['seconds']:.0f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def plot(rows: dict[str, Any], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "latentia"
    import matplotlib.pyplot as plt

    names, place = list(rows), list(range(len(rows)))
    figure, axes = plt.subplots(1, 4, figsize=(13, 0.9 + 0.36 * len(names)), sharey=True)
    column: Callable[[str], list[float]] = lambda key: [row[key] for row in rows.values()]  # noqa: E731
    axes[0].errorbar(column("difference"), place, xerr=column("difference_se"), fmt="o", color="C0")
    axes[0].axvline(0, color="0.6", linewidth=1)
    axes[0].set(xlabel="NLL less the plain ELBO's, nats", yticks=place, yticklabels=names)
    axes[1].barh([p - 0.2 for p in place], column("kl"), 0.36, label="KL", color="C0")
    axes[1].barh(
        [p + 0.2 for p in place],
        column("mutual_information"),
        0.36,
        label=f"mutual information, {ceiling(rows)}",
        color="C1",
    )
    axes[1].set(xlabel="nats")
    axes[1].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes[2].barh(place, column("active_units"), color="C2")
    axes[2].set(xlabel=f"active units of {LATENT}", xlim=(0, LATENT))
    axes[3].barh(place, column("seconds"), color="0.5")
    axes[3].set(xlabel="CPU seconds of fitting")
    for axis in axes:
        axis.grid(True, axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of MNIST's idx files")
    parser.add_argument("--size", type=int, choices=(14, 28), default=14, help="rows and columns of an image")
    parser.add_argument("--images", type=int, default=3000, help="to learn from")
    parser.add_argument("--validation", type=int, default=500, help="the images after those")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--importance_samples", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="some of the rows, by name")
    parser.add_argument("--out", default=str(RESULTS / "collapse"), help="path of the .json and .svg, without these")
    options = parser.parse_args(arguments)
    folder, out = Path(options.data), Path(options.out)
    if not folder.is_dir():
        sys.exit(f"{folder} is not here: name the folder of MNIST's idx files with --data")
    first, held = folder / "train-images-idx3-ubyte.gz", folder / "t10k-images-idx3-ubyte.gz"
    data = (
        images(first, options.size, 0, options.images),
        images(first, options.size, options.images, options.validation),
        images(held, options.size, 0, options.test),
    )
    protocol = {name: value for name, value in vars(options).items() if name not in ("data", "rows", "out")}
    result: dict[str, Any] = {"protocol": protocol, "torch": torch.__version__, "rows": {}}
    if out.with_suffix(".json").exists():
        before = json.loads(out.with_suffix(".json").read_text("utf-8"))
        result = before if before["protocol"] == protocol else result
    rows = result["rows"]
    for name in [PLAIN, *(name for name in options.rows if name != PLAIN)]:
        if name not in rows:
            rows[name] = measure(ROWS[name], data, options)
            print(f"{name}: NLL {rows[name]['nll']:.2f}, KL {rows[name]['kl']:.2f}", flush=True)
        rows = result["rows"] = {name: rows[name] for name in ROWS if name in rows}
        compared(rows)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(result) + "\n", "utf-8")
    words = f"{options.images:,} images of {options.size} x {options.size}, {options.epochs} epochs"
    plot(rows, out.with_suffix(".svg"), f"PixelVAE on MNIST, dynamic binarization, {words}")
    print(table(rows))


if __name__ == "__main__":
    main()
