"""Factorial hidden Markov model: several chains of hidden states emit one sequence of vectors together.

    z_1^m ~ Categorical(initial[m]),   z_t^m | z_{t-1}^m = i ~ Categorical(transition[m, i]),   m = 1..M
    x_t | z_t ~ Normal(center + sum_m weights[m, z_t^m], covariance)

    log p(x) = log sum_z prod_m p(z^m) prod_t p(x_t | z_t): exactly, by one chain over the K^M joint states
    log p(x) >= max_q E_q[log p(x, z) - log q(z)], q(z) = prod_m q_m(z^m), each q_m a chain: structured mean field

A chain's states need only explain what the other chains leave over, so M chains of K states describe K^M situations
with M K contributions. Once x is seen the chains depend on each other. `FactorialHMM` approximates them by
independent ones (Ghahramani and Jordan 1997, section 3.4 and appendix D): in turn each chain is given its best
distribution in view of the others, which is forward-backward with the observation potentials

    h_t^m[k] = w_mk' C^-1 (x_t - center - sum_{n != m} W_n E[z_t^n]) - w_mk' C^-1 w_mk / 2

`ExactFactorialHMM` has the same parameters and the exact posterior, for few chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal

from latentia.distributions.emissions import (
    check_scale,
    check_whole,
    log_normalised,
    log_probabilities,
    possible,
    smoothed,
)
from latentia.distributions.emissions.additive import (
    Moments,
    floored_tril,
    log_likelihood,
    own_block,
    regressed,
    spread_of,
    sums,
    variance_of,
)
from latentia.distributions.factorial import Chains, CoupledChains, joint_states
from latentia.distributions.mean_field import Quadratic, mean_field
from latentia.distributions.observed import patterns
from latentia.errors import DataError, OptionError, check_not_negative
from latentia.model import Batch, DirectedModel, EMModel, ExactModel, Frame, Statistics

LARGEST = 4096  # joint states whose transitions we are willing to hold


class FactorialHMM(EMModel, DirectedModel):
    """p(x, z) = prod_m p(z_1^m) prod_{t > 1} p(z_t^m | z_{t-1}^m) prod_t N(x_t; center + sum_m W_m z_t^m, C).

    The posterior is the structured mean field, and EM climbs its bound. z is (T, M, K), one-hot for each chain.

    Args:
        features: D (comes from the data).
        chains: M.
        states: K, of each chain.
        covariance: of x given the states, which all states share: "full" or "diagonal".
        floor: least variance of x given the states in any direction, as a fraction of the data's own.
        smoothing: pseudo-count added to every initial state and transition: a Dirichlet(1 + smoothing) prior.
        sweeps: most rounds of the chains in which the mean field looks for its optimum.
        tol: a datum's mean field has settled when a round gains less, in nats.
        length: T of the sequences that are generated where no lengths are given.

    Parameters: initial (M, K), transition (M, K, K), weights (M, K, D), scale_tril (D, D). `center` (D,) is the data's
    mean, set by `start`.
    """

    def __init__(
        self,
        features: int,
        chains: int = 2,
        states: int = 3,
        covariance: Literal["full", "diagonal"] = "full",
        floor: float = 1e-6,
        smoothing: float = 0.01,
        sweeps: int = 100,
        tol: float = 1e-4,
        length: int = 20,
    ):
        super().__init__()
        check_not_negative(floor=floor, smoothing=smoothing, tol=tol)
        if min(features, chains, states, sweeps) < 1:
            raise OptionError(
                f"{features} features, {chains} chains, {states} states, {sweeps} sweeps: at least 1 each"
            )
        if covariance not in ("full", "diagonal"):
            raise OptionError(f"covariance={covariance!r}: choose full or diagonal")
        self.covariance: Literal["full", "diagonal"] = covariance
        self.floor, self.smoothing = floor, smoothing
        self.sweeps, self.tol, self.length = sweeps, tol, length
        self.initial_logits = nn.Parameter(torch.zeros(chains, states))
        self.transition_logits = nn.Parameter(torch.zeros(chains, states, states))
        self.weights = nn.Parameter(torch.zeros(chains, states, features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        if covariance == "full":
            self.below = nn.Parameter(torch.zeros(features * (features - 1) // 2))
        self.center: Tensor
        self.register_buffer("center", torch.zeros(features))

    @property
    def initial(self) -> Tensor:
        return self.initial_logits.softmax(-1)

    @property
    def transition(self) -> Tensor:
        """Row i of chain m is the distribution of the state that follows its state i."""
        return self.transition_logits.softmax(-1)

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance, (D, D)."""
        diagonal = torch.diag(self.log_scale.exp())
        if self.covariance == "diagonal":
            return diagonal
        rows, columns = torch.tril_indices(*diagonal.shape, offset=-1, device=diagonal.device)
        lower = torch.zeros_like(diagonal)
        lower[rows, columns] = self.below
        return diagonal + lower

    @property
    def noise(self) -> Tensor:
        """C, the covariance of x given the states, (D, D)."""
        tril = self.scale_tril
        return tril @ tril.mT

    # ------------------------------------------------------------------------------------------------ the model

    def prior(self, frame: Frame) -> Chains:
        """Sequences of `self.length` steps where the frame has no lengths."""
        node = self.weights.new_zeros(frame.size, frame.room(self.length), *self.initial_logits.shape)
        return Chains(self._chain_potentials() | {"node": node}, frame.ends(self.length, node))

    def likelihood(self, z: Tensor, frame: Frame) -> Distribution:
        mean = self.center + torch.tensordot(z, self.weights, 2)
        if self.covariance == "diagonal":
            return Normal(mean, self.log_scale.exp(), validate_args=False)
        return MultivariateNormal(mean, scale_tril=self.scale_tril, validate_args=False)

    def posterior(self, batch: Batch) -> Chains:
        """The mean field. Its potentials are constants: at the optimum the bound does not change with them."""
        return self._mean_field(batch)[0]

    def bound(self, batch: Batch) -> Tensor:
        """E_q[log p(x, z) - log q(z)] under the mean field, in nats, (B,)."""
        return self._mean_field(batch)[1]

    def exact(self) -> ExactFactorialHMM:
        """The same parameters, shared, with the exact posterior. Raises `OptionError` for too many joint states."""
        (chains, states), features = self.initial_logits.shape, self.weights.shape[-1]
        options = (self.covariance, self.floor, self.smoothing, self.sweeps, self.tol, self.length)
        other = ExactFactorialHMM(features, chains, states, *options)
        for name, parameter in self.named_parameters():
            setattr(other, name, parameter)
        other.center = self.center
        return other

    def gap(self, batch: Batch) -> Tensor:
        """log p(x) - bound = KL(mean field || exact posterior), in nats per datum, (B,): what the mean field loses.

        Raises:
            OptionError: more joint states than can be summed exactly.
        """
        with torch.no_grad():
            return self.exact().posterior(batch).log_partition - self.bound(batch)

    # ---------------------------------------------------------------------------------------------- mean field

    @torch.no_grad()
    def _mean_field(self, batch: Batch, hard: bool = False) -> tuple[Chains, Tensor]:
        """q and its bound (B,), by coordinate ascent. Where hard, one path for each chain, and log p(x, z)."""
        chain = self._chain_potentials()
        return mean_field(self._quadratic(batch), chain, batch.ends, self.sweeps, self.tol, hard)

    def _chain_potentials(self) -> dict[str, Tensor]:
        initial, transition = log_probabilities(self.initial_logits), log_probabilities(self.transition_logits)
        return {"initial": initial, "transition": transition}

    def _quadratic(self, batch: Batch) -> Quadratic:
        """log p(x_t | z_t) of what is observed, as a function of z_t."""
        return log_likelihood(batch.x - self.center, _patterns(batch), self.weights, self.noise)

    # ------------------------------------------------------------------------------------------------------ EM

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        for logits in (self.initial_logits, self.transition_logits):
            logits.data = torch.empty_like(logits).exponential_(generator=generator).log().log_softmax(-1)
        count, total, _ = self._spread(batch, torch.zeros_like(self.center))
        self.center.copy_(total / count.clamp(min=torch.finfo(count.dtype).tiny))
        variance = variance_of(self._spread(batch, self.center))
        noise = torch.empty_like(self.weights).normal_(generator=generator)
        # half of the variance for the chains together, and half for the noise
        self.weights.data = noise * (0.5 * variance / len(noise)).sqrt().to(noise)
        self.log_scale.data = (0.5 * (0.5 * variance).log()).to(noise)
        if self.covariance == "full":
            self.below.data.zero_()

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        q, bound = self._mean_field(batch, hard)
        mean, weight = q.marginals, batch.weights.to(self.weights)
        flat = mean.flatten(0, 1).flatten(1)
        repeated = weight.repeat_interleave(mean.shape[1]).unsqueeze(-1)
        own = own_block(self.initial_logits)

        def moments(rows: Tensor) -> Tensor:
            some = flat[rows] * repeated[rows]
            return torch.where(own, torch.diag(some.sum(0)), some.mT @ flat[rows])

        used = q.expectations(weight)
        learned = self._sums(batch, flat * repeated, moments)
        value = torch.where(weight > 0, weight * bound, 0.0).double().sum()
        return {"initial": used["initial"], "transition": used["transition"], **learned}, value

    def _sums(self, batch: Batch, mean: Tensor, moments: Moments) -> Statistics:
        x = (batch.x - self.center).flatten(0, 1)
        used = sums(x, _patterns(batch), mean, moments, self.weights, self.noise)
        return used | {"spread": self._spread(batch, self.center)}

    def update(self, total: Statistics) -> None:
        for logits, name in ((self.initial_logits, "initial"), (self.transition_logits, "transition")):
            counts = smoothed(total[name], self.smoothing, logits.log_softmax(-1), strict=True)
            # a state that is never left keeps its transitions
            logits.data = torch.where(counts.sum(-1, keepdim=True) > 0, log_normalised(counts), logits.data)
        if not total["count"] > 0:
            return
        weights, covariance = regressed(total, None if self.weights.requires_grad else self.weights)
        self.weights.data = weights.to(self.weights).view_as(self.weights)
        self._set_covariance(covariance, self.floor * variance_of(total["spread"].double()))

    def _set_covariance(self, covariance: Tensor, floor: Tensor) -> None:
        if self.covariance == "full":
            check_whole(self.log_scale, self.below)
        if self.covariance == "diagonal":
            self.log_scale.data = (0.5 * torch.maximum(covariance.diagonal(), floor).log()).to(self.log_scale)
            return
        tril = floored_tril(covariance, floor)
        rows, columns = torch.tril_indices(*tril.shape, offset=-1, device=tril.device)
        self.log_scale.data = tril.diagonal().log().to(self.log_scale)
        self.below.data = tril[rows, columns].to(self.below)

    def log_prior(self) -> Tensor:
        chains = self._chain_potentials()
        return self.smoothing * (possible(chains["initial"]).sum() + possible(chains["transition"]).sum())

    def free_parameters(self) -> int:
        """Of each chain K - 1 initial probabilities, K (K - 1) transitions and K - 1 contributions, as what its states
        have in common is part of the mean of all; then that mean and the covariance."""
        chains, states, features = self.weights.shape
        covariance = self.log_scale.numel() + (self.below.numel() if self.covariance == "full" else 0)
        return chains * (states - 1) * (1 + states + features) + features + covariance

    def canonical(self) -> None:
        """Chains by falling variance of what they contribute, and the states of each by falling share of time."""
        share = torch.einsum("mk,mkl->ml", self.initial.detach(), self.transition.detach().matrix_power(1024))
        mean = torch.einsum("mk,mkd->md", share, self.weights.detach()).unsqueeze(1)
        spread = torch.einsum("mk,mkd->m", share, (self.weights.detach() - mean) ** 2)
        chains = spread.argsort(descending=True, stable=True).unsqueeze(-1)
        states = share.argsort(dim=-1, descending=True, stable=True)[chains.squeeze(-1)]
        self.initial_logits.data = self.initial_logits.data[chains, states]
        self.weights.data = self.weights.data[chains, states]
        moves = self.transition_logits.data
        self.transition_logits.data = moves[chains.unsqueeze(-1), states.unsqueeze(-1), states.unsqueeze(-2)]

    def check(self, batch: Batch) -> None:
        features = self.weights.shape[-1]
        if batch.x.ndim != 3 or batch.x.shape[-1] != features:
            shape = tuple(batch.x.shape)
            raise DataError(
                f"this model takes sequences of vectors, x (B, T, {features}), and the data have shape {shape}"
            )
        check_scale(batch.x.flatten(0, 1), None if batch.mask is None else batch.mask.flatten(0, 1))

    def _spread(self, batch: Batch, center: Tensor) -> Tensor:
        return spread_of(batch.x, batch.observed, batch.weights, center)


