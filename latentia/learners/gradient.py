"""Stochastic gradient ascent on an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from latentia.data import Dataset, as_dataset, check_columns, remember
from latentia.errors import DataError, OptionError
from latentia.learners.ascent import EVERY, Climber, Tally, weighted_mean
from latentia.learners.checkpoint import Checkpoint, Tensors, snapshot, the_same_shapes
from latentia.learners.course import Course
from latentia.learners.history import Callback, History, Record
from latentia.learners.remedies import catch_up, inference_parameters
from latentia.learners.schedules import ANNEALINGS, SCHEDULES, kl_weight, learning_rate
from latentia.learners.settings import PRECISIONS, fitting, seed_for, usable_device, whole_steps
from latentia.measure.information import mutual_information
from latentia.model import LatentVariableModel, by_length, held, minibatches
from latentia.objectives import Objective, elbo
from latentia.progress import Bar


@dataclass
class Gradient:
    """Adam (Kingma and Ba 2015) on the mean of an objective over the data, sum_n w_n f_n / sum_n w_n.

    A step divides its sum of w_n f_n by the weight of a full minibatch of average data, not by its own: a datum counts
    by its weight, and the same, in whatever minibatch it comes, and the optimum does not depend on `batch_size`.

    Args:
        objective: what is climbed; bind options with `functools.partial(elbo, beta=0.5)`.
        epochs: most passes over the data.
        batch_size: data a step; a last datum alone joins those of the step before.
        lr: the highest learning rate.
        schedule: of the learning rate: constant, cosine, linear, exponential or stages (see `schedules`).
        warmup: steps over which the rate rises to `lr`.
        anneal: weight of the KL during the fit, against posterior collapse: none; linear, rising from 0 to 1 over the
            first `anneal_share` of the steps; cyclical, rising anew in each of `cycles`. It multiplies the
            `beta` of the objective; the validation bound is never annealed.
        pretrain: of the epochs, so many at first as an autoencoder, with the KL at no weight; then the generative model
            goes back to where it began, and the inference network keeps what it has learned (Li et al. 2019,
            with `anneal` and free bits). The schedules of `lr` and `anneal` begin after it. The objective has to have
            a `beta`.
        aggressive: before each step of the generative model, steps of the inference network alone until they stop
            helping (see `remedies.catch_up`); from the first epoch that does not raise the mutual information on the
            validation data, both together as usual (He et al. 2019, algorithm 1 and section 4.2).
        clip: largest norm of the gradient of the mean objective; None leaves it.
        patience: stop after so many epochs without a better validation bound; None goes on. Where there are
            validation data, the best epoch's parameters are kept.
        eps: Adam's.
        compile: the objective and its gradient, as one graph by `torch.compile`; on a GPU as a CUDA graph. Takes up to
            a minute at first.
        precision: of float32 matrix products: highest, high or medium (bf16 units where there are some: faster, with
            relative errors of some 2e-3 in the products, and in all that lies between convolutions).
        device: where to fit; the data are moved there once.
        fresh: begin from a random start, not from the parameters that the model has. What is frozen
            (`requires_grad_(False)`, of a part of the model too) keeps its values all the same.
        progress: show a bar when there is a terminal.
        pool: of sequences and text, minibatches that are sorted by length together: with 8, an epoch of captions has
            less padding and takes less time; but a minibatch of like lengths is no random sample, and where lengths
            are much of what there is to learn its steps are worse. 1 sorts nothing.
        cool_to: the temperature that the objective's estimator (`gradients.gumbel_softmax`) ends at, falling from its
            own by the same factor at every step; None leaves it. The validation bound has hard draws at any.
    """

    objective: Objective = elbo
    epochs: int = 100
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Literal["constant", "cosine", "linear", "exponential", "stages"] = "constant"
    warmup: int = 0
    anneal: Literal["none", "linear", "cyclical"] = "none"
    anneal_share: float = 0.1
    cycles: int = 4
    pretrain: int = 0
    aggressive: bool = False
    clip: float | None = None
    patience: int | None = 20
    eps: float = 1e-8
    compile: bool = False
    precision: Literal["highest", "high", "medium"] = "highest"
    device: str = "cpu"
    fresh: bool = True
    progress: bool = True
    pool: int = 1
    cool_to: float | None = None

    def __post_init__(self):
        least_of = {"epochs": 1, "batch_size": 1, "pool": 1, "patience": 1, "warmup": 0, "cycles": 1, "pretrain": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{name}={value}: it must be at least {least}")
        for name in ("lr", "eps", "clip", "cool_to"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{name}={value}: it must be a positive number")
        if not 0 < self.anneal_share <= 1:
            raise OptionError(f"anneal_share={self.anneal_share}: it must be above 0 and at most 1")
        choices = (("schedule", tuple(SCHEDULES)), ("precision", PRECISIONS), ("anneal", ANNEALINGS))
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        self._check_remedies()

    def _check_remedies(self) -> None:
        if self.pretrain >= self.epochs:
            raise OptionError(f"pretrain={self.pretrain}: it must be below epochs={self.epochs}")
        for name, off in (("anneal", "none"), ("pretrain", 0)):
            value = getattr(self, name)
            if value != off and "beta" not in signature(self.objective).parameters:
                raise OptionError(
                    f"{name}={value!r} weighs the KL by beta, which this objective does not take: use elbo"
                )

        if self.cool_to is not None and not any(hasattr(module, "cool") for module in beside(self.objective).modules()):
            raise OptionError(
                "cool_to lowers a temperature, which this objective's estimator has not: use gumbel_softmax"
            )

    def annealed(self, progress: float) -> Objective:
        """The objective at this progress through what follows the pretraining; below 0 in the pretraining."""
        if self.anneal == "none" and progress >= 0:
            return self.objective
        beta = signature(self.objective).parameters["beta"].default
        weight = kl_weight(self.anneal, progress, self.anneal_share, self.cycles) if progress >= 0 else 0.0
        options: dict[str, Any] = {"beta": beta * weight}
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
        given, data = data, as_dataset(data)
        if len(data) == 0:
            raise DataError("there are no data to fit")
        device = usable_device(self.device)
        with fitting(self.precision, seed), whole_steps() if self.compile else nullcontext():
            model.to(device)
            history = _Fit(self, model, data, validation, seed, callbacks, checkpoint).run()
        remember(model, given, data.schema)
        return history


def beside(objective: Objective) -> nn.ModuleDict:
    """The modules among an objective's options, as an estimator with a baseline: they learn as the model does."""
    options = objective.keywords if isinstance(objective, partial) else {}
    return nn.ModuleDict({name: option for name, option in options.items() if isinstance(option, nn.Module)})


