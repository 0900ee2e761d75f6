"""Rate and distortion weighed against each other, for any distortion."""

from __future__ import annotations

from torch import Tensor

from latentia import gradients
from latentia.bound import Bound
from latentia.distributions.distortion import Distortion, distortions, squared
from latentia.distributions.latents import Latents
from latentia.errors import CapabilityError, OptionError
from latentia.gradients import Estimator
from latentia.model import Batch, DirectedModel, LatentVariableModel
from latentia.objectives.elbo import charged, expected_terms


def rate_distortion(
    model: LatentVariableModel,
    batch: Batch,
    *,
    slope: float = 1.0,
    distortion: Distortion = squared,
    samples: int = 1,
    estimator: Estimator = gradients.automatic,
) -> Bound:
    """-(KL(q(z | x) || r(z)) + slope E_q d(x, y)), y = E[x | z]: the mean KL bounds the rate I(x; z) from above.

    It is no bound on log p(x) but where exp(-slope d) is the likelihood up to a constant, as in `RateDistortion`, whose
    `elbo` it is then; `reconstruction` is -slope E_q d. With the log-loss it is slope times `elbo(beta=1 / slope)`.
    Alemi et al. (2018), section 2.

    Args:
        slope: nats that a unit of distortion is worth.
        distortion: of each coordinate, see `Distortion`.
        samples: draws of z a datum.
        estimator: of E_q, see `elbo`.

    Raises:
        CapabilityError: a model without prior and likelihood.
        OptionError: a slope below 0.
    """
    if slope < 0:
        raise OptionError(f"slope={slope}: nats that an error is worth, at least 0")
    if not isinstance(model, DirectedModel):
        raise CapabilityError(
            f"{type(model).__name__} has no rate: write {type(model).__name__}.prior and .likelihood, as a "
            "DirectedModel has them"
        )

    def cost(z: Latents) -> Tensor:
        return -slope * distortions(model.likelihood(z, batch.frame), batch.x, batch.seen, distortion)

    q = model.posterior(batch)
    return charged(*expected_terms(model, batch, q, samples, estimator=estimator, log_likelihood=cost, apart=False))
