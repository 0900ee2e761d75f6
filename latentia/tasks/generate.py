"""Draw new data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical

from latentia.batch import Batch, Frame
from latentia.data import context_for
from latentia.distributions.joint import Joint
from latentia.distributions.latents import Latents, each
from latentia.distributions.observed import expected
from latentia.distributions.onehot import restricted
from latentia.errors import CapabilityError, OptionError
from latentia.model import DirectedModel, LatentVariableModel
from latentia.tasks.common import directed, using


def generate(
    model: LatentVariableModel,
    n: int,
    *,
    lengths: Tensor | int | None = None,
    context: Any = None,
    known: Tensor | None = None,
    seed: int = 0,
    mean: bool = False,
) -> tuple[Batch, Latents]:
    """n draws z ~ p(z | context), x ~ p(x | z, context): x as a batch, in the model's coordinates, and z (n, *latent).

    Args:
        lengths: (n,), or one for all: how many steps each datum shall have, where the model does not generate that
            itself; without it, sequences have the model's own `length`.
        context: what the model conditions on: n data, or one for all of them; a `Batch`, or anything that `as_dataset`
            takes, read as the context that the model was fitted with.
        known: (n, K) or (1, K), for a model whose first latent is a class: rows that mark the classes that each draw
            may have. All else is drawn given it.
        mean: E[x | z] in the place of x, as pictures are usually shown.

    Raises:
        CapabilityError: the model has no `generate`, or with `mean` no `likelihood`, or with `known` no class.
        OptionError: n below 1, or classes that are not those of the model.
    """
    if n < 1:
        raise OptionError(f"n={n}: generate at least one")
    if context is not None and not isinstance(context, Batch):
        context = context_for(model, context)
    with using(model, seed):
        frame = framed(model, n, lengths, context)
        if known is None:
            batch, z = model.generate(frame)
        else:
            one = directed(model, "be given a class")
            batch, z = one.generate_from(prior_given(one, frame, known), frame)
        if mean:
            of = each(lambda part: part.unsqueeze(0), z)
            x = expected(directed(model, "show means").likelihood(of, frame)).squeeze(0)
            batch = Batch.of(x, lengths=batch.lengths, context=batch.context)
    return batch, z


def prior_given(model: DirectedModel, frame: Frame, known: Tensor | None) -> Distribution:
    """p(z | the class is one of those marked), rows of `known` as in `generate`; p(z) where it is None.

    Raises:
        CapabilityError: the first latent is no class.
        OptionError: rows that are not of the model's classes, or not one for each datum or for all.
    """
    prior = model.prior(frame)
    if known is None:
        return prior
    first = prior.first if isinstance(prior, Joint) else prior
    if not isinstance(first, OneHotCategorical):
        raise CapabilityError(f"{type(model).__name__} has no class that a draw could be given: its first z is none")
    if known.ndim != 2 or known.shape[1] != first.event_shape[0] or len(known) not in (1, frame.size):
        raise OptionError(f"known of shape {tuple(known.shape)}: (n, {first.event_shape[0]}), or one row for all")
    chosen = restricted(first, known.to(model.anchor).expand(frame.size, -1))
    if not isinstance(prior, Joint):
        return chosen
    return Joint({**prior.parts, next(iter(prior.parts)): chosen}, prior.summed)


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
