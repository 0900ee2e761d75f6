"""Decoded sequences: some of the data, each step under its most probable state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from markupsafe import Markup

from latentia.data import Dataset
from latentia.model import LatentVariableModel
from latentia.report import figures
from latentia.report.panel import Panel
from latentia.tasks import decode_path

SEQUENCES, STEPS = 3, 200
"""Sequences that are drawn, and steps of each: more would be a blur on the page."""
HEIGHT = 1.5


def decoded(model: LatentVariableModel, data: Dataset, order: np.ndarray, seed: int) -> list[Panel]:
    """A panel of a few sequences of `data`, evenly spread over them; none where x is no step of numbers or symbols.

    Args:
        order: of the states, (K,), the commonest first.
    """
    some = data.subset(figures.thinned(len(data), SEQUENCES).tolist()).frozen(seed)
    paths, lengths = decode_path(model, some, seed=seed)
    states = [path[: min(int(n), STEPS)].numpy() for path, n in zip(paths.cpu(), lengths.cpu(), strict=True)]
    cut = f" The first {STEPS} steps of each." if int(lengths.max()) > STEPS else ""
    if some.schema.values == "symbols":
        lines = [_tagged(words, path) for words, path in zip(some.decoded(), states, strict=True)]
        return [Panel("lines", lines, f"Some of the data, each word with its state on the best path.{cut}", "Decoded")]
    if len(some.schema.event_shape) != 1:
        return []
    return [_drawn(some, states, order, cut)]


def _tagged(words: Any, path: np.ndarray) -> Markup:
    pairs = zip(words, path.tolist(), strict=False)
    return Markup(" ").join(Markup("{}<sub>{}</sub>").format(str(word), state) for word, state in pairs)


def _drawn(data: Dataset, states: list[np.ndarray], order: np.ndarray, cut: str) -> Panel:
    numbers = data.schema.decode(data.x, data.mask, data.lengths, names=False)
    values = [np.asarray(one, dtype=np.float64)[: len(path)] for one, path in zip(numbers, states, strict=True)]
    column = _telling(np.concatenate(values), np.concatenate(states), data.schema.kinds)
    name = data.schema.names[column] if data.schema.names else f"x{column + 1}"
    rank = np.argsort(order)

    def paint(*axes) -> None:
        for part, series, path in zip(axes, values, states, strict=True):
            _spans(part, path, rank)
            figures.curve(part, range(1, len(path) + 1), series[:, column].tolist(), "", figures.INK, linewidth=0.9)
            part.set_xlim(0.5, len(path) + 0.5)
            part.set_ylabel(name)
        axes[-1].set_xlabel("step")
        axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=8)

    several = f" Of {values[0].shape[1]} columns the one in which the states differ most." * (values[0].shape[1] > 1)
    caption = (
        "Some of the data, in their own units, over the states of the best path, argmax p(z | x), in colours."
        f"{several}{cut}"
    )
    return Panel("svg", figures.draw(paint, rows=len(values), height=HEIGHT), caption, "Decoded")


def _spans(axes, path: np.ndarray, rank: np.ndarray) -> None:
    """A band in the state's colour for each stay in it, named where it is met first in the figure."""
    _, known = axes.figure.axes[0].get_legend_handles_labels()
    start = 0
    for state, steps in groupby(path.tolist()):
        end = start + len(list(steps))
        label = f"state {state}"
        band = axes.axvspan(start + 0.5, end + 0.5, color=figures.colour(int(rank[state])), alpha=0.28, linewidth=0)
        if label not in known and axes is axes.figure.axes[0]:
            band.set_label(label)
            known.append(label)
        start = end


def _telling(values: np.ndarray, states: np.ndarray, kinds: Sequence[str]) -> int:
    """The column of which the states explain the largest share of the variance; one of numbers, where there is one.

    values (M, D), states (M,), and what each column is, () where all are numbers.
    """
    _, group = np.unique(states, return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column that is nowhere observed has no mean
        mean = np.stack([np.nanmean(values[group == k], 0) for k in range(group.max() + 1)])[group]
        share = np.nan_to_num(np.nanvar(mean, 0) / np.nanvar(values, 0), nan=0.0, posinf=0.0)
    named = np.array([kind in ("category", "binary") for kind in kinds] or [False] * len(share))
    return int(np.argmax(share - 2 * named))
