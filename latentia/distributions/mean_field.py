"""Structured mean field of chains that a quadratic log-likelihood couples: a chain each, independent of the others.

Reference: Ghahramani and Jordan (1997), "Factorial hidden Markov models", *Machine Learning* 29, section 3.4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentia.distributions.chain import Chain
from latentia.distributions.factorial import Chains


class Quadratic(NamedTuple):
    """log p(x_t | z_t) = constant + linear . z_t - z_t' coupling z_t / 2, z_t being the states of all chains in a row.

    A chain has no coupling with itself: of its states one alone is 1, and `linear` has that part.

    Attributes:
        constant: (B, T).
        linear: (B, T, M, K).
        coupling: (P, MK, MK), one for each pattern of observed coordinates.
        which: (B, T), the pattern of each step.
    """

    constant: Tensor
    linear: Tensor
    coupling: Tensor
    which: Tensor


def mean_field(
    given: Quadratic, chain: dict[str, Tensor], lengths: Tensor, sweeps: int, tol: float, hard: bool = False
) -> tuple[Chains, Tensor]:
    """q and its bound in nats, (B,), by coordinate ascent. Where hard, one path for each chain, and log p(x, z).

    Args:
        given: log p(x | z).
        chain: the log-potentials of the prior, `initial` (M, K) and `transition` (M, K, K).
        lengths: (B,).
        sweeps: most rounds of the chains.
        tol: a datum has settled when a round gains less, in nats.
    """
    field = _Field(given, chain, lengths, hard)
    active = torch.arange(len(lengths), device=lengths.device)
    for _ in range(sweeps):
        before = field.bound[active].clone()
        field.sweep(active)
        # each datum until its own end, so that it does not depend on the others
        active = active[field.bound[active] - before > tol]
        if len(active) == 0:
            break
    q = Chains(chain | {"node": field.node}, lengths)
    return (q.hard() if hard else q), field.bound


class _Field:
    """A mean field on its way: `node` are the potentials h, `mean` is E[z], `free` are its chains' log-partitions."""

    def __init__(self, given: Quadratic, chain: dict[str, Tensor], lengths: Tensor, hard: bool):
        self.given, self.chain, self.lengths, self.hard = given, chain, lengths, hard
        self.node = given.linear.clone()
        self.mean = torch.full_like(self.node, 1 / self.node.shape[-1])
        self.free = self.node.new_zeros(len(self.node), self.node.shape[-2])
        self.bound = torch.full_like(self.free[:, 0], -torch.inf)

    def sweep(self, active: Tensor) -> None:
        """Give each chain of the data `active` its best distribution in view of the others, and find the bound."""
        node, mean, free = self.node[active], self.mean[active], self.free[active]
        constant, linear, which = self.given.constant[active], self.given.linear[active], self.given.which[active]
        for m in range(node.shape[-2]):
            node[..., m, :] = linear[..., m, :] - self._pressed(mean, which)[..., m, :]
            mean[..., m, :], free[:, m] = self._best(m, node[..., m, :], self.lengths[active])
        energy = constant + ((linear - node - 0.5 * self._pressed(mean, which)) * mean).sum((-1, -2))
        self.node[active], self.mean[active], self.free[active] = node, mean, free
        self.bound[active] = energy.sum(-1) + free.sum(-1)

    def _pressed(self, mean: Tensor, which: Tensor) -> Tensor:
        """coupling E[z], (B, T, M, K): what the other chains already explain."""
        flat = mean.flatten(-2)
        if len(self.given.coupling) == 1:
            return (flat @ self.given.coupling[0]).view_as(mean)
        return (flat.unsqueeze(-2) @ self.given.coupling[which]).squeeze(-2).view_as(mean)

    def _best(self, m: int, node: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        initial, transition = self.chain["initial"][m], self.chain["transition"][m].unsqueeze(0)
        chain = Chain({"initial": initial, "transition": transition, "node": node}, lengths)
        chain = chain.hard() if self.hard else chain
        return chain.expectations()["node"], chain.log_partition
