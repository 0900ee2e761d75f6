"""The best model without z: what latents must beat before anything is said in their favour."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Multinomial,
    MultivariateNormal,
    Normal,
    Poisson,
)

from latentia.data import Dataset
from latentia.distributions.columns import ByColumn
from latentia.distributions.emissions import (
    BernoulliEmissions,
    CategoricalEmissions,
    CategoricalVectorEmissions,
    ColumnEmissions,
    Emissions,
    GaussianEmissions,
    MultinomialEmissions,
    PoissonEmissions,
)
from latentia.distributions.latents import each
from latentia.distributions.logical_forms import is_structure
from latentia.distributions.observed import plain
from latentia.errors import CapabilityError, DataError
from latentia.model import DirectedModel, LatentVariableModel, Statistics

FOLDS, STEPS, SMOOTHING, MOST = 10, 5, 0.5, 20_000
SEQUENTIAL = ("sequence", "text")
Rows = tuple[Tensor, Tensor | None, Tensor]  # x, mask and weights


class Baseline(NamedTuple):
    """log p(x) of each datum without z, (N,) float64, nats, in the model's own coordinates; and what gives it."""

    value: Tensor
    how: str


class Gain(NamedTuple):
    """How much more the mean log p(x) of a model is than that of the best one without z, in nats.

    Attributes:
        value: the mean over the data of the difference; standard_error: of it, datum by datum.
        without: mean log p(x) without z, in the units of the data as given; how: what gives it.
    """

    value: float
    standard_error: float
    without: float
    how: str


def without_latents(model: LatentVariableModel, data: Dataset, training: Dataset | None = None) -> Baseline | None:
    """log p(x) of the data without z, by the better of two: the family of p(x | z) with parameters that are the same
    for all x (and all steps of a sequence), fitted by maximum likelihood with half a count of every value more; and the
    model's own decoder where z is its prior mean, the same for all, which is all there is for other families.

    Args:
        data: what it is measured on, frozen.
        training: what it is fitted to; where there is none, a tenth of the data has what the other nine give.

    Returns:
        None where there is no such model, or none that could be fitted.
    """
    if not isinstance(model, DirectedModel):
        return None
    weight = data.batch().weights.double().cpu()
    found = []
    for make in (lambda: _by_family(model, data, training), lambda: _at_the_mean(model, data)):
        try:
            found.append(make())
        except (CapabilityError, DataError, NotImplementedError, RuntimeError):  # such as a covariance of no full rank
            continue
    known = [one for one in found if one is not None and bool(one.value.isfinite().all())]
    return max(known, key=lambda one: float(weight @ one.value), default=None)


def _by_family(model: DirectedModel, data: Dataset, training: Dataset | None) -> Baseline | None:
    family = _family(model, data)
    return None if family is None else Baseline(_marginal(family, data, training), _words(family, data))


def _family(model: DirectedModel, data: Dataset) -> Emissions | None:
    """One distribution over x, or over one step of it, of the family of p(x | z)."""
    two = data.batch(slice(0, 2), model.anchor.dtype).to(model.anchor)
    with torch.random.fork_rng():
        z: Any = model.prior(two.frame).sample((1,))  # type: ignore[arg-type]
    likelihood = plain(model.likelihood(z, two.frame))
    steps = data.schema.kind in SEQUENTIAL
    width = two.x.shape[2:].numel() if steps else two.x.shape[1:].numel()
    return _emissions(likelihood, width, steps and two.x.ndim == 2)


def _emissions(likelihood: Distribution, width: int, single: bool) -> Emissions | None:
    while isinstance(likelihood, Independent):
        likelihood = likelihood.base_dist
    if isinstance(likelihood, MixtureSameFamily):
        return _emissions(likelihood.component_distribution, width, single)
    if isinstance(likelihood, Categorical):
        levels = likelihood.probs.shape[-1]
        if single:
            return CategoricalEmissions(1, levels, SMOOTHING)
        return CategoricalVectorEmissions(1, levels, width, SMOOTHING)
    if isinstance(likelihood, ByColumn):
        return ColumnEmissions(1, likelihood.columns, smoothing=SMOOTHING)
    if isinstance(likelihood, (Normal, MultivariateNormal)):
        return GaussianEmissions(1, width, "full" if isinstance(likelihood, MultivariateNormal) else "diagonal")
    forms: dict[type, type[Emissions]] = {
        Bernoulli: BernoulliEmissions, Poisson: PoissonEmissions, Multinomial: MultinomialEmissions
    }  # fmt: skip
    form = forms.get(type(likelihood))
    return None if form is None else form(1, width, SMOOTHING)  # type: ignore[call-arg]


