"""The evidence lower bound, written once: every objective and every refinement of q takes its terms from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia import gradients
from latentia.bound import Bound
from latentia.distributions.bounded import log_prob_or_bound
from latentia.distributions.divergence import kl_by_latent, kl_given
from latentia.distributions.joint import Draw
from latentia.distributions.latents import Latents
from latentia.distributions.structured import Structured
from latentia.errors import CapabilityError, OptionError
from latentia.gradients import Estimator
from latentia.model import Batch, DirectedModel, LatentVariableModel, TractableModel


def elbo(
    model: LatentVariableModel,
    batch: Batch,
    *,
    samples: int = 1,
    beta: float = 1.0,
    free_bits: float = 0.0,
    free: Literal["dimension", "latent", "total"] = "dimension",
    stl: bool = False,
    estimator: Estimator = gradients.automatic,
) -> Bound:
    """E_q log p(x | z) - beta * sum_d max(free_bits, KL_d), with KL_d the divergence of latent dimension d.

    With beta = 1 and free_bits = 0 it is the evidence lower bound. The KL is analytic where a closed form is
    known; of latents that depend on each other it is the mean over the draws of their conditionals' divergences.
    beta: Higgins et al. (2017). Free bits, in nats a dimension and a datum: Kingma et al. (2016),
    appendix C.8, in the form of Li et al. (2019), section 3.2, which floors each datum's own KL. A model without
    prior and likelihood has one term, E_q[log p(x, z) - log q(z | x)], of which the entropy is exact where z is a
    structure, and takes neither option. Where the prior or the likelihood is `Bounded`, as a diffusion is, its bound
    stands for its log-density: the whole is a bound still.

    Args:
        samples: draws of z a datum.
        beta: weight of the KL; below 1 the latents carry more, above 1 less.
        free_bits: nats of KL that cost nothing, for each latent dimension, or by `free` for each latent (the layers
            of a ladder), or in total. A latent whose KL does not factorise (a full covariance, a flow, a mixture as
            the prior) counts as one dimension.
        stl: sticking the landing (Roeder, Wu and Duvenaud 2017): the KL is sampled, and the part of its gradient whose
            mean is zero is left out, so that the gradient has no variance once q is the exact posterior.
        estimator: of E_q, see `latentia.gradients`: reparameterised draws, or for bits, one-hot values and trees the
            score function against the mean of the other draws, unless another is named.
    """
    if free not in ("dimension", "latent", "total"):
        raise OptionError(f"free={free!r}: choose one of dimension, latent, total")
    if stl and estimator not in (gradients.automatic, gradients.pathwise):
        raise OptionError("stl=True draws z itself: leave estimator out")
    if stl and free_bits > 0:
        raise OptionError("stl samples the KL as a whole, so free_bits has no dimensions to floor: leave one out")
    if not isinstance(model, DirectedModel):
        _no_options(model, beta, free_bits)
    q = model.posterior(batch)
    log_q: Any = gradients.fixed(q).log_prob if stl else None
    apart = free_bits > 0
    reconstruction, terms = expected_terms(model, batch, q, samples, estimator=estimator, log_q=log_q, apart=apart)
    return charged(reconstruction, terms, beta, free_bits, free)


Terms = tuple[Tensor, list[Tensor] | None]
"""E_q log p(x | z), (B,), and the terms of each latent's KL, (B, D); for a model without a likelihood E_q[log p(x, z) -
log q(z)] and None."""


def expected_terms(
    model: LatentVariableModel,
    batch: Batch,
    q: Distribution,
    samples: int,
    *,
    estimator: Estimator = gradients.pathwise,
    log_likelihood: Callable[[Latents], Tensor] | None = None,
    log_q: Callable[[Latents], Tensor] | None = None,
    apart: bool = True,
) -> Terms:
    """The terms of the bound for any q(z | x), from one pass of its networks.

    Args:
        log_likelihood: log p(x | z) of draws, (S, B), in the place of the model's own.
        log_q: the density of draws in the place of q's own, (S, B): the KL is then sampled as a whole.
        apart: the terms of a KL that is sampled one by one, not their sum alone.
    """
    if not isinstance(model, DirectedModel):
        return _undivided(model, batch, q, samples, estimator, log_q), None
    prior, directed = model.prior(batch.frame), model
    closed = None if log_q is not None else kl_by_latent(q, prior)
    widths: list[int] = []

    def fit(z: Latents) -> Tensor:
        return directed.log_likelihood_bound(batch, z) if log_likelihood is None else log_likelihood(z)

    def columns(drawn: Draw) -> Tensor:
        if log_q is None:
            terms = list(kl_given(q, prior, drawn).values())
        else:
            terms = [(log_q(drawn.z) - log_prob_or_bound(prior, drawn.z)).unsqueeze(-1)]
        if not apart:
            terms = [_columns(terms).sum(-1, keepdim=True)]
        widths[:] = [term.shape[-1] for term in terms]
        return torch.cat([fit(drawn.z).unsqueeze(-1), *terms], -1)

    if closed is not None:
        return estimator(q, gradients.OfDraw(q, lambda drawn: fit(drawn.z), batch), samples), list(closed.values())
    reconstruction, *terms = estimator(q, gradients.OfDraw(q, columns, batch), samples).split([1, *widths], -1)
    return reconstruction.squeeze(-1), terms


def _undivided(
    model: LatentVariableModel,
    batch: Batch,
    q: Distribution,
    samples: int,
    estimator: Estimator,
    log_q: Callable[[Latents], Tensor] | None,
) -> Tensor:
    """E_q[log p(x, z) - log q(z)] of a joint that has no two parts. The entropy of structures is exact; but not where q
    is the posterior itself, of which one draw says all."""
    if isinstance(q, Structured) and log_q is None and not isinstance(model, TractableModel):
        joint = gradients.OfDraw(q, lambda drawn: model.log_joint(batch, drawn.z), batch)
        return estimator(q, joint, samples) + q.entropy()

    def weight(drawn: Draw) -> Tensor:
        return model.log_joint(batch, drawn.z) - (drawn.log_q if log_q is None else log_q(drawn.z))

    return estimator(q, gradients.OfDraw(q, weight, batch), samples)


def charged(
    reconstruction: Tensor,
    terms: list[Tensor] | None,
    beta: float = 1.0,
    free_bits: float = 0.0,
    free: str = "dimension",
) -> Bound:
    """The bound of these terms: beta times each dimension, latent or total of the KL, at least its free bits."""
    if terms is None:
        return Bound(reconstruction)
    kl = _columns(terms).sum(-1)
    cost = kl if free_bits <= 0 else _floored(terms, free_bits, free)
    return Bound(reconstruction - beta * cost, reconstruction, kl)


def _floored(terms: list[Tensor], free_bits: float, free: str) -> Tensor:
    if free == "latent":
        terms = [term.sum(-1, keepdim=True) for term in terms]
    columns = _columns(terms)
    columns = columns.sum(-1, keepdim=True) if free == "total" else columns
    return columns.clamp(min=free_bits).sum(-1)


def _columns(terms: list[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else torch.cat(terms, -1)


def _no_options(model: LatentVariableModel, beta: float, free_bits: float) -> None:
    if beta != 1 or free_bits != 0:
        raise CapabilityError(f"beta and free_bits weigh a KL: write {type(model).__name__}.prior and .likelihood")
