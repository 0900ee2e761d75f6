"""Walk from one datum to another through the space of z."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latentia.batch import Batch
from latentia.data import batch_for
from latentia.distributions import OneHot
from latentia.distributions.diffusion import GaussianDiffusion
from latentia.distributions.latents import each
from latentia.distributions.logical_forms import LogicalForms
from latentia.distributions.observed import expected
from latentia.distributions.structured import Structured
from latentia.errors import CapabilityError, OptionError
from latentia.model import DirectedModel, LatentVariableModel
from latentia.tasks.common import directed, using


def interpolate(model: LatentVariableModel, data: Any, *, steps: int = 8, seed: int = 0) -> Tensor:
    """E[x | z] along the straight line between two posterior means, z_s = (1 - s) E[z | x_a] + s E[z | x_b].

    Where the prior is a diffusion, along the arc between the noises that its deterministic map makes of the two means,
    mapped back (Song, Meng and Ermon 2021, section 5.3): the points between are as probable as draws are.

    Args:
        data: anything that `as_dataset` takes, in pairs: 0 and 1, 2 and 3, ...
        steps: points on each line, both ends included.

    Returns:
        (pairs, steps, *event), in the model's coordinates.

    Raises:
        CapabilityError: z is discrete, or the model has no likelihood.
        DataError: data that the model cannot have.
        OptionError: an odd number of data, or fewer than 2 steps.
    """
    likelihood = directed(model, "interpolate").likelihood
    batch = batch_for(model, data, seed)
    z = line(model, batch, steps, seed)
    with using(model, seed):
        x = expected(likelihood(z, batch.select(slice(0, None, 2)).frame))
    return x.transpose(0, 1)


def line(model: LatentVariableModel, batch: Batch, steps: int, seed: int = 0) -> Any:
    """The points z between the posterior means of each pair of data, (steps, pairs, *latent). Raises as `interpolate`
    does."""
    if steps < 2:
        raise OptionError(f"steps={steps}: a line has two ends at least")
    if batch.size % 2:
        raise OptionError(f"{batch.size} data do not make pairs: give an even number of them")
    with using(model, seed):
        q = model.posterior(batch)
    if isinstance(q, LogicalForms):
        raise CapabilityError(f"{type(model).__name__} cannot interpolate: its z is a tree, no point on a line")
    if isinstance(q, Structured) or q.has_enumerate_support:
        what = "a path of discrete states" if isinstance(q, Structured) and not isinstance(q, OneHot) else KINDS
        raise CapabilityError(f"{type(model).__name__} cannot interpolate: its z is {what}, no point on a line")
    prior = model.prior(batch.frame) if isinstance(model, DirectedModel) else None
    if isinstance(prior, GaussianDiffusion):
        with using(model, seed):
            noise = prior.invert(q.mean.unsqueeze(0)).squeeze(0)
            between: Any = model.prior(batch.select(slice(0, None, 2)).frame)  # type: ignore[union-attr]
            return between.decode(_arc(noise, steps))
    return each(lambda mean: _line(mean, steps), q.mean)


KINDS = "one of K values"


def _arc(noise: Tensor, steps: int) -> Tensor:
    """The same along great circles, on which noise has the length that noise has (Shoemake 1985)."""
    one, other = noise[0::2], noise[1::2]
    cosine = nn.functional.cosine_similarity(one, other, dim=-1).clamp(-1, 1).unsqueeze(-1)
    angle = cosine.acos()
    share = torch.linspace(0, 1, steps, dtype=noise.dtype, device=noise.device).reshape(-1, 1, 1)
    arc = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin().clamp(min=1e-3)
    # on one line there is no circle through both
    return torch.where(angle.sin() < 1e-3, torch.lerp(one, other, share), arc)


def _line(mean: Tensor, steps: int) -> Tensor:
    """From every even datum to the odd one behind it: (steps, pairs, *latent)."""
    share = torch.linspace(0, 1, steps, dtype=mean.dtype, device=mean.device).reshape(-1, *(1,) * mean.ndim)
    return torch.lerp(mean[0::2], mean[1::2], share)
