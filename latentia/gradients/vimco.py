"""The score function of a bound by several draws, each with a baseline of its own from the others."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.joint import draw
from latentia.errors import CapabilityError, OptionError
from latentia.gradients.expectation import Function, value
from latentia.gradients.score import credited, score_of


class _Vimco:
    """L = log (1/K) sum_k exp f(z_k): the gradient sum_k (L - L_k) d log q(z_k) + d L, where L_k has in the place of
    f(z_k) the mean of the others' f, so that it does not depend on z_k.

    Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives", section 2.5.
    """

    def __call__(self, q: Distribution, f: Function, samples: int) -> NoReturn:
        raise CapabilityError("vimco is for the bound by importance weights, iwae: for the ELBO its like is rloo")

    def log_mean_exp(self, q: Distribution, f: Function, samples: int) -> Tensor:
        """E log (1/K) sum_k exp f(z_k), (B,). Raises `OptionError` for fewer than two draws."""
        if samples < 2:
            raise OptionError(f"samples={samples}: vimco compares each draw with the others; give at least 2")
        drawn = draw(q, samples)
        log_weight = value(f, drawn)
        bound = log_weight.logsumexp(0) - math.log(samples)
        without = _without_each(log_weight.detach()) - math.log(samples)
        return bound + credited(bound.detach() - without, score_of(drawn)).sum(0)


def _without_each(log_weight: Tensor) -> Tensor:
    """log(sum_{j != k} w_j + the geometric mean of those), for each k, (K, B)."""
    count = len(log_weight)
    others = (log_weight.sum(0) - log_weight) / (count - 1)
    itself = torch.eye(count, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)
    return torch.where(itself, others.unsqueeze(1), log_weight.unsqueeze(0)).logsumexp(1)


vimco = _Vimco()
