"""Distributions and draws with gradients held still: what doubly reparameterised gradients are made of."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.latents import Latents, each, like, named


def fixed(q: Distribution) -> Distribution:
    """The same distribution with parameters that no gradient flows through: its log-density then only depends on z.

    What "sticking the landing" needs (Roeder, Wu and Duvenaud 2017, section 3).
    """
    if _opaque(q):
        return _Through(q)
    copied = copy.copy(q)
    for name, value in vars(q).items():  # one by one: of a new __dict__ torch.compile would not know
        setattr(copied, name, _detached(value))
    return copied


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Distribution):
        return fixed(value)
    return {name: _detached(part) for name, part in value.items()} if isinstance(value, dict) else value


def _opaque(value: Any) -> bool:
    """Whether a function or a network is in it, and with it parameters that cannot be taken hold of."""
    if isinstance(value, Distribution):
        return any(map(_opaque, vars(value).values()))
    if isinstance(value, dict):
        return any(map(_opaque, value.values()))
    return callable(value) and not isinstance(value, type)


class _Through(Distribution):
    """q, with a log-density that gradients pass through by way of z alone: log q(z) + (d log q / dz) (z - z).

    A later latent's distribution moves with the earlier ones, and that is a way through z.
    """

    def __init__(self, q: Distribution):
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)
        self.q = q

    def log_prob(self, value: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return self.q.log_prob(value)
        moving = named(value)
        leaves = {name: part.detach().requires_grad_() for name, part in moving.items()}
        log_prob = self.q.log_prob(like(value, leaves))  # type: ignore[arg-type]
        # the log-density of a draw depends on that draw alone, so the sum has every draw's own slope
        # retained, without which torch.compile takes what q shares with the objective for spent
        slopes = torch.autograd.grad(log_prob.sum(), list(leaves.values()), retain_graph=True)
        moves = [(z - z.detach()) * slope for z, slope in zip(moving.values(), slopes, strict=True)]
        return log_prob.detach() + torch.stack([move.reshape(*move.shape[:2], -1).sum(-1) for move in moves]).sum(0)


def scaled(z: Latents, factor: Tensor) -> Latents:
    """z itself, (S, B, *latent), but what flows back through it is multiplied by `factor` (S, B)."""
    return each(lambda part: _Scaled.apply(part, factor), z)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] * factor.reshape(*factor.shape, *(1,) * (grads[0].ndim - 2)), None
