"""One walk over the data, in which every posterior is asked for once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

from latentia.data import Dataset, in_order
from latentia.distributions.distortion import distortions, squared
from latentia.distributions.divergence import kl_by_latent, kl_given, kl_parts
from latentia.distributions.erring import Erring
from latentia.distributions.joint import draw
from latentia.distributions.latents import named, sizes
from latentia.measure.information import Information, Means, by_pairs, enumerated, mean_rows, paired
from latentia.model import Batch, DirectedModel, LatentVariableModel, TractableModel

ROWS = 512
"""Data a batch."""


class Walk(NamedTuple):
    """What the posteriors of the data say.

    Attributes:
        means: E_q[z].
        information: what z and x tell of each other, see `decompose`.
        kl: KL(q(z | x) || p(z)) of each datum, (N,) float64, nats; None for a model without a prior.
        units: the same a latent dimension, (N, D) with a row a datum; None where they do not factorise.
        layers: each latent's part of it by its name, (N,); empty for a model without a prior.
        log_partition: log p(x) of each datum, (N,) float64, where it is exact.
        squared_error: |x - E[x | z]|^2 of each datum for a draw of z, (N,), where x is numbers.
        widths: how many units each latent has, by its name; of one alone "z".
        posterior: of some of the data, to tell what it is.
    """

    means: Means
    information: Information
    kl: Tensor | None
    units: Tensor | None
    layers: dict[str, Tensor]
    log_partition: Tensor | None
    squared_error: Tensor | None
    widths: dict[str, int]
    posterior: Distribution


@torch.no_grad()
def walk(model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000) -> Walk:
    """Ask for the posterior of every datum once; those whose pairs tell the mutual information come first.

    Args:
        data: frozen.
        limit: see `decompose`.
    """
    groups = paired(model, data, seed, limit)
    pairs: list[tuple[Batch, Distribution]] = []
    last: Any = None
    means, told, places = [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for number, (at, batch) in enumerate(_in_turn(model, data, groups)):
            last = q = model.posterior(batch)
            if number < len(groups) and not q.has_enumerate_support:
                pairs.append((batch, q))
            means.append(mean_rows(at, batch, q))
            told.append(_of_each(model, batch, q))
            places.append(at)
    found = Means.joined(means)
    whole = {name: in_order([part[name].double().cpu() for part in told], places) for name in told[0]}
    mean = last.mean
    return Walk(
        means=found,
        information=by_pairs(model, pairs, seed) if pairs else enumerated(found),
        kl=whole.get("kl"),
        units=whole.get("units"),
        layers={name: whole[f"kl of {name}"] for name in named(mean) if f"kl of {name}" in whole},
        log_partition=whole.get("log_partition"),
        squared_error=whole.get("squared_error"),
        widths=dict(zip(named(mean), sizes(mean), strict=True)),
        posterior=last,
    )


def _in_turn(model: LatentVariableModel, data: Dataset, groups: list[Tensor]) -> Iterator[tuple[Tensor, Batch]]:
    """Positions and the data at them: the groups, and then what is in none of them."""
    left = torch.ones(len(data), dtype=torch.bool, device=data.x.device)
    for at in groups:
        left[at] = False
        yield at, data.batch(at, model.anchor.dtype).to(model.anchor)
    rest = left.nonzero().squeeze(-1)
    for at, batch in data.subset(rest).by_length(ROWS, model.anchor.dtype) if len(rest) else ():
        yield rest[at], batch.to(model.anchor)


def _of_each(model: LatentVariableModel, batch: Batch, q: Any) -> dict[str, Tensor]:
    """What is told of each datum, (B, ...)."""
    told = {"log_partition": q.log_partition} if isinstance(model, TractableModel) else {}
    if not isinstance(model, DirectedModel):
        return told
    prior, mean = model.prior(batch.frame), named(q.mean)
    parts = closed = kl_by_latent(q, prior)
    if parts is None or parts.keys() != mean.keys():
        # of latents that have one divergence together each one's part is drawn
        parts = kl_parts(q, prior) if parts is None else kl_given(q, prior, draw(q, 1, gradient=False))
        parts = {name: part.squeeze(0) if part.ndim > 2 else part for name, part in parts.items()}
    whole = torch.cat(list((closed or parts).values()), -1)
    told["kl"] = whole.sum(-1)
    if closed is not None and not whole.shape[1] == 1 != sum(sizes(mean)):
        told["units"] = whole
    error = _squared_error(model, batch, q)
    told |= {} if error is None else {"squared_error": error}
    return told | {f"kl of {name}": part.sum(-1) for name, part in parts.items()}


def _squared_error(model: DirectedModel, batch: Batch, q: Any) -> Tensor | None:
    """|x - E[x | z]|^2 of a draw of z, (B,); None where x is no numbers whose mean a decoder tells at once."""
    if isinstance(model, TractableModel) or not batch.x.is_floating_point():
        return None
    p = model.likelihood(draw(q, 1, gradient=False).z, batch.frame)
    if tuple(p.batch_shape + p.event_shape)[1:] != tuple(batch.x.shape) or not isinstance(
        p, Normal | Bernoulli | Erring
    ):
        return None
    return distortions(p, batch.x, batch.seen, squared).squeeze(0)
