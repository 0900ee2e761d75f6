"""Importance weights: their mean, how far it can be trusted, and what their tail says of that."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentia.data import Dataset
from latentia.distributions.latents import numel
from latentia.model import Batch, LatentVariableModel

MEMORY = 64 * 2**20
"""Bytes that the samples of one chunk may take: arrays of some megabytes stay in the cache, larger ones are slower."""

DOUBTFUL = 0.7
"""The Pareto shape above which no practical number of weights has a mean to be trusted, nor has its error (Vehtari et
al. 2024, section 3); see `doubtful` for few."""

LEAST = 5
"""Weights that a tail must have for its shape to be told."""


class LogMarginal(NamedTuple):
    """log p(x) of each datum, (N,), in nats, in the model's own coordinates.

    Attributes:
        value: the logarithm of the unbiased estimate of p(x); exact where the model is.
        standard_error: of `value`, by the delta method, the variance of the weights with divisor K - 1; NaN for a
            single weight, which has no spread; 0 where exact.
        effective_sample_size: (sum w)^2 / sum w^2, of the K importance weights (Kong 1992); inf where exact.
        elbo: the mean log-weight, a lower bound on log p(x).
        reconstruction: the mean of log p(x | z) under the proposal; NaN for a model without a likelihood.
        pareto_k: the shape of the weights' tail, see `pareto_shape`; NaN where exact, or where the weights are too few.
    """

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    elbo: Tensor
    reconstruction: Tensor
    pareto_k: Tensor


class Weights:
    """Running sums of importance weights w_k = exp(log_weight), kept relative to the largest so far.

    Args:
        total: K, how many weights are to come for each datum: only the largest of them are kept, for their tail.
    """

    def __init__(self, batch: int, total: int, like: Tensor):
        self.peak = like.new_full((batch,), -math.inf, dtype=torch.float64)
        self.first, self.second, self.log_sum, self.fit_sum = (torch.zeros_like(self.peak) for _ in range(4))
        self.count, self.kept = 0, tail_length(total) + 1
        self.largest = self.peak.new_empty(0, batch)

    def add(self, log_weight: Tensor, log_likelihood: Tensor) -> None:
        """Weights and log p(x | z) of further samples, (S, B) each."""
        log_weight = log_weight.double()
        peak = torch.maximum(self.peak, log_weight.amax(0))
        # all weights zero so far: any finite reference will do
        reference = torch.where(peak.isfinite(), peak, 0.0)
        shrink = (self.peak - reference).exp()
        weight = (log_weight - reference).exp()
        self.first = self.first * shrink + weight.sum(0)
        self.second = self.second * shrink**2 + (weight**2).sum(0)
        self.log_sum = self.log_sum + log_weight.sum(0)
        self.fit_sum = self.fit_sum + log_likelihood.double().sum(0)
        self.peak, self.count = peak, self.count + len(log_weight)
        if self.kept > LEAST:
            both = torch.cat([self.largest, log_weight])
            self.largest = both.topk(min(self.kept, len(both)), 0).values

    def result(self) -> LogMarginal:
        reference = torch.where(self.peak.isfinite(), self.peak, 0.0)
        value = self.first.log() + reference - math.log(self.count)
        share = self.second / self.first**2
        spread = self.count / (self.count - 1) if self.count > 1 else math.nan
        error = ((share - 1 / self.count).clamp(min=0) * spread).sqrt()
        shape = pareto_shape(self.largest) if len(self.largest) > LEAST else torch.full_like(value, math.nan)
        return LogMarginal(value, error, 1 / share, self.log_sum / self.count, self.fit_sum / self.count, shape)


def tail_length(samples: int) -> int:
    """How many of the largest weights are the tail: min(K / 5, 3 sqrt(K)) (Vehtari et al. 2024, section 2)."""
    return int(min(samples / 5, 3 * math.sqrt(samples)))


def doubtful(samples: int) -> float:
    """The Pareto shape above which the mean of so many weights cannot be trusted: min(1 - 1 / log10 K, 0.7) (Vehtari et
    al. 2024, section 3.2.4). So heavy a tail may be averaged out by many weights, and not by few."""
    return min(1 - 1 / math.log10(samples), DOUBTFUL) if samples > 1 else -math.inf


def pareto_shape(largest: Tensor) -> Tensor:
    """The shape k of a generalised Pareto distribution fitted to the tail of the weights, (B,).

    Moments of the weights above the 1/k-th are infinite: with k above 1/2 their variance is, and above 0.7 their mean
    is not to be had from any practical number of samples. Zhang and Stephens's (2009) estimate, pulled towards 1/2 as
    if by ten more weights (Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling").
    Weights that are all the same have no tail: -inf. Weights of which less than half the tail is above 0: +inf.

    Args:
        largest: logarithms of the M + 1 largest weights, (M + 1, B), largest first: the tail and its threshold.
    """
    weight = (largest.double() - largest[0].double()).exp()
    excess = (weight[:-1] - weight[-1]).flip(0)
    count, grid = len(excess), 30 + int(math.sqrt(len(excess)))
    quartile = excess[int(count / 4 + 0.5) - 1]
    usual = quartile > 0
    safe = torch.where(usual, excess, 1.0)
    steps = torch.arange(1, grid + 1, dtype=weight.dtype, device=weight.device) - 0.5
    # candidates for b = -k / sigma, (G, B), weighed by their profile likelihood
    b = 1 / safe[-1] + (1 - (grid / steps).sqrt()).unsqueeze(-1) / (3 * torch.where(usual, quartile, 1.0))
    shapes = torch.stack([torch.log1p(-one * safe).mean(0) for one in b])
    profile = count * ((-b / shapes).log() - shapes - 1)
    chosen = (profile.softmax(0) * b).sum(0)
    shape = torch.log1p(-chosen * safe).mean(0)
    shape = (count * shape + 10 * 0.5) / (count + 10)
    shape = torch.where(usual, shape, torch.where(excess[-1] > 0, math.inf, -math.inf))
    return torch.where(largest[0].isfinite(), shape, math.nan)


def chunks(model: LatentVariableModel, data: Dataset, samples: int, memory: int) -> tuple[int, int]:
    """(samples, data) at a time, so that some eight arrays of samples x data x event fit into `memory`."""
    batch = data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor)
    model.check(batch)
    latent = model.posterior(batch).sample()
    wide = _widest(model, batch)
    levels = data.schema.levels or 1 if data.schema.values == "levels" else 1
    size = max(wide, batch.x.numel() * levels, numel(latent), 1)
    most = max(memory // (8 * 8 * size), 1)
    draws = min(samples, most)
    return draws, max(min(most // draws, 1000), 1)


def _widest(model: LatentVariableModel, batch: Batch) -> int:
    """Numbers that a network holds on the way for one sample: they may be more than those of x and z."""
    found = [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(output.numel() if isinstance(output, Tensor) else 1)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model.log_joint(batch, model.posterior(batch).sample((1,)))
    finally:
        for handle in handles:
            handle.remove()
    return max(found, default=1)
