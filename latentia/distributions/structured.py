"""Distributions over structures: a family writes one recursion, and inherits everything else.

p(z) = exp(score(z)) / Z, where the score is a sum of log-potentials and the recursion adds up
exp(score) over all structures. What `sum` means is the semiring's business (`semiring.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints, register_kl

from latentia.distributions.semiring import IMPOSSIBLE, Semiring, draw_sum, k_best, log_sum, max_sum
from latentia.distributions.unnormalised import Unnormalised

Potentials = dict[str, Tensor]


class Structured(Unnormalised):
    """An exponential family over one-hot structures z, (B, *event), known by its log-potentials.

    Args:
        log_potentials: name to tensor. `node` is the one that z's own entries pick, (B, *event). The
            others have `dimensions[name]` dimensions of their own after the batch, and may leave the
            batch out: potentials shared by all data.
        sum: the semiring in which log-partition and marginals are taken. In `max_sum` they are the best
            score and the best structure, which is all that hard EM is (see `hard`).
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict
    support = constraints.independent(constraints.nonnegative, 1)  # type: ignore[assignment]
    dimensions: ClassVar[dict[str, int]]

    def __init__(self, log_potentials: Potentials, sum: Semiring = log_sum):
        self.log_potentials = {name: possible(phi) for name, phi in log_potentials.items()}
        self.sum = sum
        shape = self.log_potentials["node"].shape
        split = len(shape) - self.dimensions["node"]
        self._value: Tensor | None = None
        self._exact: Self | None = None
        super().__init__(shape[:split], shape[split:], validate_args=False)

    @abstractmethod
    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        """Add up all structures, (B,): the specification of the family."""

    def fused(self, log_potentials: Potentials) -> Tensor:
        """The recursion under `log_sum`, by a kernel if the family has one. Differentiable once."""
        return self._summed(log_potentials)

    def _summed(self, log_potentials: Potentials) -> Tensor:
        """The recursion under `log_sum` in float64: its sums grow with a structure, and what is asked for is mostly
        their differences."""
        return self.recursion(doubled(log_potentials), log_sum).to(log_potentials["node"])

    def hard(self) -> Self:
        """The same potentials in the semiring of the maximum: expectations become the best structure's own counts."""
        return self._with(self.log_potentials, max_sum)

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, sum=sum)

    def centred(self) -> Self:
        """The same distribution in float64; potentials of which every structure uses one entry in each row have rows
        whose largest entry is 0, so that what is left when scores are subtracted keeps its digits."""
        return self._with(doubled(self.log_potentials), self.sum)

    def _centred(self) -> Self:
        """`centred`, made once where no gradient is asked for: its log-partition is then taken once too."""
        if torch.is_grad_enabled():
            return self.centred()
        if self._exact is None:
            self._exact = self.centred()
        return self._exact

    def _run(self, log_potentials: Potentials, twice: bool = True) -> Tensor:
        if self.sum is log_sum and not twice:
            return self.fused(log_potentials)
        return self.recursion(log_potentials, self.sum)

    @property
    def log_partition(self) -> Tensor:
        """log Z in nats, (B,); -inf where no structure is possible."""
        if torch.is_grad_enabled():
            value = self._run(self.log_potentials, twice=False)
        else:
            value = self._value = self._run(self.log_potentials, twice=False) if self._value is None else self._value
        return torch.where(value < IMPOSSIBLE / 10, -torch.inf, value)

    def expectations(self, weight: Tensor | None = None, of: Collection[str] | None = None) -> Potentials:
        """Expected number of times each potential is used, weighted by `weight` (B,) and added up over whatever
        the potential is shared by: the gradient of log Z. In potentials' own shapes.

        Args:
            of: the potentials that are asked for, all where it is left out.
        """
        names = self.log_potentials.keys() if of is None else of
        leaves = {name: self.log_potentials[name].detach().requires_grad_() for name in names}
        fixed = {name: phi.detach() for name, phi in self.log_potentials.items()}
        with torch.enable_grad():
            value = self._run({**fixed, **leaves}, twice=False)
        self._value = value.detach()
        weight = torch.ones_like(value) if weight is None else weight.to(value)
        gradients = torch.autograd.grad(value, list(leaves.values()), weight, allow_unused=True)
        return {
            name: torch.zeros_like(phi) if gradient is None else gradient
            for (name, phi), gradient in zip(leaves.items(), gradients, strict=True)
        }

    @property
    def marginals(self) -> Tensor:
        """E[z], (B, *event): differentiable when the potentials are."""
        if not (torch.is_grad_enabled() and any(phi.requires_grad for phi in self.log_potentials.values())):
            return self.expectations()["node"]
        return self._marginals().to(self.log_potentials["node"])

    def _marginals(self) -> Tensor:
        """E[z] in float64, differentiable."""
        exact = self.centred().log_potentials
        node = exact["node"] + 0.0
        if not node.requires_grad:
            node.requires_grad_()
        value = self.recursion({**exact, "node": node}, self.sum)
        return torch.autograd.grad(value.sum(), node, create_graph=True)[0]

    @property
    def mean(self) -> Tensor:
        return self.marginals

    @property
    def mode(self) -> Tensor:
        """The most probable structure, one-hot, (B, *event)."""
        return self._with(self.log_potentials, max_sum).expectations()["node"]

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Independent draws, one-hot, (*sample_shape, B, *event): forward sums, backward draws."""
        node = self.log_potentials["node"]
        expanded = {**self.log_potentials, "node": node.expand(*sample_shape, *node.shape).contiguous()}
        return self._with(expanded, draw_sum).expectations()["node"]

    def score(self, z: Tensor) -> Tensor:
        """Sum of the log-potentials that z uses, (S, B): the sum over structures of which only z is possible."""
        node = self.log_potentials["node"]
        only = torch.where(z > 0, z.clamp(min=torch.finfo(node.dtype).tiny).log(), IMPOSSIBLE)
        value = self.recursion({**self.log_potentials, "node": (node + only).clamp(min=IMPOSSIBLE)}, log_sum)
        return torch.where(value < IMPOSSIBLE / 10, -torch.inf, value)

    def log_prob(self, value: Tensor) -> Tensor:
        exact = self._centred()
        return (exact.score(value) - exact.log_partition).to(self.log_potentials["node"])

    def expected_score(self, log_potentials: Potentials) -> Tensor:
        """E of the score that other potentials would give, (B,): a directional derivative of log Z."""
        return self._expected_score(doubled(log_potentials)).to(self.log_potentials["node"])

    def _expected_score(self, others: Potentials) -> Tensor:
        """`expected_score` in float64."""
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            step = others["node"].new_zeros(self.batch_shape, requires_grad=True)
            moved = {
                name: phi + step.reshape(*step.shape, *(1,) * self.dimensions[name]) * others[name]
                for name, phi in self.centred().log_potentials.items()
            }
            value = self.recursion(moved, self.sum)
            return torch.autograd.grad(value.sum(), step, create_graph=graph)[0]

    def entropy(self) -> Tensor:
        """H = log Z - E[score], in nats, (B,)."""
        exact = self._centred()
        return (exact.log_partition - exact._expected_score(exact.log_potentials)).to(self.log_potentials["node"])

    def divergence(self, other: Structured) -> Tensor:
        """KL(self || other) = E[score - score of other] - log Z + log Z of other, in nats, (B,). A potential that the
        other distribution of the family does not have counts as 0 there."""
        exact, others = self._centred(), other._centred()
        difference = {
            name: phi - others.log_potentials[name] if name in others.log_potentials else phi
            for name, phi in exact.log_potentials.items()
        }
        value = exact._expected_score(difference) - exact.log_partition + others.log_partition
        return value.to(self.log_potentials["node"])

    def top_k(self, k: int) -> tuple[Tensor, Tensor]:
        """The k best structures, best first: log-probabilities (k, B) and one-hot structures (k, B, *event).

        Where there are fewer than k structures, the rest have log-probability -inf.
        """
        leaves = {name: phi.detach().requires_grad_() for name, phi in self.log_potentials.items()}
        with torch.enable_grad():
            scores = self.recursion(leaves, k_best(k))
        best = [torch.autograd.grad(score.sum(), leaves["node"], retain_graph=True)[0] for score in scores]
        scores = scores.detach()
        return torch.where(scores < IMPOSSIBLE / 10, -torch.inf, scores - self.log_partition), torch.stack(best)


def doubled(log_potentials: Potentials) -> Potentials:
    """The same in float64."""
    return {name: phi.double() for name, phi in log_potentials.items()}


def possible(phi: Tensor) -> Tensor:
    """Finite log-potentials. One number that is expanded stays one number."""
    return phi if phi.numel() and not any(phi.stride()) and phi.ndim else phi.clamp(min=IMPOSSIBLE)


def below_peak(potential: Tensor) -> Tensor:
    """A potential less the largest of each row. A row of which nothing is possible stays as it is."""
    peak = potential.detach().amax(-1, keepdim=True)
    return potential - torch.where(peak < IMPOSSIBLE / 10, 0.0, peak)


@register_kl(Structured, Structured)
def _kl_structured(q: Structured, p: Structured) -> Tensor:
    if type(q) is not type(p):
        raise NotImplementedError(f"KL between {type(q).__name__} and {type(p).__name__}")
    return q.divergence(p)
