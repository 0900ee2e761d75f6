"""Labels that are logical forms: the grammar that they are of, and their actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.data.cells import label
from latentia.data.raw import Raw
from latentia.distributions.forms import Form, read_form
from latentia.distributions.grammar import Grammar, induce

ROOM = 1.5
"""How much longer a form may be than the longest that is known."""


def forms_of(labels: Sequence[Any] | np.ndarray, places: Sequence[str]) -> list[tuple[int, Form]]:
    """The forms that are known, each with its number. Raises `DataError` for an ill-formed one, by its place."""
    named = [(i, label(value)) for i, value in enumerate(labels)]
    return [(i, read_form(text, places[i])) for i, text in named if text]


def grammar_of(raw: Raw, signature: str, words: Sequence[str]) -> tuple[str, int]:
    """The signature of the forms of the data, and how many actions a form may have.

    Args:
        signature: of their grammar; "": that which they imply, together with the words.

    Raises:
        DataError: a form is ill-formed, or outside of the grammar; or none is known, and there is no signature.
    """
    places = [f"{raw.source}, {raw.where((i,))}" for i in range(len(raw))]
    known = [] if raw.labels is None else forms_of(raw.labels, places)
    if not known and not signature:
        raise raw.error("not one sentence has a logical form: name the column of forms (--labels), or their grammar")
    grammar = Grammar(signature) if signature else induce((form for _, form in known), words)
    most = max([len(grammar.encode(form, places[i])) for i, form in known], default=0)
    return grammar.text, math.ceil(ROOM * max(most, grammar.costs[grammar.root]))


def known(labels: Sequence[Any] | np.ndarray, schema: Any, rows: Tensor | None) -> Tensor:
    """Forms as one-hot actions, (N, A, K) of booleans, False where none is known.

    Raises:
        DataError: one is ill-formed, outside of the schema's grammar, or has too many actions.
    """
    numbers = range(1, len(labels) + 1) if rows is None else rows.tolist()
    places = [f"{schema.source}, row {number}" for number in numbers]
    grammar = Grammar(schema.grammar)
    z = torch.zeros(len(labels), schema.actions, len(grammar.actions), dtype=torch.bool)
    for i, form in forms_of(labels, places):
        actions = grammar.encode(form, places[i], schema.actions)
        z[i, torch.arange(len(actions)), actions] = True
    return z
