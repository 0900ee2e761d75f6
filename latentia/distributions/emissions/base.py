"""K distributions over one observation, one for each value of a discrete z.

What mixtures and hidden Markov models are made of: parameters in an `nn.Module`, log-densities for all K at
once, and the weighted sufficient statistics from which maximum likelihood sets the parameters again. Missing
coordinates are marginalised exactly, and the statistics take their conditional expectations (Little and
Rubin 2002, section 11.6).

Shapes: x and mask are (M, D) for vectors and (M,) for symbols; log-densities and responsibilities are (M, K).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.semiring import IMPOSSIBLE
from latentia.errors import DataError, OptionError
from latentia.kernels import softmax

Statistics = dict[str, Tensor]


class Emissions(nn.Module, ABC):
    """The contract of a family of K distributions."""

    @abstractmethod
    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x | z = k) of what is observed, in nats, (M, K)."""

    @abstractmethod
    def given(self, z: Tensor) -> Distribution:
        """p(x | z) for one-hot (or relaxed) z (..., K)."""

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        """p(x | z, the observed part of x), for x and mask (*batch, D) and z (S, *batch, K): `given` where coordinates
        are independent given z."""
        return self.given(z)

    @abstractmethod
    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """A random starting point in view of observations (M, ...), weighted (M,)."""

    @abstractmethod
    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """Sums over the M observations, weighted by responsibility (M, K)."""

    def mixture_step(
        self, x: Tensor, mask: Tensor | None, weight: Tensor, log_prior: Tensor, hard: bool = False
    ) -> tuple[Statistics, Tensor]:
        """The E-step of a mixture with log p(z) = log_prior (K,): the statistics under its responsibilities, weighted
        by weight (M,), with their sums as "count", and sum_m weight_m log p(x_m), a float64 scalar."""
        responsibility, value = responsibilities(log_prior + self.log_prob(x, mask), weight, hard)
        count = responsibility.sum(0, dtype=torch.float64)
        return {"count": count, **self.statistics(x, mask, responsibility)}, value

    @abstractmethod
    def update(self, total: Statistics) -> None:
        """Maximum-likelihood (or MAP) parameters from these sums."""

    def free_parameters(self) -> int:
        """How many numbers `update` sets freely: every entry of the parameters, unless the family knows better."""
        return sum(parameter.numel() for parameter in self.parameters())

    def log_prior(self) -> Tensor:
        """Log-density of the parameters that `update` adds to the data's, up to a constant."""
        return next(self.parameters()).new_zeros(())

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        """Raise `DataError` where x cannot come from this family."""

    def concerns(self, count: Tensor) -> list[str]:
        """What the parameters, fitted to counts (K,), give reason to doubt: a sentence each, with what to do."""
        return []

    def reorder(self, order: Tensor) -> None:
        """Let z = k be what z = order[k] was. Parameters have K rows, or one that all share."""
        for parameter in self.parameters():
            if len(parameter) > 1:
                parameter.data = parameter.data[order]


WRITTEN = (-709.0, -699.0)
"""Between these lie the logs of 1e-308 and 1e-304, as which a zero was once written: no data give such a share."""


def impossible(log_probs: Tensor) -> Tensor:
    """Where a log-probability is that of a zero: -inf, `IMPOSSIBLE`, or a zero as files of before have it."""
    return (log_probs < 0.1 * IMPOSSIBLE) | ((log_probs > WRITTEN[0]) & (log_probs < WRITTEN[1]))


def log_probabilities(logits: Tensor) -> Tensor:
    """log_softmax, with `IMPOSSIBLE` for what has no probability: finite, so that 0 times it is 0, and far below what
    any data could be worth."""
    return settled(logits.log_softmax(-1))


def settled(log_probs: Tensor) -> Tensor:
    """Log-probabilities, with `IMPOSSIBLE` for what has none."""
    return torch.where(impossible(log_probs), IMPOSSIBLE, log_probs)


def possible(log_probs: Tensor) -> Tensor:
    """Log-probabilities, and 0 for what has none: what a prior counts, as a zero is not learned."""
    return torch.where(impossible(log_probs), 0.0, log_probs)


def smoothed(counts: Tensor, pseudo: Tensor | float, log_probs: Tensor, strict: bool = False) -> Tensor:
    """counts + pseudo, and nothing for what has no probability: zeros stay zeros. Where `strict`, whatever is counted
    there; else what the data show after all counts, as no other state could have given it."""
    allowed = ~impossible(log_probs)
    return torch.where(allowed if strict else allowed | (counts > 0), counts + pseudo, 0.0)


def log_normalised(counts: Tensor) -> Tensor:
    """log of rows divided by their sums, `IMPOSSIBLE` where nothing is counted."""
    tiny = torch.finfo(counts.dtype).tiny
    probability = counts / counts.sum(-1, keepdim=True).clamp(min=tiny)
    return torch.where(probability > 0, probability.clamp(min=tiny).log(), IMPOSSIBLE)


def responsibilities(log_joint: Tensor, weight: Tensor, hard: bool = False) -> tuple[Tensor, Tensor]:
    """weight times p(z = k | x), (M, K), from log p(x, z = k), and sum_m weight_m log p(x_m) in float64. When hard,
    everything to the best k, and log p(x, best k). The memory of log_joint may be used again."""
    plain = log_joint.device.type == "cpu" and log_joint.dtype in (torch.float32, torch.float64)
    if plain and not hard and not log_joint.requires_grad:
        share = log_joint.contiguous()
        value = softmax.responsibilities(share, weight.to(share).contiguous().numpy())
        return share, torch.tensor(value, dtype=torch.float64)
    peak = log_joint.amax(1, keepdim=True)
    if hard:
        best = log_joint.argmax(1, keepdim=True)
        value = torch.where(weight > 0, weight * peak.squeeze(1), 0.0).double().sum()
        return torch.zeros_like(log_joint).scatter_(1, best, weight.to(log_joint).unsqueeze(1)), value
    # exp is 30 times slower far below -80, where it adds nothing
    away = log_joint - peak
    share = away.clamp(min=-80).exp_().mul_(away > 0.1 * IMPOSSIBLE)
    total = share.sum(1, keepdim=True)
    value = torch.where(weight > 0, weight * (peak + total.log()).squeeze(1), 0.0).double().sum()
    return share.mul_(weight.to(share).unsqueeze(1) / total), value


LARGEST = 1e100
"""Beyond it, and below its inverse, squares and their sums leave the range of float64."""


def check_whole(log_scale: Tensor, below: Tensor) -> None:
    """Raise `OptionError` where a Cholesky factor's diagonal is frozen and what is below it is not, or the reverse."""
    if below.numel() and log_scale.requires_grad != below.requires_grad:
        raise OptionError("log_scale and below are one covariance matrix: freeze both (requires_grad) or neither")


def check_scale(x: Tensor, mask: Tensor | None) -> None:
    """Raise `DataError` for a column (M, D) whose observed values are too large or too small to be squared."""
    size = (x if mask is None else torch.where(mask, x, 0.0)).abs()
    largest = size.amax(0) if len(size) else size.new_zeros(x.shape[1])
    bad = (largest > LARGEST) | ((largest > 0) & (largest < 1 / LARGEST))
    if bad.any():
        column = int(bad.nonzero()[0])
        raise DataError(
            f"column {column + 1} has values of size {float(largest[column]):.3g}: rescale it, as squares of numbers "
            f"above {LARGEST:g} or below {1 / LARGEST:g} cannot be told from infinity or 0"
        )
