"""The quadratic features of a vector: what a Gaussian's log-density is linear in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentia.kernels import softmax
from latentia.kernels.blocks import run_blocks, scratch
from latentia.kernels.compiled import njit


def products(x: Tensor, center: Tensor, unit: Tensor, reuse: bool = False) -> Tensor:
    """With y = (x - center) / unit, (1, y_1 .. y_D, y_1 y_1, y_2 y_1, y_2 y_2, ..): (M, 1 + D + D (D + 1) / 2).

    With `reuse`, in memory that the next such call of this thread writes over.
    """
    if not plain(x):
        away = (x - center) / unit
        rows, columns = torch.tril_indices(x.shape[1], x.shape[1], device=x.device)
        return torch.cat([torch.ones_like(x[:, :1]), away, away[:, rows] * away[:, columns]], 1)
    count = x.shape[1]
    out = _room(x, 1 + count + count * (count + 1) // 2, reuse)
    _products(
        x.contiguous().numpy(), center.numpy(), (1 / unit).numpy(), out.numpy(), np.zeros(count, out.numpy().dtype)
    )
    return out


def squares(x: Tensor, center: Tensor, unit: Tensor, reuse: bool = False) -> Tensor:
    """With y = (x - center) / unit, (1, y_1 .. y_D, y_1^2 .. y_D^2): (M, 1 + 2 D). For `reuse` see `products`."""
    if not plain(x):
        away = (x - center) / unit
        return torch.cat([torch.ones_like(x[:, :1]), away, away**2], 1)
    count = x.shape[1]
    out = _room(x, 1 + 2 * count, reuse)
    _squares(
        x.contiguous().numpy(), center.numpy(), (1 / unit).numpy(), out.numpy(), np.zeros(count, out.numpy().dtype)
    )
    return out


def expectations(
    x: Tensor, weight: Tensor, center: Tensor, unit: Tensor, natural: Tensor, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The E-step of a mixture whose log p(x, z = k) is Phi(x) natural_k, with Phi `products` or `squares`, whichever
    has as many features as natural (F, K) has rows, `rows` rows of x (M, D) at a time.

    Returns:
        sum_m weight_m p(z = k | x_m) Phi(x_m), (K, F), and sum_m weight_m log p(x_m), in float64; the largest |y| in
        each column, (D,).
    """
    fill = _squares if len(natural) == 1 + 2 * x.shape[1] else _products
    data, weights = x.contiguous().numpy(), weight.to(x).contiguous().numpy()
    middle, inverse = center.numpy(), (1 / unit).numpy()

    # a thread that asks for Python's lock waits longer for it than a small operation takes: so there are five of them
    # in a block, each long, and what they need is made beforehand
    def run(parts: list[slice]) -> tuple[Tensor, Tensor, Tensor]:
        total = torch.zeros(natural.mT.shape, dtype=torch.float64)
        product = torch.empty(natural.mT.shape, dtype=x.dtype)
        far, value, rooms = np.zeros(len(middle), data.dtype), 0.0, {}
        for part in parts:
            count = part.stop - part.start
            if count not in rooms:
                phi, joint = scratch("features", count, len(natural), x), scratch("joint", count, natural.shape[1], x)
                rooms[count] = phi, phi.numpy(), joint, joint.mT
            phi, features, joint, transposed = rooms[count]
            fill(data[part], middle, inverse, features, far)
            torch.mm(phi, natural, out=joint)
            value += softmax.responsibilities(joint, weights[part])
            total += torch.mm(transposed, phi, out=product)
        return total, torch.tensor(value, dtype=torch.float64), torch.from_numpy(far)

    totals, values, fars = zip(*run_blocks(run, len(x), rows), strict=True)
    return torch.stack(totals).sum(0), torch.stack(values).sum(), torch.stack(fars).amax(0)


def reach(x: Tensor, center: Tensor) -> Tensor:
    """The largest |x - center| in each column, (D,); NaN where there is one."""
    if not plain(x):
        return (x.detach() - center).abs().amax(0)
    out = x.new_zeros(x.shape[1])
    _reach(x.contiguous().numpy(), center.numpy(), out.numpy())
    return out


def _room(x: Tensor, width: int, reuse: bool) -> Tensor:
    return scratch("features", len(x), width, x) if reuse else x.new_empty(len(x), width)


def plain(x: Tensor) -> bool:
    """Whether the kernels can take x, and no gradient is asked for."""
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
