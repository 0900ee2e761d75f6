"""What the benchmarks on binarized MNIST share: fit, measure on the test images, write the result with its command."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from latentia.data import Dataset
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.learners.checkpoint import Checkpoint
from latentia.measure.diagnose import ACTIVE
from latentia.model import LatentVariableModel
from latentia.runs.directory import environment
from latentia.tasks import encode

RESULTS = Path(__file__).parent / "results"


def fitted(
    learner: Gradient,
    model: LatentVariableModel,
    train: Dataset,
    state: Path,
    *,
    validation: Dataset | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit, going on from `state` where it exists: a command that was cut off is run again. What the fit was."""
    state.parent.mkdir(parents=True, exist_ok=True)
    resumed, began = state.exists(), time.perf_counter()
    history = learner.fit(
        model, train, validation=validation, seed=seed, callbacks=[_say], checkpoint=Checkpoint(state)
    )
    seconds = time.perf_counter() - began
    last = history.records[-1] if history.records else None
    return {"resumed": resumed, "seconds_since_resumed": round(seconds, 1), "last_epoch": last}


def _say(record: dict[str, Any]) -> None:
    if record["epoch"] & (record["epoch"] - 1) == 0:
        print(
            f"epoch {record['epoch']}: bound {record['bound']:.2f}, lr {record['lr']:.2e}, {record['seconds']:.1f} s",
            flush=True,
        )


def measured(
    model: LatentVariableModel, test: Dataset, train: Dataset, samples: int, seed: int, memory: int
) -> dict[str, Any]:
    """NLL by `samples` importance samples, its parts, and active units on test and on 500 training images."""
    began = time.perf_counter()
    found = evaluate(model, test, importance_samples=samples, seed=seed, memory=memory)
    return {
        "nll": -found.log_marginal,
        "nll_se": found.log_marginal_se,
        "importance_samples": samples,
        "test_images": len(test),
        "active_units_test": active_units(model, test, seed),
        "active_units_500_training": active_units(model, train.subset(slice(0, 500)), seed),
        "evaluation": found.to_json(),
        "evaluation_seconds": round(time.perf_counter() - began, 1),
    }


def active_units(model: LatentVariableModel, data: Dataset, seed: int) -> dict[str, int]:
    """Units of each latent whose posterior mean has a variance over the data above 0.01 (Burda et al. 2016). The mean
    of a later latent is that given the means of the earlier ones."""
    means = encode(model, data, seed=seed)
    named = means if isinstance(means, dict) else {"z": means}
    return {name: int((part.flatten(1).double().var(0) > ACTIVE).sum()) for name, part in named.items()}


def written(name: str, result: dict[str, Any], out: Path) -> Path:
    """The result with the command and the machine, as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    whole = {"command": shlex.join(["python", *sys.argv]), **result, "environment": environment()}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return path


def whole_numbers_of(device: str) -> None:
    """Matrix products in float32 proper, whatever the fit used: an NLL is not measured with 10 bits."""
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("highest")
