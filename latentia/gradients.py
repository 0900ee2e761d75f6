"""Estimators of E_q f(z), and of its gradient.

Each is `Estimator = Callable[[q, f, samples], Tensor]`: f takes z (S, B, *latent) to (S, B), or to several columns
(S, B, C), and the estimate is (B,) or (B, C), in the units of f.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.finite import FiniteJoint
from latentia.errors import CapabilityError

Estimator = Callable[[Distribution, Callable[[Tensor], Tensor], int], Tensor]


def pathwise(q: Distribution, f: Callable[[Tensor], Tensor], samples: int) -> Tensor:
    """(1/S) sum_s f(z_s) with z_s a differentiable function of q's parameters.

    Of a `FiniteJoint` the finite latent is summed out exactly, and the draws are of the others.

    Kingma and Welling (2014), section 2.4; Rezende, Mohamed and Wierstra (2014), section 3.
    Raises `CapabilityError` where q cannot be reparameterised.
    """
    if isinstance(q, FiniteJoint):
        return _summed(q, f, samples)
    if not q.has_rsample:
        raise CapabilityError(
            f"{type(q).__name__} cannot be reparameterised: use estimator=gradients.enumerate where z is finite"
        )
    return f(q.rsample((samples,))).mean(0)  # type: ignore[arg-type]


def enumerate(q: Distribution, f: Callable[[Tensor], Tensor], samples: int = 0) -> Tensor:
    """sum_z q(z) f(z), exactly, over all values of a finite z. `samples` is not used."""
    if not q.has_enumerate_support:
        raise CapabilityError(f"{type(q).__name__} has no finite support to enumerate: use estimator=pathwise")
    z = q.enumerate_support()
    probability = q.log_prob(z).exp()
    # 0 * -inf: what q rules out adds nothing, however impossible f finds it
    return _weighed(probability, f(z))


def _summed(q: FiniteJoint, f: Callable[[Any], Tensor], samples: int) -> Tensor:
    """sum_y q(y) (1/S) sum_s f(y, z_s), z_s ~ q(z | y): its gradient has no noise from y."""
    z, probability = q.branches(samples)
    return _weighed(probability, f(z).unflatten(0, (-1, samples)).mean(1))


def _weighed(probability: Tensor, value: Tensor) -> Tensor:
    """sum_s probability_s value_s over the first dimension; what has no probability adds nothing, not even 0 * inf."""
    probability = probability.reshape(*probability.shape, *(1,) * (value.ndim - probability.ndim))
    return (probability * value.where(probability > 0, 0.0)).sum(0)


def fixed(q: Distribution) -> Distribution:
    """The same distribution with parameters that no gradient flows through: its log-density then only depends on z.

    What "sticking the landing" needs (Roeder, Wu and Duvenaud 2017, section 3).
    """
    if _opaque(q):
        return _Through(q)

    def still(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach()
        if isinstance(value, Distribution):
            return fixed(value)
        if isinstance(value, nn.Module):
            # a flow's network: a copy of the module that shares its tensors
            return copy.deepcopy(value, {id(t): t.detach() for t in (*value.parameters(), *value.buffers())})
        if isinstance(value, dict):
            return {name: still(part) for name, part in value.items()}
        return value

    copied = copy.copy(q)
    for name, value in vars(q).items():  # one by one: of a new __dict__ torch.compile would not know
        setattr(copied, name, still(value))
    return copied


def _opaque(value: Any) -> bool:
    """Whether a function is in it, and with it parameters that cannot be taken hold of."""
    if isinstance(value, Distribution):
        return any(map(_opaque, vars(value).values()))
    if isinstance(value, dict):
        return any(map(_opaque, value.values()))
    return callable(value) and not isinstance(value, nn.Module | type)


class _Through(Distribution):
    """q, with a log-density that gradients pass through by way of z alone: log q(z) + (d log q / dz) (z - z).

    A later latent's distribution moves with the earlier ones, and that is a way through z.
    """

    def __init__(self, q: Distribution):
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.q = q

    def log_prob(self, value: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return self.q.log_prob(value)
        named = value if isinstance(value, dict) else {"": value}
        leaves = {name: part.detach().requires_grad_() for name, part in named.items()}
        log_prob = self.q.log_prob(leaves if isinstance(value, dict) else leaves[""])  # type: ignore[arg-type]
        # the log-density of a draw depends on that draw alone, so the sum has every draw's own slope
        # retained, without which torch.compile takes what q shares with the objective for spent
        slopes = torch.autograd.grad(log_prob.sum(), list(leaves.values()), retain_graph=True)
        moves = [(z - z.detach()) * slope for z, slope in zip(named.values(), slopes, strict=True)]
        return log_prob.detach() + torch.stack([move.reshape(*move.shape[:2], -1).sum(-1) for move in moves]).sum(0)


def scaled(z: Any, factor: Tensor) -> Any:
    """z itself, (S, B, *latent), but what flows back through it is multiplied by `factor` (S, B)."""
    if isinstance(z, dict):
        return {name: scaled(part, factor) for name, part in z.items()}
    return _Scaled.apply(z, factor)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] * factor.reshape(*factor.shape, *(1,) * (grads[0].ndim - 2)), None
