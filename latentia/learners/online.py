"""Stepwise EM on data that come a chunk at a time and are not kept."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from latentia.data import Dataset, Stream, as_dataset, remember
from latentia.errors import CapabilityError, OptionError
from latentia.learners.checkpoint import Checkpoint, Tensors, read_tensors, snapshot
from latentia.learners.course import Resumable
from latentia.learners.em import IMPOSSIBLE_MEAN, expectations, share_of, weigh
from latentia.learners.settings import fitting, seed_for
from latentia.model import EMModel, LatentVariableModel, Statistics, held


class Online(Resumable):
    """Learn a model from one chunk after another, without seeing any twice (Cappe and Moulines 2009, section 2.2).

    After chunk k = 0, 1, ... the mean statistics are s <- (1 - rate) s + rate E[statistics of the chunk] a datum,
    with rate = (k + 1)^-power where all chunks have the same weight, and the M-step takes s times the weight of all
    data so far: so pseudo-counts lose their say as data come in. The first chunk starts the model, and should show
    some of everything that is to come.

    A datum counts the same in whatever chunk it comes. A chunk of weight w, after chunks of weight W together, is w / u
    chunks of the size u in which a datum is found on average, u = (sum of squared weights) / (sum of weights), with
    W / u before it, and takes its share accordingly (`learners.em.share_of`): with power 1, w / (W + w).

    Every chunk must be encoded by the same schema: `load(chunk, schema=first.schema)`.

    Args:
        model: an `EMModel`. It is usable after each chunk.
        power: in (0.5, 1]: small forgets the first, poor statistics faster, 1 weighs all chunks alike.
        passes: E- and M-steps on the first chunk, before the second comes.
        hard: each datum counts for its best z alone.
        fresh: start the model from the first chunk; False goes on from the parameters that it has. What they have
            been learned from counts for nothing unless `seen` has told of it.
        seed: of the start.
    """

    STATE = ("chunks", "weight", "squares", "power", "hard")

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
        self.model, self.power, self.passes = model, float(power), passes
        self.hard, self.fresh, self.seed = bool(hard), fresh, seed
        self.chunks = 0
        self.weight = self.squares = 0.0
        self.mean: Statistics = {}
        self._told: set[str] = set()

    def partial_fit(self, data: Dataset | Stream) -> float:
        """Learn from a chunk. Returns its log p(x) in nats per datum, in the units of the data as given, by the model
        that has not learned from it yet: on new data, an honest measure. (The first chunk's is by the model's start.)

        Raises:
            DataError: no data of any weight, or data that the model cannot generate.
        """
        given, data = data, (data if isinstance(data, Stream) else as_dataset(data)).frozen(self.seed)
        with fitting("highest", self.seed), torch.no_grad():
            batches = data.prepared(self.model.anchor)
            weight, log_det = weigh(self.model, data, batches)
            first = not self.chunks and self.fresh
            if first:
                generator = torch.Generator().manual_seed(seed_for(self.seed, 0))
                with held(self.model):
                    self.model.start(data.batch().to(self.model.anchor), generator)
            sums, value = expectations(self.model, batches, self.hard)
            self._add(sums, weight)
            self._maximise()
            self.chunks += 1
            for _ in range(self.passes - 1 if first else 0):
                self.mean = {n: s / weight for n, s in expectations(self.model, batches, self.hard)[0].items()}
                self._maximise()
        remember(self.model, given, data.schema)
        self._tell()
        mean = float(value) / weight
        return mean + log_det if mean > IMPOSSIBLE_MEAN else -math.inf

    def _tell(self) -> None:
        """Warn of what the model gives reason to doubt, of each thing once."""
        for concern in self.model.concerns():
            if concern not in self._told:
                warnings.warn(concern, stacklevel=3)
            self._told.add(concern)

    def seen(self, data: Dataset | Stream) -> None:
        """Count data that the model has been fitted to already: what comes next is then blended into them.

        Raises:
            OptionError: chunks have come already.
            DataError: as `partial_fit`.
        """
        if self.weight:
            raise OptionError("seen() is for the data of an earlier fit: call it before the first chunk")
        data = (data if isinstance(data, Stream) else as_dataset(data)).frozen(self.seed)
        with fitting("highest", self.seed), torch.no_grad():
            batches = data.prepared(self.model.anchor)
            weight, _ = weigh(self.model, data, batches)
            sums, _ = expectations(self.model, batches, self.hard)
        self._add(sums, weight)

    def _add(self, sums: Statistics, weight: float) -> None:
        squares = self.squares + weight**2
        full = squares / (self.weight + weight)
        share = share_of(weight / full, self.weight / full, self.power)
        mean = {name: value / weight for name, value in sums.items()}
        self.mean = {n: (1 - share) * self.mean[n] + share * mean[n] for n in mean} if self.mean else mean
        self.weight, self.squares = self.weight + weight, squares

    def _maximise(self) -> None:
        with held(self.model):
            self.model.update({name: value * self.weight for name, value in self.mean.items()})

    def save(self, path: str | os.PathLike) -> None:
        """Write the model and where learning is to one safetensors file, whole or not at all."""
        self._write(Checkpoint(path))

    def load(self, path: str | os.PathLike) -> None:
        """Go on from where `save` was called, with the model as it was then.

        Raises:
            RunError: the file is missing or damaged, or of another model.
        """
        tensors, state = read_tensors(path)
        self._read(Checkpoint(path), tensors, state)

    def _parts(self) -> dict[str, Tensors]:
        return {"model": snapshot(self.model), "mean": self.mean}

    def _take_parts(self, part: Callable[[str], Tensors], state: dict[str, Any]) -> None:
        # a file that does not say took all chunks to be alike
        state.setdefault("squares", state["weight"] ** 2 / max(state["chunks"], 1))
        self.model.load_state_dict(part("model"))
        self.mean = {name: value.to(self.model.anchor.device) for name, value in part("mean").items()}
