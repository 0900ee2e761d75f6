"""Checks of log p(x), its bounds and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentia.distributions.divergence import kl_given, kl_terms
from latentia.distributions.joint import Joint
from latentia.model import DirectedModel, TractableModel
from latentia.objectives import elbo, iwae
from latentia.testing.answers import estimator_for, sampled_value
from latentia.testing.brute_force import brute_force_log_marginal, enumerate_events, enumerate_latents, nodes
from latentia.testing.expect import (
    NotApplicable,
    Tiny,
    as_directed,
    as_tractable,
    require,
    require_equal,
    require_no_more,
    seeded,
)


def check_bounds(tiny: Tiny, seed: int) -> None:
    """E ELBO <= E IWAE_k <= log p(x) and ELBO = reconstruction - KL; one draw of an exact posterior gives log p(x)."""
    model, batch = tiny(seed)
    marginal, times = brute_force_log_marginal(model, batch), 500
    repeated = batch.select(torch.arange(batch.size).repeat(times))
    with torch.no_grad(), seeded(seed):
        low = elbo(model, repeated, estimator=estimator_for(model.posterior(batch)))
        middle = iwae(model, repeated, samples=5).value
        single = iwae(model, batch, samples=1).value
    if low.reconstruction is not None and low.kl is not None:
        require_equal("ELBO = reconstruction - KL", low.value, low.reconstruction - low.kl, 1e-9)
    if isinstance(model, TractableModel):
        require_equal("one draw of an exact posterior gives log p(x)", single, marginal, 1e-9)
    require_no_more("ELBO <= IWAE", low.value.view(times, -1), middle.view(times, -1))
    require_no_more("IWAE <= log p(x)", middle.view(times, -1), marginal.unsqueeze(0))


def check_log_partition(tiny: Tiny, seed: int) -> None:
    """log-partition = log sum_z p(x, z), and score(z) = log p(z) + log p(x | z) for every z."""
    model, batch = tiny(seed)
    posterior = as_tractable(model).posterior(batch)
    require_equal("log-partition = brute force", posterior.log_partition, brute_force_log_marginal(model, batch), 1e-9)
    if isinstance(model, DirectedModel):
        z, log_weight = enumerate_latents(model, batch)
        joint = model.prior(batch.frame).log_prob(z) + model.log_likelihood(batch, z)
        there = log_weight > -torch.inf
        require_equal("score(z) = log p(z) + log p(x | z)", posterior.score(z)[there], joint[there], 1e-9)
        require_equal("log_joint(z) = log p(z) + log p(x | z)", model.log_joint(batch, z)[there], joint[there], 1e-9)


def check_normalised(tiny: Tiny, seed: int) -> None:
    """sum_x p(x) = 1 over the whole x-space, by brute force and by the log-partition."""
    model, batch = tiny(seed)
    events, log_volume = enumerate_events(model, batch)
    total = torch.logsumexp(brute_force_log_marginal(model, events) + log_volume, 0)
    require_equal("log sum_x p(x) = 0", total, torch.zeros_like(total), 1e-8)
    if isinstance(model, TractableModel):
        total = torch.logsumexp(model.posterior(events).log_partition + log_volume, 0)
        require_equal("log sum_x exp(log-partition) = 0", total, torch.zeros_like(total), 1e-8)


def check_kl(tiny: Tiny, seed: int) -> None:
    """KL(q || p) >= 0, and equal to E_q[log q - log p] by enumeration or quadrature; of latents that depend on each
    other, the expectation of the terms of their conditionals."""
    model, batch = tiny(seed)
    q: Any = model.posterior(batch)
    p: Any = as_directed(model).prior(batch.frame)
    terms = kl_terms(q, p)
    if terms is None and not isinstance(q, Joint):
        raise NotApplicable("no closed form of this KL is known")
    z: Any
    z, log_weight = nodes(q)
    if terms is None:
        given = torch.cat(list(kl_given(q, p, z).values()), -1)
        terms = (log_weight.exp().unsqueeze(-1) * given).sum(0)
    least = float(terms.sum(-1).detach().min())
    require(least >= -1e-12, f"KL >= 0: the least is {least:.6g} nats")
    ratio = (q.log_prob(z) - p.log_prob(z)).where(log_weight > -torch.inf, 0.0)
    require_equal("KL = E_q[log q - log p]", terms.sum(-1), (log_weight.exp() * ratio).sum(0), 1e-8)


def check_gradients(tiny: Tiny, seed: int) -> None:
    """Gradients equal finite differences, and a gradient other than zero reaches every parameter.

    Of sum_x log p(x) where that is exact, otherwise of the ELBO under fixed random numbers.
    """
    model, batch = tiny(seed)
    estimator = estimator_for(model.posterior(batch))
    if not isinstance(model, TractableModel) and estimator is sampled_value:
        raise NotApplicable("draws of this posterior have no gradient")

    def objective() -> Tensor:
        if isinstance(model, TractableModel):
            return model.posterior(batch).log_partition.sum()
        with seeded(seed):
            return elbo(model, batch, estimator=estimator).value.sum()

    named = [pair for pair in model.named_parameters() if pair[1].requires_grad and pair[1].numel() > 0]
    value = objective()
    require(value.requires_grad, "a gradient reaches every parameter: none reaches any")
    found = torch.autograd.grad(value, [parameter for _, parameter in named], allow_unused=True)
    for (name, parameter), gradient in zip(named, found, strict=True):
        reached = gradient is not None and bool((gradient != 0).any())
        require(reached, f"a gradient reaches every parameter: none reaches {name}")
        assert gradient is not None
        numeric = _difference(objective, parameter)
        require_equal(f"the gradient of {name} = finite differences", gradient.flatten()[: len(numeric)], numeric, 1e-6)


def _difference(objective: Callable[[], Tensor], parameter: Tensor, most: int = 16, step: float = 1e-5) -> Tensor:
    """Central differences with respect to the first entries of a parameter."""
    slopes, original = [], parameter.data.clone()
    for i in range(min(most, parameter.numel())):
        values = []
        for sign in (1, -1):
            parameter.data = original.clone()
            parameter.data.view(-1)[i] += sign * step
            values.append(float(objective().detach()))
        slopes.append((values[0] - values[1]) / (2 * step))
    parameter.data = original
    return torch.tensor(slopes, dtype=parameter.dtype, device=parameter.device)
