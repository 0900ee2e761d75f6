"""A chain of discrete variables: the prior and the posterior of a hidden Markov model, a linear-chain CRF."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured, below_peak, doubled
from latentia.kernels import chain as kernel


class Chain(Structured):
    """score(z) = initial[z_1] + sum_{t>1} transition_t[z_{t-1}, z_t] + sum_t node_t[z_t].

    z is one-hot, (B, T, K), and zero from `lengths` on. A chain of length 0 is the empty chain, of score 0.

    Args:
        log_potentials: `initial` (K,) or (B, K); `transition` (T-1, K, K), (B, T-1, K, K), or with 1 in the
            place of T-1 when all steps share it; `node` (B, T, K).
        lengths: (B,), T where it is left out.

    Reference: Rabiner (1989), "A tutorial on hidden Markov models", section III.
    """

    dimensions: ClassVar = {"initial": 1, "transition": 3, "node": 2}

    def __init__(self, log_potentials: Potentials, lengths: Tensor | None = None, sum: Semiring = log_sum):
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lengths = torch.full((1,), node.shape[-2], device=node.device) if lengths is None else lengths

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lengths, sum)

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        nodes = log_potentials["node"].unbind(-2)
        transition = log_potentials["transition"]
        # unbind, not [:, t]: indexing would make the backward pass quadratic in T
        steps = transition.unbind(-3) if transition.shape[-3] > 1 else transition.unbind(-3) * (len(nodes) - 1)
        forward = sum.start(log_potentials["initial"] + nodes[0])
        for t, (step, node) in enumerate(zip(steps, nodes[1:], strict=True), start=1):
            moved = sum(forward.unsqueeze(-1) + step, -2) + node
            forward = torch.where((t < self.lengths).unsqueeze(-1), moved, forward)
        total = sum(forward, -1)
        return torch.where(self.lengths > 0, total, sum.start(torch.zeros_like(nodes[0][..., 0])))

    def fused(self, log_potentials: Potentials) -> Tensor:
        if not kernel.applies(log_potentials):
            return self._summed(log_potentials)
        value, safe = kernel.log_partition(log_potentials, self.lengths)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return value
        again = self._part(log_potentials, lost)
        return value.index_put((lost,), again._summed(again.log_potentials))

    def centred(self) -> Self:
        exact = doubled(self.log_potentials)
        return self._with({**exact, "node": below_peak(exact["node"])}, self.sum)

    def _expected_score(self, others: Potentials) -> Tensor:
        exact = self.centred().log_potentials
        if not (self._fast and kernel.applies(others)):
            return super()._expected_score(others)
        value, safe = kernel.expected_score(exact, others, self.lengths)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return value
        some = {name: phi[lost] if _by_datum(name, phi) else phi for name, phi in others.items()}
        return value.index_put((lost,), super(Chain, self._part(exact, lost))._expected_score(some))

    def _marginals(self) -> Tensor:
        if not self._fast:
            return super()._marginals()
        exact = self.centred().log_potentials
        value, safe = kernel.marginals(exact, self.lengths)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return value
        return value.index_put((lost,), super(Chain, self._part(exact, lost))._marginals())

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Independent draws, one-hot, (*sample_shape, B, T, K): a kernel filters forwards and draws backwards."""
        node = self.log_potentials["node"]
        if not self._fast:
            return super().sample(sample_shape)
        states, safe = kernel.sample(self.centred().log_potentials, self.lengths, math.prod(sample_shape))
        z = _one_hot(states, node)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost):
            again = super(Chain, self._part(self.log_potentials, lost)).sample((len(z),))
            z = z.index_copy(1, lost, again)
        return z.view(*sample_shape, *node.shape)

    @property
    def _fast(self) -> bool:
        """Whether the kernel computes what this chain is asked for."""
        plain = self.sum is log_sum and self.log_potentials["node"].device.type == "cpu"
        return plain and kernel.applies(self.log_potentials)

    @property
    def filtered(self) -> Tensor:
        """p(z_t | x_1..t), what is known of each state when its step comes, (B, T, K); zero beyond the end."""
        node = self.log_potentials["node"]
        if not kernel.applies(self.log_potentials) or node.device.type != "cpu":
            return self._filtered()
        found, safe = kernel.filtered(self.log_potentials, self.lengths)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return found
        return found.index_copy(0, lost, self._part(self.log_potentials, lost)._filtered())

    def _filtered(self) -> Tensor:
        nodes, transition = self.log_potentials["node"].unbind(-2), self.log_potentials["transition"]
        steps = transition.unbind(-3) if transition.shape[-3] > 1 else transition.unbind(-3) * (len(nodes) - 1)
        forward = [self.log_potentials["initial"] + nodes[0]]
        for step, node in zip(steps, nodes[1:], strict=True):
            forward.append(torch.logsumexp(forward[-1].log_softmax(-1).unsqueeze(-1) + step, -2) + node)
        inside = torch.arange(len(nodes), device=nodes[0].device) < self.lengths.unsqueeze(-1)
        return torch.stack(forward, -2).softmax(-1) * inside.unsqueeze(-1)

    def _part(self, log_potentials: Potentials, index: Tensor) -> Self:
        """The chains at `index`, of chains that share one transition matrix."""
        part = {name: phi[index] if _by_datum(name, phi) else phi for name, phi in log_potentials.items()}
        return type(self)(part, self.lengths.expand(len(log_potentials["node"]))[index])

    @property
    def mode(self) -> Tensor:
        node = self.log_potentials["node"]
        if not kernel.applies(self.log_potentials) or node.device.type != "cpu":
            return super().mode
        _, states = kernel.best_path(self.log_potentials, self.lengths)
        return _one_hot(states, node)

    def score(self, z: Tensor) -> Tensor:
        # written out: linear in z, where the inherited sum over structures would cost K times as much
        initial, transition, node = (self.log_potentials[name] for name in ("initial", "transition", "node"))
        z = z.to(node)
        moves = (_moved(z, transition) * z[..., 1:, :]).sum((-1, -2))
        value = (initial * z[..., 0, :]).sum(-1) + moves + torch.einsum("...tk,...tk->...", z, node)
        inside = torch.arange(z.shape[-2], device=z.device) < self.lengths.unsqueeze(-1)
        wrong = ((z > 0).any(-1) != inside).any(-1)
        return torch.where(wrong | (value < IMPOSSIBLE / 10), -torch.inf, value)


