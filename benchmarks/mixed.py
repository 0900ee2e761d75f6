# pyright: reportMissingImports=false, reportArgumentType=false
"""A step of EM for a mixture over mixed columns with missing values, beside StepMix, from the same parameters.

    python benchmarks/mixed.py

10,000 rows of 5 numbers and 5 categories of four values, a tenth of the cells missing, K = 5. StepMix is fitted for one
step; its parameters are given to `latentia.models.Mixture`, whose log-likelihood must be the same. Then steps of both
take turns, in one thread each; the figure is the ratio of the medians, so that a busy machine slows both. `--gaussian`
times a Gaussian mixture with full covariances over rows with missing values in the same way, in milliseconds a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from latentia.model import Batch
from latentia.models import GaussianMixture, Mixture

ROWS, CLUSTERS, COLUMNS, LEVELS = 10_000, 5, 5, 4


def table(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.integers(CLUSTERS, size=ROWS)
    numbers = rng.normal(0, 2, (CLUSTERS, COLUMNS))[z] + rng.normal(size=(ROWS, COLUMNS))
    shares = rng.dirichlet(np.full(LEVELS, 0.5), (CLUSTERS, COLUMNS)).cumsum(-1)
    categories = (rng.random((ROWS, COLUMNS, 1)) > shares[z]).sum(-1).clip(max=LEVELS - 1)
    x = np.concatenate([numbers, categories], 1)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


def seconds(step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def against_stepmix(turns: int) -> dict[str, float]:
    from stepmix.stepmix import StepMix

    x = table()
    frame = pd.DataFrame(x, columns=[f"x{d}" for d in range(x.shape[1])])
    kinds = {"real": "gaussian_diag_nan", "category": "categorical_nan"}
    measurement = {name: {"model": kind, "n_columns": COLUMNS} for name, kind in kinds.items()}
    peer = StepMix(CLUSTERS, measurement=measurement, max_iter=1, random_state=0, verbose=0, progress_bar=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(frame)
    model = Mixture(("real",) * COLUMNS + (LEVELS,) * COLUMNS, CLUSTERS, smoothing=0.0).double()
    _take_over(model, peer.get_parameters())
    batch = Batch.of(torch.from_numpy(x))
    with torch.no_grad():
        ours = float(model.posterior(batch).log_partition.mean())
        difference = abs(ours - peer.score(frame))
        inner, weight = peer._check_x_y(frame)[0], np.ones(ROWS)

        def their_step() -> None:
            # as its own loop has it
            _, log_resp = peer._e_step(inner, Y=None, sample_weight=weight)
            peer._m_step(inner, np.exp(log_resp), None, sample_weight=weight)

        def our_step() -> None:
            model.update(model.expect(batch)[0])

        for step in (their_step, our_step):
            step()  # what is compiled is compiled now
        times = [(seconds(their_step), seconds(our_step)) for _ in range(turns)]
    theirs, own = (1e3 * statistics.median(part) for part in zip(*times, strict=True))
    return {"stepmix_ms": theirs, "latentia_ms": own, "ratio": theirs / own, "log_likelihood_difference": difference}


def _take_over(model: Mixture, found: dict) -> None:
    measured = found["measurement"]
    model.logits.data = torch.tensor(found["weights"]).log()
    real, category = model.emissions.part("real"), model.emissions.part("category")
    real.means.data = torch.tensor(measured["real"]["means"])
    real.log_scale.data = 0.5 * torch.tensor(measured["real"]["covariances"]).log()
    pis = torch.as_tensor(np.asarray(measured["category"]["pis"])).reshape(CLUSTERS, COLUMNS, LEVELS)
    category.logits.data = pis.clamp(min=1e-300).log()


def full_covariance(turns: int) -> dict[str, float]:
    """Steps over the numbers of these rows alone: five columns, a tenth of the cells missing."""
    x = table()[:, :COLUMNS]
    batch = Batch.of(torch.from_numpy(x))
    model = GaussianMixture(x.shape[1], CLUSTERS, "full").double()
    model.start(batch, torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.no_grad():
            model.update(model.expect(batch)[0])

    step()
    return {"full_covariance_ms": 1e3 * statistics.median(seconds(step) for _ in range(turns))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--gaussian", action="store_true", help="time full covariances with missing values instead")
    parser.add_argument("--out", type=Path, help="a .json file for the figures")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    found = full_covariance(parsed.turns) if parsed.gaussian else against_stepmix(parsed.turns)
    print(json.dumps({name: round(value, 9) for name, value in found.items()}, indent=1))
    if parsed.out:
        parsed.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
