"""Stochastic gradient ascent on an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from latentia.data import Dataset, as_dataset
from latentia.errors import DataError, NonFiniteError, OptionError
from latentia.learners.adam import Adam
from latentia.learners.checkpoint import Checkpoint, Tensors, snapshot, the_same_shapes
from latentia.learners.course import Course
from latentia.learners.history import Callback, History, Record
from latentia.learners.remedies import catch_up, inference_parameters
from latentia.learners.schedules import ANNEALINGS, SCHEDULES, kl_weight, learning_rate
from latentia.learners.settings import PRECISIONS, fitting, seed_for, usable_device, whole_steps
from latentia.measure.information import mutual_information
from latentia.model import Batch, LatentVariableModel, held, minibatches
from latentia.objectives import Bound, Objective, elbo
from latentia.progress import Bar

EVERY = 16
"""Steps between two looks at the gradient's norm, which takes a twentieth of a small model's step."""

LARGE = 10.0
"""Values beyond it are not of unit scale."""


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

    def __post_init__(self):
        least_of = {"epochs": 1, "batch_size": 1, "patience": 1, "warmup": 0, "cycles": 1, "pretrain": 0}
        for name, least in least_of.items():
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
        data = as_dataset(data)
        if len(data) == 0:
            raise DataError("there are no data to fit")
        device = usable_device(self.device)
        with fitting(self.precision, seed), whole_steps() if self.compile else nullcontext():
            model.to(device)
            return _Fit(self, model, data, validation, seed, callbacks, checkpoint).run()


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
        named = dict(model.named_parameters())
        self.names, self.parameters = list(named), list(named.values())
        self.optimizer, self.dtype = Adam(self.parameters, learner.eps), model.anchor.dtype
        if min(learner.batch_size, len(data)) == 1 and any(isinstance(m, nn.BatchNorm1d) for m in model.modules()):
            raise OptionError(
                "batch normalisation has no variance of one datum: give batch_size of at least 2, and as many data"
            )
        self.steps = len(minibatches(torch.arange(len(data)), learner.batch_size))
        weights = data.batch().weights.double()
        if not bool(weights.sum() > 0):
            raise DataError(f"{data.schema.source}: every weight is 0, so there is nothing to learn from")
        self.log_det = float(_weighted_mean(data.log_det(), weights))
        # the weight of a full minibatch of average data
        self.full = min(learner.batch_size, len(data)) * float(weights.mean())
        self.epoch = self.waited = 0
        self.best_value: float | None = None
        self.best: Tensors = {}
        self.stopped = ""
        self.aggressive, self.information = learner.aggressive, 0.0
        if self.aggressive and self.validation is None:
            raise OptionError("aggressive=True ends by the mutual information on validation data: there are none")
        self.origin: Tensors = {}

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
        named = zip(self.names, self.parameters, strict=True)
        return {name: parameter for name, parameter in named if name not in self.inference}

    def _trained(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those that are not frozen: a callback may freeze some, or set them free."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            raise OptionError("every parameter is frozen (requires_grad=False): there is nothing to learn")
        return trained

    @torch.no_grad()
    def _reset(self) -> None:
        """The end of the pretraining: the generative model is where it began, and Adam remembers nothing."""
        for name, parameter in self._generative().items():
            parameter.copy_(self.origin[name])
        self.origin, self.optimizer = {}, Adam(self.parameters, self.learner.eps)

    def _one_epoch(self, bar: Bar) -> Record:
        began, learner = time.perf_counter(), self.learner
        # every epoch has random numbers of its own, so a resumed fit needs no generator's state
        torch.manual_seed(seed_for(self.seed, self.epoch + 1))
        self.model.train()
        order = torch.randperm(len(self.data)).to(self.data.x.device)
        tally, norms, rate = _Tally(), [], learner.lr
        # the pretraining is before step 0
        begun, chasing = learner.pretrain * self.steps, self.aggressive and self.epoch >= learner.pretrain
        chosen, chased = self._trained(self._generative().values() if chasing else self.parameters), 0
        for i, index in enumerate(minibatches(order, learner.batch_size)):
            step, total = self.epoch * self.steps + i - begun, learner.epochs * self.steps - begun
            rate = learner.lr
            if step >= 0:
                rate = learning_rate(learner.schedule, learner.lr, step, total, learner.warmup)
            objective = learner.annealed(step / total)
            if chasing:
                chased += catch_up(lambda f=objective, lr=rate, i=i: self._inference_step(f, lr, i))
            batch = self.data.batch(index, self.dtype)
            ascent, norm = self._one_step(objective, batch, chosen, rate, i)
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

    def _inference_step(self, objective: Objective, rate: float, step: int) -> float:
        """One ascent of the inference network alone, on data drawn at random: the bound."""
        index = torch.randint(len(self.data), (min(self.learner.batch_size, len(self.data)),))
        batch = self.data.batch(index.to(self.model.anchor.device), self.dtype)
        ascent, _ = self._one_step(objective, batch, list(self.inference.values()), rate, step)
        return float(ascent.mean)

    def _informed(self) -> float:
        """The mutual information on the validation data; the aggressive training is over once it does not rise."""
        assert self.validation is not None
        information, _ = mutual_information(self.model, self.validation, seed=self.seed)
        self.aggressive, self.information = information > self.information, information
        return information

    def _one_step(
        self, objective: Objective, batch: Batch, chosen: list[nn.Parameter], rate: float, step: int
    ) -> tuple[Ascent, float | None]:
        """One ascent of the chosen parameters: what it went by, and of some steps the gradient's norm."""
        ascent = self._ascent(objective, batch, chosen)
        # to look at a number makes the host wait for a GPU, so there it is done now and then
        looking, clip = step % EVERY == 0, self.learner.clip
        asking = looking or not ascent.mean.is_cuda
        if asking and not math.isfinite(ascent.mean.item()):
            raise NonFiniteError(
                f"{_first_nonfinite(self.model, batch, ascent.bound)} at epoch {self.epoch + 1}, step {step + 1}"
                + unscaled(self.data)
            )
        slopes, norm = ascent.slopes, None
        if looking or clip is not None:
            norm = nn.utils.get_total_norm([slope for slope in slopes if slope is not None])
            if asking and not math.isfinite(norm.item()):
                where = f"is not finite at epoch {self.epoch + 1}, step {step + 1}"
                raise NonFiniteError(
                    f"{self._first_bad(chosen, slopes)} {where}: lower lr, or set clip{unscaled(self.data)}"
                )
        if norm is not None and clip is not None:
            slopes = _times(slopes, (clip / (norm + 1e-6)).clamp(max=1.0))
        if len(chosen) < len(self.parameters):
            found = dict(zip(chosen, slopes, strict=True))
            slopes = [found.get(parameter) for parameter in self.parameters]
        self.optimizer.step(slopes, rate)
        return ascent, norm.item() if norm is not None and looking else None

    def _ascent(self, objective: Objective, batch: Batch, chosen: list[nn.Parameter]) -> Ascent:
        if not self.learner.compile:
            return climbed(objective, self.model, batch, chosen, self.full)
        options = objective.keywords if isinstance(objective, partial) else {}
        # a number that changes from step to step would be compiled anew each time, a tensor is not
        like = {"dtype": self.dtype, "device": batch.x.device}
        changing = {name: torch.as_tensor(options[name], **like) for name in ("beta",) if name in options}
        function = objective.func if isinstance(objective, partial) else objective
        return self.compiled(function, self.model, batch, chosen, self.full, **(options | changing))

    @cached_property
    def compiled(self) -> Callable[..., Ascent]:
        # on a GPU as CUDA graphs: small models spend their time in launching kernels
        how: dict[str, Any] = {"options": {"cpp_wrapper": True}}
        if self.model.anchor.is_cuda:
            how = {"mode": "reduce-overhead"}
        # what another fit compiled may have been of another precision, and torch keeps but a few
        torch.compiler.reset()
        # for each size of batch, of which there are two: not all convolutions compile for sizes that are left open
        return torch.compile(climbed, dynamic=False, **how)

    def _first_bad(self, chosen: list[nn.Parameter], slopes: Sequence[Tensor | None]) -> str:
        """The first parameter, else the first gradient, that is inf or NaN."""
        name_of = dict(zip(self.parameters, self.names, strict=True))
        values: list[tuple[str, Tensor]] = [(f"parameter {name}", p) for p, name in name_of.items()]
        pairs = zip(chosen, slopes, strict=True)
        values += [(f"the gradient of {name_of[p]}", slope) for p, slope in pairs if slope is not None]
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

    def _parts(self) -> dict[str, Tensors]:
        model = snapshot(self.model)
        return {"model": model, "best": self.best, "adam": self.optimizer.tensors(), "origin": self.origin}

    def _take_parts(self, part: Callable[[str], Tensors], state: dict[str, Any]) -> None:
        self.model.load_state_dict(part("model"))
        self.best = the_same_shapes(part("best"), self.model)
        self.origin = part("origin")
        self.optimizer.load(part("adam"))


