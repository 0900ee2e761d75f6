"""What x and z tell of each other: mutual information, its bounds, and the parts of the KL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.nn.functional import pad

from latentia.data import Dataset
from latentia.distributions.bounded import log_prob_or_bound
from latentia.distributions.brackets import Brackets
from latentia.distributions.canonical import LOG_2PI, CanonicalGaussian
from latentia.distributions.joint import Joint
from latentia.distributions.latents import each, flat, sizes
from latentia.distributions.logical_forms import is_structure
from latentia.model import Batch, DirectedModel, LatentVariableModel

PAIRS = 2**18
"""Numbers that a block of pairwise posterior densities may hold: those of a block that stays in the cache."""

DRAWS, WORK, DEAR = 16, 2**25, 16
"""Draws of z for each datum: so many, or as many as make so many numbers of pairwise densities, if that is less; each
number counted so many times where it takes a recursion, or a network's pass."""

CERTAIN = 3.0
"""Standard errors by which one bound must be below another to be taken instead: the lesser of two that are as good as
equal would be below both on average, and no bound."""


class Information(NamedTuple):
    """The KL of the posterior from the prior taken apart (Chen, Li, Grosse and Duvenaud 2018, section 3), in nats:

        E_x KL(q(z | x) || p(z)) = I_q(x; z) + KL(q(z) || prod_d q(z_d)) + sum_d KL(q(z_d) || p(z_d))

    where q(z) is the mean of q(z | x_n) over the data. Sampled, `draws` of z a datum, or fewer where each dimension is
    looked at. An error is the standard error of a part over the data and their draws, NaN for a single datum. A part
    near 0 may come out below it, by about its error.

    Attributes:
        mutual_information: I of the data that were drawn, log q(z) counting a draw's own datum: unbiased for those
            data. Its mean over sets of data is no more than I of all the data that there could be, and it cannot
            exceed `ceiling` by more than noise. Exact for a z that can be enumerated.
        upper: the same with the draw's own datum left out of q(z): on average no less than I of all data (Poole et al.
            2019, section 2). The mean KL is no less either, and taken instead where it is lower beyond doubt, by
            `CERTAIN` standard errors of the difference. One sample of either may lie below I, by about its error.
        ceiling: the logarithm of the number of data.
        total_correlation: KL(q(z) || prod_d q(z_d)): the dependence between latent dimensions; None where q(z | x) has
            no marginals in closed form. Near the ceiling it holds what the mutual information lacks.
        dimension_wise_kl: sum_d KL(q(z_d) || p(z_d)); None as before, or where the prior does not factorise.
        kl: what the parts add up to where all are known, else the sampled E KL(q(z | x) || p(z)); None for a model
            without a prior.
        draws: of z for each datum; None where exact.
    """

    mutual_information: float
    upper: float | None
    ceiling: float
    total_correlation: float | None = None
    dimension_wise_kl: float | None = None
    kl: float | None = None
    mutual_information_se: float = math.nan
    upper_se: float | None = None
    total_correlation_se: float | None = None
    dimension_wise_kl_se: float | None = None
    draws: int | None = None


def posterior_means(model: LatentVariableModel, data: Dataset) -> Tensor:
    """E_q[z] with one row a datum and one column a unit, (M, D) in float64; for sequences a row a step."""
    return _all_means(model, data).rows


