"""Gaussian diffusion in continuous time: a distribution that a network undoes noise by, and a bound on its density.

    u = (x - loc) / scale
    z_t = alpha_t u + sigma_t e,   e ~ Normal(0, I),   alpha_t^2 = sigmoid(l_t),   sigma_t^2 = sigmoid(-l_t)

with l_t = log(alpha_t^2 / sigma_t^2), the log signal-to-noise ratio, falling from l_0 to l_1. The generative model
begins at z_1 ~ Normal(0, I), goes backwards by what the network takes u for, and ends in p(u | z_0) = Normal(z_0 /
alpha_0, exp(-l_0) I). Kingma, Salimans, Poole and Ho (2021), "Variational diffusion models" (VDM). The network gives
v = alpha e - sigma u (Salimans and Ho 2022, section 4 and appendix D).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from latentia.distributions.bounded import Bounded
from latentia.errors import OptionError

SCHEDULES = ("cosine", "sigmoid", "linear")
STEEP = 3.0
"""The sigmoid schedule is that of the logistic function between minus this and this."""

Denoise = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""From z (N, D), its log-SNR (N, 1), what is given (N, C) or None, and an estimate of u made before (N, D) or None, to
v (N, D). Where it has none and wants one, it makes one itself."""


class Schedule(nn.Module):
    """The log-SNR l_t for t in [0, 1], from `highest` at 0 to `lowest` at 1, and its slope.

    | kind    | l_t                                                                                              |
    |---------|--------------------------------------------------------------------------------------------------|
    | linear  | highest + t (lowest - highest)                                                                   |
    | cosine  | -2 log tan(a_t), a_t linear in t: alpha = cos(a) (Nichol and Dhariwal 2021; Hoogeboom et al. 2023) |
    | sigmoid | that of an alpha^2 which falls as a logistic function of t (Jabri, Fleet and Chen 2022; tau = 1)   |

    The continuous bound depends on the end points alone; between them the kind decides where noise of the estimate lies
    and where steps are taken (VDM, section 5.1).

    Args:
        highest, lowest: the end points, in nats of log-SNR.
        learned: they are parameters (VDM, section 5 and appendix H).

    Raises:
        OptionError: another kind, or end points that do not fall.
    """

    def __init__(self, kind: str = "cosine", highest: float = 8.0, lowest: float = -8.0, learned: bool = True):
        super().__init__()
        if kind not in SCHEDULES:
            raise OptionError(f"schedule={kind!r}: choose one of {', '.join(SCHEDULES)}")
        if not -30 <= lowest < highest <= 30:
            raise OptionError(f"log-SNR from {highest} to {lowest}: it must fall, within 30 and -30")
        self.kind = kind
        # of one sign, so that no step makes the schedule rise
        self.begin = highest, math.log(math.expm1(highest - lowest))
        self.learned = nn.Parameter(torch.tensor(self.begin)) if learned else None

    @torch.no_grad()
    def start(self) -> None:
        """The end points that it was made with."""
        if self.learned is not None:
            self.learned.copy_(torch.tensor(self.begin))

    def ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """l_0 and l_1, scalars, of the dtype and on the device of `like`."""
        highest, width = (like.new_tensor(self.begin) if self.learned is None else self.learned).unbind()
        return highest, highest - nn.functional.softplus(width)

    def forward(self, t: Tensor) -> Tensor:
        return self.with_slope(t)[0]

    def with_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """l_t and dl_t / dt, of the shape of t."""
        highest, lowest = self.ends(t)
        if self.kind == "linear":
            slope = lowest - highest
            return highest + t * slope, slope.expand_as(t)
        if self.kind == "cosine":
            first, last = (-highest / 2).exp().atan(), (-lowest / 2).exp().atan()
            angle = torch.lerp(first, last, t)
            return -2 * angle.tan().log(), -4 * (last - first) / (2 * angle).sin()
        top, bottom = 1 / (1 + math.exp(-STEEP)), 1 / (1 + math.exp(STEEP))
        falling = torch.sigmoid(STEEP * (1 - 2 * t))
        share = (falling - bottom) / (top - bottom)
        signal = torch.lerp(lowest.sigmoid(), highest.sigmoid(), share)
        # not 1 - signal, which would be rounded away where there is hardly any noise
        noise = torch.lerp((-lowest).sigmoid(), (-highest).sigmoid(), share)
        fall = -2 * STEEP * falling * (1 - falling) / (top - bottom) * (highest.sigmoid() - lowest.sigmoid())
        return signal.log() - noise.log(), fall / (signal * noise)


