"""Hidden Markov model: a sequence is emitted by a chain of hidden states.

    z_1 ~ Categorical(initial),   z_t | z_{t-1} = i ~ Categorical(transition[i])
    x_t | z_t = k ~ Categorical(probs[k]), Normal(means[k], covariances[k]), or another of the emissions

    log p(x) = log sum_z p(z_1) prod_t p(z_t | z_{t-1}) p(x_t | z_t), by the forward recursion
    p(z | x) is a chain again: marginals by forward-backward, the best path by Viterbi

The posterior is exact, so Baum-Welch (Rabiner 1989, section III) is EM on log p(x). The length of a
sequence is given, not modelled; a step that is not observed is hidden, and is summed out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from latentia.distributions import Chain
from latentia.distributions.columns import Column
from latentia.distributions.emissions import (
    CategoricalEmissions,
    ColumnEmissions,
    Emissions,
    Emitted,
    GaussianEmissions,
    log_normalised,
    log_probabilities,
    possible,
    smoothed,
)
from latentia.distributions.emissions.bernoulli import BernoulliEmissions
from latentia.distributions.emissions.gaussian import Covariance
from latentia.distributions.emissions.mixture import MixtureEmissions
from latentia.distributions.emissions.multinomial import MultinomialEmissions
from latentia.distributions.emissions.poisson import PoissonEmissions
from latentia.distributions.emissions.rows import known_symbols
from latentia.errors import DataError, OptionError, check_not_negative
from latentia.kernels import chain as kernel
from latentia.model import Batch, DirectedModel, ExactModel, Frame, Statistics

Emission = Literal["auto", "categorical", "gaussian", "mixture", "poisson", "multinomial", "bernoulli", "columns"]

# numbers in a table of likelihoods that is held at a time: a few megabytes
BLOCK = 2**18


class HMM(ExactModel, DirectedModel):
    """p(x, z) = p(z_1) p(x_1 | z_1) prod_{t > 1} p(z_t | z_{t-1}) p(x_t | z_t).

    Args:
        states: K, the number of hidden states.
        symbols: V, for sequences of symbols (comes from the data).
        features: D, for sequences of vectors (comes from the data).
        columns: for sequences of rows whose columns are each of their own kind: "real", "binary", "count", or the
            number of its categories (comes from the data). Exactly one of the three is given.
        emission: what a state emits. "auto" is "categorical" for symbols and "gaussian" for vectors; vectors may also
            be "mixture" (of Gaussians), "poisson" or "multinomial" (counts), or "bernoulli" (of 0 and 1). Columns of
            their own kind are "columns".
        covariance: of Gaussians: "diagonal", "full", "tied" (one full matrix for all) or "spherical".
        components: Gaussians of each state's mixture.
        floor: least variance of a Gaussian in any direction, as a fraction of the data's own.
        smoothing: pseudo-count added to every initial state, transition and symbol: a Dirichlet(1 + smoothing)
            prior, and those of Poisson, multinomial and Bernoulli emissions. 0 is maximum likelihood, which may give
            new sequences probability 0. What has probability 0 when a fit begins (`fresh=False`: an initial state, a
            transition, a symbol; its logit is -inf) is part of the model: it gets none, and stays 0.
        length: T of the sequences that are generated where no lengths are given.

    Parameters: initial (K,), transition (K, K), and the emissions'.
    """

    def __init__(
        self,
        symbols: int | None = None,
        features: int | None = None,
        states: int = 8,
        emission: Emission = "auto",
        covariance: Literal["diagonal", "full", "tied", "spherical"] = "diagonal",
        components: int = 2,
        floor: float = 1e-6,
        smoothing: float = 0.01,
        length: int = 20,
        columns: Sequence[Column] = (),
    ):
        super().__init__()
        check_not_negative(smoothing=smoothing, floor=floor)
        if (symbols is not None) + (features is not None) + bool(columns) != 1:
            raise OptionError(
                "an HMM emits symbols, vectors or columns of their own kind: give one of symbols=V, features=D and "
                "columns="
            )
        if (emission == "columns" and not columns) or (columns and emission not in ("auto", "columns")):
            raise OptionError(f"emission={emission!r}: columns of their own kind are 'columns', and vectors are not")
        if emission != "auto" and (emission == "categorical") != (symbols is not None):
            raise OptionError(f"emission={emission!r}: symbols are categorical, and vectors are not")
        self.symbols, self.smoothing, self.length = symbols or 0, smoothing, length
        self.columns = tuple(columns)
        features = len(columns) or features
        self.event_shape = () if features is None else (features,)
        self.initial_logits = nn.Parameter(torch.zeros(states))
        self.transition_logits = nn.Parameter(torch.zeros(states, states))
        # steps that the last E-step found in each state
        self.visits: Tensor
        self.register_buffer("visits", torch.full((states,), torch.inf))
        self.emissions = self._emissions(emission, states, features or 0, covariance, components, floor)

    def _emissions(
        self, emission: Emission, states: int, features: int, covariance: Covariance, components: int, floor: float
    ) -> Emissions:
        if self.symbols:
            return CategoricalEmissions(states, self.symbols, self.smoothing)
        if self.columns:
            return ColumnEmissions(states, self.columns, floor, self.smoothing)
        match emission:
            case "poisson":
                return PoissonEmissions(states, features, self.smoothing)
            case "multinomial":
                return MultinomialEmissions(states, features, self.smoothing)
            case "bernoulli":
                return BernoulliEmissions(states, features, self.smoothing)
            case "mixture":
                return MixtureEmissions(states, features, components, covariance, floor)
            case _:
                return GaussianEmissions(states, features, covariance, floor)

    @property
    def initial(self) -> Tensor:
        return self.initial_logits.softmax(-1)

    @property
    def transition(self) -> Tensor:
        """Row i is the distribution of the state that follows state i."""
        return self.transition_logits.softmax(-1)

    @property
    def symbolic(self) -> bool:
        """Whether x is symbols (B, T), and not vectors (B, T, D)."""
        return isinstance(self.emissions, CategoricalEmissions)

    def prior(self, frame: Frame) -> Chain:
        """Sequences of `self.length` steps where the frame has no lengths."""
        nodes = self.initial_logits.new_zeros(frame.size, frame.room(self.length), len(self.initial))
        return self._chain(nodes, frame.ends(self.length, nodes))

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        return Emitted(self.emissions, z, (z.shape[2], *self.event_shape))

    def posterior(self, batch: Batch) -> Chain:
        return self._chain(self._nodes(batch), batch.ends)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        for logits in (self.initial_logits, self.transition_logits):
            logits.data = torch.empty_like(logits).exponential_(generator=generator).log().log_softmax(-1)
        x, mask = self._steps(batch)
        seen = _inside(batch.ends, batch.x.shape[1]).flatten()
        weight = batch.weights.repeat_interleave(batch.ends)
        self.emissions.start(x[seen], None if mask is None else mask[seen], weight, generator)

    def statistics(self, batch: Batch, posterior: Chain) -> Statistics:
        expected = posterior.expectations(batch.weights)
        x, mask = self._steps(batch)
        # beyond its end a sequence has no states, so responsibilities there are zero
        sums = self.emissions.statistics(x, mask, expected["node"].flatten(0, 1))
        return {"initial": expected["initial"], "transition": expected["transition"][0], **sums}

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        if self.anchor.device.type != "cpu" or not batch.size:
            return super().expect(batch, hard)
        parts = [self._expect(part, hard) for part in self._blocks(batch)]
        return {name: torch.stack([sums[name] for sums, _ in parts]).sum(0) for name in parts[0][0]}, _total(parts)

    def _expect(self, batch: Batch, hard: bool) -> tuple[Statistics, Tensor]:
        """The E-step by the fused kernel: likelihoods are those of the distinct observations, not of every step."""
        x, mask, row = self._distinct(batch)
        chain = (log_probabilities(self.initial_logits.detach()), log_probabilities(self.transition_logits.detach()))
        count = kernel.best_counts if hard else kernel.expected_counts
        table = self.emissions.log_prob(x, mask).detach()
        found = count(*chain, table, row, batch.ends, batch.weights, not self.symbolic)
        sums = self.emissions.statistics(x, mask, found.table.to(table))
        sums = {"initial": found.initial, "transition": found.transition, **sums}
        present = batch.weights > 0
        value = torch.where(present & found.safe, batch.weights * found.value, 0.0).sum()
        lost = present & ~found.safe
        if lost.any():
            more, others = super().expect(batch.select(lost))
            sums, value = {name: sums[name] + more[name] for name in sums}, value + others
        return sums, value

    def _distinct(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Observations x and their mask, (R, ...), and which of them each step is, (B, T)."""
        if not self.symbolic:
            x, mask = self._steps(batch)
            inside = _inside(batch.ends, batch.x.shape[1])
            if bool(inside.all()):
                return x, mask, torch.arange(len(x)).view(inside.shape)
            # of one long sequence among short ones all the rest is padding
            there = inside.flatten().nonzero().squeeze(-1)
            row = torch.zeros(inside.shape, dtype=torch.long)
            row.view(-1)[there] = torch.arange(len(there))
            return x[there], None if mask is None else mask[there], row
        symbols = known_symbols(batch.x, batch.mask, self.symbols)
        if batch.mask is None:
            return torch.arange(self.symbols), None, symbols
        # what is missing is one symbol more
        every = torch.arange(self.symbols + 1)
        return every % self.symbols, every < self.symbols, torch.where(batch.mask, symbols, self.symbols)

    def _blocks(self, batch: Batch) -> list[Batch]:
        if self.symbolic:
            return [batch]
        size = max(BLOCK // (batch.x.shape[1] * len(self.initial_logits)), 1)
        return [batch.select(slice(start, start + size)) for start in range(0, batch.size, size)]

    def update(self, total: Statistics) -> None:
        self.visits.copy_(total["initial"] + total["transition"].sum(0))
        for logits, name in ((self.initial_logits, "initial"), (self.transition_logits, "transition")):
            # a step that is forbidden stays so, whatever the prior
            counts = smoothed(total[name], self.smoothing, logits.log_softmax(-1), strict=True)
            # a state that is never left keeps its transitions
            logits.data = torch.where(
                counts.sum(-1, keepdim=True) > 0, log_normalised(counts), logits.data.to(counts)
            ).to(logits)
        self.emissions.update(total)

    def concerns(self) -> list[str]:
        if bool(self.visits.isinf().all()):
            return []
        empty = (self.visits < 1).nonzero().flatten().tolist()
        found = [f"state {k} has less than one step of the data: ask for fewer states, or more restarts" for k in empty]
        return found + self.emissions.concerns((self.visits >= 1).double())

    def log_prior(self) -> Tensor:
        initial, transition = (logits.log_softmax(-1) for logits in (self.initial_logits, self.transition_logits))
        chain = possible(initial).sum() + possible(transition).sum()
        return self.smoothing * chain + self.emissions.log_prior()

    def canonical(self) -> None:
        """States by the time that the chain spends in them, the longest first; of equals the earlier start first."""
        transition, initial = self.transition.detach().double(), self.initial.detach().double()
        # counted to the end of a sequence of 1,000 steps or so: a stationary distribution knows nothing of states that
        # are passed through once, and need not exist
        going = torch.eye(len(initial)).to(transition) - (1 - 1e-3) * transition
        share = 1e-3 * torch.linalg.solve(going.T, initial)
        keys = (share * 1e9).round().tolist(), (initial * 1e9).round().tolist()
        order = torch.tensor(sorted(range(len(initial)), key=lambda k: (-keys[0][k], -keys[1][k])))
        order = order.to(initial.device)
        self.initial_logits.data = self.initial_logits.data[order]
        self.transition_logits.data = self.transition_logits.data[order][:, order]
        self.visits.copy_(self.visits[order])
        self.emissions.reorder(order)

    def free_parameters(self) -> int:
        """K - 1 initial probabilities, K (K - 1) transitions, and the emissions' own."""
        states = len(self.initial_logits)
        return states * states - 1 + self.emissions.free_parameters()

    def check(self, batch: Batch) -> None:
        symbols = self.symbolic
        if batch.x.ndim != (2 if symbols else 3):
            wanted = "symbols, x (B, T)" if symbols else "vectors, x (B, T, D)"
            raise DataError(f"this HMM takes sequences of {wanted}, and the data have shape {tuple(batch.x.shape)}")
        x, mask = self._steps(batch)
        self.emissions.check(x, mask)

    def _chain(self, node: Tensor, lengths: Tensor) -> Chain:
        initial, transition = log_probabilities(self.initial_logits), log_probabilities(self.transition_logits)
        return Chain({"initial": initial, "transition": transition.unsqueeze(0), "node": node}, lengths)

    def _steps(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The observations of all sequences in one row, (B * T, ...), and their mask."""
        # beyond the end there may be what is none of a column's categories
        return _steps(batch._replace(mask=batch.seen) if self.columns else batch)

    def _nodes(self, batch: Batch) -> Tensor:
        """log p(x_t | z_t = k), (B, T, K)."""
        return self.emissions.log_prob(*self._steps(batch)).unflatten(0, batch.x.shape[:2])


def _steps(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The observations of all sequences in one row: (B * T, ...)."""
    return batch.x.flatten(0, 1), None if batch.mask is None else batch.mask.flatten(0, 1)


def _total(parts: list[tuple[Statistics, Tensor]]) -> Tensor:
    return torch.stack([value.double() for _, value in parts]).sum()


def _inside(lengths: Tensor, steps: int) -> Tensor:
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def tiny_columns(seed: int) -> tuple[HMM, Batch]:
    """Two states over rows of a number and one of three categories, ragged sequences of at most two steps."""
    generator = torch.Generator().manual_seed(seed)
    model = HMM(states=2, columns=("real", 3), smoothing=0.0, length=2).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    number, category = torch.randn(5, 2, 1, generator=generator), torch.randint(3, (5, 2, 1), generator=generator)
    x = torch.cat([number, category], -1).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1, 0] = mask[2, 0, 1] = mask[3, 0, 0] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([2, 1, 2, 2, 1]))


def tiny(seed: int) -> tuple[HMM, Batch]:
    """Two states over three symbols, and ragged sequences of at most four steps with two symbols hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = HMM(states=2, symbols=3, smoothing=0.0, length=3).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (5, 4), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 1] = mask[2, 2] = False
    return model, Batch.of(x, mask, lengths=torch.tensor([4, 2, 3, 1, 4]))
