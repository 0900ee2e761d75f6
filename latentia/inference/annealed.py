"""Annealed importance sampling: log p(x) by a walk from a distribution that is known to the posterior of z."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.data import data_for
from latentia.distributions.joint import Joint
from latentia.errors import CapabilityError, OptionError
from latentia.inference.importance import MEMORY, LogMarginal, Weights, chunks
from latentia.model import DirectedModel, LatentVariableModel
from latentia.progress import Bar

TARGET = 0.65
"""The share of proposals accepted at which Hamiltonian Monte Carlo moves furthest a gradient (Beskos et al. 2013)."""

WARM_UP, GAIN, JITTER, PILOTS = 40, 0.7, 0.2, 16
SHARPNESS = 4.0
"""The sigmoidal schedule is the logistic function from minus this to this (Wu et al. 2017)."""

GRADIENTS = 4
"""How many times the memory of a sample its gradient takes."""


@dataclass(frozen=True)
class Annealing:
    """How to anneal.

    Attributes:
        steps: T, temperatures between the start and the posterior; the error falls about as 1 / T.
        chains: C, independent walks a datum: their weights are averaged, and tell the error.
        leapfrogs: steps of each Hamiltonian trajectory, a gradient each.
        start: "prior", or "posterior": q(z | x), from which the way is shorter where q is wide enough.
        schedule: "sigmoidal", slow at both ends, or "linear".
        data: evaluate so many of the data at most, drawn at random.
        simulated: data to simulate from the model for the bidirectional gap; 0 for none.
    """

    steps: int = 1000
    chains: int = 16
    leapfrogs: int = 10
    start: Literal["prior", "posterior"] = "prior"
    schedule: Literal["sigmoidal", "linear"] = "sigmoidal"
    data: int = 100
    simulated: int = 32

    def __post_init__(self):
        for name in ("steps", "chains", "leapfrogs", "data"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: annealing needs at least 1")
        for name, known in (("start", ("prior", "posterior")), ("schedule", ("sigmoidal", "linear"))):
            if getattr(self, name) not in known:
                raise OptionError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")

    def temperatures(self) -> Tensor:
        """beta, (T + 1,) float64, from 0 to 1."""
        line = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        if self.schedule == "linear":
            return line
        curve = (SHARPNESS * (2 * line - 1)).sigmoid()
        return (curve - curve[0]) / (curve[-1] - curve[0])


class Sandwich(NamedTuple):
    """Bounds on log p(x) of data simulated from the model, in nats: E lower <= log p(x) <= E upper, (N,) each."""

    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> float:
        """The mean of upper - lower: on average neither is further from the truth."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of the gap over the data."""
        return float((self.upper - self.lower).std()) / math.sqrt(len(self.upper)) if len(self.upper) > 1 else math.nan


