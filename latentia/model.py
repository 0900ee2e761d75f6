"""The contracts. A latent-variable model is a joint log p(x, z) together with a way to guess z.

Shapes and units are those of `latentia.batch`. Capabilities combine: a Gaussian mixture is both an `ExactModel` and a
`DirectedModel`.
"""

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.batch import Batch, Frame
from latentia.distributions import observed
from latentia.distributions.latents import Latents, each
from latentia.distributions.unnormalised import Unnormalised
from latentia.errors import CapabilityError, OptionError
from latentia.summary import Summary, summarise
from latentia.tensors import write_tensors

__all__ = [
    "Batch",
    "DirectedModel",
    "EMModel",
    "ExactModel",
    "Frame",
    "LatentVariableModel",
    "Latents",
    "Statistics",
    "TractableModel",
]

Statistics = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")
P = ParamSpec("P")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode (no dropout, batch normalisation as learned), and afterwards in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def in_evaluation(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """The function of a model, called with the model in evaluation mode."""

    @wraps(function)
    def run(model: M, *args: P.args, **options: P.kwargs) -> R:
        with evaluating(model):
            return function(model, *args, **options)

    return run


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """What is frozen (`requires_grad_(False)`) has the same values afterwards, whatever sets parameters inside."""
    frozen = [
        (parameter, parameter.detach().clone()) for parameter in model.parameters() if not parameter.requires_grad
    ]
    yield
    for parameter, value in frozen:
        parameter.data = value


def has_frozen(model: nn.Module) -> bool:
    """Whether any parameter is frozen. The order of clusters or states is then not free to choose either."""
    return not all(parameter.requires_grad for parameter in model.parameters())


def check_not_all_frozen(model: nn.Module) -> None:
    """Raise `OptionError` where every parameter is frozen."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptionError("every parameter is frozen (requires_grad=False): there is nothing to learn")


def minibatches(order: Tensor, size: int) -> list[Tensor]:
    """The rows of `order` (N,), `size` at a time. A last row alone joins those before it: the variance of one datum,
    which batch normalisation asks for, is none."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1 < size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def by_length(order: Tensor, lengths: Tensor, size: int, pool: int) -> list[Tensor]:
    """`minibatches` of data of like length, so that none is padded by much, in a random order: those of each `pool`
    minibatches of the order are sorted by length. What is random in it comes from torch's global generator."""
    pools = [part[lengths[part].argsort(stable=True)] for part in order.split(pool * size)]
    parts = minibatches(torch.cat(pools), size)
    # the last one may be smaller, and has its place as the others have
    return [parts[i] for i in torch.randperm(len(parts)).tolist()]


def ends(mask: Tensor) -> Tensor:
    """One past the last step of which anything is True, (B, T, *event) to (B,); 0 where there is none."""
    steps = mask.unsqueeze(-1).flatten(2)
    seen = steps[..., 0] if steps.shape[-1] == 1 else steps.any(-1)
    if not seen.numel():
        return torch.zeros(len(seen), dtype=torch.long, device=seen.device)
    # bytes, of which whole numbers would be eight times as many: most may be padding
    back = seen.flip(1).view(torch.uint8)
    first = back.argmax(1)
    return torch.where(back.gather(1, first.unsqueeze(1)).squeeze(1) > 0, seen.shape[1] - first, 0)


class LatentVariableModel(nn.Module, ABC):
    """log p(x, z), and a way to guess z: all that evaluation needs.

    Attributes:
        schema: what the data are that the model was fitted to, a `latentia.data.Schema`: scaling, columns, words.
            None before a fit.
    """

    schema: Any = None

    def __new__(cls, *args: Any, **options: Any) -> Self:
        model = super().__new__(cls)
        object.__setattr__(model, "_made_with", (args, options))  # what `save` says of how to make it again
        return model

    @abstractmethod
    def posterior(self, batch: Batch) -> Distribution:
        """q(z | x), batch shape (B,): exact, amortised or iterative."""

    @abstractmethod
    def log_joint(self, batch: Batch, z: Any) -> Tensor:
        """log p(x, z) in nats, (S, B), for z of shape (S, B, *latent)."""

    def generate(self, frame: Frame) -> tuple[Batch, Latents]:
        """Draws from p(x, z | context), one for each datum of the frame: x as a batch, and z (n, *latent)."""
        raise CapabilityError(f"{type(self).__name__} cannot generate: write {type(self).__name__}.generate(frame)")

    def summary(self) -> Summary:
        """What the fitted parameters say: clusters, states or topics, in the units of the data that `schema` tells of.
        A table in a terminal by `print`, and in a notebook."""
        return summarise(self)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def save(self, path: str | os.PathLike) -> None:
        """Write the model to one file, whole or not at all: its parameters, the options it was made with, and the
        schema of the data that it was fitted to. `latentia.load_model(path)` gives it back. It is a safetensors file
        with JSON in its header: nothing in it is code.

        Raises:
            OptionError: it was made with something that is no plain value, such as a network of your own.
            DataError: the file cannot be written.
        """
        schema = None if self.schema is None else self.schema.to_json()
        dtype = str(self.anchor.dtype).removeprefix("torch.")
        content = {"model": type(self).__name__, "options": made_with(self), "dtype": dtype, "schema": schema}
        write_tensors(path, self.state_dict(), content)

    def check(self, batch: Batch) -> None:
        """Raise `DataError` when x lies outside what the model can generate. Called once, before work starts."""

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Set the parameters to a random starting point, in view of the data. Learners call it once a fresh start."""

    def free_parameters(self) -> int:
        """How many numbers learning sets freely, for AIC and BIC: every trainable entry, unless the model knows better
        (probabilities that sum to one leave one of theirs no choice)."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def anchor(self) -> Tensor:
        """A parameter, to tell the model's dtype and device."""
        return _first_floating(self)  # type: ignore[return-value]


def made_with(model: LatentVariableModel) -> dict[str, Any]:
    """The options that a model was made with, by name, as plain values. Raises `OptionError` where one is none."""
    args, options = model.__dict__["_made_with"]
    given = inspect.signature(type(model)).bind(*args, **options).arguments
    return {name: _plain(value, f"{type(model).__name__}({name}=...)") for name, value in given.items()}


def _plain(value: Any, what: str) -> Any:
    value = value.item() if isinstance(value, Tensor) or hasattr(value, "dtype") else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one, what) for one in value]
    if isinstance(value, LatentVariableModel):  # one that is built upon another says how to make both
        return {"model": type(value).__name__, "options": made_with(value)}
    raise OptionError(
        f"the model cannot be saved: {what} is a {type(value).__name__}, no plain value; keep model.state_dict() by "
        "safetensors, and make the model anew in your own code"
    )


