"""What a model whose z is a logical form makes of sentences."""

from __future__ import annotations

import math

from latentia.data import Dataset
from latentia.data.cells import label
from latentia.model import LatentVariableModel
from latentia.report import figures
from latentia.report.panel import Panel, table
from latentia.tasks.meanings import Means, meanings

SHOWN, LONGEST = 8, 300


def meant(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    """A table of sentences and what z says of them; of a model without logical forms none."""
    if not isinstance(model, Means):
        return []
    some = data.subset(figures.thinned(len(data), SHOWN).tolist())
    labels = ["" if some.labels is None else label(some.labels[i]) for i in range(len(some))]
    rows = []
    for words, (best, *_), known in zip(some.decoded(), meanings(model, some, seed=seed), labels, strict=True):
        form = str(best.form)
        truth = "" if not known else "yes" if form == known else f"no: {known[:LONGEST]}"
        share = f"{math.exp(best.log_prob):.2f}"
        rows.append([" ".join(map(str, words))[:LONGEST], form[:LONGEST], truth, share])
    head = ["sentence", "the most probable form", "as it is known?", "q(z | x)"]
    caption = "Held-out sentences, and the form that the parser finds for each without being told any."
    return [table(head, rows, caption, "What sentences mean", 3)]
