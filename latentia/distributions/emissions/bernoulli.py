"""K products of Bernoullis over vectors of 0 and 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn.functional import logsigmoid

from latentia.distributions.emissions.base import (
    Emissions,
    Statistics,
    log_normalised,
)
from latentia.distributions.emissions.rows import (
    check_features,
    mixed,
    seen_by_state,
    seen_only,
    some_rows,
    total_by_state,
)
from latentia.distributions.semiring import IMPOSSIBLE
from latentia.errors import DataError, check_not_negative

CERTAIN = 1e20
"""A logit beyond it is that of a value that cannot be."""
LEAST = math.log(torch.finfo(torch.float64).tiny)
"""The log of what an M-step leaves of a value that a state has never had: nearly nothing, and a number."""


class BernoulliEmissions(Emissions):
    """p(x | z = k) = prod_d probs[k, d]^x_d (1 - probs[k, d])^(1 - x_d), x in {0, 1}^D.

    Log-densities are linear in x, so that all K of them are one matrix product, and so are the statistics.

    Args:
        states: K.
        features: D.
        smoothing: s, pseudo-count of a value in each state and column, on average of 0 and 1: 2 s pseudo-data with
            the column's own frequency of ones f_d, a Beta(1 + 2 s f_d, 1 + 2 s (1 - f_d)) prior. `start` takes f
            from the data; before it is 1/2.
    """

    def __init__(self, states: int, features: int, smoothing: float = 0.0):
        super().__init__()
        check_not_negative(smoothing=smoothing)
        self.smoothing = smoothing
        self.logits = nn.Parameter(torch.zeros(states, features))
        self.average: Tensor
        self.register_buffer("average", torch.full((features,), 0.5))

    @property
    def probs(self) -> Tensor:
        """p(x_d = 1 | z = k), (K, D)."""
        return self.logits.sigmoid()

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x, log_zero = seen_only(x, mask).to(self.logits), logsigmoid(-self.logits)
        if bool(self.logits.detach().abs().amax() > CERTAIN):
            # a value that cannot be: its logit would swallow all others' digits
            seen = torch.ones_like(x) if mask is None else mask.to(x)
            return x @ _finite(logsigmoid(self.logits)).T + (seen - x) @ _finite(log_zero).T
        constant = log_zero.sum(1) if mask is None else mask.to(x) @ log_zero.T
        return x @ self.logits.T + constant

    def given(self, z: Tensor) -> Bernoulli:
        # rounding may carry a sum of probabilities beyond 1
        return Bernoulli(probs=(z @ self.probs).clamp(max=1), validate_args=False)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """Halfway between a datum for each state and a fair coin; where a datum is not observed, all data's average."""
        x, weight = seen_only(x, mask).to(self.logits), weight.to(self.logits)
        seen = torch.ones_like(x) if mask is None else mask.to(x)
        # half a pseudo-datum of each kind: no value is impossible because it has not been seen yet
        self.average.copy_((weight @ x + 0.5) / (weight @ seen + 1))
        chosen = some_rows(weight, len(self.logits), generator)
        corner = torch.where(seen[chosen] > 0, x[chosen], self.average)
        self.logits.data = mixed(corner, torch.full_like(corner, 0.5), generator).logit()

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """Weighted numbers of ones, and of observed values: float64 (K, D)."""
        return {
            "ones": total_by_state(responsibility, seen_only(x, mask)),
            "seen": seen_by_state(responsibility, mask, x.shape[1]),
        }

    def update(self, total: Statistics) -> None:
        average, mass = self.average.double(), 2 * self.smoothing
        never, always = self.logits < -CERTAIN, self.logits > CERTAIN
        ones = total["ones"].clamp(min=0) + torch.where(never, 0.0, mass * average)
        zeros = (total["seen"] - total["ones"]).clamp(min=0) + torch.where(always, 0.0, mass * (1 - average))
        log_zero, log_one = log_normalised(torch.stack([zeros, ones], -1)).clamp(min=LEAST).unbind(-1)
        logits = log_one - log_zero
        # what cannot be stays so, and what nothing is seen of keeps what it had
        kept = (ones + zeros <= 0) | (never & (ones <= 0)) | (always & (zeros <= 0))
        self.logits.data = torch.where(kept, self.logits.double(), logits).to(self.logits)

    def log_prior(self) -> Tensor:
        one, zero = (torch.where(side < -CERTAIN, 0.0, logsigmoid(side)) for side in (self.logits, -self.logits))
        return 2 * self.smoothing * (self.average * one + (1 - self.average) * zero).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        check_features(x, self.logits.shape[1])
        x = seen_only(x, mask)
        bad = (x != 0) & (x != 1)
        if bad.any():
            raise DataError(
                f"the value {float(x[bad][0]):g} is neither 0 nor 1: binarize the data, or use a model with other "
                "emissions"
            )


def _finite(log_probs: Tensor) -> Tensor:
    return log_probs.clamp(min=IMPOSSIBLE)
