"""K categorical distributions over symbols."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from latentia.distributions.emissions.base import Emissions, Statistics, log_normalised
from latentia.errors import DataError


class CategoricalEmissions(Emissions):
    """p(x = v | z = k) = probs[k, v], symbols x in 0..V-1.

    Args:
        states: K.
        symbols: V.
        smoothing: pseudo-count of each symbol in each state, a Dirichlet(1 + smoothing) prior.
    """

    def __init__(self, states: int, symbols: int, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing
        self.logits = nn.Parameter(torch.zeros(states, symbols))

    @property
    def probs(self) -> Tensor:
        """(K, V), rows sum to one."""
        return self.logits.softmax(-1)

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        log_prob = self.logits.log_softmax(-1).T[x.long()]
        return log_prob if mask is None else torch.where(mask.unsqueeze(-1), log_prob, 0.0)

    def given(self, z: Tensor) -> Distribution:
        # beyond the end of a sequence z is zero, and any symbol as good as another
        outside = (z.sum(-1, keepdim=True) == 0).to(z)
        return Categorical(probs=z @ self.probs + outside, validate_args=False)

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        weight = weight if mask is None else weight * mask
        counts = torch.zeros_like(self.logits[0]).index_add_(0, x.long(), weight.to(self.logits))
        frequency = (counts + 1e-2) / (counts + 1e-2).sum()
        noise = torch.empty_like(self.logits).exponential_(generator=generator)
        self.logits.data = (frequency * (noise + 0.1)).log().log_softmax(-1)

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        observed = responsibility if mask is None else responsibility * mask.unsqueeze(-1)
        counts = torch.zeros_like(self.logits.T).index_add_(0, x.long(), observed.to(self.logits)).T
        if mask is not None:
            # a missing symbol is expected to be what the present parameters say
            counts = counts + (responsibility - observed).sum(0).unsqueeze(-1) * self.probs
        return {"symbol": counts}

    def update(self, total: Statistics) -> None:
        counts = total["symbol"] + self.smoothing
        # a state that nothing visits keeps what it had
        self.logits.data = torch.where(counts.sum(-1, keepdim=True) > 0, log_normalised(counts), self.logits.data)

    def log_prior(self) -> Tensor:
        return self.smoothing * self.logits.log_softmax(-1).sum()

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        symbols = self.logits.shape[1]
        if x.is_floating_point() and not torch.equal(x, x.round()):
            raise DataError("categorical emissions need whole numbers 0..V-1; use a model with Gaussian emissions")
        bad = ((x < 0) | (x >= symbols)) & (torch.ones_like(x, dtype=torch.bool) if mask is None else mask)
        if bad.any():
            raise DataError(f"symbol {int(x[bad][0])} is outside 0..{symbols - 1}, which is what the model knows")