def annealed_log_marginal(
    model: LatentVariableModel,
    data: Any,
    annealing: Annealing | None = None,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> LogMarginal:
    """log p(x) by annealed importance sampling (Neal 2001; for decoders Wu, Burda, Salakhutdinov and Grosse 2017).

    A chain starts at z_0 ~ r, the prior or q(z | x), and moves by Hamiltonian Monte Carlo that leaves
    f_t(z) = r(z)^(1 - beta_t) p(x, z)^beta_t invariant, beta from 0 to 1. Its weight
    w = prod_t f_t(z_{t-1}) / f_{t-1}(z_{t-1}) has mean p(x), so that log p(x) is estimated by log (1/C) sum_c w_c: like
    the importance-sampled value it is too low on average, and less so with more steps and chains.

    Wu et al. adapt step sizes inside the run, which makes a move depend on the chain's past and E w = p(x) inexact.
    Here a shorter pilot run with random numbers of its own tunes a step size for each datum and temperature towards
    65 % acceptance; in the run itself they are fixed, and the estimate of p(x) is unbiased.

    Raises:
        CapabilityError: z is not a real vector, or several, or there is no prior to start from.
    """
    annealing = annealing or Annealing()
    data, results = data_for(model, data, seed), []
    with _still(model, seed), Bar("annealing", len(data) * annealing.steps, shown=progress) as bar:
        _, rows = chunks(model, data, annealing.chains, memory // GRADIENTS)
        for i, batch in enumerate(data.batches(rows, dtype=model.anchor.dtype)):
            path = _Path(model, batch.to(model.anchor), annealing)
            sizes = path.tuned()
            log_weight = path.walk(
                path.draw(), sizes, lambda share, i=i: bar.show((i + share) * rows * annealing.steps)
            )
            weights = Weights(batch.size, annealing.chains, model.anchor)
            weights.add(log_weight, torch.full_like(log_weight, math.nan))
            results.append(weights.result())
    return LogMarginal(*(torch.cat(parts).cpu() for parts in zip(*results, strict=True)))


def bidirectional(
    model: LatentVariableModel,
    n: int = 32,
    annealing: Annealing | None = None,
    *,
    frame: Frame | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Sandwich:
    """How far annealing is from the truth, on data simulated from the model (Grosse, Ghahramani and Adams 2015).

    Of (x, z) ~ p the z is an exact draw of p(z | x). Chains that start there and run the walk backwards have weights
    whose mean is 1 / p(x): minus the logarithm of their mean is an upper bound on log p(x) in expectation, as the
    forward chains give a lower one. What the gap says of other data rests on their being like the simulated.

    Args:
        n: data to simulate; frame: their lengths and context, which say n too.
    """
    annealing = annealing or Annealing()
    with _still(model, seed), Bar("annealing both ways", 2, shown=progress) as bar:
        batch, z = model.generate(frame or Frame(n))
        path = _Path(model, batch.to(model.anchor), annealing)
        sizes = path.tuned()
        forward = path.walk(path.draw(), sizes, bar.show)
        exact = path.at(path.packed(z, annealing.chains))
        backward = path.walk(exact, sizes, lambda share: bar.show(1 + share), reverse=True)
    count = math.log(annealing.chains)
    return Sandwich((forward.logsumexp(0) - count).cpu(), (count - (-backward).logsumexp(0)).cpu())


class Curve(NamedTuple):
    """Points of a rate-distortion curve, in nats, (T,) each; the last is the model's own posterior, beta = 1.

    Attributes:
        beta: the price of distortion in nats of rate.
        rate: E KL(f_beta(z | x) || p(z)), from above in expectation.
        distortion: -E log p(x | z) under f_beta.
    """

    beta: Tensor
    rate: Tensor
    distortion: Tensor


def rate_distortion(
    model: DirectedModel,
    data: Any,
    annealing: Annealing | None = None,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Curve:
    """The best trade of rate against distortion that a decoder and a prior allow, whatever the encoder.

    For each price beta the best channel is f_beta(z | x) ~ p(z) p(x | z)^beta, and these are the stations of an
    annealed walk from the prior: D = -E_f log p(x | z), and R = -beta D - log Z_beta with log Z_beta from the weights
    so far (Huang, Makhzani, Cao and Grosse 2020). An encoder's own point, (rate, distortion) of `evaluate`, lies above.

    Raises:
        CapabilityError: as `annealed_log_marginal`.
        OptionError: the walk does not start from the prior.
    """
    annealing = annealing or Annealing()
    if annealing.start != "prior":
        raise OptionError(f"start={annealing.start!r}: the rate is counted from the prior")
    data, points, total = data_for(model, data, seed), torch.zeros(2, annealing.steps, dtype=torch.float64), 0.0
    with _still(model, seed), Bar("annealing", len(data), shown=progress) as bar:
        _, rows = chunks(model, data, annealing.chains, memory // GRADIENTS)
        for batch in data.batches(rows, dtype=model.anchor.dtype):
            path = _Path(model, batch.to(model.anchor), annealing)
            log_z, fit = path.stations(path.draw(), path.tuned())
            weight = batch.weights.double().to(fit)
            points = points + torch.stack([(weight * part).sum(-1) for part in (log_z, fit)]).cpu()
            total += float(weight.sum())
            bar.show(bar.progress.tasks[0].completed + batch.size)
    log_z, fit = points / total
    beta = annealing.temperatures()[1:]
    return Curve(beta, beta * fit - log_z, -fit)


class _State(NamedTuple):
    """Where the chains are, (C, B, D), what r and p(x, z) are there, (C, B), and their slopes."""

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_slope: Tensor
    joint_slope: Tensor

    @property
    def gain(self) -> Tensor:
        """What a unit of temperature adds to the log-weight."""
        return self.log_joint - self.log_start

    def level(self, beta: float) -> Tensor:
        return (1 - beta) * self.log_start + beta * self.log_joint

    def slope(self, beta: float) -> Tensor:
        return (1 - beta) * self.start_slope + beta * self.joint_slope


class _Path:
    """The chains of one batch, all at once, over z as one row of numbers."""

    def __init__(self, model: LatentVariableModel, batch: Batch, annealing: Annealing):
        if annealing.start == "prior" and not isinstance(model, DirectedModel):
            name = type(model).__name__
            raise CapabilityError(f"annealing starts from the prior: write {name}.prior, or say start='posterior'")
        self.model, self.batch, self.annealing = model, batch, annealing
        by_prior = isinstance(model, DirectedModel) and annealing.start == "prior"
        model.check(batch)
        self.start: Distribution = model.prior(batch.frame) if by_prior else model.posterior(batch)  # type: ignore[operator]
        self.betas = annealing.temperatures().tolist()
        drawn: Any = self.start.sample((1,))  # type: ignore[arg-type]
        if not _real(self.start, drawn):
            raise CapabilityError(
                f"annealing moves z along gradients, and {type(model).__name__}'s is no real vector: "
                "use importance sampling"
            )
        self.shapes = (
            {name: part.shape[2:] for name, part in drawn.items()} if isinstance(drawn, dict) else drawn.shape[2:]
        )

    def draw(self, chains: int | None = None) -> _State:
        return self.at(self.packed(self.start.sample((chains or self.annealing.chains,))))  # type: ignore[arg-type]

    def packed(self, z: Any, chains: int | None = None) -> Tensor:
        """z as (C, B, D); with `chains`, so many copies of one z (B, *latent)."""
        parts = list(z.values()) if isinstance(z, dict) else [z]
        parts = parts if chains is None else [part.unsqueeze(0).expand(chains, *part.shape) for part in parts]
        return torch.cat([part.flatten(2) for part in parts], -1)

    def unpacked(self, z: Tensor) -> Any:
        if not isinstance(self.shapes, dict):
            return z.unflatten(-1, self.shapes)
        parts = z.split([shape.numel() for shape in self.shapes.values()], -1)
        return {name: part.unflatten(-1, shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def at(self, z: Tensor) -> _State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            latents = self.unpacked(z)
            levels = self.start.log_prob(latents), self.model.log_joint(self.batch, latents)
            slopes = [torch.autograd.grad(level.sum(), z)[0] for level in levels]
        return _State(z.detach(), *(level.detach().double() for level in levels), *slopes)

    def walk(self, state: _State, sizes: Tensor, tell: Any, reverse: bool = False) -> Tensor:
        """The log-weights of the chains, (C, B); `sizes` (T - 1, B) are the step sizes of the moves between."""
        rises = [after - before for before, after in zip(self.betas, self.betas[1:], strict=False)]
        inner, total = self.betas[1:-1], torch.zeros_like(state.log_joint)
        if reverse:
            rises, inner, sizes = rises[::-1], inner[::-1], sizes.flip(0)
        for i, rise in enumerate(rises):
            total = total + rise * state.gain
            if i < len(inner):
                state, _ = self._move(state, inner[i], sizes[i])
            tell((i + 1) / len(rises))
        return total

    def stations(self, state: _State, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """log Z_beta and E_f log p(x | z) at every temperature above 0, (T, B), by the weights so far."""
        total, log_z, fits = torch.zeros_like(state.gain), [], []
        for i, (before, beta) in enumerate(zip(self.betas, self.betas[1:], strict=False)):
            total = total + (beta - before) * state.gain
            log_z.append(total.logsumexp(0) - math.log(len(total)))
            state, _ = self._move(state, beta, sizes[min(i, len(sizes) - 1)])
            fits.append((total.softmax(0) * state.gain).sum(0))
        return torch.stack(log_z), torch.stack(fits)

    def tuned(self) -> Tensor:
        """Step sizes (T - 1, B) for the moves, by a pilot run of a few chains over a fifth of the temperatures."""
        inner, state = self.betas[1:-1], self.draw(min(self.annealing.chains, PILOTS))
        log_size = state.log_start.new_full((state.z.shape[1],), math.log(0.1))
        if not inner:
            return log_size.exp().unsqueeze(0)
        for _ in range(WARM_UP):
            state, accepted = self._move(state, inner[0], log_size.exp())
            log_size = log_size + GAIN * (accepted - TARGET)
        stops = torch.linspace(0, len(inner) - 1, min(len(inner), max(len(inner) // 5, 50))).long().tolist()
        found = []
        for stop in stops:
            state, accepted = self._move(state, inner[stop], log_size.exp())
            log_size = log_size + GAIN * (accepted - TARGET)
            found.append(log_size)
        place = torch.linspace(0, len(found) - 1, len(inner), dtype=torch.float64, device=log_size.device).unsqueeze(-1)
        low = place.long().clamp(max=max(len(found) - 2, 0))
        table = torch.stack(found)
        high = (low + 1).clamp(max=len(found) - 1).squeeze(-1)
        return torch.lerp(table[low.squeeze(-1)], table[high], place - low).exp()

    def _move(self, state: _State, beta: float, size: Tensor) -> tuple[_State, Tensor]:
        """A Hamiltonian trajectory that is taken or not, and the mean probability of taking it, (B,)."""
        # trajectories of one length could return to where they began
        spread = 1 + JITTER * (2 * torch.rand_like(state.log_joint) - 1)
        size = (size * spread).to(state.z).unsqueeze(-1)
        momentum = torch.randn_like(state.z)
        new, speed = state, momentum + 0.5 * size * state.slope(beta)
        for i in range(self.annealing.leapfrogs):
            moved = new.z + size * speed
            # a trajectory that has left the numbers keeps its infinite speed, and is not taken
            new = self.at(torch.where(moved.isfinite(), moved, state.z))
            last = i == self.annealing.leapfrogs - 1
            speed = speed + (0.5 if last else 1.0) * size * new.slope(beta)
        energy = 0.5 * (speed.double() ** 2 - momentum.double() ** 2).sum(-1)
        ratio = new.level(beta) - state.level(beta) - energy
        taken = torch.rand_like(ratio).log() < ratio
        kept = _State(*(torch.where(_like(taken, b), b, a) for a, b in zip(state, new, strict=True)))
        return kept, ratio.exp().clamp(max=1).nan_to_num(0.0).mean(0)


def _like(taken: Tensor, part: Tensor) -> Tensor:
    return taken.unsqueeze(-1) if part.ndim > taken.ndim else taken


def _real(distribution: Distribution, z: Any) -> bool:
    """Whether all values of z are possible, so that a step along a gradient leads to another."""
    if isinstance(distribution, Joint):
        return all(_real(distribution.conditional(name, z), z[name]) for name in distribution.parts)
    if distribution.has_enumerate_support or isinstance(z, dict):
        return False
    return bool(distribution.support.check(-1e3 * torch.ones_like(z)).all())  # type: ignore[union-attr]


@contextmanager
def _still(model: LatentVariableModel, seed: int) -> Iterator[None]:
    """Only z has gradients; random numbers from `seed`; afterwards all is as it was."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = model.anchor.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
