"""Colorization through a latent segmentation: which segment a pixel lies in, and what colours the segment has.

    z_ij | grey          ~ Categorical(softmax(s(grey)_ij))                 one of K segments for each pixel
    x_ij | z_ij = k, grey ~ Categorical(softmax(u(grey)_ij + palette_k))    its chroma, one of V points of a grid

    p(x | grey) = prod_ij sum_k p(z_ij = k | grey) p(x_ij | z_ij = k, grey)

The grey image is the context, and x its chroma (`latentia.data.colour`). s and u are read off the features of a U-Net;
a segment has a palette, the log-weights of all V colours, which the features tilt. Nobody has said what the segments
are. The sum over them is exact for each pixel, so p(z | x, grey) is, and learning is gradient ascent on log p(x | grey)
itself. With `coupling="rows"` the segments of a row are a chain,

    p(z | grey) = exp(sum_ij s(grey)_ij[z_ij] + sum_i,j>1 transition[z_i,j-1, z_ij]) / Z(grey)

so that neighbours may agree, and the sums over paths are exact by forward and backward recursion.

With one segment there is no latent variable: x's pixels are then independent given features of all of the grey image.
As softmax(u + palette) has the same normaliser for all pixels but for a product of V x K numbers, exp(u) exp(palette),
K segments cost little more than one.

    McAllester, TTIC 31230, "Fundamentals of deep learning", lectures on latent variables (colorization by segments)
    Zhang, Isola and Efros (2016), "Colorful image colorization", section 2; Yang et al. (2018), "Breaking the softmax
    bottleneck", section 2.3, for mixtures of softmaxes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from latentia.distributions.emissions.emitted import Emitted
from latentia.distributions.segments import RowSegments, Segments
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame, TractableModel
from latentia.networks.frames import restarted
from latentia.networks.unet import UNet

Coupling = Literal["none", "rows"]
LEAST = -30.0
"""The least log-weight of a colour in a palette: the normaliser, a sum of products, cannot underflow in float32."""
SPREAD = 0.5
"""Standard deviation of the log-weights at the start, around the data's own frequencies: it tells segments apart."""


class LatentColorization(TractableModel, DirectedModel):
    """p(chroma | grey) with a segment for each pixel summed out.

    Args:
        symbols: V, points of the chroma's grid (comes from the data).
        segments: K; 1 is the model without a latent variable.
        coupling: none, segments are independent given the grey image; rows, those of a row are a chain.
        channels: of the U-Net at each resolution, the full one first.
        hidden: units of each pixel between the features and what is read off them.

    Raises:
        OptionError: no segment, or another coupling.
    """

    colour: ClassVar[bool] = True
    """Images in colour are read as their chroma given grey."""

    def __init__(
        self,
        symbols: int,
        segments: int = 8,
        coupling: Literal["none", "rows"] = "none",
        channels: Sequence[int] = (24, 32, 48),
        hidden: int = 64,
    ):
        super().__init__()
        if segments < 1:
            raise OptionError(f"segments={segments}: 1 or more")
        if coupling not in get_args(Coupling):
            raise OptionError(f"coupling={coupling!r}: choose one of {', '.join(get_args(Coupling))}")
        self.symbols, self.segments, self.coupling = symbols, segments, coupling
        self.features = nn.Sequential(UNet(1, channels), nn.GELU(), nn.Conv2d(channels[0], hidden, 1), nn.GELU())
        self.tilt = nn.Conv2d(hidden, symbols, 1)
        self.palette = nn.Parameter(SPREAD * torch.randn(segments, symbols))
        # what has no choice has no parameters either
        self.segment = nn.Conv2d(hidden, segments, 1) if segments > 1 else None
        self.transition = nn.Parameter(torch.zeros(segments, segments)) if segments > 1 and coupling == "rows" else None

    def read(self, frame: Frame) -> tuple[Segments | RowSegments, Palettes]:
        """p(z | grey), and p(x_ij | z_ij = k, grey) for each pixel and k, of one pass of the network."""
        grey = frame.given().x.to(self.anchor.dtype)
        found = self.features(grey.unsqueeze(1))
        tilt = self.tilt(found).permute(0, 2, 3, 1)
        node = tilt.new_zeros(*tilt.shape[:-1], 1) if self.segment is None else self.segment(found).permute(0, 2, 3, 1)
        palettes = Palettes(tilt, self.palette)
        if self.transition is None:
            return Segments({"node": node.log_softmax(-1)}), palettes
        return RowSegments({"node": node, "transition": self.transition}), palettes

    def prior(self, frame: Frame) -> Segments | RowSegments:
        return self.read(frame)[0]

    def likelihood(self, z: Tensor, frame: Frame) -> Emitted:
        return Emitted(self.read(frame)[1], z, z.shape[2:-1])

    def posterior(self, batch: Batch) -> Segments | RowSegments:
        prior, palettes = self.read(batch.frame)
        rows = batch.x.flatten(), None if batch.mask is None else batch.mask.flatten()
        node = prior.log_potentials["node"]
        emitted = palettes.log_prob(*rows).view(node.shape)
        if isinstance(prior, RowSegments):
            # the prior's normaliser, shared among the pixels: then the posterior's log-partition is log p(x)
            emitted = emitted - prior.log_partition[:, None, None, None] / batch.x[0].numel()
        return prior._with({**prior.log_potentials, "node": node + emitted})

    def probabilities(self, frame: Frame) -> Tensor:
        """p(x_ij = c | grey) of every pixel and colour, z summed out, (B, H, W, V)."""
        prior, palettes = self.read(frame)
        return palettes.mixed(prior.marginals)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Random networks, and palettes about the frequencies that the data's colours have."""
        restarted(self.features, generator)
        restarted(self.tilt, generator)
        if self.segment is not None:
            restarted(self.segment, generator)
        weight = batch.observed * batch.weights.view(-1, 1, 1)
        count = torch.bincount(batch.x.flatten(), weight.flatten().double(), self.symbols).to(self.palette)
        frequency = (count + 0.1) / (count + 0.1).sum()
        noise = torch.randn(self.palette.shape, generator=generator).to(self.palette)
        with torch.no_grad():
            self.palette.copy_(frequency.log() + (SPREAD * noise if self.segments > 1 else 0.0))
            if self.transition is not None:
                self.transition.zero_()

    def check(self, batch: Batch) -> None:
        x, grey = batch.x, batch.context
        if x.ndim != 3 or x.is_floating_point():
            raise DataError(
                f"chroma is x (B, H, W) of whole numbers, and the data have shape {tuple(x.shape)}: read images in "
                "colour as grey and chroma by values='colour' (--values colour)"
            )
        if grey is None or grey.x.shape != x.shape:
            found = "none" if grey is None else f"of shape {tuple(grey.x.shape)}"
            raise DataError(
                f"the context is a grey image (B, H, W) of the size of x {tuple(x.shape)}, and there is {found}"
            )
        if grey.mask is not None and not bool(grey.mask.all()):
            raise DataError("the grey image has hidden pixels: only those of the chroma can be summed out")
        seen = x[batch.observed]
        if seen.numel() and not 0 <= int(seen.min()) <= int(seen.max()) < self.symbols:
            raise DataError(f"the chroma has symbols up to {int(seen.max())}, and the model those below {self.symbols}")


