"""Normalising flows: a standard normal, bent by an invertible map that a network steers.

    e ~ Normal(0, I),   z = T(e; h),   log q(z) = log Normal(e; 0, I) - log |det dT/de|

Rezende and Mohamed (2015), section 3. The maps are zuko's masked autoregressive ones, and `PlanarTransform`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.transforms import AffineTransform

POINTS = 64  # of the Sobol sequence, each with its negative, for a flow's mean and variance
CHUNK = 2**17  # numbers that are bent at a time for them
BINS = 8  # of a spline
HALVINGS = 64  # of the interval in which the inverse of a planar map lies: more than float64 has digits
SHIFT = math.log(math.e - 1)


class Flow(Distribution):
    """The distribution of z = T(e; h), e ~ Normal(0, I), over z (B, D).

    Args:
        bend: a module from `features` to the Transform T of rows of D numbers, with `call_and_ladj`.
        features: h, (B, C), of any width C: what the map depends on.
        latent: D.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, bend: nn.Module, features: Tensor, latent: int):
        self.bend, self.features = bend, features
        self._drawn = self._log_prob = features.new_empty(0)
        self._version, self._graph = 0, False
        super().__init__(features.shape[:-1], torch.Size([latent]), validate_args=False)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.features.dtype, device=self.features.device)
        z, log_det = _bent(self.bend(self.features), noise)
        self._drawn, self._log_prob = z, _standard(noise) - log_det
        self._version, self._graph = z._version, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z) in nats, (S, B): of the last draw without inverting the map, which took its density along.

        An autoregressive map that draws in one pass is inverted in D, and the other way round.
        """
        if self._known(value):
            return self._log_prob
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape))
        noise, log_det = _bent(self.bend(self.features).inv, value)
        return _standard(noise) + log_det

    def _known(self, value: Tensor) -> bool:
        # a copy with its parameters fixed (`gradients.fixed`) has another tensor for its draw, so it knows none
        same = value is self._drawn and value._version == self._version
        # drawn without a graph, the density has no gradient to give
        return same and (self._graph or not torch.is_grad_enabled())

    @property
    def mean(self) -> Tensor:
        """E[z], (B, D), estimated: see `variance`."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Var[z], (B, D). It has no closed form: it is that of T(e) over 64 points e of a scrambled Sobol sequence and
        their negatives, the same ones for every datum and at every call. So equal features have equal means (a unit
        that follows the prior shows no variance over x), and where T is affine the mean is exact."""
        first, second = self._moments()
        return (second - first**2).clamp(min=0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        (latent,) = self.event_shape
        uniform = torch.quasirandom.SobolEngine(latent, scramble=True, seed=0).draw(POINTS, dtype=torch.float64)
        noise = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).to(self.features)
        bend, first, second = self.bend(self.features), 0.0, 0.0
        rows = torch.cat([noise, -noise]).reshape(-1, *(1,) * len(self.batch_shape), latent)
        for part in rows.split(max(CHUNK // (self.batch_shape.numel() * latent), 1)):
            z = bend(part.expand(len(part), *self.batch_shape, latent))
            first, second = first + z.sum(0), second + (z**2).sum(0)
        return first / len(rows), second / len(rows)  # type: ignore[return-value]  # sums of at least one part


def _standard(noise: Tensor) -> Tensor:
    return -0.5 * (noise**2 + math.log(2 * math.pi)).sum(-1)


def _bent(transform: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """T(value) and log |det dT|: zuko's transforms find both in one pass."""
    return transform.call_and_ladj(value)


class PosteriorBend(nn.Module):
    """From an encoder's features to a map T of D numbers: features are a mean, a log standard deviation (D each), and
    what steers the flow, a context of `inputs` - 2 D numbers.

    Args:
        kind: planar (Rezende and Mohamed 2015, section 4.1: its parameters are the context itself); iaf, inverse
            autoregressive (Kingma et al. 2016: draws in one pass); maf, masked autoregressive (Papamakarios et al.
            2017: densities in one pass, draws in D); spline, autoregressive rational-quadratic (Durkan et al. 2019).
        latent: D.
        transforms: how many maps, one after the other; every second one has the order of the first reversed.
        hidden: widths of the hidden layers of the network in each; the context is as wide as the first.
    """

    def __init__(self, kind: str, latent: int, transforms: int, hidden: Sequence[int]):
        super().__init__()
        self.kind, self.latent = kind, latent
        self.context = transforms * (2 * latent + 1) if kind == "planar" else hidden[0]
        steps = [] if kind == "planar" else _autoregressive(latent, self.context, transforms, hidden, kind == "spline")
        self.steps = nn.ModuleList(steps)

    @property
    def inputs(self) -> int:
        return 2 * self.latent + self.context

    def forward(self, features: Tensor) -> Transform:
        mean, log_scale, context = features.split([self.latent, self.latent, self.context], -1)
        affine = AffineTransform(mean, log_scale.exp(), event_dim=1)
        if self.kind == "planar":
            return _composed(affine, *_planar(context, self.latent))
        steps = [step(context) for step in self.steps]
        if self.kind == "spline":
            # splines bend [-5, 5]: there the noise is, and z need not be
            return _composed(*steps, affine)
        return _composed(affine, *(step.inv if self.kind == "maf" else step for step in steps))


