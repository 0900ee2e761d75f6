"""`latentia evaluate`: the numbers of a run, and their table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from latentia.cli.parsing import Parser, Whole, printable, show, tell
from latentia.cli.runs import add_other, add_run, opened, other_data
from latentia.errors import OptionError


def evaluate(arguments: list[str]) -> None:
    """Measure a fitted model, on the run's held-out data or on other data."""
    parser = Parser("evaluate", str(evaluate.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
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
    if parsed.data is None:
        options = {"annealing": annealing, "device": parsed.device}
        found = run.evaluate(parsed.importance_samples, parsed.naive, parsed.seed, **options)
    else:
        from latentia.measure.evaluation import evaluate as measure
        from latentia.runs.config import is_large

        options = {"importance_samples": parsed.importance_samples, "naive": parsed.naive, "seed": parsed.seed}
        options["annealing"] = annealing
        how = {name: getattr(parsed, name) for name in ("columns", "weight", "first")}
        data = run.other_stream(parsed.data, **how) if is_large(parsed.data) else other_data(run, parsed)
        result = measure(run.model(parsed.device or run.device), data, progress=True, **options)
        result.evaluated_on = parsed.data
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


ROWS: list[tuple[str, str, Callable[[dict[str, Any]], Any]]] = [
    ("log p(x)", "log_marginal", lambda e: e["log_marginal_se"]),
    ("  by naive Monte Carlo", "naive_log_marginal", lambda e: e["naive_log_marginal_se"]),
    ("  by annealing", "annealed_log_marginal", lambda e: e["annealed_log_marginal_se"]),
    ("    more than above, same data", "annealed_gain", lambda e: e["annealed_gain_se"]),
    ("    gap on simulated data", "annealed_gap", lambda e: e["annealed_gap_se"]),
    ("ELBO", "elbo", lambda e: None),
    ("  reconstruction, -distortion", "reconstruction", lambda e: None),
    ("  KL to the prior, rate", "kl", lambda e: None),
    ("mutual information", "mutual_information", lambda e: e["mutual_information_se"]),
    ("  from above", "mutual_information_upper", lambda e: e["mutual_information_upper_se"]),
    ("total correlation", "total_correlation", lambda e: e["total_correlation_se"]),
    ("KL of each dimension, summed", "dimension_wise_kl", lambda e: e["dimension_wise_kl_se"]),
    ("bits per dimension", "bits_per_dimension", lambda e: None),
    ("perplexity", "perplexity", lambda e: None),
    ("total log p(x)", "total_log_marginal", lambda e: None),
    ("AIC", "aic", lambda e: None),
    ("BIC", "bic", lambda e: None),
]


def _count(number: float | None) -> str:
    """What is no finite number was read from JSON as null, and is said to be none."""
    return "unknown" if number is None else f"{number:.1f}"


def show_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, name, error in ROWS:
        if name == "log_marginal" and found[name] is None:
            table.add_row(label, "not finite: see below")
        elif found.get(name) is not None:
            spread = error(found)
            table.add_row(label, f"{found[name]:.3f}" + (f" ± {spread:.3f}" if spread is not None else ""))
    table.add_row("active units", f"{found['active_units']} of {found['latent_units']}")
    how = found["method"]
    if found["importance_samples"]:
        effective = found["effective_sample_size"]
        how += (
            f", K = {found['importance_samples']:,}, effective {'unknown' if effective is None else f'{effective:.1f}'}"
        )
    table.add_row("method", printable(how))
    if found["pareto_above"] is not None:
        table.add_row(f"Pareto k above {found['pareto_threshold']:.2g}", f"{found['pareto_above']:.1%} of the data")
    if found["annealed_how"]:
        effective = f", effective {_count(found['annealed_effective_sample_size'])}"
        table.add_row("annealing", printable(found["annealed_how"]) + effective)
    if found["naive_effective_sample_size"]:
        table.add_row("naive Monte Carlo", f"effective {found['naive_effective_sample_size']:.1f}")
    if found["criteria_on"]:
        table.add_row("AIC, BIC", f"of {printable(found['criteria_on'])}, {found['free_parameters']:,} parameters")
    console = Console()
    with console.capture() as drawn:  # on a broken pipe, rich itself would leave with status 1
        head = f"{found['n']:,} data, {found['evaluated_on']}; {found['units']}"
        console.print(printable(head), highlight=False, markup=False)
        console.print(table)
        console.print(printable(found["verdict"]), highlight=False, markup=False)
    show(drawn.get())
