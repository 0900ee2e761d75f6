"""Rate-distortion autoencoder: a noisy channel from x to z, and the price of errors.

    z     ~ r(z): Normal(0, I), a learned flow, or bits, each with a probability that is learned
    x | z ~ p(x | y) proportional to exp(-slope d(x, y)),   y = decoder(z)

    q(z | x) = Normal(mean(x), diag(variance(x))), or bits
    -ELBO = KL(q(z | x) || r(z)) + slope E_q d(x, y) + a constant >= I(x; z) + slope D + the same constant

What passes the channel is I(x; z) = E KL(q(z | x) || q(z)), the rate, with q(z) the mean of q(z | x) over x. For any
other r the mean KL is more, by KL(q(z) || r): it bounds the rate from above, and the learned r is an entropy model.
From below it is bounded by the densities of the data's own channels (`latentia.measure.rate_distortion.rated`). As the
slope goes through all numbers above 0, the least values of rate and distortion draw R(D), which no model is below
(Shannon 1959); at D, R'(D) = -slope.

    squared   d = |x - y|^2:              Normal(x; y, 1 / (2 slope))
    hamming   d = number of x_d != y_d:   y_d with errors (`Erring`), and until learning has made the decoder certain
              of y_d, d is the mean over what it may be

Neither constant depends on y, which makes the bound one on log p(x), in nats. A distortion without such a constant
is weighed by the objective (`latentia.objectives.rate_distortion`), which takes any.

Alemi, Poole, Fischer, Dillon, Saurous and Murphy (2018), "Fixing a broken ELBO", ICML, section 2; Blahut (1972). With
Gaussian noise and squared errors: Ballé, Laparra and Simoncelli (2017), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from latentia.distributions.discrete import Bernoullis
from latentia.distributions.erring import Erring
from latentia.distributions.heads import PosteriorHead, PriorHead
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame
from latentia.networks.mlp import MLP, glorot

Distortion = Literal["squared", "hamming"]
Channel = Literal["normal", "bits"]


class RateDistortion(DirectedModel):
    """p(x, z) = r(z) exp(-slope d(x, decoder(z))) / constant.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: V, values of each coordinate, of the hamming distortion (comes from the data); None: 2.
        slope: nats that a unit of distortion is worth, summed over x: the larger, the higher the rate.
        distortion: squared, or hamming.
        channel: normal, or bits, of which the gradient is an estimate (see `DiscreteVAE`).
        latent: numbers or bits of z.
        prior: r(z) of the normal channel: normal, or a learned flow, maf or spline.
        hidden: widths of the hidden layers, from x to z; the decoder has them in reverse. () is a linear model.
        activation: of the hidden layers.

    Raises:
        OptionError: an option that is none of these.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        slope: float = 1.0,
        distortion: Distortion = "squared",
        channel: Channel = "normal",
        latent: int = 8,
        prior: Literal["normal", "maf", "spline"] = "normal",
        hidden: Sequence[int] = (100,),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "tanh",
    ):
        super().__init__()
        if not 0 < slope < math.inf:
            raise OptionError(f"slope={slope}: nats that an error is worth, above 0")
        for name, value, known in (("distortion", distortion, Distortion), ("channel", channel, Channel)):
            if value not in get_args(known):
                raise OptionError(f"{name}={value!r}: choose one of {', '.join(get_args(known))}")
        if channel == "bits" and prior != "normal":
            raise OptionError(f"prior={prior!r}: a flow is of numbers; bits have a learned prior of their own")
        self.event_shape, self.slope, self.distortion, self.channel = tuple(event_shape), slope, distortion, channel
        self.values = (symbols or 2) if distortion == "hamming" else 1
        if distortion == "hamming" and self.values < 2:
            raise OptionError(f"symbols={symbols}: values of which one can be wrong are at least two")
        size = math.prod(self.event_shape) * (self.values if self.values > 2 else 1)
        self.head = PosteriorHead("diagonal", latent)
        self.prior_head = PriorHead(prior, latent) if channel == "normal" else None
        self.prior_logits = nn.Parameter(torch.zeros(latent)) if channel == "bits" else None
        self.encoder = MLP([size, *hidden, self.head.inputs if channel == "normal" else latent], activation)
        self.decoder = MLP([latent, *reversed(hidden), size], activation)

    def prior(self, frame: Frame) -> Distribution:
        if self.prior_logits is not None:
            return Bernoullis(self.prior_logits.expand(frame.size, -1))
        assert self.prior_head is not None  # of the normal channel
        return self.prior_head(frame.size, self.anchor)

    def posterior(self, batch: Batch) -> Distribution:
        features = self.encoder(self._inputs(batch))
        return Bernoullis(features) if self.channel == "bits" else self.head(features)

    def likelihood(self, z: Tensor, frame: Frame) -> Distribution:
        output = self.decoder(2 * z - 1 if self.channel == "bits" else z)
        if self.distortion == "squared":
            y = output.unflatten(-1, self.event_shape)
            return Normal(y, y.new_full((), (2 * self.slope) ** -0.5).expand(y.shape), validate_args=False)
        if self.values == 2:
            one = output.unflatten(-1, self.event_shape).sigmoid()
            return Erring(torch.stack([1 - one, one], -1), self.slope, len(self.event_shape))
        chances = output.unflatten(-1, (*self.event_shape, self.values)).softmax(-1)
        return Erring(chances, self.slope, len(self.event_shape))

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, a channel with the same noise for all x, and r(z) nearly normal, or even bits."""
        glorot(self.encoder, generator)
        glorot(self.decoder, generator)
        if self.channel == "normal":
            last: Any = self.encoder[-1]
            last.weight.data[len(last.weight) // 2 :] = 0.0
        if self.prior_head is not None:
            self.prior_head.start(generator)
        if self.prior_logits is not None:
            self.prior_logits.data.zero_()

    def check(self, batch: Batch) -> None:
        if tuple(batch.x.shape[1:]) != self.event_shape:
            raise DataError(f"the model takes x of shape {self.event_shape}, the data have {tuple(batch.x.shape[1:])}")
        x = batch.x[batch.observed]
        if self.distortion == "hamming" and not bool(((x >= 0) & (x < self.values) & (x == x.round())).all()):
            raise DataError(
                f"the hamming distortion counts wrong values of 0 to {self.values - 1}, and the data have others: give "
                "symbols=, or choose the squared distortion"
            )

    def _inputs(self, batch: Batch) -> Tensor:
        x = batch.x if batch.mask is None else torch.where(batch.mask, batch.x, 0)
        if self.values > 2:
            x = nn.functional.one_hot(x.long(), self.values)
            x = x if batch.mask is None else x * batch.mask.unsqueeze(-1)
        return x.flatten(1).to(self.anchor.dtype)


def _tiny(seed: int, **options) -> tuple[RateDistortion, Batch]:
    generator = torch.Generator().manual_seed(seed)
    model = RateDistortion((3,), slope=1.5, hidden=(4,), **options).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(model.values, (5, 3), generator=generator).double()
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64) if model.values == 1 else x
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)


def tiny(seed: int) -> tuple[RateDistortion, Batch]:
    """One latent dimension and squared errors of three numbers, of which one is missing once."""
    return _tiny(seed, latent=1)


def tiny_bits(seed: int) -> tuple[RateDistortion, Batch]:
    """Three bits and errors in three binary values."""
    return _tiny(seed, distortion="hamming", channel="bits", latent=3)


def tiny_values(seed: int) -> tuple[RateDistortion, Batch]:
    """Two bits and errors in values of three."""
    return _tiny(seed, symbols=3, distortion="hamming", channel="bits", latent=2)
