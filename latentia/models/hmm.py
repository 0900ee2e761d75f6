"""Hidden Markov model: a sequence is emitted by a chain of hidden states.

    z_1 ~ Categorical(initial),   z_t | z_{t-1} = i ~ Categorical(transition[i])
    x_t | z_t = k ~ Categorical(emission[k])   or   Normal(means[k], covariances[k])

    log p(x) = log sum_z p(z_1) prod_t p(z_t | z_{t-1}) p(x_t | z_t), by the forward recursion
    p(z | x) is a chain again: marginals by forward-backward, the best path by Viterbi

The posterior is exact, so Baum-Welch (Rabiner 1989, section III) is EM on log p(x). A sequence ends at its last
observed step; an unobserved step before that is missing, and is summed out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions import Chain
from latentia.distributions.emissions import CategoricalEmissions, Emissions, GaussianEmissions, log_normalised
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, ExactModel, Statistics


class HMM(ExactModel, DirectedModel):
    """p(x, z) = p(z_1) p(x_1 | z_1) prod_{t > 1} p(z_t | z_{t-1}) p(x_t | z_t).

    Args:
        states: K, the number of hidden states.
        symbols: V, for sequences of symbols (comes from the data).
        features: D, for sequences of vectors (comes from the data). Exactly one of the two is given.
        covariance: of Gaussian emissions, "diagonal" or "full".
        floor: least variance of a state in any direction, as a fraction of the data's own.
        smoothing: pseudo-count added to every initial state, transition and symbol: a Dirichlet(1 + smoothing)
            prior. 0 is maximum likelihood, which may give new sequences probability 0.
        length: T of the sequences that `generate` draws.

    Parameters: initial (K,), transition (K, K), and the emissions'.
    """

    def __init__(
        self,
        symbols: int | None = None,
        features: int | None = None,
        states: int = 8,
        covariance: Literal["diagonal", "full"] = "diagonal",
        floor: float = 1e-6,
        smoothing: float = 0.01,
        length: int = 20,
    ):
        super().__init__()
        if (symbols is None) == (features is None):
            raise OptionError("an HMM emits symbols or vectors: give symbols=V or features=D, and not both")
        self.smoothing, self.length = smoothing, length
        self.initial_logits = nn.Parameter(torch.zeros(states))
        self.transition_logits = nn.Parameter(torch.zeros(states, states))
        self.emissions: Emissions = (
            CategoricalEmissions(states, symbols, smoothing)
            if symbols is not None
            else GaussianEmissions(states, features or 0, covariance, floor)
        )

    @property
    def initial(self) -> Tensor:
        return self.initial_logits.softmax(-1)

    @property
    def transition(self) -> Tensor:
        """Row i is the distribution of the state that follows state i."""
        return self.transition_logits.softmax(-1)

    def prior(self, batch: Batch) -> Chain:
        lengths = self._lengths(batch)
        return self._chain(self.initial_logits.new_zeros(batch.size, batch.x.shape[1], len(self.initial)), lengths)

    def likelihood(self, z: Tensor, batch: Batch) -> Distribution:
        return self.emissions.given(z)

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        return (z * self._nodes(batch)).sum((-1, -2))

    def conditional(self, z: Tensor, batch: Batch) -> Distribution:
        return self.emissions.conditional(batch.x, batch.observed, z)

    def posterior(self, batch: Batch) -> Chain:
        return self._chain(self._nodes(batch), self._lengths(batch))

    def generate(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """n sequences of `self.length` steps: x (n, T) or (n, T, D), and their states (n, T, K)."""
        z = self.prior(Batch(self.initial_logits.new_empty(n, self.length))).sample()
        return self.emissions.given(z).sample(), z

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        for logits in (self.initial_logits, self.transition_logits):
            logits.data = torch.empty_like(logits).exponential_(generator=generator).log().log_softmax(-1)
        x, mask = _steps(batch)
        seen = _inside(self._lengths(batch), batch.x.shape[1]).flatten()
        weight = batch.weights.repeat_interleave(batch.x.shape[1])
        self.emissions.start(x[seen], None if mask is None else mask[seen], weight[seen], generator)

    def statistics(self, batch: Batch, posterior: Chain) -> Statistics:
        expected = posterior.expectations(batch.weights)
        x, mask = _steps(batch)
        # beyond its end a sequence has no states, so responsibilities there are zero
        sums = self.emissions.statistics(x, mask, expected["node"].flatten(0, 1))
        return {"initial": expected["initial"], "transition": expected["transition"][0], **sums}

    def update(self, total: Statistics) -> None:
        for logits, name in ((self.initial_logits, "initial"), (self.transition_logits, "transition")):
            counts = total[name] + self.smoothing
            # a state that is never left keeps its transitions
            logits.data = torch.where(counts.sum(-1, keepdim=True) > 0, log_normalised(counts), logits.data)
        self.emissions.update(total)

    def log_prior(self) -> Tensor:
        chain = self.initial_logits.log_softmax(-1).sum() + self.transition_logits.log_softmax(-1).sum()
        return self.smoothing * chain + self.emissions.log_prior()

    def canonical(self) -> None:
        """States by falling share of the chain's stationary distribution."""
        share = self.transition.detach().matrix_power(1024)
        order = (self.initial.detach() @ share).argsort(descending=True, stable=True)
        self.initial_logits.data = self.initial_logits.data[order]
        self.transition_logits.data = self.transition_logits.data[order][:, order]
        self.emissions.reorder(order)

    def check(self, batch: Batch) -> None:
        symbols = isinstance(self.emissions, CategoricalEmissions)
        if batch.x.ndim != (2 if symbols else 3):
            wanted = "symbols, x (B, T)" if symbols else "vectors, x (B, T, D)"
            raise DataError(f"this HMM takes sequences of {wanted}, and the data have shape {tuple(batch.x.shape)}")
        x, mask = _steps(batch)
        self.emissions.check(x, mask)

    def _chain(self, node: Tensor, lengths: Tensor) -> Chain:
        initial, transition = self.initial_logits.log_softmax(-1), self.transition_logits.log_softmax(-1)
        return Chain({"initial": initial, "transition": transition.unsqueeze(0), "node": node}, lengths)

    def _nodes(self, batch: Batch) -> Tensor:
        """log p(x_t | z_t = k), (B, T, K)."""
        return self.emissions.log_prob(*_steps(batch)).unflatten(0, batch.x.shape[:2])

    @staticmethod
    def _lengths(batch: Batch) -> Tensor:
        """One past the last observed step of each sequence, (B,)."""
        if batch.mask is None:
            return torch.full((batch.size,), batch.x.shape[1], device=batch.x.device)
        seen = batch.mask.flatten(2).any(-1) if batch.mask.ndim > 2 else batch.mask
        return (seen * torch.arange(1, seen.shape[1] + 1, device=seen.device)).amax(1)


def _steps(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The observations of all sequences in one row: (B * T, ...)."""
    return batch.x.flatten(0, 1), None if batch.mask is None else batch.mask.flatten(0, 1)


def _inside(lengths: Tensor, steps: int) -> Tensor:
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def tiny(seed: int) -> tuple[HMM, Batch]:
    """Two states over three symbols, and ragged sequences of at most four steps with one symbol missing."""
    generator = torch.Generator().manual_seed(seed)
    model = HMM(states=2, symbols=3, smoothing=0.0, length=3).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (5, 4), generator=generator)
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 1, 4]).unsqueeze(-1)
    mask[0, 1] = False
    return model, Batch.of(x, mask)
