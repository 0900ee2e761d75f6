"""Estimators of E_q f(z), and of its gradient.

Each is `Estimator = Callable[[q, f, samples], Tensor]`: f takes z (S, B, *latent) to (S, B), and the
estimate is (B,), in the units of f.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.errors import CapabilityError

Estimator = Callable[[Distribution, Callable[[Tensor], Tensor], int], Tensor]


def pathwise(q: Distribution, f: Callable[[Tensor], Tensor], samples: int) -> Tensor:
    """(1/S) sum_s f(z_s) with z_s a differentiable function of q's parameters.

    Kingma and Welling (2014), section 2.4; Rezende, Mohamed and Wierstra (2014), section 3.
    Raises `CapabilityError` where q cannot be reparameterised.
    """
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
    return (probability * f(z).where(probability > 0, 0.0)).sum(0)


def fixed(q: Distribution) -> Distribution:
    """The same distribution with parameters that no gradient flows through: its log-density then only depends on z.

    What "sticking the landing" needs (Roeder, Wu and Duvenaud 2017, section 3).
    """

    def still(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach()
        if isinstance(value, Distribution):
            return fixed(value)
        if isinstance(value, dict):
            return {name: still(part) for name, part in value.items()}
        return value

    copied = copy.copy(q)
    copied.__dict__ = {name: still(value) for name, value in q.__dict__.items()}
    return copied


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
