"""What `sum` may mean inside a recursion, and hence what its value and its gradient are.

| sum       | value of the recursion        | gradient with respect to the potentials |
|-----------|-------------------------------|------------------------------------------|
| log_sum   | log-partition                 | marginals                                |
| max_sum   | score of the best structure   | the best structure, one-hot              |
| draw_sum  | log-partition                 | one structure, drawn from the posterior  |
| k_best(k) | scores of the k best, (k, B)  | of the j-th score: the j-th structure    |

Potentials are finite: impossible is `IMPOSSIBLE`, not -inf, so that no gradient is 0 * inf.
See Goodman (1999), "Semiring parsing"; Li and Eisner (2009).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

IMPOSSIBLE = -1e30


class Semiring(Protocol):
    def __call__(self, x: Tensor, dim: int) -> Tensor:
        """Add up the alternatives along `dim` (negative), which disappears."""
        ...

    def start(self, x: Tensor) -> Tensor:
        """The first values of a recursion, as this semiring carries them."""
        ...

    def times(self, x: Tensor, y: Tensor) -> Tensor:
        """Both of two alternatives that the recursion has carried: the parts of a tree. To be added up next. What is
        not carried yet, a potential, is added by `+`."""
        ...


class _LogSum:
    def __call__(self, x: Tensor, dim: int) -> Tensor:
        return torch.logsumexp(x, dim)

    def start(self, x: Tensor) -> Tensor:
        return x

    def times(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class _MaxSum(_LogSum):
    def __call__(self, x: Tensor, dim: int) -> Tensor:
        # not amax: its gradient is shared between ties, and half a path is no structure
        return x.max(dim).values


class _Draw(torch.autograd.Function):
    """log-sum-exp whose gradient is one alternative, drawn with its probability."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        value = torch.logsumexp(x, dim)
        ctx.save_for_backward(x, value)
        ctx.dim = dim
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        x, value = ctx.saved_tensors
        cumulative = (x - value.unsqueeze(ctx.dim)).exp().cumsum(ctx.dim)
        total = cumulative.narrow(ctx.dim, cumulative.shape[ctx.dim] - 1, 1)
        threshold = total * torch.rand_like(total)
        index = (cumulative <= threshold).sum(ctx.dim, keepdim=True).clamp_(max=x.shape[ctx.dim] - 1)
        return torch.zeros_like(x).scatter_(ctx.dim, index, 1.0) * grad.unsqueeze(ctx.dim), None


class _DrawSum(_LogSum):
    def __call__(self, x: Tensor, dim: int) -> Tensor:
        return _Draw.apply(x, dim)  # type: ignore[return-value]


class _KBest:
    """Carries the k best scores along a new leading dimension."""

    def __init__(self, k: int):
        self.k = k

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        if dim >= 0:
            raise ValueError("a semiring sums along a negative dim: leading dimensions are its own")
        candidates = x.movedim(dim, 1).flatten(0, 1)
        return candidates.topk(self.k, dim=0).values

    def start(self, x: Tensor) -> Tensor:
        others = x.new_full((self.k - 1, *x.shape), IMPOSSIBLE)
        return torch.cat([x.unsqueeze(0), others])

    def times(self, x: Tensor, y: Tensor) -> Tensor:
        # every pair, of which the next sum keeps the k best
        return (x.unsqueeze(1) + y.unsqueeze(0)).flatten(0, 1)


log_sum: Semiring = _LogSum()
max_sum: Semiring = _MaxSum()
draw_sum: Semiring = _DrawSum()


def k_best(k: int) -> Semiring:
    """The semiring of the k largest scores."""
    return _KBest(k)
