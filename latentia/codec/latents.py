"""Latents as whole numbers, and how those are coded under a prior and under a posterior.

A discrete latent is its number. A continuous one is the number of a cell on a line that is cut into 2^CELLS cells, and
stands for a point in the middle of it: Townsend, Bird and Barber (2019), "Practical lossless compression with latent
variables using bits back coding", section 2.5. The line of each coordinate is that of a normal distribution under which
all cells have the same probability: the prior itself where its parents are known by the time that it is drawn, so that
the prior needs no more than CELLS bits; elsewhere one that covers draws of the prior.

Numbers of a latent are (S, B, *places) int64, its values (S, B, *latent).
"""

from __future__ import annotations

from functools import cache, singledispatch
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
)

from latentia.codec.factors import Bits, Cells, Choices, Even
from latentia.codec.walks import Question, Walk
from latentia.distributions import OneHot
from latentia.distributions.codes import CodePrior, Quantized
from latentia.distributions.mixture import Mixture
from latentia.errors import CapabilityError
from latentia.kernels import entropy

CELLS = 14
"""Bits of a cell's number: of a unit that says nothing, what it borrows and gives back."""
COVER = 1.5
"""Standard deviations of the line in those of the prior's draws, where the prior itself cannot be the line."""


@cache
def line() -> tuple[np.ndarray, np.ndarray]:
    """The edges, (2^CELLS + 1,), and the middles, (2^CELLS,), of the cells of the standard normal's line."""
    count = 2**CELLS
    edges, middles = np.empty(count + 1), np.empty(count)
    entropy.quantiles(np.arange(1, count) / count, edges[1:-1])
    entropy.quantiles((np.arange(count) + 0.5) / count, middles)
    edges[0], edges[-1] = -np.inf, np.inf
    return edges, middles


@singledispatch
def plain(p: Distribution) -> Any:
    """The same as one of torch's own families, with a batch dimension for each number of z. Raises `CapabilityError`
    for a family that has no code."""
    raise CapabilityError(
        f"bits-back coding is of latents that are normal, bits, or one of K values, and this model has a "
        f"{type(p).__name__}: fit it with a diagonal posterior and a normal prior"
    )


@plain.register(Normal)
@plain.register(Bernoulli)
@plain.register(OneHotCategorical)
@plain.register(MultivariateNormal)
@plain.register(Mixture)
@plain.register(Quantized)
@plain.register(CodePrior)
def _(p: Any) -> Any:
    return p


@plain.register
def _(p: Independent) -> Any:
    return plain(p.base_dist)


@plain.register
def _(p: OneHot) -> Any:
    return OneHotCategorical(logits=p.log_potentials["node"], validate_args=False)


class Space(Protocol):
    """What values a latent has."""

    places: torch.Size

    def values(self, numbers: Tensor) -> Tensor:
        """Numbers (S, B, *places) to z (S, B, *latent), in the model's dtype."""
        ...

    def walk(self, p: Any, where: Tensor, drawn: bool) -> Walk:
        """The questions of p, `plain`, of numbers (S * B, E), of which those at `where` are coded.

        Args:
            drawn: p itself draws all numbers that will ever be asked for: it need give nothing to others.
        """
        ...


class Lines:
    """A continuous latent. Args: shift, width: broadcastable to z (S, B, *latent), of each coordinate's line."""

    def __init__(self, shift: Tensor, width: Tensor, latent: torch.Size, own: bool):
        self.shift, self.width, self.places, self.own = shift, width, latent, own

    def values(self, numbers: Tensor) -> Tensor:
        middles = torch.from_numpy(line()[1])[numbers]
        return (self.shift.double() + self.width.double() * middles).to(self.shift.dtype)

    def walk(self, p: Any, where: Tensor, drawn: bool) -> Walk:
        if isinstance(p, MultivariateNormal):
            return self._one_by_one(p, where, drawn)
        return self._at_once(p, where, drawn)

    def _at_once(self, p: Any, where: Tensor, drawn: bool) -> Walk:
        # all of it is mostly asked for, and need not be looked up
        places = () if bool(where.all()) else where.nonzero(as_tuple=True)
        if self.own and not drawn:
            yield Question(Even(int(where.sum()), CELLS), *places)
            return
        yield Question(self._cells((p.loc, p.scale), where, drawn, not places), *places)

    def _one_by_one(self, p: MultivariateNormal, where: Tensor, drawn: bool) -> Walk:
        """z_d given z_1, ..., z_{d-1}: Normal(loc_d + sum_{e < d} L_de noise_e, L_dd), L the Cholesky factor."""
        shape, size = where.shape, where.shape[1]
        loc, shift, width = (spread(part.double(), shape) for part in (p.loc, self.shift, self.width))
        factor = spread(p._unbroadcasted_scale_tril.double(), torch.Size([shape[0], size, size]))
        noise, middles = torch.zeros_like(loc), torch.from_numpy(line()[1])
        for d in range(size):
            mean, deviation = loc[:, d] + (factor[:, d, :d] * noise[:, :d]).sum(-1), factor[:, d, d]
            (rows,) = where[:, d].nonzero(as_tuple=True)
            parts = (part[rows].numpy() for part in (shift[:, d], width[:, d], mean, deviation))
            answer = yield Question(Cells(line()[0], *parts, floor=not drawn), rows, torch.full_like(rows, d))
            z = shift[rows, d] + width[rows, d] * middles[answer]
            noise[rows, d] = (z - mean[rows]) / deviation[rows]

    def _cells(self, normal: tuple[Tensor, Tensor], where: Tensor, drawn: bool, everywhere: bool) -> Cells:
        parts = [spread(part.double(), where.shape) for part in (self.shift, self.width, *normal)]
        rows = [(part.reshape(-1) if everywhere else part[where]).contiguous().numpy() for part in parts]
        return Cells(line()[0], *rows, floor=not drawn)


