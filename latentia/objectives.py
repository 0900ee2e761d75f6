"""What is climbed: bounds on log p(x), one value a datum, never averaged.

`Objective = Callable[[LatentVariableModel, Batch], Bound]`; options are bound with `functools.partial`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia import gradients
from latentia.distributions.divergence import kl_terms, sampled_kl
from latentia.errors import CapabilityError
from latentia.gradients import Estimator
from latentia.model import Batch, DirectedModel, ExactModel, LatentVariableModel


class Bound(NamedTuple):
    """A bound and its parts, in nats per datum, each (B,).

    Attributes:
        value: what is climbed.
        reconstruction: E_q log p(x | z), where the model has a likelihood.
        kl: KL(q(z | x) || p(z)) itself, before any weight or free bits.
    """

    value: Tensor
    reconstruction: Tensor | None = None
    kl: Tensor | None = None


Objective = Callable[[LatentVariableModel, Batch], Bound]


def elbo(
    model: LatentVariableModel,
    batch: Batch,
    *,
    samples: int = 1,
    beta: float = 1.0,
    free_bits: float = 0.0,
    estimator: Estimator = gradients.pathwise,
) -> Bound:
    """E_q log p(x | z) - beta * sum_d max(free_bits, KL_d), with KL_d the divergence of latent dimension d.

    With beta = 1 and free_bits = 0 it is the evidence lower bound. The KL is analytic where a closed form is
    known. beta: Higgins et al. (2017). Free bits, in nats a dimension and a datum: Kingma et al. (2016),
    appendix C.8, in the form of Li et al. (2019), section 3.2, which floors each datum's own KL. A model without
    prior and likelihood has one term, E_q[log p(x, z) - log q(z | x)], and takes neither option.

    Args:
        samples: draws of z a datum.
        beta: weight of the KL; below 1 the latents carry more, above 1 less.
        free_bits: nats of KL a latent dimension that cost nothing.
        estimator: of E_q, see `latentia.gradients`.
    """
    q = model.posterior(batch)
    if not isinstance(model, DirectedModel):
        _no_options(model, beta, free_bits)
        return Bound(estimator(q, lambda z: model.log_joint(batch, z) - q.log_prob(z), samples))
    reconstruction = estimator(q, lambda z: model.log_likelihood(batch, z), samples)
    terms = kl_terms(q, model.prior(batch))
    if terms is None:
        terms = estimator(q, lambda z: q.log_prob(z) - model.prior(batch).log_prob(z), samples).unsqueeze(-1)
    charged = terms.clamp(min=free_bits) if free_bits > 0 else terms
    return Bound(reconstruction - beta * charged.sum(-1), reconstruction, terms.sum(-1))


def iwae(model: LatentVariableModel, batch: Batch, *, samples: int = 50) -> Bound:
    """log (1/K) sum_k p(x, z_k) / q(z_k | x), z_k ~ q: Burda, Grosse and Salakhutdinov (2016), equation 8.

    Reparameterised where q can be. Its two terms are reported as the ELBO's, from the same draws.

    Args:
        samples: K, importance samples a datum; more make the bound tighter.
    """
    q = model.posterior(batch)
    z = q.rsample((samples,)) if q.has_rsample else q.sample((samples,))
    log_q = q.log_prob(z)
    if not isinstance(model, DirectedModel):
        return Bound(_log_mean_exp(model.log_joint(batch, z) - log_q))
    log_likelihood, log_prior = model.log_likelihood(batch, z), model.prior(batch).log_prob(z)
    value = _log_mean_exp(log_likelihood + log_prior - log_q)
    return Bound(value, log_likelihood.detach().mean(0), (log_q - log_prior).detach().mean(0))


def exact(model: LatentVariableModel, batch: Batch) -> Bound:
    """log p(x) itself, the log-partition of the posterior's potentials. Raises `CapabilityError` without one."""
    if not isinstance(model, ExactModel):
        raise CapabilityError(
            f"{type(model).__name__} has no exact log p(x): its posterior would need a log_partition (see ExactModel)"
        )
    return Bound(model.posterior(batch).log_partition)


def kl_divergence(q: Distribution, p: Distribution, samples: int = 64) -> Tensor:
    """KL(q || p) in nats, (B, D) by latent dimension where they factorise, else (B, 1), sampled if need be."""
    terms = kl_terms(q, p)
    return sampled_kl(q, p, q.sample((samples,))).unsqueeze(-1) if terms is None else terms


def _log_mean_exp(log_weight: Tensor) -> Tensor:
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def _no_options(model: LatentVariableModel, beta: float, free_bits: float) -> None:
    if beta != 1 or free_bits != 0:
        raise CapabilityError(f"beta and free_bits weigh a KL: write {type(model).__name__}.prior and .likelihood")
