"""K distributions over rows whose columns are each of their own kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from latentia.distributions.columns import ByColumn, Column, Encoder, check_columns, columns_of, places
from latentia.distributions.emissions import fused_columns as fused
from latentia.distributions.emissions.base import Emissions, Statistics, check_scale
from latentia.distributions.emissions.bernoulli import BernoulliEmissions
from latentia.distributions.emissions.categorical import CategoricalVectorEmissions
from latentia.distributions.emissions.gaussian import GaussianEmissions
from latentia.distributions.emissions.gaussian.seeding import kmeans, sample
from latentia.distributions.emissions.poisson import PoissonEmissions
from latentia.errors import check_not_negative

SURE = 0.9
"""How much of a datum its nearest center has where a fit begins; the rest is everybody's."""


class ColumnEmissions(Emissions):
    """p(x | z = k) = prod_d p(x_d | z = k): a normal for a real column, a Categorical for a category, a Bernoulli for
    yes or no, a Poisson for a count. What is missing is left out.

    Args:
        states: K.
        columns: what each column holds: "real", "binary", "count", or the number of its categories.
        floor: least variance of a normal, as a fraction of the column's own.
        smoothing: pseudo-count of a category, or of yes and no, in each state, on average, and of data with the mean
            count: see `CategoricalVectorEmissions`, `BernoulliEmissions` and `PoissonEmissions`. 0 is maximum
            likelihood, which may give new data probability 0.

    Parts, where there are such columns: real, category, binary, count, each an `Emissions` over its own.
    """

    def __init__(self, states: int, columns: Sequence[Column], floor: float = 1e-6, smoothing: float = 0.0):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        self.columns, self.states = columns_of(columns), states
        self.where = {kind: places(columns, kind) for kind in ("real", "category", "binary", "count")}
        levels = [column for column in self.columns if isinstance(column, int)]
        made = {
            "real": lambda count: GaussianEmissions(states, count, "diagonal", floor),
            "category": lambda count: CategoricalVectorEmissions(states, levels, count, smoothing),
            "binary": lambda count: BernoulliEmissions(states, count, smoothing),
            "count": lambda count: PoissonEmissions(states, count, smoothing),
        }
        self.where = {kind: where for kind, where in self.where.items() if where}
        self.parts = nn.ModuleDict({kind: made[kind](len(where)) for kind, where in self.where.items()})
        if "real" in self.where:
            self.part("real").numbers = tuple(d + 1 for d in self.where["real"])

    def part(self, kind: str) -> Any:
        """The emissions of all columns of a kind."""
        return self.parts[kind]

    def _each(self, x: Tensor, mask: Tensor | None) -> list[tuple[str, Emissions, Tensor, Tensor | None]]:
        """Of each kind its name, its emissions, and its columns of x and of the mask."""
        return [
            (kind, cast(Emissions, self.parts[kind]), x[:, where], None if mask is None else mask[:, where])
            for kind, where in self.where.items()
        ]

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if fused.applies(self._like, x) and not torch.is_grad_enabled():
            return fused.log_prob(self, x, mask)
        return self.log_prob_of_parts(x, mask)

    def log_prob_of_parts(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`log_prob` as the sum of what the parts say: the specification of the kernel."""
        found = [part.log_prob(values, seen) for _, part, values, seen in self._each(x, mask)]
        return torch.stack(found).sum(0) if len(found) > 1 else found[0]

    def given(self, z: Tensor) -> Distribution:
        # beyond the end of a sequence z is zero, and any value as good as another
        z = torch.where(z.sum(-1, keepdim=True) > 0, z, 1 / self.states)
        return ByColumn(
            self.columns, [(cast(Emissions, self.parts[kind]).given(z), w) for kind, w in self.where.items()]
        )

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """All columns from the same clusters: those of k-means on numbers in units of their deviation, categories as
        one-hot rows, and logs of counts."""
        member = self._members(x, mask, weight, generator)
        for _, part, values, seen in self._each(x, mask):
            part.start(values, seen, weight, generator)
            part.update(part.statistics(values, seen, member))

    def _members(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> Tensor:
        """How much of each datum is each state's, (M, K)."""
        encode = Encoder(self.columns)
        weight = weight.to(self._like)
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        rows, there = encode(x.to(self._like), seen), encode.spread(seen).to(self._like)
        mass = there * weight.unsqueeze(-1)
        count = mass.sum(0).clamp(min=1e-12)
        away = there * (rows - (mass * rows).sum(0) / count)
        spread = ((mass * away**2).sum(0) / count).sqrt()
        numbers = encode.spread(torch.tensor([column in ("real", "count") for column in self.columns]))
        away = away / torch.where(numbers.to(spread.device) & (spread > 0), spread, 1.0)
        some = sample(weight, max(10_000, 256 * self.states), generator)
        if not len(some):
            return torch.ones(len(x), self.states).to(away) * weight.unsqueeze(-1) / self.states
        centers = kmeans(away[some], weight[some], self.states, generator)
        nearest = one_hot(torch.cdist(away, centers).argmin(1), self.states)
        return (SURE * nearest + (1 - SURE) / self.states).to(away) * weight.unsqueeze(-1)

    @property
    def _like(self) -> Tensor:
        return next(self.parameters())

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """Those of each kind, with its name before theirs."""
        if fused.applies(self._like, x):
            return fused.statistics(self, x, mask, responsibility)
        return self.statistics_of_parts(x, mask, responsibility)

    def mixture_step(
        self, x: Tensor, mask: Tensor | None, weight: Tensor, log_prior: Tensor, hard: bool = False
    ) -> tuple[Statistics, Tensor]:
        if fused.applies(self._like, x):
            return fused.mixture_step(self, x, mask, weight, log_prior, hard)
        return super().mixture_step(x, mask, weight, log_prior, hard)

    def statistics_of_parts(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """`statistics` as the parts count them: the specification of the kernel."""
        return {
            f"{kind}.{name}": value
            for kind, part, values, seen in self._each(x, mask)
            for name, value in part.statistics(values, seen, responsibility).items()
        }

    def update(self, total: Statistics) -> None:
        for kind in self.where:
            own = {name.removeprefix(f"{kind}."): value for name, value in total.items() if name.startswith(f"{kind}.")}
            cast(Emissions, self.parts[kind]).update(own)

    def free_parameters(self) -> int:
        """Of each state a mean and a variance for a real column, one less than its categories for a category, and one
        number for yes or no and for a count."""
        return sum(cast(Emissions, part).free_parameters() for part in self.parts.values())

    def log_prior(self) -> Tensor:
        return torch.stack([cast(Emissions, part).log_prior() for part in self.parts.values()]).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        check_columns(self.columns, x, mask)
        real = torch.tensor([column == "real" for column in self.columns], device=x.device)
        check_scale(torch.where(real, x, torch.zeros_like(x)), mask)

    def concerns(self, count: Tensor) -> list[str]:
        return [words for part in self.parts.values() for words in cast(Emissions, part).concerns(count)]

    def reorder(self, order: Tensor) -> None:
        for part in self.parts.values():
            cast(Emissions, part).reorder(order)
