"""Missing binary values as latents: q(z, x_missing) = q(z) prod_j Bernoulli(x_j; r_j), fitted to each datum.

    log p(x_observed) >= E_q[log p(z) + log p(x_observed, x_missing | z) - log q(z)] + sum_j H(r_j)

It asks of the likelihood only log p(x | z) of complete x, and gives the encoder complete x to read. So it serves a
decoder that cannot leave a pixel out (autoregressive), and an encoder that has never seen a hole. Where pixels are
independent given z they can be left out instead, and at the same q(z) that bound is the tighter one, by
E_q(z) sum_j KL(r_j || p(x_j | z)): what the mean field then buys is the better q(z), and r_j themselves.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.data import batch_for
from latentia.distributions.latents import Latents, each, some
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.inference.ascent import Point, adam_of_torch, ascend, freed, slopes_at
from latentia.inference.refinement import moved, still
from latentia.model import DirectedModel, LatentVariableModel
from latentia.objectives.elbo import charged, expected_terms

LOGIT = "logit of r"
"""Its name beside the parts of q, none of which has a blank in it."""


class MeanField(NamedTuple):
    """What was found for each datum.

    Attributes:
        probability: r, (B, *event): of a 1, where x is missing; x itself elsewhere.
        posterior: q(z), batch shape (B,).
        bound: on log p(x_observed), in nats; its reconstruction has the entropy of x_missing in it.
    """

    probability: Tensor
    posterior: Distribution
    bound: Bound


def mean_field(
    model: LatentVariableModel,
    data: Any,
    *,
    steps: int = 200,
    lr: float = 0.1,
    samples: int = 8,
    draws: int = 256,
) -> MeanField:
    """Fit r and q(z) to each datum, jointly, by gradient ascent on the bound; the model is held still.

    q(z) begins where the encoder puts it for x filled with r, and moves freely from there. The gradient is
    reparameterised in z; in r it is exact where pixels are independent given z, and otherwise that of the score
    function, each draw's baseline being the mean of the others. Adam, whose rate falls to 0 as a half cosine.

    Args:
        data: anything that `as_dataset` takes.
        steps: of ascent; with 0, r is 1/2 and q(z) the encoder's.
        lr: the first steps' size, in the logit of r and in q's unconstrained parameters.
        samples: draws of (z, x_missing) a datum and step, at least 2, from torch's global generator.
        draws: for the bound that is returned.

    Raises:
        CapabilityError: no prior and likelihood, or a q that cannot be moved.
        DataError: x that is not binary.
        OptionError: too few steps or samples, or a rate that is not positive.
    """
    if steps < 0 or samples < 2 or draws < 1 or not (lr > 0 and math.isfinite(lr)):
        raise OptionError(f"steps={steps}, samples={samples}, draws={draws}, lr={lr}: at least 0, 2, 1, and positive")
    batch = data if isinstance(data, Batch) else batch_for(model, data)
    directed = _ready(model, batch)
    logit, q = _fitted(directed, batch, steps, lr, samples)
    with torch.no_grad():
        return MeanField(filled(batch, logit).x, q, _bound(directed, batch, logit, q, draws))


def mean_field_elbo(
    model: LatentVariableModel, batch: Batch, *, samples: int = 2, steps: int = 5, lr: float = 0.5
) -> Bound:
    """The bound as an objective, to learn a model from data with holes: r by `mean_field`, z from the encoder.

    The encoder reads x filled with r and is trained to; r itself, found in `steps`, is held still in the gradient.
    Arguments as there.
    """
    if steps < 0 or samples < 2 or not (lr > 0 and math.isfinite(lr)):
        raise OptionError(f"steps={steps}, samples={samples}, lr={lr}: at least 0, 2, and positive")
    directed = _ready(model, batch)
    logit, _ = _fitted(directed, batch, steps, lr, samples)
    return _bound(directed, batch, logit, directed.posterior(filled(batch, logit)), samples)


def filled(batch: Batch, logit: Tensor) -> Batch:
    """Complete x: what is missing is r = sigmoid(logit)."""
    return batch._replace(x=torch.where(batch.hidden, logit.sigmoid(), batch.x.to(logit)), mask=None)


def _ready(model: LatentVariableModel, batch: Batch) -> DirectedModel:
    if not isinstance(model, DirectedModel):
        name = type(model).__name__
        raise CapabilityError(f"{name} has no likelihood of complete x: write {name}.prior and {name}.likelihood")
    x = batch.x[batch.observed]
    if not bool(((x == 0) | (x == 1)).all()):
        raise DataError("Bernoulli posteriors are for missing values of binary x: these x are not all 0 or 1")
    return model


def _fitted(model: DirectedModel, batch: Batch, steps: int, lr: float, samples: int) -> tuple[Tensor, Distribution]:
    """The logit of r, and q(z), after so many steps of Adam."""
    logit = torch.zeros_like(batch.x, dtype=model.anchor.dtype)
    with torch.no_grad():
        start = freed({LOGIT: logit, **still(model.posterior(filled(batch, logit)))})

    def placed(point: Point) -> tuple[Tensor, Distribution]:
        return point[LOGIT], moved(model.posterior(filled(batch, point[LOGIT])), point)

    def slopes(point: Point) -> Point:
        with torch.enable_grad():
            return slopes_at(point, _bound(model, batch, *placed(point), samples, climb=True).value.sum())

    found = ascend(start, slopes, adam_of_torch(start, lr, steps), steps)
    with torch.no_grad():
        return placed({name: part.detach() for name, part in found.items()})


def _bound(
    model: DirectedModel, batch: Batch, logit: Tensor, q: Distribution, samples: int, climb: bool = False
) -> Bound:
    """The bound at r = sigmoid(logit) and q(z); to `climb`, with a gradient that is right for r too."""
    entropy = torch.where(batch.hidden, Bernoulli(logits=logit).entropy(), 0.0).flatten(1).sum(-1)

    def expected(z: Latents) -> Tensor:
        likelihood = model.likelihood(z, batch.frame)
        if isinstance(likelihood, Bernoulli):
            # linear in x, so r may stand in the place of x
            return likelihood.log_prob(filled(batch, logit).x).flatten(2).sum(-1)
        return _drawn(model, batch, logit, z, climb)

    reconstruction, terms = expected_terms(model, batch, q, samples, log_likelihood=expected)
    return charged(reconstruction + entropy, terms)


def _drawn(model: DirectedModel, batch: Batch, logit: Tensor, z: Latents, climb: bool) -> Tensor:
    """log p(x_observed, x_missing | z) at a draw of x_missing for each of z, (S, B)."""
    samples, missing = len(some(z)), batch.hidden
    drawn = Bernoulli(logits=logit.detach()).sample((samples,))
    x = torch.where(missing, drawn, batch.x.to(logit))
    # the model takes one x a datum: the draws become data
    many = batch.map(lambda part: part.repeat(samples, *(1,) * (part.ndim - 1)))._replace(x=x.flatten(0, 1), mask=None)
    value = (
        model.log_likelihood(many, each(lambda part: part.flatten(0, 1)[None], z))
        .unflatten(1, (samples, -1))
        .squeeze(0)
    )
    if not climb:
        return value
    # the score function, with the mean of the other draws as each one's baseline (Kool et al. 2019)
    score = torch.where(missing, Bernoulli(logits=logit).log_prob(drawn), 0.0).flatten(2).sum(-1)
    others = (value.sum(0) - value) / (samples - 1)
    weight = (value - others).detach()
    return value + weight * score - (weight * score).detach()
