"""E_q f(z): what an estimator is given, and the two that are exact where they apply."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.batch import Batch
from latentia.distributions.discrete import ENUMERABLE, count, enumerable
from latentia.distributions.joint import Draw, Joint, at, draw
from latentia.distributions.latents import Latents
from latentia.errors import CapabilityError

Function = Callable[[Any], Tensor]


class OfDraw:
    """A function of z that uses the distributions z was drawn from, so that q's networks are asked once. An estimator
    that gives it z alone may do so: q is then asked again.

    Args:
        q: what z is drawn from.
        function: of a `Draw`, (S, B) or (S, B, C).
        batch: the data that f is about, for a baseline that looks at them.
    """

    def __init__(self, q: Distribution, function: Callable[[Draw], Tensor], batch: Batch | None = None):
        self.q, self.function, self.batch = q, function, batch

    def __call__(self, z: Latents) -> Tensor:
        return self.function(at(self.q, z))


def value(f: Function, drawn: Draw) -> Tensor:
    """f of the draws."""
    return f.function(drawn) if isinstance(f, OfDraw) else f(drawn.z)


class Estimator(Protocol):
    """E_q f(z) and its gradient: a function, or an `nn.Module` where it has a baseline of its own to learn."""

    def __call__(self, q: Distribution, f: Function, samples: int) -> Tensor: ...


def pathwise(q: Distribution, f: Function, samples: int) -> Tensor:
    """(1/S) sum_s f(z_s) with z_s a differentiable function of q's parameters.

    Latents that a `Joint` sums out are summed out exactly, and the draws are of the others.

    Kingma and Welling (2014), section 2.4; Rezende, Mohamed and Wierstra (2014), section 3.
    Raises `CapabilityError` where q cannot be reparameterised.
    """
    if isinstance(q, Joint) and q.summed:
        drawn = q.branches(samples)
        return drawn.mean(value(f, drawn))
    if not q.has_rsample:
        raise CapabilityError(
            f"{type(q).__name__} cannot be reparameterised: use estimator=gradients.enumerate where z is finite"
        )
    drawn = draw(q, samples)
    return drawn.mean(value(f, drawn))


def enumerate(q: Distribution, f: Function, samples: int = 0) -> Tensor:
    """sum_z q(z) f(z), exactly, over all values of a finite z, or of several. `samples` is not used."""
    if isinstance(q, Joint) and not q.has_rsample:
        with torch.no_grad():
            values = math.prod(count(part) for part in draw(q, 1).parts.values())
        if values > ENUMERABLE:
            raise CapabilityError(f"these latents have {values:g} values, too many to enumerate: use rloo or another")
        drawn = Joint(q.parts, q.parts).branches()
        return drawn.mean(value(f, drawn))
    if not enumerable(q):
        raise CapabilityError(f"{type(q).__name__} has no finite support to enumerate: use estimator=pathwise")
    z: Any = q.enumerate_support()
    drawn = Draw(z, {"z": q}, q.log_prob(z))
    return drawn.mean(value(f, drawn))
