"""From sentences to the logical forms that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from latentia.data import data_for
from latentia.data.cells import label
from latentia.distributions.forms import Form, read_form
from latentia.distributions.logical_forms import LogicalForms
from latentia.errors import CapabilityError, OptionError
from latentia.model import LatentVariableModel
from latentia.tasks.common import using


class Meaning(NamedTuple):
    """A form, and its log q(z | x) in nats."""

    form: Form
    log_prob: float


@runtime_checkable
class Means(Protocol):
    """What makes a model one whose z is a logical form."""

    def form(self, z: Tensor) -> Form:
        """What a form z (A, K) says."""
        ...


def meanings(
    model: LatentVariableModel, data: Any, *, width: int = 5, batch_size: int = 64, seed: int = 0
) -> list[list[Meaning]]:
    """Of each sentence the most probable forms that a beam search of this width finds, best first. What is known of its
    form is not looked at.

    Raises:
        CapabilityError: z is no logical form.
        DataError: data that the model cannot have.
        OptionError: a width below 1.
    """
    if width < 1:
        raise OptionError(f"width={width}: keep at least one form")
    if not isinstance(model, Means):
        name = type(model).__name__
        raise CapabilityError(f"{name} has no logical forms: write {name}.form(z), and a posterior over LogicalForms")
    data = data_for(model, data, seed)
    found: list[Any] = [None] * len(data)
    with using(model, seed):
        for index, batch in data.by_length(batch_size):
            q = model.posterior(batch._replace(known=None).to(model.anchor))
            assert isinstance(q, LogicalForms)  # as a model that has forms says
            z, log_prob = (part.cpu() for part in q.beam(width))
            for b, n in enumerate(index.tolist()):
                there = (log_prob[:, b] > -torch.inf).nonzero().squeeze(-1).tolist()
                found[n] = [Meaning(model.form(z[s, b]), float(log_prob[s, b])) for s in there]
    return found


def matched(found: Sequence[Sequence[Meaning]], data: Any) -> list[bool]:
    """Of the sentences whose form is known, whether the best one is it, word for word."""
    named = [label(value) for value in data.labels]
    return [best[0].form == read_form(text) for best, text in zip(found, named, strict=True) if text]
