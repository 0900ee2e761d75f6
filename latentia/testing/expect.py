"""What checks compare with: numbers, frequencies, means, each with the promise that it would break."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from scipy.stats import chi2, t
from torch import Tensor

from latentia.batch import Batch, Frame
from latentia.errors import CapabilityError
from latentia.model import DirectedModel, ExactModel, LatentVariableModel, TractableModel

Tiny = Callable[[int], tuple[LatentVariableModel, Batch]]
Check = Callable[[Tiny, int], None]

LARGEST = 500_000  # values of z or of x that we are willing to enumerate
DOUBT = 6.0  # standard errors that a Monte Carlo mean may be off: one in 5e8
RARE = 1e-6  # the p-value below which frequencies are called wrong


class NotApplicable(Exception):
    """The model does not promise what this check is about, or its space is too large to enumerate."""


def as_directed(model: LatentVariableModel) -> DirectedModel:
    if not isinstance(model, DirectedModel):
        raise NotApplicable(f"{type(model).__name__} has no prior and likelihood")
    return model


def as_tractable(model: LatentVariableModel) -> TractableModel:
    if not isinstance(model, TractableModel):
        raise NotApplicable(f"{type(model).__name__} has no exact posterior")
    return model


def as_exact(model: LatentVariableModel) -> ExactModel:
    if not isinstance(model, ExactModel):
        raise NotApplicable(f"{type(model).__name__} has no exact posterior with an M-step")
    return model


def generated(model: LatentVariableModel, frame: Frame) -> Batch:
    """A draw of x for each datum of the frame."""
    try:
        return model.generate(frame)[0]
    except CapabilityError as error:
        raise NotApplicable(str(error)) from error


def require_small(size: int) -> None:
    if size > LARGEST:
        raise NotApplicable(f"{size} values are too many to enumerate")


def frame_of(batch: Batch, n: int) -> Frame:
    """n data of the model's own length, all in the first datum's context."""
    context = None if batch.context is None else batch.context.select(torch.zeros(n, dtype=torch.long))
    return Frame(n, context=context)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors of a few numbers are faster on one thread: ten times, where other work wants the processors too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def agrees(draws: Tensor, truth: Tensor | float, slack: float = 0.0, odds: float = 1e-4) -> bool:
    """Whether the mean of independent draws, (R, ...), is the truth, (...), within its own standard error.

    With C comparisons each may be off by t standard errors, where Student's t of R - 1 degrees exceeds t with
    probability odds / C: of true statements all together `odds` are denied.

    Args:
        slack: added to each error, for what the draws' mean is known to be off by, such as a bias.
    """
    error = draws.std(0) / math.sqrt(len(draws))
    width = float(t.isf(odds / (2 * max(error.numel(), 1)), len(draws) - 1))
    return bool(((draws.mean(0) - truth).abs() <= width * error + slack).all())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at `seed`, and afterwards where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def require(truth: bool, message: str) -> None:
    if not truth:
        raise AssertionError(message)


def require_equal(promise: str, left: Tensor, right: Tensor, tolerance: float) -> None:
    """|left - right| <= tolerance (1 + |right|), infinities alike, NaN nowhere."""
    require(left.shape == right.shape, f"{promise}: shapes {tuple(left.shape)} and {tuple(right.shape)}")
    gap = torch.where(left == right, 0.0, (left.double() - right.double()).abs() / (1 + right.double().abs())).detach()
    worst = float(gap.max()) if gap.numel() else 0.0
    require(worst <= tolerance, f"{promise}: off by {worst:.3g}, {tolerance:.3g} allowed")


def require_same_parameters(
    promise: str, one: LatentVariableModel, other: LatentVariableModel, tolerance: float
) -> None:
    others = other.state_dict()
    for name, value in one.state_dict().items():
        require_equal(f"{promise}: {name}", value, others[name], tolerance)


def require_no_more(promise: str, low: Tensor, high: Tensor) -> None:
    """E low <= E high for every datum, from independent draws (R, B); one row is the expectation itself."""
    error = sum(part.var(0) / len(part) for part in (low, high) if len(part) > 1)
    excess = float((low.mean(0) - high.mean(0) - 5 * torch.as_tensor(error).sqrt()).max())
    require(excess <= 1e-9, f"{promise}: above it by {excess:.3g} nats more than chance allows")


def require_mean(promise: str, draws: Tensor, expected: Tensor) -> None:
    """The average of draws (S, D) is the expected one, (D,), but for chance."""
    error = draws.std(0) / math.sqrt(len(draws))
    off = float(((draws.mean(0) - expected).abs() / (error + 1e-12)).max())
    require(off <= DOUBT, f"{promise}: off by {off:.3g} standard errors, {DOUBT:.3g} allowed")


def require_frequencies(promise: str, counts: Tensor, probability: Tensor) -> None:
    """Pearson's chi-square test; cells of which fewer than five draws are expected are one."""
    expected = probability * counts.sum()
    require(not bool(counts[probability == 0].any()), f"{promise}: something impossible was drawn")
    rare = expected < 5
    observed, wanted = counts[~rare].double(), expected[~rare].double()
    if float(expected[rare].sum()) >= 5:
        observed = torch.cat([observed, counts[rare].sum().double().unsqueeze(0)])
        wanted = torch.cat([wanted, expected[rare].sum().double().unsqueeze(0)])
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    value = float(chi2.sf(statistic, max(len(wanted) - 1, 1)))
    require(value > RARE, f"{promise}: chi-square {statistic:.4g} in {len(wanted)} cells, p = {value:.2g}")
