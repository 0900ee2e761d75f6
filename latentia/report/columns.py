"""Columns of their own kind, in words: what each is like in a cluster or a state, and the cells of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.distributions import Distribution

from latentia.data import Schema
from latentia.data.columns import Column
from latentia.distributions.columns import ByColumn
from latentia.report.panel import Panel, table
from latentia.report.words import number, percent
from latentia.summary import OF_COLUMNS, told_column

MOST_COLUMNS, MOST_GROUPS = 12, 40


def groups(likelihood: Distribution, schema: Schema, share: np.ndarray, order: np.ndarray, noun: str) -> list[Panel]:
    """Each column in each cluster or state, by p(x | z = k) of batch shape (..., D), K in all."""
    if not isinstance(likelihood, ByColumn):
        return []
    told = [told_column(likelihood, column, j) for j, column in enumerate(schema.fields[:MOST_COLUMNS])]
    rows = [[str(k), percent(float(share[k])), *(cells[k] for cells in told)] for k in order[:MOST_GROUPS]]
    head = [noun, "share", *(column.name for column in schema.fields[:MOST_COLUMNS])]
    left = f" The first {MOST_COLUMNS} of {len(schema.fields)} columns." if len(schema.fields) > MOST_COLUMNS else ""
    caption = f"Each column in each {noun} in the fitted model. {OF_COLUMNS}{left}"
    return [table(head, rows, caption)]


def cell(value: Any) -> str:
    """A cell of a decoded row: the name of a category, or a number."""
    if isinstance(value, str):
        return value
    return number(float(value)) if np.isfinite(float(value)) else number(None)


def name_ticks(axes: Any, column: Column) -> None:
    """Name the positions of categories on an axis."""
    if column.names and len(column.names) <= MOST_COLUMNS:
        axes.set_xticks(range(len(column.names)), [name[:12] for name in column.names], rotation=30, ha="right")
