"""Fused inside-outside of unlabelled binary trees on the CPU, in scaled probability space.

The recursion of `distributions.brackets.Brackets` is the specification. All spans of a width are divided by the largest
of them, so that an exponential is taken for each span and each pair of widths, and none for each split. Only where
spans of one width are e^-230 apart can anything be lost to underflow: that is noticed, and the caller takes the
recursion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.kernels.compiled import njit

LEAST = 1e-100
NOTHING = -1e30


def log_partition(node: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """log Z (B,) of potentials (B, N, N), in float64, and where it can be trusted. Differentiable once."""
    return _Inside.apply(node, lengths.expand(len(node)))  # type: ignore[return-value]


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, node: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        value, marginals, safe, _ = _run(node, lengths, 0)
        ctx.save_for_backward(marginals)
        ctx.dtype = node.dtype
        ctx.mark_non_differentiable(safe)
        return value, safe

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (marginals,) = ctx.saved_tensors
        return (marginals * grads[0][:, None, None]).to(ctx.dtype), None


def sample(node: Tensor, lengths: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Trees drawn from p(z), (draws, B, N, N), and where they can be trusted, (B,)."""
    _, _, safe, z = _run(node, lengths, draws)
    return z.to(node), safe


def best(node: Tensor, lengths: Tensor) -> Tensor:
    """The tree of the highest score, (B, N, N)."""
    z = torch.zeros(node.shape, dtype=torch.float64)
    best_trees(*_arrays(node, lengths), z.numpy())
    return z.to(node)


