"""How well the model does: the headline and the table of the evaluation, in words."""

from __future__ import annotations

from typing import Any

from latentia.report.panel import Panel, table
from latentia.report.words import finite, number, with_error

Evaluation = dict[str, Any]

# key: its name, and what it says
MEANINGS = {
    "log_marginal": ("log p(x)", "the log-probability of a datum under the model, on average; larger is better"),
    "naive_log_marginal": (
        "naive log p(x)",
        "the same by samples from the prior, log (1/K) ∑ p(x | z): for comparison",
    ),
    "naive_effective_sample_size": ("naive effective sample size", "samples from the prior that count, on average"),
    "annealed_log_marginal": (
        "annealed log p(x)",
        "by annealed importance sampling: a walk from the prior to the posterior of z",
    ),
    "annealed_gain": ("annealed, more by", "how much more than log p(x) above, for the same data"),
    "annealed_gap": ("annealing gap", "between bounds from above and from below, on data simulated from the model"),
    "annealed_effective_sample_size": ("effective chains", "chains of the annealing that count, on average"),
    "without_z": ("without z", "log p(x) of the best model without z, whose p(x) is of the same family as p(x | z)"),
    "gain": ("gain by z", "how much more log p(x) is: what the latents are worth"),
    "total_log_marginal": ("log p of all", "the log-probability of all these data together, in nats"),
    "elbo": ("evidence lower bound", "reconstruction less KL: a floor under log p(x)"),
    "reconstruction": ("reconstruction", "E log p(x | z): how well x is rebuilt from its z; −distortion"),
    "kl": ("KL(q(z | x) ‖ p(z))", "how far what x says of z is from the prior: what z costs; the rate"),
    "mutual_information": (
        "mutual information",
        "what z and x tell of each other in these data; of all there could be, on average over samples no more",
    ),
    "mutual_information_upper": ("mutual information, from above", "on average over samples no less"),
    "total_correlation": ("total correlation", "KL(q(z) ‖ ∏ q(z_d)): what the latent dimensions tell of each other"),
    "dimension_wise_kl": (
        "KL of the dimensions",
        "∑ KL(q(z_d) ‖ p(z_d)): how far each is from its prior over all data",
    ),
    "active_units": ("active units", "latent dimensions whose posterior mean changes with x (variance above 0.01)"),
    "effective_sample_size": ("effective sample size", "importance samples that count, on average for a datum"),
    "pareto_above": ("Pareto k too high", "share of data whose importance weights are too uneven to be trusted"),
    "bits_per_dimension": ("bits per dimension", "−log₂ p(x) for each coordinate of x; smaller is better"),
    "perplexity": ("perplexity", "as uncertain at each symbol as a fair choice among so many; smaller is better"),
    "aic": ("AIC", "−2 log p(training data) + 2 for each parameter; smaller is better"),
    "bic": ("BIC", "−2 log p(training data) + log n for each parameter; smaller is better"),
    "free_parameters": ("free parameters", "how many numbers learning has set"),
}
# missing ones are worth a dash
ALWAYS = {"log_marginal", "elbo"}
# said elsewhere on the page, or beside the value they belong to
BESIDE = {
    "log_marginal_se", "log_marginal_mc_se", "naive_log_marginal_se", "naive_log_marginal_mc_se", "criteria_on", "n",
    "units", "method", "importance_samples", "latent_units",
    "kl_per_unit", "layers", "verdict", "evaluated_on", "seed", "divided_by", "rate", "distortion",
    "annealed_log_marginal_se", "annealed_log_marginal_mc_se", "annealed_gain_se", "annealed_gap_se", "annealed_n",
    "annealed_how", "mutual_information_se", "mutual_information_upper_se", "total_correlation_se",
    "dimension_wise_kl_se", "pareto_threshold", "gain_se", "without_z_how",
}  # fmt: skip


# of how many
TOTALS = {
    "active_units": "latent_units",
    "effective_sample_size": "importance_samples",
    "naive_effective_sample_size": "importance_samples",
}


def headline(evaluation: Evaluation, on_training_data: bool) -> dict[str, str]:
    """The one number: its name, value with error, unit, and what it was computed on."""
    exactly = finite(evaluation.get("log_marginal")) or not finite(evaluation.get("elbo"))
    value = evaluation.get("log_marginal" if exactly else "elbo")
    error = evaluation.get("log_marginal_se") if exactly else None
    return {
        "name": "mean log p(x)" if exactly else "mean log p(x), at least",
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
    """The table, known quantities first and in words, whatever else there is below."""
    known = [[name, _value(key, evaluation), says] for key, (name, says) in MEANINGS.items() if _told(key, evaluation)]
    others = [key for key in evaluation if key not in MEANINGS and key not in BESIDE and _told(key, evaluation)]
    known += [[key.replace("_", " "), number(evaluation[key]), ""] for key in others]
    if not known:
        return []
    panel = table(["", "value", "what it says"], known, _caption(evaluation))
    panel.content["words"] = 2  # the last column is prose again
    return [panel]


def _told(key: str, evaluation: Evaluation) -> bool:
    # what was not asked for, or makes no sense for these data, is null: no line of dashes for it
    return key in evaluation and (key in ALWAYS or evaluation[key] is not None)


def _value(key: str, evaluation: Evaluation) -> str:
    value = evaluation[key]
    if f"{key}_se" in evaluation:
        return with_error(value, evaluation.get(f"{key}_se"))
    total = TOTALS.get(key)
    if total and value is not None and evaluation.get(total) is not None:
        return f"{number(value)} of {number(evaluation[total])}"
    return number(value)


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
