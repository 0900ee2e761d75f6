"""Several latents at once, in ancestral order."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

Latents = dict[str, Tensor]
Conditional = Distribution | Callable[[Latents], Distribution]


class Joint(Distribution):
    """p(z_1, ..., z_L) = prod_l p(z_l | z_1, ..., z_{l-1}), over a dict of tensors.

    p and q of a model may have orders of their own: a prior goes from the top down, a posterior from x up.

    Args:
        parts: name to a distribution, or to a function from the latents drawn so far to one, in
            ancestral order. All share the batch shape (B,); a function's result has (S, B) after samples (S,).
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, parts: dict[str, Conditional]):
        if not parts:
            raise ValueError("a Joint needs at least one latent")
        self.parts = parts
        first = next(iter(parts.values()))
        if not isinstance(first, Distribution):
            raise ValueError("the first latent of a Joint has no parents: give it a distribution, not a function")
        self.has_rsample = all(not isinstance(part, Distribution) or part.has_rsample for part in parts.values())
        super().__init__(first.batch_shape, validate_args=False)

    def _draw(self, sample_shape: torch.Size | tuple[int, ...], method: str) -> Latents:
        drawn: Latents = {}
        for name, part in self.parts.items():
            if isinstance(part, Distribution):
                drawn[name] = getattr(part, method)(sample_shape)
            else:
                drawn[name] = getattr(part(drawn), method)()
        return drawn

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Latents:  # type: ignore[override]
        with torch.no_grad():
            return self._draw(sample_shape, "sample")

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Latents:  # type: ignore[override]
        return self._draw(sample_shape, "rsample")

    def log_prob(self, value: Latents) -> Tensor:  # type: ignore[override]
        """log p(z_1, ..., z_L) in nats, the sum over latents, (S, B)."""
        terms = [self.conditional(name, value).log_prob(value[name]) for name in self.parts]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def conditional(self, name: str, value: Latents) -> Distribution:
        """p(z_name | its ancestors in `value`)."""
        part = self.parts[name]
        return part if isinstance(part, Distribution) else part(value)

    def ancestors(self, name: str) -> set[str]:
        """The latents that p(z_name | ...) may depend on: those that are drawn before it, or none."""
        names = list(self.parts)
        return set() if isinstance(self.parts[name], Distribution) else set(names[: names.index(name)])

    @property
    def mean(self) -> Latents:  # type: ignore[override]
        """The mean of each latent given its ancestors' means."""
        means: Latents = {}
        for name in self.parts:
            means[name] = self.conditional(name, means).mean
        return means

    @property
    def stddev(self) -> Latents:  # type: ignore[override]
        """The standard deviation of each latent given its ancestors' means."""
        means = self.mean
        return {name: self.conditional(name, means).stddev for name in self.parts}


def remembering(q: Distribution) -> Distribution:
    """q for one computation, in which nothing is written to: a `Joint` of the same distributions, that asks its
    networks once for a draw and the density of it. Other distributions as they are."""
    if type(q) is not Joint:
        return q
    return Joint({name: part if isinstance(part, Distribution) else _Last(part) for name, part in q.parts.items()})


class _Last:
    """A function from latents to a distribution, that keeps the last one for the very same tensors."""

    def __init__(self, part: Callable[[Latents], Distribution]):
        self.part = part
        self.last: tuple[Latents, bool, Distribution] | None = None

    def __call__(self, z: Latents) -> Distribution:
        if self.last is None or not _same(*self.last[:2], z):
            self.last = (dict(z), torch.is_grad_enabled(), self.part(z))
        return self.last[2]


def _same(before: Latents, with_gradient: bool, z: Latents) -> bool:
    same = all(z.get(name) is value for name, value in before.items())
    return same and with_gradient == torch.is_grad_enabled()


@register_kl(Joint, Joint)
def _kl_joint(q: Joint, p: Joint) -> Tensor:
    """The sum of the latents' divergences, where none depends on another; otherwise there is no closed form."""
    pairs = [(q.parts[name], p.parts.get(name)) for name in q.parts]
    if q.parts.keys() != p.parts.keys() or not all(isinstance(part, Distribution) for pair in pairs for part in pair):
        raise NotImplementedError("KL between joints whose latents depend on each other")
    return torch.stack([kl_divergence(a, b) for a, b in pairs]).sum(0)  # type: ignore[arg-type]
