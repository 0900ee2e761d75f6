"""The laboratory: bias, variance and cost of gradient estimators, side by side, on a model and data of one's own."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.errors import CapabilityError, OptionError
from latentia.gradients.expectation import Estimator, OfDraw, enumerate

Objective = Callable[..., Bound]


@dataclass
class Row:
    """What was found of one estimator. Gradients are of the mean bound over the batch, in nats, by all parameters that
    were asked for, as one vector.

    Attributes:
        name: of the estimator.
        bias: the norm of (mean gradient - reference), squared, less what noise alone would give, and its root: 0 where
            that is below 0.
        bias_se: the norm that noise alone would give.
        relative_bias: `bias` by the norm of the reference.
        farthest: the largest distance of an entry of the mean gradient from the reference, in standard errors.
        where: the parameter that the entry is of.
        variance: the summed variance of a gradient's entries, from half the squared distances of pairs of them, and
            variance_se, its standard error.
        milliseconds: of one gradient on this batch.
        draws: gradients taken.
    """

    name: str
    bias: float
    bias_se: float
    relative_bias: float
    farthest: float
    where: str
    variance: float
    variance_se: float
    milliseconds: float
    draws: int


@dataclass
class Study:
    """The rows, and what they were compared with.

    Attributes:
        reference: "enumeration", or the estimator of the long run.
        norm: of the reference gradient.
        entries: in the gradient.
    """

    rows: list[Row]
    reference: str
    norm: float
    entries: int

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def table(self) -> str:
        """The rows as text, for a terminal."""
        head = (
            f"{'estimator':<24}{'bias':>11}{'of norm':>9}{'by chance':>11}{'farthest':>10}{'variance':>12}{'± se':>10}"
            f"{'ms':>9}"
        )
        lines = [
            f"{row.name:<24}{row.bias:>11.3g}{row.relative_bias:>9.1%}{row.bias_se:>11.3g}{row.farthest:>8.1f} σ"
            f"{row.variance:>12.4g}{row.variance_se:>10.2g}{row.milliseconds:>9.3g}"
            for row in self.rows
        ]
        below = f"reference: {self.reference}; its norm is {self.norm:.4g}, of {self.entries} entries"
        return "\n".join([head, *lines, below])

    def plot(self, path: str | os.PathLike) -> Path:
        """Variance by time, and the bias of each, as a picture whose kind the name tells (.svg, .png, .pdf)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row in self.rows:
            left.errorbar(row.milliseconds, max(row.variance, 1e-30), yerr=row.variance_se, fmt="o", ms=4)
            left.annotate(row.name, (row.milliseconds, max(row.variance, 1e-30)), fontsize=7, xytext=(3, 3),
                          textcoords="offset points")  # fmt: skip
        left.set(xscale="log", yscale="log", xlabel="milliseconds a gradient", ylabel="variance")
        names = [row.name for row in self.rows]
        right.barh(names, [row.relative_bias for row in self.rows], xerr=[row.bias_se / self.norm for row in self.rows])
        right.set(xlabel="bias, by the norm of the gradient")
        right.invert_yaxis()
        figure.savefig(path)
        return Path(path)


