"""Rows whose columns are each of their own kind: numbers, categories, yes or no, counts.

Such a row is one tensor (..., D) of floats: a number is itself, a category its position 0..V-1, yes is 1 and no 0, a
count itself. Of what is hidden nothing is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, Poisson, constraints
from torch.nn.functional import one_hot

from latentia.distributions import observed
from latentia.errors import DataError, OptionError

Column = str | int
"""What a column holds: "real", "binary", "count", or how many categories it has."""
NUMBERS = ("real", "binary", "count")
LARGEST_LOG_RATE = 20.0
"""A network that asks for more counts than half a billion has lost its way."""


def columns_of(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns as a tuple. Raises `OptionError` where there is none, or one is of no kind."""
    for column in columns:
        if isinstance(column, bool) or not (column >= 1 if isinstance(column, int) else column in NUMBERS):
            raise OptionError(
                f"columns: {column!r} is no kind of column: write {', '.join(NUMBERS)}, or the number of its categories"
            )
    if not columns:
        raise OptionError("columns: there must be at least one")
    return tuple(columns)


def places(columns: Sequence[Column], kind: str) -> list[int]:
    """Which columns are of a kind: one of `NUMBERS`, or "category"."""
    return [d for d, column in enumerate(columns) if (column if isinstance(column, str) else "category") == kind]


class ByColumn(Distribution):
    """Independent columns, each of a kind of its own: batch shape (..., D), a factor for each column.

    Its mean is E[x] of numbers and counts and p(1) of yes or no; of a category, of which there is no mean, it is the
    most probable one, and the variance is NaN.

    Args:
        columns: what each column holds, see `Column`.
        parts: distributions of batch shape (..., D_i), and which D_i columns each is of.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, columns: Sequence[Column], parts: Sequence[tuple[Distribution, list[int]]]):
        self.columns, self.parts = tuple(columns), tuple(parts)
        first = self.parts[0][0]
        super().__init__(torch.Size([*first.batch_shape[:-1], len(self.columns)]), validate_args=False)
        order = torch.tensor([d for _, where in self.parts for d in where])
        self._back = order.argsort()

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        """What the parts give, in the order of the columns."""
        return torch.cat(list(values), -1)[..., self._back.to(values[0].device)]

    @property
    def support(self) -> constraints.Constraint:
        kinds = {isinstance(column, str) and column == "real" for column in self.columns}
        return constraints.real if True in kinds else constraints.nonnegative_integer  # type: ignore[return-value]

    @property
    def mean(self) -> Tensor:
        return self._joined(
            [_likeliest(part) if isinstance(part, Categorical) else part.mean for part, _ in self.parts]
        )

    @property
    def variance(self) -> Tensor:
        return self._joined([part.variance for part, _ in self.parts])

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        drawn = [part.sample(torch.Size(sample_shape)) for part, _ in self.parts]
        # a draw of categories is of whole numbers
        return self._joined([part.to(self.parts[0][0].mean) for part in drawn])

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x_d) of each column, (..., D), in nats."""
        return self._joined([part.log_prob(value[..., where]) for part, where in self.parts])


def _likeliest(part: Categorical) -> Tensor:
    return part.logits.argmax(-1).to(part.logits)


