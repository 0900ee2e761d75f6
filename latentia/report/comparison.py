"""The page of a sweep: many fits side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from latentia.report import figures
from latentia.report.page import templates
from latentia.report.panel import Panel, Section, table
from latentia.report.words import finite, number, with_error

Summary = dict[str, Any]
Member = dict[str, Any]

HEAD = ("log p(x)", "behind", "AIC", "BIC", "params", "seconds")
# key of a choice: what it is called beside the member that it has chosen
CHOSEN = {
    "log_marginal": "best log p(x)",
    "simplest": "simplest as good",
    "bic": "best BIC",
    "aic": "best AIC",
}
REPORT = "report.html"
MOST_TICKS = 12
WIDE = 50
"""The ratio of the largest to the least value from which on an option has a logarithmic axis."""


def build_comparison(summary: Summary, linked: Collection[str] = ()) -> str:
    """One HTML page that needs nothing else, made of what sweep.json holds.

    Args:
        linked: the names of members that have a report, to which the page links: each in the directory of its name,
            beside the page.
    """
    panels = [panel for panel in (_held_out(summary), _criteria(summary), _plane(summary)) if panel is not None]
    for index, panel in enumerate(panels):
        panel.content = figures.apart(panel.content, index, panel.name)
    head = [name.split(".")[-1] for name in summary["options"]]
    told = ["; ".join(remarks(member, summary["best"])) for member in summary["members"]]
    cells = [[*row, words] for row, words in zip(rows(summary), told, strict=True)]
    for member, row in zip(summary["members"], cells, strict=True):
        row[0] = _link(member["name"], row[0]) if member["name"] in linked else row[0]
    compared = table([*head, *HEAD, ""], cells, _caption(summary), text=len(head))
    compared.content["words"] = len(head) + len(HEAD)
    return (
        templates()
        .get_template("comparison.html")
        .render(
            summary=summary,
            name=summary["model"],
            varied=" and ".join(name.split(".")[-1] for name in summary["options"]),
            on=_on(summary),
            conclusions=conclusions(summary),
            links={name: _link(name, name) for name in linked},
            sections=[Section("compared", "Side by side", "", [*panels, compared])],
        )
    )


def _link(name: str, words: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(f"{quote(name)}/{REPORT}", words)


def rows(summary: Summary) -> list[list[str]]:
    """A row of words for each member: its options, and a cell for each of `HEAD`."""
    return [
        [
            *(member["options"][name] for name in summary["options"]),
            with_error(member.get("log_marginal"), member.get("log_marginal_se")),
            _behind(member),
            *(f"{member[name]:,.1f}".replace("-", "−") if finite(member.get(name)) else "–" for name in ("aic", "bic")),
            number(member.get("free_parameters")),
            f"{member['seconds']:.1f}" if finite(member.get("seconds")) else "–",
        ]
        for member in summary["members"]
    ]


def _behind(member: Member) -> str:
    return "" if member.get("behind") == 0 else with_error(member.get("behind"), member.get("behind_se"))


def remarks(member: Member, best: dict[str, str | None]) -> Iterator[str]:
    """What should be known of a member: the choices that fell on it, and what is wrong with it."""
    if member["error"]:
        yield f"failed: {member['error']}"
    yield from (words for rule, words in CHOSEN.items() if best[rule] == member["name"])
    if member.get("stopped") == "steps":
        yield "not converged"
    yield from member.get("concerns") or []


def conclusions(summary: Summary) -> list[str]:
    """Which members are best, by which rule, and what should be known before one is believed."""
    best = summary["best"]
    said = []
    if best["log_marginal"]:
        said.append(f"Best by held-out log p(x): {best['log_marginal']}")
    if best["simplest"] and best["simplest"] != best["log_marginal"]:
        said.append(f"Simplest within one standard error of the difference: {best['simplest']}")
    if best["bic"]:
        said.append(f"Best by BIC: {best['bic']}; by AIC: {best['aic']}")
    if not summary["held_out"]:
        said.append("Nothing was held out: log p(x) is of the training data, and grows with the model")
    early = [member["name"] for member in summary["members"] if member.get("stopped") == "steps"]
    if early:
        said.append(f"Not converged, so not at their best, raise --learner.steps: {', '.join(early)}")
    said += [f"Failed: {member['name']}: {member['error']}" for member in summary["members"] if member["error"]]
    if _at_the_edge(summary):
        said.append("The best lies at the end of the range: try further values")
    return said


def _at_the_edge(summary: Summary) -> bool:
    """Whether the best has the largest value of the one option that was varied."""
    axis, best = _axis(summary), summary["best"]["log_marginal"] or summary["best"]["bic"]
    if axis is None or len(summary["options"]) > 1 or len(summary["members"]) < 3:
        return False
    return best == max(summary["members"], key=lambda member: float(member["options"][axis]))["name"]


def _on(summary: Summary) -> str:
    """On what log p(x) was measured."""
    count = f"{number(summary['n'])}, " if summary["n"] else ""
    return f"{summary['evaluated_on'] or 'nothing'} ({count}the same for all)"


def _caption(summary: Summary) -> str:
    parts = [
        f"log p(x) on {_on(summary)}; {summary['units'] or 'nats per datum'}, ± one standard error over the data.",
        "Behind: by how much below the best, ± one standard error of the difference, datum by datum.",
    ]
    if summary["criteria_on"]:
        parts.append(f"AIC and BIC: of {summary['criteria_on']}, which is n; smaller is better.")
    return " ".join(parts) + " Seconds of fitting."


# ------------------------------------------------------------------------------------------------------- figures


def _axis(summary: Summary) -> str | None:
    """The option to draw along: of those whose values are all numbers, the one with the most values."""
    numeric = [name for name in summary["options"] if all(map(_is_number, _values(summary, name)))]
    return max(numeric, key=lambda name: len(_values(summary, name)), default=None)


def _values(summary: Summary, name: str) -> list[str]:
    return list(dict.fromkeys(member["options"][name] for member in summary["members"]))


def _is_number(text: str) -> bool:
    try:
        return finite(float(text))
    except ValueError:
        return False


def _series(summary: Summary, key: str) -> dict[str, list[Member]]:
    """The members of which `key` is known, by the values of all other options than the axis, along the axis."""
    axis = _axis(summary)
    series: dict[str, list[Member]] = {}
    for member in summary["members"]:
        others = ", ".join(value for name, value in member["options"].items() if name != axis)
        if finite(member.get(key)):
            series.setdefault(others, []).append(member)
    return series


def _place(axes, summary: Summary, members: list[Member]) -> list[float]:
    """Where the members stand along the horizontal, which is labelled so."""
    axis = _axis(summary)
    if axis is None:
        names = [member["name"] for member in summary["members"]]
        axes.set_xticks(range(len(names)), [", ".join(m["options"].values()) for m in summary["members"]], rotation=30)
        return [float(names.index(member["name"])) for member in members]
    axes.set_xlabel(axis.split(".")[-1])
    known = sorted({float(member["options"][axis]) for member in summary["members"] if not member["error"]})
    if known[0] > 0 and known[-1] / known[0] >= WIDE:
        axes.set_xscale("log")
    if len(known) <= MOST_TICKS or axes.get_xscale() == "log":
        axes.set_xticks(known[:: -(-len(known) // MOST_TICKS)], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return [float(member["options"][axis]) for member in members]


def _draw(axes, summary: Summary, key: str, name: str, error: str | None = None) -> None:
    series = _series(summary, key)
    numeric = _axis(summary) is not None
    for index, (label, members) in enumerate(series.items()):
        if not numeric and error is None:
            label = ""
        spread = [member.get(error) or 0.0 for member in members] if error else None
        axes.errorbar(
            _place(axes, summary, members),
            [member[key] for member in members],
            spread,
            color=figures.colour(index if numeric else 0),
            label=label,
            marker="o",
            markersize=4,
            linewidth=1.4,
            elinewidth=0.8,
            capsize=2,
            linestyle="-" if numeric else "none",
        )
    figures.quiet_grid(axes)
    axes.set_ylabel(name)
    if numeric and len(series) > 1:
        axes.legend()


def _held_out(summary: Summary) -> Panel | None:
    if not _series(summary, "log_marginal"):
        return None
    best = max(member["log_marginal"] for members in _series(summary, "log_marginal").values() for member in members)

    def paint(axes) -> None:
        _draw(axes, summary, "log_marginal", "mean log p(x), nats", "behind_se")
        axes.axhline(best, color=figures.FAINT, linewidth=0.8, linestyle=(0, (4, 3)))

    what = "Held-out log p(x)" if summary["held_out"] else "log p(x) of the training data"
    caption = (
        f"{what}, in {summary['units']}. A bar is one standard error of the difference from the best: where it reaches "
        "the dashed line, a member may be as good."
    )
    return Panel("svg", figures.draw(paint), caption)


def _criteria(summary: Summary) -> Panel | None:
    if not _series(summary, "bic"):
        return None

    def paint(left, right) -> None:
        _draw(left, summary, "bic", "BIC")
        _draw(right, summary, "aic", "AIC")

    caption = f"BIC (left) and AIC (right) of {summary['criteria_on']}; smaller is better."
    return Panel("svg", figures.draw(paint, columns=2, height=2.6), caption)


def _plane(summary: Summary) -> Panel | None:
    """Rate against distortion, where members trade the one for the other."""
    told = [m for m in summary["members"] if m.get("method") != "exact" and finite(m.get("rate"))]
    told = [m for m in told if finite(m.get("distortion"))]
    if len(told) < 2:
        return None
    errors = all(finite(m.get("squared_error")) for m in told)

    def paint(left, *right) -> None:
        for axes, key in zip((left, *right), ("distortion", "squared_error"), strict=False):
            place, rate = ([m[name] for m in told] for name in (key, "rate"))
            axes.plot(place, rate, "o", color=figures.MAIN, markersize=4.5)
            for member, *at in zip(told, place, rate, strict=True):
                words = ", ".join(member["options"].values())
                axes.annotate(words, at, xytext=(4, 3), textcoords="offset points", fontsize=7.5, color=figures.FAINT)
            figures.quiet_grid(axes)
            axes.margins(0.12)
        left.set_xlabel("distortion −E log p(x | z), nats")
        left.set_ylabel("rate KL(q(z | x) ‖ p(z)), nats")
        _contours(left)
        for axes in right:
            axes.set_xlabel("squared error of a datum")

    caption = (
        "What z costs against how well x is rebuilt from it, beside each its options: further down and to the left is "
        "better. On a dashed line −ELBO = rate + distortion is the same. The KL bounds the rate I(x; z) from above."
    )
    caption += " On the right the same against the squared error, in the units that the models see." if errors else ""
    figure = figures.draw(paint, columns=2 if errors else 1, height=3.1)
    return Panel("svg", figure, caption, "Rate and distortion")


def _contours(axes, count: int = 5) -> None:
    """Lines of rate + distortion = c, within the axes as they are."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for c in np.linspace(left + low, right + high, count + 2)[1:-1]:
        axes.plot([left, right], [c - left, c - right], color=figures.RULE, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
