"""What undoes the noise of a vector: a residual network that is told how much of it there is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentia.networks.mlp import glorot

WAVES = 16
"""Frequencies by which the network is told the log-SNR."""


class Denoiser(nn.Module):
    """z (N, D) and its log-SNR (N, 1) to v = alpha e - sigma u, (N, D), whose output layer begins at zero: for data of
    mean 0 and variance 1 that are normal nothing is left to learn.

    Args:
        latent: D; hidden: width; layers: residual blocks.
        given: C, numbers that it is told of a context.
        self_conditioned: it is shown an estimate of u made before: where there is none a first pass makes one, while
            learning in half of the calls (Chen, Zhang and Hinton 2023, "Analog bits", section 3, without their stop of
            the gradient, so that it is the gradient of the bound).
    """

    waves: Tensor

    def __init__(self, latent: int, hidden: int, layers: int, given: int = 0, self_conditioned: bool = False):
        super().__init__()
        self.self_conditioned = self_conditioned
        self.register_buffer("waves", torch.logspace(-1.5, 0.5, WAVES), persistent=False)
        self.enter = nn.Linear(latent * (2 if self_conditioned else 1) + given, hidden)
        self.level = nn.Linear(2 * WAVES + 1, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.wide = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.told = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.norm, self.leave = nn.LayerNorm(hidden), nn.Linear(hidden, latent)

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Glorot weights, and an output of zero."""
        glorot(self, generator)
        for layer in self.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.reset_parameters()
        self.leave.weight.zero_()

    def forward(self, z: Tensor, log_snr: Tensor, given: Tensor | None = None, before: Tensor | None = None) -> Tensor:
        if self.self_conditioned and before is None:
            before = torch.zeros_like(z)
            if not self.training or float(torch.rand(())) < 0.5:
                v = self._pass(z, log_snr, given, before)
                before = log_snr.sigmoid().sqrt() * z - (-log_snr).sigmoid().sqrt() * v
        return self._pass(z, log_snr, given, before)

    def _pass(self, z: Tensor, log_snr: Tensor, given: Tensor | None, before: Tensor | None) -> Tensor:
        parts = [
            z,
            *((before,) if self.self_conditioned and before is not None else ()),
            *(() if given is None else (given,)),
        ]
        angle = log_snr * self.waves.to(z) * math.pi
        level = nn.functional.silu(self.level(torch.cat([log_snr / 10, angle.sin(), angle.cos()], -1)))
        x = self.enter(torch.cat(parts, -1))
        for norm, wide, told, narrow in zip(self.norms, self.wide, self.told, self.narrow, strict=True):
            x = x + narrow(nn.functional.silu(wide(norm(x)) + told(level)))
        return self.leave(self.norm(x))
