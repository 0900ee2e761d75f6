"""Latent diffusion: a model with one point z behind each datum, and a diffusion in the place of its prior.

    z     ~ GaussianDiffusion: from Normal(0, I), by steps that a network takes
    x | z ~ the decoder of the base, a VAE of any likelihood
    q(z | x) the encoder of the base

    log p(x) >= E_q[log p(x | z)] + H(q) + E_q[log_prob_bound(z)]

The last term bounds log p(z) from below (Kingma et al. 2021), so that the whole is a bound as the ELBO is: of the
base's, only E_q log p(z) has changed. With base and prior learned together it is the LSGM of Vahdat, Kreis and Kautz
(2021), section 3.1; with the base fitted first and frozen, as it is unless `joint`, latent diffusion in two stages
(Rombach et al. 2022; for text Lovelace et al. 2023). Codes are standardised by their mean and deviation over the data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.distributions.bounded import Bounded
from latentia.distributions.diffusion import GaussianDiffusion, Sampling, Schedule
from latentia.errors import CapabilityError
from latentia.model import DirectedModel, LatentVariableModel
from latentia.models.diffusion.told import check_context, told
from latentia.models.vaes.vae import VAE
from latentia.networks.columns import DroppedColumns
from latentia.networks.denoiser import Denoiser

CHUNK = 1000
"""Data whose codes are standardised at a time."""


class LatentDiffusion(DirectedModel):
    """p(x, z) = p(z) p(x | z), p(z) a diffusion, p(x | z) and q(z | x) the base's.

        vae = VAE((8, 8), latent=8)
        Gradient(elbo, epochs=50).fit(vae, digits)
        model = LatentDiffusion(vae)
        Gradient(elbo, epochs=50).fit(model, digits)

    Args:
        base: a fitted model with a prior, a likelihood, and a z that is one vector of real numbers, whose posterior can
            be reparameterised; a copy is kept.
        hidden, layers: width and blocks of the network that undoes the noise.
        schedule: cosine, sigmoid or linear in the log-SNR; learned_ends: learn where it begins and ends (`Schedule`).
        self_conditioned: the network sees its own estimate of z (`Denoiser`): twice the passes in a bound.
        joint: learn the base too, by the same bound; else it is frozen.
        context: for p(z | context), of each column of the context its number of categories, 0 for numbers (comes from
            the data); drop_context: share of the data whose context is hidden while learning.
        steps, method, guidance: of draws, see `Sampling`. They are kept in `sampling`, and may be set there.
        bound_steps: T of the bound in so many steps; None for that of continuous time.

    Attributes:
        sampling: a `Sampling`: steps, method and guidance of what is drawn.

    Raises:
        CapabilityError: the base is no such model.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        base: LatentVariableModel,
        hidden: int = 256,
        layers: int = 3,
        schedule: Literal["cosine", "sigmoid", "linear"] = "cosine",
        learned_ends: bool = True,
        self_conditioned: bool = False,
        joint: bool = False,
        context: Sequence[int] = (),
        drop_context: float = 0.1,
        steps: int = 100,
        method: Literal["ancestral", "ddim"] = "ancestral",
        guidance: float = 1.0,
        bound_steps: int | None = None,
    ):
        super().__init__()
        self.base, self.joint, self.bound_steps = copy.deepcopy(_checked(base)), joint, bound_steps
        self.schema = base.schema
        self.latent = int(base.prior(Frame(1)).event_shape[0])  # type: ignore[attr-defined]  # _checked has called it
        self.sampling = Sampling(steps, method, guidance)
        self.given = DroppedColumns(context, drop_context) if context else None
        beside = self.given.outputs if self.given else 0
        self.denoiser = Denoiser(self.latent, hidden, layers, beside, self_conditioned)
        self.schedule = Schedule(schedule, learned=learned_ends)
        self.register_buffer("loc", torch.zeros(self.latent))
        self.register_buffer("scale", torch.ones(self.latent))
        self.to(base.anchor)
        self.base.requires_grad_(joint)
        self.train(self.training)

    def prior(self, frame: Frame) -> GaussianDiffusion:
        given, none = told(self.given, frame, self.loc)
        return GaussianDiffusion(
            self.denoiser,
            self.schedule,
            self.loc.new_zeros(frame.size),
            self.latent,
            loc=self.loc,
            scale=self.scale,
            given=given,
            otherwise=none,
            how=self.sampling,
            bound_steps=self.bound_steps,
        )

    def posterior(self, batch: Batch) -> Distribution:
        return self.base.posterior(batch)

    def likelihood(self, z: Tensor, frame: Frame) -> Distribution:
        return self.base.likelihood(z, frame)

    def train(self, mode: bool = True) -> LatentDiffusion:
        super().train(mode)
        # what is frozen has no dropout either
        self.base.train(mode and self.joint)
        return self

    @torch.no_grad()
    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """A random network whose diffusion is the normal that has the mean and the deviations of the data's codes. The
        base stays as it was fitted."""
        self.denoiser.start(generator)
        self.schedule.start()
        weight, parts = batch.weights.double(), []
        for at in torch.arange(batch.size, device=batch.x.device).split(CHUNK):
            q = self.base.posterior(batch.select(at).cut())
            parts.append(torch.stack([q.mean.double(), q.variance.double()]))
        mean, variance = torch.cat(parts, 1)
        share = (weight / weight.sum().clamp(min=1e-12)).unsqueeze(-1)
        loc = (share * mean).sum(0)
        self.loc.copy_(loc)
        self.scale.copy_((share * ((mean - loc) ** 2 + variance)).sum(0).sqrt().clamp(min=1e-6))

    def check(self, batch: Batch) -> None:
        self.base.check(batch)
        check_context(self.given, batch)


def _checked(base: Any) -> DirectedModel:
    """The base. Raises `CapabilityError` where it is none."""
    name = type(base).__name__
    if not isinstance(base, DirectedModel):
        raise CapabilityError(
            f"base={name}: a diffusion takes the place of a prior, and it has no prior and likelihood"
        )
    prior = base.prior(Frame(1))
    if isinstance(prior, Bounded):
        raise CapabilityError(f"base={name}: its prior is a diffusion already, or another bound")
    real = len(prior.event_shape) == 1 and not prior.has_enumerate_support and prior.has_rsample
    if not real:
        raise CapabilityError(
            f"base={name}: its z has to be one vector of real numbers, as that of VAE or TextVAE, and its prior is a "
            f"{type(prior).__name__} of shape {tuple(prior.event_shape)}"
        )
    return base


def tiny(seed: int) -> tuple[LatentDiffusion, Batch]:
    """A VAE of one latent dimension and three binary pixels, of which one is missing once, learned with its prior."""
    return _tiny(seed, ())


def tiny_conditional(seed: int) -> tuple[LatentDiffusion, Batch]:
    """The same with a prior that is given one of two classes, and that sees its own estimate."""
    model, batch = _tiny(seed, (2,))
    classes = torch.tensor([[0], [1], [0], [1], [1]]).double()
    return model, batch._replace(context=Batch(classes))


def _tiny(seed: int, context: Sequence[int]) -> tuple[LatentDiffusion, Batch]:
    generator = torch.Generator().manual_seed(seed)
    base, batch = _base(generator)
    model = LatentDiffusion(base, 4, 1, joint=True, self_conditioned=bool(context), context=context).double()
    for name, parameter in model.named_parameters():
        if not name.startswith("schedule"):
            parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, batch


def _base(generator: torch.Generator) -> tuple[DirectedModel, Batch]:
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return VAE(event_shape=(3,), latent=1, hidden=(4,)), Batch.of(x, mask)
