"""Weighted means over the data, and their errors."""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.measure.information import mean_and_error


def standard_error(one: Tensor, other: Tensor) -> float:
    """Of the difference between the mean log p(x) of two models, each given as its `Evaluation.each` of the same data.

    Some data are less probable than others under every model: datum by datum that falls away, so that this is much
    less than what the errors of the two means would give.
    """
    return WeightedMean(one[:, 1]).error(one[:, 0] - other[:, 0])


class WeightedMean:
    """Weighted means over the data, and their errors."""

    def __init__(self, weights: Tensor):
        self.weights = weights / weights.sum().clamp(min=1e-300)
        self.total = float(weights.sum())

    def __call__(self, values: Tensor) -> Tensor:
        # an absent datum adds nothing, even when it is impossible
        return torch.where(self.weights > 0, self.weights * values.double(), 0.0).sum()

    def error(self, values: Tensor) -> float:
        """Standard error of the mean over independent data; a weight is a number of repetitions."""
        return mean_and_error(values, self.weights * self.total)[1]

    def combined(self, errors: Tensor) -> float:
        """Standard error of the mean of independent estimates with these errors."""
        return float(torch.where(self.weights > 0, self.weights * errors.double(), 0.0).square().sum().sqrt())
