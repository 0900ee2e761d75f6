"""AIC and BIC: what the training data say for a model, less what its parameters cost."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from latentia.data import Dataset, Stream, as_dataset
from latentia.errors import CapabilityError
from latentia.measure.marginal import exact_marginal
from latentia.measure.remarks import made_ready
from latentia.model import LatentVariableModel, TractableModel, in_evaluation


class Criteria(NamedTuple):
    """What the training data say for a model, less what its parameters cost. Smaller is better.

    Attributes:
        aic: -2 log L + 2 k (Akaike 1974).
        bic: -2 log L + k log n (Schwarz 1978). R's mclust gives the negative of it.
        log_likelihood: log L, the sum of log p(x) over the training data, in nats.
        parameters: k, `model.free_parameters()`.
        n: the number of data; for sequences, which are long or short, of their observed steps.
        counted: n in words.
    """

    aic: float
    bic: float
    log_likelihood: float
    parameters: int
    n: float
    counted: str


@torch.no_grad()
@in_evaluation
def criteria(model: LatentVariableModel, training: Dataset | Stream) -> Criteria:
    """AIC and BIC of a model that was fitted to these data by maximum likelihood.

    Args:
        training: the data that the model has learned from: the criteria are made for those, and for no others. A
            datum of weight w counts w times, in log L and in n.

    Raises:
        CapabilityError: log p(x) is not exact.
        DataError: no data, or data that the model cannot generate.
    """
    if not isinstance(model, TractableModel):
        raise CapabilityError(
            f"AIC and BIC need an exact log p(x), which {type(model).__name__} has not: compare held-out log p(x)"
        )
    training = training if isinstance(training, Stream) else as_dataset(training)
    sequential = training.schema.kind in ("sequence", "text")
    log_likelihood = count = 0.0
    for part in training.chunks() if isinstance(training, Stream) else [training]:
        data = made_ready(model, part, seed=0)
        batch = data.batch()
        weights = batch.weights.double().cpu()
        value = exact_marginal(model, data).value + data.log_det().cpu()
        log_likelihood += float(torch.where(weights > 0, weights * value, 0.0).sum())
        steps = batch.observed.unsqueeze(-1).flatten(2).any(-1).sum(1).cpu() if sequential else torch.ones(len(data))
        count += float((weights * steps).sum())
    parameters = model.free_parameters()
    return Criteria(
        aic=-2 * log_likelihood + 2 * parameters,
        bic=-2 * log_likelihood + parameters * math.log(max(count, 1.0)),
        log_likelihood=log_likelihood,
        parameters=parameters,
        n=count,
        counted=f"{count:,.6g} {'observed steps of the ' if sequential else ''}training data",
    )
