"""Binary vectors drawn one coordinate after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from latentia.distributions import observed
from latentia.errors import DataError

MOST_HIDDEN = 8
"""Missing values before an observed one that are summed out: 2^8 passes of the network."""


class AutoregressiveBernoulli(Distribution):
    """p(x) = prod_d Bernoulli(x_d; sigmoid(l_d(x_1, ..., x_{d-1}))), coordinates in row-major order.

    `log_prob` is one call of `logits` ("teacher forcing"), `sample` one for each coordinate.

    Args:
        logits: values (..., D) to l, (..., D), of which the d-th must not depend on x_d or what comes after it. Called
            with all dimensions, or with fewer leading ones that broadcast to `like`'s.
        like: any tensor of the batch shape, dtype and device that draws shall have.
        event_shape: D is the product of it.
        known: broadcastable to (*batch_shape, *event_shape): what is not NaN is given, not drawn. The draws of the rest
            are then draws given that only where none of it comes before a known value.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(
        self, logits: Callable[[Tensor], Tensor], like: Tensor, event_shape: Sequence[int], known: Tensor | None = None
    ):
        self.logits, self.like, self.known = logits, like, known
        super().__init__(like.shape, torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.terms(value).sum(-1)

    def terms(self, value: Tensor) -> Tensor:
        """log p(x_d | x_1, ..., x_{d-1}) in nats, (..., D)."""
        x = value.flatten(-len(self.event_shape)).to(self.like.dtype)
        return logsigmoid((2 * x - 1) * self.logits(x))

    def log_prob_of(self, x: Tensor, mask: Tensor) -> Tensor:
        """log p(x) of what is observed, (*batch_shape): values after the last one observed drop out, each of the others
        is summed out.

        Raises:
            DataError: too many missing values before observed ones: the sum doubles with each.
        """
        needed, hidden = _before_the_last(mask)
        count = hidden.sum(-1)
        most = int(count.max())
        if most > MOST_HIDDEN:
            raise DataError(
                f"a datum has {most} missing pixels before its last observed one, and an autoregressive decoder sums "
                f"over the values of each: {MOST_HIDDEN} at most; use VAE, whose pixels are independent given z"
            )
        x, place = torch.where(mask, x, 0.0).flatten(1), (hidden.cumsum(-1) - 1).clamp(min=0)
        terms = []
        for filling in range(2**most):
            filled = torch.where(hidden, (filling >> place) & 1, x).unflatten(-1, self.event_shape)
            term = torch.where(needed, self.terms(filled), 0.0).sum(-1)
            terms.append(term.where(filling < 2**count, -torch.inf))
        return torch.logsumexp(torch.stack(terms), 0)

    def given(self, x: Tensor, mask: Tensor) -> AutoregressiveBernoulli:
        """p(x | the observed part of x), where what is missing comes after it: by decoding on from there.

        Raises:
            DataError: a missing value comes before an observed one.
        """
        if bool(_before_the_last(mask)[1].any()):
            raise DataError(
                "pixels are missing before observed ones, and an autoregressive decoder only goes forwards, row by "
                "row: hide the last rows instead, or use VAE"
            )
        known = torch.where(mask, x.to(self.like), torch.nan)
        return AutoregressiveBernoulli(self.logits, self.like, self.event_shape, known)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._decode(sample_shape)[0]

    @property
    def mean(self) -> Tensor:
        """E[x], estimated, as it has no closed form: p(x_d = 1 | x_1, ..., x_{d-1}) along one draw, without bias, and
        with less variance than that of the draw itself."""
        return self._decode(())[1]

    @torch.no_grad()
    def _decode(self, sample_shape: torch.Size | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """x drawn, and the probability of a 1 that each coordinate had: (*sample_shape, *batch_shape, *event_shape)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        size = math.prod(self.event_shape)
        given = self.like.new_full(self.event_shape, math.nan) if self.known is None else self.known
        given = given.flatten(-len(self.event_shape)).expand(*shape, size)
        x, chance, uniform = torch.zeros_like(given), torch.zeros_like(given), torch.rand_like(given)
        for d in range(size):
            free = given[..., d].isnan()
            # a network's call is what costs
            chance[..., d] = given[..., d]
            if bool(free.any()):
                chance[..., d] = torch.where(free, self.logits(x)[..., d].sigmoid(), given[..., d])
            x[..., d] = (uniform[..., d] < chance[..., d]).to(x.dtype)
        return x.unflatten(-1, self.event_shape), chance.unflatten(-1, self.event_shape)


def _before_the_last(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which values (B, D) are not after the last observed one, and which of these are missing."""
    seen = mask.flatten(1)
    needed = seen.flip(-1).cumsum(-1).flip(-1) > 0
    return needed, needed & ~seen


@observed.log_prob.register
def _(p: AutoregressiveBernoulli, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.log_prob(x) if mask is None else p.log_prob_of(x, mask)


@observed.given.register
def _(p: AutoregressiveBernoulli, x: Tensor, mask: Tensor | None) -> AutoregressiveBernoulli:
    return p if mask is None else p.given(x, mask)
