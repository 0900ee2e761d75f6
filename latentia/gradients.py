"""Estimators of E_q f(z), and of its gradient.

Each is `Estimator = Callable[[q, f, samples], Tensor]`: f takes z (S, B, *latent) to (S, B), and the
estimate is (B,), in the units of f.
"""

from __future__ import annotations

from collections.abc import Callable

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
