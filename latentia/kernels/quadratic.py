"""The quadratic features of a vector: what a Gaussian's log-density is linear in."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from latentia.kernels.blocks import scratch


def products(x: Tensor, center: Tensor, unit: Tensor, reuse: bool = False, far: Tensor | None = None) -> Tensor:
    """With y = (x - center) / unit, (1, y_1 .. y_D, y_1 y_1, y_2 y_1, y_2 y_2, ..): (M, 1 + D + D (D + 1) / 2).

    With `reuse`, in memory that the next such call of this thread writes over; `far` (D,) is raised to the largest |y|.
    """
    if not _plain(x):
        away = (x - center) / unit
        if far is not None and len(x):
            torch.maximum(far, away.detach().abs().amax(0), out=far)
        rows, columns = torch.tril_indices(x.shape[1], x.shape[1], device=x.device)
        return torch.cat([torch.ones_like(x[:, :1]), away, away[:, rows] * away[:, columns]], 1)
    count = x.shape[1]
    out = _room(x, 1 + count + count * (count + 1) // 2, reuse)
    _products(x.contiguous().numpy(), center.numpy(), (1 / unit).numpy(), out.numpy(), _ignored(x, far))
    return out


def squares(x: Tensor, center: Tensor, unit: Tensor, reuse: bool = False, far: Tensor | None = None) -> Tensor:
    """With y = (x - center) / unit, (1, y_1 .. y_D, y_1^2 .. y_D^2): (M, 1 + 2 D). For the rest see `products`."""
    if not _plain(x):
        away = (x - center) / unit
        if far is not None and len(x):
            torch.maximum(far, away.detach().abs().amax(0), out=far)
        return torch.cat([torch.ones_like(x[:, :1]), away, away**2], 1)
    out = _room(x, 1 + 2 * x.shape[1], reuse)
    _squares(x.contiguous().numpy(), center.numpy(), (1 / unit).numpy(), out.numpy(), _ignored(x, far))
    return out


def reach(x: Tensor, center: Tensor) -> Tensor:
    """The largest |x - center| in each column, (D,); NaN where there is one."""
    if not _plain(x):
        return (x.detach() - center).abs().amax(0)
    out = x.new_zeros(x.shape[1])
    _reach(x.contiguous().numpy(), center.numpy(), out.numpy())
    return out


def _room(x: Tensor, width: int, reuse: bool) -> Tensor:
    return scratch("features", len(x), width, x) if reuse else x.new_empty(len(x), width)


def _ignored(x: Tensor, far: Tensor | None) -> np.ndarray:
    return (x.new_zeros(x.shape[1]) if far is None else far).numpy()


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not x.requires_grad


@njit(nogil=True, cache=True, fastmath=True)
def _products(x, center, inverse, out, far):
    count = x.shape[1]
    for m in range(x.shape[0]):
        out[m, 0] = 1
        for i in range(count):
            away = (x[m, i] - center[i]) * inverse[i]
            out[m, 1 + i] = away
            far[i] = max(far[i], abs(away))
        place = 1 + count
        for i in range(count):
            for j in range(i + 1):
                out[m, place + j] = out[m, 1 + i] * out[m, 1 + j]
            place += i + 1


@njit(nogil=True, cache=True, fastmath=True)
def _squares(x, center, inverse, out, far):
    count = x.shape[1]
    for m in range(x.shape[0]):
        out[m, 0] = 1
        for i in range(count):
            away = (x[m, i] - center[i]) * inverse[i]
            out[m, 1 + i] = away
            out[m, 1 + count + i] = away * away
            far[i] = max(far[i], abs(away))


@njit(nogil=True, cache=True)
def _reach(x, center, out):
    for m in range(x.shape[0]):
        for i in range(x.shape[1]):
            away = abs(x[m, i] - center[i])
            # true for NaN as well, which then stays
            if not away <= out[i]:
                out[i] = away


def symmetric(flat: Tensor, count: int) -> Tensor:
    """The matrices (..., D, D) whose lower triangles are `flat`, (..., D (D + 1) / 2)."""
    rows, columns = torch.tril_indices(count, count, device=flat.device)
    matrix = flat.new_zeros(*flat.shape[:-1], count, count)
    matrix[..., rows, columns] = flat
    return matrix + matrix.tril(-1).mT


def flattened(matrix: Tensor) -> Tensor:
    """The coefficients of the products x_i x_j, i >= j, in x^T matrix x: (..., D, D) to (..., D (D + 1) / 2)."""
    rows, columns = torch.tril_indices(*matrix.shape[-2:], device=matrix.device)
    return matrix[..., rows, columns] * torch.where(rows == columns, 1.0, 2.0).to(matrix)
