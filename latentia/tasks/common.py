"""What the verbs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.data import Dataset
from latentia.errors import CapabilityError
from latentia.inference.refinement import refinable, refined
from latentia.measure.marginal import exact_log_marginals, log_marginal
from latentia.model import DirectedModel, LatentVariableModel, TractableModel, evaluating

MEMORY = 2**30
"""Bytes for importance samples: steps of refinement are cheaper for many data at once."""


@contextmanager
def using(model: LatentVariableModel, seed: int) -> Iterator[None]:
    """Use the model: no gradients, evaluation mode, random numbers from `seed`; afterwards all is as it was."""
    device = model.anchor.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad(), evaluating(model):
        torch.manual_seed(seed)
        yield


def checked(model: LatentVariableModel, batch: Batch) -> Batch:
    """The batch where the model is. Raises `DataError` for x that the model cannot generate."""
    batch = batch.to(model.anchor)
    model.check(batch)
    return batch


def directed(model: LatentVariableModel, verb: str) -> DirectedModel:
    """The model, if it has a likelihood. Raises `CapabilityError` naming what to write where it has none."""
    if not isinstance(model, DirectedModel):
        name = type(model).__name__
        raise CapabilityError(f"{name} cannot {verb}: make it a DirectedModel, with {name}.prior and {name}.likelihood")
    return model


def repeated(batch: Batch, times: int) -> Batch:
    """The data of the batch `times` over, (times * B), the whole batch first, then the whole batch again."""
    return batch.select(torch.arange(batch.size, device=batch.x.device).repeat(times))


def log_marginals(
    model: LatentVariableModel, data: Dataset, importance_samples: int, steps: int, seed: int, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """log p(x) of each datum and its standard error, (N,) float64, in nats and in the units of the data as given.

    Exact where the model is; else by importance sampling from q(z | x), refined by `steps` first where it can be.
    """
    data = data.frozen(seed)
    shift = data.log_det().cpu()
    if isinstance(model, TractableModel):
        with using(model, seed):
            value = exact_log_marginals(model, data)
        return value + shift, torch.zeros_like(value)
    one = checked(model, data.batch(slice(0, 1), model.anchor.dtype))
    source = refined(model, steps=steps) if steps and refinable(model, one) else model
    options = {"importance_samples": importance_samples, "seed": seed, "memory": MEMORY, "progress": progress}
    with using(model, seed):
        found = log_marginal(source, data, **options)
    return found.value + shift, found.standard_error
