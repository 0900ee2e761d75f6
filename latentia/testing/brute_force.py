"""log p(x) and every x of a small model by enumeration and quadrature, without its posterior."""

from __future__ import annotations

import itertools
import math
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Independent, MultivariateNormal, Normal
from torch.distributions.constraints import boolean as boolean_constraint
from torch.distributions.constraints import independent as independent_constraint

from latentia.batch import Batch
from latentia.distributions import (
    Bernoullis,
    Brackets,
    Categoricals,
    Chain,
    Dependencies,
    RowSegments,
    Segments,
    Structured,
    Tree,
    observed,
)
from latentia.distributions.alignment import LatentAlignment, MonotoneAlignment
from latentia.distributions.canonical import CanonicalGaussian
from latentia.distributions.codes import CodePrior, Quantized
from latentia.distributions.columns import ByColumn
from latentia.distributions.discrete import enumerable
from latentia.distributions.factorial import Chains
from latentia.distributions.flow import Flow
from latentia.distributions.joint import Joint
from latentia.distributions.latents import each
from latentia.distributions.logical_forms import LogicalForms
from latentia.distributions.mixture import Mixture
from latentia.errors import CapabilityError
from latentia.model import DirectedModel, LatentVariableModel
from latentia.testing.expect import NotApplicable, as_directed, as_tractable, require_small

NODES = 80  # Gauss-Hermite nodes a dimension
WIDTH = 8.0  # standard deviations that a grid over real x reaches beyond the outermost means


