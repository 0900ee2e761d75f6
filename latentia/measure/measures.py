"""`Measure`: a figure, its error and what it says; and `Evaluation`, all of them. A new one is written here, once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from torch import Tensor

from latentia.errors import OptionError


class Measure(NamedTuple):
    """A figure of an evaluation.

    Attributes:
        name: in words; says: what it tells, and which way is better.
        value: None where it could not be told; se: its standard error over the data and the draws of z, None where
            there is none.
        unit: "nats" (a datum), "nats in all", "bits", "data", "units", "share", "samples", or "" for a pure number.
        group: what it is about: "log p(x)", "bound", "latents", "code" or "training data".
        of: of how many, for a number of units or samples.
        key: its name in the JSON.
    """

    name: str
    value: float | int | None
    se: float | None
    unit: str
    says: str
    group: str
    of: float | int | None = None
    key: str = ""


def _figure(name: str, says: str, group: str, unit: str = "nats", of: str | None = None, **default: Any) -> Any:
    """A field of `Evaluation` that is a figure; its error is in the field of the same name and "_se"."""
    return field(metadata={"name": name, "says": says, "group": group, "unit": unit, "of": of}, **default)


P, BOUND, LATENTS, CODE, TRAINING = "log p(x)", "bound", "latents", "code", "training data"


@dataclass(kw_only=True, repr=False)
class Evaluation:
    """What `latentia evaluate` says. Means over the data, weighted by their weights; what each figure is is said beside
    it, and `measures` lists them.

    Attributes:
        log_marginal_mc_se: the part of the error of log p(x) that more importance samples would take away, NaN (null)
            for a single sample, which has no spread; so for the others.
        elbo, reconstruction, kl: of the model's posterior; for an exact one the bound is log p(x) itself.
        rate, distortion: the KL, and minus the reconstruction: R + D = -ELBO (Alemi et al. 2018, section 2).
        mutual_information and what follows: see `latentia.measure.information.Information`.
        kl_per_unit, verdict, layers: see `latentia.measure.diagnose.Diagnosis`.
        without_z_how: what model without z that is, see `latentia.measure.baseline.without_latents`.
        method: "exact", "importance sampling", or "bound", where log_marginal and all that is made of it are a lower
            bound; importance_samples: K.
        pareto_threshold: min(1 - 1 / log10 K, 0.7), above which a Pareto k cannot be trusted.
        annealed_n, annealed_how: of how many of the data, and how.
        criteria_on: which the training data are, and how many.
        divided_by: what bits a dimension or perplexity are divided by.
        each: log p(x) of each datum and its weight, (N, 2) float64; not among the plain values.
    """

    n: int
    units: str
    log_marginal: float = _figure(
        "log p(x)", "the log-probability of a datum under the model, on average; larger is better", P
    )
    log_marginal_se: float
    log_marginal_mc_se: float
    elbo: float = _figure("evidence lower bound", "reconstruction less KL: a floor under log p(x)", BOUND)
    reconstruction: float = _figure(
        "reconstruction", "E log p(x | z): how well x is rebuilt from its z; −distortion", BOUND
    )
    kl: float = _figure(
        "KL(q(z | x) ‖ p(z))", "how far what x says of z is from the prior: what z costs; the rate", BOUND
    )
    mutual_information: float = _figure(
        "mutual information",
        "what z and x tell of each other in these data; of all there could be, on average over samples no more",
        LATENTS,
    )
    active_units: int = _figure(
        "active units",
        "latent dimensions whose posterior mean changes with x (variance above 0.01; of shares, of what it can be)",
        LATENTS,
        "units",
        "latent_units",
    )
    latent_units: int
    kl_per_unit: list[float] | None
    verdict: str
    method: str
    importance_samples: int | None
    effective_sample_size: float | None = _figure(
        "effective sample size",
        "importance samples that count, on average for a datum",
        P,
        "samples",
        "importance_samples",
    )
    seed: int
    total_log_marginal: float = _figure(
        "log p of all", "the log-probability of all these data together, in nats", P, "nats in all"
    )
    pareto_above: float | None = _figure(
        "Pareto k too high",
        "share of data whose importance weights are too uneven to be trusted",
        P,
        "share",
        default=None,
    )
    pareto_threshold: float | None = None
    naive_log_marginal: float | None = _figure(
        "naive log p(x)", "the same by samples from the prior, log (1/K) ∑ p(x | z): for comparison", P, default=None
    )
    naive_log_marginal_se: float | None = None
    naive_log_marginal_mc_se: float | None = None
    naive_effective_sample_size: float | None = _figure(
        "naive effective sample size",
        "samples from the prior that count, on average",
        P,
        "samples",
        "importance_samples",
        default=None,
    )
    rate: float = math.nan
    distortion: float = math.nan
    mutual_information_se: float = math.nan
    mutual_information_upper: float | None = _figure(
        "mutual information, from above", "on average over samples no less", LATENTS, default=None
    )
    mutual_information_upper_se: float | None = None
    total_correlation: float | None = _figure(
        "total correlation", "KL(q(z) ‖ ∏ q(z_d)): what the latent dimensions tell of each other", LATENTS, default=None
    )
    total_correlation_se: float | None = None
    dimension_wise_kl: float | None = _figure(
        "KL of the dimensions",
        "∑ KL(q(z_d) ‖ p(z_d)): how far each is from its prior over all data",
        LATENTS,
        default=None,
    )
    dimension_wise_kl_se: float | None = None
    without_z: float | None = _figure(
        "without z",
        "log p(x) of the best model without z, whose p(x) is of the same family as p(x | z)",
        P,
        default=None,
    )
    gain: float | None = _figure("gain by z", "how much more log p(x) is: what the latents are worth", P, default=None)
    gain_se: float | None = None
    without_z_how: str | None = None
    annealed_log_marginal: float | None = _figure(
        "annealed log p(x)",
        "by annealed importance sampling: a walk from the prior to the posterior of z",
        P,
        default=None,
    )
    annealed_log_marginal_se: float | None = None
    annealed_log_marginal_mc_se: float | None = None
    annealed_effective_sample_size: float | None = _figure(
        "effective chains", "chains of the annealing that count, on average", P, "samples", default=None
    )
    annealed_gain: float | None = _figure(
        "annealed, more by", "how much more than log p(x) above, for the same data", P, default=None
    )
    annealed_gain_se: float | None = None
    annealed_gap: float | None = _figure(
        "annealing gap", "between bounds from above and from below, on data simulated from the model", P, default=None
    )
    annealed_gap_se: float | None = None
    annealed_n: int | None = None
    annealed_how: str | None = None
    free_parameters: int | None = _figure(
        "free parameters", "how many numbers learning has set", TRAINING, "", default=None
    )
    aic: float | None = _figure(
        "AIC", "−2 log p(training data) + 2 for each parameter; smaller is better", TRAINING, "", default=None
    )
    bic: float | None = _figure(
        "BIC", "−2 log p(training data) + log n for each parameter; smaller is better", TRAINING, "", default=None
    )
    criteria_on: str | None = None
    bits_per_dimension: float | None = _figure(
        "bits per dimension", "−log₂ p(x) for each coordinate of x; smaller is better", CODE, "bits", default=None
    )
    squared_error: float | None = _figure(
        "squared error",
        "E |x − E[x | z]|², summed over a datum, in the units that the model sees: the distortion of what is rebuilt",
        BOUND,
        "",
        default=None,
    )
    squared_error_se: float | None = None
    perplexity: float | None = _figure(
        "perplexity",
        "as uncertain at each symbol as a fair choice among so many; smaller is better",
        CODE,
        "",
        default=None,
    )
    divided_by: str | None = None
    evaluated_on: str = "the data given"
    layers: dict[str, dict[str, Any]] | None = None
    each: Tensor | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        figures = (f"{one.name} {one.value:.5g}" for one in self.measures if isinstance(one.value, float))
        return f"<Evaluation: {self.n:,} data, {self.evaluated_on}; {self.units}; {', '.join(figures)}>"

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes null, as JSON has no word for it."""
        return {name: _finite(getattr(self, name)) for name in PLAIN}

    @property
    def measures(self) -> list[Measure]:
        """The figures that there are, those about one thing together."""
        return measures(self.to_json())


