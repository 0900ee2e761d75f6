"""Stepwise EM on data that come a chunk at a time and are not kept."""

from __future__ import annotations

import os

import torch

from latentia.data import Dataset, Stream, as_dataset
from latentia.errors import CapabilityError, OptionError
from latentia.learners.checkpoint import Checkpoint, prefixed, read_tensors, snapshot, under
from latentia.learners.em import expectations, weigh
from latentia.learners.settings import fitting, seed_for
from latentia.model import EMModel, LatentVariableModel, Statistics


class Online:
    """Learn a model from one chunk after another, without seeing any twice (Cappe and Moulines 2009, section 2.2).

    After chunk k = 0, 1, ... the mean statistics are s <- (1 - rate) s + rate E[statistics of the chunk] a datum,
    with rate = (k + 1)^-power, and the M-step takes s times the weight of all data so far: so pseudo-counts lose
    their say as data come in. The first chunk starts the model, and should show some of everything that is to come.

    Every chunk must be encoded by the same schema: `load(chunk, schema=first.schema)`.

    Args:
        model: an `EMModel`. It is usable after each chunk.
        power: in (0.5, 1]: small forgets the first, poor statistics faster, 1 weighs all chunks alike.
        passes: E- and M-steps on the first chunk, before the second comes.
        hard: each datum counts for its best z alone.
        fresh: start the model from the first chunk; False goes on from the parameters that it has.
        seed: of the start.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        *,
        power: float = 0.7,
        passes: int = 10,
        hard: bool = False,
        fresh: bool = True,
        seed: int = 0,
    ):
        if not isinstance(model, EMModel):
            raise CapabilityError(f"stepwise EM needs an M-step: make {type(model).__name__} an EMModel")
        if not 0.5 < power <= 1:
            raise OptionError(f"power={power}: it must lie in (0.5, 1]")
        if passes < 1:
            raise OptionError(f"passes={passes}: it must be at least 1")
        self.model, self.power, self.passes = model, power, passes
        self.hard, self.fresh, self.seed = hard, fresh, seed
        self.chunks = 0
        self.weight = 0.0
        self.mean: Statistics = {}

    def partial_fit(self, data: Dataset | Stream) -> float:
        """Learn from a chunk. Returns its log p(x) in nats per datum, in the units of the data as given, by the model
        that has not learned from it yet: on new data, an honest measure. (The first chunk's is by the model's start.)

        Raises:
            DataError: no data of any weight, or data that the model cannot generate.
        """
        data = (data if isinstance(data, Stream) else as_dataset(data)).frozen(self.seed)
        with fitting("highest", self.seed), torch.no_grad():
            batches = data.prepared(self.model.anchor)
            weight, log_det = weigh(self.model, data, batches)
            first = not self.chunks and self.fresh
            if first:
                generator = torch.Generator().manual_seed(seed_for(self.seed, 0))
                self.model.start(data.batch().to(self.model.anchor), generator)
            sums, value = expectations(self.model, batches, self.hard)
            self._blend(sums, weight)
            for _ in range(self.passes - 1 if first else 0):
                self.mean = {n: s / weight for n, s in expectations(self.model, batches, self.hard)[0].items()}
                self._maximise()
        return float(value) / weight + log_det

    def _blend(self, sums: Statistics, weight: float) -> None:
        rate = (self.chunks + 1) ** -self.power
        mean = {name: value / weight for name, value in sums.items()}
        self.mean = {n: (1 - rate) * self.mean[n] + rate * mean[n] for n in mean} if self.mean else mean
        self.chunks, self.weight = self.chunks + 1, self.weight + weight
        self._maximise()

    def _maximise(self) -> None:
        self.model.update({name: value * self.weight for name, value in self.mean.items()})

    def save(self, path: str | os.PathLike) -> None:
        """Write the model and where learning is to one safetensors file, whole or not at all."""
        state = {"chunks": self.chunks, "weight": self.weight, "power": self.power, "hard": self.hard}
        Checkpoint(path).save(prefixed("model", snapshot(self.model)) | prefixed("mean", self.mean), state)

    def load(self, path: str | os.PathLike) -> None:
        """Go on from where `save` was called, with the model as it was then.

        Raises:
            RunError: the file is missing or damaged, or of another model.
        """
        checkpoint = Checkpoint(path)
        tensors, state = read_tensors(path)
        with checkpoint.fitting():
            self.model.load_state_dict(under("model", tensors))
            self.mean = {name: value.to(self.model.anchor.device) for name, value in under("mean", tensors).items()}
            self.chunks, self.weight = int(state["chunks"]), float(state["weight"])
            self.power, self.hard = float(state["power"]), bool(state["hard"])
