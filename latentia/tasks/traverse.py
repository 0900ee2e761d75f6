"""What each dimension of z does: one is moved, the others stay."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Dirichlet

from latentia.batch import Batch
from latentia.data import Dataset, data_for
from latentia.distributions import Joint
from latentia.distributions.codes import Quantized
from latentia.distributions.latents import Latents, each, flat, named
from latentia.distributions.logical_forms import is_structure
from latentia.distributions.observed import expected
from latentia.errors import CapabilityError, OptionError
from latentia.model import DirectedModel, LatentVariableModel
from latentia.tasks.common import directed, using
from latentia.tasks.encode import gather

ACTIVE = 0.01
"""The variance over x of E[z_d | x] above which a dimension counts as active (Burda et al. 2016)."""
ENDS = 0.02
"""The lowest quantile; the highest is as far from 1."""


class Traversal(NamedTuple):
    """What `traverse` gives.

    Attributes:
        x: E[x | z] with dimension d of z at its s-th quantile, (D, steps, *event), in the model's coordinates.
        dimensions: which of z's, counted through all its latents, the most active first, (D,).
        values: the quantiles, (D, steps).
    """

    x: Tensor
    dimensions: Tensor
    values: Tensor


def traverse(
    model: LatentVariableModel,
    data: Any,
    *,
    start: int = 0,
    steps: int = 9,
    through: Literal["aggregate", "prior"] = "aggregate",
    most: int = 4000,
    dimensions: int | None = None,
    seed: int = 0,
) -> Traversal:
    """Each active dimension of z through its quantiles, the others at the posterior mean of one datum.

    A dimension is active when the variance over the data of its posterior mean exceeds 0.01 (Burda et al. 2016). Where
    latents depend on each other, those below the one that moves keep their distance from their prior mean.

    Args:
        data: anything that `as_dataset` takes: they tell what is active, and the aggregate posterior.
        start: the datum, from 0.
        steps: quantiles, evenly spread from 2 % to 98 %.
        through: the quantiles of the aggregate posterior (1/N) sum_n q(z_d | x_n), by a draw from each, or of the
            prior, by as many.
        most: data of which these are told.
        dimensions: the most active so many; all where it is left out, and a ladder of feature maps has thousands.

    Raises:
        CapabilityError: z is discrete or shares of a whole, no dimension is active, or the model has no likelihood.
        DataError: data that the model cannot have.
        OptionError: fewer than 2 steps, no dimensions, a datum that is not there, or another `through`.
    """
    data = data_for(model, data, seed)
    if steps < 2 or not 0 <= start < len(data) or through not in ("aggregate", "prior"):
        raise OptionError(
            f"steps={steps}, start={start}, through={through!r}: at least 2 steps, a datum of 0..{len(data) - 1}, and "
            "aggregate or prior"
        )
    if dimensions is not None and dimensions < 1:
        raise OptionError(f"dimensions={dimensions}: at least 1 is needed")
    directed_model = directed(model, "traverse")
    part = data.subset(slice(0, most))
    means = _flat(gather(model, part, lambda batch: _posterior(directed_model, batch).mean, 256, seed))
    drawn = _flat(gather(model, part, lambda batch: _draws(directed_model, batch, through), 256, seed))
    variance = means.var(0, unbiased=False)
    variance[: _classes(directed_model, part)] = 0.0
    active = variance.argsort(descending=True)[: int((variance > ACTIVE).sum())]
    if not len(active):
        raise CapabilityError(
            f"{type(model).__name__} has no active dimension to traverse: its posterior has collapsed, see `evaluate`"
        )
    active = active[:dimensions]
    values = drawn[:, active].quantile(torch.linspace(ENDS, 1 - ENDS, steps, dtype=drawn.dtype), 0).T
    with using(model, seed):
        one = data.batch([start], model.anchor.dtype).to(model.anchor)
        x = torch.stack([_moved(directed_model, one, int(d), row) for d, row in zip(active, values, strict=True)])
    return Traversal(x, active, values)


def _posterior(model: DirectedModel, batch: Batch) -> Any:
    q = model.posterior(batch)
    if is_structure(q) and not q.has_rsample:
        raise CapabilityError(f"{type(model).__name__} cannot be traversed: its z is discrete, and has no quantiles")
    if isinstance(q, Quantized):
        raise CapabilityError(f"{type(model).__name__} cannot be traversed: its z are codes, between which is nothing")
    if isinstance(q, Dirichlet):
        raise CapabilityError(f"{type(model).__name__} cannot be traversed: no share of a whole moves alone")
    return q


def _classes(model: DirectedModel, data: Dataset) -> int:
    """How many dimensions of z are a class's, and have no quantiles."""
    with using(model, 0):
        q = model.posterior(data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor))
    return sum(q.conditional(name, {}).event_shape.numel() for name in q.summed) if isinstance(q, Joint) else 0


def _draws(model: DirectedModel, batch: Batch, through: str) -> Latents:
    source: Any = model.prior(batch.frame) if through == "prior" else model.posterior(batch)
    return source.sample()


def _flat(z: Latents) -> Tensor:
    """(N, all dimensions of all latents), on the CPU."""
    return flat(z).cpu()


def _moved(model: DirectedModel, one: Batch, dimension: int, values: Tensor) -> Tensor:
    """E[x | z] with z's `dimension` at each of the values, (steps, *event)."""
    mean: Any = model.posterior(one).mean
    z: Any = each(lambda part: part.expand(len(values), *part.shape).clone(), mean)
    where = ""
    for name, part in named(z, "").items():
        size = part[0, 0].numel()
        if 0 <= dimension < size:
            part.view(len(values), -1)[:, dimension] = values.to(part)
            where = name
        dimension -= size
    prior = model.prior(one.frame)
    if isinstance(prior, Joint):
        _follow(prior, mean, z, where)
    return expected(model.likelihood(cast(Any, z), one.frame)).reshape(len(values), *one.x.shape[1:])


def _follow(prior: Joint, mean: dict[str, Tensor], z: dict[str, Tensor], moved: str) -> None:
    """Move the latents below `moved` with the mean that the prior has for them."""
    still = {name: part.unsqueeze(0) for name, part in mean.items()}
    names = list(prior.parts)
    for name in names[names.index(moved) + 1 :]:
        z[name] = z[name] + prior.conditional(name, z).mean - prior.conditional(name, still).mean