@observed.log_prob.register
def _(p: ByColumn, x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return p.log_prob(x).flatten(2).sum(-1)
    # what lies under a mask may be no category at all
    value = p.log_prob(torch.where(mask, x, torch.zeros_like(x)))
    return torch.where(mask, value, 0.0).flatten(2).sum(-1)


@observed.moments.register
def _(p: ByColumn) -> Tensor:
    return torch.cat(
        [part.probs.flatten(-2) if isinstance(part, Categorical) else part.mean for part, _ in p.parts], -1
    )


@observed.of_moments.register
def _(p: ByColumn, moments: Tensor) -> Tensor:
    """Of a category, and of yes or no, the likelier value: half a category is none."""
    found, start = [], 0
    for part, where in p.parts:
        levels = part.probs.shape[-1] if isinstance(part, Categorical) else 1
        some = moments[..., start : start + levels * len(where)].unflatten(-1, (len(where), levels))
        start += levels * len(where)
        numbers = p.columns[where[0]] in ("real", "count")
        one = some[..., 0] if numbers else some.argmax(-1) if levels > 1 else (some[..., 0] > 0.5)
        found.append(one.to(moments))
    return p._joined(found)


class Encoder(torch.nn.Module):
    """A row (..., D) as numbers that a network or a distance takes, (..., F): a category as a one-hot row, a count as
    log(1 + x), the rest as it is; zeros where it is hidden.

    Args:
        columns: what each column holds, see `Column`.
    """

    def __init__(self, columns: Sequence[Column]):
        super().__init__()
        self.columns = columns_of(columns)
        self.outputs = sum(column if isinstance(column, int) else 1 for column in self.columns)

    def spread(self, values: Tensor) -> Tensor:
        """What is of a column, (..., D), once for each of its numbers, (..., F)."""
        times = torch.tensor([column if isinstance(column, int) else 1 for column in self.columns])
        return values.repeat_interleave(times.to(values.device), -1)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        parts = []
        for d, column in enumerate(self.columns):
            part = x[..., d : d + 1]
            if isinstance(column, int):
                part = one_hot(x[..., d].long().clamp(0, column - 1), column).to(x)
            elif column == "count":
                part = part.clamp(min=0).log1p()
            parts.append(part if seen is None else torch.where(seen[..., d : d + 1], part, 0.0))
        return torch.cat(parts, -1)


class Head:
    """What a network says of a row, as p(x) by column.

    Its numbers are, column by column: mean and unconstrained scale of a real one, the logits of a category, the logit
    of yes or no, the log of a count's rate.

    Args:
        columns: what each column holds, see `Column`.
        least: the least standard deviation of a real column.
    """

    def __init__(self, columns: Sequence[Column], least: float = 1e-3):
        self.columns, self.least = columns_of(columns), least
        sizes = [column if isinstance(column, int) else 2 if column == "real" else 1 for column in self.columns]
        self.starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
        self.outputs = sum(sizes)

    def __call__(self, output: Tensor, shift: Tensor, unit: Tensor) -> ByColumn:
        """Of numbers (..., `outputs`); a real column is shift + unit times what the network sees, (D,) each."""
        parts: list[tuple[Distribution, list[int]]] = []
        if real := places(self.columns, "real"):
            loc, scale = output[..., self.starts[real]], output[..., self.starts[real] + 1]
            scale = torch.nn.functional.softplus(scale) + self.least
            loc, scale = shift[real] + unit[real] * loc, unit[real] * scale
            parts.append((Normal(loc, scale, validate_args=False), real))
        for levels in sorted({column for column in self.columns if isinstance(column, int)}):
            where = [d for d, column in enumerate(self.columns) if column == levels]
            logits = output[..., self.starts[where].unsqueeze(-1) + torch.arange(levels)]
            parts.append((Categorical(logits=logits, validate_args=False), where))
        if binary := places(self.columns, "binary"):
            parts.append((Bernoulli(logits=output[..., self.starts[binary]], validate_args=False), binary))
        if count := places(self.columns, "count"):
            rate = output[..., self.starts[count]].clamp(max=LARGEST_LOG_RATE).exp()
            parts.append((Poisson(rate, validate_args=False), count))
        return ByColumn(self.columns, parts)

    def average(self, x: Tensor, mass: Tensor) -> Tensor:
        """The numbers, (`outputs`,), at which p(x) has the frequencies, means and deviations of x (M, D), weighted by
        mass (M, D), 0 where it is hidden."""
        found = []
        for d, column in enumerate(self.columns):
            values, weight = x[:, d], mass[:, d] / mass[:, d].sum().clamp(min=1e-12)
            values = torch.where(weight > 0, values, 0.0)
            mean = (weight * values).sum()
            if isinstance(column, int):
                share = weight @ one_hot(values.long().clamp(0, column - 1), column).to(weight)
                found.append(share.clamp(min=1e-3).log())
            elif column == "binary":
                found.append(mean.clamp(1e-3, 1 - 1e-3).logit().reshape(1))
            elif column == "count":
                found.append(mean.clamp(min=1e-3).log().reshape(1))
            else:
                deviation = (weight * (values - mean) ** 2).sum().sqrt().clamp(min=0.1)
                # the inverse of softplus, which no deviation overflows
                found.append(torch.stack([mean, deviation + (-torch.expm1(-deviation)).log()]))
        return torch.cat(found)


def check_columns(columns: Sequence[Column], x: Tensor, mask: Tensor | None) -> None:
    """Raise `DataError` unless all that is observed of x (M, D) is of its column's kind."""
    if x.ndim != 2 or x.shape[1] != len(columns):
        raise DataError(f"the model has {len(columns)} columns, the data {tuple(x.shape[1:])}")
    x = x if mask is None else torch.where(mask, x, torch.zeros_like(x))
    for d, column in enumerate(columns):
        if column == "real":
            continue
        top = column - 1 if isinstance(column, int) else 1 if column == "binary" else torch.inf
        bad = (x[:, d] < 0) | (x[:, d] > top) | (x[:, d] != x[:, d].round()) | ~x[:, d].isfinite()
        if bool(bad.any()):
            allowed = "counts 0, 1, 2, ..." if column == "count" else f"whole numbers from 0 to {top}"
            raise DataError(f"column {d + 1}: {float(x[bad, d][0]):g} is none of its values, which are {allowed}")
