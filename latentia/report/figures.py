"""Drawings in one restrained style, as SVG that stands in the page and takes its colours and its type from there.

Every function takes plain arrays and gives the SVG text. Ink and lines are drawn in marked colours that are replaced
by the page's own variables, so that a figure follows the page into the dark and onto paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

INK, FAINT, RULE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", RULE: "var(--rule)", PAPER: "var(--paper)"}
PALETTE = ("#3d6f94", "#c2703d", "#5b8c5a", "#a35d86", "#b09a3e", "#5f63a8", "#3f8f8b", "#a8504a", "#7a6a58", "#7d8794")
MAIN, SECOND, MUTED = PALETTE[0], PALETTE[1], "#a3adb5"
DARK, LIGHT = "#22262b", "#fdfcfa"
HEAT = LinearSegmentedColormap.from_list("heat", ["#f3f1ec", "#a9c1d1", MAIN, "#173a56"])
WIDTH = 8.2  # inches: the width of the text
MOST_POINTS = 900  # more are a thinned sample: each is a mark of its own in the file

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a column may be called $x$
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.edgecolor": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "axes.unicode_minus": True,
}


def draw(
    paint: Callable[..., None], columns: int = 1, rows: int = 1, height: float = 2.9, width: float = WIDTH
) -> Markup:
    """The SVG of a figure with rows x columns axes, which `paint` gets one by one and fills.

    Inches; the figure is as wide on the page as `width` is a part of `WIDTH`. It refers to nothing outside.
    """
    # the salt makes the names inside the same every time
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "latentia"}):
        figure = Figure(figsize=(width, height * rows), layout="constrained")
        axes = np.atleast_1d(np.asarray(figure.subplots(rows, columns))).ravel()
        paint(*axes)
        return _svg(figure, width / WIDTH)


def apart(svg: Markup, number: int, name: str) -> Markup:
    """The same figure with its names prefixed, so that no two figures of a page share one; a screen reader says
    `name`."""
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", str(svg))
    return Markup(text.replace('<svg role="img"', f'<svg role="img" aria-label="{escape(name)}"', 1))


def _svg(figure: Figure, share: float) -> Markup:
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    # the groups' names repeat from figure to figure, and nothing refers to them
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # matplotlib writes one
    inside = text[text.index(">") + 1 :]
    text = f'<svg role="img" {box[0]} style="max-width: {100 * share:.0f}%">{inside}'
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(text)


def colour(index: int) -> str:
    """The colour of cluster `index`."""
    return PALETTE[index % len(PALETTE)]


def thinned(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """At most `most` of `count` positions, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)) if count else np.zeros(0, dtype=int)


def quiet_grid(axes: Axes, axis: str = "y") -> None:
    """Faint rules behind the data."""
    axes.set_axisbelow(True)
    axes.grid(axis=axis, color=RULE, linewidth=0.5, alpha=0.6)  # type: ignore[arg-type]


def curve(axes: Axes, x: Sequence, y: Sequence, label: str, colour: str, **style) -> None:
    """One line over counted steps; what is not finite leaves a gap."""
    values = np.array([np.nan if v is None else float(v) for v in y])
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values).all():
        return
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # steps and epochs are counted
    marker = "o" if np.isfinite(values).sum() == 1 else None
    axes.plot(x, values, color=colour, label=label, marker=marker, markersize=3.5, **style)


def focus(axes: Axes, series: Sequence[Sequence]) -> None:
    """Cut off the first steep climb: from the lowest of the last nine tenths, or all where that hides nothing."""
    tails = [
        np.array([v for v in values[len(values) // 10 :] if v is not None and np.isfinite(v)]) for values in series
    ]
    tails = [tail for tail in tails if len(tail)]
    if not tails:
        return
    low, high = min(t.min() for t in tails), max(t.max() for t in tails)
    if high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))


def bars(axes: Axes, values: np.ndarray, colours: Sequence[str], names: Sequence[str]) -> None:
    """Vertical bars, with their names below where they are few."""
    axes.bar(np.arange(len(values)), values, color=list(colours), width=0.72)
    quiet_grid(axes)
    few = len(values) <= 40
    axes.set_xticks(np.arange(len(values)) if few else [], list(names) if few else [])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.7, max(len(values), 8) - 0.3)


