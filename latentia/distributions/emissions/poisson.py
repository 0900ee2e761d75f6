"""K products of Poissons over vectors of counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Poisson

from latentia.distributions.emissions.base import Emissions, Statistics, possible, settled, smoothed
from latentia.distributions.emissions.rows import (
    check_counts,
    check_features,
    mixed,
    seen_by_state,
    seen_only,
    some_rows,
    total_by_state,
)
from latentia.distributions.semiring import IMPOSSIBLE
from latentia.errors import check_not_negative


class PoissonEmissions(Emissions):
    """p(x | z = k) = prod_d rates[k, d]^x_d exp(-rates[k, d]) / x_d!, counts x in {0, 1, 2, ...}^D.

    Args:
        states: K.
        features: D.
        smoothing: s, pseudo-data in each state with the data's own mean counts m, a Gamma(1 + s m_d, s) prior.
            `start` takes m from the data; before it is 1.
    """

    def __init__(self, states: int, features: int, smoothing: float = 0.0):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        self.smoothing = smoothing
        self.log_rates = nn.Parameter(torch.zeros(states, features))
        self.average: Tensor
        self.register_buffer("average", torch.ones(features))

    @property
    def rates(self) -> Tensor:
        """E[x_d | z = k], (K, D)."""
        return self.log_rates.exp()

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x, rates = seen_only(x, mask).to(self.log_rates), self.rates
        expected = rates.sum(1) if mask is None else mask.to(x) @ rates.T
        return x @ settled(self.log_rates).T - expected - torch.lgamma(x + 1).sum(1, keepdim=True)

    def given(self, z: Tensor) -> Distribution:
        return Poisson(z @ self.rates, validate_args=False)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """Halfway between a datum for each state and the data's mean, which stands in for what is not observed."""
        x, weight = seen_only(x, mask).to(self.log_rates), weight.to(self.log_rates)
        seen = torch.ones_like(x) if mask is None else mask.to(x)
        # half a pseudo-datum with a count of 1: no count is impossible because it has not been seen yet
        self.average.copy_((weight @ x + 0.5) / (weight @ seen + 0.5))
        chosen = some_rows(weight, len(self.log_rates), generator)
        corner = torch.where(seen[chosen] > 0, x[chosen], self.average)
        self.log_rates.data = mixed(corner, self.average, generator).log()

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """Weighted sums of counts, and numbers of observed values: float64 (K, D)."""
        return {
            "sum": total_by_state(responsibility, seen_only(x, mask)),
            "seen": seen_by_state(responsibility, mask, x.shape[1]),
        }

    def update(self, total: Statistics) -> None:
        tiny = torch.finfo(torch.float64).tiny
        seen = total["seen"] + self.smoothing
        counts = smoothed(total["sum"], self.smoothing * self.average.double(), self.log_rates)
        log_rates = torch.where(counts > 0, (counts / seen.clamp(min=tiny)).clamp(min=tiny).log(), IMPOSSIBLE)
        # what nothing is seen of keeps what it had
        self.log_rates.data = torch.where(seen > 0, log_rates, self.log_rates.double()).to(self.log_rates)

    def log_prior(self) -> Tensor:
        return self.smoothing * (self.average * possible(self.log_rates) - self.rates).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        check_features(x, self.log_rates.shape[1])
        check_counts(x, mask)
