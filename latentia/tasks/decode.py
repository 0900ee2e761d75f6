"""What is said or written, told by the context: the string of a recording, the translation of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from latentia.data import context_for
from latentia.errors import CapabilityError, OptionError
from latentia.model import Batch, Frame, LatentVariableModel
from latentia.tasks.common import using


@runtime_checkable
class Decodes(Protocol):
    """What makes a model one that decodes."""

    def decode(self, frame: Frame, width: int) -> Batch:
        """Of each context the x that a search of this width finds most probable, z summed out where it can be."""
        ...


def decode(
    model: LatentVariableModel, context: Any, *, width: int = 5, batch_size: int = 32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """argmax_x p(x | context) as far as a beam search finds it: symbols (N, T), 0 beyond the ends, and how many, (N,).

    Args:
        context: a `Batch`, or anything that `as_dataset` takes, read as the context that the model was fitted with.
        width: strings that the search keeps at each step; 1 is greedy.

    Raises:
        CapabilityError: x of this model is no string that its context tells.
        OptionError: a width below 1.
    """
    if not isinstance(model, Decodes):
        name = type(model).__name__
        raise CapabilityError(f"{name} does not decode: write {name}.decode(frame, width), the best x of each context")
    if width < 1:
        raise OptionError(f"width={width}: keep at least one string")
    given = (context if isinstance(context, Batch) else context_for(model, context)).to(model.anchor)
    found = []
    with using(model, seed):
        for index in torch.arange(given.size).split(batch_size):
            part = given.select(index.to(given.x.device))
            found.append(model.decode(Frame(part.size, None, part), width))
    longest = max(batch.x.shape[1] for batch in found)
    return torch.cat([pad(batch.x, (0, longest - batch.x.shape[1])) for batch in found]), torch.cat(
        [batch.ends for batch in found]
    )


class ErrorRate(NamedTuple):
    """Symbols that would have to be put in, taken out or changed, as a share of those that there are: the label, word
    or symbol error rate, whatever a symbol is."""

    edits: int
    symbols: int

    @property
    def rate(self) -> float:
        return self.edits / max(self.symbols, 1)


def error_rate(said: Sequence[Sequence[Any]], heard: Sequence[Sequence[Any]]) -> ErrorRate:
    """How far the strings that were decoded, `heard`, are from the true ones, all together."""
    pairs = zip(said, heard, strict=True)
    return ErrorRate(sum(edit_distance(*pair) for pair in pairs), sum(map(len, said)))


def edit_distance(said: Sequence[Any], heard: Sequence[Any]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]
