"""The chain on any device: scaled forward-backward in float64 by torch's matrix products, a step at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentia.kernels.chain_cpu import ALLOWED, LEAST

SMALLEST_LOG = -700.0


class ScaledChain(torch.autograd.Function):
    """log Z and the margin of `chain_cpu.forward`, (B,), which means the same here."""

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, node: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch, steps, _ = node.shape
        valid = torch.arange(steps, device=node.device).unsqueeze(-1) < lengths.expand(batch)
        peak = torch.where(valid, node.amax(-1).double().T, 0.0)
        emit = _exp(node.transpose(0, 1) - peak.unsqueeze(-1))
        initial_peak, transition_peak = initial.double().amax(-1), transition.double().amax()
        move = _exp(transition - transition_peak)
        forward, scale = torch.empty_like(emit), torch.ones_like(peak)
        state = _exp(initial - initial_peak.unsqueeze(-1)).expand(batch, -1)
        left = margin = torch.ones_like(peak[0])
        for t in range(steps):
            joint = (state @ move if t > 0 else state) * emit[t]
            total = joint.sum(-1)
            share = joint / total.unsqueeze(-1)
            share = torch.where(share > LEAST, share, 0.0)
            left = torch.where(valid[t], (left * total.nan_to_num(0.0, 0.0) * ALLOWED).clamp(max=1.0), left)
            margin = torch.minimum(margin, left)
            state = torch.where(valid[t].unsqueeze(-1), share, state)
            forward[t], scale[t] = state, torch.where(valid[t] & (total > 0), total, 1.0)
        ctx.save_for_backward(forward, scale, emit, move, valid, initial)
        ctx.mark_non_differentiable(margin)
        peaks = torch.where(lengths > 0, initial_peak + (lengths - 1) * transition_peak, 0.0)
        return (scale.log() + peak).sum(0) + peaks, margin

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        forward, scale, emit, move, valid, initial = ctx.saved_tensors
        grad = grads[0].double()
        steps = len(forward)
        posterior, ahead = torch.empty_like(forward), torch.zeros_like(forward)
        beta = torch.ones_like(forward[0])
        for t in range(steps - 1, -1, -1):
            posterior[t] = forward[t] * beta
            if t > 0:
                inside = valid[t].unsqueeze(-1)
                # a state that has not been reached is left out: its beta might grow without bound
                reached = inside & (forward[t] > 0)
                ahead[t] = torch.where(reached, emit[t] * beta / scale[t].unsqueeze(-1), 0.0)
                beta = torch.where(inside, ahead[t] @ move.T, beta)
        posterior *= (valid * grad).unsqueeze(-1)
        grad_node = posterior.transpose(0, 1)
        before = (forward[:-1] * grad.unsqueeze(-1)).flatten(0, 1)
        grad_transition = (before.T @ ahead[1:].flatten(0, 1)) * move
        grad_initial = posterior[0] if initial.ndim > 1 else posterior[0].sum(0)
        if initial.ndim > 1 and initial.shape[0] == 1:
            grad_initial = grad_initial.sum(0, keepdim=True)
        dtype = initial.dtype
        return grad_initial.to(dtype), grad_transition.to(dtype), grad_node.to(dtype), None


def _exp(x: Tensor) -> Tensor:
    """exp in float64, exactly 0 far down, where the machine's own exp would take the slow path."""
    x = x.double()
    return torch.where(x > SMALLEST_LOG, x.clamp(min=SMALLEST_LOG).exp(), 0.0)
