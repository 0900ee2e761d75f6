"""sum_d log Bernoulli(x_d; logit l_d), and its gradient, in one pass over the logits.

log Bernoulli(x; l) = x l - max(l, 0) - log(1 + exp(-|l|)). Of the factors 1 + exp(-|l|), which lie between 1 and 2, the
product is taken first, so that there is one logarithm where a sum of softplus takes hundreds. The exponential is a
polynomial of which the compiler makes vectors. `specification` is the same sum, step by step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentia.kernels.blocks import run_blocks
from latentia.kernels.compiled import njit

ROWS = 256
CERTAIN = -1e30
PART = 960
"""Coordinates of which the product of 1 + exp(-|l|) is at most 2^960, a number in float64."""
FAST = {"reassoc", "nsz", "contract", "arcp"}

_F = np.float32
LOG2_E, LN2_HIGH, LN2_LOW = _F(1.4426950408889634), _F(0.693145751953125), _F(1.4286068203094172e-6)
MAGIC = _F(12582912.0)  # 1.5 * 2^23: what is added to it is rounded to a whole number, in its last bits
FARTHEST = _F(87.0)  # beyond it exp(-|l|) is denormal, and adds nothing to 1
ONE, ZERO, LEAST = _F(1), _F(0), _F(CERTAIN)
C2, C3, C4, C5, C6, C7 = (_F(1 / n) for n in (2, 6, 24, 120, 720, 5040))


def log_likelihood(logits: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum_d log p(x_d | l_d) over what the mask observes, for logits (S, B, *event), x and mask (B, *event): (S, B), in
    nats."""
    kernel = logits.device.type == "cpu" and logits.dtype == x.dtype == torch.float32 and not x.requires_grad
    kernel = kernel and logits.shape[1:] == x.shape and (mask is None or mask.shape == x.shape)
    if not kernel or logits.ndim != x.ndim + 1:
        return specification(logits, x, mask)
    if torch.is_grad_enabled():
        return _WithResiduals.apply(logits, x, mask)[0]
    return torch.ops.latentia.bernoulli_sums(logits, x, mask)


