"""Several latents of which the first is one of K values, so that it can be summed out."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.joint import Conditional, Joint, Latents


class FiniteJoint(Joint):
    """p(y) p(z | y) ..., a `Joint` whose first latent, one-hot y (K,), has a support to enumerate.

    Expectations over y are exact, sum_y p(y) E[f(y, z) | y]: those of `mean`, and of `gradients.pathwise`, which needs
    the other latents alone to be reparameterised.
    """

    def __init__(self, parts: dict[str, Conditional]):
        super().__init__(parts)
        if not self.first.has_enumerate_support:
            raise ValueError("the first latent of a FiniteJoint needs a support to enumerate")

    @property
    def first(self) -> Distribution:
        """p(y)."""
        return next(iter(self.parts.values()))  # type: ignore[return-value]  # Joint has checked that it is one

    def branches(self, samples: int = 1) -> tuple[Latents, Tensor]:
        """Every y with `samples` differentiable draws of the other latents each, (K * samples, B, ...), all draws of
        one y together; and p(y), (K, B)."""
        drawn, probability = self._values()
        drawn = {name: value.repeat_interleave(samples, 0) for name, value in drawn.items()}
        for name in list(self.parts)[1:]:
            part = self.parts[name]
            drawn[name] = (
                part.rsample((len(drawn[self._name]),)) if isinstance(part, Distribution) else part(drawn).rsample()
            )
        return drawn, probability

    @property
    def mean(self) -> Latents:  # type: ignore[override]
        """p(y = k), and sum_k p(k) E[z | k] of each latent that depends on no other than y."""
        values, probability = self._values()
        means = {self._name: self.first.mean}
        for name in list(self.parts)[1:]:
            part = self.parts[name]
            if isinstance(part, Distribution):
                means[name] = part.mean
            else:
                each = part(values).mean
                means[name] = (probability.reshape(*probability.shape, *(1,) * (each.ndim - 2)) * each).sum(0)
        return means

    @property
    def _name(self) -> str:
        return next(iter(self.parts))

    def _values(self) -> tuple[Latents, Tensor]:
        every = self.first.enumerate_support()
        return {self._name: every}, self.first.log_prob(every).exp()