class Coins:
    """A latent of bits. Args: latent: its shape; like: of the model's dtype."""

    def __init__(self, latent: torch.Size, like: Tensor):
        self.places, self.like = latent, like

    def values(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.like.dtype)

    def walk(self, p: Bernoulli, where: Tensor, drawn: bool) -> Walk:
        probs = spread(p.probs, where.shape)
        rows, columns = where.nonzero(as_tuple=True)
        yield Question(Bits(probs[where]), rows, columns)


class Values:
    """A latent of one-hot values. Args: latent: its shape, (K,) or (D, K)."""

    def __init__(self, latent: torch.Size, like: Tensor):
        self.places, self.count, self.like = latent[:-1], latent[-1], like

    def values(self, numbers: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(numbers, self.count).to(self.like.dtype)

    def walk(self, p: OneHotCategorical, where: Tensor, drawn: bool) -> Walk:
        probs = spread(p.probs, torch.Size([*where.shape, self.count]))
        rows, columns = where.nonzero(as_tuple=True)
        yield Question(Choices(probs[where]), rows, columns)


class Words:
    """A latent of codes of a codebook, z being their vectors: q has all probability on one of them, and the prior draws
    code after code."""

    def __init__(self, p: CodePrior):
        self.codebook, self.places, self.like = p.codebook, p.event_shape[:1], p.like

    def values(self, numbers: Tensor) -> Tensor:
        return self.codebook.lookup(numbers).to(self.like)

    def walk(self, p: Any, where: Tensor, drawn: bool) -> Walk:
        if isinstance(p, Quantized):
            return  # one value of probability 1: no bits
        codes = torch.zeros(where.shape, dtype=torch.long)
        for m in range(where.shape[1]):
            (rows,) = where[:, m].nonzero(as_tuple=True)
            chance = p.logits(codes)[:, m].softmax(-1)
            codes[rows, m] = yield Question(Choices(chance[rows]), rows, torch.full_like(rows, m))


def spread(part: Tensor, shape: torch.Size) -> Tensor:
    """Parameters (B, ...) or (S, B, ...), or one for all, in the `shape` (S * B, ...): the same for each sample."""
    rows = part.reshape(-1, *shape[1:])
    if len(rows) == shape[0]:
        return rows
    return rows.repeat(shape[0] // len(rows), *(1,) * (rows.ndim - 1))


def space(p: Distribution, like: Tensor, draws: Tensor | None) -> Space:
    """What values a latent has that p is the prior of.

    Args:
        like: of the model's dtype.
        draws: of the prior, (M, *latent), where the prior itself cannot be the line of a continuous latent.
    """
    base = plain(p)
    if isinstance(base, Bernoulli):
        return Coins(p.event_shape, like)
    if isinstance(base, OneHotCategorical):
        return Values(p.event_shape, like)
    if isinstance(base, CodePrior):
        return Words(base)
    if draws is None and isinstance(base, Normal):
        return Lines(base.loc, base.scale, p.event_shape, True)
    if draws is None:
        raise CapabilityError(f"a prior that is a {type(p).__name__} has no line of its own")
    shift, width = draws.double().mean(0, keepdim=True), COVER * draws.double().std(0, keepdim=True).clamp(min=1e-6)
    return Lines(shift.to(like.dtype), width.to(like.dtype), p.event_shape, False)
