"""`evaluate`: the same measures, in the same units, for every model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from latentia.data import Dataset, Schema, Stream
from latentia.distributions.divergence import kl_divergence
from latentia.errors import CapabilityError
from latentia.inference.annealed import Annealing, Sandwich, annealed_log_marginal, bidirectional
from latentia.inference.importance import MEMORY, LogMarginal, doubtful
from latentia.measure.baseline import Gain, without_latents
from latentia.measure.criteria import Criteria, criteria
from latentia.measure.diagnose import diagnose
from latentia.measure.marginal import exact_marginal, log_marginal, of_each
from latentia.measure.means import WeightedMean
from latentia.measure.remarks import count_observed, made_ready, remark
from latentia.model import DirectedModel, LatentVariableModel, TractableModel, in_evaluation

SAMPLE = 2**20
"""Numbers in the part of a stream from which it is told what the latents carry."""


@dataclass
class Evaluation:
    """What `latentia evaluate` says. Means over the data, weighted by their weights.

    Attributes:
        log_marginal: mean log p(x); log_marginal_se: its standard error over the data; log_marginal_mc_se: the part
            of it that more importance samples would take away, NaN (null) for a single sample, which has no spread.
        elbo, reconstruction, kl: of the model's posterior; for an exact one the bound is log p(x) itself.
        rate, distortion: the KL, and minus the reconstruction: R + D = -ELBO (Alemi et al. 2018, section 2).
        mutual_information: I(x; z) under the aggregate posterior of the data; mutual_information_upper: a bound from
            above, on average over samples; total_correlation, dimension_wise_kl: what else the KL is made of, see
            `diagnose.Information`. Each with its standard error over the data and their draws of z.
        active_units, latent_units, kl_per_unit, verdict, layers: see `diagnose`.
        without_z: mean log p(x) of the best model without z, see `baseline.without_latents`, fitted to the training
            data where they are given; gain: how much more log_marginal is, with its standard error over the data;
            without_z_how: what model it is. None where there is none.
        method: "exact" or "importance sampling"; importance_samples: K; effective_sample_size: its mean.
        pareto_above: the share of data whose importance weights have a Pareto k above pareto_threshold,
            min(1 - 1 / log10 K, 0.7): their log p(x), and its error, cannot be trusted. None where exact, or with too
            few samples to tell.
        naive_log_marginal: by samples from the prior, where asked for, with the same errors and sample size.
        annealed_log_marginal: by annealed importance sampling, where asked for, of `annealed_n` of the data, with the
            same errors and the effective number of chains; annealed_gain: how much more it is than log_marginal for
            the same data, with its standard error over them; annealed_gap: between its bounds from above and below on
            data simulated from the model; annealed_how: in words.
        aic, bic: of the training data, see `Criteria`; criteria_on: which they are, and how many.
        free_parameters: how many numbers learning has set.
        bits_per_dimension, perplexity: derived where they make sense; `divided_by` says by what.
        each: log p(x) of each datum and its weight, (N, 2) float64; not among the plain values.
    """

    n: int
    units: str
    log_marginal: float
    log_marginal_se: float
    log_marginal_mc_se: float
    elbo: float
    reconstruction: float
    kl: float
    mutual_information: float
    active_units: int
    latent_units: int
    kl_per_unit: list[float] | None
    verdict: str
    method: str
    importance_samples: int | None
    effective_sample_size: float | None
    seed: int
    total_log_marginal: float
    naive_log_marginal: float | None = None
    naive_log_marginal_se: float | None = None
    naive_log_marginal_mc_se: float | None = None
    naive_effective_sample_size: float | None = None
    rate: float = math.nan
    distortion: float = math.nan
    mutual_information_upper: float | None = None
    total_correlation: float | None = None
    dimension_wise_kl: float | None = None
    mutual_information_se: float = math.nan
    mutual_information_upper_se: float | None = None
    total_correlation_se: float | None = None
    dimension_wise_kl_se: float | None = None
    without_z: float | None = None
    gain: float | None = None
    gain_se: float | None = None
    without_z_how: str | None = None
    pareto_above: float | None = None
    pareto_threshold: float | None = None
    annealed_log_marginal: float | None = None
    annealed_log_marginal_se: float | None = None
    annealed_log_marginal_mc_se: float | None = None
    annealed_effective_sample_size: float | None = None
    annealed_gain: float | None = None
    annealed_gain_se: float | None = None
    annealed_gap: float | None = None
    annealed_gap_se: float | None = None
    annealed_n: int | None = None
    annealed_how: str | None = None
    free_parameters: int | None = None
    aic: float | None = None
    bic: float | None = None
    criteria_on: str | None = None
    bits_per_dimension: float | None = None
    perplexity: float | None = None
    divided_by: str | None = None
    evaluated_on: str = "the data given"
    layers: dict[str, dict[str, Any]] | None = None
    each: Tensor | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes null, as JSON has no word for it."""
        return {name: _finite(getattr(self, name)) for name in PLAIN}


