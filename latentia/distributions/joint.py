"""Several latents at once, in ancestral order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from latentia.distributions import latents
from latentia.distributions.discrete import enumerable
from latentia.distributions.latents import Latents

Conditional = Distribution | Callable[[dict[str, Tensor]], Distribution]


class Joint(Distribution):
    """p(z_1, ..., z_L) = prod_l p(z_l | z_1, ..., z_{l-1}), over a dict of tensors.

    p and q of a model may have orders of their own: a prior goes from the top down, a posterior from x up.

    Args:
        parts: name to a distribution, or to a function from the latents drawn so far to one, in
            ancestral order. All share the batch shape (B,); a function's result has (S, B) after samples (S,).
        summed: the names of latents with a support to enumerate that expectations are to sum out exactly: those of
            `mean`, and of `estimators.pathwise`, which needs the others alone to be reparameterised.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, parts: dict[str, Conditional], summed: Iterable[str] = ()):
        if not parts:
            raise ValueError("a Joint needs at least one latent")
        self.parts, self.summed = parts, frozenset(summed)
        first = next(iter(parts.values()))
        if not isinstance(first, Distribution):
            raise ValueError("the first latent of a Joint has no parents: give it a distribution, not a function")
        if not self.summed <= parts.keys():
            raise ValueError(f"summed={sorted(self.summed)}: the latents are {', '.join(parts)}")
        wrong = [name for name in self.summed if not _enumerable(parts[name])]
        if wrong:
            raise ValueError(f"the latent {wrong[0]} has no support to enumerate, so it cannot be summed out")
        self.has_rsample = all(not isinstance(part, Distribution) or part.has_rsample for part in parts.values())
        super().__init__(first.batch_shape, validate_args=False)

    def draw(self, samples: int, gradient: bool = True) -> Draw:
        """z ~ p with what each latent was drawn from, (S, B, *latent).

        Args:
            gradient: with respect to the parameters, through the draws.
        """
        return self._walk(samples, gradient, frozenset())

    def branches(self, samples: int = 1) -> Draw:
        """Every value of the latents that are `summed`, with `samples` differentiable draws of the others each, all
        draws of one value together, and the log-probability of each, divided among its draws."""
        return self._walk(samples, True, self.summed)

    def _walk(self, samples: int, gradient: bool, summed: frozenset[str]) -> Draw:
        drawn: dict[str, Tensor] = {}
        used: dict[str, Distribution] = {}
        weight: Tensor | None = None
        for name, part in self.parts.items():
            p = part if isinstance(part, Distribution) else part(drawn)
            if name in summed:
                drawn, weight = _every(name, p, drawn, weight, samples)
                used = {other: self.conditional(other, drawn) for other in (*used, name)}
                continue
            shape = (len(latents.some(drawn)) if drawn else samples,) if p.batch_shape == self.batch_shape else ()
            drawn[name] = p.rsample(shape) if gradient and p.has_rsample else p.sample(shape)  # type: ignore[arg-type]
            used[name] = p
        return Draw(drawn, used, weight)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> dict[str, Tensor]:  # type: ignore[override]
        with torch.no_grad():
            return self._draw(sample_shape, "sample")

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> dict[str, Tensor]:  # type: ignore[override]
        return self._draw(sample_shape, "rsample")

    def _draw(self, sample_shape: torch.Size | tuple[int, ...], method: str) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            if isinstance(part, Distribution):
                drawn[name] = getattr(part, method)(sample_shape)
            else:
                drawn[name] = getattr(part(drawn), method)()
        return drawn

    def log_prob(self, value: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        """log p(z_1, ..., z_L) in nats, the sum over latents, (S, B)."""
        return log_prob_of_parts({name: self.conditional(name, value) for name in self.parts}, value)

    def conditional(self, name: str, value: dict[str, Tensor]) -> Distribution:
        """p(z_name | its ancestors in `value`)."""
        part = self.parts[name]
        return part if isinstance(part, Distribution) else part(value)

    def ancestors(self, name: str) -> set[str]:
        """The latents that p(z_name | ...) may depend on: those that are drawn before it, or none."""
        names = list(self.parts)
        return set() if isinstance(self.parts[name], Distribution) else set(names[: names.index(name)])

    @property
    def first(self) -> Distribution:
        """p(z_1)."""
        return next(iter(self.parts.values()))  # type: ignore[return-value]  # __init__ has checked that it is one

    @property
    def mean(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The mean of each latent given its ancestors' means; latents that are `summed` are summed out of it."""
        if self.summed:
            return self._summed_means()
        means: dict[str, Tensor] = {}
        for name in self.parts:
            means[name] = self.conditional(name, means).mean
        return means

    def _summed_means(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        weight: Tensor | None = None
        means: dict[str, Tensor] = {}
        for name in self.parts:
            p = self.conditional(name, values)
            before = weight
            if name in self.summed:
                values, weight = _every(name, p, values, weight, 1)
            else:
                mean = p.mean
                rows = 1 if not values else len(latents.some(values))
                values[name] = mean if p.batch_shape != self.batch_shape else mean.expand(rows, *mean.shape)
            means[name] = _averaged(p.mean, before if p.batch_shape != self.batch_shape else None)
        return means

    @property
    def stddev(self) -> dict[str, Tensor]:  # type: ignore[override]
        """The standard deviation of each latent given its ancestors' means."""
        means = self.mean
        return {name: self.conditional(name, means).stddev for name in self.parts}


class Draw(NamedTuple):
    """Draws of z with the distributions that they came from: networks are asked once for both.

    Attributes:
        z: (S, B, *latent), or several by name.
        parts: what each latent was drawn from, given its ancestors in z; a latent that is alone is called "z".
        log_weight: (S, B), where a finite latent is summed out: E f(z) = sum_s exp(log_weight_s) f(z_s). None where
            the draws count alike, E f(z) = (1/S) sum_s f(z_s).
    """

    z: Latents
    parts: dict[str, Distribution]
    log_weight: Tensor | None = None

    @property
    def log_q(self) -> Tensor:
        """The log-density of the draws in nats, (S, B)."""
        return log_prob_of_parts(self.parts, latents.named(self.z))

    def mean(self, value: Tensor) -> Tensor:
        """The estimate of E f(z), (B, ...), from f of the draws, (S, B, ...). What has no probability adds nothing."""
        if self.log_weight is None:
            return value.mean(0)
        weight = self.log_weight.exp()
        weight = weight.reshape(*weight.shape, *(1,) * (value.ndim - weight.ndim))
        return (weight * value.where(weight > 0, 0.0)).sum(0)


def draw(q: Distribution, samples: int, gradient: bool = True) -> Draw:
    """z ~ q and what it was drawn from, in one pass of q's networks.

    Args:
        gradient: with respect to q's parameters, through the draws, where q can be reparameterised.
    """
    if isinstance(q, Joint):
        return q.draw(samples, gradient)
    z: Any = q.rsample((samples,)) if gradient and q.has_rsample else q.sample((samples,))  # type: ignore[arg-type]
    return Draw(z, {"z": q})


def at(q: Distribution, z: Latents) -> Draw:
    """z as if it had been drawn from q."""
    parts = {name: q.conditional(name, z) for name in q.parts} if isinstance(q, Joint) else {"z": q}  # type: ignore[arg-type]
    return Draw(z, parts)


def log_prob_of_parts(parts: dict[str, Distribution], value: dict[str, Tensor]) -> Tensor:
    """sum_l log p(z_l | its ancestors) in nats, (S, B)."""
    terms = [part.log_prob(value[name]) for name, part in parts.items()]
    return terms[0] if len(terms) == 1 else torch.stack(torch.broadcast_tensors(*terms)).sum(0)


def _enumerable(part: Conditional) -> bool:
    # what depends on other latents shows only when it is drawn
    return not isinstance(part, Distribution) or enumerable(part)


def _every(
    name: str, p: Distribution, drawn: dict[str, Tensor], weight: Tensor | None, samples: int
) -> tuple[dict[str, Tensor], Tensor]:
    """All values of a latent beside the draws so far, one value after the other, and the log-weight of each, (S, B)."""
    rows = len(latents.some(drawn)) if drawn else samples
    values = p.enumerate_support()
    log_prob = p.log_prob(values)
    if log_prob.ndim == 2:  # it has no ancestors
        values = values.unsqueeze(1).expand(-1, rows, *values.shape[1:])
        log_prob = log_prob.unsqueeze(1).expand(-1, rows, -1)
    before = log_prob.new_full((), -math.log(rows)) if weight is None else weight
    drawn = {other: part.repeat(len(values), *(1,) * (part.ndim - 1)) for other, part in drawn.items()}
    return {**drawn, name: values.flatten(0, 1)}, (log_prob + before).flatten(0, 1)


def _averaged(mean: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return mean
    return (weight.exp().reshape(*weight.shape, *(1,) * (mean.ndim - 2)) * mean).sum(0)


@register_kl(Joint, Joint)
def _kl_joint(q: Joint, p: Joint) -> Tensor:
    """The sum of the latents' divergences, where none depends on another; otherwise there is no closed form."""
    pairs = [(q.parts[name], p.parts.get(name)) for name in q.parts]
    if q.parts.keys() != p.parts.keys() or not all(isinstance(part, Distribution) for pair in pairs for part in pair):
        raise NotImplementedError("KL between joints whose latents depend on each other")
    return torch.stack([kl_divergence(a, b) for a, b in pairs]).sum(0)  # type: ignore[arg-type]
