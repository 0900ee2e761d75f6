"""A label for each pixel of an image: independent of each other, or a chain along each row."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import OneHotCategorical

from latentia.distributions.chain import Chain
from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured, below_peak, doubled


class Segments(Structured):
    """score(z) = sum_ij node_ij[z_ij]: one of K labels for each pixel, independent of each other.

    z is one-hot, (B, H, W, K). As the posterior of labels under likelihoods that depend on z_ij alone it is exact.

    Args:
        log_potentials: `node` (B, H, W, K).
    """

    dimensions: ClassVar = {"node": 3}

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        node = log_potentials["node"]
        value = sum.start(node.new_zeros(node.shape[:-3]))
        for pixel in node.flatten(-3, -2).unbind(-2):
            value = sum(value.unsqueeze(-1) + pixel, -1)
        return value

    def fused(self, log_potentials: Potentials) -> Tensor:
        node = log_potentials["node"]
        # in float64 across pixels: what is asked for is mostly a difference of two such sums
        return node.logsumexp(-1).flatten(-2).double().sum(-1).to(node)

    def centred(self) -> Segments:
        return self._with({"node": below_peak(self.log_potentials["node"].double())}, self.sum)

    def _marginals(self) -> Tensor:
        if self.sum is not log_sum:
            return super()._marginals()
        return self.log_potentials["node"].double().softmax(-1)

    def _expected_score(self, others: Potentials) -> Tensor:
        if self.sum is not log_sum:
            return super()._expected_score(others)
        return (self._marginals() * doubled(others)["node"]).flatten(-3).sum(-1)

    @property
    def mode(self) -> Tensor:
        node = self.log_potentials["node"]
        return torch.zeros_like(node).scatter_(-1, node.argmax(-1, keepdim=True), 1.0)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if self.sum is not log_sum:
            return super().sample(sample_shape)
        node = self.log_potentials["node"].detach()
        return OneHotCategorical(logits=node, validate_args=False).sample(torch.Size(sample_shape))

    def score(self, z: Tensor) -> Tensor:
        node = self.log_potentials["node"]
        return _possible(torch.where(z > 0, z * node, 0.0).flatten(-3).sum(-1), z)


class RowSegments(Structured):
    """score(z) = sum_ij node_ij[z_ij] + sum_i sum_{j>1} transition[z_i,j-1, z_ij]: each row of labels is a chain, and
    rows are independent of each other.

    z is one-hot, (B, H, W, K). Its sums are those of `Chain`, a chain for each row.

    Args:
        log_potentials: `node` (B, H, W, K); `transition` (K, K), which all rows share.
    """

    dimensions: ClassVar = {"transition": 2, "node": 3}

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        node, transition = log_potentials["node"], log_potentials["transition"]
        total = sum.start(node.new_zeros(node.shape[:-3]))
        for row in node.unbind(-3):
            first, *others = row.unbind(-2)
            forward = total.unsqueeze(-1) + first
            for pixel in others:
                forward = sum(forward.unsqueeze(-1) + transition, -2) + pixel
            total = sum(forward, -1)
        return total

    def rows(self, log_potentials: Potentials | None = None) -> Chain:
        """A chain of W steps for each row, batch shape (B * H,)."""
        potentials = self.log_potentials if log_potentials is None else log_potentials
        node, transition = potentials["node"], potentials["transition"]
        free = node.new_zeros(node.shape[-1])
        return Chain({"initial": free, "transition": transition.unsqueeze(0), "node": node.flatten(0, -3)})

    def _by_image(self, value: Tensor) -> Tensor:
        """The sum over the rows of an image, (B * H,) to (B,)."""
        return value.view(-1, self.event_shape[0]).double().sum(-1)

    def fused(self, log_potentials: Potentials) -> Tensor:
        chain = self.rows(log_potentials)
        value = self._by_image(chain.fused(chain.log_potentials)).to(log_potentials["node"])
        return value.view(log_potentials["node"].shape[:-3])

    def centred(self) -> RowSegments:
        exact = doubled(self.log_potentials)
        return self._with({**exact, "node": below_peak(exact["node"])}, self.sum)

    def _marginals(self) -> Tensor:
        if self.sum is not log_sum:
            return super()._marginals()
        return self.rows()._marginals().view(self.log_potentials["node"].shape)

    def _expected_score(self, others: Potentials) -> Tensor:
        if self.sum is not log_sum:
            return super()._expected_score(others)
        return self._by_image(self.rows()._expected_score(self.rows(doubled(others)).log_potentials))

    @property
    def mode(self) -> Tensor:
        return self.rows().mode.view(self.log_potentials["node"].shape)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if self.sum is not log_sum:
            return super().sample(sample_shape)
        return self.rows().sample(sample_shape).view(*sample_shape, *self.log_potentials["node"].shape)

    def score(self, z: Tensor) -> Tensor:
        node, transition = self.log_potentials["node"], self.log_potentials["transition"]
        z = z.to(node)
        moves = ((z[..., :-1, :] @ transition) * z[..., 1:, :]).flatten(-3).sum(-1)
        return _possible((z * node).flatten(-3).sum(-1) + moves, z)


def _possible(value: Tensor, z: Tensor) -> Tensor:
    """-inf where a pixel has no label, or one that it cannot have."""
    wrong = ~(z > 0).any(-1).flatten(-2).all(-1) | (value < IMPOSSIBLE / 10)
    return torch.where(wrong, -torch.inf, value)
