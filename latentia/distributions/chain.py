"""A chain of discrete variables: the prior and the posterior of a hidden Markov model, a linear-chain CRF."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured
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
            return self.recursion(log_potentials, log_sum)
        value, safe = kernel.log_partition(log_potentials, self.lengths)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return value
        again = self._part(log_potentials, lost)
        return value.index_put((lost,), again.recursion(again.log_potentials, log_sum))

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
        inside = (states >= 0).unsqueeze(-1)
        return torch.zeros_like(node).scatter_(-1, states.clamp(min=0).unsqueeze(-1), inside.to(node))

    def score(self, z: Tensor) -> Tensor:
        # written out: linear in z, where the inherited sum over structures would cost K times as much
        initial, transition, node = (self.log_potentials[name] for name in ("initial", "transition", "node"))
        moves = (_moved(z, transition) * z[..., 1:, :]).sum((-1, -2))
        value = (initial * z[..., 0, :]).sum(-1) + moves + torch.einsum("...tk,...tk->...", z, node)
        inside = torch.arange(z.shape[-2], device=z.device) < self.lengths.unsqueeze(-1)
        wrong = ((z > 0).any(-1) != inside).any(-1)
        return torch.where(wrong | (value < IMPOSSIBLE / 10), -torch.inf, value)


def _by_datum(name: str, potential: Tensor) -> bool:
    """Whether a potential of a chain of one transition matrix has a row for each datum."""
    return name == "node" or (name == "initial" and potential.ndim == 2 and len(potential) != 1)


def _moved(z: Tensor, transition: Tensor) -> Tensor:
    """sum_i z_{t-1}[i] transition_t[i, :], (..., T-1, K)."""
    if transition.shape[-3] == 1:
        return z[..., :-1, :] @ transition.squeeze(-3)
    return (z[..., :-1, None, :] @ transition).squeeze(-2)
