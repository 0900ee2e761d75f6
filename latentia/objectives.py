"""What is climbed: bounds on log p(x), one value a datum, never averaged.

`Objective = Callable[[LatentVariableModel, Batch], Bound]`; options are bound with `functools.partial`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia import gradients
from latentia.distributions.divergence import kl_by_latent, kl_given, kl_terms, sampled_kl
from latentia.distributions.finite import FiniteJoint
from latentia.distributions.joint import Joint, remembering
from latentia.errors import CapabilityError, OptionError
from latentia.gradients import Estimator
from latentia.model import Batch, DirectedModel, LatentVariableModel, TractableModel


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
    free: Literal["dimension", "latent", "total"] = "dimension",
    stl: bool = False,
    estimator: Estimator = gradients.pathwise,
) -> Bound:
    """E_q log p(x | z) - beta * sum_d max(free_bits, KL_d), with KL_d the divergence of latent dimension d.

    With beta = 1 and free_bits = 0 it is the evidence lower bound. The KL is analytic where a closed form is
    known; of latents that depend on each other it is the mean over the draws of their conditionals' divergences.
    beta: Higgins et al. (2017). Free bits, in nats a dimension and a datum: Kingma et al. (2016),
    appendix C.8, in the form of Li et al. (2019), section 3.2, which floors each datum's own KL. A model without
    prior and likelihood has one term, E_q[log p(x, z) - log q(z | x)], and takes neither option.

    Args:
        samples: draws of z a datum.
        beta: weight of the KL; below 1 the latents carry more, above 1 less.
        free_bits: nats of KL that cost nothing, for each latent dimension, or by `free` for each latent (the layers
            of a ladder), or in total. A latent whose KL does not factorise (a full covariance, a flow, a mixture as
            the prior) counts as one dimension.
        stl: sticking the landing (Roeder, Wu and Duvenaud 2017): the KL is sampled, and the part of its gradient whose
            mean is zero is left out, so that the gradient has no variance once q is the exact posterior.
        estimator: of E_q, see `latentia.gradients`.
    """
    if free not in ("dimension", "latent", "total"):
        raise OptionError(f"free={free!r}: choose one of dimension, latent, total")
    if stl and estimator is not gradients.pathwise:
        raise OptionError("stl=True draws z itself: leave estimator out")
    q = remembering(model.posterior(batch))
    if not isinstance(model, DirectedModel):
        _no_options(model, beta, free_bits)
        density = gradients.fixed(q) if stl else q
        return Bound(estimator(q, lambda z: model.log_joint(batch, z) - density.log_prob(z), samples))
    if stl:
        return _stl(model, batch, q, samples, beta, free_bits)
    prior = model.prior(batch)
    parts = kl_by_latent(q, prior)
    if parts is not None:
        reconstruction, terms = estimator(q, lambda z: model.log_likelihood(batch, z), samples), list(parts.values())
    else:
        reconstruction, terms = _drawn(model, batch, q, prior, samples, estimator)
    kl = _columns(terms).sum(-1)
    charged = kl if free_bits <= 0 else _charged(terms, free_bits, free)
    return Bound(reconstruction - beta * charged, reconstruction, kl)


def _drawn(
    model: DirectedModel, batch: Batch, q: Distribution, prior: Distribution, samples: int, estimator: Estimator
) -> tuple[Tensor, list[Tensor]]:
    """The reconstruction, (B,), and the terms of each latent's KL, (B, D), from the same draws."""
    widths: list[int] = []

    def columns(z: Any) -> Tensor:
        terms = list(kl_given(q, prior, z).values())
        widths[:] = [term.shape[-1] for term in terms]
        return torch.cat([model.log_likelihood(batch, z).unsqueeze(-1), *terms], -1)

    reconstruction, *terms = estimator(q, columns, samples).split([1, *widths], -1)
    return reconstruction.squeeze(-1), terms


