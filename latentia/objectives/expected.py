"""The expected complete log-likelihood: what a gradient M-step climbs."""

from __future__ import annotations

import torch

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.distributions.structured import Structured
from latentia.errors import CapabilityError
from latentia.model import LatentVariableModel


def expected(model: LatentVariableModel, batch: Batch, *, held: LatentVariableModel | None = None) -> Bound:
    """E_q log p(x, z) + H(q) in nats, (B,), with q = p(z | x) of the E-step, held fixed: its gradient is the M-step's.

    The value is log p(x) - KL(q || p(z | x)), a lower bound that is tight at the parameters of the E-step, and there
    its gradient is that of log p(x) itself (Fisher's identity). A step of `Gradient` on it is a generalised EM step
    (Dempster, Laird and Rubin 1977, section 2); several steps with `held` a copy of the model are an M-step in full:

        held = copy.deepcopy(model)                                                       # E
        Gradient(objective=partial(expected, held=held), fresh=False).fit(model, data)    # M

    Args:
        held: the model of the E-step; None: the model as it is, so that each step has an E-step of its own.

    Raises:
        CapabilityError: a posterior that is no structure whose potentials score log p(x, z).
    """
    with torch.no_grad():
        q = (model if held is None else held).posterior(batch)
        entropy = q.entropy()
    p = model.posterior(batch)
    if not isinstance(q, Structured) or not isinstance(p, Structured):
        raise CapabilityError(
            f"{type(model).__name__} has a posterior of {type(q).__name__}, and expected needs one with potentials "
            "that score log p(x, z): a TractableModel whose z is a structure"
        )
    return Bound(q.expected_score(p.log_potentials) + entropy)
