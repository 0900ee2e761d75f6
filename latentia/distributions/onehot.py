"""A finite z: one of K values."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import OneHotCategorical

from latentia.distributions.semiring import Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured, below_peak

RULED_OUT = -1e9
"""The logit of a value that z cannot have: its probability is 0, and, as it is finite, so is 0 times it."""


def marked(known: Tensor) -> Tensor:
    """Which values each datum may have, (B, K): those that its row of `known` marks, or all where it marks none."""
    return (known > 0) | ~(known > 0).any(-1, keepdim=True)


def restricted(p: OneHotCategorical, known: Tensor) -> OneHotCategorical:
    """p given that z is one of the values marked."""
    return OneHotCategorical(logits=p.logits.masked_fill(~marked(known), RULED_OUT), validate_args=False)


class OneHot(Structured):
    """p(z = k) = exp(node_k) / sum_j exp(node_j); node is (B, K), z one-hot (B, K).

    The smallest `Structured` there is: its recursion is a single sum. Unlike
    `torch.distributions.OneHotCategorical` it keeps its potentials unnormalised, so that the posterior
    of an exact model carries log p(x) as its log-partition.
    """

    dimensions: ClassVar = {"node": 1}
    has_enumerate_support = True

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        return sum(sum.start(log_potentials["node"]), -1)

    def expectations(self, weight: Tensor | None = None, of: Collection[str] | None = None) -> Potentials:
        # so far down that log K is lost to rounding, each of the K would have the probability 1
        found = super().expectations()["node"]
        found = found / found.sum(-1, keepdim=True)
        return {"node": found if weight is None else found * weight.to(found).unsqueeze(-1)}

    def fused(self, log_potentials: Potentials) -> Tensor:
        # one sum of a few terms needs no second precision
        return self.recursion(log_potentials, log_sum)

    def centred(self) -> Self:
        return self._with({"node": below_peak(self.log_potentials["node"].double())}, self.sum)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All K values, (K, B, K)."""
        node = self.log_potentials["node"]
        every = torch.eye(node.shape[-1], dtype=node.dtype, device=node.device)
        every = every.reshape(-1, *(1,) * len(self.batch_shape), node.shape[-1])
        return every.expand(-1, *self.batch_shape, -1) if expand else every
