"""Adam (Kingma and Ba 2015, algorithm 1), by torch's fused step without what its `Optimizer` does around it.

For a small model that is a twentieth of a training step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETAS = (0.9, 0.999)


class Adam:
    """Running means of gradients and of their squares, and steps along them.

    Args:
        parameters: those to move; one without a gradient stays where it is.
        eps: added to the root of the mean square.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], eps: float):
        self.parameters, self.eps = list(parameters), eps
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.counts = [torch.zeros((), device=p.device) for p in self.parameters]

    def forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Go down the gradients, at this learning rate."""
        moving = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]

        def chosen(values: Sequence[Tensor | None]) -> list[Tensor]:
            return [value for i in moving if (value := values[i]) is not None]

        adam(
            chosen(self.parameters), chosen([p.grad for p in self.parameters]), chosen(self.first), chosen(self.second),
            [], chosen(self.counts), fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=rate,
            weight_decay=0.0, eps=self.eps, maximize=False,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by the number of the parameter and the name of the part."""
        parts = {"exp_avg": self.first, "exp_avg_sq": self.second, "step": self.counts}
        return {f"{i}.{name}": values[i] for name, values in parts.items() for i in range(len(self.parameters))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        for name, value in self.tensors().items():
            value.copy_(tensors[name])