class Palettes:
    """p(c | k, pixel) = exp(tilt_c + palette_kc) / sum_c' exp(tilt_c' + palette_kc'): `Choices` of an `Emitted`.

    Args:
        tilt: (B, H, W, V), of each pixel.
        palette: (K, V), of each segment.
    """

    def __init__(self, tilt: Tensor, palette: Tensor):
        # from the largest down, so that every sum of products has a term that is at least exp(LEAST)
        self.tilt = tilt - tilt.detach().amax(-1, keepdim=True)
        self.palette = palette.log_softmax(-1).clamp(min=LEAST)

    def log_normaliser(self) -> Tensor:
        """log sum_c exp(tilt_c + palette_kc), (B, H, W, K)."""
        return (self.tilt.exp() @ self.palette.exp().mT).log()

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x | k) of what is observed, in nats, (M, K), for the pixels of all images one after the other, (M,)."""
        x = x.long() if mask is None else torch.where(mask, x, 0).long()
        tilt = self.tilt.flatten(0, -2).gather(-1, x.unsqueeze(-1))
        value = tilt + self.palette.mT[x] - self.log_normaliser().flatten(0, -2)
        return value if mask is None else torch.where(mask.unsqueeze(-1), value, 0.0)

    def given(self, z: Tensor) -> Categorical:
        """p(x | z) for z (S, B, H, W, K)."""
        return Categorical(logits=self.tilt + z.to(self.palette) @ self.palette, validate_args=False)

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Categorical:
        # a pixel is one symbol: there is no other part of it to be given
        return self.given(z)

    def mixed(self, weight: Tensor) -> Tensor:
        """sum_k weight_k p(c | k), (B, H, W, V), for weights (B, H, W, K)."""
        share = weight * (-self.log_normaliser()).exp()
        return self.tilt.exp() * (share @ self.palette.exp())


def _tiny(seed: int, coupling: Literal["none", "rows"]) -> tuple[LatentColorization, Batch]:
    generator = torch.Generator().manual_seed(seed)
    model = LatentColorization(3, 2, coupling, channels=(2, 2), hidden=3).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (4, 2, 2), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0, 1] = False
    return model, Batch.of(x, mask, context=Batch(torch.rand(4, 2, 2, generator=generator, dtype=torch.float64)))


def tiny(seed: int) -> tuple[LatentColorization, Batch]:
    """Two segments and three colours of 2 x 2 pixels, of which one is hidden once."""
    return _tiny(seed, "none")


def tiny_rows(seed: int) -> tuple[LatentColorization, Batch]:
    """The same, the two segments of a row a chain."""
    return _tiny(seed, "rows")
