"""Transform coder: an autoencoder of images whose code is whole numbers, as few bits as it can be.

    z     ~ prod_cij p_c(z_cij),  p_c a mixture of logistics and a uniform noise of one unit
    x | z ~ Normal(synthesis(z), 1 / (2 slope)),  coordinate by coordinate

    q(z | x) = analysis(x) + Uniform(-1/2, 1/2)
    -ELBO = E_q[-log p(z)] + slope E_q |x - synthesis(z)|^2 + a constant = R + slope D + a constant

q has the density 1, so that the KL is what the code costs. What is written in a file is analysis(x) rounded, of which
the noise is the differentiable likeness: at whole numbers p_c is the probability of what rounds there, and -log2 p_c
its bits. The slope is the price of an error: the larger, the longer the file and the better the image. Analysis and
synthesis are convolutions. They begin as the linear map of blocks that rebuilds them best, which is what the cosine
transform of JPEG is nearly, and learning makes blocks overlap and their neighbours count. How a file is made of it:
`latentia.codec.images`.

Ballé, Laparra and Simoncelli (2017), "End-to-end optimized image compression", ICLR, sections 2 and 3. There p_c is
piecewise linear, and between convolutions are divisive normalisations, which take longer to learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from latentia.distributions.rounding import Dithered, Rounded
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame
from latentia.networks.transforms import Analysis, Around, Synthesis

LOOKED_AT = 256
"""Images whose blocks say how the transform begins."""


class TransformCoder(DirectedModel):
    """p(x, z) = prod p_c(z_cij) Normal(x; synthesis(z), 1 / (2 slope)), z (B, C, h, w).

    Args:
        event_shape: of an image, (H, W) or (H, W, C) (comes from the data).
        slope: nats that a unit of squared error is worth, summed over an image; x lies between 0 and 1.
        channels: C, numbers of z for each block.
        block: its side in pixels, an even number.
        hidden: channels of the networks that look at neighbouring blocks.
        mixture: logistics of each channel's p_c.

    Raises:
        OptionError: no image, a slope that is not above 0, no logistic, or a block that does not hold C numbers.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        slope: float = 100.0,
        channels: int = 64,
        block: int = 8,
        hidden: int = 64,
        mixture: int = 2,
    ):
        super().__init__()
        if not 0 < slope < math.inf or mixture < 1:
            raise OptionError(f"slope={slope}, mixture={mixture}: a slope above 0, and one logistic at least")
        self.event_shape, self.slope = tuple(event_shape), slope
        self.analysis = Analysis(event_shape, channels, block, hidden)
        self.synthesis = Synthesis(event_shape, channels, block, hidden)
        self.log_gain = nn.Parameter(torch.zeros(2, channels))
        self.weights = nn.Parameter(torch.zeros(channels, mixture))
        self.loc = nn.Parameter(torch.zeros(channels, mixture))
        self.log_scale = nn.Parameter(torch.zeros(channels, mixture))

    def prior(self, frame: Frame) -> Rounded:
        shape = (len(self.loc), *self.analysis.grid)
        return Rounded(self.weights.log_softmax(-1), self.loc, self.log_scale.exp(), frame.size, shape)

    def posterior(self, batch: Batch) -> Dithered:
        x = batch.x.to(self.anchor.dtype)
        # a pixel that is hidden is grey
        x = x if batch.mask is None else torch.where(batch.mask, x, 0.5)
        return Dithered(self._gain(0) * self.analysis(x.flatten(1) - 0.5))

    def likelihood(self, z: Tensor, frame: Frame) -> Normal:
        mean = 0.5 + self.synthesis(z / self._gain(1)).unflatten(-1, self.event_shape)
        return Normal(mean, mean.new_full((), (2 * self.slope) ** -0.5).expand(mean.shape), validate_args=False)

    def _gain(self, side: int) -> Tensor:
        """Units of z to one of the transform's numbers, (C, 1, 1): of the analysis 0, of the synthesis 1."""
        return self.log_gain[side].exp().view(-1, 1, 1)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """The best linear map of blocks, in units whose rounding costs what an error of 1 / (2 slope) does, and p_c as
        wide as its numbers are."""
        for module in self.modules():
            if isinstance(module, Around):
                module.start(generator)
        every = max(batch.size // LOOKED_AT, 1)
        x = batch.x[::every].flatten(1).to(self.anchor.dtype) - 0.5
        x = x if batch.mask is None else torch.where(batch.mask[::every].flatten(1), x, 0.0)
        directions, half = self.analysis.principal(x), self.analysis.block // 2
        for linear in (self.analysis.linear, self.synthesis.linear):
            linear.weight.data.zero_()
            linear.weight.data[..., half:-half, half:-half] = directions.to(linear.weight)
        self.log_gain.data.fill_(0.5 * math.log(self.slope / 6))
        z = self.posterior(batch.select(slice(0, None, every))).mean.transpose(0, 1).flatten(1)
        spread = z.std(1, keepdim=True).clamp(min=0.1).log()
        self.weights.data.zero_()
        self.loc.data.copy_(z.mean(1, keepdim=True).expand_as(self.loc))
        self.log_scale.data.copy_(spread + torch.linspace(-1.5, -0.3, self.loc.shape[1]).to(spread))

    def at(self, slope: float) -> Self:
        """A copy at another slope, its units and p_c made to fit: where a fit at that slope goes on from."""
        options = {"channels": len(self.loc), "block": self.analysis.block, "mixture": self.loc.shape[1]}
        other = type(self)(self.event_shape, slope, hidden=self.analysis.around.first.out_channels, **options)
        other.load_state_dict(self.state_dict())
        shift = 0.5 * math.log(slope / self.slope)
        other.to(self.anchor)
        other.log_gain.data += shift
        other.loc.data *= math.exp(shift)
        other.log_scale.data += shift
        return other

    def check(self, batch: Batch) -> None:
        if tuple(batch.x.shape[1:]) != self.event_shape:
            raise DataError(f"the model takes images {self.event_shape}, and the data have {tuple(batch.x.shape[1:])}")
        x = batch.x[batch.observed]
        if bool(((x < 0) | (x > 1)).any()):
            raise DataError("a transform coder takes values from 0 to 1: divide those of 0 to 255 by 255")


def tiny(seed: int) -> tuple[TransformCoder, Batch]:
    """Images of 2 x 3 pixels with one number each for z's two, of which one pixel is hidden once."""
    generator = torch.Generator().manual_seed(seed)
    model = TransformCoder((2, 3), slope=3.0, channels=1, block=2, hidden=2).double()
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.rand(4, 2, 3, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0, 2] = False
    return model, Batch.of(x, mask)
