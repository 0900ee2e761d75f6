"""Numbers and docstrings as a reader wants them."""

from __future__ import annotations

import inspect
import math
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

from latentia.model import LatentVariableModel

DASH = "–"
SAME = 0.001
"""Nats per datum within which two restarts count as having found the same maximum."""
ENDS = {
    "converged": "converged",
    "steps": "stopped by steps, before it had converged: fit again with a larger --learner.steps",
    "epochs": "stopped by epochs: where the bound was still rising, fit again with a larger --learner.epochs",
    "sweeps": "all sweeps done",
    "patience": "stopped by patience: validation no longer improved, and the best epoch is kept",
}


def number(value, digits: int = 4) -> str:
    """A value as it is printed: a dash for what is not there, words for what is no number."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return _real(value, digits)
    if isinstance(value, dict):
        return ", ".join(f"{key} {number(part, digits)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(number(part, digits) for part in value)
    return str(value)


def _real(value: float, digits: int) -> str:
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    size = abs(value)
    text = f"{value:.{digits}g}" if size < 1e-3 or size >= 1e7 else f"{value:,.{_decimals(size, digits)}f}"
    return text.replace("-", "−")


def _decimals(size: float, digits: int) -> int:
    return max(0, min(digits, digits - 1 - math.floor(math.log10(size)))) if size else 0


def finite(value) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def with_error(value, error, digits: int = 2) -> str:
    """value ± error, as many decimals as the error has meaning: two digits of it."""
    if not finite(value) or not finite(error) or error <= 0:
        return number(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share between 0 and 1."""
    return f"{100 * share:.1f} %"


def end(stopped: str) -> str:
    """Why a fit ended, and what to do where that was too early."""
    return ENDS.get(stopped, stopped)


def spread(restarts: Sequence[float]) -> str:
    """How far apart EM's restarts ended: what the best of them is worth."""
    best, median, worst = max(restarts), statistics.median(restarts), min(restarts)
    reached = sum(value >= best - SAME for value in restarts)
    alone = "; only one found it, so more restarts may find a better one" if reached == 1 else ""
    return (
        f"{len(restarts)} restarts ended at {_nats(best)} (best), {_nats(median)} (median) and {_nats(worst)} (worst) "
        f"nats per datum, {reached} of them within {SAME} of the best{alone}"
    )


def _nats(value: float) -> str:
    return f"{value:,.3f}".replace("-", "−")


class Block(NamedTuple):
    """A paragraph of a docstring, or where `formula` lines to be set as they stand."""

    text: str
    formula: bool


def story(model: LatentVariableModel) -> list[Block]:
    """The docstring of the model's module (of its class where that has none): prose, and indented formulas."""
    module = sys.modules.get(type(model).__module__)
    text = inspect.cleandoc((module and module.__doc__) or type(model).__doc__ or "")
    blocks: list[Block] = []
    for part in filter(str.strip, text.split("\n\n")):
        if not part.strip("\n").startswith("    "):
            blocks.append(Block(" ".join(part.split()), False))
        elif blocks and blocks[-1].formula:
            blocks[-1] = Block(f"{blocks[-1].text}\n\n{inspect.cleandoc(part)}", True)
        else:
            blocks.append(Block(inspect.cleandoc(part), True))
    return blocks
