"""What a model says of data, and data changed so that it should say the same, or not."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia import gradients
from latentia.batch import Batch
from latentia.distributions import Brackets
from latentia.distributions.discrete import ENUMERABLE, count, enumerable
from latentia.distributions.joint import Joint, at, draw
from latentia.distributions.latents import flat
from latentia.distributions.unnormalised import Unnormalised
from latentia.errors import CapabilityError
from latentia.model import LatentVariableModel
from latentia.testing.brute_force import nodes


def padded(z: Tensor, like: Tensor) -> Tensor:
    """z (S, B, *latent) with zeros where `like` (B, *latent) has more steps."""
    wide = z.new_zeros(*z.shape[:2], *like.shape[1:])
    wide[:, :, *(slice(size) for size in z.shape[2:])] = z
    return wide


def sampled_value(q: Distribution, f: gradients.Function, samples: int) -> Tensor:
    """(1/S) sum_s f(z_s): a value without a gradient."""
    return gradients.value(f, draw(q, samples, gradient=False)).mean(0)


def over_trees(q: Distribution, f: gradients.Function, samples: int = 0) -> Tensor:
    """sum_z q(z) f(z), exactly, over all binary trees."""
    z, log_weight = nodes(q)
    drawn = at(q, z)._replace(log_weight=log_weight)
    return drawn.mean(gradients.value(f, drawn))


def estimator_for(q: Distribution) -> gradients.Estimator:
    if isinstance(q, Brackets):
        return over_trees
    if q.has_rsample or (isinstance(q, Joint) and q.summed):
        return gradients.pathwise
    return gradients.enumerate if _enumerable(q) else sampled_value


def _enumerable(q: Distribution) -> bool:
    if isinstance(q, Joint):
        with torch.no_grad():
            return math.prod(count(part) for part in draw(q, 1).parts.values()) <= ENUMERABLE
    return enumerable(q)


def answers_of(model: LatentVariableModel, batch: Batch, z: Any) -> dict[str, Tensor]:
    """What a model says of each datum, (B, ...): log p(x, z) where it is known, the posterior's mean, log p(x) where
    it is exact."""
    posterior = model.posterior(batch)
    mean = posterior.mean if isinstance(posterior.mean, Tensor) else flat(posterior.mean)
    answers = {"posterior mean": mean}
    with contextlib.suppress(CapabilityError):  # of a bound there is an estimate, another one at every call
        answers["log-joint"] = model.log_joint(batch, z).T
    return answers | ({"log-partition": posterior.log_partition} if isinstance(posterior, Unnormalised) else {})


def masked_more(batch: Batch) -> Batch:
    """The same data with one more value of each other datum hidden."""
    mask = (torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask).clone().flatten(1)
    mask[::2, 0] = False
    return batch._replace(mask=mask.view_as(batch.x))


def garbage(batch: Batch) -> Tensor:
    """Values of the right kind that are nobody's data."""
    if batch.x.is_floating_point():
        return torch.full_like(batch.x, 1000.0)
    return batch.x.flip(0).roll(1, 0)


def with_value(batch: Batch, j: int, value: Tensor) -> Batch:
    """The data with `value` in the j-th coordinate."""
    x = batch.x.flatten(1).clone()
    x[:, j] = value.to(x)
    return batch._replace(x=x.view_as(batch.x))
