"""The quadratic features of a vector: what a Gaussian's log-density is linear in."""

from __future__ import annotations

import torch
from numba import njit
from torch import Tensor


def features(x: Tensor) -> Tensor:
    """(1, x_1 .. x_D, x_1 x_1, x_2 x_1, x_2 x_2, x_3 x_1, ..): (M, D) to (M, 1 + D + D (D + 1) / 2)."""
    if x.requires_grad or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        rows, columns = torch.tril_indices(x.shape[1], x.shape[1], device=x.device)
        return torch.cat([torch.ones_like(x[:, :1]), x, x[:, rows] * x[:, columns]], 1)
    count = x.shape[1]
    out = x.new_empty(len(x), 1 + count + count * (count + 1) // 2)
    _fill(x.contiguous().numpy(), out.numpy())
    return out


@njit(nogil=True, cache=True, fastmath=True)
def _fill(x, out):
    count = x.shape[1]
    for m in range(x.shape[0]):
        out[m, 0] = 1
        for i in range(count):
            out[m, 1 + i] = x[m, i]
        place = 1 + count
        for i in range(count):
            for j in range(i + 1):
                out[m, place + j] = x[m, i] * x[m, j]
            place += i + 1


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