@singledispatch
def nodes(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Values z (S, B, *event) and log-weights (S, B) such that E f(z) = sum_s exp(log_weight_s) f(z_s).

    All values of a finite z; Gauss-Hermite nodes of a normal z. A family of your own joins by `nodes.register`.
    """
    if not distribution.has_enumerate_support:
        raise NotApplicable(f"{type(distribution).__name__} cannot be enumerated: write nodes.register for it")
    z = distribution.enumerate_support()
    return z, distribution.log_prob(z)


@nodes.register(Bernoullis)
@nodes.register(Categoricals)
def _(distribution: Bernoullis | Categoricals) -> tuple[Tensor, Tensor]:
    """Every combination of values."""
    if not enumerable(distribution):
        raise NotApplicable(f"z of shape {tuple(distribution.event_shape)} has too many values")
    z = distribution.enumerate_support()
    return z, distribution.log_prob(z)


@nodes.register
def _(distribution: Quantized) -> tuple[Tensor, Tensor]:
    """The one point there is."""
    z = distribution.sample((1,))
    return z, distribution.log_prob(z)


@nodes.register
def _(distribution: CodePrior) -> tuple[Tensor, Tensor]:
    """Every word of codes."""
    (size,), codes = distribution.batch_shape, distribution.event_shape[0]
    require_small(distribution.codebook.size**codes)
    every = torch.cartesian_prod(*[torch.arange(distribution.codebook.size)] * codes).reshape(-1, 1, codes)
    every = every.expand(-1, size, -1).to(distribution.like.device)
    return distribution.codebook.lookup(every).to(distribution.like), distribution.terms(every).sum(-1)


@nodes.register
def _(distribution: Chain) -> tuple[Tensor, Tensor]:
    """Every path of states: (K^T, B, T, K). A shorter chain's paths appear once, the others have log-weight -inf."""
    steps, states = distribution.event_shape
    require_small(states**steps)
    paths = torch.cartesian_prod(*[torch.arange(states)] * steps).reshape(-1, steps)
    node = distribution.log_potentials["node"]
    inside = (torch.arange(steps) < distribution.lengths.cpu().unsqueeze(-1)).expand(len(node), -1)
    z = torch.eye(states)[paths].unsqueeze(1) * inside.unsqueeze(-1)
    repeated = ((paths > 0).unsqueeze(1) & ~inside).any(-1)
    z = z.to(node)
    return z, torch.where(repeated.to(node.device), -torch.inf, distribution.log_prob(z))


@nodes.register(LatentAlignment)
@nodes.register(MonotoneAlignment)
def _(distribution: Any) -> tuple[Tensor, Tensor]:
    """Every path of columns, as those of a chain that may go from anywhere to anywhere."""
    node = distribution.log_potentials["node"]
    free = {"initial": node.new_zeros(node.shape[-1]), "transition": node.new_zeros(1, node.shape[-1], node.shape[-1])}
    z, log_weight = nodes(Chain({**free, "node": torch.zeros_like(node)}, distribution.lengths))
    return z, torch.where(log_weight > -torch.inf, distribution.log_prob(z), -torch.inf)


@nodes.register(Segments)
@nodes.register(RowSegments)
def _(distribution: Segments | RowSegments) -> tuple[Tensor, Tensor]:
    """Every label of every pixel."""
    height, width, labels = distribution.event_shape
    require_small(labels ** (height * width))
    every = torch.cartesian_prod(*[torch.arange(labels)] * (height * width)).reshape(-1, 1, height, width)
    z = (
        torch.eye(labels)[every]
        .to(distribution.log_potentials["node"])
        .expand(-1, *distribution.batch_shape, -1, -1, -1)
    )
    return z, distribution.log_prob(z)


@nodes.register
def _(distribution: Chains) -> tuple[Tensor, Tensor]:
    """Every path of every chain: the paths of the one chain over joint states, taken apart."""
    z, log_weight = nodes(distribution.product())
    return distribution.apart(z), log_weight


@nodes.register
def _(distribution: Tree) -> tuple[Tensor, Tensor]:
    """Every labelled binary tree of each datum; of a shorter datum's the last one is repeated with log-weight -inf."""
    first, symbols = distribution.nonterminals, distribution.event_shape[-1]
    kinds = range(first), range(first, symbols)

    def labelled(length: int) -> list[list[tuple[int, ...]]]:
        require_small(math.comb(2 * length, length) * len(kinds[0]) ** max(length - 1, 0) * len(kinds[1]) ** length)
        return [
            [(*span, label) for span, label in zip(spans, labels, strict=True)]
            for spans in bracketings(0, length - 1)
            for labels in itertools.product(*(kinds[i == j] for i, j in spans))
        ]

    return _structures(distribution, [labelled(n) if n > 1 else [] for n in _lengths(distribution)])


@nodes.register
def _(distribution: Brackets) -> tuple[Tensor, Tensor]:
    return _structures(distribution, [bracketings(0, n - 1) if n else [[]] for n in _lengths(distribution)])


@nodes.register
def _(distribution: Dependencies) -> tuple[Tensor, Tensor]:
    """Every assignment of heads: those that are no projective trees have log-weight -inf."""
    return _structures(
        distribution,
        [
            [list(zip(heads, range(n), strict=True)) for heads in itertools.product(range(n), repeat=n)]
            for n in _lengths(distribution)
        ],
    )


def _lengths(distribution: Brackets | Dependencies | Tree) -> list[int]:
    return distribution.lengths.expand(distribution.batch_shape).tolist()


def bracketings(i: int, j: int) -> list[list[tuple[int, ...]]]:
    """Every binary tree over the words from i to j, as lists of spans."""
    if i == j:
        return [[(i, i)]]
    return [
        [(i, j), *left, *right] for k in range(i, j) for left in bracketings(i, k) for right in bracketings(k + 1, j)
    ]


def _structures(distribution: Structured, found: list[list[list[tuple[int, ...]]]]) -> tuple[Tensor, Tensor]:
    """Structures of each datum, given by the entries that are 1, as z (S, B, *event) and their log-weights (S, B)."""
    most = max(1, *(len(structures) for structures in found))
    require_small(most * len(found))
    z = distribution.log_potentials["node"].new_zeros(most, *distribution.batch_shape, *distribution.event_shape)
    extra = torch.zeros(z.shape[:2], dtype=torch.bool, device=z.device)
    for b, structures in enumerate(found):
        extra[len(structures) :, b] = True
        entries = [(s, b, *entry) for s, structure in enumerate(structures) for entry in structure]
        if entries:
            z[tuple(torch.tensor(entries).unbind(-1))] = 1
    return z, torch.where(extra, -torch.inf, distribution.log_prob(z))


@nodes.register
def _(distribution: LogicalForms) -> tuple[Tensor, Tensor]:
    """Every form of the grammar."""
    machine, (size,) = distribution.machine, distribution.batch_shape
    forms = list(machine.grammar.every(machine.most))
    require_small(len(forms) * size)
    z = distribution.like.new_zeros(len(forms), size, *distribution.event_shape)
    for s, actions in enumerate(forms):
        z[s, :, torch.arange(len(actions)), actions] = 1.0
    return z, distribution.log_prob(z)


@nodes.register
def _(distribution: Independent) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes, (NODES^D, B, D), exact for polynomials of degree 2 NODES - 1 in each dimension."""
    normal, latent = distribution.base_dist, distribution.event_shape.numel()
    if not isinstance(normal, Normal):
        raise NotApplicable("of independent latents only normal ones can be integrated")
    require_small(NODES**latent)
    roots, weights = (torch.from_numpy(part).to(normal.loc) for part in np.polynomial.hermite.hermgauss(NODES))
    batch, event = distribution.batch_shape, distribution.event_shape
    grid = torch.cartesian_prod(*[roots] * latent).reshape(-1, *(1,) * len(batch), *event)
    log_weight = torch.cartesian_prod(*[weights.log() - 0.5 * math.log(math.pi)] * latent).reshape(-1, latent).sum(-1)
    z = normal.loc + math.sqrt(2) * normal.scale * grid
    return z, log_weight.reshape(-1, *(1,) * len(batch)).expand(-1, *batch)


@nodes.register
def _(distribution: Joint) -> tuple[Any, Tensor]:
    """The nodes of the first latent, with each of them the nodes of the second one given it, and so on."""
    z: dict[str, Tensor] = {}
    log_weight = torch.zeros(())
    for name in distribution.parts:
        found, added = nodes(distribution.conditional(name, z))
        if not z:
            z, log_weight = {name: found}, added
            continue
        if added.ndim == 2:  # it has no ancestors
            found, added = found.unsqueeze(1), added.unsqueeze(1)
        count, before = len(found), len(log_weight)
        require_small(count * before)
        z = {other: value.repeat(count, *(1,) * (value.ndim - 1)) for other, value in z.items()}
        z[name] = found.expand(count, before, *found.shape[2:]).flatten(0, 1)
        log_weight = (log_weight + added).flatten(0, 1)
    return z, log_weight


@nodes.register
def _(distribution: CanonicalGaussian) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes of independent normals, moved to where the Gaussian has its mean and covariance."""
    zeros = torch.zeros_like(distribution.mean)
    z, log_weight = nodes(Independent(Normal(zeros, torch.ones_like(zeros)), 1))
    factor = torch.linalg.cholesky(distribution.covariance)
    return distribution.mean + (factor @ z.unsqueeze(-1)).squeeze(-1), log_weight


@nodes.register
def _(distribution: MultivariateNormal) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes of a standard normal, moved to where this one is."""
    z, log_weight = nodes(_standard(distribution.loc))
    return distribution.loc + (distribution.scale_tril @ z.unsqueeze(-1)).squeeze(-1), log_weight


@nodes.register
def _(distribution: Flow) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes of the standard normal that the flow bends, bent."""
    shape = distribution.batch_shape + distribution.event_shape
    noise, log_weight = nodes(_standard(distribution.features.new_empty(shape)))
    return distribution.bend(distribution.features)(noise), log_weight


@nodes.register
def _(distribution: Mixture) -> tuple[Tensor, Tensor]:
    """The nodes of every part, weighted as the parts are, the same for every datum."""
    z, log_weight = nodes(distribution.parts)
    z, log_weight = z.flatten(0, 1), (log_weight + distribution.log_weights).flatten()
    (size,) = distribution.batch_shape
    return z.unsqueeze(1).expand(-1, size, *z.shape[1:]), log_weight.unsqueeze(-1).expand(-1, size)


def _standard(like: Tensor) -> Independent:
    return Independent(Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False), 1)


