"""Draw new data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentia.batch import Batch, Frame
from latentia.data import context_for
from latentia.distributions.latents import Latents, each
from latentia.distributions.observed import expected
from latentia.errors import OptionError
from latentia.model import LatentVariableModel
from latentia.tasks.common import directed, using


def generate(
    model: LatentVariableModel,
    n: int,
    *,
    lengths: Tensor | int | None = None,
    context: Any = None,
    seed: int = 0,
    mean: bool = False,
) -> tuple[Batch, Latents]:
    """n draws z ~ p(z | context), x ~ p(x | z, context): x as a batch, in the model's coordinates, and z (n, *latent).

    Args:
        lengths: (n,), or one for all: how many steps each datum shall have, where the model does not generate that
            itself; without it, sequences have the model's own `length`.
        context: what the model conditions on: n data, or one for all of them; a `Batch`, or anything that `as_dataset`
            takes, read as the context that the model was fitted with.
        mean: E[x | z] in the place of x, as pictures are usually shown.

    Raises:
        CapabilityError: the model has no `generate`, or with `mean` no `likelihood`.
        OptionError: n below 1.
    """
    if n < 1:
        raise OptionError(f"n={n}: generate at least one")
    if context is not None and not isinstance(context, Batch):
        context = context_for(model, context)
    with using(model, seed):
        frame = framed(model, n, lengths, context)
        batch, z = model.generate(frame)
        if mean:
            one = each(lambda part: part.unsqueeze(0), z)
            x = expected(directed(model, "show means").likelihood(one, frame)).squeeze(0)
            batch = Batch.of(x, lengths=batch.lengths, context=batch.context)
    return batch, z


def framed(model: LatentVariableModel, n: int, lengths: Tensor | int | None, context: Batch | None) -> Frame:
    """What n draws are given. Raises `OptionError` where lengths or context are not one for each or for all."""
    if lengths is not None:
        lengths = torch.as_tensor(lengths, device=model.anchor.device).reshape(-1)
        if len(lengths) not in (1, n) or bool((lengths < 1).any()):
            raise OptionError(f"lengths={lengths.tolist()}: give {n} whole numbers of at least 1, or one for all")
        lengths = lengths.expand(n)
    if context is not None:
        if context.size not in (1, n):
            raise OptionError(f"a context of {context.size} data for n={n}: give one for each draw, or one for all")
        context = context.to(model.anchor)
        context = context if context.size == n else context.select(torch.zeros(n, dtype=torch.long))
    return Frame(n, lengths, context)