def _arrays(node: Tensor, lengths: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return node.detach().double().contiguous().numpy(), lengths.expand(len(node)).contiguous().numpy()


def _run(node: Tensor, lengths: Tensor, draws: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = len(node)
    value, marginals = torch.empty(size, dtype=torch.float64), torch.zeros(node.shape, dtype=torch.float64)
    safe, z = torch.ones(size, dtype=torch.bool), torch.zeros(draws, *node.shape, dtype=torch.float64)
    uniform = torch.rand(draws, size, node.shape[-1], dtype=torch.float64)
    given = _arrays(node, lengths)
    inside_outside(*given, uniform.numpy(), value.numpy(), marginals.numpy(), safe.numpy(), z.numpy())
    return value, marginals, safe, z


@njit(cache=True, error_model="numpy")
def _inside(node, length, cell, scale, base, turn):
    """Scaled sums of all spans, cell[width - 1, start], with the logarithms of each width's scale, those of the largest
    pair of parts, `base`, and the derivatives of cells by the sums of their splits, `turn`. Returns whether nothing was
    lost."""
    safe = True
    for w in range(length):
        count = length - w
        peak, top = NOTHING, 0.0
        for i in range(count):
            peak = max(peak, node[i, i + w])
            cell[w, i] = 1.0 if w == 0 else 0.0
        base[w] = 0.0 if w == 0 else NOTHING
        for k in range(w):
            base[w] = max(base[w], scale[k] + scale[w - 1 - k])
        for k in range(w):
            share = np.exp(scale[k] + scale[w - 1 - k] - base[w])
            if share > 0.0:
                for i in range(count):
                    cell[w, i] += share * cell[k, i] * cell[w - 1 - k, i + k + 1]
        for i in range(count):
            turn[w, i] = np.exp(node[i, i + w] - peak)
            cell[w, i] *= turn[w, i]
            top = max(top, cell[w, i])
        scale[w] = base[w] + peak + np.log(top) if top > 0.0 else NOTHING
        inverse = 1.0 / top if top > 0.0 else 0.0
        for i in range(count):
            cell[w, i] *= inverse
            turn[w, i] *= inverse
            if cell[w, i] < LEAST and node[i, i + w] > 0.1 * NOTHING:
                possible = cell[w, i] > 0.0 or w == 0
                for k in range(w):
                    if cell[k, i] > 0.0 and cell[w - 1 - k, i + k + 1] > 0.0:
                        possible = True
                safe = safe and not possible
    return safe


@njit(cache=True, error_model="numpy")
def _outside(length, cell, scale, base, turn, slope, marginals):
    """Probabilities of spans, from derivatives `slope` by the scaled cells."""
    slope[:length, :length] = 0.0
    slope[length - 1, 0] = 1.0 if cell[length - 1, 0] > 0.0 else 0.0
    for w in range(length - 1, -1, -1):
        for i in range(length - w):
            marginals[i, i + w] = cell[w, i] * slope[w, i]
            slope[w, i] = slope[w, i] * turn[w, i] if cell[w, i] > 0.0 else 0.0
        for k in range(w):
            share = np.exp(scale[k] + scale[w - 1 - k] - base[w])
            if share > 0.0:
                for i in range(length - w):
                    slope[k, i] += share * slope[w, i] * cell[w - 1 - k, i + k + 1]
                for i in range(length - w):
                    slope[w - 1 - k, i + k + 1] += share * slope[w, i] * cell[k, i]


@njit(cache=True, error_model="numpy")
def _drawn(length, cell, scale, base, uniform, open_, z):
    """One tree, from the top down, by a number in [0, 1) for each of its nodes."""
    waiting, turn = 1, 0
    open_[0, 0], open_[0, 1] = 0, length - 1
    while waiting > 0:
        waiting -= 1
        i, w = open_[waiting, 0], open_[waiting, 1]
        z[i, i + w] = 1.0
        if w == 0:
            continue
        total, chosen = 0.0, 0
        for k in range(w):
            total += np.exp(scale[k] + scale[w - 1 - k] - base[w]) * cell[k, i] * cell[w - 1 - k, i + k + 1]
        rest = uniform[turn] * total
        turn += 1
        for k in range(w):
            share = np.exp(scale[k] + scale[w - 1 - k] - base[w]) * cell[k, i] * cell[w - 1 - k, i + k + 1]
            if share > 0.0:
                chosen = k
                if rest < share:
                    break
                rest -= share
        open_[waiting, 0], open_[waiting, 1] = i, chosen
        open_[waiting + 1, 0], open_[waiting + 1, 1] = i + chosen + 1, w - 1 - chosen
        waiting += 2


@njit(cache=True, nogil=True, error_model="numpy")
def inside_outside(node, lengths, uniform, value, marginals, safe, z):
    """log Z into `value` (B,), span probabilities into `marginals` (B, N, N), and len(uniform) draws into `z`."""
    size = node.shape[1]
    cell, turn, slope = np.zeros((size, size)), np.zeros((size, size)), np.zeros((size, size))
    scale, base, open_ = np.zeros(size), np.zeros(size), np.zeros((size + 1, 2), np.int64)
    for b in range(len(node)):
        length = lengths[b]
        value[b] = 0.0
        if length > 0:
            safe[b] = _inside(node[b], length, cell, scale, base, turn)
            value[b] = scale[length - 1]
            safe[b] = safe[b] and value[b] > 0.1 * NOTHING
            _outside(length, cell, scale, base, turn, slope, marginals[b])
            for s in range(len(uniform)):
                _drawn(length, cell, scale, base, uniform[s, b], open_, z[s, b])


@njit(cache=True, nogil=True, error_model="numpy")
def best_trees(node, lengths, z):
    """The tree of the highest score of each datum, into `z` (B, N, N)."""
    size = node.shape[1]
    score, split, open_ = np.zeros((size, size)), np.zeros((size, size), np.int64), np.zeros((size + 1, 2), np.int64)
    for b in range(len(node)):
        length = lengths[b]
        for w in range(length):
            for i in range(length - w):
                found = 0.0 if w == 0 else -np.inf
                for k in range(w):
                    both = score[k, i] + score[w - 1 - k, i + k + 1]
                    if both > found:
                        found, split[w, i] = both, k
                score[w, i] = found + node[b, i, i + w]
        waiting = 1 if length > 0 else 0
        open_[0, 0], open_[0, 1] = 0, length - 1
        while waiting > 0:
            waiting -= 1
            i, w = open_[waiting, 0], open_[waiting, 1]
            z[b, i, i + w] = 1.0
            if w > 0:
                k = split[w, i]
                open_[waiting, 0], open_[waiting, 1] = i, k
                open_[waiting + 1, 0], open_[waiting + 1, 1] = i + k + 1, w - 1 - k
                waiting += 2
