"""The checks that every model passes, and the brute-force enumerators behind them.

A new model file under `latentia/models` has a `tiny(seed) -> (model, Batch)` in float64, small enough that every
latent and every x can be enumerated; `check_model(tiny)` then holds it to what all models promise. Models that
live elsewhere are checked the same way:

    from latentia.testing import check_model
    check_model(my_module.tiny)

A check is a function of (tiny, seed): it makes the models it needs, and raises an `AssertionError` that says which
promise was broken and by how much, or `NotApplicable` where the model does not promise that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import safetensors.torch
import torch
from scipy.stats import chi2, t
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, Independent, MultivariateNormal, Normal
from torch.distributions.constraints import boolean as boolean_constraint
from torch.distributions.constraints import independent as independent_constraint

from latentia import gradients
from latentia.batch import Batch, Frame
from latentia.distributions import Chain, Structured, observed
from latentia.distributions.canonical import CanonicalGaussian
from latentia.distributions.divergence import kl_given, kl_terms
from latentia.distributions.factorial import Chains
from latentia.distributions.flow import Flow
from latentia.distributions.joint import Joint, draw
from latentia.distributions.latents import Latents, each, flat, named
from latentia.distributions.mixture import Mixture
from latentia.distributions.unnormalised import Unnormalised
from latentia.errors import CapabilityError
from latentia.model import DirectedModel, ExactModel, LatentVariableModel, TractableModel
from latentia.objectives import elbo, iwae

Tiny = Callable[[int], tuple[LatentVariableModel, Batch]]
Check = Callable[[Tiny, int], None]

LARGEST = 500_000  # values of z or of x that we are willing to enumerate
NODES = 80  # Gauss-Hermite nodes a dimension
WIDTH = 8.0  # standard deviations that a grid over real x reaches beyond the outermost means
DOUBT = 6.0  # standard errors that a Monte Carlo mean may be off: one in 5e8
STILL = 1e-4  # nats a datum and unit of a parameter: a gradient that counts as zero
RARE = 1e-6  # the p-value below which frequencies are called wrong


class NotApplicable(Exception):
    """The model does not promise what this check is about, or its space is too large to enumerate."""


# -------------------------------------------------------------------------------------- brute force


@singledispatch
def nodes(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Values z (S, B, *event) and log-weights (S, B) such that E f(z) = sum_s exp(log_weight_s) f(z_s).

    All values of a finite z; Gauss-Hermite nodes of a normal z. A family of your own joins by `nodes.register`.
    """
    if not distribution.has_enumerate_support:
        raise NotApplicable(f"{type(distribution).__name__} cannot be enumerated: write nodes.register for it")
    z = distribution.enumerate_support()
    return z, distribution.log_prob(z)


@nodes.register
def _(distribution: Chain) -> tuple[Tensor, Tensor]:
    """Every path of states: (K^T, B, T, K). A shorter chain's paths appear once, the others have log-weight -inf."""
    steps, states = distribution.event_shape
    _small(states**steps)
    paths = torch.cartesian_prod(*[torch.arange(states)] * steps).reshape(-1, steps)
    node = distribution.log_potentials["node"]
    inside = (torch.arange(steps) < distribution.lengths.cpu().unsqueeze(-1)).expand(len(node), -1)
    z = torch.eye(states)[paths].unsqueeze(1) * inside.unsqueeze(-1)
    repeated = ((paths > 0).unsqueeze(1) & ~inside).any(-1)
    z = z.to(node)
    return z, torch.where(repeated.to(node.device), -torch.inf, distribution.log_prob(z))


@nodes.register
def _(distribution: Chains) -> tuple[Tensor, Tensor]:
    """Every path of every chain: the paths of the one chain over joint states, taken apart."""
    z, log_weight = nodes(distribution.product())
    return distribution.apart(z), log_weight


