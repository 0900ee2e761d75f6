"""Distributions that know their unnormalised parts: as the posterior of a model they carry its joint."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from torch import Tensor
from torch.distributions import Distribution


class Unnormalised(Distribution):
    """p(z) = exp(score(z)) / Z. With score(z) = log p(x, z) it is the posterior p(z | x), and log Z = log p(x)."""

    @property
    @abstractmethod
    def log_partition(self) -> Tensor:
        """log Z in nats, (B,)."""

    @abstractmethod
    def score(self, z: Tensor) -> Tensor:
        """log p(z) + log Z, (S, B)."""

    @abstractmethod
    def hard(self) -> Self:
        """All mass on the best z, whose score is the log-partition."""
