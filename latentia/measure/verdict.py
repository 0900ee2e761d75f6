"""What the measures say, in words."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from latentia.measure.baseline import Gain
from latentia.measure.information import Information

NEGLIGIBLE = 0.05
"""Nats a datum that are as good as none."""

PAYS = 0.1
"""Nats a unit: where each costs as much, on average, and the data gain by it, more units may gain more."""

FEW = 10
"""Below so many data a verdict is a guess."""


def bounded_words(found: Information) -> str:
    if found.upper is None or found.upper_se is None:
        return ""
    return f" It is at most {found.upper:.2f} ± {found.upper_se:.2f} nats, on average over samples."


def layer_words(layers: dict[str, dict[str, Any]]) -> str:
    said = []
    for name, layer in layers.items():
        cost = "" if layer["kl"] is None else f", KL {layer['kl']:.2f} nats"
        said.append(f"{name} {layer['active_units']} of {layer['latent_units']} active{cost}")
    return f" By layer: {'; '.join(said)}."


COLLAPSED = "the posterior has collapsed, z says nothing about x"


def weighed(words: str, gain: Gain, all_pay: bool) -> str:
    """The verdict in nats: what z is worth to x, against the best model without it."""
    if gain.value < max(2 * gain.standard_error, NEGLIGIBLE):
        said = f"{gain.value:.2f} ± {gain.standard_error:.2f} nats".replace("-", "−")
        return (
            f"z is of no use, as if the posterior had collapsed: log p(x) less that of the best model without z "
            f"({gain.how}) is {said}; there is nothing to code, or it has not been learned. {words}"
        )
    said = _nats(gain.value, gain.standard_error)
    more = " More latents may help." if all_pay else ""
    return f"{words} With z log p(x) is {said} more than that of the best model without ({gain.how}).{more}"


def _nats(value: float, error: float) -> str:
    return f"{value:.2f} nats" if math.isnan(error) else f"{value:.2f} ± {error:.2f} nats"


def continuous_verdict(active: int, units: int, found: Information) -> str:
    said = f"{active} of {units} units active"
    remedy = "try free bits (--objective.free_bits 0.1), a smaller --objective.beta, or a weaker decoder"
    if active == 0 or found.mutual_information < NEGLIGIBLE:
        return f"{said}: {COLLAPSED}; {remedy}."
    said += f"; z and x tell {_nats(found.mutual_information, found.mutual_information_se)} of each other"
    if active < units:
        return f"{said}; the other {units - active} follow the prior, and a smaller latent would do as well."
    return f"{said}."


def discrete_verdict(share: Tensor, confidence: float, active: int) -> str:
    used = int((share > 0.01 / len(share)).sum())
    said = f"{used} of {len(share)} values of z in use"
    if len(share) > 1 and (used <= 1 or active == 0):
        return f"{said}: {COLLAPSED}; try more restarts."
    return f"{said}; the posterior gives its best value {confidence:.0%} on average."


def shares_verdict(average: Tensor, largest: float, information: float) -> str:
    used = int((average > 0.1 / len(average)).sum())
    said = f"{used} of {len(average)} topics have more than a tenth of an equal share"
    if information < NEGLIGIBLE:
        return f"{said}: {COLLAPSED}; try another seed, or fewer topics."
    return f"{said}; the largest share of a datum is {largest:.0%} on average."
