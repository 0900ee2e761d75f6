"""Variational autoencoder: the deep latent Gaussian model with an amortised posterior.

    z     ~ Normal(0, I), or a normalising flow of one
    x | z ~ Bernoulli(decoder(z)), Categorical(decoder(z)) coordinate by coordinate,
            or Normal(mean(z), diag(variance(z)))

    q(z | x) = Normal(mean(x), diag(variance(x))), a full covariance, or a normalising flow of one
    log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z))

The encoder is learned together with the decoder by the reparameterised gradient of the bound (Kingma and Welling
2014, sections 2 and 3; Rezende, Mohamed and Wierstra 2014, sections 2 to 4). Missing coordinates are left out of
the likelihood and enter the encoder as zero. Flows: Rezende and Mohamed (2015); where one is in the posterior or the
prior their KL has no closed form and is sampled.

Given a context c, as an image's class or some columns of a table, encoder and decoder see it beside x and z, and all of
this is p(x | c) = E_p(z) p(x | z, c): the conditional VAE of Sohn, Lee and Yan (2015), with p(z) left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from latentia.distributions.columns import Column, Encoder, Head, check_columns
from latentia.distributions.heads import PosteriorHead, PriorHead
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame, has_frozen
from latentia.networks.columns import Columns
from latentia.networks.conv import BLOCKS, ConvDecoder, ConvEncoder
from latentia.networks.mlp import ACTIVATIONS, MLP, glorot

LEAST_SCALE = 1e-3
LARGE = 10.0
"""A coordinate whose mean or standard deviation is beyond it is standardised inside a Gaussian model."""


class VAE(DirectedModel):
    """p(x, z) = p(z) p(x | decoder(z)), p(z) = Normal(0, I) or a learned flow.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        latent: dimensions of z.
        hidden: widths of the hidden layers, from x to z; the decoder has them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli (x in {0, 1}), categorical (x in 0..symbols-1), gaussian with learned mean and diagonal
            variance, or columns, each of its own kind, which is what `columns` asks for.
        encoder: your own module, (B, inputs) to (B, 2 * latent): means, then log standard deviations. For a posterior
            other than the diagonal one it gives more numbers: `model.posterior_head.inputs` (see `PosteriorHead`).
        decoder: your own module, (..., latent) to (..., outputs): a coordinate's logit, `symbols` logits, or
            means and then unconstrained scales.
        posterior: diagonal or full covariance, or a flow: planar, iaf, maf or spline (see `PosteriorHead`).
        prior: normal, the standard one, or a flow that is learned: maf or spline (see `PriorHead`).
        transforms: maps in each flow.
        flow_hidden: widths of the hidden layers of the network in each map of a flow.
        network: mlp, or for images convolutions in blocks that are residual or gated (see `ConvEncoder`).
        channels: of the convolutions at a half, a quarter, ... of the image's height and width.
        context: for p(x | context), of each column of the context its number of categories, 0 for numbers (comes from
            the data). Encoder and decoder then take `Columns(context).outputs` numbers more.
        columns: for rows whose columns are each of their own kind, "real", "binary", "count", or the number of its
            categories (comes from the data). The encoder takes what `Encoder(columns)` makes of a row, the decoder
            gives what a `Head(columns)` asks for, both of `latentia.distributions.columns`.

    Buffers of a Gaussian likelihood and of columns: shift and unit, one a coordinate. The networks see
    (x - shift) / unit, and the likelihood is of x itself; `start` sets them to the mean and standard deviation of a
    coordinate far from unit scale, and leaves 0 and 1 elsewhere and where networks are your own or frozen: those are
    given, and have to give, x as it is.

    Raises:
        OptionError: an option that is none of these.
    """

    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        latent: int = 20,
        hidden: Sequence[int] = (200, 200),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "tanh",
        likelihood: Literal["bernoulli", "categorical", "gaussian", "columns"] = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        posterior: Literal["diagonal", "full", "planar", "iaf", "maf", "spline"] = "diagonal",
        prior: Literal["normal", "maf", "spline"] = "normal",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64,),
        network: Literal["mlp", "residual", "gated"] = "mlp",
        channels: Sequence[int] = (32, 64),
        context: Sequence[int] = (),
        columns: Sequence[Column] = (),
    ):
        super().__init__()
        likelihood = _by_column(likelihood, columns)
        _choose("activation", activation, ACTIVATIONS)
        _choose("likelihood", likelihood, (*_LIKELIHOODS, "columns"))
        _choose("network", network, ("mlp", *BLOCKS))
        if likelihood == "categorical" and not symbols:
            raise OptionError("likelihood='categorical' needs symbols=, the number of levels of each coordinate")
        self.event_shape, self.latent, self.family = tuple(event_shape), latent, likelihood
        self.symbols = symbols if likelihood == "categorical" else None
        self.posterior_head = PosteriorHead(posterior, latent, transforms, flow_hidden)
        self.prior_head = PriorHead(prior, latent, transforms, flow_hidden)
        self.own = encoder is None and decoder is None
        self.columns = tuple(columns)
        self.encode_columns = Encoder(columns) if columns else None
        self.head = Head(columns, LEAST_SCALE) if columns else None
        if likelihood in ("gaussian", "columns"):
            size = math.prod(self.event_shape)
            self.register_buffer("shift", torch.zeros(size))
            self.register_buffer("unit", torch.ones(size))
            self.register_load_state_dict_pre_hook(_unscaled)
        levels, numbers = self.symbols or 1, 2 if likelihood == "gaussian" else 1
        features, inputs = self.posterior_head.inputs, math.prod(self.event_shape) * levels
        outputs = numbers * inputs
        if self.encode_columns is not None and self.head is not None:
            inputs, outputs = self.encode_columns.outputs, self.head.outputs
        self.inputs = inputs
        self.given = Columns(context) if context else None
        beside = self.given.outputs if self.given else 0
        self.steer: nn.Linear | None = None
        if network == "mlp":
            self.encoder = encoder or MLP([inputs + beside, *hidden, features], activation)
            self.decoder = decoder or MLP([latent + beside, *reversed(hidden), outputs], activation)
        else:
            image = {"channels": channels, "block": network, "activation": activation, "levels": levels}
            self.encoder = encoder or ConvEncoder(self.event_shape, features, **image)
            self.decoder = decoder or ConvDecoder(latent + beside, self.event_shape, numbers=numbers, **image)
            # an image's convolutions have no place for a context: it moves what they find
            self.steer = nn.Linear(beside, features, bias=False) if beside else None

    def prior(self, frame: Frame) -> Distribution:
        return self.prior_head(frame.size, self.anchor)

    def posterior(self, batch: Batch) -> Distribution:
        inputs = self._inputs(batch)
        if self.given is None:
            return self.posterior_head(self.encoder(inputs))
        beside = self._beside(batch.frame)
        if self.steer is None:
            return self.posterior_head(self.encoder(torch.cat([inputs, beside], -1)))
        return self.posterior_head(self.encoder(inputs) + self.steer(beside))

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        if self.given is not None:
            beside = self._beside(frame)
            z = torch.cat([z, beside.expand(len(z), *beside.shape)], -1)
        if self.head is not None:
            return self.head(self.decoder(z), self.shift, self.unit)
        p: Any = _LIKELIHOODS[self.family](self.decoder(z), self.event_shape)
        if self.family != "gaussian":
            return p
        shift, unit = self.shift.view(self.event_shape), self.unit.view(self.event_shape)
        return Normal(shift + unit * p.loc, unit * p.scale, validate_args=False)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Glorot weights, an output bias at which the decoder begins with the data's own frequencies, and flows that
        begin near the identity."""
        self._standardise(batch)
        for network in (self.encoder, self.decoder):
            if isinstance(network, MLP | ConvEncoder | ConvDecoder):
                glorot(network, generator)
        if isinstance(self.decoder, MLP | ConvDecoder):
            self.decoder.output_bias.data.copy_(self._average(batch))
        if self.steer is not None:
            glorot(self.steer, generator)
        self.posterior_head.start(generator)
        self.prior_head.start(generator)

    def check(self, batch: Batch) -> None:
        if tuple(batch.x.shape[1:]) != self.event_shape:
            raise DataError(f"the model takes x of shape {self.event_shape}, the data have {tuple(batch.x.shape[1:])}")
        self._check_context(batch)
        if self.columns:
            check_columns(self.columns, batch.x, batch.mask)
            return
        x = batch.x if batch.seen is None else batch.x[batch.seen]
        if self.family == "bernoulli" and not bool((x * x == x).all()):
            raise DataError(
                "a Bernoulli likelihood needs values 0 or 1: binarize grey images (--binarize dynamic), "
                "or choose --model.likelihood gaussian (real values) or categorical (levels)"
            )
        if self.family == "categorical" and not bool(((x >= 0) & (x < (self.symbols or 0)) & (x == x.round())).all()):
            raise DataError(f"a categorical likelihood needs whole numbers 0..{(self.symbols or 0) - 1}")

    def _check_context(self, batch: Batch) -> None:
        columns = len(self.given.levels) if self.given else 0
        found = 0 if batch.context is None else batch.context.x.flatten(1).shape[1]
        if columns and not found:
            raise DataError(f"this model is given a context of {columns} columns, and the data have none")
        if columns and columns != found:
            raise DataError(f"this model is given a context of {columns} columns, and that of the data has {found}")

    def _beside(self, frame: Frame) -> Tensor:
        """What the networks see of the context, (B, outputs)."""
        assert self.given is not None  # who asks has a context
        given = frame.given()
        return self.given(given.x.flatten(1), None if given.seen is None else given.seen.flatten(1), self.anchor)

    def _inputs(self, batch: Batch) -> Tensor:
        x = batch.x
        if self.symbols:
            x = nn.functional.one_hot(x.long(), self.symbols)
            if batch.mask is not None:
                x = x * batch.mask.unsqueeze(-1)
            return x.flatten(1).to(self.anchor.dtype)
        x = x.flatten(1).to(self.anchor.dtype)
        if self.family in ("gaussian", "columns"):
            x = (x - self.shift) / self.unit
        if self.encode_columns is not None:
            return self.encode_columns(x, batch.mask)
        return x if batch.mask is None else torch.where(batch.mask.flatten(1), x, 0.0)

    def _standardise(self, batch: Batch) -> None:
        """Set `shift` and `unit` in view of the data."""
        if self.family not in ("gaussian", "columns") or has_frozen(self):
            return
        mean, deviation = _moments(batch)
        far = (torch.maximum(mean.abs(), deviation) > LARGE) & self.own
        if self.columns:
            far = far & torch.tensor([column == "real" for column in self.columns], device=far.device)
        self.shift.copy_(torch.where(far, mean, 0.0))
        self.unit.copy_(torch.where(far, deviation.clamp(min=1.0), 1.0))

    def _average(self, batch: Batch) -> Tensor:
        """The decoder's output bias for a likelihood that is the data's own marginal, coordinate by coordinate."""
        seen = batch.observed.flatten(1) * batch.weights.unsqueeze(-1)
        count = seen.sum(0).clamp(min=1e-12)
        if self.head is not None:
            return self.head.average((batch.x.to(self.shift) - self.shift) / self.unit, seen.to(self.shift))
        if self.symbols:
            frequency = (self._inputs(batch).unflatten(1, (-1, self.symbols)) * seen.unsqueeze(-1)).sum(0)
            return (frequency / count.unsqueeze(-1)).clamp(min=1e-3).log().flatten()
        if self.family == "bernoulli":
            return ((batch.x.flatten(1) * seen).sum(0) / count).clamp(1e-3, 1 - 1e-3).logit()
        mean, deviation = _moments(batch)
        deviation = (deviation / self.unit).clamp(min=0.1)
        # the inverse of softplus, which no deviation overflows
        return torch.cat([(mean - self.shift) / self.unit, deviation + (-torch.expm1(-deviation)).log()])


