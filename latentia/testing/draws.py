"""Checks of draws: from the model, and from its posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributions import Distribution

from latentia.distributions import Structured
from latentia.distributions.joint import Joint
from latentia.distributions.latents import flat, named
from latentia.model import TractableModel
from latentia.testing.brute_force import (
    brute_force_log_marginal,
    enumerate_events,
    likelihood_is_discrete,
    nodes,
    rows_of,
)
from latentia.testing.expect import (
    Tiny,
    frame_of,
    generated,
    require,
    require_equal,
    require_frequencies,
    require_mean,
    seeded,
)


def check_generate(tiny: Tiny, seed: int, draws: int = 20_000) -> None:
    """Generated x have the frequencies, or the mean and covariance, that log p(x) says."""
    model, batch = tiny(seed)
    with torch.no_grad(), seeded(seed):
        made = generated(model, frame_of(batch, draws))
    x = made.x
    events, log_volume = enumerate_events(model, made.select(slice(1)))
    log_probability = brute_force_log_marginal(model, events) + log_volume
    if likelihood_is_discrete(model, events):
        same = {row: i for i, row in enumerate(rows_of(events))}
        which = torch.tensor([same[row] for row in rows_of(made)])
        require_frequencies(
            "generate agrees with log p(x)", torch.bincount(which, minlength=len(same)), log_probability.exp()
        )
        return
    weight, x, grid = log_probability.exp(), x.flatten(1), events.x.flatten(1)
    mean = weight @ grid
    require_mean("generate has the mean of p(x)", x, mean)
    i, j = torch.triu_indices(len(mean), len(mean))
    products, expected = ((some - mean)[:, i] * (some - mean)[:, j] for some in (x, grid))
    require_mean("generate has the covariance of p(x)", products, weight @ expected)


def check_posterior(tiny: Tiny, seed: int, draws: int = 20_000) -> None:
    """Draws of q(z | x) are (S, B, *latent) with the frequencies of its log_prob, which sums to one; its mean is E[z].

    Where the posterior is exact, log q(z | x) = log p(x, z) - log p(x).
    """
    model, batch = tiny(seed)
    q = model.posterior(batch)
    with torch.no_grad(), seeded(seed):
        z = q.sample((draws,))
        for part in named(z).values():
            require(part.shape[:2] == (draws, batch.size), f"draws are (S, B, *): {part.shape}")
        shape = q.log_prob(z).shape
        require(shape == (draws, batch.size), f"log_prob is (S, B): {tuple(shape)}")
        values, log_weight = nodes(q)
        total = torch.logsumexp(log_weight, 0)
        require_equal("posterior probabilities sum to one", total, torch.zeros_like(total), 1e-9)
        average = torch.einsum("sb,sbd->bd", log_weight.exp(), flat(values, 2))
        promised = torch.einsum("sb,sbd->bd", log_weight.exp(), flat(_with_mean(q, values), 2))
        require_equal("the posterior mean is E[z]", flat(_with_mean(q, q.mean)), promised, 1e-9)
        if isinstance(model, TractableModel):
            truth = model.log_joint(batch, values) - brute_force_log_marginal(model, batch)
            there = log_weight > -torch.inf
            require_equal("log q(z | x) = log p(x, z) - log p(x)", q.log_prob(values)[there], truth[there], 1e-9)
        for b in range(min(batch.size, 6)):
            if isinstance(q, Structured):
                same = {
                    tuple(value.flatten().tolist()): s
                    for s, value in enumerate(values[:, b])
                    if log_weight[s, b] > -torch.inf
                }
                seen, counts = z[:, b].flatten(1).unique(dim=0, return_counts=True)
                number = torch.zeros(len(values), dtype=torch.long)
                for value, count in zip(seen.tolist(), counts, strict=True):
                    number[same.get(tuple(value), -1)] += count
                require_frequencies("draws have the frequencies of log_prob", number, log_weight[:, b].exp())
            else:
                require_mean("draws have the mean of q", flat(z, 2)[:, b], average[b])


def _with_mean(q: Distribution, z: Any) -> Any:
    """Of several latents those whose `mean` is E[z]: that of a latent with ancestors is given their means."""
    if not isinstance(q, Joint) or q.summed:
        return z
    return {name: z[name] for name in q.parts if not q.ancestors(name)}
