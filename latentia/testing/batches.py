"""Checks that neighbours, padding, weights and missing values change what they should, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.distributions import Brackets, Dependencies, Structured, Tree
from latentia.distributions.latents import each, flat, named
from latentia.model import TractableModel
from latentia.testing.answers import answers_of, garbage, masked_more, padded, with_value
from latentia.testing.brute_force import axes_of_x, brute_force_log_marginal, generates_ends
from latentia.testing.expect import (
    NotApplicable,
    Tiny,
    as_directed,
    as_exact,
    require,
    require_equal,
    require_same_parameters,
    seeded,
)
from latentia.testing.learning import em_step

TREES = (Brackets, Dependencies, Tree)


def check_batching(tiny: Tiny, seed: int) -> None:
    """What a datum gets depends on that datum alone: not on the others, their order, or what lies under the mask."""
    model, batch = tiny(seed)
    with torch.no_grad(), seeded(seed):
        z = model.posterior(batch).sample((3,))
        whole = answers_of(model, batch, z)
        order = torch.randperm(batch.size)
        moved = answers_of(model, batch.select(order), each(lambda part: part[:, order], z))
        singles = [
            answers_of(model, batch.select(slice(i, i + 1)), each(lambda part, i=i: part[:, i : i + 1], z))
            for i in range(batch.size)
        ]
        masked = masked_more(batch)
        before = answers_of(model, masked, z)
        after = answers_of(model, masked._replace(x=torch.where(masked.observed, masked.x, garbage(batch))), z)
    for name, value in whole.items():
        require_equal(f"the order of a batch changes nothing: {name}", moved[name], value[order], 1e-9)
        joined = torch.cat([single[name] for single in singles])
        require_equal(f"splitting a batch changes nothing: {name}", joined, value, 1e-9)
        require_equal(f"what lies under the mask changes nothing: {name}", after[name], before[name], 1e-9)


def check_padding(tiny: Tiny, seed: int) -> None:
    """What lies beyond the end of a datum changes nothing, and has no latents."""
    model, batch = tiny(seed)
    if batch.lengths is None:
        raise NotApplicable("data have no ends")
    steps = batch.x.shape[1]
    with torch.no_grad(), seeded(seed):
        z = model.posterior(batch).sample((3,))
        short = answers_of(model, batch, z)
        extra = batch.x[:, :1].expand(-1, 2, *batch.x.shape[2:])
        mask = None if batch.mask is None else torch.cat([batch.mask, torch.ones_like(extra).bool()], 1)
        longer = batch._replace(x=torch.cat([batch.x, extra], 1), mask=mask)
        wide = longer._replace(lengths=torch.full_like(batch.lengths, steps + 2))
        ample = model.posterior(wide).mean
        more = each(lambda part, like: padded(part, like), z, ample)
        found = answers_of(model, longer, more)
        mean = model.posterior(longer).mean
        inside = each(_without_padding, mean, model.posterior(batch).mean)
        beyond = each(lambda part, some: part - padded(some.unsqueeze(0), part).squeeze(0), mean, inside)
    found["posterior mean"] = inside if isinstance(inside, Tensor) else flat(inside)
    for part in named(beyond).values():
        require_equal("what lies beyond the end has no states", part, torch.zeros_like(part), 1e-12)
    for name, value in short.items():
        require_equal(f"what lies beyond the end changes nothing: {name}", found[name], value, 1e-9)


def _without_padding(longer: Tensor, like: Tensor) -> Tensor:
    """As much of (B, *latent) as another such tensor has."""
    return longer[:, *(slice(size) for size in like.shape[1:])]


def check_hidden(tiny: Tiny, seed: int) -> None:
    """A datum whose last value is hidden is not the shorter datum: the one is the other summed over that value."""
    model, batch = tiny(seed)
    if batch.lengths is None:
        raise NotApplicable("data have no ends")
    keep = batch.lengths == batch.x.shape[1]
    whole = batch.select(keep)._replace(mask=None)
    hidden = torch.ones_like(whole.x, dtype=torch.bool)
    hidden[:, -1] = False
    require(bool((whole._replace(mask=hidden).ends == whole.ends).all()), "a hidden last value does not end a datum")
    q, seen = model.posterior(whole._replace(mask=hidden)), model.posterior(whole)
    for one, other in zip(named(q.mean).values(), named(seen.mean).values(), strict=True):
        require(one.shape == other.shape, f"latents of a hidden step are there: {tuple(one.shape)}")
        if isinstance(q, Structured):
            # of a tree how many constituents there are, wherever they may be
            count = torch.stack([one, other]) if not isinstance(q, TREES) else torch.stack([one, other]).flatten(2)
            count, seen_count = count.sum(-1)
            require_equal("states of a hidden step have their probability", count, seen_count, 1e-9)


def check_weights(tiny: Tiny, seed: int) -> None:
    """Weight 2 is seen twice and weight 0 is absent: the M-step gives the same parameters."""
    (weighted, batch), (repeated, _) = tiny(seed), tiny(seed)
    weight = torch.ones(batch.size, dtype=weighted.anchor.dtype)
    weight[0], weight[1] = 2.0, 0.0
    em_step(as_exact(weighted), batch._replace(weight=weight))
    em_step(as_exact(repeated), batch._replace(weight=None).select(torch.tensor([0, 0, *range(2, batch.size)])))
    require_same_parameters("weight 2 = repeated and weight 0 = absent", weighted, repeated, 1e-9)


def check_additive(tiny: Tiny, seed: int) -> None:
    """Statistics are sums: those of two halves of a batch add up to those of the whole."""
    model, batch = tiny(seed)
    exact, half = as_exact(model), batch.size // 2
    with torch.no_grad():
        total, first, rest = (
            exact.statistics(part, exact.posterior(part))
            for part in (batch, batch.select(slice(half)), batch.select(slice(half, None)))
        )
    for name, value in total.items():
        require_equal(f"the statistic {name} adds across batches", first[name] + rest[name], value, 1e-9)


def check_missing(tiny: Tiny, seed: int) -> None:
    """A masked value is summed out: log p(x without x_j) = log sum_v p(x with x_j = v), and nothing seen is p = 1."""
    model, batch = tiny(seed)
    marginals: list[Callable[[Batch], Tensor]] = [lambda some: brute_force_log_marginal(model, some)]
    if isinstance(model, TractableModel):
        marginals.append(lambda some: model.posterior(some).log_partition.detach())
    axes, steps = axes_of_x(as_directed(model), batch)
    for j in sorted({0, len(axes) // 2, len(axes) - 1}):
        seen = batch.select(batch.observed.flatten(1)[:, j])
        hidden = seen.observed.flatten(1).clone()
        hidden[:, j] = False
        for marginal in marginals:
            filled = [with_value(seen, j, value) for value in axes[j]]
            summed = torch.logsumexp(torch.stack([marginal(some) for some in filled]), 0) + math.log(steps[j])
            without = marginal(seen._replace(mask=hidden.view_as(seen.x)))
            require_equal(f"masking coordinate {j} = summing it out", without, summed, 1e-8)
    if generates_ends(as_directed(model), batch):
        return  # of a datum of which nothing is seen its length is known
    for marginal in marginals:
        empty = marginal(batch._replace(mask=torch.zeros_like(batch.observed)))
        require_equal("a datum of which nothing is seen has p = 1", empty, torch.zeros_like(empty), 1e-9)


def check_nan(tiny: Tiny, seed: int) -> None:
    """NaN at the door becomes mask."""
    model, batch = tiny(seed)
    if not batch.x.is_floating_point():
        raise NotApplicable("x is not real")
    masked = masked_more(batch)
    raw = torch.where(masked.observed, masked.x, torch.nan)
    others: dict[str, Any] = masked._asdict()
    del others["x"], others["mask"]
    door = Batch.of(raw, **others)
    require(bool(door.x.isfinite().all()), "NaN at the door becomes mask: some is left in x")
    require(torch.equal(door.observed, masked.observed), "NaN at the door becomes mask: the mask is another")
    with torch.no_grad(), seeded(seed):
        z = model.posterior(masked).sample((3,))
        for name, value in answers_of(model, masked, z).items():
            require_equal(f"NaN at the door = masked: {name}", answers_of(model, door, z)[name], value, 1e-9)
