"""What a distribution over x says when only part of x is observed, dispatched on its type.

A likelihood has batch shape (S, B, *event), one independent factor a coordinate of x, or (S, B) with the event in its
event shape. A family of your own joins by `log_prob.register`, `given.register` and `expected.register`; one that
generates ends by `ends.register` and `ending.register` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, MultivariateNormal

from latentia.distributions.bounded import Bounded
from latentia.errors import CapabilityError
from latentia.kernels import bernoulli

NOISELESS = 1e-12
"""Of a coordinate's variance what it keeps once it is observed: a normal wants some."""


@singledispatch
def log_prob(p: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """log p(x) of what is observed, the rest summed out, (S, B), in nats.

    Args:
        x, mask: (B, *event); True = observed, None where all is.

    Raises:
        CapabilityError: coordinates depend on each other, and how to sum some of them out is not known.
    """
    value = p.log_prob(x)
    if mask is not None:
        if p.event_shape:
            raise CapabilityError(
                f"{type(p).__name__} cannot leave out what is hidden: register it with observed.log_prob"
            )
        value = torch.where(mask, value, 0.0)
    return _total(value)


@singledispatch
def log_prob_bound(p: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """The same, or of a `Bounded` an unbiased estimate of a lower bound on it."""
    return log_prob(p, x, mask)


@singledispatch
def given(p: Distribution, x: Tensor, mask: Tensor | None) -> Distribution:
    """p(x | the observed part of x): p itself where coordinates are independent.

    Raises:
        CapabilityError: they depend on each other, and how to condition on some of them is not known.
    """
    if p.event_shape and mask is not None:
        raise CapabilityError(f"{type(p).__name__} cannot be given a part of x: register it with observed.given")
    return p


@singledispatch
def expected(p: Distribution) -> Tensor:
    """E[x]; of symbols the expected level sum_v v p(v), for which torch has NaN."""
    return p.mean


@singledispatch
def moments(p: Distribution) -> Tensor:
    """What of p may be averaged over z: E[x], and of categories the probability of each."""
    return expected(p)


@singledispatch
def of_moments(p: Distribution, moments: Tensor) -> Tensor:
    """The values of x that averaged `moments` stand for: themselves, and of categories the most probable one."""
    return moments


@singledispatch
def plain(p: Distribution) -> Distribution:
    """The same as one of torch's own families, coordinate by coordinate where they are independent: what a report asks
    for probabilities, means and covariances."""
    return p


@singledispatch
def ends(p: Distribution, x: Tensor) -> Tensor | None:
    """The length of each draw, (...), of a distribution that generates the ends of sequences; None of all others."""
    return None


@singledispatch
def ending(p: Distribution, lengths: Tensor | None) -> Distribution:
    """p of data whose lengths (B,) are known, so that what is hidden of them is told from what has ended: p itself,
    where it generates no ends."""
    return p


def _total(value: Tensor) -> Tensor:
    """The sum over all but samples and data."""
    return value.flatten(2).sum(-1) if value.ndim > 2 else value


# ------------------------------------------------------------------------------------------------ bounds


@log_prob.register
def _(p: Bounded, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.log_prob(x)  # which is refused, whatever is hidden


@log_prob_bound.register
def _(p: Bounded, x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        raise CapabilityError(f"{type(p).__name__} has no bound that leaves out what is hidden")
    return p.log_prob_bound(x)


# ------------------------------------------------------------------------------------------------ torch's families


@log_prob.register
def _(p: Bernoulli, x: Tensor, mask: Tensor | None) -> Tensor:
    if "logits" in vars(p):
        return bernoulli.log_likelihood(p.logits, x, mask)
    value = p.log_prob(x)
    return _total(value if mask is None else torch.where(mask, value, 0.0))


@log_prob.register
def _(p: Independent, x: Tensor, mask: Tensor | None) -> Tensor:
    return log_prob(p.base_dist, x, mask)


@given.register
def _(p: Independent, x: Tensor, mask: Tensor | None) -> Distribution:
    return Independent(given(p.base_dist, x, mask), p.reinterpreted_batch_ndims, validate_args=False)


@expected.register
def _(p: Independent) -> Tensor:
    return expected(p.base_dist)


@plain.register
def _(p: Independent) -> Distribution:
    return plain(p.base_dist)


@expected.register
def _(p: Categorical) -> Tensor:
    return p.probs @ torch.arange(p.probs.shape[-1], dtype=p.probs.dtype, device=p.probs.device)


@log_prob.register
def _(p: MultivariateNormal, x: Tensor, mask: Tensor | None) -> Tensor:
    """Of the observed coordinates, whose mean and covariance are parts of the whole ones."""
    if mask is None:
        return _total(p.log_prob(x))
    covariance = p._unbroadcasted_scale_tril @ p._unbroadcasted_scale_tril.mT
    away, shape = (x - p.loc).flatten(1, -2), x.shape[:-1]
    value = away.new_zeros(away.shape[:2])
    for seen, rows in patterns(mask.flatten(0, -2)):
        if not len(seen):
            continue
        inner = _rows_of(covariance, rows, shape)[..., seen, :][..., seen]
        zero = away.new_zeros(len(seen))
        value[:, rows] = MultivariateNormal(zero, inner, validate_args=False).log_prob(away[:, rows][..., seen])
    return _total(value.unflatten(1, shape))


@given.register
def _(p: MultivariateNormal, x: Tensor, mask: Tensor | None) -> Distribution:
    """Bishop (2006), section 2.3.1. What is observed keeps a variance of almost nothing."""
    if mask is None:
        return p
    covariance = p._unbroadcasted_scale_tril @ p._unbroadcasted_scale_tril.mT
    shape, size = x.shape[:-1], x.shape[-1]
    loc, x = p.loc.flatten(1, -2), x.flatten(0, -2)
    mean, left = torch.zeros_like(loc), x.new_zeros(len(x), size, size)
    if covariance.ndim > 2:
        left = loc.new_zeros(*loc.shape, size)
    for seen, rows in patterns(mask.flatten(0, -2)):
        whole = _rows_of(covariance, rows, shape)
        cross = whole[..., seen]
        gain = torch.linalg.solve(whole[..., seen, :][..., seen], cross.mT).mT
        mean[:, rows] = loc[:, rows] + (gain @ (x[rows][:, seen] - loc[:, rows][..., seen]).unsqueeze(-1)).squeeze(-1)
        # what is observed has none left but for rounding
        tiny = NOISELESS * torch.diag_embed(whole.diagonal(dim1=-2, dim2=-1))
        rest = _without(whole - gain @ cross.mT, seen) + tiny
        left[..., rows, :, :] = rest
    left = left.unflatten(-3, shape)
    return MultivariateNormal(mean.unflatten(1, shape), left, validate_args=False)


def _without(covariance: Tensor, seen: Tensor) -> Tensor:
    covariance = 0.5 * (covariance + covariance.mT)
    covariance[..., seen, :] = 0.0
    covariance[..., seen] = 0.0
    return covariance


def _rows_of(covariance: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """One covariance for all rows as it is; of one a row, those of `rows`."""
    if covariance.ndim == 2:
        return covariance
    return covariance.expand(-1, *shape, -1, -1).flatten(1, -3)[:, rows]


def patterns(mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The distinct rows of a mask (M, D): their observed columns, and which rows have them."""
    unique, which = torch.unique(mask, dim=0, return_inverse=True)
    for i, pattern in enumerate(unique):
        yield pattern.nonzero().squeeze(-1), (which == i).nonzero().squeeze(-1)
