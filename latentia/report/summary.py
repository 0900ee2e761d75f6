"""What a run has found, as tables: those of its model, and of topics whether their words belong together."""

from __future__ import annotations

from dataclasses import replace

from latentia.data import Dataset
from latentia.errors import DataError
from latentia.model import LatentVariableModel
from latentia.summary import Summary, topics_of
from latentia.tasks import coherence, document_completion

FEW = 10
"""Documents below which what they say of new ones is a guess."""


def summary_of(model: LatentVariableModel, train: Dataset | None, held_out: Dataset | None, seed: int = 0) -> Summary:
    """`model.summary()`; topics with the NPMI of their words in the training documents, and how well the halves of
    held-out documents foretell each other (document completion).

    Args:
        train, held_out: None where they are not there.
    """
    found = model.summary()
    topics = topics_of(model)
    if topics is None or train is None or train.schema.values != "symbols":
        return found
    npmi = coherence(topics, train)
    (table,) = found.tables
    rows = [[*row[:-1], f"{npmi.npmi[int(row[0])]:.2f}", row[-1]] for row in table.rows]
    said = (
        f"{table.caption} NPMI: how often the {npmi.words} commonest words stand in the same training documents, from "
        f"−1 (never) to 1 (always); {npmi.mean:.3f} on average."
    )
    table = table._replace(head=[*table.head[:-1], "NPMI", table.head[-1]], rows=rows, caption=said)
    return replace(found, tables=[table], remarks=[*_completed(model, held_out, seed), *found.remarks])


def _completed(model: LatentVariableModel, held_out: Dataset | None, seed: int) -> list[str]:
    """Document completion in a sentence, where there are documents to measure it on."""
    if held_out is None or not len(held_out):
        return []
    try:
        found = document_completion(model, held_out, seed=seed)
    except DataError:
        return []
    few = f" ({len(held_out)} documents are few)" if len(held_out) < FEW else ""
    return [
        f"Document completion: {found.log_prob:.3f} nats a word, perplexity {found.perplexity:,.0f}, of the second "
        f"halves of {len(held_out):,} held-out documents given the first{few}."
    ]
