"""Whether the latents carry anything: KL, mutual information, active units, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from latentia.data import Dataset
from latentia.distributions.divergence import kl_given, kl_terms
from latentia.distributions.joint import draw
from latentia.distributions.latents import sizes
from latentia.distributions.structured import Structured
from latentia.measure.baseline import Gain
from latentia.measure.information import decompose, first_of, mean_rows
from latentia.measure.verdict import (
    COLLAPSED,
    FEW,
    PAYS,
    bounded_words,
    continuous_verdict,
    discrete_verdict,
    layer_words,
    shares_verdict,
    weighed,
)
from latentia.model import Batch, DirectedModel, LatentVariableModel

ACTIVE = 0.01
"""A unit is active when the variance over x of its posterior mean exceeds this (Burda et al. 2016, section 5.2)."""


@dataclass
class Diagnosis:
    """What the posterior does with the latents.

    Attributes:
        kl_per_unit: mean KL(q(z_d | x) || p(z_d)), nats, a latent dimension; None where they do not factorise.
        mutual_information: I(x; z) under q, nats; mutual_information_se: its standard error.
        mutual_information_ceiling: log of the number of data it was estimated on: it cannot exceed that.
        mutual_information_upper, total_correlation, dimension_wise_kl, and their errors: see `Information`.
        active_units, latent_units: how many of the units vary with x, and how many there are.
        verdict: the same in words.
        layers: of several latents, each one's `kl`, E_q of the divergence of its conditionals (nats, None without a
            prior), `active_units` and `latent_units`, by its name.
    """

    kl_per_unit: list[float] | None
    mutual_information: float
    mutual_information_ceiling: float
    active_units: int
    latent_units: int
    verdict: str
    mutual_information_se: float = math.nan
    mutual_information_upper: float | None = None
    mutual_information_upper_se: float | None = None
    total_correlation: float | None = None
    total_correlation_se: float | None = None
    dimension_wise_kl: float | None = None
    dimension_wise_kl_se: float | None = None
    layers: dict[str, dict[str, Any]] | None = None


@torch.no_grad()
def diagnose(
    model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000, gain: Gain | None = None
) -> Diagnosis:
    """Diagnose the posterior on data.

    Args:
        gain: how much better the model is than the best without z. The verdict weighs it: that units vary with x, or
            that the posterior differs from the prior, may be noise that was learned, and does not make x likelier.
        limit: mutual information is estimated on so many data (an eighth as many where z is structured, or layers
            depend on x and on each other), as its cost is quadratic.
    """
    data = data.frozen(seed)
    data = data.subset((data.batch().weights > 0).nonzero().squeeze(-1))
    (means, weight), terms = mean_rows(model, data), _kl_per_unit(model, data)
    share = (weight / weight.sum().clamp(min=1e-300)).unsqueeze(-1)
    average = (share * means).sum(0)
    varies = (share * (means - average) ** 2).sum(0) > ACTIVE
    active, layers = int(varies.sum()), _layers(model, data, varies, seed)
    found = decompose(model, data, seed=seed, limit=limit)
    information, ceiling = found.mutual_information, found.ceiling
    q, largest = model.posterior(first_of(model, data)), float((share.squeeze(-1) * means.amax(-1)).sum())
    if isinstance(q, Structured):
        words = discrete_verdict(average, largest, active)
    elif isinstance(q, Dirichlet):
        words = shares_verdict(average, largest, information)
    else:
        words = continuous_verdict(active, means.shape[-1], found)
    # of one value, or of no information at all, nothing could have been gained
    if gain is not None and information != 0 and COLLAPSED not in words:
        words = weighed(words, gain, active == means.shape[-1] and min(terms or [0.0]) > PAYS)
    if layers is not None:
        words += layer_words(layers)
    if len(data) < FEW:
        words = f"{len(data)} data are too few to tell what the latents carry. {words}"
    if information > 0.9 * ceiling > 0:
        words += f" The mutual information is at its ceiling of {ceiling:.2f} nats: more data would show more."
        words += bounded_words(found)
    return Diagnosis(
        kl_per_unit=terms,
        mutual_information=information,
        mutual_information_ceiling=ceiling,
        active_units=active,
        latent_units=means.shape[-1],
        verdict=words,
        mutual_information_se=found.mutual_information_se,
        mutual_information_upper=found.upper,
        mutual_information_upper_se=found.upper_se,
        total_correlation=found.total_correlation,
        total_correlation_se=found.total_correlation_se,
        dimension_wise_kl=found.dimension_wise_kl,
        dimension_wise_kl_se=found.dimension_wise_kl_se,
        layers=layers,
    )


def _layers(model: LatentVariableModel, data: Dataset, varies: Tensor, seed: int) -> dict[str, dict[str, Any]] | None:
    mean = model.posterior(first_of(model, data)).mean
    if not isinstance(mean, dict):
        return None
    kl = _kl_per_layer(model, data, seed) if isinstance(model, DirectedModel) else {}
    apart = zip(mean, varies.split([part[0].numel() for part in mean.values()]), strict=True)
    return {
        name: {"kl": kl.get(name), "active_units": int(units.sum()), "latent_units": len(units)}
        for name, units in apart
    }


def _kl_per_layer(model: DirectedModel, data: Dataset, seed: int) -> dict[str, float]:
    """E_x E_q of each latent's part of the KL, by one draw of z for each datum."""
    sums: dict[str, float] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in data.batches(512, dtype=model.anchor.dtype):
            batch = batch.to(model.anchor)
            q = model.posterior(batch)
            for name, terms in kl_given(q, model.prior(batch.frame), draw(q, 1, gradient=False)).items():
                sums[name] = sums.get(name, 0.0) + float((batch.weights * terms.sum(-1).squeeze(0)).double().sum())
    total = float(data.batch().weights.double().sum())
    return {name: value / total for name, value in sums.items()}


def _kl_per_unit(model: LatentVariableModel, data: Dataset) -> list[float] | None:
    if not isinstance(model, DirectedModel):
        return None
    parts, weights = [], []
    for _, batch in data.by_length(512, model.anchor.dtype):
        batch = batch.to(model.anchor)
        terms = kl_terms(model.posterior(batch), model.prior(batch.frame))
        if terms is None or terms.shape[1] == 1 != _units(model, batch):
            return None
        parts.append(terms.double())
        weights.append(batch.weights.double())
    weight = torch.cat(weights)
    return ((weight / weight.sum()).unsqueeze(-1) * torch.cat(parts)).sum(0).tolist()


def _units(model: LatentVariableModel, batch: Batch) -> int:
    mean = model.posterior(batch).mean
    return sum(sizes(mean)) if isinstance(mean, dict) else mean.shape[-1]