def _charged(terms: list[Tensor], free_bits: float, free: str) -> Tensor:
    """What the KL costs, (B,): each dimension, latent or the total at least its floor."""
    if free == "latent":
        terms = [term.sum(-1, keepdim=True) for term in terms]
    columns = _columns(terms)
    columns = columns.sum(-1, keepdim=True) if free == "total" else columns
    return columns.clamp(min=free_bits).sum(-1)


def _columns(terms: list[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else torch.cat(terms, -1)


def _stl(model: DirectedModel, batch: Batch, q: Distribution, samples: int, beta: float, free_bits: float) -> Bound:
    if free_bits > 0:
        raise OptionError("stl samples the KL as a whole, so free_bits has no dimensions to floor: leave one out")
    z = _reparameterised(q, samples)
    reconstruction = model.log_likelihood(batch, z).mean(0)
    kl = (gradients.fixed(q).log_prob(z) - model.prior(batch).log_prob(z)).mean(0)
    return Bound(reconstruction - beta * kl, reconstruction, kl)


def iwae(
    model: LatentVariableModel,
    batch: Batch,
    *,
    samples: int = 50,
    gradient: Literal["pathwise", "stl", "dreg"] = "pathwise",
) -> Bound:
    """log (1/K) sum_k p(x, z_k) / q(z_k | x), z_k ~ q: Burda, Grosse and Salakhutdinov (2016), equation 8.

    Its two terms are reported as the ELBO's, from the same draws. Where q cannot be reparameterised it is a bound to
    measure by: only of a model whose posterior is exact does it have a gradient to learn by.

    Args:
        samples: K, importance samples a datum; more make the bound tighter.
        gradient: of q's parameters; the value is the same. "pathwise" is the bound's own gradient, whose signal
            drowns in noise as K grows (Rainforth et al. 2018). "dreg" is doubly reparameterised: unbiased too, and
            better with K (Tucker et al. 2019, equation 8). "stl" leaves out the score of q: little variance, biased
            for K > 1 (Roeder, Wu and Duvenaud 2017).

    Raises:
        CapabilityError: a gradient is to be taken, and q, which is not exact, cannot be reparameterised.
    """
    if gradient not in ("pathwise", "stl", "dreg"):
        raise OptionError(f"gradient={gradient!r}: choose one of pathwise, stl, dreg")
    q = remembering(model.posterior(batch))
    if gradient == "pathwise":
        z = q.rsample((samples,)) if q.has_rsample else q.sample((samples,))
        likelihood, ratio = _terms(model, batch, q, z)
        if not q.has_rsample and not isinstance(model, TractableModel) and q.log_prob(z).requires_grad:
            # what is left of the gradient would drive q away from the posterior
            raise CapabilityError(f"{type(q).__name__} cannot be reparameterised: learn by elbo, which sums it out")
        return _importance(likelihood, ratio)
    z = _reparameterised(q, samples)
    still = gradients.fixed(q)
    if gradient == "stl":
        return _importance(*_terms(model, batch, still, z))
    with torch.no_grad():
        likelihood, ratio = _terms(model, batch, still, z)
        share = (ratio if likelihood is None else likelihood + ratio).softmax(0)
    # through z an importance weight counts twice, see Tucker et al.; the weights' own softmax gives the first
    return _importance(*_terms(model, batch, still, gradients.scaled(z, share)))


def _reparameterised(q: Distribution, samples: int) -> Tensor:
    if not q.has_rsample:
        raise CapabilityError(f"{type(q).__name__} cannot be reparameterised: this gradient needs that")
    return q.rsample((samples,))  # type: ignore[arg-type]


def _terms(model: LatentVariableModel, batch: Batch, q: Distribution, z: Tensor) -> tuple[Tensor | None, Tensor]:
    """log p(x | z), and log p(z) - log q(z), (S, B) each; for a model without a likelihood, None and their sum."""
    log_q = q.log_prob(z)
    if not isinstance(model, DirectedModel):
        return None, model.log_joint(batch, z) - log_q
    return model.log_likelihood(batch, z), model.prior(batch).log_prob(z) - log_q


def _importance(likelihood: Tensor | None, ratio: Tensor) -> Bound:
    if likelihood is None:
        return Bound(_log_mean_exp(ratio))
    return Bound(_log_mean_exp(likelihood + ratio), likelihood.detach().mean(0), -ratio.detach().mean(0))


def supervised(
    model: LatentVariableModel,
    batch: Batch,
    *,
    alpha: float = 1.0,
    samples: int = 1,
    beta: float = 1.0,
    teacher: Literal["bound", "labels"] = "bound",
) -> Bound:
    """The ELBO, of log p(x, y) where the class y is known by `batch.z`, with alpha log q(y | x) added there.

    Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative models", equation 9;
    where a datum's row of `batch.z` marks several classes, q(y | x) is the probability of them all.

    Args:
        alpha: nats of the bound that one nat of the classifier is worth. The paper's choice is 0.1 times the number
            of data over the number of labelled ones.
        samples: draws of the continuous latents for each class.
        beta: weight of the KL.
        teacher: of q(y | x). "bound" is the objective's own gradient. "labels" leaves out what comes through the
            q(y | x) of the ELBO; the value is the same. All else then learns by a classifier that only labels have
            taught: a start, without which the ELBO may make clusters of its own before it has heard of the classes.

    Raises:
        CapabilityError: the posterior's first latent is not a class.
    """
    if teacher not in ("bound", "labels"):
        raise OptionError(f"teacher={teacher!r}: choose one of bound, labels")
    q = model.posterior(batch._replace(z=None))
    if not isinstance(q, FiniteJoint):
        name = type(model).__name__
        raise CapabilityError(f"supervised needs a class: {name}.posterior would have to return a FiniteJoint")
    follow = elbo if teacher == "bound" else _given_classifier
    bound = follow(model, batch, samples=samples, beta=beta)
    if batch.z is None:
        return bound
    log_q = q.first.log_prob(q.first.enumerate_support())
    marked = (batch.z > 0) | ~(batch.z > 0).any(-1, keepdim=True)
    known = torch.logsumexp(log_q.masked_fill(~marked.T, -torch.inf), 0)
    return bound._replace(value=bound.value + alpha * known)


def _given_classifier(model: Any, batch: Batch, *, samples: int, beta: float) -> Bound:
    """The ELBO, with a gradient to all but the parameters of q(y | x)."""
    q = model.posterior(batch)
    parts = dict(q.parts)
    first = next(iter(parts))
    parts[first] = gradients.fixed(parts[first])
    q = FiniteJoint(parts)
    reconstruction, terms = _drawn(model, batch, q, model.prior(batch), samples, gradients.pathwise)
    kl = _columns(terms).sum(-1)
    return Bound(reconstruction - beta * kl, reconstruction, kl)


def exact(model: LatentVariableModel, batch: Batch) -> Bound:
    """log p(x) itself, the log-partition of the posterior's potentials. Raises `CapabilityError` without one."""
    if not isinstance(model, TractableModel):
        raise CapabilityError(
            f"{type(model).__name__} has no exact log p(x): its posterior has no log_partition (see TractableModel)"
        )
    return Bound(model.posterior(batch).log_partition)


def kl_divergence(q: Distribution, p: Distribution, samples: int = 64) -> Tensor:
    """KL(q || p) in nats, (B, D) by latent dimension where they factorise, else (B, 1), sampled if need be."""
    terms = kl_terms(q, p)
    if terms is not None:
        return terms
    if not isinstance(q, Joint):
        return sampled_kl(q, p, q.sample((samples,))).unsqueeze(-1)
    # several latents may be wide: one draw at a time
    drawn = [torch.cat(list(kl_given(q, p, q.sample((1,))).values()), -1).squeeze(0) for _ in range(samples)]
    return torch.stack(drawn).mean(0)


def _log_mean_exp(log_weight: Tensor) -> Tensor:
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def _no_options(model: LatentVariableModel, beta: float, free_bits: float) -> None:
    if beta != 1 or free_bits != 0:
        raise CapabilityError(f"beta and free_bits weigh a KL: write {type(model).__name__}.prior and .likelihood")
