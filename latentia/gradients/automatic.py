"""The estimator for those who ask for none."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.discrete import Bernoullis, Categoricals
from latentia.distributions.joint import Joint
from latentia.gradients.expectation import Function, pathwise
from latentia.gradients.score import rloo


def automatic(q: Distribution, f: Function, samples: int) -> Tensor:
    """`pathwise`; of bits and products of one-hot values, which cannot be reparameterised, `rloo` by two draws or more.

    Raises `CapabilityError` of other latents without a reparameterisation.
    """
    first = q.first if isinstance(q, Joint) and not q.summed else q
    if isinstance(first, Bernoullis | Categoricals):
        return rloo(q, f, max(samples, 2))
    return pathwise(q, f, samples)
