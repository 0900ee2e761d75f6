"""The output layer of a model of words and its cross-entropy, by chunks: the logits are never stored whole.

    log p(v_n | h_n) = w_v . h_n + b_v - log sum_u exp(w_u . h_n + b_u),   n = 1..N

Forward the logits of some rows at a time are made, used, and forgotten. Backward needs softmax(logits): where all of it
takes `KEPT` bytes at most it is kept from the forward pass, otherwise the logits are made a second time, a chunk at a
time. Beyond its arguments and their gradients this holds `KEPT` bytes and a chunk at most, and a few numbers a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KEPT = 64 * 2**20
"""Bytes of probabilities kept between forward and backward, at most."""
CHUNK = 8 * 2**20
"""Bytes of logits at a time, where they are not kept: as many as lie in the cache."""
LOWEST = -80.0
"""Below it exp adds nothing to a sum, and takes many times as long."""


def log_probabilities(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    """log p(target | features) in nats, (N,).

    Args:
        features: (N, H); weight: (V, H); bias: (V,); target: (N,), whole numbers from 0 to V - 1.

    Raises `IndexError` for a target that is none of them.
    """
    symbols = len(weight)
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < symbols:
        raise IndexError(f"symbols {int(target.min())} to {int(target.max())} for a vocabulary of {symbols}")
    return _Chunked.apply(features, weight, bias, target)


def _rows(like: Tensor, symbols: int, memory: int) -> int:
    return max(memory // (symbols * like.element_size()), 1)


def _exponentials(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(logits - peak), (n, V); its sum, (n,); and the target's logit less the peak."""
    logits = torch.addmm(bias, features, weight.mT)
    logits -= logits.amax(1, keepdim=True)
    chosen = logits.gather(1, target.unsqueeze(1)).squeeze(1)
    # far below the others a term is nothing; its own log-probability was taken before
    exponentials = logits.clamp_(min=LOWEST).exp_()
    return exponentials, exponentials.sum(1), chosen


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad) and len(features) <= _rows(features, len(weight), KEPT)
        size = max(len(features), 1) if keep else _rows(features, len(weight), CHUNK)
        values, kept, sums = [], features.new_empty(0), features.new_empty(0)
        for rows, chosen in zip(features.split(size), target.split(size), strict=True):
            exponentials, total, logit = _exponentials(rows, weight, bias, chosen)
            values.append(logit - total.log())
            if keep:
                kept, sums = exponentials, total
        ctx.save_for_backward(features, weight, bias, target, kept, sums)
        ctx.size, ctx.kept = size, keep
        return torch.cat(values) if values else features.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        features, weight, bias, target, kept, sums = ctx.saved_tensors
        slope = grads[0].unsqueeze(1)
        down = slope * weight[target]
        wide, level = torch.zeros_like(weight), torch.zeros_like(bias)
        wide.index_add_(0, target, slope * features)
        level.index_add_(0, target, grads[0])
        for start in range(0, len(features), ctx.size):
            part = slice(start, start + ctx.size)
            found = (kept, sums) if ctx.kept else _exponentials(features[part], weight, bias, target[part])[:2]
            share = slope[part] / found[1].unsqueeze(1)
            down[part] -= share * (found[0] @ weight)
            wide.addmm_(found[0].mT, share * features[part], alpha=-1)
            level.addmv_(found[0].mT, share.squeeze(1), alpha=-1)
        return down, wide, level, None
