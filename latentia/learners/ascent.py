"""One step uphill: an objective and its gradient, and what Adam makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentia.data import Dataset
from latentia.errors import NonFiniteError
from latentia.learners.adam import Adam
from latentia.learners.trouble import first_bad, first_nonfinite, unscaled
from latentia.model import Batch, LatentVariableModel
from latentia.objectives import Bound, Objective

EVERY = 16
"""Steps between two looks at the gradient's norm, which takes a twentieth of a small model's step."""


class Climber:
    """Takes steps: the parameters of a model, and Adam's memory of them.

    Args:
        data: that are learned from, of which an error speaks.
        full: the weight of a full minibatch of average data.
        clip, compile, eps: as `Gradient` has them.
        beside: what the objective learns of its own, as the baseline of an estimator.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        data: Dataset,
        full: float,
        *,
        clip: float | None,
        compile: bool,
        eps: float,
        beside: nn.Module | None = None,
    ):
        self.model, self.data, self.full = model, data, full
        self.clip, self.compile, self.eps = clip, compile, eps
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        if beside is not None:
            self.names |= {parameter: f"the objective's {name}" for name, parameter in beside.named_parameters()}
        self.parameters = list(self.names)
        self.forget()

    def forget(self) -> None:
        """Adam remembers nothing from here on."""
        self.optimizer = Adam(self.parameters, self.eps)

    def step(
        self, objective: Objective, batch: Batch, chosen: list[nn.Parameter], rate: float, epoch: int, step: int
    ) -> tuple[Ascent, float | None]:
        """One ascent of the chosen parameters: what it went by, and of some steps the gradient's norm."""
        ascent = self._ascent(objective, batch, chosen)
        # to look at a number makes the host wait for a GPU, so there it is done now and then
        looking, clip = step % EVERY == 0, self.clip
        asking = looking or not ascent.mean.is_cuda
        if asking and not math.isfinite(ascent.mean.item()):
            raise NonFiniteError(
                f"{first_nonfinite(self.model, batch, ascent.bound)} at epoch {epoch + 1}, step {step + 1}"
                + unscaled(self.data)
            )
        slopes, norm = ascent.slopes, None
        if looking or clip is not None:
            norm = nn.utils.get_total_norm([slope for slope in slopes if slope is not None])
            if asking and not math.isfinite(norm.item()):
                where = f"is not finite at epoch {epoch + 1}, step {step + 1}"
                raise NonFiniteError(
                    f"{first_bad(self.names, chosen, slopes)} {where}: lower lr, or set clip{unscaled(self.data)}"
                )
        if norm is not None and clip is not None:
            slopes = _times(slopes, (clip / (norm + 1e-6)).clamp(max=1.0))
        if len(chosen) < len(self.parameters):
            found = dict(zip(chosen, slopes, strict=True))
            slopes = [found.get(parameter) for parameter in self.parameters]
        self.optimizer.step(slopes, rate)
        return ascent, norm.item() if norm is not None and looking else None

    def _ascent(self, objective: Objective, batch: Batch, chosen: list[nn.Parameter]) -> Ascent:
        if not self.compile:
            return climbed(objective, self.model, batch, chosen, self.full)
        options = objective.keywords if isinstance(objective, partial) else {}
        # a number that changes from step to step would be compiled anew each time, a tensor is not
        like = {"dtype": self.model.anchor.dtype, "device": batch.x.device}
        changing = {name: torch.as_tensor(options[name], **like) for name in ("beta",) if name in options}
        function = objective.func if isinstance(objective, partial) else objective
        return self.compiled(function, self.model, batch, chosen, self.full, **(options | changing))

    @cached_property
    def compiled(self) -> Callable[..., Ascent]:
        # on a GPU as CUDA graphs: small models spend their time in launching kernels
        how: dict[str, Any] = {"options": {"cpp_wrapper": True}}
        if self.model.anchor.is_cuda:
            how = {"mode": "reduce-overhead"}
        # what another fit compiled may have been of another precision, and torch keeps but a few
        torch.compiler.reset()
        # for each size of batch, of which there are two: not all convolutions compile for sizes that are left open
        return torch.compile(climbed, dynamic=False, **how)


class Ascent(NamedTuple):
    """What a step goes by.

    Attributes:
        mean: of the bound, (), nats a datum: its weighted sum over the batch by the weight of a full batch.
        bound: of each datum, without a gradient.
        slopes: of minus the mean, by each parameter; None for one that it does not depend on.
    """

    mean: Tensor
    bound: Bound
    slopes: Sequence[Tensor | None]


def climbed(
    objective: Callable[..., Bound],
    model: LatentVariableModel,
    batch: Batch,
    parameters: Sequence[nn.Parameter],
    full: float | None = None,
    **options: Any,
) -> Ascent:
    """The objective and its gradient: all of a step that is worth compiling, as one function. `full` is the weight of
    a full batch of average data, None that of this one."""
    bound = objective(model, batch, **options)
    value = bound.value if batch.weight is None else bound.value * batch.weight
    mean = weighted_mean(bound.value, batch.weight) if full is None else value.sum() / full
    slopes = torch.autograd.grad(mean, parameters, torch.full_like(mean, -1.0), allow_unused=True)
    parts = [None if part is None else part.detach() for part in bound]
    return Ascent(mean.detach(), Bound(*parts), slopes)  # type: ignore[arg-type]


class Tally:
    """Weighted means of a bound and its parts over the steps so far. They are added up several steps at a time: for a
    small model the sums of every step would take a fiftieth of it."""

    def __init__(self):
        self.sums: Tensor | float = 0.0
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, bound: Bound, batch: Batch) -> None:
        absent = torch.full_like(bound.value, math.nan) if bound.kl is None or bound.reconstruction is None else None
        # a copy: a graph on a GPU writes its next bound over this one
        columns = torch.stack([absent if part is None else part for part in bound])  # type: ignore[misc]
        self.waiting.append((columns, batch.weights))

    def means(self) -> list[float]:
        """Of the value, the reconstruction and the KL; NaN for one that is not there."""
        if self.waiting:
            columns, weights = (torch.cat(parts, -1).double() for parts in zip(*self.waiting, strict=True))
            self.sums = self.sums + torch.cat([columns * weights, weights.unsqueeze(0)]).sum(-1)
            self.waiting = []
        *sums, mass = self.sums.tolist()  # type: ignore[union-attr]
        return [sum / max(mass, 1e-300) for sum in sums]


def _times(slopes: Sequence[Tensor | None], factor: Tensor) -> list[Tensor | None]:
    """Not in place: parameters that are added to each other have one gradient."""
    products: tuple[Tensor, ...] = torch._foreach_mul([slope for slope in slopes if slope is not None], factor)  # type: ignore[reportPrivateImportUsage]
    rest = iter(products)
    return [None if slope is None else next(rest) for slope in slopes]


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    # a batch of absent data has no mean, and should not stop a fit
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
