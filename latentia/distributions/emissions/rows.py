"""What the families over vectors of counts and symbols share."""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.distributions.emissions.base import log_normalised
from latentia.errors import DataError


def seen_only(x: Tensor, mask: Tensor | None) -> Tensor:
    """x, and 0 wherever it is not observed: what lies under a mask may be anything."""
    return x if mask is None else torch.where(mask, x, torch.zeros_like(x))


def total_by_state(responsibility: Tensor, values: Tensor) -> Tensor:
    """sum_m responsibility_mk values_md, (K, D), in float64."""
    return (responsibility.T @ values.to(responsibility)).double()


def seen_by_state(responsibility: Tensor, mask: Tensor | None, features: int) -> Tensor:
    """The weighted numbers of observed values, (K, D), in float64."""
    if mask is None:
        return responsibility.sum(0, dtype=torch.float64).unsqueeze(-1).expand(-1, features)
    return total_by_state(responsibility, mask)


def normalised_or_kept(counts: Tensor, log_probs: Tensor) -> Tensor:
    """log of the rows of counts divided by their sums; a row without a count keeps its log_probs."""
    kept = log_probs.to(counts)
    return torch.where(counts.sum(-1, keepdim=True) > 0, log_normalised(counts), kept).to(log_probs)


def some_rows(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of `count` data, drawn by weight (M,) without replacement; over again where there are fewer.

    The rows with the smallest exponential / weight (Efraimidis and Spirakis 2006).
    """
    wait = torch.empty(len(weight), dtype=torch.float64).exponential_(generator=generator).to(weight.device) / weight
    present = max(int((weight > 0).sum()), 1)
    order = wait.topk(min(count, present), largest=False).indices
    return order[torch.arange(count, device=order.device) % len(order)]


def mixed(corner: Tensor, average: Tensor, generator: torch.Generator) -> Tensor:
    """Halfway between a datum for each state, (K, ...), and the average, with some noise: equal states stay equal."""
    noise = torch.empty(corner.shape, dtype=corner.dtype).uniform_(0.9, 1.1, generator=generator)
    return (0.5 * corner + 0.5 * average) * noise.to(corner.device)


def check_features(x: Tensor, features: int) -> None:
    """Raise `DataError` unless x is (M, features)."""
    if x.ndim != 2 or x.shape[1] != features:
        raise DataError(f"the model has {features} features, the data {tuple(x.shape[1:])}")


def check_symbols(x: Tensor, mask: Tensor | None, symbols: int) -> None:
    """Raise `DataError` unless all that is observed are whole numbers from 0 to symbols - 1.

    For whole numbers one pass: cheap enough for whatever looks them up, where a number below 0 counts from the end, and
    one that is too large may be another column's.
    """
    x = seen_only(x, mask)
    if not x.numel():
        return
    if x.is_floating_point() and not torch.equal(x, x.round()):
        raise DataError("symbols must be whole numbers 0..V-1, and the data hold others; use a model of real values")
    low, high = (int(end) for end in x.aminmax())
    if low < 0 or high >= symbols:
        raise DataError(f"symbol {low if low < 0 else high} is outside 0..{symbols - 1}, which is what the model knows")


def known_symbols(x: Tensor, mask: Tensor | None, symbols: int) -> Tensor:
    """x as int64, 0 wherever it is not observed, after `check_symbols` (on a CPU: a device would be waited for)."""
    if x.device.type == "cpu":
        check_symbols(x, mask, symbols)
    return seen_only(x, mask).long()


def check_counts(x: Tensor, mask: Tensor | None) -> None:
    """Raise `DataError` unless all that is observed are whole numbers of 0 or more."""
    x = seen_only(x, mask)
    bad = (x < 0) | (x != x.round() if x.is_floating_point() else False) | ~x.isfinite()
    if bad.any():
        raise DataError(
            f"the value {float(x[bad][0]):g} is not a count (0, 1, 2, ...): use a model with Gaussian emissions"
        )
