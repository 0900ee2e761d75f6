"""Adam (Kingma and Ba 2015, algorithm 1), by torch's fused step without what its `Optimizer` does around it.

For a small model that is a twentieth of a training step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)


class Adam:
    """Running means of gradients and of their squares, and steps along them.

    Args:
        parameters: those to move.
        eps: added to the root of the mean square.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], eps: float):
        self.parameters, self.eps = list(parameters), eps
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        # in one tensor, so that one operation counts for all
        self.counted = torch.zeros(len(self.parameters), device=self.parameters[0].device)
        self.counts = list(self.counted.unbind())

    @torch.no_grad()
    def step(self, slopes: Sequence[Tensor | None], rate: float) -> None:
        """Go down the gradients at this learning rate; a parameter whose gradient is None stays where it is."""
        pairs = zip(self.parameters, slopes, strict=True)
        down = {i: _laid_out(slope, p) for i, (p, slope) in enumerate(pairs) if slope is not None}
        if not down:
            return
        # to pick them by number takes longer
        self.counted[list(down) if len(down) < len(self.parameters) else ...] += 1

        def chosen(values: Sequence[Tensor]) -> list[Tensor]:
            return [values[i] for i in down]

        torch._fused_adam_(  # type: ignore[reportPrivateImportUsage]
            chosen(self.parameters), list(down.values()), chosen(self.first), chosen(self.second), [],
            chosen(self.counts), lr=rate, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=self.eps, amsgrad=False,
            maximize=False,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by the number of the parameter and the name of the part."""
        parts = {"exp_avg": self.first, "exp_avg_sq": self.second, "step": self.counts}
        return {f"{i}.{name}": values[i] for name, values in parts.items() for i in range(len(self.parameters))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        for name, value in self.tensors().items():
            value.copy_(tensors[name])


def _laid_out(slope: Tensor, parameter: Tensor) -> Tensor:
    """In memory as the parameter is: the fused step goes through both number by number."""
    return slope if slope.stride() == parameter.stride() else torch.empty_like(parameter).copy_(slope)
