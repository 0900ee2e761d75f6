"""K multinomials over vectors of counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Multinomial

from latentia.distributions.emissions.base import Emissions, Statistics, log_probabilities, possible, smoothed
from latentia.distributions.emissions.rows import (
    check_counts,
    check_features,
    mixed,
    normalised_or_kept,
    seen_only,
    some_rows,
    total_by_state,
)
from latentia.errors import DataError, check_not_negative


class MultinomialEmissions(Emissions):
    """p(x | n, z = k) = n! prod_v probs[k, v]^x_v / x_v!, counts x in {0, 1, 2, ...}^V with sum n.

    The total n is given, not modelled: probabilities sum to one over the x of one total. So x is observed whole or
    not at all: with one count hidden the total is hidden too, and there is no marginal to take.

    Args:
        states: K.
        features: V, the number of things that are counted.
        smoothing: s, pseudo-count of a thing in each state, on average: s V pseudo-counts divided as the data's own
            frequencies f, a Dirichlet(1 + s V f) prior. `start` takes f from the data; before it is 1 / V.

    Buffers: average (V,), the frequencies f; total, how many things a draw has: the data's mean, 1 before `start`.
    """

    def __init__(self, states: int, features: int, smoothing: float = 0.0):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        self.smoothing = smoothing
        self.logits = nn.Parameter(torch.zeros(states, features))
        self.average: Tensor
        self.total: Tensor
        self.register_buffer("average", torch.full((features,), 1 / features))
        self.register_buffer("total", torch.ones(1, dtype=torch.long))

    @property
    def probs(self) -> Tensor:
        """(K, V), rows sum to one."""
        return self.logits.softmax(-1)

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        self._check_whole(mask)
        x = seen_only(x, mask).to(self.logits)
        ways = torch.lgamma(x.sum(1) + 1) - torch.lgamma(x + 1).sum(1)
        return x @ log_probabilities(self.logits).T + ways.unsqueeze(-1)

    def given(self, z: Tensor) -> Distribution:
        # beyond the end of a sequence z is zero, and any count as good as another
        outside = (z.sum(-1, keepdim=True) == 0).to(z)
        probs = (z @ self.probs + outside).clamp(min=torch.finfo(self.probs.dtype).tiny)
        return Multinomial(int(self.total), logits=probs.log(), validate_args=False)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """Halfway between the frequencies in a datum for each state and those in all data."""
        x, weight = seen_only(x, mask).to(self.logits), weight.to(self.logits)
        present = weight if mask is None else weight * mask.all(1)
        mean = (present @ x).sum() / present.sum().clamp(min=torch.finfo(x.dtype).tiny)
        self.total.fill_(max(round(float(mean)), 1))
        # half a pseudo-count in all: nothing is impossible because it has not been seen yet
        count = present @ x + 0.5 / x.shape[1]
        self.average.copy_(count / count.sum())
        corner = x[some_rows(present, len(self.logits), generator)] + self.average
        self.logits.data = mixed(corner / corner.sum(1, keepdim=True), self.average, generator).log().log_softmax(-1)

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """Weighted sums of counts, float64 (K, V)."""
        self._check_whole(mask)
        return {"sum": total_by_state(responsibility, seen_only(x, mask))}

    def update(self, total: Statistics) -> None:
        prior = self.smoothing * self.average.double() * len(self.average)
        counts = smoothed(total["sum"], prior, self.logits.log_softmax(-1))
        self.logits.data = normalised_or_kept(counts, self.logits)

    def free_parameters(self) -> int:
        """K (V - 1): rows sum to one."""
        return self.logits.numel() - len(self.logits)

    def log_prior(self) -> Tensor:
        return self.smoothing * len(self.average) * (possible(self.logits.log_softmax(-1)) @ self.average).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        check_features(x, self.logits.shape[1])
        self._check_whole(mask)
        check_counts(x, mask)

    @staticmethod
    def _check_whole(mask: Tensor | None) -> None:
        if mask is None:
            return
        partial = mask.any(1) & ~mask.all(1)
        if partial.any():
            raise DataError(
                f"observation {int(partial.nonzero()[0]) + 1} lacks some of its counts, and a multinomial needs their "
                "total: leave the observation out whole, or use Poisson emissions"
            )
