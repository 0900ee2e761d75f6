"""Gradient ascent on tensors that every datum has of its own, the model held still: what refines q, and fits mean
fields.

    lambda_0 = start,    lambda_{k+1} = step(lambda_k, d bound(lambda_k) / d lambda_k, k)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Point = dict[str, Tensor]
"""Tensors by their names, (B, ...) each; slopes have the same names and shapes."""

Step = Callable[[Point, Point, int], Point]
"""From where one stands and the slopes there to the next point; steps are counted from 0."""

DECAY = (0.9, 0.999)
TINY = 1e-8


def ascend(start: Point, slopes: Callable[[Point], Point], step: Step, steps: int) -> Point:
    """The point after so many steps along the slopes."""
    point = start
    for number in range(steps):
        point = step(point, slopes(point), number)
    return point


def freed(point: Point) -> Point:
    """The same values, in the same memory, as leaves to differentiate by."""
    return {name: part.detach().requires_grad_() for name, part in point.items()}


def slopes_at(point: Point, value: Tensor, create_graph: bool = False) -> Point:
    """d value / d point, of a scalar; with its own graph where it is to be differentiated in turn."""
    found = torch.autograd.grad(value, list(point.values()), create_graph=create_graph)
    return dict(zip(point, found, strict=True))


def half_cosine(lr: float, number: int, steps: int) -> float:
    """The rate of one of so many steps, which falls from lr to 0."""
    return lr * (1 + math.cos(math.pi * number / steps)) / 2


class Adam:
    """A `Step`: Adam (Kingma and Ba 2015), whose rate falls to 0 as a half cosine.

    Args:
        lr: the first step's size; steps: how many there will be.
        pace: what each part's moves are multiplied with, broadcast to its shape; 1 for a part that is not named.
    """

    def __init__(self, lr: float, steps: int, pace: dict[str, Tensor | float]):
        self.lr, self.steps, self.pace = lr, steps, pace
        self.first: Point = {}
        self.second: Point = {}

    def __call__(self, point: Point, slopes: Point, number: int) -> Point:
        rate = half_cosine(self.lr, number, self.steps)
        return {name: part + self._move(name, slopes[name], rate, number) for name, part in point.items()}

    def _move(self, name: str, slope: Tensor, rate: float, number: int) -> Tensor:
        first = self.first.setdefault(name, torch.zeros_like(slope)).lerp_(slope, 1 - DECAY[0])
        second = self.second.setdefault(name, torch.zeros_like(slope)).lerp_(slope**2, 1 - DECAY[1])
        scale = (second / (1 - DECAY[1] ** (number + 1))).sqrt() + TINY
        return self.pace.get(name, 1.0) * rate / (1 - DECAY[0] ** (number + 1)) * first / scale


def adam_of_torch(parts: Point, lr: float, steps: int) -> Step:
    """A `Step` that moves `parts`, leaves, in place: torch's own Adam, whose rate falls to 0 as a half cosine."""
    optimizer = torch.optim.Adam(list(parts.values()), lr)

    def step(point: Point, slopes: Point, number: int) -> Point:
        optimizer.param_groups[0]["lr"] = half_cosine(lr, number, steps)
        for name, part in point.items():
            part.grad = -slopes[name]
        optimizer.step()
        return point

    return step


def clipped(lr: float, clip: float) -> Step:
    """A `Step` of plain ascent, lr times the slope of each datum, shortened to the norm `clip` over all parts."""

    def step(point: Point, slopes: Point, number: int) -> Point:
        squares: Any = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes.values()])
        factor = lr * (clip / squares.sum(0).clamp(min=1e-12).sqrt()).clamp(max=1.0)
        shaped = {name: factor.reshape(-1, *(1,) * (slope.ndim - 1)) for name, slope in slopes.items()}
        return {name: part + slopes[name] * shaped[name] for name, part in point.items()}

    return step