def scatter(axes: Axes, points: np.ndarray, groups: np.ndarray | None, names: Sequence[str] = ()) -> None:
    """Points (N, 2), coloured by group (N,) of whole numbers; a legend where the groups have names."""
    index = thinned(len(points))
    points, groups = points[index], np.zeros(len(index), int) if groups is None else groups[index]
    for group in np.unique(groups):
        chosen = points[groups == group]
        label = names[group] if group < len(names) else None
        axes.plot(
            *chosen.T,
            "o",
            color=colour(group),
            markersize=4.2 if len(points) < 400 else 3.2,
            alpha=0.65,
            markeredgewidth=0,
            label=label,
        )
    if len(names):
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handletextpad=0.1, markerscale=1.6)


def ellipse(axes: Axes, mean: np.ndarray, covariance: np.ndarray, colour: str) -> None:
    """The lines one and two standard deviations around a mean, (2,), with its covariance, (2, 2)."""
    values, vectors = np.linalg.eigh(covariance)
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    for deviations, width in ((1, 1.4), (2, 0.8)):
        height, length = 2 * deviations * np.sqrt(values.clip(min=0))
        axes.add_patch(
            Ellipse((mean[0], mean[1]), length, height, angle=angle, fill=False, edgecolor=colour, linewidth=width)
        )
    axes.plot(*mean, "+", color=colour, markersize=7, markeredgewidth=1.5)


def squares(
    axes: Axes, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], vmax: float | None = None
) -> Any:
    """Probabilities as squares of one size, row by row from the top, the names of the columns above them."""
    mesh = axes.pcolormesh(matrix, cmap=HEAT, vmin=0, vmax=vmax, edgecolors=PAPER, linewidth=0.6)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def heat(axes: Axes, matrix: np.ndarray, names: Sequence[str]) -> None:
    """A square of probabilities, row by row, with a scale beside it."""
    names = names if len(matrix) <= 40 else []
    mesh = squares(axes, matrix, names, names)
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.035, pad=0.02, aspect=28)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0)


def numbers(axes: Axes, matrix: np.ndarray) -> None:
    """Each cell's probability in it, in an ink that is read on its colour in the dark too."""
    most = matrix.max(initial=0.0)
    for (row, column), value in np.ndenumerate(matrix):
        ink = DARK if value < 0.55 * most else LIGHT
        size = 8 if len(matrix) <= 8 else 6.5
        axes.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=size)


def histograms(axes: Axes, data: np.ndarray, samples: np.ndarray, name: str) -> None:
    """The share of data, filled, and of samples, a line, in common bins over the data's range."""
    data, samples = data[np.isfinite(data)], samples[np.isfinite(samples)]
    if not len(data):
        return
    whole = len(np.unique(data)) <= 12
    values = np.unique(data)
    middle = (values[1:] + values[:-1]) / 2
    span = (values[-1] - values[0]) or 1.0
    edges = np.concatenate([[values[0] - span / 20], middle, [values[-1] + span / 20]])
    edges = edges if whole else np.histogram_bin_edges(np.concatenate([data, _near(samples, data)]), 28)
    share = [np.histogram(part, edges)[0] / max(len(part), 1) for part in (data, samples)]
    axes.stairs(share[0], edges, fill=True, color=MAIN, alpha=0.35, label="data")
    axes.stairs(share[1], edges, color=SECOND, linewidth=1.5, label="samples")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(name)


def _near(samples: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Samples not so far out that they would squeeze the data into one bin."""
    margin = np.ptp(data)
    return samples[(samples > data.min() - margin) & (samples < data.max() + margin)]
