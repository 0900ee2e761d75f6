"""From data to clusters."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from latentia.data import as_dataset, data_for
from latentia.distributions import OneHot
from latentia.errors import CapabilityError, DataError
from latentia.measure.remarks import remark
from latentia.model import Batch, LatentVariableModel
from latentia.tasks.encode import ALONE, VALUE, article, gather


@runtime_checkable
class Clusters(Protocol):
    """What makes a model one that clusters, where its posterior is not over K values alone."""

    def clusters(self, batch: Batch) -> Tensor:
        """p(k | x), (B, K)."""
        ...


def responsibilities(model: LatentVariableModel, data: Any, *, batch_size: int = 256, seed: int = 0) -> Tensor:
    """p(k | x) of every datum and cluster, (N, K): the posterior's own over K values, or what `model.clusters` says.

    Args:
        data: anything that `as_dataset` takes.

    Raises:
        CapabilityError: z is not one of K values, and there is no `clusters(batch)`.
        DataError: data that the model cannot have.
    """

    def shares(batch: Batch) -> dict[str, Tensor]:
        if isinstance(model, Clusters):
            return {ALONE: model.clusters(batch)}
        q = model.posterior(batch)
        if isinstance(q, OneHot):
            return {ALONE: q.marginals, VALUE: q.log_partition}
        name = type(model).__name__
        raise CapabilityError(
            f"{name} has no clusters: {name}.posterior would have to return a OneHot, one of K values, and returns "
            f"{article(q)}; or write {name}.clusters(batch), p(k | x) of shape (B, K)"
        )

    data = data_for(model, data, seed)
    found: Any = gather(model, data, shares, batch_size, seed)
    if VALUE in found:
        remark(data, found[VALUE])
    return found[ALONE]


def cluster(model: LatentVariableModel, data: Any, *, batch_size: int = 256, seed: int = 0) -> Tensor:
    """The most probable cluster of each datum, argmax_k p(k | x), (N,) whole numbers from 0.

    Args and raises: see `responsibilities`.
    """
    return responsibilities(model, data, batch_size=batch_size, seed=seed).argmax(-1)


def classes(data: Any) -> Tensor:
    """The labels of the data, numbered from 0 in their own order, (N,). Raises `DataError` where there are none."""
    data = as_dataset(data)
    if data.labels is None:
        raise DataError(f"{data.schema.source} has no labels: name them with labels=")
    return torch.from_numpy(np.unique(np.asarray(data.labels).astype(str), return_inverse=True)[1]).reshape(-1)
