"""Data whose log p(x) is no measure of the model, told in sentences."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from latentia.data import Dataset, as_dataset
from latentia.errors import DataError
from latentia.model import LatentVariableModel


def remark(data: Dataset, value: Tensor) -> list[str]:
    """Warn of data whose log p(x), `value` (N,), is no measure of the model, and say the same in sentences: those that
    are impossible under it, with the cell that lies farthest out, and those of which nothing is observed."""
    batch, said = data.batch(), []
    present = batch.weights.cpu() > 0
    impossible = (value.cpu() == -math.inf) & present
    if bool(impossible.any()):
        where, cell = int(impossible.nonzero()[0]), ""
        if data.schema.values == "real":
            cell = _farthest(data, where)
        said.append(
            f"For {int(impossible.sum()):,} of {len(data):,} data log p(x) is -inf, and so is the mean; the first is "
            f"row {_row(data, where)}{cell}."
        )
    empty = ~batch.observed.flatten(1).any(1).cpu() & present
    if bool(empty.any()):
        said.append(
            f"Of {int(empty.sum()):,} of {len(data):,} data nothing is observed: their log p(x) is 0, whatever the "
            f"model; the first is row {_row(data, int(empty.nonzero()[0]))}."
        )
    for words in said:
        warnings.warn(words, stacklevel=3)
    return said


def _row(data: Dataset, index: int) -> int:
    """Its number in the source, from 1."""
    return index + 1 if data.rows is None else int(data.rows[index])


def _farthest(data: Dataset, index: int) -> str:
    """The cell of a datum that lies farthest from the others, in words."""
    one = data.subset(slice(index, index + 1)).batch()
    x = torch.where(one.observed, one.x.double().abs(), 0.0)[0]
    place = int(x.argmax())
    last = place % max(x.shape[-1] if x.ndim else 1, 1)
    column = f"column {data.schema.names[last]!r}" if data.schema.names else f"column {last + 1}"
    values = data.schema.decode(one.x, None)
    value = float(np.asarray(values[0], dtype=np.float64).reshape(-1)[place])
    return f", where {column} has {value:g}: if that stands for a missing value, leave the cell empty"


def made_ready(model: LatentVariableModel, data: Dataset, seed: int) -> Dataset:
    """The data, drawn once and for all, after a check that the model can generate them."""
    data = as_dataset(data, model.schema).frozen(seed)
    if len(data) == 0:
        raise DataError("there are no data to evaluate")
    model.check(data.batch(dtype=model.anchor.dtype).to(model.anchor))
    return data


def count_observed(data: Dataset, weights: Tensor) -> float:
    """How many values are observed, a datum of weight 2 counted twice."""
    return float((weights * data.batch().observed.flatten(1).sum(1).cpu()).sum())
