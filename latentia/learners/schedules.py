"""Learning-rate schedules: functions of the progress alone, so that a resumed fit needs no state of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def exponential(progress: float) -> float:
    """From 1 to 0.01, by the same factor at every step."""
    return 0.01**progress


def linear(progress: float) -> float:
    """From 1 to 0 in a straight line."""
    return 1 - progress


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "exponential": exponential,
    "linear": linear,
}


def learning_rate(schedule: str, peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """The rate of 0-based `step` of `steps`: a linear rise over `warmup` steps, then the schedule over the rest."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * SCHEDULES[schedule]((step - warmup) / max(steps - warmup, 1))
