"""The importance-weighted bound."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia import gradients
from latentia.bound import Bound
from latentia.distributions.joint import Draw, draw
from latentia.errors import CapabilityError, OptionError
from latentia.gradients import Estimator
from latentia.model import Batch, DirectedModel, LatentVariableModel, TractableModel


def iwae(
    model: LatentVariableModel,
    batch: Batch,
    *,
    samples: int = 50,
    gradient: Literal["pathwise", "stl", "dreg"] = "pathwise",
    estimator: Estimator | None = None,
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
        estimator: of the bound of a q that cannot be reparameterised: `gradients.vimco`, or another that has a
            `log_mean_exp`.

    Raises:
        CapabilityError: a gradient is to be taken, and q, which is not exact, cannot be reparameterised; or the
            estimator is not one of bounds by several draws.
    """
    if gradient not in ("pathwise", "stl", "dreg"):
        raise OptionError(f"gradient={gradient!r}: choose one of pathwise, stl, dreg")
    q = model.posterior(batch)
    if estimator is not None:
        if gradient != "pathwise":
            raise OptionError(f"gradient={gradient!r} draws z itself: leave estimator out")
        return _estimated(model, batch, q, samples, estimator)
    if gradient == "pathwise":
        drawn = draw(q, samples)
        log_q = drawn.log_q
        if not q.has_rsample and not isinstance(model, TractableModel) and log_q.requires_grad:
            # what is left of the gradient would drive q away from the posterior
            raise CapabilityError(
                f"{type(q).__name__} cannot be reparameterised: learn by elbo, or give estimator=vimco"
            )
        return _importance(*_terms(model, batch, drawn, log_q))
    if not q.has_rsample:
        raise CapabilityError(f"{type(q).__name__} cannot be reparameterised: this gradient needs that")
    drawn, still = draw(q, samples), gradients.fixed(q)
    if gradient == "stl":
        return _importance(*_terms(model, batch, drawn, still.log_prob(drawn.z)))  # type: ignore[arg-type]
    with torch.no_grad():
        likelihood, ratio = _terms(model, batch, drawn, drawn.log_q)
        share = (ratio if likelihood is None else likelihood + ratio).softmax(0)
    # through z an importance weight counts twice, see Tucker et al.; the weights' own softmax gives the first
    moved = drawn._replace(z=gradients.scaled(drawn.z, share))
    return _importance(*_terms(model, batch, moved, still.log_prob(moved.z)))  # type: ignore[arg-type]


def _estimated(model: LatentVariableModel, batch: Batch, q: Distribution, samples: int, estimator: Estimator) -> Bound:
    log_mean_exp = getattr(estimator, "log_mean_exp", None)
    if log_mean_exp is None:
        raise CapabilityError(
            f"{getattr(estimator, '__name__', type(estimator).__name__)} estimates the mean of f, not a bound by "
            "several draws: use vimco, score_function, straight_through, gumbel_softmax or reinmax"
        )
    parts: list[tuple[Tensor | None, Tensor]] = []

    def log_weight(drawn: Draw) -> Tensor:
        parts[:] = [_terms(model, batch, drawn, drawn.log_q)]
        likelihood, ratio = parts[0]
        return ratio if likelihood is None else likelihood + ratio

    value = log_mean_exp(q, gradients.OfDraw(q, log_weight, batch), samples)
    likelihood, ratio = parts[0]
    if likelihood is None:
        return Bound(value)
    return Bound(value, likelihood.detach().mean(0), -ratio.detach().mean(0))


def _terms(model: LatentVariableModel, batch: Batch, drawn: Draw, log_q: Tensor) -> tuple[Tensor | None, Tensor]:
    """log p(x | z), and log p(z) - log q(z), (S, B) each; for a model without a likelihood, None and their sum."""
    if not isinstance(model, DirectedModel):
        return None, model.log_joint(batch, drawn.z) - log_q
    prior = model.prior(batch.frame).log_prob(drawn.z)  # type: ignore[arg-type]
    return model.log_likelihood(batch, drawn.z), prior - log_q


def _importance(likelihood: Tensor | None, ratio: Tensor) -> Bound:
    if likelihood is None:
        return Bound(_log_mean_exp(ratio))
    return Bound(_log_mean_exp(likelihood + ratio), likelihood.detach().mean(0), -ratio.detach().mean(0))


def _log_mean_exp(log_weight: Tensor) -> Tensor:
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))
