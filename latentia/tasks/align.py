"""Where in its context each symbol comes from."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from latentia.data import data_for
from latentia.errors import CapabilityError, DataError
from latentia.model import Batch, LatentVariableModel
from latentia.tasks.common import using

BATCH = 64


@runtime_checkable
class Aligns(Protocol):
    """What makes a model one that aligns."""

    def alignments(self, batch: Batch) -> Tensor:
        """p(z_t = j | x, context), (B, T, J + 1): the places of the context behind column 0, which is nowhere."""
        ...


def align(model: LatentVariableModel, data: Any, *, seed: int = 0) -> list[Tensor]:
    """Of each datum p(z_t = j | x, context), (T, J + 1), as long as x and its context are; column 0 is nowhere.

    Args:
        data: anything that `as_dataset` takes, with a context.

    Raises:
        CapabilityError: z of this model is no place of the context. (Of `CTC` it is a symbol of each frame: see
            `decode_path`.)
        DataError: data without a context, or that the model cannot have.
    """
    name = type(model).__name__
    if not isinstance(model, Aligns):
        raise CapabilityError(f"{name} aligns nothing: write {name}.alignments(batch), p(z_t = j | x, context)")
    data = data_for(model, data, seed)
    if data.context is None:
        raise DataError(f"{data.schema.source} has no context to align to: name it with context=")
    found: list[Any] = [None] * len(data)
    with using(model, seed):
        for index, batch in data.by_length(BATCH):
            batch = batch.to(model.anchor)
            ends = zip(index.tolist(), batch.ends.tolist(), batch.frame.given().ends.tolist(), strict=True)
            for row, (i, steps, places) in zip(model.alignments(batch), ends, strict=True):
                found[i] = row[:steps, : places + 1].cpu()
    return found


def pharaoh(alignment: Tensor) -> str:
    """The best place of each symbol as `j-t` from 0, the context's place first; symbols from nowhere are left out.

    The form of Koehn's Pharaoh, which tools for word alignments read.
    """
    best = alignment.argmax(-1).tolist()
    return " ".join(f"{j - 1}-{t}" for t, j in enumerate(best) if j)