class Ascent(NamedTuple):
    """What a step goes by.

    Attributes:
        mean: of the bound, (), nats a datum: its weighted sum over the batch by the weight of a full batch.
        bound: of each datum, without a gradient.
        slopes: of minus the mean, by each parameter; None for one that it does not depend on.
    """

    mean: Tensor
    bound: Bound
    slopes: Sequence[Tensor | None]


def climbed(
    objective: Callable[..., Bound],
    model: LatentVariableModel,
    batch: Batch,
    parameters: Sequence[nn.Parameter],
    full: float | None = None,
    **options: Any,
) -> Ascent:
    """The objective and its gradient: all of a step that is worth compiling, as one function. `full` is the weight of
    a full batch of average data, None that of this one."""
    bound = objective(model, batch, **options)
    value = bound.value if batch.weight is None else bound.value * batch.weight
    mean = _weighted_mean(bound.value, batch.weight) if full is None else value.sum() / full
    slopes = torch.autograd.grad(mean, parameters, torch.full_like(mean, -1.0), allow_unused=True)
    parts = [None if part is None else part.detach() for part in bound]
    return Ascent(mean.detach(), Bound(*parts), slopes)  # type: ignore[arg-type]


class _Tally:
    """Weighted means of a bound and its parts over the steps so far. They are added up several steps at a time: for a
    small model the sums of every step would take a fiftieth of it."""

    def __init__(self):
        self.sums: Tensor | float = 0.0
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, bound: Bound, batch: Batch) -> None:
        absent = torch.full_like(bound.value, math.nan) if bound.kl is None or bound.reconstruction is None else None
        # a copy: a graph on a GPU writes its next bound over this one
        columns = torch.stack([absent if part is None else part for part in bound])  # type: ignore[misc]
        self.waiting.append((columns, batch.weights))

    def means(self) -> list[float]:
        """Of the value, the reconstruction and the KL; NaN for one that is not there."""
        if self.waiting:
            columns, weights = (torch.cat(parts, -1).double() for parts in zip(*self.waiting, strict=True))
            self.sums = self.sums + torch.cat([columns * weights, weights.unsqueeze(0)]).sum(-1)
            self.waiting = []
        *sums, mass = self.sums.tolist()  # type: ignore[union-attr]
        return [sum / max(mass, 1e-300) for sum in sums]


def _times(slopes: Sequence[Tensor | None], factor: Tensor) -> list[Tensor | None]:
    """Not in place: parameters that are added to each other have one gradient."""
    products: tuple[Tensor, ...] = torch._foreach_mul([slope for slope in slopes if slope is not None], factor)  # type: ignore[reportPrivateImportUsage]
    rest = iter(products)
    return [None if slope is None else next(rest) for slope in slopes]


def _weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    # a batch of absent data has no mean, and should not stop a fit
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _known(value: float, shift: float = 0.0) -> float | None:
    return None if math.isnan(value) else value + shift


def unscaled(data: Dataset) -> str:
    """What to do about data that are far from unit scale, as words to add to an error; none where they are not."""
    if not data.x.is_floating_point() or not len(data):
        return ""
    batch = data.batch()
    size = torch.where(batch.observed, batch.x, 0.0).abs().flatten(0, -2).amax(0)
    column = int(size.argmax())
    if not float(size[column]) > LARGE:
        return ""
    return (
        f"; column {column + 1} of the data has values of size {float(size[column]):.3g}: bring them to unit scale "
        "(load(..., scale='standard'), --scale standard)"
    )


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