PLAIN = tuple(part.name for part in fields(Evaluation) if part.name != "each")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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

    Raises:
        DataError: no data, or data that the model cannot generate.
    """
    options: dict[str, Any] = {"importance_samples": importance_samples, "seed": seed, "memory": memory}
    is_exact = isinstance(model, TractableModel)
    if isinstance(data, Stream):
        result = _of_stream(model, data, {"naive": naive, "annealing": annealing}, options)
        return result if training is None or not is_exact else _with_criteria(result, criteria(model, training))
    data = made_ready(model, data, seed)
    marginal = exact_marginal(model, data) if is_exact else log_marginal(model, data, progress=progress, **options)
    weights, shift = data.batch().weights.double().cpu(), data.log_det().cpu()
    mean = WeightedMean(weights)
    remarks = remark(data, marginal.value + shift)
    gain = _gain(model, data, marginal, training if isinstance(training, Dataset) else None)
    found = diagnose(model, data, seed=seed, gain=gain)
    value, threshold = marginal.value + shift, doubtful(importance_samples)
    above = _above(marginal.pareto_k, threshold, mean)
    kl = float(mean(_kl(model, data, seed)))
    # the KL in closed form where there is one: the bound is then the less noisy for it
    reconstruction = (
        float(mean(marginal.elbo + shift)) + kl if is_exact else float(mean(marginal.reconstruction + shift))
    )
    bound = reconstruction - kl if isinstance(model, DirectedModel) else float(mean(marginal.elbo + shift))
    result = Evaluation(
        n=len(data),
        units=data.schema.unit,
        log_marginal=float(mean(value)),
        log_marginal_se=mean.error(value),
        log_marginal_mc_se=mean.combined(marginal.standard_error),
        elbo=bound,
        reconstruction=reconstruction,
        kl=kl,
        rate=kl,
        distortion=-reconstruction,
        mutual_information=found.mutual_information,
        mutual_information_upper=found.mutual_information_upper,
        total_correlation=found.total_correlation,
        dimension_wise_kl=found.dimension_wise_kl,
        mutual_information_se=found.mutual_information_se,
        mutual_information_upper_se=found.mutual_information_upper_se,
        total_correlation_se=found.total_correlation_se,
        dimension_wise_kl_se=found.dimension_wise_kl_se,
        active_units=found.active_units,
        latent_units=found.latent_units,
        kl_per_unit=found.kl_per_unit,
        verdict=" ".join([found.verdict + _doubt(above, threshold), *remarks]),
        without_z=None if gain is None else gain.without,
        gain=None if gain is None else gain.value,
        gain_se=None if gain is None else gain.standard_error,
        without_z_how=None if gain is None else gain.how,
        pareto_above=above,
        pareto_threshold=None if above is None else threshold,
        layers=found.layers,
        method="exact" if is_exact else "importance sampling",
        importance_samples=None if is_exact else importance_samples,
        effective_sample_size=None if is_exact else float(mean(marginal.effective_sample_size)),
        free_parameters=model.free_parameters(),
        seed=seed,
        total_log_marginal=mean.total * float(mean(value)),
        each=torch.stack([value, weights], 1),
    )
    result = _with_unknown(_derived(result, data.schema, count_observed(data, weights), mean.total), data)
    if naive:
        result = _with_naive(
            result, log_marginal(model, data, proposal="prior", progress=progress, **options), mean, shift
        )
    if annealing is not None:
        result = _with_annealed(result, model, data, annealing, value, {"seed": seed, "memory": memory}, progress)
    return result if training is None or not is_exact else _with_criteria(result, criteria(model, training))


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


def _kl(model: LatentVariableModel, data: Dataset, seed: int) -> Tensor:
    """KL(q(z | x) || p(z)) of each datum, (N,)."""
    if not isinstance(model, DirectedModel):
        return torch.full((len(data),), math.nan, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return of_each(
            model, data, lambda batch: kl_divergence(model.posterior(batch), model.prior(batch.frame)).sum(-1), 512
        )


def _of_stream(model: LatentVariableModel, data: Stream, others: dict[str, Any], options: dict[str, Any]) -> Evaluation:
    """log p(x) of all data, a chunk at a time, by merging means and variances (Chan, Golub and LeVeque 1983)."""
    sample = data.sample(max(SAMPLE // data.entries, 1), options["seed"])
    found = evaluate(model, sample, **others, **options)
    if len(sample) == len(data):
        return found
    total = average = square = noise = observed = 0.0
    for chunk in data.chunks():
        is_exact = isinstance(model, TractableModel)
        marginal = exact_marginal(model, chunk) if is_exact else log_marginal(model, chunk, **options)
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
    return _derived(result, data.schema, observed, total)


def _derived(result: Evaluation, schema: Schema, observed: float, weight: float) -> Evaluation:
    """Add perplexity for symbols, and bits a dimension for discrete coordinates of a fixed number."""
    if schema.values == "symbols":
        marks = f"{observed:,.0f} observed symbols; the end of a sequence is not counted"
        return replace(result, perplexity=_exp(-result.total_log_marginal / max(observed, 1.0)), divided_by=marks)
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


def _with_criteria(result: Evaluation, found: Criteria) -> Evaluation:
    return replace(result, aic=found.aic, bic=found.bic, criteria_on=found.counted)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
