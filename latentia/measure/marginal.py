"""log p(x) of each datum: exactly where the model allows, by importance sampling elsewhere."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.data import Dataset, in_order
from latentia.distributions.bounded import Bounded
from latentia.distributions.divergence import kl_given
from latentia.distributions.joint import draw
from latentia.errors import CapabilityError, OptionError
from latentia.inference.importance import MEMORY, LogMarginal, Weights, chunks
from latentia.model import Batch, DirectedModel, LatentVariableModel, TractableModel, in_evaluation
from latentia.progress import Bar

BOUND_DRAWS, BOUND_ROWS = 64, 256
"""Estimates of a bound that are averaged for a datum, at most, and data at a time."""


@torch.no_grad()
@in_evaluation
def log_marginal(
    model: LatentVariableModel,
    data: Dataset,
    *,
    importance_samples: int = 1000,
    proposal: str = "posterior",
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> LogMarginal:
    """log p(x) by importance sampling: log (1/K) sum_k p(x, z_k) / r(z_k), z_k ~ r.

    Args:
        importance_samples: K.
        proposal: r. "posterior" is q(z | x) (Burda et al. 2016, section 5.1; Rezende et al. 2014, appendix E);
            "prior" is naive Monte Carlo, log (1/K) sum_k p(x | z_k).
        memory: bytes that a chunk of samples may take; the data and the samples are cut to fit.

    Raises:
        CapabilityError: proposal="prior" for a model that has none; or of prior and likelihood only a bound is known.
        OptionError: no samples.
    """
    data = data.frozen(seed)
    if len(data):
        model.check(data.batch(dtype=model.anchor.dtype).to(model.anchor))
    options: dict[str, Any] = {"importance_samples": importance_samples, "proposal": proposal, "seed": seed}
    return importance_marginal(model, data, memory=memory, progress=progress, **options)


def importance_marginal(
    model: LatentVariableModel,
    data: Dataset,
    *,
    importance_samples: int,
    proposal: str = "posterior",
    seed: int,
    memory: int,
    progress: bool,
) -> LogMarginal:
    """`log_marginal` of data that are frozen, and that the model is known to have."""
    if importance_samples < 1:
        raise OptionError(f"importance_samples={importance_samples}: at least 1 is needed")
    if proposal == "prior" and not isinstance(model, DirectedModel):
        raise CapabilityError(f"naive Monte Carlo draws from the prior: write {type(model).__name__}.prior")
    results, positions = [], []
    with torch.random.fork_rng(), Bar("importance sampling", len(data), shown=progress) as bar:
        torch.manual_seed(seed)
        draws, rows = chunks(model, data, importance_samples, memory)
        for index, batch in data.by_length(rows, model.anchor.dtype):
            results.append(_sample(model, batch.to(model.anchor), importance_samples, draws, proposal))
            positions.append(index)
            bar.show(sum(map(len, positions)))
    return LogMarginal(*(in_order(parts, positions).cpu() for parts in zip(*results, strict=True)))


def _sample(model: LatentVariableModel, batch: Batch, total: int, draws: int, proposal: str) -> LogMarginal:
    source: Distribution = model.posterior(batch)
    if proposal == "prior" and isinstance(model, DirectedModel):
        source = model.prior(batch.frame)
    weights = Weights(batch.size, total, model.anchor)
    for start in range(0, total, draws):
        drawn = draw(source, min(draws, total - start), gradient=False)
        z, log_proposal = drawn.z, drawn.log_q
        if isinstance(model, DirectedModel):
            log_likelihood = model.log_likelihood(batch, z)
            log_joint = model.prior(batch.frame).log_prob(z) + log_likelihood  # type: ignore[arg-type]
        else:
            log_joint = model.log_joint(batch, z)
            log_likelihood = torch.full_like(log_joint, math.nan)
        weights.add(log_joint - log_proposal, log_likelihood)
    return weights.result()


def only_bounded(model: LatentVariableModel, data: Dataset) -> bool:
    """Whether the model's prior or likelihood is `Bounded`, so that log p(x) has a bound and no weights to estimate
    it by."""
    if not isinstance(model, DirectedModel) or isinstance(model, TractableModel) or not len(data):
        return False
    batch = data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor)
    with torch.random.fork_rng():
        prior, z = model.prior(batch.frame), model.posterior(batch).sample((1,))
        return isinstance(prior, Bounded) or isinstance(model.likelihood(z, batch.frame), Bounded)


def bounded_marginal(
    model: LatentVariableModel, data: Dataset, *, draws: int, seed: int, progress: bool
) -> LogMarginal:
    """In the place of log p(x) the mean of so many estimates of its bound, E_q[log p(x, z) - log q(z | x)], with the
    bound of what has no density; there are no weights, and so no effective sample size (NaN)."""
    assert isinstance(model, DirectedModel)  # `only_bounded` says so
    results, positions = [], []
    with torch.random.fork_rng(), Bar("the bound", len(data), shown=progress) as bar:
        torch.manual_seed(seed)
        for index, batch in data.by_length(BOUND_ROWS, model.anchor.dtype):
            batch, parts = batch.to(model.anchor), []
            q, prior = model.posterior(batch), model.prior(batch.frame)
            for _ in range(draws):
                drawn = draw(q, 1, gradient=False)
                fit = model.log_likelihood_bound(batch, drawn.z)
                kl = torch.cat(list(kl_given(q, prior, drawn).values()), -1).sum(-1)
                parts.append(torch.stack([fit - kl, fit]).squeeze(1).double())
            results.append(_averaged(torch.stack(parts)))
            positions.append(index)
            bar.show(sum(map(len, positions)))
    return LogMarginal(*(in_order(parts, positions).cpu() for parts in zip(*results, strict=True)))


def _averaged(parts: Tensor) -> LogMarginal:
    """Of estimates of the bound and of its reconstruction, (draws, 2, B)."""
    value, fit = parts.mean(0)
    none = torch.full_like(value, math.nan)
    error = parts[:, 0].std(0) / math.sqrt(len(parts)) if len(parts) > 1 else none
    return LogMarginal(value, error, none, value, fit, none)


def exact_log_marginals(model: TractableModel, data: Dataset) -> Tensor:
    """log p(x) of each datum, (N,) float64, in nats, in the units of x."""
    parts = [
        (at, model.posterior(batch.to(model.anchor)).log_partition.double().cpu())
        for at, batch in data.by_length(1024, model.anchor.dtype)
    ]
    return in_order([value for _, value in parts], [at for at, _ in parts])


def exact_marginal(model: TractableModel, data: Dataset) -> LogMarginal:
    """The same as `log_marginal` gives it."""
    return exactly(exact_log_marginals(model, data))


def exactly(value: Tensor) -> LogMarginal:
    """log p(x) of each datum that is known without any sampling, (N,)."""
    zero = torch.zeros_like(value)
    return LogMarginal(value, zero, zero + math.inf, value, zero + math.nan, zero + math.nan)
