"""MNIST by discrete latents: every estimator at equal steps and at equal time, measured by hard draws.

    python benchmarks/discrete_mnist.py --net nonlinear --estimator rloo --minutes 15      # a row
    python benchmarks/discrete_mnist.py --net nonlinear --variances                        # all on one fitted model
    python benchmarks/discrete_mnist.py --table

Nets: 200 bits, linear (784-200-784) or nonlinear (784-200-200-200-200-784, leaky ReLU); 20 values of 10 with the
nonlinear net's layers. Protocol: dynamic binarization, 60,000 training images, the 10,000 test images binarized once,
batches of 100, Adam at 1e-3 (with --falling to 0 along a cosine), a learned prior. Each gradient has 4 evaluations of
the decoder a datum (rebar 3, by one draw), so a step of each costs nearly the same.

Minutes are of processor time of one thread, which other work on the machine does not take from; fitting alone, not the
measuring in between. "At equal steps" is the bound at the last pass that all estimators of a net reached. All bounds
are of hard draws with the discrete KL: -ELBO by 1 draw, and the bound by 100 draws, of test images. The gradient's
variance is that of the encoder's entries, summed, for a batch of 50 training images. Precision of products is "medium"
(bf16 where there are units for it) unless --precision says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latentia import gradients
from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.models import DiscreteVAE
from latentia.objectives import elbo, iwae
from latentia.runs.directory import environment

RESULTS = Path(__file__).parent / "results"
DRAWS = 4
LOOKS = (1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400, 600, 800)
NETS: dict[str, dict[str, Any]] = {
    "linear": {"latents": (200,), "hidden": ((),)},
    "nonlinear": {"latents": (200,), "hidden": ((200, 200),)},
    "categorical": {"latents": (20,), "values": 10, "hidden": ((200, 200),)},
}
ESTIMATORS: dict[str, Any] = {
    "score": lambda: gradients.score_function(),
    "running_mean": lambda: gradients.score_function("mean"),
    "nvil": lambda: gradients.score_function("network"),
    "rloo": lambda: gradients.rloo,
    "disarm": lambda: gradients.disarm,
    "rebar": lambda: gradients.Rebar(),
    "straight_through": lambda: gradients.straight_through,
    "reinmax": lambda: gradients.reinmax,
    "gumbel_softmax": lambda: gradients.gumbel_softmax(1.0),
    "hard_gumbel_softmax": lambda: gradients.gumbel_softmax(1.0, hard=True),
    "vimco": lambda: gradients.vimco,
}
COOL = 0.5
PUBLISHED = {
    "Jang et al. (2017), table 1, -ELBO on test images, may be of relaxed draws": {
        "bits": {"score": 112.2, "straight_through": 116.0, "gumbel_softmax": 105.0, "hard_gumbel_softmax": 111.5},
        "values": {"score": 110.6, "straight_through": 110.9, "gumbel_softmax": 101.5, "hard_gumbel_softmax": 107.8},
    },
    "Grathwohl et al. (2018), validation": {
        "linear": {"rebar": 114.32, "relax": 113.62}, "nonlinear": {"rebar": 111.12, "relax": 119.19}
    },
    "Grathwohl et al. (2018), best training bound of nets that overfit": {
        "nonlinear": {"rebar": 81.01, "relax": 78.13}
    },
    "Dong et al. (2020), training": {
        "linear": {"rloo": 116.6, "disarm": 116.3}, "nonlinear": {"rloo": 102.5, "disarm": 102.6}
    },
}  # fmt: skip


class Over(Exception):
    """The minutes are over."""


@torch.no_grad()
def bound(model: DiscreteVAE, data: Dataset, draws: int, size: int = 200) -> list[float]:
    """Minus the mean bound by hard draws, and its standard error: the ELBO by one draw, or that of several."""
    torch.manual_seed(0)
    objective = elbo if draws == 1 else partial(iwae, samples=draws)
    values = torch.cat([objective(model, batch).value.double() for batch in data.batches(size)])
    return [-float(values.mean()), float(values.std() / len(values) ** 0.5)]


class Course:
    """What is measured of a fit as it goes, and when it is over."""

    def __init__(self, model: DiscreteVAE, objective: Any, train: Dataset, test: Dataset, minutes: float):
        self.model, self.objective, self.train, self.test = model, objective, train, test
        self.left, self.looks, self.spent = 60 * minutes, [], 0.0
        self.began = time.process_time()

    def __call__(self, record: Any) -> None:
        self.spent += time.process_time() - self.began
        over = self.spent >= self.left
        if record["epoch"] in LOOKS or over:
            mode = self.model.training
            self.model.eval()
            with torch.random.fork_rng():
                self.look(record)
            self.model.train(mode)
        self.began = time.process_time()
        if over:
            raise Over

    def look(self, record: Any) -> None:
        own = self.objective.keywords["estimator"]
        of, several = self.objective.func, self.objective.keywords["samples"]
        batch = self.train.batch(slice(0, 50))
        found = gradients.study(
            self.model, batch, {"own": own}, 40, samples=several, objective=of, reference="own", reference_draws=4,
            parameters=["encoder"], repeat=1,
        )["own"]  # fmt: skip
        look = {
            "epoch": record["epoch"],
            "steps": record["step"],
            "seconds": round(self.spent, 1),
            "training_bound_of_its_own_draws": -record["bound"],
            "test_negative_elbo": bound(self.model, self.test.subset(torch.arange(min(2000, len(self.test)))), 1),
            "variance": [found.variance, found.variance_se],
        }
        self.looks.append(look)
        print(json.dumps(look), flush=True)


def learned(options: argparse.Namespace, train: Dataset, test: Dataset) -> tuple[DiscreteVAE, dict[str, Any]]:
    model = DiscreteVAE((28, 28), **NETS[options.net])
    name = options.estimator
    of, several = (iwae, DRAWS) if name == "vimco" else (elbo, 1 if name == "rebar" else DRAWS)
    objective = partial(of, samples=several, estimator=ESTIMATORS[name]())
    # how many passes there is time for, so that the rate and the temperature can fall
    how: dict[str, Any] = {"objective": objective, "batch_size": 100, "lr": options.lr, "precision": options.precision}
    how |= {"progress": False, "patience": None, "cool_to": COOL if "gumbel" in name else None}
    Gradient(**how, epochs=1).fit(model, train.subset(torch.arange(1000)), seed=options.seed)
    began = time.process_time()
    Gradient(**how, epochs=1).fit(model, train.subset(torch.arange(10_000)), seed=options.seed)
    epochs = max(int(60 * options.minutes / (6 * (time.process_time() - began))), 1)
    course = Course(model, objective, train, test, options.minutes)
    learner = Gradient(**how, epochs=epochs, schedule="cosine" if options.falling else "constant")
    with suppress(Over):
        learner.fit(model, train, seed=options.seed, callbacks=[course])
    model.eval()
    last = course.looks[-1] if course.looks else {}
    return model, {
        "net": options.net,
        "estimator": name,
        "draws": several,
        "minutes": options.minutes,
        "processor_seconds": round(course.spent, 1),
        "steps": last.get("steps"),
        "steps_per_second": round(last["steps"] / last["seconds"], 1) if last else None,
        "looks": course.looks,
    }


def written(key: str, row: dict[str, Any], path: Path) -> None:
    found = json.loads(path.read_text()) if path.exists() else {"rows": {}, "published": PUBLISHED}
    found["rows"][key] = row
    found["environment"] = environment()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def table(path: Path) -> str:
    rows = json.loads(path.read_text())["rows"]
    lines = [
        f"{'net':<12}{'estimator':<22}{'steps':>8}{'steps/s':>9}{'-ELBO, test':>13}{'100 draws':>11}"
        f"{'at equal steps':>18}"
    ]
    for net in NETS:
        own = [row for row in rows.values() if row.get("net") == net and "looks" in row]
        shared = set.intersection(*({look["epoch"] for look in row["looks"]} for row in own)) if own else set()
        for row in sorted(own, key=lambda row: row["test_bound_100"][0]):
            at = next((look for look in row["looks"] if shared and look["epoch"] == max(shared)), None)
            equal = f"{at['test_negative_elbo'][0]:.1f} at {at['steps']}" if at else ""
            lines.append(
                f"{net:<12}{row['estimator']:<22}{row['steps']:>8}{row['steps_per_second']:>9}"
                f"{row['test_negative_elbo'][0]:>13.2f}{row['test_bound_100'][0]:>11.2f}{equal:>18}"
            )
    return "\n".join(lines)


def variances(options: argparse.Namespace, model: DiscreteVAE, train: Dataset) -> dict[str, Any]:
    """All estimators on one fitted model, at as many evaluations of the decoder."""
    chosen = {name: make() for name, make in ESTIMATORS.items() if name not in ("vimco", "nvil", "running_mean")}
    if options.net == "categorical":
        del chosen["disarm"]
    found = gradients.study(
        model, train.batch(slice(0, 20)), chosen, options.draws, samples=DRAWS, objective=elbo, reference="rloo",
        reference_draws=5 * options.draws, parameters=["encoder"], repeat=5,
    )  # fmt: skip
    print(found.table())
    return {"rows": [vars(row) for row in found.rows], "reference": found.reference, "norm": found.norm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of the four idx files")
    parser.add_argument("--net", choices=list(NETS), default="nonlinear")
    parser.add_argument("--estimator", choices=list(ESTIMATORS), default="rloo")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--falling", action="store_true", help="the rate falls to 0 along a cosine")
    parser.add_argument("--precision", default="medium")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variances", action="store_true", help="after the row, a study of all estimators at its end")
    parser.add_argument("--draws", type=int, default=2000, help="gradients of each estimator in that study")
    parser.add_argument("--first", type=int, default=10_000, help="test images")
    parser.add_argument("--table", action="store_true", help="print the rows that there are")
    parser.add_argument("--out", type=Path, default=RESULTS / "discrete_mnist.json")
    options = parser.parse_args()
    if options.table:
        print(table(options.out))
        return
    if not Path(options.data).is_dir():
        sys.exit(f"{options.data} is not here: name the folder of MNIST's idx files with --data")
    torch.set_num_threads(1)
    folder = Path(options.data)
    train = load(folder / "train-images-idx3-ubyte.gz", binarize="dynamic")
    test = load(folder / "t10k-images-idx3-ubyte.gz", binarize="dynamic").frozen(0).subset(torch.arange(options.first))
    model, row = learned(options, train, test)
    row["test_negative_elbo"] = bound(model, test, 1)
    row["test_bound_100"] = bound(model, test, 100)
    row["training_negative_elbo"] = bound(model, train.frozen(0).subset(torch.arange(options.first)), 1)
    if options.variances:
        row["variances"] = variances(options, model, train)
    key = f"{options.net} {options.estimator}" + (" falling" if options.falling else "")
    written(key, row, options.out)
    print({name: value for name, value in row.items() if name != "looks"})


if __name__ == "__main__":
    main()
