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


def stages(progress: float) -> float:
    """10^(-i / 7) in stages i = 0, ..., 7, each three times as long as the one before: 3^i of 3,280 parts.

    Burda, Grosse and Salakhutdinov (2016), section 5, where a part is a pass over the data.
    """
    begun = [(3**i - 1) / 2 / 3280 for i in range(8)]
    # a stage begins with the step at its boundary, whichever way that rounds
    return 10.0 ** (-(sum(start <= progress + 1e-9 for start in begun) - 1) / 7)


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "exponential": exponential,
    "linear": linear,
    "stages": stages,
}


def learning_rate(schedule: str, peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """The rate of 0-based `step` of `steps`: a linear rise over `warmup` steps, then the schedule over the rest."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * SCHEDULES[schedule]((step - warmup) / max(steps - warmup, 1))


ANNEALINGS = ("none", "linear", "cyclical")


def kl_weight(anneal: str, progress: float, share: float = 0.1, cycles: int = 4) -> float:
    """The weight of the KL at this progress through the fit, from 0 up to 1.

    "linear" rises over the first `share` of the steps (Bowman et al. 2016, section 3.1). "cyclical" begins again
    `cycles` times, and each time rises over the first half of the cycle (Fu et al. 2019, section 3.2).
    """
    if anneal == "linear":
        return min(progress / share, 1.0)
    if anneal == "cyclical":
        return min(2 * (progress * cycles % 1.0), 1.0)
    return 1.0
