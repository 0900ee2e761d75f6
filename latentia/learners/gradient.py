"""Stochastic gradient ascent on an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentia.data import Dataset, as_dataset
from latentia.errors import DataError, NonFiniteError, OptionError
from latentia.learners.checkpoint import Checkpoint, Tensors, prefixed, snapshot, under
from latentia.learners.history import Callback, History, Record
from latentia.learners.schedules import ANNEALINGS, SCHEDULES, kl_weight, learning_rate
from latentia.learners.settings import PRECISIONS, fitting, seed_for
from latentia.model import Batch, LatentVariableModel
from latentia.objectives import Bound, Objective, elbo
from latentia.progress import Bar

STATE = ("epoch", "records", "waited", "best_value", "stopped")


@dataclass
class Gradient:
    """Adam (Kingma and Ba 2015) on the mean of an objective over the data.

    Args:
        objective: what is climbed; bind options with `functools.partial(elbo, beta=0.5)`.
        epochs: most passes over the data.
        batch_size: data a step.
        lr: the highest learning rate.
        schedule: of the learning rate: constant, cosine, linear or exponential.
        warmup: steps over which the rate rises to `lr`.
        anneal: weight of the KL during the fit, against posterior collapse: none; linear, rising from 0 to 1 over the
            first `anneal_share` of the steps; cyclical, rising anew in each of `cycles`. It multiplies the
            `beta` of the objective; the validation bound is never annealed.
        clip: largest norm of the gradient of the mean objective; None leaves it.
        patience: stop after so many epochs without a better validation bound; None goes on. Where there are
            validation data, the best epoch's parameters are kept.
        eps: Adam's.
        precision: of float32 matrix products: highest, high or medium (bf16 units where there are some: faster, with
            relative errors of some 2e-3 in the products).
        device: where to fit; the data are moved there once.
        fresh: begin from a random start, not from the parameters that the model has.
        progress: show a bar when there is a terminal.
    """

    objective: Objective = elbo
    epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    warmup: int = 0
    anneal: Literal["none", "linear", "cyclical"] = "none"
    anneal_share: float = 0.1
    cycles: int = 4
    clip: float | None = None
    patience: int | None = 20
    eps: float = 1e-8
    precision: Literal["highest", "high", "medium"] = "highest"
    device: str = "cpu"
    fresh: bool = True
    progress: bool = True

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("warmup", 0), ("cycles", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{name}={value}: it must be at least {least}")
        for name in ("lr", "eps", "clip"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{name}={value}: it must be a positive number")
        if not 0 < self.anneal_share <= 1:
            raise OptionError(f"anneal_share={self.anneal_share}: it must be above 0 and at most 1")
        choices = (("schedule", tuple(SCHEDULES)), ("precision", PRECISIONS), ("anneal", ANNEALINGS))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        if self.anneal != "none" and "beta" not in signature(self.objective).parameters:
            raise OptionError(
                f"anneal={self.anneal!r} weighs the KL by beta, which this objective does not take: use elbo"
            )

    def annealed(self, progress: float) -> Objective:
        """The objective at this progress through the fit."""
        if self.anneal == "none":
            return self.objective
        beta = signature(self.objective).parameters["beta"].default
        options: dict[str, Any] = {"beta": beta * kl_weight(self.anneal, progress, self.anneal_share, self.cycles)}
        return partial(self.objective, **options)

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
        """Fit, and return each epoch's bound, reconstruction and KL.

        Raises:
            NonFiniteError: something became inf or NaN; it names the first thing that did.
        """
        data = as_dataset(data)
        if len(data) == 0:
            raise DataError("there are no data to fit")
        device = _device(self.device)
        with fitting(self.precision, seed):
            model.to(device)
            return _Fit(self, model, data, validation, seed, callbacks, checkpoint).run()


def _device(name: str) -> torch.device:
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device={name!r} cannot be used here ({str(error).splitlines()[0]})") from error


class _Fit:
    """One run of the gradient learner: where it is, and what it has found."""

    def __init__(
        self,
        learner: Gradient,
        model: LatentVariableModel,
        data: Dataset,
        validation: Dataset | None,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
    ):
        self.learner, self.model, self.seed = learner, model, seed
        self.callbacks, self.checkpoint = callbacks, checkpoint
        device = model.anchor.device
        # labels and row numbers are of no use here, and would be copied at every step
        self.data = replace(data, labels=None, rows=None).to(device)
        self.validation = None
        if validation is not None and len(validation):
            self.validation = replace(validation.frozen(seed), labels=None, rows=None).to(device)
        self.names, parameters = zip(*model.named_parameters(), strict=True)
        self.parameters: list[nn.Parameter] = list(parameters)
        self.optimizer = torch.optim.Adam(self.parameters, lr=learner.lr, eps=learner.eps, fused=True)
        self.steps = math.ceil(len(data) / learner.batch_size)
        self.log_det = float(_weighted_mean(data.log_det(), data.batch().weights.double()))
        self.epoch = self.records = self.waited = 0
        self.best_value: float | None = None
        self.best: Tensors = {}
        self.stopped = ""
        self.history = History()

    def run(self) -> History:
        if not self._resume():
            self._begin()
        total = self.learner.epochs * self.steps
        with Bar("fit", total, self.epoch * self.steps, self.learner.progress) as bar:
            while not self.stopped:
                record = self._one_epoch(bar)
                self._judge(record)
                self.records += 1
                self.history.records.append(record)
                for callback in self.callbacks:
                    callback(record)
                if self.checkpoint:
                    self._save()
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()
        self.history.stopped = self.stopped
        return self.history

    def _begin(self) -> None:
        torch.manual_seed(seed_for(self.seed, 0))
        whole = self.data.batch(dtype=self.model.anchor.dtype)
        self.model.check(whole)
        if self.learner.fresh:
            self.model.start(whole, torch.Generator().manual_seed(seed_for(self.seed, 0)))

    def _one_epoch(self, bar: Bar) -> Record:
        began, learner = time.perf_counter(), self.learner
        # every epoch has random numbers of its own, so a resumed fit needs no generator's state
        torch.manual_seed(seed_for(self.seed, self.epoch + 1))
        self.model.train()
        order = torch.randperm(len(self.data)).to(self.model.anchor.device)
        sums, weight, norms, rate = torch.zeros(3, dtype=torch.float64), 0.0, 0.0, learner.lr
        for i, index in enumerate(order.split(learner.batch_size)):
            step = self.epoch * self.steps + i
            rate = learning_rate(learner.schedule, learner.lr, step, learner.epochs * self.steps, learner.warmup)
            means, mass, norm = self._one_step(self.data.batch(index, self.model.anchor.dtype), rate, i)
            sums, weight, norms = sums + mass * means, weight + mass, norms + norm
            if i % 16 == 0:
                value, reconstruction, kl = (sums / max(weight, 1e-300)).tolist()
                bar.show(step + 1, bound=value + self.log_det, reconstruction=_known(reconstruction), kl=_known(kl))
        self.epoch += 1
        value, reconstruction, kl = (sums / max(weight, 1e-300)).tolist()
        return {
            "epoch": self.epoch,
            "step": self.epoch * self.steps,
            "bound": value + self.log_det,
            "reconstruction": _known(reconstruction, self.log_det),
            "kl": _known(kl),
            "validation_bound": self._validate(),
            "lr": rate,
            "gradient_norm": norms / self.steps,
            "seconds": time.perf_counter() - began,
        }

    def _one_step(self, batch: Batch, rate: float, step: int) -> tuple[Tensor, float, float]:
        """One ascent: the means of the bound and its parts, the batch's weight, the gradient's norm."""
        weights = batch.weights
        mass = float(weights.sum()) if batch.weight is not None else float(batch.size)
        progress = (self.epoch * self.steps + step) / (self.learner.epochs * self.steps)
        bound = self.learner.annealed(progress)(self.model, batch)
        loss = -_weighted_mean(bound.value, weights)
        if not math.isfinite(loss.item()):
            raise NonFiniteError(
                f"{_first_nonfinite(self.model, batch, bound)} at epoch {self.epoch + 1}, step {step + 1}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self._checked_norm(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        parts = [part if part is not None else torch.full_like(weights, math.nan) for part in bound]
        means = torch.stack([_weighted_mean(part.detach(), weights).double() for part in parts]).cpu()
        return means, mass, norm

    def _checked_norm(self, step: int) -> float:
        """The gradient's norm, clipped; raises where a gradient is not finite, and names it."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not math.isfinite(norm.item()):
            where = f"is not finite at epoch {self.epoch + 1}, step {step + 1}"
            raise NonFiniteError(f"{self._first_bad()} {where}: lower lr, or set clip")
        if self.learner.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.learner.clip, norm)
        return norm.item()

    def _first_bad(self) -> str:
        """The first parameter, else the first gradient, that is inf or NaN."""
        named = list(zip(self.names, self.parameters, strict=True))
        values = [(f"parameter {name}", p) for name, p in named]
        values += [(f"the gradient of {name}", p.grad) for name, p in named if p.grad is not None]
        bad = [name for name, value in values if not bool(value.isfinite().all())]
        return bad[0] if bad else "the norm of the gradient"

    @torch.no_grad()
    def _validate(self) -> float | None:
        """The mean objective over the validation data, always with the same random numbers."""
        if self.validation is None:
            return None
        self.model.eval()
        torch.manual_seed(seed_for(self.seed, -1))
        total = weight = 0.0
        for batch in self.validation.batches(self.learner.batch_size, sort=True, dtype=self.model.anchor.dtype):
            total += float((self.learner.objective(self.model, batch).value * batch.weights).double().sum())
            weight += float(batch.weights.double().sum())
        log_det = float(_weighted_mean(self.validation.log_det(), self.validation.batch().weights.double()))
        return total / max(weight, 1e-300) + log_det

    def _judge(self, record: Record) -> None:
        """Keep the best epoch by validation, and set `stopped` when it is over."""
        value = record["validation_bound"]
        if value is not None:
            if self.best_value is None or value > self.best_value:
                self.best_value, self.best, self.waited = value, snapshot(self.model), 0
            else:
                self.waited += 1
            if self.learner.patience is not None and self.waited >= self.learner.patience:
                self.stopped = "patience"
        if not self.stopped and self.epoch >= self.learner.epochs:
            self.stopped = "epochs"

    def _save(self) -> None:
        assert self.checkpoint is not None
        state = self.optimizer.state_dict()["state"]
        moments = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
        tensors = prefixed("model", snapshot(self.model)) | prefixed("best", self.best) | prefixed("adam", moments)
        self.checkpoint.save(tensors, {name: getattr(self, name) for name in STATE})

    def _resume(self) -> bool:
        saved = self.checkpoint.load() if self.checkpoint else None
        if self.checkpoint is None or saved is None:
            return False
        with self.checkpoint.fitting():
            self._restore(*saved)
        return True

    def _restore(self, tensors: Tensors, state: dict[str, Any]) -> None:
        self.model.load_state_dict(under("model", tensors))
        self.best = under("best", tensors)
        moments: dict[int, Tensors] = {}
        for name, value in under("adam", tensors).items():
            i, part = name.split(".", 1)
            moments.setdefault(int(i), {})[part] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for name in STATE:
            setattr(self, name, state[name])


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    # a batch of absent data has no mean, and should not stop a fit
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _known(value: float, shift: float = 0.0) -> float | None:
    return None if math.isnan(value) else value + shift


def _first_nonfinite(model: LatentVariableModel, batch: Batch, bound: Bound) -> str:
    """The first quantity, in the order in which they are computed, that is inf or NaN."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"parameter {name} is not finite"
    with torch.no_grad():
        q = model.posterior(batch)
        quantities = {
            "the posterior's mean": q.mean,
            "the posterior's log-partition": getattr(q, "log_partition", None),
        }
        if q.has_rsample:
            quantities["the posterior's standard deviation"] = q.stddev
    for name, value in {**quantities, "kl": bound.kl, "reconstruction": bound.reconstruction}.items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            row = int((~value.flatten(1).isfinite().all(1) if value.ndim > 1 else ~value.isfinite()).nonzero()[0])
            return f"{name} is not finite (first in datum {row + 1} of the batch)"
    return "the objective is not finite"
