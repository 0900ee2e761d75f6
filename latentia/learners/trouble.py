"""What became inf or NaN first, and what may be done about it, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from latentia.data import Dataset
from latentia.model import Batch, LatentVariableModel
from latentia.objectives import Bound

LARGE = 10.0
"""Values beyond it are not of unit scale."""


def unscaled(data: Dataset) -> str:
    """What to do about data that are far from unit scale, as words to add to an error; none where they are not."""
    if not data.x.is_floating_point() or not len(data):
        return ""
    batch = data.batch()
    size = torch.where(batch.observed, batch.x, 0.0).abs().flatten(0, -2).amax(0)
    column = int(size.argmax())
    if not float(size[column]) > LARGE:
        return ""
    return (
        f"; column {column + 1} of the data has values of size {float(size[column]):.3g}: bring them to unit scale "
        "(load(..., scale='standard'), --scale standard)"
    )


def first_nonfinite(model: LatentVariableModel, batch: Batch, bound: Bound) -> str:
    """The first quantity, in the order in which they are computed, that is inf or NaN."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"parameter {name} is not finite"
    with torch.no_grad():
        q = model.posterior(batch)
        quantities = {
            "the posterior's mean": q.mean,
            "the posterior's log-partition": getattr(q, "log_partition", None),
        }
        if q.has_rsample:
            quantities["the posterior's standard deviation"] = q.stddev
    for name, value in {**quantities, "kl": bound.kl, "reconstruction": bound.reconstruction}.items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            row = int((~value.flatten(1).isfinite().all(1) if value.ndim > 1 else ~value.isfinite()).nonzero()[0])
            return f"{name} is not finite (first in datum {row + 1} of the batch)"
    return "the objective is not finite"


def first_bad(names: Mapping[nn.Parameter, str], chosen: list[nn.Parameter], slopes: Sequence[Tensor | None]) -> str:
    """The first parameter, else the first gradient, that is inf or NaN."""
    values: list[tuple[str, Tensor]] = [(f"parameter {name}", p) for p, name in names.items()]
    pairs = zip(chosen, slopes, strict=True)
    values += [(f"the gradient of {names[p]}", slope) for p, slope in pairs if slope is not None]
    bad = [name for name, value in values if not bool(value.isfinite().all())]
    return bad[0] if bad else "the norm of the gradient"