def specification(logits: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same in torch's operations."""
    logits, x = _blanked(logits, x, mask)
    each = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return each.flatten(2).sum(-1)


def _blanked(logits: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is missing becomes a 0 that is certain: its log-probability is 0, and it has no slope."""
    return (logits, x) if mask is None else (torch.where(mask, logits, CERTAIN), torch.where(mask, x, 0.0))


class _WithResiduals(torch.autograd.Function):
    """The sums, (S, B), and their slopes x - sigmoid(l), which ask for the same exponentials."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        sums, residuals = torch.ops.latentia.bernoulli(logits, x, mask)
        ctx.save_for_backward(residuals, x, mask)
        ctx.set_materialize_grads(False)
        return sums, residuals

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        residuals, x, mask = ctx.saved_tensors
        of_sums, of_residuals = grads
        slope = None if of_sums is None else of_sums.reshape(*of_sums.shape, *(1,) * (x.ndim - 1)) * residuals
        if of_residuals is None:
            return slope, None, None
        # what is missing has residual 0, and with x = 0 no slope of the slope
        probability = (x if mask is None else torch.where(mask, x, 0.0)) - residuals
        curve = of_residuals * probability * (probability - 1.0)
        return curve if slope is None else slope + curve, None, None


# as operators of torch's own they have a place in compiled graphs
OPERATORS = torch.library.Library("latentia", "FRAGMENT")
OPERATORS.define("bernoulli_sums(Tensor logits, Tensor x, Tensor? mask) -> Tensor")
OPERATORS.define("bernoulli(Tensor logits, Tensor x, Tensor? mask) -> (Tensor, Tensor)")


@torch.library.impl(OPERATORS, "bernoulli_sums", "CPU")
def _sums_of(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    sums = logits.new_empty(logits.shape[:2])
    _run(logits, x, mask, sums, None)
    return sums


@torch.library.impl(OPERATORS, "bernoulli", "CPU")
def _sums_and_residuals_of(logits: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    sums, residuals = logits.new_empty(logits.shape[:2]), logits.new_empty(logits.shape)
    _run(logits, x, mask, sums, residuals)
    return sums, residuals


@torch.library.register_fake("latentia::bernoulli_sums")
def _like_sums(logits: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    return logits.new_empty(logits.shape[:2])


@torch.library.register_fake("latentia::bernoulli")
def _like_both(logits: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[:2]), logits.new_empty(logits.shape)


def _run(logits: Tensor, x: Tensor, mask: Tensor | None, sums: Tensor, residuals: Tensor | None) -> None:
    rows, data, there = _matrix(logits, 2), _matrix(x, 1), None if mask is None else _matrix(mask, 1)
    out, slopes = sums.view(-1).numpy(), None if residuals is None else _matrix(residuals, 2)
    run_blocks(lambda run: _rows(rows, data, there, out, slopes, run[0].start, run[-1].stop), len(rows), ROWS)


def _matrix(x: Tensor, batch: int) -> np.ndarray:
    """x with its first `batch` dimensions as rows, and the others as columns."""
    return x.detach().flatten(0, batch - 1).flatten(1).contiguous().numpy()


@njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, forceinline=True)
def _exp(a):
    """exp(a) for a in [-87, 0]."""
    shifted = a * LOG2_E + MAGIC
    whole = shifted - MAGIC
    r = a - whole * LN2_HIGH
    r = r - whole * LN2_LOW
    p = C6 + r * C7
    p = C5 + r * p
    p = C4 + r * p
    p = C3 + r * p
    p = C2 + r * p
    p = ONE + r * p
    p = ONE + r * p
    power = np.int32((_F(shifted).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _linear(logit, value, factor, residual):
    """The sum of what is linear; the factors 1 + exp(-|l|) are written down, since two sums at once are no vectors."""
    linear = ZERO
    for d in range(len(logit)):
        small = _exp(-min(abs(logit[d]), FARTHEST))
        linear += value[d] * logit[d] - max(logit[d], ZERO)
        factor[d] = ONE + small
        if residual is not None:
            residual[d] = value[d] - (ONE if logit[d] > ZERO else small) / (ONE + small)
    return np.float64(linear)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _product(factor):
    product = ONE
    for d in range(len(factor)):
        product *= factor[d]
    return np.float64(product)


@njit(nogil=True, cache=True)
def _part(logit, value, factor, residual):
    """The sum over at most `PART` coordinates."""
    linear, product = _linear(logit, value, factor, residual), 1.0
    for d in range(0, len(logit), 64):
        product *= _product(factor[d : min(d + 64, len(logit))])
    return linear - np.log(product)


@njit(nogil=True, cache=True)
def _blank(logit, value, there, seen_logit, seen_value):
    for d in range(len(logit)):
        seen_logit[d] = logit[d] if there[d] else LEAST
        seen_value[d] = value[d] if there[d] else ZERO


@njit(nogil=True, cache=True)
def _hide(residual, there):
    for d in range(len(residual)):
        residual[d] = residual[d] if there[d] else ZERO


@njit(nogil=True, cache=True)
def _rows(rows, values, mask, sums, residuals, start, stop):
    """Of these rows the sums and, unless they are None, the residuals x - sigmoid(l)."""
    width = rows.shape[1]
    factor, seen_logit, seen_value = np.empty(width, _F), np.empty(width, _F), np.empty(width, _F)
    for i in range(start, stop):
        logit, value, total = rows[i], values[i % len(values)], 0.0
        if mask is not None:
            _blank(logit, value, mask[i % len(values)], seen_logit, seen_value)
            logit, value = seen_logit, seen_value
        for d in range(0, width, PART):
            residual = None if residuals is None else residuals[i, d : d + PART]
            total += _part(logit[d : d + PART], value[d : d + PART], factor, residual)
        if residuals is not None and mask is not None:
            _hide(residuals[i], mask[i % len(values)])
        sums[i] = total
