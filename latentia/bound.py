"""`Bound`: what an objective gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Bound(NamedTuple):
    """A bound on log p(x) and its parts, in nats per datum, each (B,), never averaged.

    Attributes:
        value: what is climbed.
        reconstruction: E_q log p(x | z), where the model has a likelihood.
        kl: KL(q(z | x) || p(z)) itself, before any weight or free bits.
    """

    value: Tensor
    reconstruction: Tensor | None = None
    kl: Tensor | None = None