def _one_hot(states: Tensor, like: Tensor) -> Tensor:
    """(..., T, K) of states (..., T), zero where they are negative."""
    inside = (states >= 0).unsqueeze(-1)
    zero = like.new_zeros(*states.shape, like.shape[-1])
    return zero.scatter_(-1, states.clamp(min=0).unsqueeze(-1), inside.to(like))


def _by_datum(name: str, potential: Tensor) -> bool:
    """Whether a potential of a chain of one transition matrix has a row for each datum."""
    return name == "node" or (name == "initial" and potential.ndim == 2 and len(potential) != 1)


def _moved(z: Tensor, transition: Tensor) -> Tensor:
    """sum_i z_{t-1}[i] transition_t[i, :], (..., T-1, K)."""
    if transition.shape[-3] == 1:
        return z[..., :-1, :] @ transition.squeeze(-3)
    return (z[..., :-1, None, :] @ transition).squeeze(-2)


def shared_steps(p: Chain) -> tuple[Tensor, Tensor] | None:
    """p(z_1), (K,), and p(z_t | z_{t-1}), (K, K), of a prior that has the same ones for all data and steps; None of any
    other."""
    initial, transition = p.log_potentials["initial"], p.log_potentials["transition"]
    if initial.ndim == 1 and transition.ndim == 3 and len(transition) == 1:
        return initial.softmax(-1), transition[0].softmax(-1)
    return None
