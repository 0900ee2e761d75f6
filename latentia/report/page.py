"""The page: which sections it has, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from latentia.data import Dataset
from latentia.model import LatentVariableModel
from latentia.report import figures
from latentia.report.latents import latents
from latentia.report.learning import curves
from latentia.report.lengths import lengths
from latentia.report.panel import Section, gathered
from latentia.report.quality import evaluated, headline
from latentia.report.uses import uses
from latentia.report.words import number, story

SEED = 0  # of what the page shows; it does not depend on the run's


def build(
    *,
    title: str,
    model: LatentVariableModel,
    options: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    learned: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any],
    train: Dataset,
    test: Dataset,
    environment: Mapping[str, Any],
    command: str,
    on_training_data: bool,
) -> str:
    """The report of a run: one HTML page that needs nothing else, no network and no script.

    Args:
        title: of the page, such as the run's name.
        options: of the model, by name.
        history: the lines of metrics.jsonl.
        learned: how learning ended: why it "stopped", and at what each of EM's "restarts" did.
        evaluation: what `latentia evaluate --json` prints; values may be missing, None or not finite.
        train: the data that the model was fitted on; only described and counted.
        test: the data that the page shows, and on which latents are looked at.
        environment: versions and devices, by name.
        command: that made the run.
        on_training_data: the evaluation, and `test`, are of the training data: the page says so.
    """
    evaluation, lines = dict(evaluation), [dict(line) for line in history]
    unit = str(evaluation.get("units") or test.schema.unit)
    shown = f"Where data are shown, they are the {len(test):,} {'trained on' if on_training_data else 'held out'}."
    sections = [
        Section("learning", "Learning", "", gathered(lambda: curves(lines, unit, learned or {}))),
        Section(
            "latents", "What the latents do", shown, gathered(lambda: latents(model, test, evaluation, SEED, train))
        ),
        Section("uses", "What the model makes", "", gathered(lambda: uses(model, test, SEED, len(lines) * len(train)))),
        Section("codes", "Codes", "", gathered(lambda: lengths(model, test, SEED, len(lines) * len(train)))),
    ]
    _figures_apart(sections)
    return (
        templates()
        .get_template("template.html")
        .render(
            title=title,
            name=type(model).__name__,
            data=_data_in_words(train, test, on_training_data),
            headline=headline(evaluation, on_training_data),
            on_training_data=on_training_data,
            story=story(model),
            options={name: _option(value) for name, value in options.items()},
            parameters=number(sum(parameter.numel() for parameter in model.parameters())),
            verdict=evaluation.get("verdict"),
            evaluated=gathered(lambda: evaluated(evaluation)),
            sections=[section for section in sections if section.panels],
            command=command,
            environment={name: number(value) for name, value in environment.items()},
            seed=evaluation.get("seed"),
        )
    )


def templates() -> Environment:
    """The pages' templates, in this folder. Column names, words and options are other people's: all is escaped."""
    loader = PackageLoader("latentia.report", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def _figures_apart(sections: Sequence[Section]) -> None:
    """Give every figure names of its own."""
    drawn = [panel for section in sections for panel in section.panels if panel.kind == "svg"]
    for index, panel in enumerate(drawn):
        panel.content = figures.apart(panel.content, index, panel.name)


def _option(value: Any) -> str:
    """An option as one would type it: no digits added."""
    return f"{value:g}" if isinstance(value, float) else number(value)


def _data_in_words(train: Dataset, test: Dataset, on_training_data: bool) -> str:
    words = train.schema.describe()
    held_out = "" if on_training_data else f", {len(test):,} held out for testing"
    return f"{words[:1].upper()}{words[1:]}. {len(train):,} to learn from{held_out}. From {train.schema.source}."