def _moments(batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is observed of each coordinate, (inputs,) float64."""
    seen = (batch.observed.flatten(1) * batch.weights.unsqueeze(-1)).double()
    x, count = batch.x.flatten(1).double(), seen.sum(0).clamp(min=1e-12)
    x = torch.where(seen > 0, x, 0.0)
    mean = (x * seen).sum(0) / count
    return mean, (((x - mean) ** 2 * seen).sum(0) / count).sqrt()


def _unscaled(module: VAE, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A state saved before there were `shift` and `unit` is of a model that does without."""
    state.setdefault(f"{prefix}shift", torch.zeros_like(module.shift))
    state.setdefault(f"{prefix}unit", torch.ones_like(module.unit))


def _by_column(likelihood: Any, columns: Sequence[Column]) -> Any:
    """The likelihood, "columns" where there are some. Raises `OptionError` for another one than theirs."""
    if columns and likelihood not in ("bernoulli", "columns"):
        raise OptionError(f"likelihood={likelihood!r}: columns of their own kind have likelihood='columns'")
    if likelihood == "columns" and not columns:
        raise OptionError("likelihood='columns' needs columns=, what each column holds")
    return "columns" if columns else likelihood


def _choose(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise OptionError(f"{option}={value!r}: choose one of {', '.join(known)}")


def _bernoulli(output: Tensor, shape: tuple[int, ...]) -> Distribution:
    return Bernoulli(logits=output.unflatten(-1, shape), validate_args=False)


def _categorical(output: Tensor, shape: tuple[int, ...]) -> Distribution:
    return Categorical(logits=output.unflatten(-1, (*shape, -1)), validate_args=False)


def _gaussian(output: Tensor, shape: tuple[int, ...]) -> Distribution:
    mean, scale = output.chunk(2, -1)
    scale = nn.functional.softplus(scale) + LEAST_SCALE
    return Normal(mean.unflatten(-1, shape), scale.unflatten(-1, shape), validate_args=False)


_LIKELIHOODS: dict[str, Callable[[Tensor, tuple[int, ...]], Distribution]] = {
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "gaussian": _gaussian,
}


def tiny(seed: int) -> tuple[VAE, Batch]:
    """One latent dimension, three binary pixels of which one is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = VAE(event_shape=(3,), latent=1, hidden=(4,)).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)


def tiny_columns(seed: int) -> tuple[VAE, Batch]:
    """Rows of a number, one of three categories, and yes or no, of which each is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = VAE(event_shape=(3,), latent=1, hidden=(4,), columns=("real", 3, "binary")).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    number = torch.randn(5, 1, generator=generator)
    parts = [torch.randint(levels, (5, 1), generator=generator) for levels in (3, 2)]
    x = torch.cat([number, *parts], 1).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = mask[3, 2] = False
    return model, Batch.of(x, mask)


def tiny_conditional(seed: int) -> tuple[VAE, Batch]:
    """The same given a context of a class of three and a number, which are each hidden once."""
    generator = torch.Generator().manual_seed(seed)
    model = VAE(event_shape=(3,), latent=1, hidden=(4,), context=(3, 0)).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask, shown = torch.ones_like(x, dtype=torch.bool), torch.ones(5, 2, dtype=torch.bool)
    mask[1, 2] = shown[2, 0] = shown[3, 1] = False
    classes, number = torch.randint(3, (5, 1), generator=generator), torch.randn(5, 1, generator=generator)
    return model, Batch.of(x, mask, context=Batch.of(torch.cat([classes, number], 1).double(), shown))
