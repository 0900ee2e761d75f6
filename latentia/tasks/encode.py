"""From data to latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.data import data_for, in_order
from latentia.distributions.latents import Latents, each
from latentia.distributions.structured import Structured
from latentia.distributions.unnormalised import Unnormalised
from latentia.errors import CapabilityError
from latentia.measure.remarks import remark
from latentia.model import Batch, LatentVariableModel
from latentia.tasks.common import using

ALONE, VALUE = "", "log p(x)"
"""Beside the names of latents: a latent that is alone, and the value of each datum."""


def encode(model: LatentVariableModel, data: Any, *, batch_size: int = 256, seed: int = 0) -> Latents:
    """E_q[z | x] of every datum, (N, *latent): marginals where z is discrete; a dict where there are several latents.

    Latents with a step for each step of x are zero beyond a sequence's end. `seed` draws what is binarized dynamically.

    Args:
        data: anything that `as_dataset` takes: a `Dataset`, a `Batch`, an array, a list, the name of a file.

    Raises:
        CapabilityError: the posterior has no mean.
        DataError: data that the model cannot have.
    """
    data = data_for(model, data, seed)
    found: Any = gather(model, data, lambda batch: _mean_and_value(model.posterior(batch)), batch_size, seed)
    value = found.pop(VALUE, None)
    if value is not None:
        remark(data, value)
    return found.pop(ALONE) if ALONE in found else found


def decode_path(
    model: LatentVariableModel, data: Any, *, batch_size: int = 256, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The most probable structure of each datum, argmax_z p(z | x), by its states' numbers.

    Args:
        data: anything that `as_dataset` takes.

    Returns:
        (N, T) whole numbers, -1 beyond the end (or (N,) where z is a single choice, (N, T, M) where it is M chains);
        and the number of steps, (N,).

    Raises:
        CapabilityError: the posterior is not `Structured`: it has no mode that a recursion finds.
        DataError: data that the model cannot have.
    """

    def path(batch: Batch) -> Tensor:
        q = model.posterior(batch)
        if not isinstance(q, Structured):
            raise CapabilityError(
                f"{type(model).__name__} has no path to decode: {type(model).__name__}.posterior would have to "
                f"return a Structured distribution, and returns {article(q)}"
            )
        mode = q.mode
        # one more than the state, so that what is padded later is told from state 0
        return torch.where(mode.sum(-1) > 0, mode.argmax(-1) + 1, 0)

    states = gather(model, data, path, batch_size, seed)
    assert isinstance(states, Tensor)  # `path` returns one
    states = states - 1
    # of several states at a step any will do
    there = (states >= 0).flatten(2).any(-1) if states.ndim > 2 else states >= 0
    return states, there.reshape(len(states), -1).sum(1)


def _mean_and_value(q: Distribution) -> dict[str, Tensor]:
    """E[z], of several latents by their names, and log p(x) where q tells it."""
    mean = _mean(q)
    parts = mean if isinstance(mean, dict) else {ALONE: mean}
    return {**parts, VALUE: q.log_partition} if isinstance(q, Unnormalised) else parts


def _mean(q: Distribution) -> Latents:
    try:
        return q.mean
    except NotImplementedError:
        raise CapabilityError(f"{type(q).__name__} has no mean to encode x by: write {type(q).__name__}.mean") from None


def article(q: Distribution) -> str:
    """What q is, as in "returns a Normal"."""
    name = type(q).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def gather(
    model: LatentVariableModel, data: Any, function: Callable[[Batch], Latents], batch_size: int, seed: int
) -> Latents:
    """`function` of all data, in their order. Raises `DataError` for data that the model cannot generate."""
    data = data_for(model, data, seed)
    with using(model, seed):
        parts = [(index, function(batch.to(model.anchor))) for index, batch in data.by_length(batch_size)]
    positions = [index for index, _ in parts]
    return each(lambda *tensors: in_order(tensors, positions), *(part for _, part in parts))
