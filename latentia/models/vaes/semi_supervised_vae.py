"""Semi-supervised VAE: a class that is known for some data, and a code for all else (M2).

    y     ~ Categorical(1/K, ..., 1/K)
    z     ~ Normal(0, I)
    x | y, z ~ Bernoulli(decoder(y, z)), or another likelihood of the `VAE`

    q(y | x) = Categorical(classifier(x)),    q(z | x, y) = Normal(mean(x, y), diag(variance(x, y)))

    where y is known:  log p(x, y) >= L(x, y) = E_q(z|x,y) [log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y)]
    where it is not:   log p(x) >= sum_y q(y | x) [L(x, y) - log q(y | x)]: the class is summed out exactly

Kingma, Rezende, Mohamed and Welling (2014), "Semi-supervised learning with deep generative models", section 3. Where y
is known its classifier learns nothing from L(x, y): the objective `supervised` adds alpha log q(y | x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical

from latentia.distributions import Joint
from latentia.distributions.latents import named
from latentia.distributions.onehot import restricted
from latentia.errors import DataError, OptionError
from latentia.model import Batch, DirectedModel, Frame
from latentia.models.vaes.vae import VAE
from latentia.networks.mlp import ACTIVATIONS, MLP, glorot


class SemiSupervisedVAE(VAE):
    """p(x, y, z) = (1/K) Normal(z; 0, I) p(x | decoder(y, z)), with latents {"y": one-hot (K,), "z": (latent,)}.

    Labels are `Batch.known["y"]`, (B, K): a row marks with 1 the classes that a datum may have. One 1 is a label,
    several are a choice that is left open, and zeros say nothing, as do ones throughout. The posterior is given what
    is known, so a bound of such a datum bounds log p(x, y among those marked).

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        classes: K, the number of classes.
        latent: dimensions of z.
        hidden: widths of the hidden layers of encoder and classifier; the decoder has them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli, categorical or gaussian, as for the VAE.
        classifier: your own module, (B, inputs) to (B, K) logits.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        classes: int = 10,
        latent: int = 50,
        hidden: Sequence[int] = (500,),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "softplus",
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
        classifier: nn.Module | None = None,
    ):
        if classes < 1:
            raise OptionError(f"classes={classes}: at least 1 class is needed")
        if not hidden:
            raise OptionError("hidden=(): the class enters at the first hidden layer, so at least one is needed")
        super().__init__(event_shape, symbols, latent, hidden, activation, likelihood)
        self.classes = classes
        inputs, size = math.prod(self.event_shape) * (self.symbols or 1), hidden[0]
        outputs = self.decoder.output_bias.numel()  # type: ignore[union-attr, operator]
        # x goes through its widest layer once, however many classes are summed over
        self.trunk, self.label = nn.Linear(inputs, size), nn.Linear(classes, size, bias=False)
        self.encoder = nn.Sequential(ACTIVATIONS[activation](), MLP([*hidden, 2 * latent], activation))
        self.decoder = MLP([latent + classes, *reversed(hidden), outputs], activation)
        self.classifier = classifier or MLP([inputs, *hidden, classes], activation)

    def prior(self, frame: Frame) -> Joint:
        return class_beside(self.anchor.new_zeros(self.classes), super().prior(frame))

    def posterior(self, batch: Batch) -> Joint:  # type: ignore[override]
        inputs = self._inputs(batch)
        features = self.trunk(inputs)

        def code(y: Tensor) -> Independent:
            mean, log_scale = self.encoder(features + self.label(y)).chunk(2, -1)
            return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)

        return class_and_code(self.classifier(inputs), code, batch)

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        return super().likelihood(torch.cat([z["z"], z["y"]], -1), frame)

    def clusters(self, batch: Batch) -> Tensor:
        """q(y | x) of the classifier, given what is known of y, (B, K)."""
        return self.posterior(batch).first.mean

    def class_probabilities(self, batch: Batch, samples: int = 100) -> Tensor:
        """p(y | x), given what is known of y, (B, K): of p(x, y), estimated by so many importance samples of each
        q(z | x, y). It asks the decoder, where `clusters` asks the classifier."""
        return class_probabilities(self, batch, samples)

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        super().start(batch, generator)
        for network in (self.trunk, self.label, self.encoder):
            glorot(network, generator)
        if isinstance(self.classifier, MLP):
            glorot(self.classifier, generator)

    def check(self, batch: Batch) -> None:
        super().check(batch)
        check_labels(batch, self.classes)


def class_beside(logits: Tensor, code: Distribution) -> Joint:
    """p(y, z): one of K classes by their logits (K,), and z of `code`, whatever the class."""
    logits = logits.expand(*code.batch_shape, -1)
    return Joint({"y": OneHotCategorical(logits=logits, validate_args=False), "z": code}, ["y"])


def class_and_code(logits: Tensor, code: Callable[[Tensor], Distribution], batch: Batch) -> Joint:
    """q(y, z | x, what is known of y), with y to be summed out.

    Args:
        logits: of q(y | x), (B, K).
        code: q(z | x, y) from y, (S, B, K).
    """
    classifier = OneHotCategorical(logits=logits, validate_args=False)
    if batch.known is not None:
        classifier = restricted(classifier, named(batch.known, "y")["y"])
    return Joint({"y": classifier, "z": lambda drawn: code(drawn["y"])}, ["y"])


def class_probabilities(model: DirectedModel, batch: Batch, samples: int = 100) -> Tensor:
    """p(y | x), given what is known of y, (B, K), of a model whose latents are y and z: see
    `SemiSupervisedVAE.class_probabilities`."""
    q: Any = model.posterior(batch)
    drawn = q.branches(samples)
    weight = model.log_joint(batch, drawn.z) - drawn.parts["z"].log_prob(drawn.z["z"])
    # a class that is ruled out has a code, but no probability
    weight = weight.where(drawn.log_weight.exp() > 0, -torch.inf)
    return weight.unflatten(0, (-1, samples)).logsumexp(1).softmax(0).T


def check_labels(batch: Batch, classes: int) -> None:
    """Raise `DataError` where what is known of y is no (B, K)."""
    if batch.known is None:
        return
    known = named(batch.known, "y")["y"]
    if tuple(known.shape) != (batch.size, classes):
        raise DataError(
            f"labels are one-hot rows, known of shape ({batch.size}, {classes}), with zeros for an unknown "
            f"class; here known has shape {tuple(known.shape)}"
        )


def tiny(seed: int) -> tuple[SemiSupervisedVAE, Batch]:
    """Two classes and a code on a line; of five data one has its class known, another has a choice of both."""
    generator = torch.Generator().manual_seed(seed)
    model = SemiSupervisedVAE((3,), classes=2, latent=1, hidden=(4,), activation="tanh").double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    labels = torch.zeros(5, 2, dtype=torch.float64)
    labels[0, 1], labels[1] = 1, 1
    return model, Batch.of(x, mask, known={"y": labels})
