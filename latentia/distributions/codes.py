"""Distributions over M codes of a codebook, z being their vectors: a posterior that is one point, a prior that draws
code after code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

Codebook = Any
"""What has `index`, vectors (..., D) to numbers (...), `lookup` back, a `size` K and `bounded`."""


class Quantized(Distribution):
    """All probability on the codes nearest to h: z (B, M, D), the vectors of these codes.

    Args:
        h: (B, M, D), what an encoder gives.
        codebook: the codes.
        commitment: weight of |h - sg(z)|^2, which the KL has beside it: no value, only the slope that keeps h near its
            codes (van den Oord et al. 2017, equation 3).
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, h: Tensor, codebook: Codebook, commitment: float = 0.25):
        super().__init__(h.shape[:1], h.shape[1:], validate_args=False)
        self.h, self.codebook, self.commitment = h, codebook, commitment
        self.codes = codebook.index(h)
        self.vectors = codebook.lookup(self.codes).to(h)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    @property
    def mean(self) -> Tensor:
        return self.vectors

    @property
    def mode(self) -> Tensor:
        return self.vectors

    @property
    def stddev(self) -> Tensor:
        return torch.zeros_like(self.vectors)

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.vectors)

    def entropy(self) -> Tensor:
        return self.h.new_zeros(self.batch_shape)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.vectors.detach().expand(*sample_shape, *self.vectors.shape)

    def straight_through(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """z whose gradient goes to h as if nothing lay between."""
        near = self.codebook.bounded(self.h)
        return (self.vectors.detach() + (near - near.detach())).expand(*sample_shape, *self.vectors.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        same = (_numbers(self.codebook, value) == self.codes).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(self.h.dtype)


class CodePrior(Distribution):
    """p(z) = prod_m p(c_m | c_1, ..., c_{m-1}), z the vectors of the codes c.

    Args:
        logits: numbers (N, M) to logits (N, M, K), of which the m-th depend on the codes before it alone.
        codebook: the codes.
        size: B. codes: M.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]

    def __init__(self, logits: Callable[[Tensor], Tensor], codebook: Codebook, size: int, codes: int, like: Tensor):
        super().__init__(torch.Size([size]), torch.Size([codes, codebook.width]), validate_args=False)
        self.logits, self.codebook, self.like = logits, codebook, like

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    @property
    def mean(self) -> Tensor:
        """The mean of the codebook at each place: that of draws has no closed form, and a code no mean."""
        every = self.codebook.lookup(torch.arange(self.codebook.size, device=self.like.device)).to(self.like)
        return every.mean(0).expand(*self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.terms(_numbers(self.codebook, value)).sum(-1)

    def terms(self, codes: Tensor) -> Tensor:
        """log p(c_m | c_1, ..., c_{m-1}) in nats, numbers (..., M) to (..., M)."""
        found = self.logits(codes.reshape(-1, codes.shape[-1])).log_softmax(-1)
        return found.gather(-1, codes.reshape(*found.shape[:-1], 1)).view(codes.shape)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = torch.Size(sample_shape) + self.batch_shape
        codes = torch.zeros(shape.numel(), self.event_shape[0], dtype=torch.long, device=self.like.device)
        for m in range(self.event_shape[0]):
            chance = self.logits(codes[:, : m + 1])[:, m].softmax(-1)
            codes[:, m] = torch.multinomial(chance, 1).squeeze(-1)
        return self.codebook.lookup(codes).to(self.like).view(*shape, *self.event_shape)


def _numbers(codebook: Codebook, z: Tensor) -> Tensor:
    """The numbers of vectors that are codes already."""
    return codebook.of(z.detach())


@register_kl(Quantized, CodePrior)
def _kl(q: Quantized, p: CodePrior) -> Tensor:
    """-log p(z) of each code, (B, M), with no value but the slope of what keeps h near its codes."""
    away = q.commitment * (q.h - q.vectors.detach()).square().sum(-1)
    return away - away.detach() - p.terms(q.codes)
