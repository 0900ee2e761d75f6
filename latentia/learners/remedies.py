"""Remedies for a posterior that collapses while it is learned: what `Gradient` does beside climbing its objective.

A remedy has to know which parameters guess z and which ones generate. No model says so: it is read off the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from latentia.errors import CapabilityError
from latentia.model import Batch, LatentVariableModel

EVERY = 15
"""Steps of the inference network between two looks at whether they still help (He et al. 2019, their code)."""

MOST = 100
"""Steps of the inference network for one of the generative model, at most (He et al. 2019, their code)."""


def inference_parameters(model: LatentVariableModel, batch: Batch) -> dict[str, nn.Parameter]:
    """The inference network, by name: the parameters that q(z | x) depends on and log p(x, z), z held fixed, does not.

    What both share is the generative model's.

    Raises:
        CapabilityError: there are none, as in a model whose posterior follows from its joint.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.enable_grad(), torch.random.fork_rng():
        q = model.posterior(batch)
        z: Any = q.sample((1,))
        guessed = _reached(q.log_prob(z), named)
        inference = guessed - _reached(model.log_joint(batch, z), named)
    if not inference:
        raise CapabilityError(
            f"{type(model).__name__} has no inference network, a part that its posterior depends on and its joint does "
            "not: leave out aggressive and pretrain"
        )
    return {name: parameter for name, parameter in named.items() if name in inference}


def _reached(value: torch.Tensor, named: dict[str, nn.Parameter]) -> set[str]:
    """The parameters that `value` depends on, be its slope there zero or not."""
    if not value.requires_grad:
        return set()
    slopes = torch.autograd.grad(value.sum(), list(named.values()), allow_unused=True)
    return {name for name, slope in zip(named, slopes, strict=True) if slope is not None}


def catch_up(ascend: Callable[[], float]) -> int:
    """Take steps of the inference network until they stop helping, and say how many.

    He et al. (2019), "Lagging inference networks and posterior collapse in variational autoencoders", algorithm 1: the
    inner loop. As in their code it is over when the mean bound of the last `EVERY` steps is below that of those before,
    and after `MOST` steps.

    Args:
        ascend: one step on a random minibatch, which returns the bound there, nats per datum.
    """
    before, total = -float("inf"), 0.0
    for step in range(1, MOST + 1):
        total += ascend()
        if step % EVERY == 0:
            if total < before:
                return step
            before, total = total, 0.0
    return MOST