def study(
    model: nn.Module,
    batch: Batch,
    estimators: Mapping[str, Estimator],
    draws: int = 1000,
    *,
    samples: int = 2,
    objective: Objective | None = None,
    reference: str | None = None,
    reference_draws: int = 100_000,
    parameters: Sequence[str] | None = None,
    repeat: int = 10,
    seed: int = 0,
) -> Study:
    """Gradients of each estimator, many times over, against the exact one.

    The exact gradient is that of `gradients.enumerate`; where z has too many values for that, the mean of a long run of
    the unbiased estimator that `reference` names.

    Args:
        model: anything with a `posterior(batch)` and a `log_joint(batch, z)`, of discrete z.
        batch: the data; keep them few.
        estimators: by the names under which they are shown. A learned baseline is as it is: fit it first.
        draws: gradients of each estimator, `repeat` at a time.
        samples: draws of z in each gradient, of all estimators alike.
        objective: what the gradient is of, `objective(model, batch, samples=, estimator=)` to a `Bound`, such as
            `objectives.elbo`, or `objectives.iwae`, which cannot be enumerated and asks for a reference; None is
            E_q[log p(x, z) - log q(z | x)], with all of it drawn.
        parameters: names (or their beginnings) of those that the gradient is by; None is all.
        repeat: copies of the batch in one pass, each with draws of its own.

    Raises:
        CapabilityError: z has too many values to enumerate, and no reference is named.
        OptionError: fewer than 4 passes, or a reference that is none of the estimators.
    """
    if draws < 4 * repeat:
        raise OptionError(f"draws={draws}: the error of a variance takes four passes of repeat={repeat} at least")
    if reference is not None and reference not in estimators:
        raise OptionError(f"reference={reference!r} is none of the estimators: {', '.join(estimators)}")
    chosen = {n: p for n, p in model.named_parameters() if p.requires_grad and _asked(n, parameters)}
    of = partial(_bound if objective is None else objective, model, samples=samples)
    with torch.random.fork_rng(), _evaluated(model):
        torch.manual_seed(seed)
        if reference is None:
            exact, noise = _exact(of, batch, chosen), None
        else:
            passes = max(reference_draws // repeat, 4)
            run = _Run.of(of, batch, estimators[reference], chosen, passes, repeat)
            exact, noise = run.mean, run.error
        rows = [
            _row(name, _Run.of(of, batch, one, chosen, draws // repeat, repeat), exact, noise, chosen)
            for name, one in estimators.items()
        ]
    known = "enumeration" if reference is None else f"{reference_draws} draws of {reference}"
    return Study(rows, known, float(exact.norm()), exact.numel())


def _bound(model: Any, batch: Batch, *, samples: int, estimator: Estimator) -> Bound:
    q = model.posterior(batch)
    f = OfDraw(q, lambda drawn: model.log_joint(batch, drawn.z) - drawn.log_q, batch)
    return Bound(estimator(q, f, samples))


def _asked(name: str, parameters: Sequence[str] | None) -> bool:
    return parameters is None or any(name.startswith(begin) for begin in parameters)


class _evaluated:
    """The model in evaluation mode for a while: dropout would be a noise that is no estimator's."""

    def __init__(self, model: nn.Module):
        self.model, self.mode = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.mode)


def _slope(of: Callable[..., Bound], batch: Batch, estimator: Estimator, chosen: Mapping[str, nn.Parameter]) -> Tensor:
    """The gradient of the mean bound as one vector, float64."""
    value = of(batch, estimator=estimator).value.mean()
    slopes = torch.autograd.grad(value, list(chosen.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes]).double()


def _exact(of: Callable[..., Bound], batch: Batch, chosen: Mapping[str, nn.Parameter]) -> Tensor:
    try:
        return _slope(of, batch, enumerate, chosen)
    except CapabilityError as error:
        raise CapabilityError(f"{error}; for a study, name an unbiased estimator as reference=") from error


@dataclass
class _Run:
    """Gradients of one estimator, averaged `repeat` at a time.

    Attributes:
        mean, error: of a gradient's entries, and the standard error of that mean, (P,).
        variance, variance_se: summed over the entries, of one gradient.
    """

    mean: Tensor
    error: Tensor
    variance: float
    variance_se: float
    milliseconds: float
    draws: int

    @classmethod
    def of(
        cls,
        of: Callable[..., Bound],
        batch: Batch,
        estimator: Estimator,
        chosen: Mapping[str, nn.Parameter],
        passes: int,
        repeat: int,
    ) -> _Run:
        many = batch.select(torch.arange(batch.size, device=batch.x.device).repeat(repeat))
        began = time.perf_counter()
        first = _slope(of, many, estimator, chosen)
        # around the first one, so that no large mean is subtracted from large squares
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        halves: list[Tensor] = []
        for _ in range(passes // 2):
            # around the first one, so that no large mean is subtracted from large squares
            pair = [_slope(of, many, estimator, chosen) - first for _ in range(2)]
            total += pair[0] + pair[1]
            squares += pair[0].square() + pair[1].square()
            halves.append((pair[0] - pair[1]).square().sum() / 2)
        seconds, taken = time.perf_counter() - began, 2 * len(halves)
        mean = total / taken
        spread = (squares / taken - mean.square()).clamp(min=0) * taken / (taken - 1)
        apart = torch.stack(halves)
        return cls(
            mean + first,
            (spread / taken).sqrt(),
            repeat * float(apart.mean()),
            repeat * float(apart.std()) / math.sqrt(len(halves)),
            1e3 * seconds / ((taken + 1) * repeat),
            taken * repeat,
        )


def _row(name: str, run: _Run, exact: Tensor, noise: Tensor | None, chosen: Mapping[str, nn.Parameter]) -> Row:
    error = run.error if noise is None else (run.error.square() + noise.square()).sqrt()
    distance = run.mean - exact
    # an entry that never varies is right or wrong to rounding
    floor = 1e-9 * (1 + exact.abs().max())
    deviations = distance.abs() / error.clamp(min=float(floor))
    at = int(deviations.argmax())
    squared = float(distance.square().sum() - error.square().sum())
    bias = math.sqrt(max(squared, 0.0))
    return Row(
        name=name,
        bias=bias,
        bias_se=float(error.norm()),
        relative_bias=bias / max(float(exact.norm()), 1e-300),
        farthest=float(deviations[at]),
        where=_owner(at, chosen),
        variance=run.variance,
        variance_se=run.variance_se,
        milliseconds=run.milliseconds,
        draws=run.draws,
    )


def _owner(at: int, chosen: Mapping[str, nn.Parameter]) -> str:
    for name, parameter in chosen.items():
        if at < parameter.numel():
            return f"{name}[{at}]"
        at -= parameter.numel()
    raise IndexError(at)
