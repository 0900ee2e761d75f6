"""How the model was learned: curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentia.report import figures
from latentia.report.panel import Panel
from latentia.report.words import end, finite, number, spread

Line = dict[str, Any]


def curves(history: Sequence[Line], unit: str, learned: Mapping[str, Any]) -> list[Panel]:
    """The panels for the lines of metrics.jsonl, of EM or of a gradient run, and how it ended."""
    if not history:
        return _ending(learned)
    if any("log_joint" in line for line in history):
        return [_sweeps(history, unit), *_ending(learned)]
    by_em = any("log_marginal" in line for line in history)
    panels = _restarts(history, unit, learned.get("restarts") or []) if by_em else _epochs(history, unit)
    return panels + _ending(learned)


def _ending(learned: Mapping[str, Any]) -> list[Panel]:
    """Why learning stopped, and how far apart the restarts ended."""
    stopped, restarts = learned.get("stopped"), [value for value in learned.get("restarts") or [] if finite(value)]
    said = [end(str(stopped))] if stopped else []
    said += [spread(restarts)] if len(restarts) > 1 else []
    return [Panel("note", "".join(f"{words[:1].upper()}{words[1:]}. " for words in said).strip())] if said else []


def _column(lines: Sequence[Line], name: str) -> list[float | None]:
    return [value if finite(value := line.get(name)) else None for line in lines]


def _restarts(history: Sequence[Line], unit: str, ended: Sequence[float]) -> list[Panel]:
    runs: dict[Any, list[Line]] = {}
    for line in history:
        runs.setdefault(line.get("restart") or 0, []).append(line)
    values = {run: _column(lines, "log_marginal") for run, lines in runs.items()}
    ends = {run: end for run in runs if (end := _last(values[run])) is not None}
    # the restart that was kept is the best by log p(x) + log-prior, where that is known
    known = all(run < len(ended) for run in ends)
    best = max(ends, key=lambda run: ended[run] if known else ends[run]) if ends else None

    def paint(axes) -> None:
        for run, lines in runs.items():
            chosen = run == best
            steps = [line.get("step", i) for i, line in enumerate(lines)]
            style = {"linewidth": 2.0, "zorder": 3} if chosen else {"linewidth": 1.0}
            colour = figures.MAIN if chosen else figures.MUTED
            figures.curve(axes, steps, values[run], f"restart {run}", colour, **style)
        figures.quiet_grid(axes)
        axes.set_xlabel("EM step")
        axes.set_ylabel("mean log p(x), nats")

    several = f" {len(runs)} starting points; the best one, kept, is blue." if len(runs) > 1 else ""
    last = f" It ended at {number(ends[best])}." if best is not None else ""
    caption = f"Mean log p(x) of the training data at each step of EM, in {unit}.{several}{last}"
    return [Panel("svg", figures.draw(paint), caption)]


def _sweeps(history: Sequence[Line], unit: str) -> Panel:
    values = _column(history, "log_joint")

    def paint(axes) -> None:
        figures.curve(axes, [line.get("step", i) for i, line in enumerate(history)], values, "", figures.MAIN)
        figures.focus(axes, [values])
        figures.quiet_grid(axes)
        axes.set_xlabel("sweep")
        axes.set_ylabel("mean log p(x, z), nats")

    caption = (
        f"Mean log p(x, z) of the training data and the z that Gibbs sampling has drawn, in {unit}: where it no longer "
        "rises the chain has settled. It is not log p(x). The first steep climb may be cut off."
    )
    return Panel("svg", figures.draw(paint), caption)


def _last(values: Sequence[float | None]) -> float | None:
    seen = [value for value in values if value is not None]
    return seen[-1] if seen else None


def _epochs(history: Sequence[Line], unit: str) -> list[Panel]:
    x = [line.get("epoch", i + 1) for i, line in enumerate(history)]
    bound, validation = _column(history, "bound"), _column(history, "validation_bound")
    reconstruction, kl = _column(history, "reconstruction"), _column(history, "kl")

    def paint_bound(axes) -> None:
        figures.curve(axes, x, bound, "training", figures.MAIN)
        figures.curve(axes, x, validation, "validation", figures.SECOND)
        figures.focus(axes, [bound, validation])
        _finish(axes, "bound, nats")

    def paint_parts(left, right) -> None:
        figures.curve(left, x, reconstruction, "reconstruction", figures.MAIN)
        figures.focus(left, [reconstruction])
        figures.curve(right, x, kl, "KL", figures.PALETTE[2])
        for axes, name in ((left, "reconstruction, nats"), (right, "KL, nats")):
            _finish(axes, name, legend=False)

    panels = []
    if _last(bound) is not None or _last(validation) is not None:
        pair = "training and validation data" if _last(validation) is not None else "training data"
        caption = f"The bound on log p(x) of {pair} after each epoch, in {unit}. The first steep climb may be cut off."
        panels.append(Panel("svg", figures.draw(paint_bound), caption))
    if _last(reconstruction) is not None or _last(kl) is not None:
        caption = (
            "The bound's two parts on the training data, in nats: how well x is rebuilt from z (left), and how much z "
            "says about x beyond the prior (right). A KL near 0 means that z is not used."
        )
        panels.append(Panel("svg", figures.draw(paint_parts, columns=2, height=2.5), caption))
    return panels


def _finish(axes, name: str, legend: bool = True) -> None:
    figures.quiet_grid(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    if legend and len(axes.lines) > 1:
        axes.legend(loc="lower right")
