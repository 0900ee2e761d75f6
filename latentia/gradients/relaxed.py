"""Gradients through a draw of discrete latents as if it were continuous: biased, and of little variance.

Each is a way of drawing: z is a number that gradients flow through, and E f(z) its mean over the draws, so they serve
any bound, that of importance weights too. Where no gradient is asked for, all of them give the hard draws that a model
is measured by: a bound by relaxed draws bounds nothing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.discrete import Finite, finite
from latentia.distributions.joint import Draw, Joint
from latentia.errors import CapabilityError, OptionError
from latentia.gradients.expectation import Function, value


class Relaxation(nn.Module):
    """(1/S) sum_s f(z_s), with z_s a draw that gradients flow through, latent after latent."""

    @abstractmethod
    def through(self, p: Finite, shape: tuple[int, ...]) -> Tensor:
        """Draws of p, of shape `shape` + that of its logits, with a gradient."""

    def draw(self, q: Distribution, samples: int) -> Draw:
        """z ~ q with gradients through z, (S, B, *latent)."""
        if not isinstance(q, Joint):
            return Draw(self._one(q, (samples,)), {"z": q})
        drawn: dict[str, Tensor] = {}
        used: dict[str, Distribution] = {}
        for name, part in q.parts.items():
            used[name] = p = part if isinstance(part, Distribution) else part(drawn)
            drawn[name] = self._one(p, (samples,) if p.batch_shape == q.batch_shape else ())
        return Draw(drawn, used)

    def _one(self, p: Distribution, shape: tuple[int, ...]) -> Any:
        if p.has_rsample:
            return p.rsample(shape)
        if not torch.is_grad_enabled():
            return p.sample(shape)
        return self.through(found(p, type(self).__name__), shape)

    def forward(self, q: Distribution, f: Function, samples: int) -> Tensor:
        return value(f, self.draw(q, samples)).mean(0)

    def log_mean_exp(self, q: Distribution, f: Function, samples: int) -> Tensor:
        """E log (1/S) sum_s exp f(z_s), (B,)."""
        return value(f, self.draw(q, samples)).logsumexp(0) - math.log(samples)


def found(p: Distribution, name: str) -> Finite:
    """p as bits or one-hot values. Raises `CapabilityError` where it is neither."""
    known = finite(p)
    if known is None:
        raise CapabilityError(f"{name} is for bits and one-hot values, and {type(p).__name__} is neither")
    return known


class _StraightThrough(Relaxation):
    """A hard draw, whose gradient is that of its mean: dz = d E[z] (Bengio, Leonard and Courville 2013, section 4)."""

    def through(self, p: Finite, shape: tuple[int, ...]) -> Tensor:
        mean = p.mean
        return p.hard(p.logits.detach() + p.noise(shape)) + (mean - mean.detach())


class _ReinMax(Relaxation):
    """A hard draw whose gradient is right to second order in f: exact where f is quadratic in each latent, where
    straight-through is exact for linear f (Liu et al. 2023, "Bridging discrete and backpropagation", algorithm 2)."""

    def through(self, p: Finite, shape: tuple[int, ...]) -> Tensor:
        logits = torch.stack([p.logits, torch.zeros_like(p.logits)], -1) if p.binary else p.logits
        hard = p.hard(p.logits.detach() + p.noise(shape))
        one_hot = torch.stack([hard, 1 - hard], -1) if p.binary else hard
        mean = logits.softmax(-1)
        # half-way between the mean and the draw, as the softmax of logits that move with q's
        middle = ((one_hot + mean) / 2).detach().log()
        moved = (middle - logits.detach() + logits).softmax(-1)
        slope = 2 * moved - mean / 2
        return hard + (slope - slope.detach())[..., 0] if p.binary else hard + (slope - slope.detach())


class GumbelSoftmax(Relaxation):
    """The relaxed draw softmax((logits + Gumbel noise) / temperature); of a bit, where the difference of two Gumbels is
    logistic, sigmoid((logit + logistic noise) / temperature).

    Jang, Gu and Poole (2017), section 2; Maddison, Mnih and Teh (2017), section 3.

    Args:
        temperature: low ones have little bias and much variance.
        hard: the value of the draw is the argmax of the same noisy logits, and only its gradient the relaxed one's
            (straight-through Gumbel-softmax; Jang et al., section 2.2). The noise is drawn once: a value drawn anew
            from the relaxed probabilities would be another z than the one that gradients flow through.

    Buffers: temperature (), which a learner may lower as it goes (`Gradient(cool_to=0.5)`).
    """

    temperature: Tensor

    def __init__(self, temperature: float = 1.0, hard: bool = False):
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise OptionError(f"temperature={temperature}: it must be a positive number")
        self.first, self.hard = temperature, hard
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def cool(self, target: float, progress: float) -> None:
        """Set the temperature: from its first to `target` by the same factor at every step of the progress 0 to 1."""
        self.temperature.fill_(self.first * (target / self.first) ** progress)

    def through(self, p: Finite, shape: tuple[int, ...]) -> Tensor:
        noisy = p.logits + p.noise(shape)
        soft = p.soft(noisy, self.temperature.to(noisy.dtype))
        return p.hard(noisy) + (soft - soft.detach()) if self.hard else soft


class BinaryConcrete(GumbelSoftmax):
    """The same for bits alone (Maddison, Mnih and Teh 2017, appendix B)."""

    def through(self, p: Finite, shape: tuple[int, ...]) -> Tensor:
        if not p.binary:
            raise CapabilityError("binary_concrete is for bits: use gumbel_softmax for one-hot values")
        return super().through(p, shape)


straight_through = _StraightThrough()
reinmax = _ReinMax()


def gumbel_softmax(temperature: float = 1.0, hard: bool = False) -> GumbelSoftmax:
    """Relaxed draws, or hard ones with their gradient: see `GumbelSoftmax`."""
    return GumbelSoftmax(temperature, hard)


def binary_concrete(temperature: float = 1.0, hard: bool = False) -> BinaryConcrete:
    """Relaxed bits, or hard ones with their gradient: see `GumbelSoftmax`."""
    return BinaryConcrete(temperature, hard)
