"""What rate costs what distortion: of a model, between bounds; of a finite source the least there is, exact.

    R(D) = min I(x; y) over p(y | x) with E d(x, y) <= D

The curve is convex, and each of its points is where I(x; y) + slope * E d(x, y) is least, for some slope >= 0. There
p(y | x) is proportional to q(y) exp(-slope d(x, y)), q(y) being the marginal of y, and taking turns converges (Blahut
1972, "Computation of channel capacity and rate-distortion functions"; Arimoto 1972). Nothing that is learned from data
can lie below it: it is what a rate-distortion autoencoder of a known source is held against.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentia.data import Dataset
from latentia.distributions.distortion import Distortion, distortions, squared
from latentia.distributions.divergence import kl_by_latent, kl_given
from latentia.distributions.joint import draw
from latentia.errors import CapabilityError, OptionError
from latentia.measure.information import decompose, mean_and_error
from latentia.model import DirectedModel, LatentVariableModel, in_evaluation


class RatePoint(NamedTuple):
    """A point of R(D).

    Attributes:
        rate: I(x; y) in nats a symbol. distortion: E d(x, y).
        marginal: q(y), (Y,).
        gap: by how much rate + slope * distortion may be above its minimum, in nats, at most.
    """

    rate: float
    distortion: float
    marginal: Tensor
    gap: float


class Rated(NamedTuple):
    """Rate and distortion of a model on data, the rate in nats a datum; `_se` are standard errors over the data.

    Attributes:
        distortion: E d(x, y), y = E[x | z] of draws z ~ q(z | x).
        rate: E KL(q(z | x) || r(z)), r the model's own prior: a bound on I(x; z) from above, and what a code of z by r
            costs.
        lower, upper: bounds on I(x; z) from q(z | x) alone: log q(z | x) - log mean_n q(z | x_n) with the draw's own
            datum among the n and without it (Poole et al. 2019, sections 2.1 and 2.4); upper is no more than `rate`
            beyond doubt. `upper` is None where there is none.
        ceiling: `lower` cannot be above it, the logarithm of the number of data held against each other.
    """

    distortion: float
    distortion_se: float
    rate: float
    rate_se: float
    lower: float
    lower_se: float
    upper: float | None
    upper_se: float | None
    ceiling: float


@in_evaluation
@torch.no_grad()
def rated(
    model: LatentVariableModel,
    data: Dataset,
    *,
    distortion: Distortion = squared,
    samples: int = 1,
    seed: int = 0,
    limit: int = 2000,
) -> Rated:
    """Rate, between its bounds, and distortion of data that may be others than those of the fit.

    Args:
        distortion: of each coordinate, see `latentia.distributions.distortion`.
        samples: draws of z a datum for the distortion, and the KL where it has no closed form.
        limit: data that are held against each other for `lower` and `upper`.

    Raises:
        CapabilityError: a model without prior and likelihood.
    """
    if not isinstance(model, DirectedModel):
        raise CapabilityError(f"{type(model).__name__} has no rate: it has no prior and likelihood of its own")
    kls, errors, weights = [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in data.frozen(seed).batches(512, dtype=model.anchor.dtype):
            batch = batch.to(model.anchor)
            q, prior = model.posterior(batch), model.prior(batch.frame)
            drawn = draw(q, samples)
            terms = kl_by_latent(q, prior) or kl_given(q, prior, drawn)
            kl = torch.stack([term.sum(-1).reshape(-1, batch.size) for term in terms.values()]).sum(0)
            kls.append(kl.double().mean(0).cpu())
            errors.append(
                distortions(model.likelihood(drawn.z, batch.frame), batch.x, batch.seen, distortion)
                .double()
                .mean(0)
                .cpu()
            )
            weights.append(batch.weights.double().cpu())
    kl, error, weight = torch.cat(kls), torch.cat(errors), torch.cat(weights)
    found = decompose(model, data, seed=seed, limit=limit)
    return Rated(
        *mean_and_error(error, weight),
        *mean_and_error(kl, weight),
        found.mutual_information,
        found.mutual_information_se,
        found.upper,
        found.upper_se,
        found.ceiling,
    )


def blahut_arimoto(
    source: Tensor, distortion: Tensor, slope: float, *, tol: float = 1e-6, steps: int = 100_000
) -> RatePoint:
    """The point of R(D) with R'(D) = -slope.

    Args:
        source: p(x), (X,); distortion: d(x, y), (X, Y), both float64 or made so.
        slope: nats that a unit of distortion is worth.
        tol: it stops when `gap` is so small; steps: or after so many turns.

    Raises:
        OptionError: a source that is no distribution, a negative slope, or shapes that do not go together.
    """
    source, distortion = source.double(), distortion.double()
    if source.ndim != 1 or distortion.ndim != 2 or len(distortion) != len(source):
        raise OptionError(f"source {tuple(source.shape)} and distortion {tuple(distortion.shape)}: (X,) and (X, Y)")
    if bool((source < 0).any()) or abs(float(source.sum()) - 1) > 1e-6:
        raise OptionError("source: probabilities of at least 0 that sum to 1")
    source = source / source.sum()
    if not 0 <= slope < float("inf"):
        raise OptionError(f"slope={slope}: it must be a number of at least 0")
    # the least distortion of each x has the weight 1, so that no sum vanishes
    least = distortion.amin(1, keepdim=True)
    weight = (-slope * (distortion - least)).exp()
    marginal = torch.full((distortion.shape[1],), 1 / distortion.shape[1], dtype=torch.float64)
    gap = float("inf")
    for _ in range(steps):
        ratio = (source / (weight @ marginal)) @ weight
        # Blahut (1972), theorem 6: the minimum lies between these two
        gap = float(ratio.log().amax() - torch.special.xlogy(marginal * ratio, ratio).sum())
        marginal = marginal * ratio
        if gap <= tol:
            break
    total = weight @ marginal
    channel = weight * marginal / total.unsqueeze(-1)
    mean = float((source @ (channel * distortion)).sum())
    rate = -slope * (mean - float(source @ least.squeeze(-1))) - float(torch.special.xlogy(source, total).sum())
    return RatePoint(max(rate - _excess(source, channel, marginal), 0.0), mean, marginal, gap)


def _excess(source: Tensor, channel: Tensor, marginal: Tensor) -> float:
    """By how much E KL(p(y | x) || q(y)) is above I(x; y), where q is not yet the marginal of y."""
    own = source @ channel
    return float((torch.special.xlogy(own, own) - torch.special.xlogy(own, marginal)).sum())
