"""The fits of `test_distributed.py`, in as many processes as torchrun starts; each writes what it ends with.

torchrun --standalone --nproc-per-node 2 tests/distributed_fits.py DIRECTORY
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentia.data import Dataset, Schema, Stream, dataset, load
from latentia.data.raw import Raw
from latentia.errors import OptionError
from latentia.learners import EM, Checkpoint, distributed
from latentia.model import Batch
from latentia.models import HMM, GaussianMixture, KMeans


def points() -> np.ndarray:
    """Two clusters in space, with holes."""
    random = np.random.default_rng(0)
    x = random.normal(size=(501, 3)) + 5 * random.integers(0, 2, size=(501, 1))
    x[random.random(x.shape) < 0.1] = np.nan
    return x


def counts(size: int, most: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, most + 1, size=size).astype(float)


def symbols() -> Dataset:
    """Weighted sequences, of which the long ones come last: the shares differ in their longest."""
    random = np.random.default_rng(2)
    lengths = [*random.integers(1, 9, size=80), *random.integers(9, 30, size=41)]
    raw = Raw("sequence", [random.integers(0, 5, size=length) for length in lengths], weight=counts(121, 2))
    return Schema.of(raw).encode(raw)


def vectors() -> Dataset:
    random = np.random.default_rng(3)
    values = [np.cumsum(random.normal(size=(length, 2)), 0) for length in random.integers(2, 15, size=60)]
    values[7][1:3] = np.nan
    return load(values)


class Interrupted(HMM):
    """Ends every process alike, in the middle of the second restart."""

    updates = 0

    def update(self, total):
        self.updates += 1
        if self.updates == 9:
            raise KeyboardInterrupt
        super().update(total)


def fits(folder: Path) -> dict[str, tuple[Any, Dataset | Stream, EM]]:
    table, short = load(points(), weight=counts(501, 3)), EM(steps=6, tol=0, restarts=2)
    return {
        "mixture": (GaussianMixture(3, 3), table, EM(tol=1e-9, restarts=2)),
        "k-means": (KMeans(3, 4), table, EM(hard=True)),
        "symbols": (HMM(symbols=5, states=3), symbols(), short),
        "vectors": (HMM(features=2, states=3), vectors(), EM(steps=8, tol=0, batch_size=7)),
        "stream": (GaussianMixture(3, 3), Stream.open(folder / "t.npy", scale="standard"), short),
        "part of a stream": (
            GaussianMixture(3, 2, covariance="diagonal"),
            Stream.open(folder / "t.npy").split(0.5, seed=1)[0],
            short,
        ),
    }


def share(data: Dataset | Stream) -> Dataset | Stream:
    if isinstance(data, Stream):
        return data.part(*distributed.bounds(501))
    return data.subset(slice(*distributed.bounds(len(data))))


def fitted(model: Any, data: Dataset | Stream, learner: EM, name: str, **options: Any) -> dict[str, Tensor]:
    model = model.double()
    history = learner.fit(model, share(data), seed=5, **options)
    values = torch.tensor([record["log_marginal"] for record in history.records], dtype=torch.float64)
    return {f"{name}/{key}": value for key, value in model.state_dict().items()} | {f"{name}/log p(x)": values}


def resumed(folder: Path) -> dict[str, Tensor]:
    learner = EM(steps=6, tol=0, restarts=2)
    checkpoint = Checkpoint(folder / f"{distributed.size()}.safetensors", every=0)
    try:
        fitted(Interrupted(symbols=5, states=3), symbols(), learner, "", checkpoint=checkpoint)
    except KeyboardInterrupt:
        return fitted(HMM(symbols=5, states=3), symbols(), learner, "resumed", checkpoint=checkpoint)
    return {}


def sampled() -> dict[str, Tensor]:
    """A start from a random part of all data, which is gathered from all processes."""
    before, dataset.START = dataset.START, 300
    try:
        return fitted(HMM(symbols=5, states=3), symbols(), EM(steps=3, tol=0), "sampled")
    finally:
        dataset.START = before


def stepwise() -> dict[str, Tensor]:
    table = load(points(), weight=counts(501, 3))
    learner = EM(steps=12, tol=0, stepwise=0.7, batch_size=60)
    return fitted(GaussianMixture(3, 2), table, learner, "stepwise")


def gathered() -> dict[str, Tensor]:
    """Every process's sequences, of which the first has short ones without a mask."""
    rank = distributed.rank()
    x = torch.full((2 + rank, 3 + rank), 1 + rank)
    mask = torch.arange(3 + rank).expand_as(x) < 3 if rank else None
    whole = distributed.gathered(Batch(x, mask, weight=torch.full((2 + rank,), 0.5)))
    found = {"gathered/x": whole.x, "gathered/mask": whole.observed, "gathered/weight": whole.weights}
    text = distributed.shared_text(lambda: "λόγος")
    return found | {"text": torch.tensor([ord(letter) for letter in text])}


def refused() -> dict[str, Tensor]:
    """One datum is too few for two."""
    try:
        EM().fit(GaussianMixture(3, 1).double(), share(load(points()[:1])))
    except OptionError as error:
        return {"refused": torch.tensor([ord(letter) for letter in str(error)])}
    return {}


def everything(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, work in fits(folder).items():
            found |= fitted(*work, name)
        return found | resumed(folder) | sampled() | stepwise() | gathered() | refused()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.group():
        rank, results = distributed.rank(), everything(Path(sys.argv[1]))
    save_file({name: value.contiguous() for name, value in results.items()}, f"{sys.argv[1]}/rank{rank}.safetensors")
