"""The bound of data of which some have z known, whatever z is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentia import gradients
from latentia.batch import Batch
from latentia.bound import Bound
from latentia.distributions.latents import each, named
from latentia.errors import CapabilityError
from latentia.gradients import Estimator
from latentia.model import DirectedModel, LatentVariableModel
from latentia.objectives.elbo import charged, expected_terms


def semi_supervised(
    model: LatentVariableModel,
    batch: Batch,
    *,
    alpha: float = 1.0,
    unlabelled: float = 0.1,
    samples: int = 5,
    beta: float = 1.0,
    estimator: Estimator = gradients.rloo,
) -> Bound:
    """log p(x, z) + alpha log q(z | x) where z is known by `batch.known`; `unlabelled` times the ELBO where it is not.

    Yin, Zhou, He and Neubig (2018), "StructVAE", equations 1 to 4. What the bound has of z that is not known comes from
    an estimator that needs no reparameterisation.

    Args:
        alpha: nats of log p(x, z) that one nat of log q(z | x) is worth.
        unlabelled: nats that one nat of the ELBO is worth (the paper's 0.1).
        samples: draws of z where it is not known, or trees that a search keeps.
        beta: weight of the KL.
        estimator: of the ELBO, see `latentia.gradients`: for forms `searched_mean`, `searched`, `source_lm` or `rloo`.

    Raises:
        CapabilityError: the model has no prior and likelihood.
    """
    model = directed(model, "semi_supervised")
    known = is_known(batch)
    parts = []
    for rows, part in ((known, True), (~known, False)):
        index = rows.nonzero().squeeze(-1)
        if not len(index):
            continue
        some = batch.select(index)
        bound = labelled(model, some, alpha) if part else _unlabelled(model, some, samples, beta, estimator, unlabelled)
        parts.append((index, bound))
    back = torch.cat([index for index, _ in parts]).argsort()
    values: list[Any] = [torch.cat([bound[i] for _, bound in parts])[back] for i in range(3)]  # type: ignore[misc]
    return Bound(*values)


def directed(model: LatentVariableModel, objective: str) -> DirectedModel:
    if not isinstance(model, DirectedModel):
        name = type(model).__name__
        raise CapabilityError(f"{objective} asks for log p(x, z) in two parts: write {name}.prior and .likelihood")
    return model


def is_known(batch: Batch) -> Tensor:
    """Of which data every latent is known, (B,)."""
    rows = torch.ones(batch.size, dtype=torch.bool, device=batch.x.device)
    if batch.known is None:
        return ~rows
    for part in named(batch.known).values():
        rows = rows & (part > 0).flatten(1).any(1)
    return rows


def labelled(model: DirectedModel, batch: Batch, alpha: float) -> Bound:
    """log p(x, z) + alpha log q(z | x) of z that is known."""
    z: Any = each(lambda part: part.unsqueeze(0).to(model.anchor.dtype), batch.known)
    blind = batch._replace(known=None)
    fit, cost = model.log_likelihood(blind, z)[0], -model.prior(batch.frame).log_prob(z)[0]
    return Bound(fit - cost + alpha * model.posterior(blind).log_prob(z)[0], fit, cost)


def _unlabelled(
    model: DirectedModel, batch: Batch, samples: int, beta: float, estimator: Estimator, weight: float
) -> Bound:
    blind = batch._replace(known=None)
    terms = expected_terms(model, blind, model.posterior(blind), samples, estimator=estimator, apart=False)
    bound = charged(*terms, beta)
    return bound._replace(value=weight * bound.value)