class PriorBend(nn.Module):
    """A learned map T that depends on nothing, whose inverse, the density, takes one pass.

    Args:
        kind: maf, or spline, of coupling layers (Durkan et al. 2019), which draws in two passes.
        latent, transforms, hidden: see `PosteriorBend`.
    """

    def __init__(self, kind: str, latent: int, transforms: int, hidden: Sequence[int]):
        super().__init__()
        passes = 2 if kind == "spline" else None
        self.steps = nn.ModuleList(_autoregressive(latent, 0, transforms, hidden, kind == "spline", passes))

    def forward(self, features: Tensor) -> Transform:
        return _composed(*(step(None).inv for step in self.steps))


@torch.no_grad()
def begin(bend: nn.Module, generator: torch.Generator) -> None:
    """Near the identity: Glorot's weights inside, a tenth of them in each network's last layer, zeros elsewhere."""
    for step in getattr(bend, "steps", []):
        for parameter in step.parameters():
            parameter.zero_()
        layers = [layer for layer in step.modules() if hasattr(layer, "weight")]
        for layer in layers:
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            layer.weight.copy_(torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=generator))
        for layer in layers[-1:]:
            layer.weight.mul_(0.1)


def _autoregressive(
    latent: int, context: int, transforms: int, hidden: Sequence[int], spline: bool, passes: int | None = None
) -> list[nn.Module]:
    zuko = _zuko()
    options: dict[str, Any] = {"passes": passes, "hidden_features": tuple(hidden), "activation": nn.ELU}
    if spline:
        shapes = [(BINS,), (BINS,), (BINS - 1,)]
        options |= {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": shapes}
    steps = []
    for i in range(transforms):
        # pairs of opposite orders; the first pair's is the latents' own
        order = torch.arange(latent)
        if i > 1:
            order = torch.randperm(latent, generator=torch.Generator().manual_seed(i // 2))
        order = order if i % 2 == 0 else latent - 1 - order
        steps.append(zuko.flows.MaskedAutoregressiveTransform(latent, context, order=order, **options))
    return steps


def _composed(*transforms: Transform) -> Transform:
    return _zuko().transforms.ComposedTransform(*transforms)


@cache
def _zuko() -> ModuleType:
    """zuko, without what its import does to every distribution of torch: that its arguments are checked no more."""
    before = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
    import zuko

    Distribution._validate_args, Distribution.arg_constraints = before  # type: ignore[misc]
    return zuko


# ------------------------------------------------------------------------------------------------------------- planar


def _planar(context: Tensor, latent: int) -> list[PlanarTransform]:
    parts = context.unflatten(-1, (-1, 2 * latent + 1)).unbind(-2)
    return [PlanarTransform(*part.split([latent, latent, 1], -1)) for part in parts]


class PlanarTransform(Transform):
    """y = x + u' tanh(w . x + b), with u' = u + (m(w . u) - w . u) w / |w|^2 and m(a) = softplus(a + log(e - 1)) - 1.

    Rezende and Mohamed (2015), section 4.1; u' keeps w . u' > -1, so that the map is invertible (their appendix A.1,
    where m lacks the shift: with it m(0) = 0, and nothing happens where w = 0). The inverse has no closed form, but
    a = w . x is the root of a + m(w . u) tanh(a + b) = w . y, which rises in a: it is found by bisection, and one step
    of Newton's gives it its gradient.

    Args:
        u, w: (B, D).
        b: (B, 1).
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, u: Tensor, w: Tensor, b: Tensor):
        super().__init__()
        inner = (w * u).sum(-1, keepdim=True)
        # 1 + w . u', kept apart because it may be far smaller than 1
        self.gain = nn.functional.softplus(inner + SHIFT)
        length = (w**2).sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny ** 0.5)
        self.u, self.w, self.b = u + (self.gain - 1 - inner) / length * w, w, b

    def _call(self, x: Tensor) -> Tensor:
        return x + self.u * torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)

    def _inverse(self, y: Tensor) -> Tensor:
        target = (self.w * y).sum(-1, keepdim=True)
        inner = self._root(target)
        bend = torch.tanh(inner + self.b)
        slope = bend**2 + self.gain * (1 - bend**2)
        inner = inner - (inner + (self.gain - 1) * bend - target) / slope.detach()
        return y - self.u * torch.tanh(inner + self.b)

    @torch.no_grad()
    def _root(self, target: Tensor) -> Tensor:
        reach = (self.gain - 1).abs()
        low, high = target - reach, target + reach
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = middle + (self.gain - 1) * torch.tanh(middle + self.b) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        square = torch.tanh((self.w * x).sum(-1) + self.b.squeeze(-1)) ** 2
        return (square + self.gain.squeeze(-1) * (1 - square)).log()
