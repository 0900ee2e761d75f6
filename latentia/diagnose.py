"""Whether the latents carry anything: KL, mutual information, active units, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.data import Dataset
from latentia.distributions.divergence import kl_terms
from latentia.distributions.structured import Structured
from latentia.model import Batch, DirectedModel, LatentVariableModel

ACTIVE = 0.01
"""A unit is active when the variance over x of its posterior mean exceeds this (Burda et al. 2016, section 5.2)."""

PAIRS = 2**24
"""Numbers that a block of pairwise posterior densities may hold."""


@dataclass
class Diagnosis:
    """What the posterior does with the latents.

    Attributes:
        kl_per_unit: mean KL(q(z_d | x) || p(z_d)), nats, a latent dimension; None where they do not factorise.
        mutual_information: I(x; z) under q, nats.
        mutual_information_ceiling: log of the number of data it was estimated on: it cannot exceed that.
        active_units, latent_units: how many of the units vary with x, and how many there are.
        verdict: the same in words.
    """

    kl_per_unit: list[float] | None
    mutual_information: float
    mutual_information_ceiling: float
    active_units: int
    latent_units: int
    verdict: str


@torch.no_grad()
def diagnose(model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000) -> Diagnosis:
    """Diagnose the posterior on data.

    Args:
        limit: mutual information is estimated on the first so many data (structured z: an eighth as many),
            as its cost is quadratic.
    """
    data = data.frozen(seed)
    data = data.subset((data.batch().weights > 0).nonzero().squeeze(-1))
    means, terms = posterior_means(model, data), _kl_per_unit(model, data)
    variance = means.var(0, unbiased=False) if len(means) else means.new_zeros(means.shape[1:])
    active = int((variance > ACTIVE).sum())
    information, count = mutual_information(model, data, seed=seed, limit=limit)
    discrete = isinstance(model.posterior(_one(model, data)), Structured)
    words = _discrete_verdict(means) if discrete else _continuous_verdict(active, means.shape[-1], terms, information)
    if information > 0.9 * math.log(max(count, 2)):
        words += (
            f" The mutual information is at its ceiling, log {count} = {math.log(count):.2f} nats: "
            "more data would show more."
        )
    return Diagnosis(terms, information, math.log(max(count, 1)), active, means.shape[-1], words)


def posterior_means(model: LatentVariableModel, data: Dataset) -> Tensor:
    """E_q[z] with one row a datum and one column a unit, (M, D) in float64; for sequences a row a step."""
    rows = []
    for batch in data.batches(512, dtype=model.anchor.dtype):
        posterior = model.posterior(batch.to(model.anchor))
        mean = posterior.mean
        if isinstance(mean, dict):
            mean = torch.cat([part.flatten(1) for part in mean.values()], -1)
        mean = mean.reshape(-1, mean.shape[-1]).double().cpu()
        # beyond the end of a sequence there is no state
        rows.append(mean[mean.sum(-1) > 0] if isinstance(posterior, Structured) else mean)
    return torch.cat(rows)


@torch.no_grad()
def mutual_information(
    model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000
) -> tuple[float, int]:
    """I_q(x; z) = E_x E_q(z|x) [log q(z | x) - log q(z)], q(z) = (1/N) sum_n q(z | x_n): (nats, N).

    The aggregate posterior is that of the data (Hoffman and Johnson 2016; Li et al. 2019, section 4), not of a
    minibatch. Exact for a z that can be enumerated; else one draw of z a datum. It cannot exceed log N.
    """
    first = model.posterior(_one(model, data))
    enumerable = first.has_enumerate_support
    limit = limit if not isinstance(first, Structured) or enumerable else limit // 8
    count = min(limit, len(data))
    q = model.posterior(data.batch(slice(0, count), model.anchor.dtype).to(model.anchor))
    if isinstance(q, Structured) and enumerable:
        return float((_entropy(q.mean.mean(0)) - _entropy(q.mean).mean()).clamp(min=0)), count
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z = q.sample()
    own, aggregate = q.log_prob(z), _log_aggregate(q, z, count)
    return max(float((own - aggregate).double().mean()), 0.0), count


def _log_aggregate(q: Distribution, z: Tensor, count: int) -> Tensor:
    """log (1/N) sum_n q(z_m | x_n) of every draw m, (M,)."""
    many = isinstance(z, dict)
    width = sum(part[0].numel() for part in z.values()) if many else z[0].numel()
    rows = max(PAIRS // (count * width), 1)
    parts = []
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        drawn = {name: part[block].unsqueeze(1) for name, part in z.items()} if many else z[block].unsqueeze(1)
        parts.append(torch.logsumexp(q.log_prob(drawn), -1) - math.log(count))  # type: ignore[arg-type]
    return torch.cat(parts)


def _entropy(probability: Tensor) -> Tensor:
    return -torch.special.xlogy(probability, probability).sum(-1)


def _kl_per_unit(model: LatentVariableModel, data: Dataset) -> list[float] | None:
    if not isinstance(model, DirectedModel):
        return None
    parts = []
    for batch in data.batches(512, dtype=model.anchor.dtype):
        batch = batch.to(model.anchor)
        terms = kl_terms(model.posterior(batch), model.prior(batch))
        if terms is None or terms.shape[1] == 1 != _units(model, batch):
            return None
        parts.append(terms.double())
    return torch.cat(parts).mean(0).tolist()


def _units(model: LatentVariableModel, batch: Batch) -> int:
    mean = model.posterior(batch).mean
    return sum(part.shape[-1] for part in mean.values()) if isinstance(mean, dict) else mean.shape[-1]


def _one(model: LatentVariableModel, data: Dataset) -> Batch:
    return data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor)


def _continuous_verdict(active: int, units: int, terms: list[float] | None, information: float) -> str:
    said = f"{active} of {units} units active"
    remedy = (
        "try free bits (--objective.free_bits 0.1), a smaller --objective.beta that is raised later, "
        "or a weaker decoder"
    )
    if active == 0 or information < 0.05:
        return f"{said}: the posterior has collapsed, z says nothing about x; {remedy}."
    if active <= 0.1 * units:
        return f"{said}: the posterior has largely collapsed; {remedy}."
    if active < units:
        return (
            f"{said}: no collapse; the other {units - active} follow the prior, and a smaller latent would do as well."
        )
    return f"{said}: no collapse, every unit is used; more latents may help."


def _discrete_verdict(means: Tensor) -> str:
    share = means.mean(0)
    used = int((share > 0.01 / len(share)).sum())
    said = f"{used} of {len(share)} values of z in use"
    confidence = float(means.amax(-1).mean())
    if used <= 1:
        return f"{said}: the posterior has collapsed onto one value; try more restarts."
    return f"{said}; the posterior gives its best value {confidence:.0%} on average."
