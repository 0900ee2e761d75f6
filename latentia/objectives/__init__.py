"""What is climbed: bounds on log p(x), one value a datum, never averaged.

`Objective = Callable[[LatentVariableModel, Batch], Bound]`; options are bound with `functools.partial`.
"""

from __future__ import annotations

from collections.abc import Callable

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.distributions.divergence import kl_divergence
from latentia.errors import CapabilityError
from latentia.model import LatentVariableModel, TractableModel
from latentia.objectives.alignment import alignment_elbo
from latentia.objectives.elbo import elbo
from latentia.objectives.expected import expected
from latentia.objectives.iwae import iwae
from latentia.objectives.joint_stochastic import Chains, joint_stochastic
from latentia.objectives.rate_distortion import rate_distortion
from latentia.objectives.semi_supervised import semi_supervised
from latentia.objectives.supervised import supervised

__all__ = [
    "Bound",
    "Chains",
    "Objective",
    "alignment_elbo",
    "elbo",
    "exact",
    "expected",
    "iwae",
    "joint_stochastic",
    "kl_divergence",
    "rate_distortion",
    "semi_supervised",
    "supervised",
]

Objective = Callable[[LatentVariableModel, Batch], Bound]


def exact(model: LatentVariableModel, batch: Batch) -> Bound:
    """log p(x) itself, the log-partition of the posterior's potentials. Raises `CapabilityError` without one."""
    if not isinstance(model, TractableModel):
        raise CapabilityError(
            f"{type(model).__name__} has no exact log p(x): its posterior has no log_partition (see TractableModel)"
        )
    return Bound(model.posterior(batch).log_partition)
