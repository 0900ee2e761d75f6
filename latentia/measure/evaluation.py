"""`evaluate`: the same measures, in the same units, for every model."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from latentia.data import Dataset, Schema, Stream
from latentia.errors import CapabilityError
from latentia.inference.annealed import Annealing, Sandwich, annealed_log_marginal, bidirectional
from latentia.inference.importance import MEMORY, LogMarginal, doubtful
from latentia.measure.baseline import Gain, without_latents
from latentia.measure.criteria import criteria
from latentia.measure.diagnose import diagnosed
from latentia.measure.marginal import (
    BOUND_DRAWS,
    bounded_marginal,
    exact_marginal,
    exactly,
    importance_marginal,
    log_marginal,
    only_bounded,
)
from latentia.measure.means import WeightedMean
from latentia.measure.measures import PLAIN, Evaluation
from latentia.measure.remarks import count_observed, made_ready, remark
from latentia.measure.walk import Walk, walk
from latentia.model import LatentVariableModel, TractableModel, in_evaluation

SAMPLE = 2**20
"""Numbers in the part of a stream from which it is told what the latents carry."""


@torch.no_grad()
@in_evaluation
def evaluate(
    model: LatentVariableModel,
    data: Dataset | Stream,
    *,
    importance_samples: int = 1000,
    naive: bool = False,
    annealing: Annealing | None = None,
    training: Dataset | Stream | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Evaluation:
    """Measure a model on data: the same verbs, the same units, for every model.

    Args:
        data: anything that `latentia.data.as_dataset` takes, or a `Stream`: log p(x) is then that of all its data, and
            what the latents carry is told from a random sample of them.
        importance_samples: K, where log p(x) is not exact.
        naive: estimate log p(x) by K samples from the prior too.
        annealing: estimate log p(x) by annealed importance sampling too, of some of the data.
        training: what the model was fitted to: where log p(x) is exact, AIC and BIC are of these data.
        seed: of every random number used, a dynamic binarization among them.

    A model whose prior or likelihood is `Bounded`, as a diffusion is, has its bound in the place of log p(x), by the
    mean of `importance_samples` estimates, at most 64; its method is "bound".

    Raises:
        DataError: no data, or data that the model cannot generate.
        CapabilityError: `naive` or `annealing` of a model that has only a bound.
    """
    options: dict[str, Any] = {"importance_samples": importance_samples, "seed": seed, "memory": memory}
    if isinstance(data, Stream):
        result = _of_stream(model, data, {"naive": naive, "annealing": annealing}, options)
        return _with_criteria(result, model, training)
    data = made_ready(model, data, seed)
    walked = walk(model, data, seed=seed)
    bounded = only_bounded(model, data)
    if bounded:
        options["importance_samples"] = min(importance_samples, BOUND_DRAWS)
    if walked.log_partition is not None:
        marginal = exactly(walked.log_partition)
    elif bounded:
        marginal = bounded_marginal(model, data, draws=options["importance_samples"], seed=seed, progress=progress)
    else:
        marginal = importance_marginal(model, data, progress=progress, **options)
    result = _measured(model, data, walked, marginal, training, options)
    if bounded:
        result = replace(result, method="bound", effective_sample_size=None, pareto_above=None)
        result.verdict = (
            f"log p(x) is at least what is said of it: this model has a bound, and no density. {result.verdict}"
        )
    weights, shift = data.batch().weights.double().cpu(), data.log_det().cpu()
    if naive:
        found = importance_marginal(model, data, proposal="prior", progress=progress, **options)
        result = _with_naive(result, found, WeightedMean(weights), shift)
    if annealing is not None:
        others = {"seed": seed, "memory": memory}
        result = _with_annealed(result, model, data, annealing, marginal.value + shift, others, progress)
    return _with_criteria(result, model, training)


def _measured(
    model: LatentVariableModel,
    data: Dataset,
    walked: Walk,
    marginal: LogMarginal,
    training: Dataset | Stream | None,
    options: dict[str, Any],
) -> Evaluation:
    """What one walk over the data, and the log p(x) that was found for each of them, say."""
    weights, shift = data.batch().weights.double().cpu(), data.log_det().cpu()
    mean, value, is_exact = WeightedMean(weights), marginal.value + shift, walked.log_partition is not None
    remarks = remark(data, value)
    gain = _gain(model, data, marginal, training if isinstance(training, Dataset) else None)
    found = diagnosed(walked, weights, gain)
    samples, threshold = options["importance_samples"], doubtful(options["importance_samples"])
    above = _above(marginal.pareto_k, threshold, mean)
    result = Evaluation(
        n=len(data),
        units=data.schema.unit_with(data.schema.ends or any_length(model)),
        log_marginal=float(mean(value)),
        log_marginal_se=mean.error(value),
        log_marginal_mc_se=mean.combined(marginal.standard_error),
        **_bound(walked, marginal, shift, mean),
        **{part.name: getattr(found, part.name) for part in fields(found) if part.name in PLAIN},
        squared_error=None if walked.squared_error is None else float(mean(walked.squared_error)),
        squared_error_se=None if walked.squared_error is None else mean.error(walked.squared_error),
        without_z=None if gain is None else gain.without,
        gain=None if gain is None else gain.value,
        gain_se=None if gain is None else gain.standard_error,
        without_z_how=None if gain is None else gain.how,
        pareto_above=above,
        pareto_threshold=None if above is None else threshold,
        method="exact" if is_exact else "importance sampling",
        importance_samples=None if is_exact else samples,
        effective_sample_size=None if is_exact else float(mean(marginal.effective_sample_size)),
        free_parameters=model.free_parameters(),
        seed=options["seed"],
        total_log_marginal=mean.total * float(mean(value)),
        each=torch.stack([value, weights], 1),
    )
    result.verdict = " ".join([found.verdict + _doubt(above, threshold), *remarks])
    return _with_unknown(_derived(result, model, data.schema, count_observed(data, weights), mean.total), data)


def _bound(walked: Walk, marginal: LogMarginal, shift: Tensor, mean: WeightedMean) -> dict[str, float]:
    """The ELBO and its parts. The KL is in closed form where there is one: the bound is then the less noisy for it."""
    kl = math.nan if walked.kl is None else float(mean(walked.kl))
    if walked.log_partition is not None:
        reconstruction = float(mean(marginal.elbo + shift)) + kl
    else:
        reconstruction = float(mean(marginal.reconstruction + shift))
    elbo = float(mean(marginal.elbo + shift)) if walked.kl is None else reconstruction - kl
    return {
        "elbo": elbo, "reconstruction": reconstruction, "kl": kl, "rate": kl, "distortion": -reconstruction
    }  # fmt: skip


def _gain(model: LatentVariableModel, data: Dataset, marginal: LogMarginal, training: Dataset | None) -> Gain | None:
    """By how much the model is better than the best without z; None where that is not known."""
    training = None if training is None or training.schema.kind != data.schema.kind else training
    found = without_latents(model, data, training)
    if found is None or not bool(found.value.isfinite().all()):
        return None
    mean = WeightedMean(data.batch().weights.double().cpu())
    noise = 0.0 if isinstance(model, TractableModel) else mean.combined(marginal.standard_error)
    error = math.hypot(mean.error(marginal.value - found.value), 0.0 if math.isnan(noise) else noise)
    shift = data.log_det().cpu()
    if math.isnan(error):
        return None
    return Gain(float(mean(marginal.value - found.value)), error, float(mean(found.value + shift)), found.how)


def _above(pareto_k: Tensor, threshold: float, mean: WeightedMean) -> float | None:
    return None if pareto_k.isnan().all() else float(mean((pareto_k > threshold).double()))


def _doubt(above: float | None, threshold: float) -> str:
    if not above or above < 0.01:
        return ""
    return (
        f" For {above:.0%} of the data the importance weights are too uneven (Pareto k above {threshold:.2g}): their "
        "log p(x) is probably too low, and its error understated; annealing (--ais) tells."
    )


def _of_stream(model: LatentVariableModel, data: Stream, others: dict[str, Any], options: dict[str, Any]) -> Evaluation:
    """log p(x) of all data, a chunk at a time, by merging means and variances (Chan, Golub and LeVeque 1983)."""
    sample = data.sample(max(SAMPLE // data.entries, 1), options["seed"])
    found = evaluate(model, sample, **others, **options)
    if len(sample) == len(data):
        return found
    total = average = square = noise = observed = 0.0
    for chunk in data.chunks():
        marginal = _marginal_of(model, chunk, found.method, options)
        remark(chunk, marginal.value)
        weights = chunk.batch().weights.double()
        mean, value = WeightedMean(weights), marginal.value + chunk.log_det()
        here, both = float(mean(value)), max(total + mean.total, 1e-300)
        square += mean.total * float(mean((value - here) ** 2)) + (here - average) ** 2 * total * mean.total / both
        average += (here - average) * mean.total / both
        noise += (mean.total * mean.combined(marginal.standard_error)) ** 2
        observed, total = observed + count_observed(chunk, weights), total + mean.total
    words = f"{found.verdict} All but log p(x) is of a random sample of {len(sample):,} data."
    result = replace(
        found,
        n=len(data),
        log_marginal=average,
        log_marginal_se=math.sqrt(square / (total - 1) / total) if total > 1 else math.nan,
        log_marginal_mc_se=math.sqrt(noise) / max(total, 1e-300),
        total_log_marginal=total * average,
        elbo=average if found.method == "exact" else found.elbo,
        verdict=words,
    )
    return _derived(result, model, data.schema, observed, total)


def _marginal_of(model: LatentVariableModel, chunk: Dataset, method: str, options: dict[str, Any]) -> LogMarginal:
    """log p(x) of a chunk by the method that a sample of the data was measured by."""
    if isinstance(model, TractableModel):
        return exact_marginal(model, chunk)
    if method == "bound":
        draws = min(options["importance_samples"], BOUND_DRAWS)
        return bounded_marginal(model, chunk.frozen(options["seed"]), draws=draws, seed=options["seed"], progress=False)
    return log_marginal(model, chunk, **options)


def any_length(model: LatentVariableModel) -> bool:
    """Whether the model's x have any length and share the probability, though no symbol says where they end: a grammar,
    or a model whose end is its own."""
    return getattr(model, "any_length", False)


def _derived(
    result: Evaluation, model: LatentVariableModel, schema: Schema, observed: float, weight: float
) -> Evaluation:
    """Add perplexity for symbols, and bits a dimension for discrete coordinates of a fixed number."""
    if schema.values == "symbols":
        noun = {"words": "symbols"}.get(schema.tokens, schema.tokens)
        own = weight if any_length(model) and not schema.ends else 0.0
        counted = "counted" if schema.ends or own else "not counted"
        marks = f"{observed:,.0f} observed {noun}{f' and {own:,.0f} ends' if own else ''}"
        value = _exp(-result.total_log_marginal / max(observed + own, 1.0))
        return replace(result, perplexity=value, divided_by=f"{marks}; the end of a sequence is {counted}")
    if schema.values in ("binary", "levels") and observed > 0:
        bits = -result.total_log_marginal / (observed * math.log(2))
        marks = f"{observed / max(weight, 1e-300):,.6g} observed dimensions a datum"
        return replace(result, bits_per_dimension=bits, divided_by=marks)
    return result


def _with_unknown(result: Evaluation, data: Dataset) -> Evaluation:
    """Say how many words are in no vocabulary: each counts as "<unk>", which makes foreign text look probable."""
    if data.unknown is None:
        return result
    said = f" {data.unknown:.1%} of the words are not in the vocabulary, and count as <unk>."
    return replace(result, verdict=result.verdict + said)


def _with_naive(result: Evaluation, naive: LogMarginal, mean: WeightedMean, shift: Tensor) -> Evaluation:
    return replace(
        result,
        naive_log_marginal=float(mean(naive.value + shift)),
        naive_log_marginal_se=mean.error(naive.value + shift),
        naive_log_marginal_mc_se=mean.combined(naive.standard_error),
        naive_effective_sample_size=float(mean(naive.effective_sample_size)),
    )


def _with_annealed(
    result: Evaluation,
    model: LatentVariableModel,
    data: Dataset,
    annealing: Annealing,
    value: Tensor,
    options: dict[str, Any],
    progress: bool,
) -> Evaluation:
    """Anneal some of the data, and hold the result against what has been found for them, `value` (N,)."""
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(options["seed"]))
    chosen = chosen[: annealing.data].sort().values
    some = data.subset(chosen)
    found = annealed_log_marginal(model, some, annealing, progress=progress, **options)
    annealed, mean = found.value + some.log_det().cpu(), WeightedMean(some.batch().weights.double().cpu())
    gain, bounds = annealed - value[chosen], _simulated(model, annealing, options["seed"], progress)
    return replace(
        result,
        annealed_log_marginal=float(mean(annealed)),
        annealed_log_marginal_se=mean.error(annealed),
        annealed_log_marginal_mc_se=mean.combined(found.standard_error),
        annealed_effective_sample_size=float(mean(found.effective_sample_size)),
        annealed_gain=float(mean(gain)),
        annealed_gain_se=mean.error(gain),
        annealed_gap=None if bounds is None else bounds.gap,
        annealed_gap_se=None if bounds is None else bounds.gap_se,
        annealed_n=len(some),
        annealed_how=f"{len(some):,} data, {annealing.steps:,} temperatures from the {annealing.start}, "
        f"{annealing.chains:,} chains",
    )


def _simulated(model: LatentVariableModel, annealing: Annealing, seed: int, progress: bool) -> Sandwich | None:
    """None where no data are asked for, or the model generates none."""
    try:
        if annealing.simulated:
            return bidirectional(model, annealing.simulated, annealing, seed=seed, progress=progress)
    except CapabilityError:
        pass
    return None


def _with_criteria(result: Evaluation, model: LatentVariableModel, training: Dataset | Stream | None) -> Evaluation:
    """With AIC and BIC, where log p(x) is exact and it is known what the model has learned from."""
    if training is None or not isinstance(model, TractableModel):
        return result
    found = criteria(model, training)
    return replace(result, aic=found.aic, bic=found.bic, criteria_on=found.counted)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