def cool(modules: nn.Module, target: float, progress: float) -> None:
    """Set the temperature of each module that has one, on its way to `target`."""
    for module in modules.modules():
        if hasattr(module, "cool"):
            module.cool(target, progress)  # type: ignore[operator]


class _Fit(Course):
    """One run of the gradient learner: where it is, and what it has found."""

    STATE = ("epoch", "records", "waited", "best_value", "stopped", "aggressive", "information")

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
        super().__init__(callbacks, checkpoint)
        self.learner, self.model, self.seed = learner, model, seed
        device = model.anchor.device
        # labels and row numbers are of no use here, and would be copied at every step
        self.data = replace(data, labels=None, rows=None).to(device)
        self.validation = None
        if validation is not None and len(validation):
            self.validation = replace(validation.frozen(seed), labels=None, rows=None).to(device)
        if min(learner.batch_size, len(data)) == 1 and any(isinstance(m, nn.BatchNorm1d) for m in model.modules()):
            raise OptionError(
                "batch normalisation has no variance of one datum: give batch_size of at least 2, and as many data"
            )
        self.steps = len(minibatches(torch.arange(len(data)), learner.batch_size))
        weights = data.batch().weights.double()
        if not bool(weights.sum() > 0):
            raise DataError(f"{data.schema.source}: every weight is 0, so there is nothing to learn from")
        self.log_det = float(weighted_mean(data.log_det(), weights))
        self.beside = self._begun(beside(learner.objective))
        # the weight of a full minibatch of average data
        full = min(learner.batch_size, len(data)) * float(weights.mean())
        how: dict[str, Any] = {
            "clip": learner.clip,
            "compile": learner.compile,
            "eps": learner.eps,
            "beside": self.beside,
        }
        self.climber, self.dtype = Climber(model, self.data, full, **how), model.anchor.dtype
        self.epoch = self.waited = 0
        self.best_value: float | None = None
        self.best: Tensors = {}
        self.stopped = ""
        self.aggressive, self.information = learner.aggressive, 0.0
        if self.aggressive and self.validation is None:
            raise OptionError("aggressive=True ends by the mutual information on validation data: there are none")
        self.origin: Tensors = {}

    def _begun(self, modules: nn.Module) -> nn.Module:
        """What the objective learns beside the model, at its start: the same fit twice begins twice alike."""
        anchor = self.model.anchor
        for module in modules.modules():
            if hasattr(module, "start") and (self.learner.fresh or not getattr(module, "begun", True)):
                generator = torch.Generator().manual_seed(seed_for(self.seed, 0))
                module.start(self.data.batch(dtype=anchor.dtype), generator)  # type: ignore[operator]
        modules.to(anchor.device)
        for parameter in modules.parameters():
            parameter.data = parameter.data.to(anchor.dtype)
        return modules

    def run(self) -> History:
        if not self.resume():
            self._begin()
        total = self.learner.epochs * self.steps
        with Bar("fit", total, self.epoch * self.steps, self.learner.progress) as bar:
            while not self.stopped:
                record = self._one_epoch(bar)
                if self.epoch > self.learner.pretrain:
                    self._judge(record)
                if self.epoch == self.learner.pretrain:
                    self._reset()
                self.record(record)
                self.save()
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()
        self.history.stopped = self.stopped
        return self.history

    def _begin(self) -> None:
        torch.manual_seed(seed_for(self.seed, 0))
        whole = self.data.batch(dtype=self.model.anchor.dtype)
        check_columns(self.model, self.data.schema)
        self.model.check(whole)
        if self.learner.fresh:
            with held(self.model):
                self.model.start(whole, torch.Generator().manual_seed(seed_for(self.seed, 0)))
        if self.learner.pretrain:
            self.origin = {name: p.detach().clone() for name, p in self._generative().items()}

    @cached_property
    def inference(self) -> dict[str, nn.Parameter]:
        """The parameters of the inference network."""
        with torch.random.fork_rng():  # a dynamic binarization draws, and a resumed fit comes by here later
            return inference_parameters(self.model, self.data.batch(slice(0, 2), self.model.anchor.dtype))

    def _generative(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if name not in self.inference}

    def _trained(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those that are not frozen: a callback may freeze some, or set them free."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not set(trained) - set(self.beside.parameters()):
            raise OptionError("every parameter is frozen (requires_grad=False): there is nothing to learn")
        return trained

    @torch.no_grad()
    def _reset(self) -> None:
        """The end of the pretraining: the generative model is where it began, and Adam remembers nothing."""
        for name, parameter in self._generative().items():
            parameter.copy_(self.origin[name])
        self.origin = {}
        self.climber.forget()

    def _one_epoch(self, bar: Bar) -> Record:
        began, learner = time.perf_counter(), self.learner
        # every epoch has random numbers of its own, so a resumed fit needs no generator's state
        torch.manual_seed(seed_for(self.seed, self.epoch + 1))
        self.model.train()
        order = self._order()
        tally, norms, rate = Tally(), [], learner.lr
        # the pretraining is before step 0
        begun, chasing = learner.pretrain * self.steps, self.aggressive and self.epoch >= learner.pretrain
        own = list(self.beside.parameters())
        chosen, chased = self._trained([*self._generative().values(), *own] if chasing else self.climber.parameters), 0
        for i, index in enumerate(order):
            step, total = self.epoch * self.steps + i - begun, learner.epochs * self.steps - begun
            rate = learner.lr
            if step >= 0:
                rate = learning_rate(learner.schedule, learner.lr, step, total, learner.warmup)
            objective = learner.annealed(step / total)
            if learner.cool_to is not None:
                cool(self.beside, learner.cool_to, max(step / total, 0.0))
            if chasing:
                chased += catch_up(lambda f=objective, lr=rate, i=i: self._inference_step(f, lr, i))
            batch = self.data.batch(index, self.dtype)
            ascent, norm = self.climber.step(objective, batch, chosen, rate, self.epoch, i)
            tally.add(ascent.bound, batch)
            if norm is not None:
                norms.append(norm)
            if i % EVERY == 0:
                value, reconstruction, kl = tally.means()
                bar.show(
                    step + begun + 1, bound=value + self.log_det, reconstruction=_known(reconstruction), kl=_known(kl)
                )
        self.epoch += 1
        value, reconstruction, kl = tally.means()
        record: Record = {
            "epoch": self.epoch,
            "step": self.epoch * self.steps,
            "bound": value + self.log_det,
            "reconstruction": _known(reconstruction, self.log_det),
            "kl": _known(kl),
            "validation_bound": self._validate(),
            "lr": rate,
            "gradient_norm": sum(norms) / len(norms),
        }
        if chasing:
            record |= {"inference_steps": chased, "mutual_information": self._informed()}
        return record | {"seconds": time.perf_counter() - began}

    def _order(self) -> list[Tensor]:
        """The minibatches of an epoch, at random."""
        order = torch.randperm(len(self.data)).to(self.data.x.device)
        if self.data.lengths is None or self.learner.pool == 1:
            return minibatches(order, self.learner.batch_size)
        return by_length(order, self.data.lengths, self.learner.batch_size, self.learner.pool)

    def _inference_step(self, objective: Objective, rate: float, step: int) -> float:
        """One ascent of the inference network alone, on data drawn at random: the bound."""
        index = torch.randint(len(self.data), (min(self.learner.batch_size, len(self.data)),))
        batch = self.data.batch(index.to(self.model.anchor.device), self.dtype)
        chosen = [*self.inference.values(), *self.beside.parameters()]
        ascent, _ = self.climber.step(objective, batch, chosen, rate, self.epoch, step)
        return float(ascent.mean)

    def _informed(self) -> float:
        """The mutual information on the validation data; the aggressive training is over once it does not rise."""
        assert self.validation is not None
        information, _ = mutual_information(self.model, self.validation, seed=self.seed)
        self.aggressive, self.information = information > self.information, information
        return information

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
        log_det = float(weighted_mean(self.validation.log_det(), self.validation.batch().weights.double()))
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

    def _parts(self) -> dict[str, Tensors]:
        model = snapshot(self.model)
        adam, own = self.climber.optimizer.tensors(), snapshot(self.beside)
        return {"model": model, "best": self.best, "adam": adam, "origin": self.origin, "beside": own}

    def _take_parts(self, part: Callable[[str], Tensors], state: dict[str, Any]) -> None:
        self.model.load_state_dict(part("model"))
        self.best = the_same_shapes(part("best"), self.model)
        self.origin = part("origin")
        self.beside.load_state_dict(part("beside"))
        self.climber.optimizer.load(part("adam"))


def _known(value: float, shift: float = 0.0) -> float | None:
    return None if math.isnan(value) else value + shift
