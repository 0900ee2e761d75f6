"""A z that is one tensor and a z that is several, by name, treated alike: a function for each verb.

Of samples, z is (S, B, *latent); without them (B, *latent).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Latents = Tensor | dict[str, Tensor]


def named(z: Latents, alone: str = "z") -> dict[str, Tensor]:
    """Each latent by its name; one that is alone is called `alone`."""
    return z if isinstance(z, dict) else {alone: z}


def like(z: Latents, parts: dict[str, Tensor]) -> Latents:
    """The parts that `named` gave, in the form of z."""
    return parts if isinstance(z, dict) else next(iter(parts.values()))


def each(function: Callable[..., Any], *z: Any) -> Any:
    """`function` of z, latent by latent where there are several."""
    apart = [named(one) for one in z]
    return like(z[0], {name: function(*(part[name] for part in apart)) for name in apart[0]})


def some(z: Latents) -> Tensor:
    """Any one of the latents: to tell the number of samples and of data, the dtype and the device."""
    return next(iter(named(z).values()))


def numel(z: Latents) -> int:
    """How many numbers all latents hold together."""
    return sum(part.numel() for part in named(z).values())


def flat(z: Latents, leading: int = 1) -> Tensor:
    """All latents side by side, behind `leading` dimensions: (B, D), or of samples (S, B, D) with 2."""
    return torch.cat([part.flatten(leading) for part in named(z).values()], leading)


def sizes(z: Latents, leading: int = 1) -> list[int]:
    """How many columns of `flat` each latent has."""
    return [part.shape[leading:].numel() for part in named(z).values()]