def _words(family: Emissions, data: Dataset) -> str:
    if data.schema.drops:
        return "the same words in every document"
    if data.schema.kind in SEQUENTIAL:
        return "steps independent of each other"
    return "one Gaussian" if isinstance(family, GaussianEmissions) and family.dense else "independent coordinates"


def _marginal(family: Emissions, data: Dataset, training: Dataset | None) -> Tensor:
    family = family.double()
    if training is not None:
        chosen = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:MOST]
        rows = _rows(training.subset(chosen.sort().values).frozen(0))
        _start(family, rows)
        _climb(family, [rows])
        return _log_prob(family, data)
    value = torch.empty(len(data), dtype=torch.float64)
    fold = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)) % min(FOLDS, max(len(data), 2))
    places = [(fold == k).nonzero().squeeze(-1) for k in fold.unique().tolist()]
    if len(places) < 2:
        raise DataError("one datum leaves none to fit a model without z to")
    parts = [_rows(data.subset(place)) for place in places]
    _start(family, _rows(data))
    # what is missing makes them depend on the parameters: those of each nine folds have to be learned then
    sums = [_sums(family, rows) for rows in parts] if all(mask is None for _, mask, _ in parts) else None
    for k, place in enumerate(places):
        if sums is None:
            _climb(family, [*parts[:k], *parts[k + 1 :]])
        else:
            family.update(_added([*sums[:k], *sums[k + 1 :]]))
        value[place] = _log_prob(family, data.subset(place))
    return value


def _start(family: Emissions, rows: Rows) -> None:
    x, mask, weight = rows
    if not bool((weight > 0).any()):
        raise DataError("there is nothing to fit a model without z to")
    family.check(x, mask)
    family.start(x, mask, weight, torch.Generator().manual_seed(0))
    if isinstance(family, (BernoulliEmissions, CategoricalVectorEmissions, MultinomialEmissions)):
        # the half counts are of every value alike: of many levels most have not been seen in few data
        family.average.fill_(0.5 if isinstance(family, BernoulliEmissions) else 1 / family.average.shape[-1])


def _climb(family: Emissions, parts: list[Rows]) -> None:
    # what is missing is expected under the last step's parameters
    for _ in range(1 if all(mask is None for _, mask, _ in parts) else STEPS):
        family.update(_added([_sums(family, rows) for rows in parts]))


def _sums(family: Emissions, rows: Rows) -> Statistics:
    x, mask, weight = rows
    return family.statistics(x, mask, weight.unsqueeze(-1))


def _added(sums: list[Statistics]) -> Statistics:
    return {name: torch.stack([part[name] for part in sums]).sum(0) for name in sums[0]}


def _log_prob(family: Emissions, data: Dataset) -> Tensor:
    x, mask, _ = _rows(data)
    return family.log_prob(x, mask).squeeze(-1).double().reshape(len(data), -1).sum(1)


def _rows(data: Dataset) -> Rows:
    """x, mask and weights of what is independent: (M, D), or (M,) for symbols. Beyond a sequence's end nothing is."""
    batch = data.batch(dtype=torch.float64)
    if data.schema.kind not in SEQUENTIAL:
        x = batch.x.double() if batch.x.is_floating_point() else batch.x
        return x.flatten(1), None if batch.seen is None else batch.seen.flatten(1), batch.weights.double()
    seen = batch.observed
    weight = batch.weights.double().repeat_interleave(batch.x.shape[1])
    weight = weight * seen.unsqueeze(-1).flatten(2).any(-1).flatten()
    return batch.x.flatten(0, 1), seen.flatten(0, 1), weight


def _at_the_mean(model: DirectedModel, data: Dataset) -> Baseline | None:
    """The decoder's own log p(x) where z is E_p[z], whatever x is."""
    parts = []
    for batch in data.batches(256, dtype=model.anchor.dtype):
        batch = batch.to(model.anchor)
        prior = model.prior(batch.frame)
        if is_structure(prior) or prior.has_enumerate_support:
            return None
        z = each(lambda part: part.unsqueeze(0), prior.mean)
        parts.append(model.log_likelihood(batch, z).squeeze(0).double().cpu())
    return Baseline(torch.cat(parts), "the decoder at the prior's mean")
