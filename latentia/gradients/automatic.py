"""The estimator for those who ask for none."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.brackets import Brackets
from latentia.distributions.codes import Quantized
from latentia.distributions.discrete import Bernoullis, Categoricals, count
from latentia.distributions.joint import Joint
from latentia.distributions.logical_forms import LogicalForms
from latentia.distributions.tree import Tree
from latentia.gradients.expectation import Function, enumerate, pathwise
from latentia.gradients.relaxed import straight_through
from latentia.gradients.score import rloo


def automatic(q: Distribution, f: Function, samples: int) -> Tensor:
    """`pathwise`; of bits, products of one-hot values and trees, which cannot be reparameterised, `rloo` by two draws
    or more; of the nearest codes `straight_through`; of a z of one value that value.

    Raises `CapabilityError` of other latents without a reparameterisation.
    """
    first = q.first if isinstance(q, Joint) and not q.summed else q
    if count(first) == 1:
        return enumerate(q, f, samples)
    if isinstance(q, Quantized):
        return straight_through(q, f, samples)
    if isinstance(first, Bernoullis | Brackets | Categoricals | LogicalForms | Tree):
        return rloo(q, f, max(samples, 2))
    return pathwise(q, f, samples)