@dataclass(frozen=True)
class Sampling:
    """How a diffusion is drawn from.

    Attributes:
        steps: of the network.
        method: ancestral, the model's own conditionals, whose density the bound is about as steps grow (VDM, section
            3.2 and appendix A.4); ddim, the deterministic map from the noise (Song, Meng and Ermon 2021, equation 12).
        guidance: v given nothing, plus this many times what the context adds: 1 is the model itself, above 1 the
            context counts for more, and the draws are of no distribution that has a bound (Ho and Salimans 2022).

    Raises:
        OptionError: a number outside of its range.
    """

    steps: int = 100
    method: Literal["ancestral", "ddim"] = "ancestral"
    guidance: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise OptionError(f"steps={self.steps}: at least 1 is needed")
        if self.method not in ("ancestral", "ddim"):
            raise OptionError(f"method={self.method!r}: choose ancestral or ddim")
        if not 0 <= self.guidance < math.inf:
            raise OptionError(f"guidance={self.guidance}: it must be a number of at least 0")


class Terms(NamedTuple):
    """The bound's parts in nats, (S, B): log p(x) >= E[reconstruction - prior - diffusion].

    Attributes:
        reconstruction: E log p(x | z_0), in closed form.
        prior: KL(q(z_1 | x) || Normal(0, I)), in closed form.
        diffusion: an unbiased estimate of the diffusion loss, by one time and one noise.
    """

    reconstruction: Tensor
    prior: Tensor
    diffusion: Tensor

    @property
    def bound(self) -> Tensor:
        return self.reconstruction - self.prior - self.diffusion


