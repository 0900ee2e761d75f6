"""What sets clusters apart, in words, and which data lie between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.data import Dataset
from latentia.data.writing import short

CLEAR = 0.5
"""Standard deviations, or shares of a category, by which a cluster must differ to be set apart by a column."""
SURE = 0.8
"""The probability of the best cluster below which a datum is called uncertain."""
MOST, WORDS = 3, 6


class Profile(NamedTuple):
    """A cluster among some data.

    Attributes:
        size: how many of them it is the most probable cluster of; share: of all.
        words: what sets it apart, in words; "" where nothing does.
    """

    cluster: int
    size: int
    share: float
    words: str


def profiles(shares: Tensor, data: Dataset) -> list[Profile]:
    """The clusters of p(k | x) = shares (N, K), the largest first.

    A column of numbers sets a cluster apart where the mean of its data lies half a standard deviation or more from that
    of all, a column of names where a category is more frequent by a half; of texts the words are told that are most
    over-represented.
    """
    best, weight = shares.argmax(1).cpu().numpy(), data.batch().weights.double().cpu().numpy()
    told = _of_words if data.schema.values == "symbols" else _of_columns
    words = told(data, best, shares.shape[1])
    found = [
        Profile(k, int((best == k).sum()), float(weight[best == k].sum() / weight.sum()), words[k])
        for k in range(shares.shape[1])
    ]
    return sorted(found, key=lambda one: -one.share)


def uncertain(shares: Tensor, data: Dataset) -> Tensor:
    """Positions of the data that no cluster has a probability above 0.8 of, the least certain first; those of which
    nothing is observed, which tell nothing, are left out."""
    best = shares.amax(1).cpu()
    order = best.argsort(stable=True)
    seen = data.batch().observed.flatten(1).any(1).cpu()
    return order[(best < SURE)[order] & seen[order]]


def _of_columns(data: Dataset, best: np.ndarray, count: int) -> list[str]:
    if data.schema.kind != "table":
        return [""] * count
    values = np.asarray(data.decoded(), dtype=object)
    names = data.schema.names or tuple(f"x{j + 1}" for j in range(values.shape[1]))
    told: list[list[tuple[float, str]]] = [[] for _ in range(count)]
    for name, column in zip(names, values.T, strict=True):
        numeric = not any(isinstance(value, str) for value in column)
        for k, by, words in (_number_told if numeric else _category_told)(column, best, count):
            told[k].append((by, f"{name} {words}"))
    return ["; ".join(words for _, words in sorted(one, key=lambda part: -part[0])[:MOST]) for one in told]


def _number_told(column: np.ndarray, best: np.ndarray, count: int) -> Any:
    values = column.astype(np.float64)
    seen = np.isfinite(values)
    if not seen.any() or not values[seen].std():
        return
    mean, deviation = values[seen].mean(), values[seen].std()
    for k in np.unique(best[seen]).tolist():
        own = values[seen & (best == k)].mean()
        if abs(own - mean) >= CLEAR * deviation:
            which = "higher" if own > mean else "lower"
            yield k, abs(own - mean) / deviation, f"{which} ({short(own)}, {short(mean)} in all)"


def _category_told(column: np.ndarray, best: np.ndarray, count: int) -> Any:
    seen = np.array([isinstance(value, str) for value in column])
    names, which = np.unique(column[seen].astype(str), return_inverse=True)
    overall = np.bincount(which, minlength=len(names)) / max(len(which), 1)
    for k in np.unique(best[seen]).tolist():
        own = np.bincount(which[best[seen] == k], minlength=len(names)) / (best[seen] == k).sum()
        j = int((own - overall).argmax())
        if own[j] >= (1 + CLEAR) * overall[j]:
            said = f"{names[j]} ({100 * own[j]:.0f} %, {100 * overall[j]:.0f} % in all)"
            yield k, 2 * (own[j] - overall[j]), said


def _of_words(data: Dataset, best: np.ndarray, count: int) -> list[str]:
    symbols = data.schema.levels or 1
    found = np.zeros((count, symbols))
    for row in range(len(data)):
        batch = data.batch([row])
        np.add.at(found[best[row]], batch.x[batch.observed].cpu().numpy(), 1)
    overall = found.sum(0) / max(found.sum(), 1)
    own = found / found.sum(1, keepdims=True).clip(min=1)
    # by what each word adds to the divergence of the cluster from all: frequent and over-represented
    gain = np.where(found > 0, own * np.log(np.maximum(own, 1e-300) / np.maximum(overall, 1e-300)), 0.0)
    vocabulary = data.schema.vocabulary or tuple(map(str, range(symbols)))
    order = np.argsort(-gain, 1, kind="stable")[:, :WORDS]
    return [" ".join(vocabulary[v] for v in order[k] if gain[k, v] > 0) for k in range(count)]


def shown(shares: Tensor, data: Dataset, rows: list[int]) -> list[str]:
    """The uncertain data in lines: how many, and the least certain with their two likeliest clusters."""
    order = uncertain(shares, data)
    if not len(order) or shares.shape[1] < 2:
        return []
    lines = [f"{len(order):,} of {len(shares):,} lie between clusters (no p(k | x) above {SURE:g}); the least certain:"]
    for i in order[:5].tolist():
        best = torch.topk(shares[i], 2)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        lines.append(f"  row {rows[i]}: " + ", ".join(f"cluster {k} {p:.2f}" for k, p in pairs))
    return lines
