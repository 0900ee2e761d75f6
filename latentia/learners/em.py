"""Expectation-maximisation: exact, hard and stepwise, with restarts."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from latentia.data import Dataset, as_dataset
from latentia.errors import CapabilityError, LikelihoodFell, NonFiniteError, OptionError
from latentia.learners.checkpoint import Checkpoint, Tensors, prefixed, snapshot, under
from latentia.learners.history import Callback, History, Record
from latentia.learners.settings import fitting, seed_for
from latentia.model import EMModel, ExactModel, LatentVariableModel, Statistics
from latentia.progress import Bar

STATE = ("restart", "step", "records", "previous", "best_value", "values", "stopped", "best_stopped")


@dataclass
class EM:
    """Alternate posteriors and the parameters that they imply (Dempster, Laird and Rubin 1977).

    Each restart begins where `model.start` puts it, and the best is kept. log p(x) plus the log-prior of the
    parameters never falls: if it does, `LikelihoodFell` is raised.

    Args:
        steps: most E- and M-steps in a restart.
        tol: a restart has converged when a step gains less, in nats per datum.
        restarts: how many random starts; the best log p(x) wins.
        hard: give each datum to its best z instead of the posterior: k-means, Viterbi training.
        stepwise: exponent in (0.5, 1] of the step size (k + 2)^-stepwise with which each batch's statistics
            are blended in (Cappe and Moulines 2009; Liang and Klein 2009); None is the whole data at once.
        batch_size: data whose posteriors are held in memory at a time.
        fresh: begin from a random start, not from the parameters that the model has.
        progress: show a bar when there is a terminal.
    """

    steps: int = 200
    tol: float = 1e-6
    restarts: int = 1
    hard: bool = False
    stepwise: float | None = None
    batch_size: int = 4096
    fresh: bool = True
    progress: bool = True

    def __post_init__(self):
        for name, least in (("steps", 1), ("restarts", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)}: it must be at least {least}")
        if not self.tol >= 0:
            raise OptionError(f"tol={self.tol}: it must be at least 0")
        if self.stepwise is not None and not 0.5 < self.stepwise <= 1:
            raise OptionError(f"stepwise={self.stepwise}: it must lie in (0.5, 1]")
        if not self.fresh and self.restarts > 1:
            raise OptionError("fresh=False begins from the model's parameters, so there is nothing to restart")

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
        """Fit, and return each step's log p(x). `validation` is not used: EM does not stop early.

        Raises:
            CapabilityError: the model has no statistics and update.
            LikelihoodFell, NonFiniteError: the model's fault, or precision ran out.
        """
        if not isinstance(model, EMModel):
            name = type(model).__name__
            raise CapabilityError(f"EM needs an M-step: make {name} an EMModel (expect and update), or use Gradient")
        data = as_dataset(data).frozen(seed)
        model.check(data.batch(dtype=model.anchor.dtype))
        fit = _Fit(self, model, data, seed, callbacks, checkpoint)
        with fitting("highest", seed), torch.no_grad():
            return fit.run()


class _Fit:
    """One run of EM: where it is, and what it has found."""

    def __init__(
        self,
        learner: EM,
        model: EMModel,
        data: Dataset,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
    ):
        self.learner, self.model, self.data, self.seed = learner, model, data, seed
        self.callbacks, self.checkpoint = callbacks, checkpoint
        self.weight = float(data.batch().weights.double().sum())
        self.log_det = float((data.log_det() * data.batch().weights.double()).sum()) / max(self.weight, 1e-300)
        self.restart = self.step = self.records = 0
        self.previous: float | None = None
        self.best_value: float | None = None
        self.best: Tensors = {}
        self.values: list[float] = []
        self.stopped = self.best_stopped = ""
        self.history = History()

    def run(self) -> History:
        if not self._resume():
            self._begin()
        with Bar("EM", self.learner.restarts * (self.learner.steps + 1), shown=self.learner.progress) as bar:
            while self.restart < self.learner.restarts:
                self._climb(bar)
                self._keep()
                self.restart += 1
                if self.restart < self.learner.restarts:
                    self._begin()
        self.model.load_state_dict(self.best)
        self.model.canonical()
        self._tell()
        return self.history

    def _begin(self) -> None:
        self.step, self.previous, self.stopped = 0, None, ""
        if self.learner.fresh:
            generator = torch.Generator().manual_seed(seed_for(self.seed, self.restart))
            self.model.start(self.data.batch(dtype=self.model.anchor.dtype), generator)

    def _climb(self, bar: Bar) -> None:
        """Steps until convergence. Each first measures the parameters it has, then improves them, so the last value
        recorded is that of the parameters kept."""
        while not self.stopped:
            began, step = time.perf_counter(), self.step
            total, value, log_marginal = self._expect()
            self._judge(value)
            change = None if self.previous is None else value - self.previous
            self.previous = value
            if not self.stopped:
                self.step += 1
                self._maximise(total)
            self._record(
                {
                    "restart": self.restart,
                    "step": step,
                    "log_marginal": log_marginal + self.log_det,
                    "change": change,
                    "seconds": time.perf_counter() - began,
                }
            )
            bar.show(self.restart * (self.learner.steps + 1) + self.step, log_marginal=log_marginal + self.log_det)
            if self.checkpoint and self.checkpoint.due:
                self._save()

    def _expect(self) -> tuple[Statistics, float, float]:
        """The summed statistics; log p(x) + log-prior and log p(x), in nats per datum."""
        total: Statistics = {}
        log_marginal = 0.0
        for batch in self.data.batches(self.learner.batch_size, sort=True, dtype=self.model.anchor.dtype):
            sums, value = self.model.expect(batch, self.learner.hard)
            total = {name: total[name] + sums[name] if name in total else sums[name] for name in sums}
            log_marginal += float(value)
        log_marginal /= self.weight
        return total, log_marginal + float(self.model.log_prior()) / self.weight, log_marginal

    def _maximise(self, total: Statistics) -> None:
        if self.learner.stepwise is None:
            self.model.update(total)
            return
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed_for(self.seed, self.step)))
        for k, index in enumerate(order.split(self.learner.batch_size)):
            batch = self.data.batch(index, self.model.anchor.dtype)
            sums, _ = self.model.expect(batch, self.learner.hard)
            rate = (self.step + k + 2) ** -self.learner.stepwise
            whole = self.weight / max(float(batch.weights.sum()), 1e-300)
            total = {name: (1 - rate) * total[name] + rate * whole * sums[name] for name in total}
            self.model.update(total)

    def _judge(self, value: float) -> None:
        """Set `stopped` when this restart is over, and refuse what cannot be."""
        if value != value or abs(value) == float("inf"):
            raise NonFiniteError(f"log p(x) is {value} at step {self.step} of restart {self.restart}")
        # a bound may fall where its coordinate ascent ends elsewhere; log p(x) may not
        strict = self.learner.stepwise is None and isinstance(self.model, ExactModel)
        if self.previous is not None and strict:
            slack = 1e-9 if self.model.anchor.dtype == torch.float64 else 1e-4
            if value < self.previous - slack * max(1.0, abs(self.previous)):
                raise LikelihoodFell(
                    f"log p(x) fell from {self.previous:.9g} to {value:.9g} nats per datum at step {self.step}: the "
                    f"statistics or the M-step of {type(self.model).__name__} are wrong, or its precision is too low"
                )
        if self.previous is not None:
            change = value - self.previous
            # stepwise EM may fall a little before it rises again
            if (change if strict else abs(change)) < self.learner.tol:
                self.stopped = "converged"
        if not self.stopped and self.step >= self.learner.steps:
            self.stopped = "steps"

    def _record(self, record: Record) -> None:
        self.records += 1
        self.history.records.append(record)
        for callback in self.callbacks:
            callback(record)

    def _keep(self) -> None:
        assert self.previous is not None
        self.values.append(self.previous)
        if self.best_value is None or self.previous > self.best_value:
            self.best_value, self.best, self.best_stopped = self.previous, snapshot(self.model), self.stopped

    def _tell(self) -> None:
        self.history.stopped = self.best_stopped
        self.history.restarts = [value + self.log_det for value in self.values]
        if self.best_stopped == "steps":
            warnings.warn(
                f"EM stopped after steps={self.learner.steps} before it had converged to tol={self.learner.tol:g} nats "
                "per datum: raise steps to go on",
                stacklevel=2,
            )

    def _save(self) -> None:
        assert self.checkpoint is not None
        tensors = prefixed("model", snapshot(self.model)) | prefixed("best", self.best)
        self.checkpoint.save(tensors, {name: getattr(self, name) for name in STATE})

    def _resume(self) -> bool:
        saved = self.checkpoint.load() if self.checkpoint else None
        if self.checkpoint is None or saved is None:
            return False
        tensors, state = saved
        with self.checkpoint.fitting():
            self.model.load_state_dict(under("model", tensors))
            self.best = under("best", tensors)
            for name in STATE:
                setattr(self, name, state[name])
        return True
