"""`latentia evaluate`: the numbers of a run, and their table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from latentia.cli.parsing import Parser, Whole, printable, show, tell
from latentia.cli.runs import add_other, add_run, add_text, opened, other_data, others
from latentia.errors import OptionError


def evaluate(arguments: list[str]) -> None:
    """Measure a fitted model, on the run's held-out data or on other data."""
    parser = Parser("evaluate", str(evaluate.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    add_text(parser)
    parser.add_argument("--importance_samples", type=Whole(1), default=1000, help="K, where log p(x) is not exact")
    parser.add_argument("--naive", action="store_true", help="estimate log p(x) by samples from the prior too")
    parser.add_argument("--ais", action="store_true", help="estimate log p(x) by annealed importance sampling too")
    parser.add_argument("--ais_steps", type=Whole(1), default=1000, help="temperatures from start to posterior")
    parser.add_argument("--ais_chains", type=Whole(1), default=16, help="chains a datum")
    parser.add_argument("--ais_leapfrogs", type=Whole(1), default=10, help="gradients a move of a chain")
    parser.add_argument("--ais_start", choices=["prior", "posterior"], default="prior", help="where chains start")
    parser.add_argument("--ais_schedule", choices=["sigmoidal", "linear"], default="sigmoidal", help="of temperatures")
    parser.add_argument("--ais_data", type=Whole(1), default=100, help="anneal so many data at most, drawn at random")
    parser.add_argument("--ais_simulated", type=Whole(0), default=32, help="simulated data for the gap; 0 for none")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    parser.add_argument("--device", help="cpu or cuda; that of the fit if left out and there")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse(arguments)
    annealing = _annealing(parser, parsed)
    run = opened(parsed)
    if not others(parsed):
        options = {"annealing": annealing, "device": parsed.device}
        found = run.evaluate(parsed.importance_samples, parsed.naive, parsed.seed, **options)
    else:
        from latentia.measure.evaluation import evaluate as measure
        from latentia.runs.config import is_large

        options = {"importance_samples": parsed.importance_samples, "naive": parsed.naive, "seed": parsed.seed}
        options["annealing"] = annealing
        how = {name: getattr(parsed, name) for name in ("columns", "weight", "first")}
        large = not parsed.text and is_large(parsed.data)
        data = run.other_stream(parsed.data, **how) if large else other_data(run, parsed)
        result = measure(run.model(parsed.device or run.device), data, progress=True, **options)
        result.evaluated_on = parsed.data or ("standard input" if parsed.text == ["-"] else "--text")
        found = result.to_json()
    tell(json.dumps(found)) if parsed.json else show_table(found)


def _annealing(parser: argparse.ArgumentParser, parsed: argparse.Namespace):
    """How to anneal, None where nobody asked for it."""
    given = {name[4:]: value for name, value in vars(parsed).items() if name.startswith("ais_")}
    if parsed.ais:
        from latentia.inference.annealed import Annealing

        return Annealing(**given)
    for name, value in given.items():
        if value != parser.get_default(f"ais_{name}"):
            raise OptionError(f"--ais_{name} says how to anneal: add --ais")
    return None


def show_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from latentia.measure.measures import measures

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    group = ""
    for measure in measures(found):
        if group and measure.group != group:
            table.add_section()
        group = measure.group
        table.add_row(printable(measure.name), _value(measure))
    for name, how in _how(found):
        table.add_row(name, printable(how))
    console = Console()
    with console.capture() as drawn:  # on a broken pipe, rich itself would leave with status 1
        head = f"{found['n']:,} data, {found['evaluated_on']}; {found['units']}"
        console.print(printable(head), highlight=False, markup=False)
        console.print(table)
        console.print(printable(found["verdict"]), highlight=False, markup=False)
    show(drawn.get())


def _value(measure: Any) -> str:
    """What is no finite number was read from JSON as null."""
    value = measure.value
    if value is None:
        return "not finite: see below"
    if measure.unit == "share":
        return f"{value:.1%} of the data"
    if measure.unit == "samples":
        return f"{value:,.1f}" + ("" if measure.of is None else f" of {measure.of:,}")
    if isinstance(value, int):
        return f"{value:,}" + ("" if measure.of is None else f" of {measure.of:,}")
    return f"{value:.3f}" + ("" if measure.se is None else f" ± {measure.se:.3f}")


def _how(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """By what method the figures were found."""
    samples = found["importance_samples"]
    yield "method", found["method"] + (f", K = {samples:,}" if samples else "")
    if found["annealed_how"]:
        yield "annealing", found["annealed_how"]
    if found["criteria_on"]:
        yield "AIC, BIC", f"of {found['criteria_on']}"
