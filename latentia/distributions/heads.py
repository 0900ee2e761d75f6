"""From numbers to distributions: what turns an encoder's output into q(z | x), and what holds p(z)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, register_kl

from latentia.distributions.flow import Flow, PosteriorBend, PriorBend, begin
from latentia.errors import OptionError

POSTERIORS = ("diagonal", "full", "planar", "iaf", "maf", "spline")
NEARLY_DIAGONAL = 0.1
"""Scale of a covariance's D^2 / 2 entries off the diagonal: small at first, and slow, so that the means lead."""
PRIORS = ("normal", "maf", "spline")


class PosteriorHead(nn.Module):
    """q(z | x) from an encoder's output, (B, `inputs`).

    | kind                   | distribution                      | inputs                                     |
    |------------------------|-----------------------------------|--------------------------------------------|
    | diagonal               | Normal(mean, diag(scale^2))       | 2 D: means, log standard deviations        |
    | full                   | Normal(mean, L L^T)               | 2 D, and D (D - 1) / 2: 10 L below its diagonal |
    | planar                 | `Flow` of planar maps             | 2 D, and 2 D + 1 a map: u, w, b            |
    | iaf, maf, spline       | `Flow` of autoregressive maps     | 2 D, and `hidden[0]`: the context          |

    Args:
        kind: see above, and `PosteriorBend` for the flows.
        latent: D.
        transforms: maps in a flow.
        hidden: widths of the hidden layers of each map's network.

    Raises:
        OptionError: another kind, or, once called, an input of another width.
    """

    def __init__(self, kind: str, latent: int, transforms: int = 2, hidden: Sequence[int] = (64,)):
        super().__init__()
        if kind not in POSTERIORS:
            raise OptionError(f"posterior={kind!r}: choose one of {', '.join(POSTERIORS)}")
        self.kind, self.latent = kind, latent
        self.inputs = 2 * latent + (latent * (latent - 1) // 2 if kind == "full" else 0)
        self.bend: PosteriorBend | None = None
        if kind not in ("diagonal", "full"):
            self.bend = PosteriorBend(kind, latent, transforms, hidden)
            self.inputs = self.bend.inputs

    def start(self, generator: torch.Generator) -> None:
        """Begin with a flow that is nearly the diagonal normal."""
        if self.bend is not None:
            begin(self.bend, generator)

    def forward(self, features: Tensor) -> Distribution:
        if features.shape[-1] != self.inputs:
            raise OptionError(
                f"posterior={self.kind!r} of {self.latent} latents takes {self.inputs} numbers a datum from the "
                f"encoder, and encoder= gives {features.shape[-1]}"
            )
        if self.bend is not None:
            return Flow(self.bend, features, self.latent)
        mean, log_scale, below = features.split([self.latent, self.latent, self.inputs - 2 * self.latent], -1)
        if self.kind == "diagonal":
            return _normal(mean, log_scale.exp())
        row, column = torch.tril_indices(self.latent, self.latent, -1, device=features.device)
        factor = torch.diag_embed(log_scale.exp())
        factor[..., row, column] = NEARLY_DIAGONAL * below
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)


class PriorHead(nn.Module):
    """p(z): normal, the standard normal; maf or spline, a learned `Flow` (see `PriorBend`).

    Raises:
        OptionError: another kind.
    """

    def __init__(self, kind: str, latent: int, transforms: int = 2, hidden: Sequence[int] = (64,)):
        super().__init__()
        if kind not in PRIORS:
            raise OptionError(f"prior={kind!r}: choose one of {', '.join(PRIORS)}")
        self.latent = latent
        self.bend = None if kind == "normal" else PriorBend(kind, latent, transforms, hidden)

    def start(self, generator: torch.Generator) -> None:
        """Begin with a flow that is nearly the standard normal."""
        if self.bend is not None:
            begin(self.bend, generator)

    def forward(self, size: int, like: Tensor) -> Distribution:
        """p(z) with batch shape (size,), of the dtype and on the device of `like`."""
        if self.bend is not None:
            return Flow(self.bend, like.new_empty(size, 0), self.latent)
        zeros = like.new_zeros(size, self.latent)
        return _normal(zeros, torch.ones_like(zeros))


def _normal(mean: Tensor, scale: Tensor) -> Independent:
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


@register_kl(MultivariateNormal, Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    """KL(Normal(m, L L^T) || Normal(n, diag(s^2))) in nats, (B,)."""
    normal = p.base_dist
    if not isinstance(normal, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError(f"KL between a full-covariance normal and independent {type(normal).__name__}s")
    squares = (q.scale_tril / normal.scale.unsqueeze(-1)) ** 2
    logs = normal.scale.log() - q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    return (0.5 * (squares.sum(-1) + ((q.loc - normal.loc) / normal.scale) ** 2 - 1) + logs).sum(-1)
