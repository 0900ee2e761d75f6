"""Several chains side by side: independent of each other, or coupled step by step.

z holds M chains of K states each, one-hot, (B, T, M, K). The prior of a factorial hidden Markov model and its
structured mean-field posterior are `Chains`; its exact posterior, where an observation has made the chains depend
on each other, is `CoupledChains`.

Reference: Ghahramani and Jordan (1997), "Factorial hidden Markov models", *Machine Learning* 29.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import register_kl

from latentia.distributions.chain import Chain
from latentia.distributions.semiring import Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured, below_peak, doubled


class Chains(Structured):
    """score(z) = sum_m of the score of chain m; all chains of a datum are equally long.

    Args:
        log_potentials: `initial` (M, K), `transition` (M, K, K), shared by all steps, and `node` (B, T, M, K).
        lengths: (B,), T where it is left out; z is zero from there on.
    """

    dimensions: ClassVar = {"initial": 2, "transition": 3, "node": 3}

    def __init__(self, log_potentials: Potentials, lengths: Tensor | None = None, sum: Semiring = log_sum):
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lengths = torch.full((1,), node.shape[-3], device=node.device) if lengths is None else lengths

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lengths, sum)

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        # one chain begins where the last one ended, so that the k best are those of all chains together
        total = sum.start(torch.zeros_like(log_potentials["node"][..., 0, 0, 0]))
        for m in range(log_potentials["node"].shape[-2]):
            total = self._follow(total, self._potentials(log_potentials, m), sum)
        return total

    def _follow(self, total: Tensor, log_potentials: Potentials, sum: Semiring) -> Tensor:
        nodes, transition = log_potentials["node"].unbind(-2), log_potentials["transition"].squeeze(-3)
        forward = total.unsqueeze(-1) + (log_potentials["initial"] + nodes[0])
        for t, node in enumerate(nodes[1:], start=1):
            moved = sum(forward.unsqueeze(-1) + transition, -2) + node
            forward = torch.where((t < self.lengths).unsqueeze(-1), moved, forward)
        return torch.where(self.lengths > 0, sum(forward, -1), total)

    def fused(self, log_potentials: Potentials) -> Tensor:
        return torch.stack([chain.log_partition for chain in self._chains(log_potentials)]).sum(0)

    def centred(self) -> Self:
        exact = doubled(self.log_potentials)
        return self._with({**exact, "node": below_peak(exact["node"])}, self.sum)

    def _expected_score(self, others: Potentials) -> Tensor:
        if self.sum is not log_sum:
            return super()._expected_score(others)
        parts = [
            chain._expected_score(self._potentials(others, m))
            for m, chain in enumerate(self._chains(self.log_potentials))
        ]
        return torch.stack(parts).sum(0)

    def _marginals(self) -> Tensor:
        if self.sum is not log_sum:
            return super()._marginals()
        return torch.stack([chain._marginals() for chain in self._chains(self.log_potentials)], -2)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        return torch.stack([chain.sample(sample_shape) for chain in self._chains(self.log_potentials)], -2)

    def score(self, z: Tensor) -> Tensor:
        scores = [chain.score(z[..., m, :]) for m, chain in enumerate(self._chains(self.log_potentials))]
        return torch.stack(scores).sum(0)

    def product(self) -> Chain:
        """The same distribution as one chain over the K^M joint states: for few and small chains only."""
        return Chain(self._product(self.log_potentials), self.lengths)

    def apart(self, joint: Tensor) -> Tensor:
        """One-hot joint states, (..., K^M), as the states of each chain, (..., M, K)."""
        return torch.tensordot(joint, joint_states(*self.event_shape[-2:], like=joint), 1)

    def _chains(self, log_potentials: Potentials) -> list[Chain]:
        chains = log_potentials["node"].shape[-2]
        return [Chain(self._potentials(log_potentials, m), self.lengths) for m in range(chains)]

    @staticmethod
    def _potentials(log_potentials: Potentials, m: int) -> Potentials:
        """Those of chain m, as `Chain` takes them."""
        return {
            "initial": log_potentials["initial"][..., m, :],
            "transition": log_potentials["transition"][..., m, :, :].unsqueeze(-3),
            "node": log_potentials["node"][..., m, :],
        }

    @staticmethod
    def _product(log_potentials: Potentials) -> Potentials:
        node, transition = log_potentials["node"], log_potentials["transition"]
        state = joint_states(*node.shape[-2:], like=node)
        moves = [a @ transition[..., m, :, :] @ a.mT for m, a in enumerate(state.unbind(1))]
        return {
            "initial": log_potentials["initial"].flatten(-2) @ state.flatten(1).mT,
            "transition": torch.stack(moves).sum(0).unsqueeze(-3),
            "node": node.flatten(-2) @ state.flatten(1).mT,
        }


class CoupledChains(Chains):
    """score(z) = sum_m of the score of chain m + sum_t joint_t[z_t^1, ..., z_t^M].

    Summed exactly, as one chain over the K^M joint states, in O(T K^2M).

    Args:
        log_potentials: those of `Chains`, and `joint` (B, T, K^M), the last chain's state running fastest.
    """

    dimensions: ClassVar = {**Chains.dimensions, "joint": 2}

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        product = self._product(log_potentials)
        return Chain(product, self.lengths).recursion(product, sum)

    def fused(self, log_potentials: Potentials) -> Tensor:
        return Chain(self._product(doubled(log_potentials)), self.lengths).log_partition.to(log_potentials["node"])

    def centred(self) -> Self:
        exact = super().centred().log_potentials
        return self._with({**exact, "joint": below_peak(exact["joint"])}, self.sum)

    def _expected_score(self, others: Potentials) -> Tensor:
        if self.sum is not log_sum:
            return super()._expected_score(others)
        return self.centred().product()._expected_score(self._product(others))

    def _marginals(self) -> Tensor:
        return self.apart(self.centred().product()._marginals())

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        return self.apart(self.centred().product().sample(sample_shape)).to(self.log_potentials["node"])

    def score(self, z: Tensor) -> Tensor:
        state = joint_states(*self.event_shape[-2:], like=z)
        # a joint state is there where all its chains' states are
        joint = torch.stack([z[..., m, :] @ a.mT for m, a in enumerate(state.unbind(1))]).prod(0)
        return self.product().score(joint)

    @staticmethod
    def _product(log_potentials: Potentials) -> Potentials:
        product = Chains._product(log_potentials)
        return {**product, "node": product["node"] + log_potentials["joint"]}


def joint_states(chains: int, states: int, like: Tensor) -> Tensor:
    """The state of each chain in each joint state, one-hot, (K^M, M, K); the last chain runs fastest."""
    each = torch.cartesian_prod(*[torch.arange(states, device=like.device)] * chains).reshape(-1, chains)
    return torch.eye(states, dtype=like.dtype, device=like.device)[each]


@register_kl(CoupledChains, Chains)
def _kl_coupled(q: CoupledChains, p: Chains) -> Tensor:
    return q.divergence(p)