@nodes.register
def _(distribution: Independent) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes, (NODES^D, B, D), exact for polynomials of degree 2 NODES - 1 in each dimension."""
    normal, latent = distribution.base_dist, distribution.event_shape.numel()
    if not isinstance(normal, Normal):
        raise NotApplicable("of independent latents only normal ones can be integrated")
    _small(NODES**latent)
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
        _small(count * before)
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
    return nodes(_directed(model).prior(batch.frame))


@torch.no_grad()
def brute_force_log_marginal(model: LatentVariableModel, batch: Batch, chunk: int = 4096) -> Tensor:
    """log p(x) = log sum_z p(z) p(x | z) in nats, (B,), by enumeration or quadrature, without the posterior.

    A model with an exact posterior but no prior has its log-joint summed over all structures instead.
    """
    parts = [batch.select(slice(start, start + chunk)) for start in range(0, batch.size, chunk)]
    return torch.cat([_log_marginal(model, part) for part in parts])


def _log_marginal(model: LatentVariableModel, batch: Batch) -> Tensor:
    if isinstance(model, DirectedModel):
        z, log_weight = enumerate_latents(model, batch)
        return torch.logsumexp(model.log_likelihood(batch, z) + log_weight, 0)
    z, log_weight = nodes(_tractable(model).posterior(batch))
    return torch.logsumexp(model.log_joint(batch, z).where(log_weight > -torch.inf, -torch.inf), 0)


@torch.no_grad()
def enumerate_events(model: LatentVariableModel, batch: Batch) -> tuple[Batch, Tensor]:
    """Every x of the shape of `batch.x[0]`, as one batch of E data, and the log-volume that each stands for, (E,).

    Symbols and bits have volume 1; real x, of at most two coordinates, are points of a grid. Everything is observed,
    in the first datum's context and of its length.
    """
    axes, steps = _axes(_directed(model), batch)
    _small(math.prod(len(axis) for axis in axes))
    x = torch.cartesian_prod(*axes).reshape(-1, *batch.x.shape[1:]).to(batch.x.dtype)
    volume = sum(math.log(step) for step in steps)
    events = batch.select(torch.zeros(len(x), dtype=torch.long))._replace(x=x, mask=None, known=None, weight=None)
    events = _that_end(_directed(model), events)
    x = events.x
    return events, x.new_full((len(x),), volume, dtype=model.anchor.dtype)


def _that_end(model: DirectedModel, events: Batch) -> Batch:
    """Of a model that generates lengths each x once: what comes after its end is nothing, and so no other x."""
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


def _generates_ends(model: DirectedModel, batch: Batch) -> bool:
    return _ends(model, batch) is not None


def _axes(model: DirectedModel, batch: Batch) -> tuple[list[Tensor], list[float]]:
    """The values of each coordinate of one x, and how far they are apart (1 where they are all there are)."""
    one = batch.select(slice(1))
    z, log_weight = enumerate_latents(model, one)
    # nodes of no weight lie so far out that a grid would be laid for their sake only
    likelihood = model.likelihood(each(lambda part: part[log_weight[:, 0] > math.log(1e-12)], z), one.frame)
    size = batch.x[0].numel()
    support: Any = likelihood.support
    while isinstance(support, independent_constraint):
        support = support.base_constraint
    if support.is_discrete:
        top = _largest(support)
        return [torch.arange(top + 1, device=batch.x.device)] * size, [1.0] * size
    if size > 2:
        raise NotApplicable("real x of more than two coordinates is too large for a grid")
    mean, deviation = likelihood.mean.reshape(-1, size), likelihood.stddev.reshape(-1, size)
    low, high = (mean - WIDTH * deviation).amin(0), (mean + WIDTH * deviation).amax(0)
    # the trapezoid rule on a normal density with steps of half a deviation is exact to machine precision
    count = ((high - low) / (0.5 * deviation.amin(0))).ceil().long() + 1
    _small(int(count.prod()))
    lines = zip(low.tolist(), high.tolist(), count.tolist(), strict=True)
    axes = [torch.linspace(a, b, n, dtype=low.dtype, device=low.device) for a, b, n in lines]
    return axes, [float(axis[1] - axis[0]) for axis in axes]


def _largest(support: Any) -> int:
    """The largest of 0, 1, ... that a coordinate can be."""
    if support is boolean_constraint:
        return 1
    if not hasattr(support, "upper_bound"):
        raise NotApplicable(f"the values of {support} cannot be enumerated")
    return int(support.upper_bound)


# ------------------------------------------------------------------------------------------- the checks


def check_bounds(tiny: Tiny, seed: int) -> None:
    """E ELBO <= E IWAE_k <= log p(x) and ELBO = reconstruction - KL; one draw of an exact posterior gives log p(x)."""
    model, batch = tiny(seed)
    marginal, times = brute_force_log_marginal(model, batch), 500
    repeated = batch.select(torch.arange(batch.size).repeat(times))
    with torch.no_grad(), _seeded(seed):
        low = elbo(model, repeated, estimator=_estimator(model.posterior(batch)))
        middle = iwae(model, repeated, samples=5).value
        single = iwae(model, batch, samples=1).value
    if low.reconstruction is not None and low.kl is not None:
        _equal("ELBO = reconstruction - KL", low.value, low.reconstruction - low.kl, 1e-9)
    if isinstance(model, TractableModel):
        _equal("one draw of an exact posterior gives log p(x)", single, marginal, 1e-9)
    _no_more("ELBO <= IWAE", low.value.view(times, -1), middle.view(times, -1))
    _no_more("IWAE <= log p(x)", middle.view(times, -1), marginal.unsqueeze(0))


def check_log_partition(tiny: Tiny, seed: int) -> None:
    """log-partition = log sum_z p(x, z), and score(z) = log p(z) + log p(x | z) for every z."""
    model, batch = tiny(seed)
    posterior = _tractable(model).posterior(batch)
    _equal("log-partition = brute force", posterior.log_partition, brute_force_log_marginal(model, batch), 1e-9)
    if isinstance(model, DirectedModel):
        z, log_weight = enumerate_latents(model, batch)
        joint = model.prior(batch.frame).log_prob(z) + model.log_likelihood(batch, z)
        there = log_weight > -torch.inf
        _equal("score(z) = log p(z) + log p(x | z)", posterior.score(z)[there], joint[there], 1e-9)
        _equal("log_joint(z) = log p(z) + log p(x | z)", model.log_joint(batch, z)[there], joint[there], 1e-9)


def check_normalised(tiny: Tiny, seed: int) -> None:
    """sum_x p(x) = 1 over the whole x-space, by brute force and by the log-partition."""
    model, batch = tiny(seed)
    events, log_volume = enumerate_events(model, batch)
    total = torch.logsumexp(brute_force_log_marginal(model, events) + log_volume, 0)
    _equal("log sum_x p(x) = 0", total, torch.zeros_like(total), 1e-8)
    if isinstance(model, TractableModel):
        total = torch.logsumexp(model.posterior(events).log_partition + log_volume, 0)
        _equal("log sum_x exp(log-partition) = 0", total, torch.zeros_like(total), 1e-8)


def check_kl(tiny: Tiny, seed: int) -> None:
    """KL(q || p) >= 0, and equal to E_q[log q - log p] by enumeration or quadrature; of latents that depend on each
    other, the expectation of the terms of their conditionals."""
    model, batch = tiny(seed)
    q: Any = model.posterior(batch)
    p: Any = _directed(model).prior(batch.frame)
    terms = kl_terms(q, p)
    if terms is None and not isinstance(q, Joint):
        raise NotApplicable("no closed form of this KL is known")
    z: Any
    z, log_weight = nodes(q)
    if terms is None:
        given = torch.cat(list(kl_given(q, p, z).values()), -1)
        terms = (log_weight.exp().unsqueeze(-1) * given).sum(0)
    least = float(terms.sum(-1).detach().min())
    _assert(least >= -1e-12, f"KL >= 0: the least is {least:.6g} nats")
    ratio = (q.log_prob(z) - p.log_prob(z)).where(log_weight > -torch.inf, 0.0)
    _equal("KL = E_q[log q - log p]", terms.sum(-1), (log_weight.exp() * ratio).sum(0), 1e-8)


def check_gradients(tiny: Tiny, seed: int) -> None:
    """Gradients equal finite differences, and a gradient other than zero reaches every parameter.

    Of sum_x log p(x) where that is exact, otherwise of the ELBO under fixed random numbers.
    """
    model, batch = tiny(seed)
    estimator = _estimator(model.posterior(batch))
    if not isinstance(model, TractableModel) and estimator is _sampled:
        raise NotApplicable("draws of this posterior have no gradient")

    def objective() -> Tensor:
        if isinstance(model, TractableModel):
            return model.posterior(batch).log_partition.sum()
        with _seeded(seed):
            return elbo(model, batch, estimator=estimator).value.sum()

    named = [pair for pair in model.named_parameters() if pair[1].requires_grad and pair[1].numel() > 0]
    value = objective()
    _assert(value.requires_grad, "a gradient reaches every parameter: none reaches any")
    found = torch.autograd.grad(value, [parameter for _, parameter in named], allow_unused=True)
    for (name, parameter), gradient in zip(named, found, strict=True):
        reached = gradient is not None and bool((gradient != 0).any())
        _assert(reached, f"a gradient reaches every parameter: none reaches {name}")
        assert gradient is not None
        numeric = _difference(objective, parameter)
        _equal(f"the gradient of {name} = finite differences", gradient.flatten()[: len(numeric)], numeric, 1e-6)


def _difference(objective: Callable[[], Tensor], parameter: Tensor, most: int = 16, step: float = 1e-5) -> Tensor:
    """Central differences with respect to the first entries of a parameter."""
    slopes, original = [], parameter.data.clone()
    for i in range(min(most, parameter.numel())):
        values = []
        for sign in (1, -1):
            parameter.data = original.clone()
            parameter.data.view(-1)[i] += sign * step
            values.append(float(objective().detach()))
        slopes.append((values[0] - values[1]) / (2 * step))
    parameter.data = original
    return torch.tensor(slopes, dtype=parameter.dtype, device=parameter.device)


def check_batching(tiny: Tiny, seed: int) -> None:
    """What a datum gets depends on that datum alone: not on the others, their order, or what lies under the mask."""
    model, batch = tiny(seed)
    with torch.no_grad(), _seeded(seed):
        z = model.posterior(batch).sample((3,))
        whole = _answers(model, batch, z)
        order = torch.randperm(batch.size)
        moved = _answers(model, batch.select(order), each(lambda part: part[:, order], z))
        singles = [
            _answers(model, batch.select(slice(i, i + 1)), each(lambda part, i=i: part[:, i : i + 1], z))
            for i in range(batch.size)
        ]
        masked = _masked(batch)
        before = _answers(model, masked, z)
        after = _answers(model, masked._replace(x=torch.where(masked.observed, masked.x, _garbage(batch))), z)
    for name, value in whole.items():
        _equal(f"the order of a batch changes nothing: {name}", moved[name], value[order], 1e-9)
        joined = torch.cat([single[name] for single in singles])
        _equal(f"splitting a batch changes nothing: {name}", joined, value, 1e-9)
        _equal(f"what lies under the mask changes nothing: {name}", after[name], before[name], 1e-9)


def check_padding(tiny: Tiny, seed: int) -> None:
    """What lies beyond the end of a datum changes nothing, and has no latents."""
    model, batch = tiny(seed)
    if batch.lengths is None:
        raise NotApplicable("data have no ends")
    steps = batch.x.shape[1]
    with torch.no_grad(), _seeded(seed):
        z = model.posterior(batch).sample((3,))
        short = _answers(model, batch, z)
        extra = batch.x[:, :1].expand(-1, 2, *batch.x.shape[2:])
        mask = None if batch.mask is None else torch.cat([batch.mask, torch.ones_like(extra).bool()], 1)
        longer = batch._replace(x=torch.cat([batch.x, extra], 1), mask=mask)
        wide = longer._replace(lengths=torch.full_like(batch.lengths, steps + 2))
        by_step = _each_step(model.posterior(wide).mean, model.posterior(batch).mean)
        more = each(lambda part, more: _padded(part) if more else part, z, by_step)
        padded = _answers(model, longer, more)
        mean = model.posterior(longer).mean
        beyond = each(lambda part, more: part[:, steps:] if more else part[:, :0], mean, by_step)
        inside = each(lambda part, more: part[:, :steps] if more else part, mean, by_step)
    padded["posterior mean"] = inside if isinstance(inside, Tensor) else flat(inside)
    for part in named(beyond).values():
        _equal("what lies beyond the end has no states", part, torch.zeros_like(part), 1e-12)
    for name, value in short.items():
        _equal(f"what lies beyond the end changes nothing: {name}", padded[name], value, 1e-9)


def _each_step(longer: Latents, mean: Latents) -> Any:
    """Which latents have a step for each step of x."""
    return each(lambda more, part: more.shape != part.shape, longer, mean)


def _padded(z: Tensor) -> Tensor:
    return torch.cat([z, torch.zeros_like(z[:, :, :2])], 2)


def check_hidden(tiny: Tiny, seed: int) -> None:
    """A datum whose last value is hidden is not the shorter datum: the one is the other summed over that value."""
    model, batch = tiny(seed)
    if batch.lengths is None:
        raise NotApplicable("data have no ends")
    keep = batch.lengths == batch.x.shape[1]
    whole = batch.select(keep)._replace(mask=None)
    hidden = torch.ones_like(whole.x, dtype=torch.bool)
    hidden[:, -1] = False
    _assert(bool((whole._replace(mask=hidden).ends == whole.ends).all()), "a hidden last value does not end a datum")
    q, seen = model.posterior(whole._replace(mask=hidden)), model.posterior(whole)
    for one, other in zip(named(q.mean).values(), named(seen.mean).values(), strict=True):
        _assert(one.shape == other.shape, f"latents of a hidden step are there: {tuple(one.shape)}")
        if isinstance(q, Structured):
            _equal("states of a hidden step have their probability", one.sum(-1), other.sum(-1), 1e-9)


def check_weights(tiny: Tiny, seed: int) -> None:
    """Weight 2 is seen twice and weight 0 is absent: the M-step gives the same parameters."""
    (weighted, batch), (repeated, _) = tiny(seed), tiny(seed)
    weight = torch.ones(batch.size, dtype=weighted.anchor.dtype)
    weight[0], weight[1] = 2.0, 0.0
    _em_step(_exact(weighted), batch._replace(weight=weight))
    _em_step(_exact(repeated), batch._replace(weight=None).select(torch.tensor([0, 0, *range(2, batch.size)])))
    _same_parameters("weight 2 = repeated and weight 0 = absent", weighted, repeated, 1e-9)


def check_additive(tiny: Tiny, seed: int) -> None:
    """Statistics are sums: those of two halves of a batch add up to those of the whole."""
    model, batch = tiny(seed)
    exact, half = _exact(model), batch.size // 2
    with torch.no_grad():
        total, first, rest = (
            exact.statistics(part, exact.posterior(part))
            for part in (batch, batch.select(slice(half)), batch.select(slice(half, None)))
        )
    for name, value in total.items():
        _equal(f"the statistic {name} adds across batches", first[name] + rest[name], value, 1e-9)


def check_expect(tiny: Tiny, seed: int) -> None:
    """A model's own E-step, soft and hard, gives what posterior, statistics and log-partition give."""
    model, batch = tiny(seed)
    exact = _exact(model)
    weight = torch.linspace(0, 2, batch.size, dtype=model.anchor.dtype)
    for hard in (False, True):
        for some in (batch, batch._replace(weight=weight)):
            with torch.no_grad():
                sums, value = exact.expect(some, hard)
                expected, expected_value = ExactModel.expect(exact, some, hard)
            _equal(f"the E-step's log p(x), hard={hard}", value, expected_value, 1e-9)
            for name, statistic in expected.items():
                _equal(f"the E-step's statistic {name}, hard={hard}", sums[name], statistic, 1e-9)