class GaussianDiffusion(Bounded):
    """The distribution of rows of D numbers that a network and a schedule make. Batch shape (B,).

    `log_prob_bound` is VDM's equation 11, with the loss of continuous time

        (1/2) E_t,e[-l'(t) |e - e'(z_t)|^2]

    where no `bound_steps` are given (equation 17), else that of so many steps, which is larger (equation 13). Times are
    spread evenly over the draws of a batch (appendix I.1), so that those of one call depend on each other.

    Args:
        denoise: see `Denoise`; schedule: the log-SNR.
        like: any tensor of the batch shape (B,), dtype and device.
        latent: D.
        loc, scale: (D,), by which x is standardised; the density is that of x itself.
        given, otherwise: (B, C), what the network is told of the context, and what it is told of none.
        how: how to draw.
        bound_steps: T of the bound, None for continuous time.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict
    support = constraints.real_vector  # type: ignore[assignment]

    def __init__(
        self,
        denoise: Denoise,
        schedule: Schedule,
        like: Tensor,
        latent: int,
        *,
        loc: Tensor | None = None,
        scale: Tensor | None = None,
        given: Tensor | None = None,
        otherwise: Tensor | None = None,
        how: Sampling | None = None,
        bound_steps: int | None = None,
    ):
        self.denoise, self.schedule, self.like = denoise, schedule, like
        self.loc = like.new_zeros(latent) if loc is None else loc
        self.scale = like.new_ones(latent) if scale is None else scale
        self.given, self.otherwise = given, otherwise
        self.how, self.bound_steps = how or Sampling(), bound_steps
        super().__init__(like.shape, torch.Size([latent]), validate_args=False)

    def log_prob_bound(self, value: Tensor) -> Tensor:
        """An unbiased estimate of a lower bound on log p(x) in nats, (S, B), for x (S, B, D); (B,) for (B, D)."""
        return self.terms(value).bound

    def terms(self, value: Tensor) -> Terms:
        """The same in its parts."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape))
        u, size = (value - self.loc) / self.scale, self.event_shape[0]
        highest, lowest = self.schedule.ends(u)
        kept, noise = lowest.sigmoid(), (-lowest).sigmoid()
        prior = 0.5 * (kept * u**2 + noise - 1 - nn.functional.logsigmoid(-lowest)).sum(-1)
        reconstruction = -0.5 * size * (1 + math.log(2 * math.pi) - highest) - self.scale.log().sum()
        return Terms(reconstruction.expand(prior.shape), prior, self._loss(u))

    def _loss(self, u: Tensor) -> Tensor:
        """The diffusion loss, (S, B), by how much v' = 0 is wrong, which is known, and what v' changes of that by one
        draw. v' = 0 is right of a standard normal, and of data that are near one little is left to draw."""
        t = spread(u.shape[:-1], u)
        if self.bound_steps is None:
            log_snr, slope = self.schedule.with_slope(t)
            weight = -slope
        else:
            # every time is moved up to the end of its step
            step = (t * self.bound_steps).floor() + 1
            log_snr, before = (self.schedule(at / self.bound_steps) for at in (step, step - 1))
            weight = self.bound_steps * torch.expm1(before - log_snr)
        alpha, sigma = _signal_and_noise(log_snr.unsqueeze(-1))
        noise = torch.randn_like(u)
        v, found = alpha * noise - sigma * u, self._v(alpha * u + sigma * noise, log_snr)
        # |e - e'| = alpha |v - v'|
        change = (alpha**2 * found * (found - 2 * v)).sum(-1)
        return self._loss_of_a_normal(u) + 0.5 * weight * change

    def _loss_of_a_normal(self, u: Tensor) -> Tensor:
        """The loss of v' = 0, (S, B): the integral of alpha^2 E|v|^2 / 2 over the log-SNR, or a sum over steps."""
        size, square = self.event_shape[0], (u**2).sum(-1)
        if self.bound_steps is None:
            highest, lowest = self.schedule.ends(u)
            mixed = highest.sigmoid() - lowest.sigmoid()
            kept = nn.functional.softplus(highest) - nn.functional.softplus(lowest) - mixed
        else:
            ends = torch.linspace(0, 1, self.bound_steps + 1, dtype=u.dtype, device=u.device)
            level = self.schedule(ends)
            weight = torch.expm1(level[:-1] - level[1:]) * level[1:].sigmoid()
            kept = (weight * level[1:].sigmoid()).sum()
            mixed = (weight * (-level[1:]).sigmoid()).sum()
        return 0.5 * (kept * size + mixed * square)

    def _v(self, z: Tensor, log_snr: Tensor, before: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """v of z (S, B, D) at its log-SNR, of the shape of its rows or a scalar."""
        rows = log_snr.expand(z.shape[:-1]).reshape(-1, 1)
        flat, last = z.flatten(0, -2), None if before is None else before.flatten(0, -2)

        def ask(given: Tensor | None) -> Tensor:
            told = None if given is None else given.expand(*z.shape[:-1], -1).flatten(0, -2)
            return self.denoise(flat, rows, told, last).view(z.shape)

        v = ask(self.given)
        if guidance == 1 or self.given is None or self.otherwise is None:
            return v
        return torch.lerp(ask(self.otherwise), v, guidance)

    def denoised(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """What the network takes u for, E[u | z_t] where it has learned all, (S, B, D)."""
        alpha, sigma = _signal_and_noise(log_snr)
        return alpha * z - sigma * self._v(z, log_snr)

    def score(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """The gradient of log q(z_t) that this is an estimate of: -e'(z_t) / sigma_t, (S, B, D)."""
        alpha, sigma = _signal_and_noise(log_snr)
        return -(sigma * z + alpha * self._v(z, log_snr)) / sigma

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.like.dtype, device=self.like.device
        )
        return self.decode(noise) if self.how.method == "ddim" else self._ancestral(noise)

    def _ancestral(self, z: Tensor) -> Tensor:
        levels, before = self._levels(), None
        for here, there in itertools.pairwise(levels):
            alpha, sigma = _signal_and_noise(here)
            next_alpha, next_sigma = _signal_and_noise(there)
            before = alpha * z - sigma * self._v(z, here, before, self.how.guidance)
            gone = -torch.expm1(here - there)
            z = next_alpha * (z * (1 - gone) / alpha + gone * before)
            z = z + next_sigma * gone.sqrt() * torch.randn_like(z)
        alpha, sigma = _signal_and_noise(levels[-1])
        return self.loc + self.scale * (z + sigma * torch.randn_like(z)) / alpha

    @torch.no_grad()
    def decode(self, noise: Tensor) -> Tensor:
        """x of noise (S, B, D) by the deterministic map: the probability flow, in steps (DDIM)."""
        levels = self._levels()
        z = self._flow(noise, levels)
        return self.loc + self.scale * z / _signal_and_noise(levels[-1])[0]

    @torch.no_grad()
    def invert(self, value: Tensor) -> Tensor:
        """The noise of x (S, B, D): the same map backwards, its inverse but for what the steps leave of it."""
        levels = self._levels().flip(0)
        return self._flow(_signal_and_noise(levels[0])[0] * (value - self.loc) / self.scale, levels)

    def _flow(self, z: Tensor, levels: Tensor) -> Tensor:
        before = None
        for here, there in itertools.pairwise(levels):
            alpha, sigma = _signal_and_noise(here)
            v = self._v(z, here, before, self.how.guidance)
            before, noise = alpha * z - sigma * v, sigma * z + alpha * v
            next_alpha, next_sigma = _signal_and_noise(there)
            z = next_alpha * before + next_sigma * noise
        return z

    def _levels(self) -> Tensor:
        """The log-SNR of each step, from pure noise on, (steps + 1,)."""
        return self.schedule(torch.linspace(1, 0, self.how.steps + 1, dtype=self.like.dtype, device=self.like.device))


def spread(shape: torch.Size, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), each one uniform, all of them evenly spread: one draw moves them all."""
    count = max(shape.numel(), 1)
    even = torch.arange(shape.numel(), dtype=like.dtype, device=like.device) / count
    moved = even + torch.rand((), dtype=like.dtype, device=like.device)
    # a sum just below 1 may be rounded to it
    return (moved - moved.floor()).clamp(max=1 - torch.finfo(like.dtype).eps).reshape(shape)


def _signal_and_noise(log_snr: Any) -> tuple[Tensor, Tensor]:
    """alpha and sigma."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
