"""Codebooks: from vectors to the nearest of finitely many, and back from a number to its vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.errors import OptionError

DEAD = 0.03
"""A code that takes less than this share of the average is dead, and begins anew at a vector of the data."""


class VectorCodebook(nn.Module):
    """K vectors that follow the means of what is nearest to each, by an exponential moving average.

    van den Oord, Vinyals and Kavukcuoglu (2017), "Neural discrete representation learning", appendix A.1; codes that
    nothing is near to are moved to vectors of the data (Dhariwal et al. 2020, "Jukebox", section 3.2).

    Args:
        size: K. width: of a vector. decay: of the running sums, by step.

    Buffers: vectors (K, width); count (K,) and total (K, width), running sums of how many vectors each code was nearest
    to and of these; revived (), how many codes have begun anew.
    """

    vectors: Tensor
    count: Tensor
    total: Tensor
    revived: Tensor

    def __init__(self, size: int, width: int, decay: float = 0.99):
        super().__init__()
        if size < 2 or width < 1:
            raise OptionError(f"codes={size}, width={width}: at least two codes of one number")
        self.size, self.width, self.decay = size, width, decay
        self.register_buffer("vectors", torch.randn(size, width))
        self.register_buffer("count", torch.ones(size))
        self.register_buffer("total", self.vectors.clone())
        self.register_buffer("revived", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def start(self, h: Tensor, generator: torch.Generator) -> None:
        """Begin at vectors of the data, h (N, width), with a little noise, by which equal ones differ."""
        chosen = h[torch.randint(len(h), (self.size,), generator=generator).to(h.device)]
        noise = torch.randn(chosen.shape, generator=generator).to(h) * 1e-2 * h.std().clamp(min=1e-3)
        self.vectors.copy_(chosen + noise)
        self.count.fill_(1.0)
        self.total.copy_(self.vectors)
        self.revived.zero_()

    def bounded(self, h: Tensor) -> Tensor:
        """What the gradient of a code goes to, (..., width)."""
        return h

    def index(self, h: Tensor) -> Tensor:
        """The number of the nearest vector, (..., width) to (...)."""
        # |h|^2 is the same for all
        return (self.vectors.square().sum(-1) - 2 * h.detach() @ self.vectors.mT).argmin(-1)

    def of(self, z: Tensor) -> Tensor:
        """The numbers of vectors that are codes, (..., width) to (...)."""
        return self.index(z)

    def lookup(self, index: Tensor) -> Tensor:
        """The vectors of these numbers, (...) to (..., width)."""
        return self.vectors[index]

    @torch.no_grad()
    def learn(self, h: Tensor, index: Tensor) -> None:
        """Move each vector to the running mean of what was nearest to it, h (N, width), and the dead to some of h."""
        one_hot = nn.functional.one_hot(index, self.size).to(h)
        self.count.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(one_hot.mT @ h, alpha=1 - self.decay)
        least = DEAD * len(h) / self.size
        dead = self.count < least
        anew = h[torch.randint(len(h), (self.size,), device=h.device)]
        self.count.copy_(torch.where(dead, 2 * least, self.count))
        self.total.copy_(torch.where(dead.unsqueeze(-1), 2 * least * anew, self.total))
        self.revived.add_(dead.sum())
        self.vectors.copy_(self.total / self.count.unsqueeze(-1))


class ScalarCodebook(nn.Module):
    """Finite scalar quantization: each number of a vector is squashed and rounded to one of a few levels, and the codes
    are all combinations of these. Nothing is learned, and no code can die.

    Mentzer, Minnen, Agustsson and Tschannen (2024), "Finite scalar quantization: VQ-VAE made simple", section 3.

    Args:
        levels: of each number, at least 2; their product is the number of codes.
    """

    reach: Tensor
    offset: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise OptionError(f"levels={list(levels)}: each number has at least 2")
        self.levels, self.size, self.width = tuple(levels), math.prod(levels), len(levels)
        count = torch.tensor(levels)
        self.register_buffer("reach", (count - 1) * (1 + 1e-3) / 2, persistent=False)
        self.register_buffer("offset", (count % 2 == 0) * 0.5, persistent=False)
        basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("basis", basis, persistent=False)

    def start(self, h: Tensor, generator: torch.Generator) -> None:
        """Nothing to begin."""

    def learn(self, h: Tensor, index: Tensor) -> None:
        """Nothing to learn."""

    @property
    def scale(self) -> Tensor:
        return torch.tensor([level // 2 for level in self.levels]).to(self.reach)

    def bounded(self, h: Tensor) -> Tensor:
        shift = (self.offset / self.reach).tan()  # as in the paper's listing: for two levels an atanh is too far
        return ((h + shift).tanh() * self.reach - self.offset) / self.scale

    def index(self, h: Tensor) -> Tensor:
        return self.of(self.bounded(h.detach()))

    def of(self, z: Tensor) -> Tensor:
        whole = (z * self.scale).round().long() + self.scale.long()
        return (whole * self.basis).sum(-1)

    def lookup(self, index: Tensor) -> Tensor:
        whole = index.unsqueeze(-1) // self.basis % torch.tensor(self.levels, device=index.device)
        return (whole - self.scale.long()) / self.scale
