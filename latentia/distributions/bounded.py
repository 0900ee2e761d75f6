"""Distributions of which no density is known, only a bound on it: a diffusion's."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from latentia.errors import CapabilityError


class Bounded(Distribution):
    """p(x) that can be drawn from, and of which E[log_prob_bound(x)] <= log p(x) is all that is known.

    What adds a bound to other log-probabilities is a bound again, such as an ELBO (`log_prob_or_bound`). What
    exponentiates it is not: exp of an unbiased estimate of a bound is an estimate of nothing, so that importance
    weights, and all that is made of them, ask for `log_prob` and are refused.
    """

    @abstractmethod
    def log_prob_bound(self, value: Tensor) -> Tensor:
        """An unbiased estimate, by one draw of the noise, of a lower bound on log p(x), in nats, (S, B)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Raises `CapabilityError`: there is none."""
        raise CapabilityError(
            f"{type(self).__name__} has no log-density, only a bound on it (log_prob_bound): importance weights, "
            "annealing and Metropolis steps need a density; learn by elbo, and evaluate gives the bound"
        )


def log_prob_or_bound(p: Distribution, value: Any) -> Tensor:
    """log p(x) in nats, (S, B), or where p is `Bounded` its bound: for sums of log-probabilities alone."""
    return p.log_prob_bound(value) if isinstance(p, Bounded) else p.log_prob(value)
