"""Fill in what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.batch import Batch
from latentia.data import Schema, batch_for, data_for
from latentia.data.writing import short
from latentia.distributions import MonotoneAlignment, OneHot
from latentia.distributions.canonical import CanonicalGaussian
from latentia.distributions.discrete import count
from latentia.distributions.latents import Latents, each
from latentia.distributions.observed import moments, of_moments
from latentia.distributions.structured import Structured
from latentia.errors import DataError, OptionError
from latentia.model import DirectedModel, LatentVariableModel, TractableModel
from latentia.tasks.common import directed, log_marginals, repeated, using

# the independence proposal is poor while x_mis is far from anything likely, so at first every one is taken
PSEUDO_GIBBS_SHARE = 0.1


class Completion(NamedTuple):
    """What the missing entries may have been; observed entries are as they came. In the model's coordinates.

    Attributes:
        mean: E[x_missing | x_observed], (B, *event), floating; of symbols the expected number, which means
            something for levels only; of a column of categories the most probable one.
        draws: from p(x_missing | x_observed), (draws, B, *event), in x's dtype.
        expected: E[x_missing | z, x_observed] for the z of each draw, (draws, B, *event): a draw without the noise of
            the likelihood.
    """

    mean: Tensor
    draws: Tensor
    expected: Tensor


def complete(model: LatentVariableModel, data: Any, *, draws: int = 16, sweeps: int = 200, seed: int = 0) -> Completion:
    """p(x_missing | x_observed), what is missing being what the mask leaves out.

    Of a masked diffusion what is missing is drawn with what is observed shown first (see `MaskedSymbols.given`).

    Where the posterior is exact, z ~ p(z | x_observed) and x ~ p(x | z, x_observed) are exact draws, and for one of
    K values the mean is the exact sum_k p(k | x_observed) E[x | k, x_observed]; for other structures the mean
    averages E[x | z, x_observed] over the draws. Steps beyond the end of a sequence are no missing steps.

    Otherwise by Metropolis within Gibbs, `draws` chains side by side for every datum. Each sweep proposes
    z' ~ q(z | x_observed, x_missing), takes it with probability

        min(1, p(x, z') q(z | x) / (p(x, z) q(z' | x)))

    and draws x_missing ~ p(x_missing | z, x_observed). The first tenth of the sweeps takes every proposal
    (pseudo-Gibbs); the mean averages E[x | z, x_observed] over the second half of the sweeps. Mattei and Frellsen
    (2018), "Leveraging the exact likelihood of deep latent variable models", section 3.

    Args:
        data: anything that `as_dataset` takes; NaN and what the mask leaves out is missing.
        draws: draws for each datum, at least 1.
        sweeps: of the chain, at least 2; not looked at where the posterior is exact.

    Raises:
        CapabilityError: the model has no likelihood.
        DataError: data that the model cannot have.
        OptionError: draws or sweeps too few.
    """
    if draws < 1 or sweeps < 2:
        raise OptionError(f"draws={draws}, sweeps={sweeps}: at least 1 draw and 2 sweeps")
    model = directed(model, "complete")
    batch = batch_for(model, data, seed)._replace(known=None)
    with using(model, seed):
        # a z of one value leaves nothing to walk over
        if isinstance(model, TractableModel) or count(model.posterior(batch)) == 1:
            return _exactly(model, batch, draws)
        return _by_chains(model, batch, draws, sweeps)


class Conditional(NamedTuple):
    """log p(x_hidden | x_shown) of each datum, (N,) float64, in nats, in the units of the data as given.

    Attributes:
        value: log p(x) - log p(x_shown).
        standard_error: of `value`, of the two estimates together; 0 where both are exact.
        entries: how many values were hidden.
    """

    value: Tensor
    standard_error: Tensor
    entries: Tensor


def conditional_log_likelihood(
    model: LatentVariableModel,
    data: Any,
    hidden: Any,
    *,
    importance_samples: int = 1000,
    steps: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Conditional:
    """How probable the truth is that was hidden: log p(x_hidden | x_shown) = log p(x) - log p(x_shown).

    Both are exact where the model is, else importance sampling estimates: each alone is on average too low, and the
    second, whose encoder sees less than it has learned to see, would be so by more, which would flatter the
    difference. So q(z | x) and q(z | x_shown) are both refined datum by datum before it is drawn from.

    Args:
        data: with the truth; anything that `as_dataset` takes. What is missing there stays missing.
        hidden: the shape of x, or one that broadcasts to it; True = hidden.
        steps: of refinement, see `latentia.inference.refinement.refine`; 0 draws from the encoder's q.

    Raises:
        DataError: a mask of another shape, or one that hides nothing.
    """
    data = data_for(model, data, seed)
    try:
        hidden = torch.as_tensor(hidden, dtype=torch.bool, device=data.x.device).expand(data.x.shape)
    except RuntimeError:
        raise DataError(f"hidden has shape {tuple(hidden.shape)}, and x {tuple(data.x.shape)}") from None
    seen = torch.ones_like(hidden) if data.seen is None else data.seen
    entries = (hidden & seen).flatten(1).sum(1).cpu()
    if not bool(entries.any()):
        raise DataError("hidden hides nothing that was observed")
    left = ~hidden if data.mask is None else data.mask & ~hidden
    shown = replace(data, mask=left, x=torch.where(left, data.x, torch.zeros_like(data.x)))
    whole, whole_error = log_marginals(model, data, importance_samples, steps, seed, progress)
    part, part_error = log_marginals(model, shown, importance_samples, steps, seed, progress)
    return Conditional(whole - part, (whole_error**2 + part_error**2).sqrt(), entries)


def errors(schema: Schema, filled: Tensor, truth: Tensor, hidden: Tensor) -> Iterator[str]:
    """How far what was filled in lies from the truth that was hidden, in sentences: the root mean squared error, of a
    table for each column in its own units, and of symbols and categories the share that is right."""
    if schema.values in ("symbols", "levels") and (schema.kind != "image" or schema.chroma):
        right = (filled == truth)[hidden].double().mean()
        yield f"{float(right):.1%} of the hidden values are filled in as they were"
        return
    if schema.kind != "table":
        yield f"RMSE of the hidden values {_rmse(filled, truth, hidden):.4g}, in the model's coordinates"
        return
    values, known = (np.asarray(schema.decode(part), dtype=object) for part in (filled, truth))
    where = hidden.cpu().numpy()
    names = schema.names or tuple(f"x{j + 1}" for j in range(values.shape[1]))
    for name, one, other, at in zip(names, values.T, known.T, where.T, strict=True):
        if not at.any():
            continue
        if any(isinstance(value, str) for value in other[at]):
            yield f"  {name}: {np.mean(one[at] == other[at]):.1%} of {at.sum():,} right"
            continue
        away, spread = (one[at] - other[at]).astype(np.float64), np.nanstd(other.astype(np.float64))
        rmse = float(np.sqrt(np.mean(away**2)))
        of = f", {rmse / spread:.2f} standard deviations of the column" if spread > 0 else ""
        yield f"  {name}: RMSE {short(rmse)} over {at.sum():,} hidden values{of}"


def _rmse(filled: Tensor, truth: Tensor, hidden: Tensor) -> float:
    return float((filled.double() - truth.double())[hidden].square().mean().sqrt())


def _exactly(model: Any, batch: Batch, draws: int) -> Completion:
    posterior: Any = model.posterior(batch)
    z = posterior.sample((draws,))
    by_step = isinstance(posterior, Structured) and not isinstance(posterior, MonotoneAlignment)
    given = model.conditional(_grounded(z) if by_step else z, batch)
    drawn, each_mean = given.sample().reshape(draws, *batch.x.shape), moments(given)
    mean = each_mean.mean(0)
    if isinstance(posterior, OneHot) and posterior.event_shape[0] > 1:
        every = moments(model.conditional(posterior.enumerate_support(), batch)).flatten(2)
        mean = torch.einsum("kb,kbd->bd", posterior.marginals.T.to(every), every)
    elif isinstance(posterior, CanonicalGaussian):
        # of a Gaussian z the mirror images are draws too, and in pairs what is linear in z has no noise
        mirrored = moments(model.conditional(2 * posterior.mean - z, batch)).mean(0)
        mean = 0.5 * (mean + mirrored)
    mean, each_mean = of_moments(given, mean), of_moments(given, each_mean)
    return _completion(batch, mean.reshape(batch.x.shape), drawn, each_mean.reshape(drawn.shape))


def _completion(batch: Batch, mean: Tensor, drawn: Tensor, each_mean: Tensor) -> Completion:
    missing = batch.hidden
    mean, each_mean = (torch.where(missing, part, batch.x.to(part)) for part in (mean, each_mean))
    return Completion(mean, torch.where(missing, drawn.to(batch.x), batch.x), each_mean)


def _grounded(z: Tensor) -> Tensor:
    """z with some state where a sequence is over, so that p(x | z) is a distribution there too."""
    return torch.cat([torch.where(z.sum(-1, keepdim=True) > 0, z[..., :1], 1.0), z[..., 1:]], -1)


def _by_chains(model: DirectedModel, batch: Batch, draws: int, sweeps: int) -> Completion:
    known = repeated(batch, draws)
    z: Latents = model.posterior(known).sample((1,))
    x, given, last = _refill(model, known, z)
    total = torch.zeros_like(last)
    for sweep in range(sweeps):
        full = known._replace(x=x, mask=None)
        z = _step(model, full, z, always=sweep < PSEUDO_GIBBS_SHARE * sweeps)
        x, given, last = _refill(model, known, z)
        if sweep >= sweeps // 2:
            total += last
    mean = of_moments(given, (total / (sweeps - sweeps // 2)).unflatten(0, (draws, -1)).mean(0))
    drawn, each_mean = x.unflatten(0, (draws, -1)), of_moments(given, last).reshape(draws, *batch.x.shape)
    return _completion(batch, mean.reshape(batch.x.shape), drawn, each_mean)


def _refill(model: DirectedModel, known: Batch, z: Any) -> tuple[Tensor, Distribution, Tensor]:
    """x with its missing part drawn from p(x_missing | z, x_observed), (B, *event), that distribution, and its moments,
    (B, ...)."""
    given = model.conditional(z, known)
    drawn = given.sample().squeeze(0).reshape(known.x.shape).to(known.x)
    return torch.where(known.hidden, drawn, known.x), given, moments(given).squeeze(0)


def _step(model: DirectedModel, full: Batch, z: Any, always: bool) -> Latents:
    """One Metropolis step on z, with q(z | x) as its proposal."""
    q = model.posterior(full)
    proposal: Any = q.sample((1,))
    if always:
        return proposal

    def log_weight(value: Any) -> Tensor:
        return model.log_joint(full, value) - q.log_prob(value)

    ratio = log_weight(proposal) - log_weight(z)
    accepted = torch.rand_like(ratio).log() < ratio
    return each(
        lambda new, old: torch.where(accepted.reshape(*accepted.shape, *(1,) * (new.ndim - 2)), new, old), proposal, z
    )
