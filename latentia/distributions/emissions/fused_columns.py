"""Rows of columns of their own kind by the fused kernels: all parts in one table."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from latentia.distributions.columns import Column
from latentia.distributions.emissions.base import Statistics, responsibilities, settled
from latentia.distributions.emissions.gaussian.densities import LOG_2PI
from latentia.distributions.emissions.gaussian.statistics import of_products
from latentia.distributions.semiring import IMPOSSIBLE
from latentia.errors import DataError
from latentia.kernels import columns as kernel
from latentia.kernels.blocks import block_rows, map_blocks, sum_blocks

if TYPE_CHECKING:
    from latentia.distributions.emissions.columns import ColumnEmissions

KINDS = {"real": kernel.NORMAL, "binary": kernel.CATEGORY, "count": kernel.COUNT}


def applies(parameter: Tensor, x: Tensor) -> bool:
    """Whether the kernels take such data: on a CPU, in the parameters' own precision."""
    plain = parameter.device.type == x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return plain and parameter.dtype == x.dtype and not x.requires_grad


@lru_cache(maxsize=32)
def _layout(columns: tuple[Column, ...]) -> kernel.Layout:
    kinds = [KINDS.get(column, kernel.CATEGORY) if isinstance(column, str) else kernel.CATEGORY for column in columns]
    return kernel.layout(kinds, [column if isinstance(column, int) else 2 for column in columns])


def _first(emissions: ColumnEmissions, kind: str) -> Tensor:
    """The first row of each column of a kind."""
    return torch.from_numpy(_layout(emissions.columns).first[emissions.where[kind]])


def _table(emissions: ColumnEmissions) -> np.ndarray:
    """What log-densities read, (rows, K)."""
    table = torch.empty(_layout(emissions.columns).rows, emissions.states, dtype=torch.float64)
    for kind in emissions.where:
        part, first = emissions.part(kind), _first(emissions, kind)
        if kind == "real":
            table[first] = part.means.mT.double()
            table[first + 1] = (-part.log_scale).exp().mT.double()
            table[first + 2] = -part.log_scale.mT.double() - 0.5 * LOG_2PI
        elif kind == "category":
            rows = torch.cat([start + torch.arange(count) for start, count in zip(first, part.symbols, strict=True)])
            table[rows] = part.log_probs[:, part.own].mT.double()
        elif kind == "binary":
            table[first], table[first + 1] = (
                logsigmoid(side).clamp(min=IMPOSSIBLE).mT.double() for side in (-part.logits, part.logits)
            )
        else:
            table[first], table[first + 1] = settled(part.log_rates).mT.double(), part.rates.mT.double()
    return table.numpy()


def log_prob(emissions: ColumnEmissions, x: Tensor, mask: Tensor | None) -> Tensor:
    """`Emissions.log_prob`, without gradients."""
    where, table = _layout(emissions.columns), _table(emissions)

    def block(part: slice) -> Tensor:
        return _log_prob(where, table, x[part], None if mask is None else mask[part], x.new_zeros(emissions.states))

    return torch.cat(map_blocks(block, len(x), block_rows(x.shape[1] + emissions.states, x)))


def _log_prob(where: kernel.Layout, table: np.ndarray, x: Tensor, mask: Tensor | None, log_prior: Tensor) -> Tensor:
    total = log_prior.expand(len(x), -1).clone()
    found = kernel.add_log_probs(_array(x), _seen(mask), where.kind, where.first, where.levels, table, total.numpy())
    return _checked(found, total)


def statistics(emissions: ColumnEmissions, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
    """`Emissions.statistics`."""
    units = _units(emissions)

    def block(part: slice) -> tuple[Tensor, ...]:
        seen = None if mask is None else mask[part]
        return _sums(emissions, units, x[part], seen, responsibility[part].detach())

    return _apart(emissions, sum_blocks(block, len(x), block_rows(x.shape[1] + emissions.states, x)))


def mixture_step(
    emissions: ColumnEmissions, x: Tensor, mask: Tensor | None, weight: Tensor, log_prior: Tensor, hard: bool
) -> tuple[Statistics, Tensor]:
    """`Emissions.mixture_step`, in two passes over rows that lie in the cache."""
    where, table, units = _layout(emissions.columns), _table(emissions), _units(emissions)

    def block(part: slice) -> tuple[Tensor, ...]:
        seen = None if mask is None else mask[part]
        share, value = responsibilities(_log_prob(where, table, x[part], seen, log_prior), weight[part], hard)
        return *_sums(emissions, units, x[part], seen, share), value

    with torch.no_grad():
        total, count, value = sum_blocks(block, len(x), block_rows(x.shape[1] + emissions.states, x))
    return {"count": count, **_apart(emissions, (total, count))}, value


def _units(emissions: ColumnEmissions) -> tuple[np.ndarray, np.ndarray]:
    """The center and the unit of each column, 0 and 1 where it is no number."""
    center, unit = np.zeros(len(emissions.columns)), np.ones(len(emissions.columns))
    if "real" in emissions.where:
        part, where = emissions.part("real"), emissions.where["real"]
        center[where], unit[where] = part.center.double().numpy(), part.unit.double().numpy()
    return center, unit


def _sums(
    emissions: ColumnEmissions,
    units: tuple[np.ndarray, np.ndarray],
    x: Tensor,
    mask: Tensor | None,
    responsibility: Tensor,
) -> tuple[Tensor, Tensor]:
    where = _layout(emissions.columns)
    total = torch.zeros(where.rows, emissions.states, dtype=torch.float64)
    shares = _array(responsibility)
    parts = where.kind, where.first, where.levels, *units
    found = kernel.add_statistics(_array(x), _seen(mask), *parts, shares, total.numpy())
    return _checked(found, total), responsibility.sum(0, dtype=torch.float64)


def _apart(emissions: ColumnEmissions, sums: tuple[Tensor, ...]) -> Statistics:
    """The sums of each part, by its own names."""
    (total, count), found = sums, {}
    for kind in emissions.where:
        part, first = emissions.part(kind), _first(emissions, kind)
        if kind == "real":
            linear = torch.cat([total[first], total[first + 1], total[first + 2]]).mT
            own = of_products(part, (linear, count), True)
        elif kind == "category":
            symbol = total.new_zeros(part.logits.shape)
            rows = torch.cat([start + torch.arange(levels) for start, levels in zip(first, part.symbols, strict=True)])
            symbol[:, part.own] = total[rows].mT
            own = {"symbol": symbol}
        elif kind == "binary":
            own = {"ones": total[first + 1].mT, "seen": (total[first] + total[first + 1]).mT}
        else:
            own = {"sum": total[first].mT, "seen": total[first + 1].mT}
        found |= {f"{kind}.{name}": value for name, value in own.items()}
    return found


def _array(x: Tensor) -> np.ndarray:
    return x.contiguous().numpy()


def _seen(mask: Tensor | None) -> np.ndarray:
    """What the kernels take; a mask of no size is none."""
    return np.zeros((0, 0), dtype=np.bool_) if mask is None else mask.contiguous().numpy()


def _checked(found: int, total: Tensor) -> Tensor:
    if found != kernel.FINE:
        raise DataError(f"column {found + 1} holds a value that it cannot have: see what `check` says of the data")
    return total