def _first_floating(module: nn.Module) -> nn.Parameter | None:
    """The first floating-point parameter. `Module.parameters` takes ten times as long, and every step asks for it."""
    own = (parameter for parameter in module._parameters.values() if parameter is not None)
    inside = (_first_floating(child) for child in module._modules.values() if child is not None)
    first = next((parameter for parameter in own if parameter.is_floating_point()), None)
    return first if first is not None else next((found for found in inside if found is not None), None)


class DirectedModel(LatentVariableModel):
    """p(x, z) = p(z) p(x | z): you write `prior`, `likelihood` and `posterior`; `log_joint` and `generate` follow."""

    @abstractmethod
    def prior(self, frame: Frame) -> Distribution:
        """p(z | context), batch shape (B,)."""

    @abstractmethod
    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        """p(x | z, context): batch shape (S, B, *event), one independent factor a coordinate of x; or batch shape
        (S, B) and the event in the event shape, where `distributions.observed` knows its marginals."""

    def log_likelihood(self, batch: Batch, z: Any) -> Tensor:
        """log p(x | z) of what is observed, (S, B)."""
        likelihood = observed.ending(self.likelihood(z, batch.frame), batch.lengths)
        return observed.log_prob(likelihood, batch.x, batch.seen)

    def log_likelihood_bound(self, batch: Batch, z: Any) -> Tensor:
        """The same, (S, B), or where the likelihood is `Bounded` an estimate of its bound: what an ELBO may be made of,
        and importance weights may not."""
        likelihood = observed.ending(self.likelihood(z, batch.frame), batch.lengths)
        return observed.log_prob_bound(likelihood, batch.x, batch.seen)

    def conditional(self, z: Any, batch: Batch) -> Distribution:
        """p(x | z, the observed part of x): the likelihood itself where coordinates are independent given z."""
        likelihood = observed.ending(self.likelihood(z, batch.frame), batch.lengths)
        return observed.given(likelihood, batch.x, batch.seen)

    def log_joint(self, batch: Batch, z: Any) -> Tensor:
        return self.prior(batch.frame).log_prob(z) + self.log_likelihood(batch, z)

    def generate(self, frame: Frame) -> tuple[Batch, Latents]:
        return self.generate_from(self.prior(frame), frame)

    def generate_from(self, prior: Distribution, frame: Frame) -> tuple[Batch, Latents]:
        """Draws with z from another distribution than the prior, such as the prior given a part of z."""
        z: Any = prior.sample((1,))  # type: ignore[arg-type]
        likelihood = self.likelihood(z, frame)
        x = likelihood.sample()
        ends = observed.ends(likelihood, x)
        lengths = frame.lengths if ends is None else ends[0]
        return Batch.of(x[0], lengths=lengths, context=frame.context), each(lambda part: part[0], z)


