"""How well the model does: the headline and the table of the evaluation, in words."""

from __future__ import annotations

from typing import Any

from latentia.measure.measures import Measure, measures
from latentia.report.panel import Panel, table
from latentia.report.words import finite, number, with_error

Evaluation = dict[str, Any]


def headline(evaluation: Evaluation, on_training_data: bool) -> dict[str, str]:
    """The one number: its name, value with error, unit, and what it was computed on."""
    exactly = finite(evaluation.get("log_marginal")) or not finite(evaluation.get("elbo"))
    value, bounded = evaluation.get("log_marginal" if exactly else "elbo"), evaluation.get("method") == "bound"
    error = evaluation.get("log_marginal_se") if exactly else None
    return {
        "name": "mean log p(x)" if exactly and not bounded else "mean log p(x), at least",
        "value": with_error(value, error),
        "units": str(evaluation.get("units") or "nats per datum"),
        "on": " · ".join(_on(evaluation, on_training_data)),
    }


def _on(evaluation: Evaluation, on_training_data: bool) -> list[str]:
    where = evaluation.get("evaluated_on")
    if on_training_data:
        where = "on the training data themselves, so it flatters the model"
    elif where:
        where = f"on {where}"
    count = evaluation.get("n")
    method = evaluation.get("method")
    samples = evaluation.get("importance_samples")
    how = f"{method}, {number(samples)} samples each" if method == "importance sampling" and samples else method
    return [part for part in (where, f"{number(count)} data" if count is not None else None, how) if part]


def evaluated(evaluation: Evaluation) -> list[Panel]:
    """The table of all figures, with what each says, in words; below it, how they were found."""
    rows = [[one.name, _value(one), one.says] for one in measures(evaluation)]
    if not rows:
        return []
    panel = table(["", "value", "what it says"], rows, _caption(evaluation))
    panel.content["words"] = 2  # the last column is prose again
    return [panel]


def _value(measure: Measure) -> str:
    if measure.se is not None:
        return with_error(measure.value, measure.se)
    if measure.of is not None and measure.value is not None:
        return f"{number(measure.value)} of {number(measure.of)}"
    return number(measure.value)


def _caption(evaluation: Evaluation) -> str:
    unit = evaluation.get("units") or "nats per datum"
    parts = [f"Log-probabilities, KL and information in {unit}."]
    if finite(evaluation.get("log_marginal_se")):
        parts.append("± is one standard error over the data, and over the draws of z where those were sampled.")
    for key, what in (
        ("log_marginal_mc_se", "Sampling itself"),
        ("naive_log_marginal_mc_se", "Naive sampling"),
        ("annealed_log_marginal_mc_se", "Annealing"),
    ):
        noise = evaluation.get(key)
        if isinstance(noise, float) and finite(noise) and noise > 0:
            parts.append(f"{what} adds an error of {number(noise, 2)}.")
    if evaluation.get("without_z_how") is not None:
        parts.append(f"Without z: {evaluation['without_z_how']}.")
    if finite(evaluation.get("pareto_threshold")):
        parts.append(
            f"Pareto k is too high above min(1 − 1/log₁₀ K, 0.7) = {number(evaluation['pareto_threshold'], 2)}."
        )
    if evaluation.get("annealed_how") is not None:
        parts.append(f"Annealed: {evaluation['annealed_how']}.")
    if evaluation.get("criteria_on") is not None:
        parts.append(f"AIC and BIC: of {evaluation['criteria_on']}, which is n.")
    if evaluation.get("divided_by") is not None:
        parts.append(f"Bits per dimension or perplexity: divided by {evaluation['divided_by']}.")
    if evaluation.get("seed") is not None:
        parts.append(f"Seed {number(evaluation['seed'])}.")
    return " ".join(parts)
