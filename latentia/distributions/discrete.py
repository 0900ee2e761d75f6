"""Several finite latents at once, independent of each other: D bits, and D values of which each is one of K.

A draw can be had from noise, z = hard(noisy logits), and the same noise has a relaxed draw beside it, soft(noisy logits
/ temperature), which gradients flow through: the binary concrete and the Gumbel-softmax distributions (Maddison, Mnih
and Teh 2017; Jang, Gu and Poole 2017). `finite` gives that view of any distribution that is one of these, torch's own
among them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

from latentia.distributions.onehot import OneHot

ENUMERABLE = 2**16
"""Values that z may have for all of them to be gone through."""

Shape = torch.Size | tuple[int, ...]


class Bernoullis(Independent):
    """p(z) = prod_d Bernoulli(z_d; sigmoid(logits_d)), z in {0, 1}^D.

    Args:
        logits: (B, D), or (S, B, D).
    """

    def __init__(self, logits: Tensor):
        super().__init__(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
        self.logits = logits

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        # linear in z, so that a draw costs one product: what is logarithmic is the same for all
        return (value * self.logits).sum(-1) - nn.functional.softplus(self.logits).sum(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]
        with torch.no_grad():
            noise = torch.rand((*sample_shape, *self.logits.shape), dtype=self.logits.dtype, device=self.logits.device)
            return (noise < self.logits.sigmoid()).to(self.logits.dtype)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All 2^D values, (2^D, B, D)."""
        (size,) = self.event_shape
        bits = torch.arange(2**size, device=self.logits.device).unsqueeze(-1) >> torch.arange(size).to(
            self.logits.device
        )
        return _beside(self, (bits & 1).to(self.logits.dtype), expand)


class Categoricals(Independent):
    """p(z) = prod_d Categorical(z_d; softmax(logits_d)), every z_d one-hot.

    Args:
        logits: (B, D, K), or (S, B, D, K).
    """

    def __init__(self, logits: Tensor):
        super().__init__(OneHotCategorical(logits=logits, validate_args=False), 1, validate_args=False)
        self.logits = logits

    @property
    def mode(self) -> Tensor:
        return _highest(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).flatten(-2).sum(-1) - self.logits.logsumexp(-1).sum(-1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:  # type: ignore[override]
        with torch.no_grad():
            shape = (*sample_shape, *self.logits.shape)
            # the first of K exponential clocks to ring is theirs with the probability of its rate
            clock = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_()
            return _highest(self.logits.softmax(-1) / clock)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All K^D values, (K^D, B, D, K)."""
        count, values = self.event_shape
        which = torch.cartesian_prod(*[torch.arange(values, device=self.logits.device)] * count).reshape(-1, count)
        return _beside(self, nn.functional.one_hot(which, values).to(self.logits.dtype), expand)


def enumerable(p: Distribution) -> bool:
    """Whether all values of p can be gone through: one of K, or few enough of a product. torch's own
    `has_enumerate_support` stays the word for one of K, whose mean is the probabilities of all values."""
    return p.has_enumerate_support or count(p) <= ENUMERABLE


def count(p: Distribution) -> float:
    """How many values z has, where it is bits or one-hot; infinity of any other."""
    if isinstance(p, Bernoullis):
        return 2.0 ** p.event_shape[0]
    if isinstance(p, Categoricals):
        return float(p.event_shape[1]) ** p.event_shape[0]
    return p.event_shape.numel() if p.has_enumerate_support else math.inf


def _beside(p: Independent, every: Tensor, expand: bool) -> Tensor:
    """All values, (V, *event), beside each datum."""
    every = every.reshape(-1, *(1,) * len(p.batch_shape), *p.event_shape)
    return every.expand(-1, *p.batch_shape, *p.event_shape) if expand else every


def _highest(logits: Tensor) -> Tensor:
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


def kl_by_coordinate(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each bit or each value, in nats, (B, D); None where they are not two of a kind."""
    if isinstance(q, Bernoullis) and isinstance(p, Bernoullis):
        softplus = nn.functional.softplus
        return q.logits.sigmoid() * (q.logits - p.logits) - softplus(q.logits) + softplus(p.logits)
    if isinstance(q, Categoricals) and isinstance(p, Categoricals):
        ours, theirs = q.logits.log_softmax(-1), p.logits.log_softmax(-1)
        return (ours.exp() * (ours - theirs)).sum(-1)
    return None


class Finite(NamedTuple):
    """A finite distribution as noisy logits: hard(logits + noise) is a draw of it.

    Attributes:
        logits: (B, *event) or (S, B, *event); of values their last dimension is the K of them.
        binary: bits, whose logits are those of 1; else one-hot values.
    """

    logits: Tensor
    binary: bool

    def noise(self, shape: Shape) -> Tensor:
        """Standard logistic for a bit, standard Gumbel for each of K values, of shape `shape` + that of the logits."""
        uniform = torch.rand((*shape, *self.logits.shape), dtype=self.logits.dtype, device=self.logits.device)
        return self.noise_at(uniform)

    def noise_at(self, uniform: Tensor) -> Tensor:
        """The noise that has this share of noise below it."""
        uniform = inside(uniform)
        return uniform.logit() if self.binary else -(-uniform.log()).log()

    def hard(self, noisy: Tensor) -> Tensor:
        """The draw, which no gradient flows through."""
        noisy = noisy.detach()
        return (noisy > 0).to(noisy.dtype) if self.binary else _highest(noisy)

    def soft(self, noisy: Tensor, temperature: Tensor | float) -> Tensor:
        """The relaxed draw beside it: for a temperature to 0 the draw itself."""
        return (noisy / temperature).sigmoid() if self.binary else (noisy / temperature).softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The probability of each value."""
        return self.logits.sigmoid() if self.binary else self.logits.softmax(-1)


def inside(uniform: Tensor) -> Tensor:
    """Uniform numbers that are neither 0 nor 1, whose logarithms are infinite."""
    info = torch.finfo(uniform.dtype)
    return uniform.clamp(info.tiny, 1 - info.eps / 2)


def finite(p: Distribution) -> Finite | None:
    """The view of p as noisy logits, where it is bits or one-hot values; None of any other."""
    if isinstance(p, Bernoullis | Categoricals):
        return Finite(p.logits, isinstance(p, Bernoullis))
    base = p
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, Bernoulli):
        return Finite(base.logits, True)
    if isinstance(base, OneHotCategorical):
        return Finite(base.logits, False)
    return Finite(p.log_potentials["node"], False) if isinstance(p, OneHot) else None