class EMModel(LatentVariableModel):
    """What EM learns: expected sufficient statistics, which are sums, and the M-step that they imply.

    A capability of its own: with an exact posterior EM climbs log p(x), with a variational one its bound.
    """

    @abstractmethod
    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        """The E-step: weighted statistics, sums that add across batches, streams and machines, and the weighted sum
        over the batch of log p(x) or its bound, in nats, a float64 scalar.

        Args:
            hard: each datum counts for its best z alone, and log p(x) is log p(x, best z).
        """

    @abstractmethod
    def update(self, total: Statistics) -> None:
        """The M-step: set the parameters to the maximiser of the expected log-joint given these sums."""

    def log_prior(self) -> Tensor:
        """Log-density of the parameters under their prior, up to a constant: a scalar that `update` counts too."""
        return self.anchor.new_zeros(())

    def concerns(self) -> list[str]:
        """What the fitted parameters give reason to doubt: a sentence each, with what to do. Learners warn of it."""
        return []

    def canonical(self) -> None:
        """Put what has no order of its own (clusters, states, topics) into one that the parameters alone decide."""


class TractableModel(LatentVariableModel):
    """The posterior carries the joint as unnormalised parts: its `log_partition` is log p(x)."""

    @abstractmethod
    def posterior(self, batch: Batch) -> Unnormalised:
        """p(z | x) with potentials such that score(z) = log p(x, z), hence log_partition = log p(x)."""

    def log_joint(self, batch: Batch, z: Any) -> Tensor:
        return self.posterior(batch).score(z)


class ExactModel(TractableModel, EMModel):
    """A tractable posterior and an M-step: EM climbs log p(x) itself."""

    @abstractmethod
    def statistics(self, batch: Batch, posterior: Any) -> Statistics:
        """Expected sufficient statistics under the posterior, weighted by the batch's weights."""

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        # the specification: a model may compute the same sums faster, and `testing` holds the two together
        posterior = self.posterior(batch)
        posterior = posterior.hard() if hard else posterior
        sums = self.statistics(batch, posterior)
        value = posterior.log_partition
        # an absent datum adds nothing, even when it is impossible
        return sums, torch.where(batch.weights > 0, batch.weights * value, 0.0).double().sum()