PLAIN = tuple(part.name for part in fields(Evaluation) if part.name != "each")
FIGURES = {part.name: dict(part.metadata) for part in fields(Evaluation) if part.metadata}
AT_LEAST = {
    key: {**FIGURES[key], "name": name, "says": says}
    for key, name, says in (
        (
            "log_marginal",
            "log p(x), at least",
            "a lower bound on the log-probability of a datum, on average; no estimate",
        ),
        ("total_log_marginal", "log p of all, at least", "the bound of all these data together, in nats"),
        ("kl", "KL(q(z | x) ‖ p(z)), at most", "what z costs, by the bound of the prior where it has no density"),
        ("bits_per_dimension", "bits per dimension, at most", "minus the bound in bits for each coordinate of x"),
        ("perplexity", "perplexity, at most", "that of the bound; smaller is better"),
    )
}
"""What the figures are of a model whose log p(x) has a bound alone."""
ALWAYS = ("log_marginal", "elbo")
"""What is listed even where it is not finite."""


def _is_exact(found: dict[str, Any]) -> bool:
    """Whether the bound is log p(x) itself."""
    bound, value = found.get("elbo"), found.get("log_marginal")
    if found.get("method") != "exact" or bound is None or value is None:
        return False
    return math.isclose(bound, value, rel_tol=1e-6, abs_tol=1e-9)


def measures(found: dict[str, Any]) -> list[Measure]:
    """The figures of an evaluation as it was saved, those about one thing together; at the end whatever else is a
    number there, which another version has measured. A bound that is log p(x) itself is not said twice."""
    bounded = found.get("method") == "bound"
    figures = {**FIGURES, **AT_LEAST} if bounded else FIGURES
    listed = [
        Measure(key=key, value=found[key], se=found.get(f"{key}_se"), **{**about, "of": found.get(about["of"])})
        for key, about in figures.items()
        if key in found
        and (key in ALWAYS or found[key] is not None)
        and not (key == "elbo" and (bounded or _is_exact(found)))
    ]
    order = list(dict.fromkeys(about["group"] for about in FIGURES.values()))
    others = [
        Measure(key.replace("_", " "), value, None, "", "", "others", key=key)
        for key, value in found.items()
        if key not in PLAIN and isinstance(value, (int, float))
    ]
    return [*sorted(listed, key=lambda one: order.index(one.group)), *others]


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_comparable(units: Sequence[str | None]) -> None:
    """Raise `OptionError` where log-probabilities in these units are not of the same thing, and say why."""
    kinds = list(dict.fromkeys(unit for unit in units if unit))
    if len(kinds) < 2:
        return
    why = "they are log-probabilities of different things"
    if any("not counted" in unit for unit in kinds) and any("not counted" not in unit for unit in kinds):
        why = "a model that says where a datum ends pays for that, and one that is given its length does not"
    raise OptionError(f"these cannot be compared: {'; '.join(kinds)}: {why}")
