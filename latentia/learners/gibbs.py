"""Gibbs sampling of everything that is hidden, parameters included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from latentia.data import Dataset, as_dataset, remember
from latentia.errors import CapabilityError, DataError, NonFiniteError, OptionError
from latentia.learners.checkpoint import Checkpoint, Tensors
from latentia.learners.course import Course
from latentia.learners.history import Callback, History
from latentia.learners.settings import fitting, seed_for
from latentia.model import Batch, LatentVariableModel, held
from latentia.progress import Bar


class Sampler(Protocol):
    """A Markov chain whose stationary distribution is p(z, parameters | x), or what is left of it after summing out."""

    def sweep(self) -> None:
        """Draw every latent once, given all others."""

    def learn(self) -> None:
        """Set the hyperparameters that are learned to the likeliest values given the latents."""

    def log_joint(self) -> float:
        """log p(x, z) of all data in nats, the parameters summed out."""
        ...

    def estimate(self) -> Tensors:
        """The mean of the parameters given the latents."""
        ...

    def state(self) -> Tensors:
        """All that `restore` needs to go on."""
        ...

    def restore(self, state: Tensors) -> None: ...


@runtime_checkable
class Sampled(Protocol):
    """A model that `Gibbs` can learn."""

    def sampler(self, batch: Batch, seed: int) -> Sampler: ...

    def settle(self, mean: Tensors) -> None:
        """Set the parameters to this mean of `Sampler.estimate`."""


@dataclass
class Gibbs:
    """Draw the latents of all data in turn, given all others, and keep the mean of the parameters along the way.

    What is recorded is log p(x, z) of the drawn z, the parameters summed out: it shows when the chain has settled, and
    is not log p(x). A weight must be a whole number.

    Args:
        sweeps: how often every latent is drawn.
        burn_in: sweeps before the parameters are kept; None is half of them.
        every: sweeps from one record to the next, at which hyperparameters are learned and parameters kept.
        progress: show a bar when there is a terminal.
    """

    sweeps: int = 500
    burn_in: int | None = None
    every: int = 10
    progress: bool = True

    def __post_init__(self):
        for name, least in (("sweeps", 1), ("settled", 0), ("every", 1)):
            if getattr(self, name) < least:
                name = "burn_in" if name == "settled" else name
                raise OptionError(f"{name}={getattr(self, name)}: it must be at least {least}")
        if self.sweeps // self.every <= self.settled // self.every:
            raise OptionError(
                f"sweeps={self.sweeps}, burn_in={self.settled}, every={self.every}: no sweep is left to keep"
            )

    @property
    def settled(self) -> int:
        """The sweeps before the parameters are kept."""
        return self.sweeps // 2 if self.burn_in is None else self.burn_in

    def fit(
        self,
        model: LatentVariableModel,
        data: Dataset,
        *,
        validation: Dataset | None = None,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Sample, and set the parameters to their mean. `validation` is not used.

        Raises:
            CapabilityError: the model has no sampler.
            DataError: no data of any weight, or data that the model cannot generate.
        """
        if not isinstance(model, Sampled):
            name = type(model).__name__
            raise CapabilityError(f"Gibbs needs a chain: write {name}.sampler and {name}.settle, or use EM or Gradient")
        given, data = data, as_dataset(data)
        batch = data.frozen(seed).batch().to(model.anchor)
        model.check(batch)
        weight = float(batch.weights.double().sum())
        if not weight > 0:
            raise DataError("no data to learn from, or every weight is 0")
        with fitting("highest", seed), torch.no_grad():
            fit = _Fit(self, model.sampler(batch, seed_for(seed)), weight, callbacks, checkpoint)
            with held(model):
                model.settle(fit.run())
        remember(model, given, data.schema)
        return fit.history


class _Fit(Course):
    """One run of the chain: where it is, and the sum of the parameters kept."""

    STATE = ("step", "records", "kept")

    def __init__(
        self,
        learner: Gibbs,
        sampler: Sampler,
        weight: float,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
    ):
        super().__init__(callbacks, checkpoint)
        self.learner, self.sampler, self.weight = learner, sampler, weight
        self.step = self.kept = 0
        self.total: Tensors = {}
        self.history.stopped = "sweeps"
        self.began = time.perf_counter()

    def run(self) -> Tensors:
        self.resume()
        with Bar("Gibbs", self.learner.sweeps, self.step, shown=self.learner.progress) as bar:
            while self.step < self.learner.sweeps:
                self.sampler.sweep()
                self.step += 1
                if self.step % self.learner.every == 0:
                    bar.show(self.step, log_joint=self._look())
                self.save_if_due()
        return {name: value / self.kept for name, value in self.total.items()}

    def _look(self) -> float:
        """Learn the hyperparameters, record log p(x, z), and keep the parameters once the chain has burnt in."""
        self.sampler.learn()
        value = self.sampler.log_joint() / self.weight
        if value != value or abs(value) == float("inf"):
            raise NonFiniteError(f"log p(x, z) is {value} after sweep {self.step}")
        if self.step > self.learner.settled:
            self.kept += 1
            new = self.sampler.estimate()
            self.total = {name: self.total[name] + new[name] for name in new} if self.total else new
        began, self.began = self.began, time.perf_counter()
        self.record({"step": self.step, "log_joint": value, "seconds": self.began - began})
        return value

    def _parts(self) -> dict[str, Tensors]:
        return {"sampler": self.sampler.state(), "total": self.total}

    def _take_parts(self, part: Callable[[str], Tensors], state: dict[str, Any]) -> None:
        self.sampler.restore(part("sampler"))
        self.total = part("total")