def check_canonical(tiny: Tiny, seed: int) -> None:
    """A canonical order changes no log p(x), and finding it twice changes nothing more."""
    model, batch = tiny(seed)
    exact = _exact(model)
    with torch.no_grad():
        before = exact.posterior(batch).log_partition
        exact.canonical()
        after = exact.posterior(batch).log_partition
        once = {name: value.clone() for name, value in exact.state_dict().items()}
        exact.canonical()
    _equal("a canonical order changes no log p(x)", after, before, 1e-9)
    for name, value in exact.state_dict().items():
        _equal(f"a canonical order stands still: {name}", value, once[name], 0.0)


def check_missing(tiny: Tiny, seed: int) -> None:
    """A masked value is summed out: log p(x without x_j) = log sum_v p(x with x_j = v), and nothing seen is p = 1."""
    model, batch = tiny(seed)
    marginals: list[Callable[[Batch], Tensor]] = [lambda some: brute_force_log_marginal(model, some)]
    if isinstance(model, TractableModel):
        marginals.append(lambda some: model.posterior(some).log_partition.detach())
    axes, steps = _axes(_directed(model), batch)
    for j in sorted({0, len(axes) // 2, len(axes) - 1}):
        seen = batch.select(batch.observed.flatten(1)[:, j])
        hidden = seen.observed.flatten(1).clone()
        hidden[:, j] = False
        for marginal in marginals:
            filled = [_with_value(seen, j, value) for value in axes[j]]
            summed = torch.logsumexp(torch.stack([marginal(some) for some in filled]), 0) + math.log(steps[j])
            without = marginal(seen._replace(mask=hidden.view_as(seen.x)))
            _equal(f"masking coordinate {j} = summing it out", without, summed, 1e-8)
    if _generates_ends(_directed(model), batch):
        return  # of a datum of which nothing is seen its length is known
    for marginal in marginals:
        empty = marginal(batch._replace(mask=torch.zeros_like(batch.observed)))
        _equal("a datum of which nothing is seen has p = 1", empty, torch.zeros_like(empty), 1e-9)


def check_nan(tiny: Tiny, seed: int) -> None:
    """NaN at the door becomes mask."""
    model, batch = tiny(seed)
    if not batch.x.is_floating_point():
        raise NotApplicable("x is not real")
    masked = _masked(batch)
    raw = torch.where(masked.observed, masked.x, torch.nan)
    others: dict[str, Any] = masked._asdict()
    del others["x"], others["mask"]
    door = Batch.of(raw, **others)
    _assert(bool(door.x.isfinite().all()), "NaN at the door becomes mask: some is left in x")
    _assert(torch.equal(door.observed, masked.observed), "NaN at the door becomes mask: the mask is another")
    with torch.no_grad(), _seeded(seed):
        z = model.posterior(masked).sample((3,))
        for name, value in _answers(model, masked, z).items():
            _equal(f"NaN at the door = masked: {name}", _answers(model, door, z)[name], value, 1e-9)


def check_em_ascends(tiny: Tiny, seed: int, steps: int = 30) -> None:
    """EM never lowers log p(x) + log_prior(), from where the model is and from a fresh start."""
    for fresh in (False, True):
        model, batch = tiny(seed)
        exact = _exact(model)
        if fresh:
            exact.start(batch, torch.Generator().manual_seed(seed))
        values = [_climbed(exact, batch)]
        for _ in range(steps):
            _em_step(exact, batch)
            values.append(_climbed(exact, batch))
        # a tensor's maximum, because NaN survives it
        worst = -float(torch.tensor(values, dtype=torch.float64).diff().min())
        allowed = 1e-8 * (1 + abs(values[0]))
        _assert(worst <= allowed, f"EM never lowers log p(x): it fell by {worst:.6g} nats in a step")


def check_em_fixed_point(tiny: Tiny, seed: int, data: int = 100, steps: int = 2000) -> None:
    """Where EM stands still the gradient of log p(x) + log_prior() is zero."""
    model, batch = tiny(seed)
    exact = _exact(model)
    with _seeded(seed):
        batch = _generated(exact, _frame(batch, data))
    slopes: dict[str, float] = {}
    # EM may creep: it stands still once the gradient is small, and if it never is, the last one says so
    for _ in range(0, steps, 25):
        for _ in range(25):
            _em_step(exact, batch)
        slopes = _slopes(exact, batch)
        if max(slopes.values()) < STILL:
            return
    name, worst = max(slopes.items(), key=lambda item: item[1])
    raise AssertionError(
        f"at EM's fixed point the gradient is 0: that of {name} is {worst:.3g} a datum after {steps} steps"
    )


def _slopes(model: ExactModel, batch: Batch) -> dict[str, float]:
    """The largest entry of each parameter's gradient of what EM climbs, in nats per datum."""
    value = model.posterior(batch).log_partition.sum() + model.log_prior()
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.numel() > 0), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return {name: float(slope.abs().max()) / batch.size for name, slope in zip(names, found, strict=True)}


def check_em_recovers(tiny: Tiny, seed: int, data: int = 1500, steps: int = 60, restarts: int = 3) -> None:
    """Learned from its own data, a model predicts fresh data as well as the true one does (whatever its labels)."""
    truth, small = tiny(seed)
    _exact(truth)
    with _seeded(seed):
        batch, fresh = _generated(truth, _frame(small, data)), _generated(truth, _frame(small, data))
    learned = []
    for restart in range(restarts):
        model = _exact(tiny(seed + 1)[0])
        model.start(batch, torch.Generator().manual_seed(restart))
        for _ in range(steps):
            _em_step(model, batch)
        learned.append((_climbed(model, batch), model))
    best = max(learned, key=lambda pair: pair[0])[1]
    with torch.no_grad():
        gap = _exact(truth).posterior(fresh).log_partition - best.posterior(fresh).log_partition
    loss, error = float(gap.mean()), float(gap.std()) / math.sqrt(data)
    allowed = 0.02 + 3 * error
    _assert(loss <= allowed, f"EM recovers the truth: {loss:.4g} nats a datum short of it, {allowed:.4g} allowed")


def check_seed(tiny: Tiny, seed: int) -> None:
    """The same seed gives the same start, the same M-step and the same draws, whatever the global generator holds."""
    learned = []
    for noise in (1, 2):
        model, batch = tiny(seed)
        with _seeded(noise):
            model.start(batch, torch.Generator().manual_seed(seed))
            if isinstance(model, ExactModel):
                _em_step(model, batch)
        learned.append(model)
    _same_parameters("same seed, same start", learned[0], learned[1], 0.0)
    for name, make in (
        ("generate", lambda m: _generated(m, _frame(batch, 4)).x),
        ("posterior", lambda m: m.posterior(batch).sample()),
    ):
        drawn = []
        for _ in range(2):
            with torch.no_grad(), _seeded(seed):
                drawn.append(flat(make(tiny(seed)[0])))
        _equal(f"same seed, same draws: {name}", drawn[0], drawn[1], 0.0)


def check_save(tiny: Tiny, seed: int) -> None:
    """What `state_dict` saves is all there is: loaded into another model, it gives the same log-joint."""
    model, batch = tiny(seed)
    model.start(batch, torch.Generator().manual_seed(seed))
    if isinstance(model, ExactModel):
        _em_step(model, batch)
    other, _ = tiny(seed + 1)
    saved = safetensors.torch.save({name: value.contiguous() for name, value in model.state_dict().items()})
    other.load_state_dict(safetensors.torch.load(saved))
    with torch.no_grad(), _seeded(seed):
        z = model.posterior(batch).sample((3,))
        answers = _answers(other, batch, z)
        for name, value in _answers(model, batch, z).items():
            _equal(f"saved and loaded: {name}", answers[name], value, 0.0)


def check_moves(tiny: Tiny, seed: int) -> None:
    """float32, and another device where there is one, give nearly the same answers, in their own dtype."""
    _moved(tiny, seed, torch.device("cpu"), torch.float32, 1e-3)
    if torch.cuda.is_available():
        _moved(tiny, seed, torch.device("cuda"), torch.float64, 1e-6)
        _moved(tiny, seed, torch.device("cuda"), torch.float32, 1e-3)


def _moved(tiny: Tiny, seed: int, device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    model, batch = tiny(seed)
    with torch.no_grad(), _seeded(seed):
        z = model.posterior(batch).sample((3,))
        here = _answers(model, batch, z)
        model.to(device, dtype)
        batch = batch.to(model.anchor)
        there = _answers(model, batch, each(lambda part: part.to(model.anchor), z))
        drawn = model.posterior(batch).sample()
    for part in named(drawn).values():
        _assert(part.dtype == dtype, f"draws follow the model to {dtype}: {part.dtype}")
    for name, value in there.items():
        _assert(value.dtype == dtype, f"moved to {dtype}: {name} is {value.dtype}")
        _equal(f"moved to {device} and {dtype}: {name}", value.to(here[name]), here[name], tolerance)


def check_generate(tiny: Tiny, seed: int, draws: int = 20_000) -> None:
    """Generated x have the frequencies, or the mean and covariance, that log p(x) says."""
    model, batch = tiny(seed)
    with torch.no_grad(), _seeded(seed):
        made = _generated(model, _frame(batch, draws))
    x = made.x
    events, log_volume = enumerate_events(model, made.select(slice(1)))
    log_probability = brute_force_log_marginal(model, events) + log_volume
    if likelihood_is_discrete(model, events):
        same = {tuple(row): i for i, row in enumerate(events.x.flatten(1).tolist())}
        which = torch.tensor([same[tuple(row)] for row in x.flatten(1).tolist()])
        _frequencies("generate agrees with log p(x)", torch.bincount(which, minlength=len(same)), log_probability.exp())
        return
    weight, x, grid = log_probability.exp(), x.flatten(1), events.x.flatten(1)
    mean = weight @ grid
    _mean("generate has the mean of p(x)", x, mean)
    i, j = torch.triu_indices(len(mean), len(mean))
    products, expected = ((some - mean)[:, i] * (some - mean)[:, j] for some in (x, grid))
    _mean("generate has the covariance of p(x)", products, weight @ expected)


def check_posterior(tiny: Tiny, seed: int, draws: int = 20_000) -> None:
    """Draws of q(z | x) are (S, B, *latent) with the frequencies of its log_prob, which sums to one; its mean is E[z].

    Where the posterior is exact, log q(z | x) = log p(x, z) - log p(x).
    """
    model, batch = tiny(seed)
    q = model.posterior(batch)
    with torch.no_grad(), _seeded(seed):
        z = q.sample((draws,))
        for part in named(z).values():
            _assert(part.shape[:2] == (draws, batch.size), f"draws are (S, B, *): {part.shape}")
        shape = q.log_prob(z).shape
        _assert(shape == (draws, batch.size), f"log_prob is (S, B): {tuple(shape)}")
        values, log_weight = nodes(q)
        total = torch.logsumexp(log_weight, 0)
        _equal("posterior probabilities sum to one", total, torch.zeros_like(total), 1e-9)
        average = torch.einsum("sb,sbd->bd", log_weight.exp(), flat(values, 2))
        promised = torch.einsum("sb,sbd->bd", log_weight.exp(), flat(_with_mean(q, values), 2))
        _equal("the posterior mean is E[z]", flat(_with_mean(q, q.mean)), promised, 1e-9)
        if isinstance(model, TractableModel):
            truth = model.log_joint(batch, values) - brute_force_log_marginal(model, batch)
            there = log_weight > -torch.inf
            _equal("log q(z | x) = log p(x, z) - log p(x)", q.log_prob(values)[there], truth[there], 1e-9)
        for b in range(min(batch.size, 6)):
            if isinstance(q, Structured):
                same = {
                    tuple(value.flatten().tolist()): s
                    for s, value in enumerate(values[:, b])
                    if log_weight[s, b] > -torch.inf
                }
                seen, counts = z[:, b].flatten(1).unique(dim=0, return_counts=True)
                number = torch.zeros(len(values), dtype=torch.long)
                for value, count in zip(seen.tolist(), counts, strict=True):
                    number[same.get(tuple(value), -1)] += count
                _frequencies("draws have the frequencies of log_prob", number, log_weight[:, b].exp())
            else:
                _mean("draws have the mean of q", flat(z, 2)[:, b], average[b])


def _with_mean(q: Distribution, z: Any) -> Any:
    """Of several latents those whose `mean` is E[z]: that of a latent with ancestors is given their means."""
    if not isinstance(q, Joint) or q.summed:
        return z
    return {name: z[name] for name in q.parts if not q.ancestors(name)}


CHECKS: tuple[Check, ...] = (
    check_bounds,
    check_log_partition,
    check_normalised,
    check_kl,
    check_gradients,
    check_batching,
    check_padding,
    check_hidden,
    check_weights,
    check_additive,
    check_expect,
    check_canonical,
    check_missing,
    check_nan,
    check_em_ascends,
    check_em_fixed_point,
    check_em_recovers,
    check_seed,
    check_save,
    check_moves,
    check_generate,
    check_posterior,
)


def check_model(tiny: Tiny, *, seeds: Sequence[int] = (0,)) -> list[str]:
    """Run every check that applies to `tiny(seed) -> (model, Batch)`, in float64. Returns the names of those that ran.

    Raises `AssertionError` at the first promise that is broken, naming it.
    """
    ran = []
    for seed in seeds:
        model, _ = tiny(seed)
        _assert(model.anchor.dtype == torch.float64, f"tiny gives a model in float64: {model.anchor.dtype}")
        for check in CHECKS:
            try:
                with one_thread():
                    check(tiny, seed)
            except NotApplicable:
                continue
            except AssertionError as error:
                raise AssertionError(f"{type(model).__name__}, {check.__name__}, seed {seed}: {error}") from error
            ran.append(check.__name__)
    return list(dict.fromkeys(ran))


def all_models() -> dict[str, Tiny]:
    """The `tiny` of every module of `latentia.models` by the module's name, and a `tiny_conditional` as
    "module:conditional": nothing lists them."""
    package = import_module("latentia.models")
    modules = {found.name: import_module(f"latentia.models.{found.name}") for found in iter_modules(package.__path__)}
    found: dict[str, Tiny] = {}
    for name, module in sorted(modules.items()):
        for function in sorted(part for part in vars(module) if part == "tiny" or part.startswith("tiny_")):
            suffix = function.removeprefix("tiny").removeprefix("_")
            found[f"{name}:{suffix}" if suffix else name] = getattr(module, function)
    return found


# ------------------------------------------------------------------------------------------ small helpers


def _directed(model: LatentVariableModel) -> DirectedModel:
    if not isinstance(model, DirectedModel):
        raise NotApplicable(f"{type(model).__name__} has no prior and likelihood")
    return model


def _tractable(model: LatentVariableModel) -> TractableModel:
    if not isinstance(model, TractableModel):
        raise NotApplicable(f"{type(model).__name__} has no exact posterior")
    return model


def _exact(model: LatentVariableModel) -> ExactModel:
    if not isinstance(model, ExactModel):
        raise NotApplicable(f"{type(model).__name__} has no exact posterior with an M-step")
    return model


def _generated(model: LatentVariableModel, frame: Frame) -> Batch:
    """A draw of x for each datum of the frame."""
    try:
        return model.generate(frame)[0]
    except CapabilityError as error:
        raise NotApplicable(str(error)) from error


def _small(size: int) -> None:
    if size > LARGEST:
        raise NotApplicable(f"{size} values are too many to enumerate")


def _frame(batch: Batch, n: int) -> Frame:
    """n data of the model's own length, all in the first datum's context."""
    context = None if batch.context is None else batch.context.select(torch.zeros(n, dtype=torch.long))
    return Frame(n, context=context)


def likelihood_is_discrete(model: LatentVariableModel, batch: Batch) -> bool:
    """Whether x is made of symbols, so that p(x) is a probability and not a density."""
    one = batch.select(slice(1))
    z, _ = enumerate_latents(model, one)
    support: Any = _directed(model).likelihood(each(lambda part: part[:1], z), one.frame).support
    return support.is_discrete


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors of a few numbers are faster on one thread: ten times, where other work wants the processors too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def agrees(draws: Tensor, truth: Tensor | float, slack: float = 0.0, odds: float = 1e-4) -> bool:
    """Whether the mean of independent draws, (R, ...), is the truth, (...), within its own standard error.

    With C comparisons each may be off by t standard errors, where Student's t of R - 1 degrees exceeds t with
    probability odds / C: of true statements all together `odds` are denied.

    Args:
        slack: added to each error, for what the draws' mean is known to be off by, such as a bias.
    """
    error = draws.std(0) / math.sqrt(len(draws))
    width = float(t.isf(odds / (2 * max(error.numel(), 1)), len(draws) - 1))
    return bool(((draws.mean(0) - truth).abs() <= width * error + slack).all())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's global generator at `seed`, and afterwards where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _sampled(q: Distribution, f: gradients.Function, samples: int) -> Tensor:
    """(1/S) sum_s f(z_s): a value without a gradient."""
    return gradients.value(f, draw(q, samples, gradient=False)).mean(0)


def _estimator(q: Distribution) -> gradients.Estimator:
    if q.has_rsample or (isinstance(q, Joint) and q.summed):
        return gradients.pathwise
    return gradients.enumerate if q.has_enumerate_support else _sampled


def _answers(model: LatentVariableModel, batch: Batch, z: Any) -> dict[str, Tensor]:
    """What a model says of each datum, (B, ...): log p(x, z), the posterior's mean, log p(x) where it is exact."""
    posterior = model.posterior(batch)
    mean = posterior.mean if isinstance(posterior.mean, Tensor) else flat(posterior.mean)
    answers = {"log-joint": model.log_joint(batch, z).T, "posterior mean": mean}
    return answers | ({"log-partition": posterior.log_partition} if isinstance(posterior, Unnormalised) else {})


def _masked(batch: Batch) -> Batch:
    """The same data with one more value of each other datum hidden."""
    mask = (torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask).clone().flatten(1)
    mask[::2, 0] = False
    return batch._replace(mask=mask.view_as(batch.x))


def _garbage(batch: Batch) -> Tensor:
    """Values of the right kind that are nobody's data."""
    if batch.x.is_floating_point():
        return torch.full_like(batch.x, 1000.0)
    return batch.x.flip(0).roll(1, 0)


def _with_value(batch: Batch, j: int, value: Tensor) -> Batch:
    """The data with `value` in the j-th coordinate."""
    x = batch.x.flatten(1).clone()
    x[:, j] = value.to(x)
    return batch._replace(x=x.view_as(batch.x))


@torch.no_grad()
def _em_step(model: ExactModel, batch: Batch) -> None:
    model.update(model.statistics(batch, model.posterior(batch)))


@torch.no_grad()
def _climbed(model: ExactModel, batch: Batch) -> float:
    """log p(x) + log_prior(), in nats over the whole batch: what EM climbs."""
    return float((batch.weights * model.posterior(batch).log_partition).sum() + model.log_prior())


def _assert(truth: bool, message: str) -> None:
    if not truth:
        raise AssertionError(message)


def _equal(promise: str, left: Tensor, right: Tensor, tolerance: float) -> None:
    """|left - right| <= tolerance (1 + |right|), infinities alike, NaN nowhere."""
    _assert(left.shape == right.shape, f"{promise}: shapes {tuple(left.shape)} and {tuple(right.shape)}")
    gap = torch.where(left == right, 0.0, (left.double() - right.double()).abs() / (1 + right.double().abs())).detach()
    worst = float(gap.max()) if gap.numel() else 0.0
    _assert(worst <= tolerance, f"{promise}: off by {worst:.3g}, {tolerance:.3g} allowed")


def _same_parameters(promise: str, one: LatentVariableModel, other: LatentVariableModel, tolerance: float) -> None:
    others = other.state_dict()
    for name, value in one.state_dict().items():
        _equal(f"{promise}: {name}", value, others[name], tolerance)


def _no_more(promise: str, low: Tensor, high: Tensor) -> None:
    """E low <= E high for every datum, from independent draws (R, B); one row is the expectation itself."""
    error = sum(part.var(0) / len(part) for part in (low, high) if len(part) > 1)
    excess = float((low.mean(0) - high.mean(0) - 5 * torch.as_tensor(error).sqrt()).max())
    _assert(excess <= 1e-9, f"{promise}: above it by {excess:.3g} nats more than chance allows")


def _mean(promise: str, draws: Tensor, expected: Tensor) -> None:
    """The average of draws (S, D) is the expected one, (D,), but for chance."""
    error = draws.std(0) / math.sqrt(len(draws))
    off = float(((draws.mean(0) - expected).abs() / (error + 1e-12)).max())
    _assert(off <= DOUBT, f"{promise}: off by {off:.3g} standard errors, {DOUBT:.3g} allowed")


def _frequencies(promise: str, counts: Tensor, probability: Tensor) -> None:
    """Pearson's chi-square test; cells of which fewer than five draws are expected are one."""
    expected = probability * counts.sum()
    _assert(not bool(counts[probability == 0].any()), f"{promise}: something impossible was drawn")
    rare = expected < 5
    observed, wanted = counts[~rare].double(), expected[~rare].double()
    if float(expected[rare].sum()) >= 5:
        observed = torch.cat([observed, counts[rare].sum().double().unsqueeze(0)])
        wanted = torch.cat([wanted, expected[rare].sum().double().unsqueeze(0)])
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    value = float(chi2.sf(statistic, max(len(wanted) - 1, 1)))
    _assert(value > RARE, f"{promise}: chi-square {statistic:.4g} in {len(wanted)} cells, p = {value:.2g}")
