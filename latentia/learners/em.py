"""Expectation-maximisation: exact, hard and stepwise, with restarts, in one process or several."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentia.data import Dataset, Stream, as_dataset, remember
from latentia.data.stream import draw
from latentia.errors import CapabilityError, DataError, LikelihoodFell, NonFiniteError, OptionError
from latentia.learners import distributed
from latentia.learners.checkpoint import Checkpoint, Tensors, snapshot, take_up, the_same_shapes
from latentia.learners.course import Course
from latentia.learners.history import Callback, History
from latentia.learners.settings import fitting, seed_for
from latentia.model import (
    Batch,
    EMModel,
    ExactModel,
    LatentVariableModel,
    Statistics,
    check_not_all_frozen,
    has_frozen,
    held,
)
from latentia.progress import Bar

MINIBATCH = 4096
"""Data of which stepwise EM makes a step, where nobody says how many."""
LAST_DIGITS = 4 * 2.0**-52
"""Relative rounding of a mean in float64: a gain of no more is none, whatever tol."""
IMPOSSIBLE_MEAN = -1e19
"""Nats per datum below which some datum has no probability at all."""


@dataclass
class EM:
    """Alternate posteriors and the parameters that they imply (Dempster, Laird and Rubin 1977).

    Parameters that are frozen (`requires_grad_(False)`, of a part of the model too) keep their values, and the M-step
    is the best one given them; clusters or states then keep the order in which they were found.

    Each restart begins where `model.start` puts it, and the best is kept. log p(x) plus the log-prior of the
    parameters never falls: if it does, `LikelihoodFell` is raised.

    In several processes (`latentia.learners.distributed`) each gives `fit` its own share of the data, and all end
    with the parameters that one process with all the data would have; callbacks and checkpoint are process 0's.

    Args:
        steps: most E- and M-steps in a restart.
        tol: a restart has converged when a step gains no more, in nats per datum; 0 goes on to the last digit.
        restarts: how many random starts; the best log p(x) wins.
        hard: give each datum to its best z instead of the posterior: k-means, Viterbi training.
        stepwise: exponent in (0.5, 1] of the step size (k + 2)^-stepwise with which each batch's statistics
            are blended in (Cappe and Moulines 2009; Liang and Klein 2009); None is the whole data at once. A batch
            of less weight than a full one of average weight counts for as much less (see `share_of`).
        batch_size: data whose posteriors are held in memory at a time; None: about a million numbers of x, and at most
            65,536 data. Stepwise EM takes a step after so many, in all processes together; None: 4,096.
        fresh: begin from a random start, not from the parameters that the model has.
        progress: show a bar when there is a terminal.
    """

    steps: int = 200
    tol: float = 1e-6
    restarts: int = 1
    hard: bool = False
    stepwise: float | None = None
    batch_size: int | None = None
    fresh: bool = True
    progress: bool = True

    def __post_init__(self):
        for name, least in (("steps", 1), ("restarts", 1), ("batch_size", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
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
        data: Dataset | Stream,
        *,
        validation: Dataset | None = None,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
    ) -> History:
        """Fit, and return each step's log p(x). `validation` is not used: EM does not stop early.

        Raises:
            CapabilityError: the model has no statistics and update.
            OptionError: every parameter is frozen.
            DataError: no data of any weight, or data that the model cannot generate.
            LikelihoodFell, NonFiniteError: the model's fault, or precision ran out.
        """
        if not isinstance(model, EMModel):
            name = type(model).__name__
            raise CapabilityError(f"EM needs an M-step: make {name} an EMModel (expect and update), or use Gradient")
        check_not_all_frozen(model)
        given, data = data, (data if isinstance(data, Stream) else as_dataset(data)).frozen(seed)
        with fitting("highest", seed), torch.no_grad():
            history = _Fit(self, model, data, seed, callbacks, checkpoint).run()
        remember(model, given, data.schema)
        return history


def expectations(model: EMModel, batches: Iterable[Batch], hard: bool = False) -> tuple[Statistics, Tensor]:
    """The E-step on one batch after another: the sums of what `model.expect` gives."""
    total: Statistics = {}
    value = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        sums, log_marginal = model.expect(batch, hard)
        total = {name: total[name] + sums[name] if name in total else sums[name] for name in sums}
        value = value + log_marginal.cpu()
    return total, value


def share_of(part: float, seen: float, power: float) -> float:
    """The share of the statistics that a chunk takes when it is blended into those of the chunks before it.

    A chunk of full size takes the rate r = (seen + 1)^-power of Cappe and Moulines (2009); one of which there is but
    a part takes r part / (1 - r + r part), so that a datum counts the same in whatever chunk it comes. With a power
    of 1 that is the chunk's part of all the weight so far.

    Args:
        part: the chunk's weight, and `seen`: the weight before it, both in full chunks.
    """
    rate = (seen + 1) ** -power
    return rate * part / max(1 - rate + rate * part, 1e-300)


def weigh(model: EMModel, data: Dataset | Stream, batches: Iterable[Batch]) -> tuple[float, float]:
    """The weight of all data, once `model` has checked them, and the log-determinant of their scaling, nats per datum.

    Raises:
        DataError: data that the model cannot generate, or none of any weight.
    """
    weight, log_det = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        model.check(batch)
        each = batch.weights.double().cpu()
        shift = data.schema.log_det(batch.x.shape if batch.seen is None else batch.seen).cpu()
        weight, log_det = weight + each.sum(), log_det + (each * shift).sum()
    sums = distributed.added({"weight": weight, "log_det": log_det})
    if not sums["weight"] > 0:
        raise DataError(f"{data.schema.source}: no data to learn from, or every weight is 0")
    return float(sums["weight"]), float(sums["log_det"] / sums["weight"])


class _Fit(Course):
    """One run of EM: where it is, and what it has found."""

    STATE = ("restart", "step", "records", "previous", "best_value", "values", "stopped", "best_stopped")

    def __init__(
        self,
        learner: EM,
        model: EMModel,
        data: Dataset | Stream,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
    ):
        self.leads = distributed.rank() == 0
        super().__init__(*((callbacks, checkpoint) if self.leads else ((), None)))
        self.learner, self.model, self.data, self.seed = learner, model, data, seed
        if 0 in (sizes := distributed.counts(len(data))) and len(sizes) > 1:
            raise OptionError(f"{sum(sizes)} data for {len(sizes)} processes: each must have one at least")
        self.batches = data.prepared(model.anchor, learner.batch_size)
        self.weight, self.log_det = weigh(model, data, self.batches)
        self.restart = self.step = 0
        self.previous: float | None = None
        self.falls: list[float] = []
        self.best_value: float | None = None
        self.best: Tensors = {}
        self.values: list[float] = []
        self.stopped = self.best_stopped = ""

    def run(self) -> History:
        if not self.resume():
            self._begin()
        shown = self.learner.progress and self.leads
        with Bar("EM", self.learner.restarts * (self.learner.steps + 1), shown=shown) as bar:
            while self.restart < self.learner.restarts:
                self._climb(bar)
                self._keep()
                self.restart += 1
                if self.restart < self.learner.restarts:
                    self._begin()
        self.model.load_state_dict(self.best)
        if self.learner.fresh and not has_frozen(self.model):
            self.model.canonical()
        self._tell()
        return self.history

    def _begin(self) -> None:
        self.step, self.previous, self.stopped = 0, None, ""
        if self.learner.fresh:
            sample = self._sample()
            if self.leads:
                with held(self.model):
                    self.model.start(sample, torch.Generator().manual_seed(seed_for(self.seed, self.restart)))
            distributed.share(self.model.state_dict())

    def _sample(self) -> Batch:
        """All data of all processes, or so many of them, at random, as a starting point needs."""
        sizes = distributed.counts(len(self.data))
        # of sequences, a process whose own are shorter would take more
        most = -distributed.largest(-self.data.enough)[0]
        if sum(sizes) <= most:
            return distributed.gathered(self.data.batch().to(self.model.anchor))
        generator = torch.Generator().manual_seed(seed_for(self.seed, self.restart))
        chosen = draw(most, sum(sizes), generator) - sum(sizes[: distributed.rank()])
        mine = chosen[(chosen >= 0) & (chosen < len(self.data))]
        return distributed.gathered(self.data.batch(mine).to(self.model.anchor))

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
            self.record(
                {
                    "restart": self.restart,
                    "step": step,
                    "log_marginal": log_marginal + self.log_det,
                    "change": change,
                    "seconds": time.perf_counter() - began,
                }
            )
            bar.show(self.restart * (self.learner.steps + 1) + self.step, log_marginal=log_marginal + self.log_det)
            self.save_if_due()

    def _expect(self) -> tuple[Statistics, float, float]:
        """The summed statistics; log p(x) + log-prior and log p(x), in nats per datum."""
        sums, log_marginal = expectations(self.model, self.batches, self.learner.hard)
        # all processes must take the same decisions, so that even the last digit is process 0's
        log_prior = self.model.log_prior().double().cpu() if self.leads else torch.zeros((), dtype=torch.float64)
        total = distributed.added({**sums, "log p(x)": log_marginal, "log-prior": log_prior})
        log_marginal, log_prior = (float(total.pop(name)) / self.weight for name in ("log p(x)", "log-prior"))
        return total, log_marginal + log_prior, log_marginal

    def _maximise(self, total: Statistics) -> None:
        if self.learner.stepwise is None:
            self._update(total)
            return
        size = max((self.learner.batch_size or MINIBATCH) // distributed.size(), 1)
        rows = distributed.counts(len(self.data))
        full = self.weight / sum(rows) * sum(min(size, count) for count in rows)
        batches = self.data.shuffled(self.model.anchor, size, seed_for(self.seed, self.step))
        nothing = {name: torch.zeros_like(value) for name, value in total.items()}
        seen = self.step + 1.0
        # until no process has a batch left
        while (found := self._expect_next(next(batches, None), nothing)) is not None:
            sums, weight = found
            if not weight > 0:
                continue
            share, whole = share_of(weight / full, seen, self.learner.stepwise), self.weight / weight
            total = {name: (1 - share) * total[name] + share * whole * sums[name] for name in total}
            self._update(total)
            seen += weight / full

    def _expect_next(self, batch: Batch | None, nothing: Statistics) -> tuple[Statistics, float] | None:
        """The statistics of all processes' next batches, and their weight; None where there are none."""
        sums, size, weight = nothing, torch.zeros(()), torch.zeros((), dtype=torch.float64)
        if batch is not None:
            sums, _ = self.model.expect(batch, self.learner.hard)
            size, weight = torch.tensor(float(batch.size)), batch.weights.double().sum().cpu()
        total = distributed.added({**sums, "size": size, "weight of all": weight})
        size, weight = float(total.pop("size")), float(total.pop("weight of all"))
        return (total, weight) if size else None

    def _update(self, total: Statistics) -> None:
        with held(self.model):
            self.model.update(total)
        distributed.share(self.model.state_dict())

    def _judge(self, value: float) -> None:
        """Set `stopped` when this restart is over, and refuse what cannot be."""
        if value < IMPOSSIBLE_MEAN:
            raise NonFiniteError(
                f"some of the data are impossible under the parameters of step {self.step}, restart {self.restart} "
                "(log p(x) is -inf): probabilities of 0 stay 0; begin with others, or with fresh=True"
            )
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
            if self.learner.stepwise is None and change < -max(self.learner.tol, LAST_DIGITS * max(1.0, abs(value))):
                self.falls.append(-change)
            # stepwise EM may fall a little before it rises again; at a fixed point what changes is the last digit
            least = max(self.learner.tol, LAST_DIGITS * max(1.0, abs(value)))
            if (change if strict else abs(change)) <= least:
                self.stopped = "converged"
        if not self.stopped and self.step >= self.learner.steps:
            self.stopped = "steps"

    def _keep(self) -> None:
        assert self.previous is not None
        self.values.append(self.previous)
        if self.best_value is None or self.previous > self.best_value:
            self.best_value, self.best, self.best_stopped = self.previous, snapshot(self.model), self.stopped

    def _tell(self) -> None:
        self.history.stopped = self.best_stopped
        self.history.restarts = [value + self.log_det for value in self.values]
        if not self.leads:
            return
        for concern in self.model.concerns():
            warnings.warn(concern, stacklevel=2)
        if self.falls:
            warnings.warn(
                f"the bound fell in {len(self.falls)} of {self.records} steps, by {max(self.falls):.2g} nats per datum "
                f"at most: the posterior of {type(self.model).__name__} is found by coordinate ascent, which for some "
                "data ends in another optimum than a step before, or too early (raise the model's steps or sweeps, "
                "lower its tol)",
                stacklevel=2,
            )
        if self.best_stopped == "steps":
            warnings.warn(
                f"EM stopped after steps={self.learner.steps} before it had converged to tol={self.learner.tol:g} nats "
                "per datum: raise steps to go on",
                stacklevel=2,
            )

    def _parts(self) -> dict[str, Tensors]:
        return {"model": snapshot(self.model), "best": self.best}

    def _take_parts(self, part: Callable[[str], Tensors], state: dict[str, Any]) -> None:
        self.model.load_state_dict(part("model"))
        self.best = the_same_shapes(part("best"), self.model)
        if (state["best_value"] is None) != (not self.best):
            raise ValueError("best_value and the best parameters are not of one fit")

    def resume(self) -> bool:
        """In all processes: process 0 has the checkpoint, and tells the others what it says."""
        resumed = super().resume()
        state = {name: getattr(self, name) for name in self.STATE} if resumed else None
        state = json.loads(distributed.shared_text(lambda: json.dumps(state)))
        if state is None:
            return False
        if not self.leads:
            self.best = {} if state["best_value"] is None else snapshot(self.model)
            take_up(self, self.STATE, state)
        distributed.share(self.model.state_dict())
        distributed.share(self.best)
        return True