class ExactFactorialHMM(ExactModel, FactorialHMM):
    """The factorial hidden Markov model with its exact posterior, summed over the K^M joint states of its chains.

    log p(x) takes O(T K^2M). Arguments and parameters are those of `FactorialHMM`; `sweeps` and `tol` serve only
    its `bound` and `gap`.

    Raises:
        OptionError: more than 4,096 joint states.
    """

    def __init__(
        self,
        features: int,
        chains: int = 2,
        states: int = 3,
        covariance: Literal["full", "diagonal"] = "full",
        floor: float = 1e-6,
        smoothing: float = 0.01,
        sweeps: int = 100,
        tol: float = 1e-4,
        length: int = 20,
    ):
        super().__init__(features, chains, states, covariance, floor, smoothing, sweeps, tol, length)
        if states**chains > LARGEST:
            raise OptionError(
                f"{chains} chains of {states} states have {states**chains} joint states, more than {LARGEST}: "
                "use FactorialHMM, whose mean field is linear in the chains"
            )

    def posterior(self, batch: Batch) -> CoupledChains:
        given = self._quadratic(batch)
        state = joint_states(*self.initial_logits.shape, like=self.weights).flatten(1)
        pairs = -0.5 * torch.einsum("si,pij,sj->ps", state, given.coupling, state)
        joint = given.constant.unsqueeze(-1) + pairs[given.which]
        return CoupledChains(self._chain_potentials() | {"node": given.linear, "joint": joint}, batch.ends)

    def statistics(self, batch: Batch, posterior: CoupledChains) -> Statistics:
        used = posterior.expectations(batch.weights.to(self.weights))
        state = joint_states(*self.initial_logits.shape, like=self.weights).flatten(1)
        joint = used["joint"].flatten(0, 1)

        def moments(rows: Tensor) -> Tensor:
            return state.mT @ (joint[rows].sum(0).unsqueeze(-1) * state)

        learned = self._sums(batch, used["node"].flatten(0, 1).flatten(1), moments)
        return {"initial": used["initial"], "transition": used["transition"], **learned}


def _patterns(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """The distinct sets of observed coordinates, and the steps, of all sequences in a row, that have them."""
    mask = batch.observed.flatten(0, 1)
    if batch.seen is None or bool(mask.all()):
        yield torch.arange(mask.shape[1], device=mask.device), torch.arange(len(mask), device=mask.device)
        return
    yield from patterns(mask)


def tiny(seed: int) -> tuple[FactorialHMM, Batch]:
    """Two chains of two states over one real coordinate: one sequence is short, of two others a step is hidden."""
    generator = torch.Generator().manual_seed(seed)
    model = FactorialHMM(1, 2, 2, "diagonal", smoothing=0.0, tol=1e-10, length=2).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(12, 2, 1, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 0] = mask[3, 1] = False
    lengths = torch.full((12,), 2)
    lengths[1] = 1
    return model, Batch.of(x, mask, lengths=lengths)
