"""The words of what stands behind words: states, topics, preterminals."""

from __future__ import annotations

import numpy as np

from latentia.data import Dataset
from latentia.report.panel import Panel
from latentia.report.words import percent

WORDS, MOST_STATES = 12, 40


def words_of(counts: np.ndarray, order: np.ndarray, data: Dataset, noun: str = "state", letter: str = "") -> Panel:
    """The words of each of K groups that stand behind words, by how often each is expected to, (K, V). A group is
    called by the letter and its number."""
    names = data.schema.vocabulary or tuple(map(str, range(counts.shape[1])))
    share = counts.sum(1) / counts.sum()
    frequency = counts.sum(0) / counts.sum()
    states = []
    for k in order[:MOST_STATES]:
        if counts[k].sum() < 1e-6:
            continue
        given = counts[k] / counts[k].sum()
        lift = np.where(counts[k] >= 2, given / np.maximum(frequency, 1e-300), 0.0)
        states.append(
            {
                "noun": noun,
                "name": f"{letter}{k}",
                "share": percent(share[k]),
                "width": f"{100 * share[k] / share.max():.1f}",
                "common": [(names[v], percent(given[v])) for v in _top(given)],
                "telling": [(names[v], f"{lift[v]:.3g} times") for v in _top(lift)],
            }
        )
    caption = (
        f"For each {noun}, the commonest first: the share of all words that it accounts for; the words it most often "
        "stands behind; and the words it favours most, by how much likelier they are in it than anywhere (of words "
        "expected in it at least twice in the training data). All by the fitted model's own probabilities."
    )
    return Panel("states", states, caption, f"The words of each {noun}")


def _top(values: np.ndarray) -> np.ndarray:
    best = np.argsort(-values, kind="stable")[:WORDS]
    return best[values[best] > 0]
