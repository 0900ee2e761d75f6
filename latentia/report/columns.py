"""Columns of their own kind, in words: what each is like in a cluster or a state, and the cells of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import Categorical, Distribution

from latentia.data import Schema
from latentia.data.columns import Column
from latentia.distributions.columns import ByColumn
from latentia.report.panel import Panel, table
from latentia.report.words import number, percent

MOST_COLUMNS, MOST_GROUPS, MOST_NAMES = 12, 40, 2


def groups(likelihood: Distribution, schema: Schema, share: np.ndarray, order: np.ndarray, noun: str) -> list[Panel]:
    """Each column in each cluster or state, by p(x | z = k) of batch shape (..., D), K in all."""
    if not isinstance(likelihood, ByColumn):
        return []
    told = [_told(likelihood, column, j) for j, column in enumerate(schema.fields[:MOST_COLUMNS])]
    rows = [[str(k), percent(float(share[k])), *(cells[k] for cells in told)] for k in order[:MOST_GROUPS]]
    head = [noun, "share", *(column.name for column in schema.fields[:MOST_COLUMNS])]
    left = f" The first {MOST_COLUMNS} of {len(schema.fields)} columns." if len(schema.fields) > MOST_COLUMNS else ""
    caption = (
        f"Each column in each {noun} in the fitted model: of numbers mean ± standard deviation in the units of the "
        f"data, of counts the mean, of categories the likeliest with their probabilities, of yes or no that of "
        f"yes.{left}"
    )
    return [table(head, rows, caption)]


def _told(likelihood: ByColumn, column: Column, j: int) -> list[str]:
    """A column in each of the K groups."""
    part, place = next((part, where.index(j)) for part, where in likelihood.parts if j in where)
    if isinstance(part, Categorical):
        probs = _numpy(part.probs[..., place, :]).reshape(-1, part.probs.shape[-1])
        return [_likeliest(row, column.names) for row in probs]
    mean, spread = (_numpy(value[..., place]).reshape(-1) for value in (part.mean, part.variance))
    if column.kind == "binary":
        return [f"{column.names[1] if column.names else '1'} {percent(value)}" for value in mean]
    if column.kind == "count":
        return [number(float(value), 3) for value in mean]
    mean, spread = mean * column.scale + column.shift, np.sqrt(spread) * column.scale
    return [f"{number(float(m), 3)} ± {number(float(s), 2)}" for m, s in zip(mean, spread, strict=True)]


def _likeliest(probs: np.ndarray, names: tuple[str, ...]) -> str:
    best = [v for v in np.argsort(-probs, kind="stable")[:MOST_NAMES] if probs[v] >= 0.005]
    return ", ".join(f"{names[v]} {percent(float(probs[v]))}" for v in best)


def cell(value: Any) -> str:
    """A cell of a decoded row: the name of a category, or a number."""
    if isinstance(value, str):
        return value
    return number(float(value)) if np.isfinite(float(value)) else number(None)


def name_ticks(axes: Any, column: Column) -> None:
    """Name the positions of categories on an axis."""
    if column.names and len(column.names) <= MOST_COLUMNS:
        axes.set_xticks(range(len(column.names)), [name[:12] for name in column.names], rotation=30, ha="right")


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()
