"""Whether the latents carry anything: KL, mutual information, active units, and a verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from latentia.data import Dataset
from latentia.distributions.logical_forms import is_structure
from latentia.measure.baseline import Gain
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
from latentia.measure.walk import Walk, walk
from latentia.model import LatentVariableModel

RARE = 1e-3
"""A value of z that fewer of the data have is used by none of note."""
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
        active_units, latent_units: how many of the units vary with x, and how many there are. A unit does where the
            variance of its posterior mean is above 0.01 (Burda et al. 2016, section 4.2); a share, or the probability
            of a value, of mean m where it is above a hundredth of m (1 - m), the largest that it can be (or of 0.001,
            if that is more).
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
    return diagnosed(walk(model, data, seed=seed, limit=limit), data.batch().weights.double().cpu(), gain)


def diagnosed(found: Walk, weight: Tensor, gain: Gain | None = None) -> Diagnosis:
    """The diagnosis of what a walk over data of these weights, (N,), has found."""
    means, average = found.means.present, found.means.average
    shares = is_structure(found.posterior) or isinstance(found.posterior, Dirichlet)
    largest = (average * (1 - average)).clamp(min=RARE) if shares else 1.0
    varies = means.weight @ (means.rows - average) ** 2 > ACTIVE * largest * means.weight.sum()
    present = weight > 0
    share = weight[present] / weight[present].sum()
    terms = None if found.units is None else (share @ found.units[present]).tolist()
    layers = None
    if list(found.widths) != ["z"]:
        layers = _layers(found, varies, {name: float(share @ part[present]) for name, part in found.layers.items()})
    told = found.information
    return Diagnosis(
        kl_per_unit=terms,
        mutual_information=told.mutual_information,
        mutual_information_ceiling=told.ceiling,
        active_units=int(varies.sum()),
        latent_units=len(varies),
        verdict=_verdict(found, varies, int(present.sum()), gain, terms, layers),
        mutual_information_se=told.mutual_information_se,
        mutual_information_upper=told.upper,
        mutual_information_upper_se=told.upper_se,
        total_correlation=told.total_correlation,
        total_correlation_se=told.total_correlation_se,
        dimension_wise_kl=told.dimension_wise_kl,
        dimension_wise_kl_se=told.dimension_wise_kl_se,
        layers=layers,
    )


def _verdict(
    found: Walk,
    varies: Tensor,
    count: int,
    gain: Gain | None,
    terms: list[float] | None,
    layers: dict[str, dict[str, Any]] | None,
) -> str:
    means, active, units, told = found.means.present, int(varies.sum()), len(varies), found.information
    largest = float(means.weight @ means.rows.amax(-1) / means.weight.sum())
    if is_structure(found.posterior):
        words = discrete_verdict(found.means.average, largest, active)
    elif isinstance(found.posterior, Dirichlet):
        words = shares_verdict(found.means.average, largest, told.mutual_information)
    else:
        words = continuous_verdict(active, units, told)
    # of one value, or of no information at all, nothing could have been gained
    if gain is not None and told.mutual_information != 0 and COLLAPSED not in words:
        words = weighed(words, gain, active == units and min(terms or [0.0]) > PAYS)
    if layers is not None:
        words += layer_words(layers)
    if count < FEW:
        words = f"{count} data are too few to tell what the latents carry. {words}"
    if told.mutual_information > 0.9 * told.ceiling > 0:
        words += f" The mutual information is at its ceiling of {told.ceiling:.2f} nats: more data would show more."
        words += bounded_words(told)
    return words


def _layers(found: Walk, varies: Tensor, kl: dict[str, float]) -> dict[str, dict[str, Any]]:
    apart = zip(found.widths, varies.split(list(found.widths.values())), strict=True)
    return {
        name: {"kl": kl.get(name), "active_units": int(units.sum()), "latent_units": len(units)}
        for name, units in apart
    }