@nodes.register
def _(distribution: Dirichlet) -> tuple[Tensor, Tensor]:
    """Two shares theta = sigmoid(u), sigmoid(-u) at equally spaced u: the trapezoid rule on a smooth function that
    vanishes at both ends, so exact to machine precision, for log theta as well."""
    if distribution.event_shape != (2,):
        raise NotApplicable("of Dirichlet latents only those of two shares can be integrated")
    first, second = distribution.concentration.unbind(-1)
    reach, step = 40.0 / float(distribution.concentration.detach().min().clamp(min=0.06)), 0.25
    u = torch.arange(-reach, reach, step, dtype=first.dtype, device=first.device).unsqueeze(-1)
    logs = torch.nn.functional.logsigmoid(u), torch.nn.functional.logsigmoid(-u)
    normaliser = torch.lgamma(first) + torch.lgamma(second) - torch.lgamma(first + second)
    log_weight = first * logs[0] + second * logs[1] - normaliser + math.log(step)
    return torch.stack(logs, -1).exp().expand(-1, len(first), -1), log_weight


def enumerate_latents(model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """All z, (S, B, *latent), and log p(z) in nats, (S, B), with the quadrature's weight in it where z is real."""
    return nodes(as_directed(model).prior(batch.frame))


@torch.no_grad()
def brute_force_log_marginal(model: LatentVariableModel, batch: Batch, chunk: int = 4096) -> Tensor:
    """log p(x) = log sum_z p(z) p(x | z) in nats, (B,), by enumeration or quadrature, without the posterior.

    A model without a prior, whose posterior is over structures, has its log-joint summed over all of them instead.
    """
    parts = [batch.select(slice(start, start + chunk)) for start in range(0, batch.size, chunk)]
    try:
        return torch.cat([_log_marginal(model, part) for part in parts])
    except CapabilityError as error:  # of a diffusion only a bound is known
        raise NotApplicable(str(error)) from error


def _log_marginal(model: LatentVariableModel, batch: Batch) -> Tensor:
    if isinstance(model, DirectedModel):
        z, log_weight = enumerate_latents(model, batch)
        return torch.logsumexp(model.log_likelihood(batch, z) + log_weight, 0)
    q = model.posterior(batch)
    if not isinstance(q, Structured):
        as_tractable(model)
    z, log_weight = nodes(q)
    return torch.logsumexp(model.log_joint(batch, z).where(log_weight > -torch.inf, -torch.inf), 0)


@torch.no_grad()
def enumerate_events(model: LatentVariableModel, batch: Batch) -> tuple[Batch, Tensor]:
    """Every x of the shape of `batch.x[0]`, as one batch of E data, and the log-volume that each stands for, (E,).

    Symbols and bits have volume 1; real x, of at most two coordinates, are points of a grid. Everything is observed,
    in the first datum's context and of its length.
    """
    axes, steps = axes_of_x(as_directed(model), batch)
    require_small(math.prod(len(axis) for axis in axes))
    x = torch.cartesian_prod(*axes).reshape(-1, *batch.x.shape[1:]).to(batch.x.dtype)
    volume = sum(math.log(step) for step in steps)
    events = batch.select(torch.zeros(len(x), dtype=torch.long))._replace(x=x, mask=None, known=None, weight=None)
    events = _that_end(as_directed(model), events)
    x = events.x
    return events, x.new_full((len(x),), volume, dtype=model.anchor.dtype)


def _that_end(model: DirectedModel, events: Batch) -> Batch:
    """Of a model that generates lengths each x once: what comes after its end is nothing, and so no other x."""
    if _any_length(model, events):
        steps = events.x.shape[1]
        events = events.select(torch.arange(events.size).repeat(steps + 1))
        ends = torch.arange(steps + 1).repeat_interleave(events.size // (steps + 1))
    else:
        ends = _ends(model, events)
    if ends is None:
        return events
    kept = Batch.of(events.x, lengths=ends)
    once = (kept.x == events.x).flatten(1).all(1)
    return events._replace(lengths=ends).select(once.nonzero().squeeze(-1))


def _ends(model: DirectedModel, batch: Batch) -> Tensor | None:
    one = batch.select(slice(1))
    z = model.prior(one.frame).sample((1,))  # type: ignore[arg-type]
    return observed.ends(model.likelihood(z, one.frame), batch.x)


def _any_length(model: DirectedModel, batch: Batch) -> bool:
    """Whether x may end anywhere, and no symbol of it says where."""
    one = batch.select(slice(1))
    z = model.prior(one.frame).sample((1,))  # type: ignore[arg-type]
    return getattr(model.likelihood(z, one.frame), "any_length", False)


def generates_ends(model: DirectedModel, batch: Batch) -> bool:
    return _ends(model, batch) is not None


def rows_of(batch: Batch) -> list[tuple[float, ...]]:
    """Each x with its length, to tell them apart."""
    x = batch.x.flatten(1)
    return [tuple(row) for row in (x if batch.lengths is None else torch.cat([batch.ends.unsqueeze(1), x], 1)).tolist()]


def axes_of_x(model: DirectedModel, batch: Batch) -> tuple[list[Tensor], list[float]]:
    """The values of each coordinate of one x, and how far they are apart (1 where they are all there are)."""
    one = batch.select(slice(1))
    z, log_weight = enumerate_latents(model, one)
    # nodes of no weight lie so far out that a grid would be laid for their sake only
    likelihood = model.likelihood(each(lambda part: part[log_weight[:, 0] > math.log(1e-12)], z), one.frame)
    size = batch.x[0].numel()
    given = observed.plain(likelihood)
    if isinstance(given, ByColumn):
        return _axes_by_column(given, size)
    support: Any = likelihood.support
    while isinstance(support, independent_constraint):
        support = support.base_constraint
    if support.is_discrete:
        top = _largest(support)
        return [torch.arange(top + 1, device=batch.x.device)] * size, [1.0] * size
    if size > 2:
        raise NotApplicable("real x of more than two coordinates is too large for a grid")
    axes = _grid(likelihood.mean.reshape(-1, size), likelihood.stddev.reshape(-1, size))
    return axes, [float(axis[1] - axis[0]) for axis in axes]


def _grid(mean: Tensor, deviation: Tensor) -> list[Tensor]:
    """The points of each coordinate of normals (M, D)."""
    low, high = (mean - WIDTH * deviation).amin(0), (mean + WIDTH * deviation).amax(0)
    # the trapezoid rule on a normal density with steps of half a deviation is exact to machine precision
    count = ((high - low) / (0.5 * deviation.amin(0))).ceil().long() + 1
    require_small(int(count.prod()))
    lines = zip(low.tolist(), high.tolist(), count.tolist(), strict=True)
    return [torch.linspace(a, b, n, dtype=low.dtype, device=low.device) for a, b, n in lines]


def _axes_by_column(p: ByColumn, size: int) -> tuple[list[Tensor], list[float]]:
    """The values of each coordinate of rows, one after the other, whose columns are of their own kinds: of a count all
    that are not far beyond its mean."""
    mean, variance = p.mean.detach().reshape(-1, size), p.variance.detach().reshape(-1, size)
    axes, steps = [], []
    for d, column in enumerate(p.columns * (size // len(p.columns))):
        if column == "real":
            axes += _grid(mean[:, d : d + 1], variance[:, d : d + 1].sqrt())
            steps.append(float(axes[-1][1] - axes[-1][0]))
            continue
        rate = float(mean[:, d].amax())
        levels = (
            column if isinstance(column, int) else 2 if column == "binary" else math.ceil(rate + 10 * rate**0.5) + 13
        )
        axes.append(torch.arange(levels, device=mean.device).to(mean))
        steps.append(1.0)
    return axes, steps


def _largest(support: Any) -> int:
    """The largest of 0, 1, ... that a coordinate can be."""
    if support is boolean_constraint:
        return 1
    if not hasattr(support, "upper_bound"):
        raise NotApplicable(f"the values of {support} cannot be enumerated")
    return int(support.upper_bound)


def likelihood_is_discrete(model: LatentVariableModel, batch: Batch) -> bool:
    """Whether x is made of symbols, so that p(x) is a probability and not a density."""
    one = batch.select(slice(1))
    z, _ = enumerate_latents(model, one)
    support: Any = as_directed(model).likelihood(each(lambda part: part[:1], z), one.frame).support
    return support.is_discrete
