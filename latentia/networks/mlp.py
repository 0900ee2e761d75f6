"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
}


class MLP(nn.Sequential):
    """Linear maps with an activation between them (none after the last): (..., sizes[0]) to (..., sizes[-1])."""

    def __init__(self, sizes: Sequence[int], activation: str = "tanh"):
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim <= 2:
            return super().forward(input)
        # as one matrix all the way: compiled, an activation between two views keeps its mask in memory, slowly
        return super().forward(input.flatten(0, -2)).unflatten(0, input.shape[:-1])

    @property
    def output_bias(self) -> Tensor:
        return self[-1].bias  # type: ignore[return-value]


@torch.no_grad()
def glorot(module: nn.Module, generator: torch.Generator) -> None:
    """Glorot and Bengio's (2010) uniform weights and zero biases for every linear map and convolution inside."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            outputs, inputs = layer.weight.shape[:2]
            bound = (6 / ((inputs + outputs) * layer.weight[0, 0].numel())) ** 0.5
            layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()