class Means(NamedTuple):
    """E_q[z], a row a datum or a step of it, (M, D) float64, and the weight of each row, (M,)."""

    rows: Tensor
    weight: Tensor

    @classmethod
    def joined(cls, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Means:
        """What `mean_rows` gives for batches, put into the data's order. Where z is a place in the context, a batch of
        shorter contexts has fewer columns: the places that are not there have probability 0."""
        means, *rest = zip(*parts, strict=True)
        widest = max(part.shape[1] for part in means)
        rows = torch.cat([pad(part, (0, widest - part.shape[1])) for part in means])
        weights, order = map(torch.cat, rest)
        order = order.argsort(stable=True)
        return cls(rows[order], weights[order])

    @property
    def present(self) -> Means:
        """Those of some weight: what is absent may be impossible, and have no mean."""
        there = self.weight > 0
        return self if bool(there.all()) else Means(self.rows[there], self.weight[there])

    @property
    def average(self) -> Tensor:
        """Over the data, (D,)."""
        present = self.present
        return (present.weight / present.weight.sum().clamp(min=1e-300)) @ present.rows


def mean_rows(at: Tensor, batch: Batch, q: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    """E_q[z] of the data at the positions `at`, the weight of each row, and its datum's position."""
    mean: Any = q.mean
    mean = flat(mean) if isinstance(mean, dict) else mean
    # of trees without labels there is one thing to say of a span: whether it is a constituent
    mean = mean.unsqueeze(-1) if isinstance(q, Brackets) else mean
    steps = mean.shape[1:-1].numel()
    mean = mean.reshape(-1, mean.shape[-1]).double().cpu()
    weight, at = (part.repeat_interleave(steps) for part in (batch.weights.double().cpu(), at.cpu()))
    # beyond the end of a sequence there is no state
    inside = mean.sum(-1) > 0 if is_structure(q) else torch.ones_like(weight, dtype=torch.bool)
    return mean[inside], weight[inside], at[inside]


def _all_means(model: LatentVariableModel, data: Dataset) -> Means:
    batches = ((at, batch.to(model.anchor)) for at, batch in data.by_length(512, model.anchor.dtype))
    return Means.joined(mean_rows(at, batch, model.posterior(batch)) for at, batch in batches)


def mutual_information(
    model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000
) -> tuple[float, float]:
    """I_q(x; z) = E_x E_q(z|x) [log q(z | x) - log q(z)], q(z) the mean of q(z | x_n): (nats, its ceiling).

    The aggregate posterior q(z) is that of the data (Hoffman and Johnson 2016; Li et al. 2019, section 4), not of a
    minibatch. Exact for a z that can be enumerated; else one draw of z for each of `limit` data drawn at random, and
    then it cannot exceed log N. For chains the length is given, so q(z) is over the sequences of the same length.
    """
    found = decompose(model, data, seed=seed, limit=limit)
    return found.mutual_information, found.ceiling


@torch.no_grad()
def decompose(model: LatentVariableModel, data: Dataset, *, seed: int = 0, limit: int = 2000) -> Information:
    """What z and x tell of each other, what the dimensions of z tell of each other, and how far each is from its prior.

    Args:
        limit: of the data drawn at random (an eighth of them where z is structured, or layers depend on x and on each
            other); the cost is its square, times the draws of z for each.
    """
    if model.posterior(first_of(model, data)).has_enumerate_support:
        return enumerated(_all_means(model, data))
    batches = [data.batch(part, model.anchor.dtype).to(model.anchor) for part in paired(model, data, seed, limit)]
    return by_pairs(model, [(batch, model.posterior(batch)) for batch in batches], seed)


def by_pairs(model: LatentVariableModel, some: list[tuple[Batch, Distribution]], seed: int) -> Information:
    """By the density of each draw of z under the posterior of every datum of its batch."""
    pairs = sum(batch.size**2 * _width(q) for batch, q in some)
    draws = _draws(pairs * (DEAR if _is_dear(some[0][1]) else 1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = [_drawn(model, batch, q, draws) for batch, q in some]
    own, aggregate, mass, weight = (torch.cat(values, -1) for values in zip(*(one for one, _ in drawn), strict=True))
    apart = zip(*(parts for _, parts in drawn), strict=True)
    parts = _Parts(*(None if values[0] is None else torch.cat(values, -1) for values in apart))
    information, information_se = divergence(own - aggregate, weight)
    upper, upper_se = _upper(own - _left_out(aggregate, own, weight, mass), parts.kl, weight)
    found = Information(
        mutual_information=information,
        upper=upper,
        ceiling=float((weight / weight.sum() * (mass.log() - weight.log())).sum()),
        kl=None if parts.kl is None else divergence(parts.kl, weight)[0],
        mutual_information_se=information_se,
        upper_se=upper_se,
        draws=draws,
    )
    return found if parts.joint is None else _with_dimensions(found, parts.joint, parts.units, aggregate, weight)


def _with_dimensions(
    found: Information, joint: Tensor, units: Tensor | None, aggregate: Tensor, weight: Tensor
) -> Information:
    total, total_se = divergence(aggregate[: len(joint)] - joint, weight)
    found = found._replace(total_correlation=total, total_correlation_se=total_se)
    if units is None:
        return found
    value, error = mean_and_error((joint - units).mean(0), weight)
    kl = found.mutual_information + total + value
    return found._replace(dimension_wise_kl=value, dimension_wise_kl_se=error, kl=kl)


def enumerated(means: Means) -> Information:
    """Of a z with so few values that q(z) is a row of their probabilities, (N, K) a datum: exact for these."""
    rows, weight = means.present
    each = (torch.special.xlogy(rows, rows) - torch.special.xlogy(rows, means.average)).sum(-1)
    value, error = mean_and_error(each, weight)
    # rounding alone can take a sum of divergences below 0
    return Information(max(value, 0.0), None, math.log(len(rows)), mutual_information_se=error)


def mean_and_error(values: Tensor, weight: Tensor) -> tuple[float, float]:
    """The mean of independent data (N,), weighted (N,), and its standard error; a weight is a number of repetitions."""
    total = float(weight.sum())
    share = weight / max(total, 1e-300)
    # an absent datum adds nothing, even when it is impossible
    mean = torch.where(share > 0, share * values.double(), 0.0).sum()
    if total <= 1:
        return float(mean), math.nan
    spread = torch.where(share > 0, share * (values.double() - mean) ** 2, 0.0).sum()
    return float(mean), math.sqrt(float(spread) / (total - 1))


def divergence(log_ratio: Tensor, weight: Tensor) -> tuple[float, float]:
    """E log(q / p) and its standard error, from log(q / p) at draws from q, (S, N), of data weighted (N,).

    E p / q = 1, so log(q / p) + p / q - 1 has the same mean, and is nowhere below 0: where q is near p its noise is of
    second order. Where it is far p / q is 1 on average through values that are hardly ever drawn, and log(q / p) alone
    is taken, unless the other has less than a quarter of its variance.
    """
    near = log_ratio + torch.expm1((-log_ratio).clamp(max=300.0))
    calm = near.var(unbiased=False) < 0.25 * log_ratio.var(unbiased=False)
    return mean_and_error((near if bool(calm) else log_ratio).mean(0), weight)


def _upper(left_out: Tensor, kl: Tensor | None, weight: Tensor) -> tuple[float | None, float | None]:
    """The bound on the mutual information from above, and its error: see `Information.upper`."""
    if kl is not None:
        lower, error = mean_and_error((left_out - kl).mean(0), weight)
        if not math.isfinite(lower) or lower > CERTAIN * error:
            return divergence(kl, weight)
    value, error = divergence(left_out, weight)
    return (value, error) if math.isfinite(value) else (None, None)


def _draws(numbers: int) -> int:
    """How many draws of z a datum `WORK` allows, where one for each datum takes so many numbers."""
    return max(min(DRAWS, WORK // numbers), 1)


def _width(q: Distribution) -> int:
    """Numbers in the density of a pair of z_m and x_n."""
    if _gaussian_pairs(q) is not None:
        return 1
    return sum(part[0].numel() for part in q.sample().values()) if isinstance(q, Joint) else q.event_shape.numel()


def _drawn(model: LatentVariableModel, batch: Batch, q: Distribution, draws: int) -> tuple[tuple[Tensor, ...], _Parts]:
    """Of draws z for each datum, (S, M): log q(z | x) and log q(z); and (M,), the weight of the data that q(z) is of,
    and the datum's own."""
    weight = batch.weights.double()
    z: Any = q.sample((draws,))  # type: ignore[arg-type]
    lengths = getattr(q, "lengths", weight.new_zeros(1)).expand(len(weight))
    mass = (weight * (lengths.unsqueeze(-1) == lengths)).sum(-1)
    own, aggregate = q.log_prob(z).double(), _log_aggregate(q, z, weight) - mass.log()
    return (own, aggregate, mass, weight), _apart(model, batch, q, z, weight)


def paired(model: LatentVariableModel, data: Dataset, seed: int, limit: int) -> list[Tensor]:
    """The positions of the data that are held against each other, a group of them each.

    At random: the first so many of a sorted file would be all of one kind. Of chains those together whose lengths are
    within a factor of two: q(z) is over sequences of one length, and a long one would pad all pairs.
    """
    q = model.posterior(data.batch(slice(0, 2), model.anchor.dtype).to(model.anchor))
    present = (data.batch().weights > 0).nonzero().squeeze(-1)
    count = min(limit // 8 if _is_dear(q) else limit, len(present))
    order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    chosen = present[order.to(present.device)]
    if not hasattr(q, "lengths"):
        return [chosen]
    size = data.batch(chosen).ends.clamp(min=1).log2().long()
    return [chosen[size == value] for value in size.unique()]


def _is_dear(q: Distribution) -> bool:
    """Whether the density of each pair of z_m and x_n takes a recursion, or a network's pass."""
    if not isinstance(q, Joint):
        return is_structure(q)
    z = {name: part.unsqueeze(1) for name, part in q.sample().items()}
    shapes = [q.conditional(name, z).batch_shape for name, part in q.parts.items() if callable(part)]
    return any(shape[1] > 1 for shape in shapes)


def _left_out(aggregate: Tensor, own: Tensor, weight: Tensor, mass: Tensor) -> Tensor:
    """log q(z) of each draw by the other data alone, (S, M)."""
    share = (weight.log() - mass.log() + own - aggregate).exp().clamp(max=1.0)
    return aggregate + torch.log1p(-share) - torch.log1p(-weight / mass)


class _Parts(NamedTuple):
    """Of draws z_m, in nats: sum_d log q(z_d) and sum_d log p(z_d) of the first few of each datum, and of all
    log q(z | x_m) - log p(z), (S, M)."""

    joint: Tensor | None
    units: Tensor | None
    kl: Tensor | None


def _apart(model: LatentVariableModel, batch: Batch, q: Distribution, z: Any, weight: Tensor) -> _Parts:
    prior = model.prior(batch.frame) if isinstance(model, DirectedModel) else None
    kl = None if prior is None else (q.log_prob(z) - log_prob_or_bound(prior, z)).double()
    units = _marginals(q)
    if units is None:
        return _Parts(None, None, kl)
    z = z[: _draws(len(weight) ** 2 * units.batch_shape[1])]
    joint = _log_aggregate(units, z, weight, apart=True) - weight.sum().log()
    factors = None if prior is None else _marginals(prior)
    return _Parts(joint.sum(-1), None if factors is None else factors.log_prob(z).double().flatten(2).sum(-1), kl)


def _marginals(q: Distribution) -> Distribution | None:
    """q(z_d | x), a distribution of batch shape (B, D); None where it is not known, or z is not one vector."""
    if isinstance(q, Independent) and q.reinterpreted_batch_ndims == 1 and not q.base_dist.event_shape:
        return q.base_dist if len(q.base_dist.batch_shape) == 2 else None
    if isinstance(q, (MultivariateNormal, CanonicalGaussian)):
        return Normal(q.mean, q.variance.sqrt(), validate_args=False)
    return None


def _gaussian_pairs(q: Distribution) -> Callable[[Tensor], Tensor] | None:
    """log q(z_m | x_n) of draws (M, D) under every datum, (M, N), by matrix products; None where q is not Gaussian.

    In float64, in which squares that are multiplied out lose nothing that shows.
    """
    if isinstance(q, CanonicalGaussian) and q.tril.ndim == 2:
        turn = q.tril.double()
        mean, precision = q.mean.double() @ turn, torch.ones((), dtype=torch.float64, device=turn.device)
        log_det = turn.diagonal().log().sum()
    elif isinstance(q, Independent) and isinstance(q.base_dist, Normal) and q.base_dist.loc.ndim == 2:
        turn, mean, precision = None, q.base_dist.loc.double(), q.base_dist.scale.double() ** -2
        log_det = 0.5 * precision.log().sum(-1)
    else:
        return None
    constant = log_det - 0.5 * (mean**2 * precision).sum(-1) - 0.5 * mean.shape[1] * LOG_2PI

    def pairs(z: Tensor) -> Tensor:
        z = z if turn is None else z @ turn
        square = (z**2 @ precision.mT) if precision.ndim else (z**2).sum(-1, keepdim=True)
        return constant - 0.5 * square + z @ (mean * precision).mT

    return pairs


def _normal_pairs(q: Normal, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """log weight_n q(z_md | x_n) of draws (M, D) under every datum, dimension by dimension, (D, M, N): a square
    multiplied out, by a product of matrices, as in `_gaussian_pairs`."""
    mean, precision = q.loc.double().mT, q.scale.double().mT ** -2
    constant = weight.log() + 0.5 * precision.log() - 0.5 * mean**2 * precision - 0.5 * LOG_2PI
    factors = torch.stack([-0.5 * precision, mean * precision, constant], 1)

    def pairs(z: Tensor) -> Tensor:
        return torch.stack([z**2, z, torch.ones_like(z)], -1).transpose(0, 1) @ factors

    return pairs


def _log_aggregate(q: Distribution, z: Any, weight: Tensor, apart: bool = False) -> Tensor:
    """log sum_n weight_n q(z_m | x_n) of all draws, (S, M); of distributions that are `apart`, (S, M, D)."""
    many, count = isinstance(z, dict), len(weight)
    shape = (next(iter(z.values())) if many else z).shape[:2]
    z = {name: part.flatten(0, 1) for name, part in z.items()} if many else z.flatten(0, 1)
    pairs = None if apart else _gaussian_pairs(q)
    if pairs is not None:
        rows = max(PAIRS // count, 1)
        parts = [torch.logsumexp(pairs(part) + weight.log(), 1) for part in z.double().split(rows)]
        return torch.cat(parts).unflatten(0, shape)
    width = sum(sizes(z))
    rows = max(PAIRS // (count * width), 1)
    if apart and isinstance(q, Normal):
        pairs = _normal_pairs(q, weight)
        return torch.cat([torch.logsumexp(pairs(part), 2).mT for part in z.double().split(rows)]).unflatten(0, shape)
    shares = weight.log().unsqueeze(-1) if apart else weight.log()
    parts = []
    for start in range(0, shape.numel(), rows):
        block = slice(start, start + rows)
        drawn = each(lambda part, block=block: part[block].unsqueeze(1), z)
        parts.append(torch.logsumexp(q.log_prob(drawn) + shares, 1))  # type: ignore[arg-type]
    return torch.cat(parts).unflatten(0, shape)


def first_of(model: LatentVariableModel, data: Dataset) -> Batch:
    return data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor)
