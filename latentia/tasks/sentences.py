"""What a model of text is used for: sentences chosen in other ways than by drawing them, completed from their first
words, on the way from one to another; and the data that are nearest to a sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentia.batch import Batch, Frame
from latentia.data import batch_for
from latentia.distributions.decoding import Decoding
from latentia.distributions.latents import each, flat
from latentia.distributions.sentence import AutoregressiveCategorical
from latentia.errors import CapabilityError, OptionError
from latentia.model import DirectedModel, LatentVariableModel, TractableModel
from latentia.tasks.common import directed, repeated, using
from latentia.tasks.encode import encode
from latentia.tasks.generate import prior_given
from latentia.tasks.interpolate import line

PROPOSALS = 100
"""Draws of q(z | x) from which one of p(z | x) is chosen by its importance."""


def written(model: LatentVariableModel, n: int, how: Decoding, *, known: Tensor | None = None, seed: int = 0) -> Batch:
    """n sentences: z ~ p(z), and x of p(x | z) chosen as `how` says.

    Args:
        known: (n, K) or (1, K), for a model whose first latent is a class: rows that mark those that each may have.

    Raises:
        CapabilityError: the model does not write one symbol after another, or with `known` has no class.
        OptionError: n below 1, or classes that are not those of the model.
    """
    if n < 1:
        raise OptionError(f"n={n}: write at least one")
    one = directed(model, "write")
    with using(model, seed):
        frame = Frame(n)
        z: Any = prior_given(one, frame, known).sample((1,))  # type: ignore[arg-type]
        p = _writes(one, z, frame)
        x = p.decode(how)[0]
        return Batch.of(x, lengths=p.lengths(x))


def completed(
    model: LatentVariableModel, begun: Any, *, how: Decoding | None = None, draws: int = 1, seed: int = 0
) -> Batch:
    """Sentences that begin with what is given, `draws` of each: (draws * B) of them, all B first, then all again.

    z ~ p(z | the first words), exactly where the posterior is exact, else of a hundred draws of q(z | x) one by its
    importance p(x, z) / q(z | x) (sampling importance resampling, Rubin 1988); then the words after them as `how` says,
    drawn from the model where it is None.

    Args:
        begun: anything that `as_dataset` takes: the first symbols of each, without the one that ends a sentence. What
            is `known` of a batch's latents is kept to.

    Raises:
        CapabilityError: the model does not write one symbol after another.
    """
    one = directed(model, "complete")
    batch = batch_for(model, begun, seed)
    known = repeated(batch, draws)
    with using(model, seed):
        z = _given_the_first(one, known)
        p = _writes(one, z, Frame(known.size))
        steps = torch.arange(known.x.shape[1], device=known.x.device)
        first = torch.where(steps < known.ends.unsqueeze(-1), known.x, -1)
        x = p.decode(how or Decoding(), first)[0]
        return Batch.of(x, lengths=p.lengths(x))


def homotopy(
    model: LatentVariableModel, data: Any, *, steps: int = 8, how: Decoding | None = None, seed: int = 0
) -> Tensor:
    """Sentences on the way from one to another, (pairs, steps, T): of each point on the straight line between two
    posterior means the most probable text that a beam search finds, or as `how` says (Bowman et al. 2016, section 4.3).

    Args:
        data: anything that `as_dataset` takes, in pairs: 0 and 1, 2 and 3, ...

    Raises:
        CapabilityError: z is discrete, or the model does not write one symbol after another.
        OptionError: an odd number of data, or fewer than 2 steps.
    """
    one = directed(model, "interpolate")
    batch = batch_for(model, data, seed)
    z = line(one, batch, steps, seed)
    with using(model, seed):
        p = _writes(one, z, Frame(batch.size // 2))
        return p.decode(how or Decoding("beam")).transpose(0, 1)


class Neighbours(NamedTuple):
    """The nearest data to each sentence, nearest first.

    Attributes:
        numbers: (N, K), their places in the data, from 0; distance: (N, K), between the posterior means, each dimension
            by its standard deviation over the data.
    """

    numbers: Tensor
    distance: Tensor


def neighbours(model: LatentVariableModel, sentences: Any, data: Any, *, count: int = 5, seed: int = 0) -> Neighbours:
    """Which data are nearest to each sentence, by E[z | x].

    Args:
        sentences, data: anything that `as_dataset` takes.

    Raises:
        OptionError: count below 1, or above the number of data.
    """
    there, here = (flat(encode(model, part, seed=seed)).double() for part in (data, sentences))
    if not 1 <= count <= len(there):
        raise OptionError(f"count={count}: there are {len(there)} data")
    # a dimension that is the same for all says nothing
    scale = there.std(0).clamp(min=1e-6)
    found = torch.cdist(here / scale, there / scale).topk(count, largest=False)
    return Neighbours(found.indices, found.values)


def _writes(model: DirectedModel, z: Any, frame: Frame) -> AutoregressiveCategorical:
    p = model.likelihood(z, frame)
    if not isinstance(p, AutoregressiveCategorical):
        raise CapabilityError(
            f"{type(model).__name__} does not write one symbol after another: its likelihood has to be an "
            "AutoregressiveCategorical"
        )
    return p


def _given_the_first(model: DirectedModel, batch: Batch) -> Any:
    """A draw of p(z | x) for each datum, (1, B, *latent)."""
    q = model.posterior(batch)
    if isinstance(model, TractableModel):
        return q.sample((1,))  # type: ignore[arg-type]
    z: Any = q.sample((PROPOSALS,))  # type: ignore[arg-type]
    weight = model.log_joint(batch, z) - q.log_prob(z)
    chosen = torch.multinomial(weight.softmax(0).mT, 1).squeeze(1)
    rows = torch.arange(batch.size, device=chosen.device)
    return each(lambda part: part[chosen, rows].unsqueeze(0), z)
