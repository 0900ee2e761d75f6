"""Whether the latents carry anything: KL, mutual information, active units, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution

from latentia.data import Dataset
from latentia.distributions.divergence import kl_terms
from latentia.distributions.structured import Structured
from latentia.model import Batch, DirectedModel, LatentVariableModel

ACTIVE = 0.01
"""A unit is active when the variance over x of its posterior mean exceeds this (Burda et al. 2016, section 5.2)."""

FEW = 10
"""Below so many data a verdict is a guess."""

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
    (means, weight), terms = _rows(model, data), _kl_per_unit(model, data)
    share = (weight / weight.sum().clamp(min=1e-300)).unsqueeze(-1)
    average = (share * means).sum(0)
    active = int(((share * (means - average) ** 2).sum(0) > ACTIVE).sum())
    information, ceiling = mutual_information(model, data, seed=seed, limit=limit)
    q, largest = model.posterior(_one(model, data)), float((share.squeeze(-1) * means.amax(-1)).sum())
    if isinstance(q, Structured):
        words = _discrete_verdict(average, largest, active)
    elif isinstance(q, Dirichlet):
        words = _shares_verdict(average, largest, information)
    else:
        words = _continuous_verdict(active, means.shape[-1], information)
    if len(data) < FEW:
        words = f"{len(data)} data are too few to tell what the latents carry. {words}"
    if information > 0.9 * ceiling > 0:
        words += f" The mutual information is at its ceiling of {ceiling:.2f} nats: more data would show more."
    return Diagnosis(terms, information, ceiling, active, means.shape[-1], words)


def posterior_means(model: LatentVariableModel, data: Dataset) -> Tensor:
    """E_q[z] with one row a datum and one column a unit, (M, D) in float64; for sequences a row a step."""
    return _rows(model, data)[0]


def _rows(model: LatentVariableModel, data: Dataset) -> tuple[Tensor, Tensor]:
    """The posterior means, (M, D), and the weight of each row, (M,)."""
    rows, weights = [], []
    for batch in data.batches(512, dtype=model.anchor.dtype):
        posterior = model.posterior(batch.to(model.anchor))
        mean = posterior.mean
        if isinstance(mean, dict):
            mean = torch.cat([part.flatten(1) for part in mean.values()], -1)
        steps = mean.shape[1:-1].numel()
        mean = mean.reshape(-1, mean.shape[-1]).double().cpu()
        weight = batch.weights.double().cpu().repeat_interleave(steps)
        # beyond the end of a sequence there is no state
        inside = mean.sum(-1) > 0 if isinstance(posterior, Structured) else torch.ones_like(weight, dtype=torch.bool)
        rows.append(mean[inside])
        weights.append(weight[inside])
    return torch.cat(rows), torch.cat(weights)


@torch.no_grad()
def mutual_information(
    model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000
) -> tuple[float, float]:
    """I_q(x; z) = E_x E_q(z|x) [log q(z | x) - log q(z)], q(z) the mean of q(z | x_n): (nats, its ceiling).

    The aggregate posterior q(z) is that of the data (Hoffman and Johnson 2016; Li et al. 2019, section 4), not of a
    minibatch. Exact for a z that can be enumerated; else one draw of z for each of `limit` data drawn at random, and
    then it cannot exceed log N. For chains the length is given, so q(z) is over the sequences of the same length.
    """
    if model.posterior(_one(model, data)).has_enumerate_support:
        means, weight = _rows(model, data)
        share = (weight / weight.sum()).unsqueeze(-1)
        aggregate = _entropy((share * means).sum(0))
        return max(float(aggregate - (share.squeeze(-1) * _entropy(means)).sum()), 0.0) + 0.0, math.log(len(data))
    structured = isinstance(model.posterior(_one(model, data)), Structured)
    count = min(limit // 8 if structured else limit, len(data))
    # at random: the first so many of a sorted file would be all of one kind
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    batch = data.batch(chosen, model.anchor.dtype).to(model.anchor)
    q, weight = model.posterior(batch), batch.weights.double()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z = q.sample()
    lengths = getattr(q, "lengths", weight.new_zeros(1)).expand(count)
    mass = (weight * (lengths.unsqueeze(-1) == lengths)).sum(-1)
    gain = q.log_prob(z).double() - (_log_aggregate(q, z, weight) - mass.log())
    share = weight / weight.sum()
    ceiling = float((share * (mass.log() - weight.log())).sum())
    return max(float((share * gain).sum()), 0.0) + 0.0, ceiling


def _log_aggregate(q: Distribution, z: Any, weight: Tensor) -> Tensor:
    """log sum_n weight_n q(z_m | x_n) of every draw m, (M,)."""
    many, count = isinstance(z, dict), len(weight)
    width = sum(part[0].numel() for part in z.values()) if many else z[0].numel()
    rows = max(PAIRS // (count * width), 1)
    parts = []
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        drawn = {name: part[block].unsqueeze(1) for name, part in z.items()} if many else z[block].unsqueeze(1)
        parts.append(torch.logsumexp(q.log_prob(drawn) + weight.log(), -1))  # type: ignore[arg-type]
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
    share = data.batch().weights.double() / data.batch().weights.double().sum()
    return (share.unsqueeze(-1) * torch.cat(parts).cpu()).sum(0).tolist()


def _units(model: LatentVariableModel, batch: Batch) -> int:
    mean = model.posterior(batch).mean
    return sum(part.shape[-1] for part in mean.values()) if isinstance(mean, dict) else mean.shape[-1]


def _one(model: LatentVariableModel, data: Dataset) -> Batch:
    return data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor)


def _continuous_verdict(active: int, units: int, information: float) -> str:
    said = f"{active} of {units} units active"
    remedy = "try free bits (--objective.free_bits 0.1), a smaller --objective.beta, or a weaker decoder"
    if active == 0 or information < 0.05:
        return f"{said}: the posterior has collapsed, z says nothing about x; {remedy}."
    if active <= 0.1 * units:
        return f"{said}: the posterior has largely collapsed; {remedy}."
    if active < units:
        return (
            f"{said}: no collapse; the other {units - active} follow the prior, and a smaller latent would do as well."
        )
    return f"{said}: no collapse, every unit is used; more latents may help."


def _discrete_verdict(share: Tensor, confidence: float, active: int) -> str:
    used = int((share > 0.01 / len(share)).sum())
    said = f"{used} of {len(share)} values of z in use"
    if len(share) > 1 and (used <= 1 or active == 0):
        return f"{said}: the posterior has collapsed, z says nothing about x; try more restarts."
    return f"{said}; the posterior gives its best value {confidence:.0%} on average."


def _shares_verdict(average: Tensor, largest: float, information: float) -> str:
    used = int((average > 0.1 / len(average)).sum())
    said = f"{used} of {len(average)} topics have more than a tenth of an equal share"
    if information < 0.05:
        return f"{said}: the posterior has collapsed, z says nothing about x; try another seed, or fewer topics."
    return f"{said}; the largest share of a datum is {largest:.0%} on average."
