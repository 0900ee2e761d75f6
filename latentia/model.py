"""The contracts. A latent-variable model is a joint log p(x, z) together with a way to guess z.

Shapes and units, everywhere in the library:

- x is (B, *event); z is (S, B, *latent), samples first;
- log-probabilities are (S, B) or (B,), in nats per datum, larger is better;
- discrete latents are one-hot, so that a sample, its relaxation and its marginals share one shape.

Capabilities combine: a Gaussian mixture is both an `ExactModel` and a `DirectedModel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.coordinates import log_prob_of_observed
from latentia.distributions.unnormalised import Unnormalised
from latentia.errors import CapabilityError, OptionError

Statistics = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")
P = ParamSpec("P")


class Batch(NamedTuple):
    """Data as every model sees them.

    Attributes:
        x: (B, *event), or (B, T, *event) for sequences. What lies under `mask == False` is never read.
        mask: the shape of x, True = observed. Padding and missing values are one thing.
        context: what p(x, z | context) conditions on, (B, ...).
        z: latents that happen to be known, (B, *latent).
        weight: (B,), 0 = absent, 2 = seen twice.
    """

    x: Tensor
    mask: Tensor | None = None
    context: Tensor | None = None
    z: Tensor | None = None
    weight: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None, **others: Tensor | None) -> Batch:
        """A batch from raw values: NaN at the door becomes mask, and x is 0 wherever it is not observed."""
        if x.is_floating_point() and x.isnan().any():
            mask = ~x.isnan() if mask is None else mask & ~x.isnan()
        return cls(x if mask is None else torch.where(mask, x, torch.zeros_like(x)), mask, **others)

    @property
    def size(self) -> int:
        """B, the number of data."""
        return self.x.shape[0]

    @property
    def observed(self) -> Tensor:
        """The mask, (B, *event), all True where there is none."""
        return torch.ones_like(self.x, dtype=torch.bool) if self.mask is None else self.mask

    @property
    def lengths(self) -> Tensor:
        """One past the last step of which anything is observed, (B,), for sequences (B, T, *event)."""
        if self.mask is None:
            return torch.full((self.size,), self.x.shape[1], device=self.x.device)
        return ends(self.mask)

    @property
    def weights(self) -> Tensor:
        """The weight of each datum, (B,), ones where none is given, in x's dtype or torch's default."""
        dtype = self.x.dtype if self.x.is_floating_point() else torch.get_default_dtype()
        return torch.ones(self.size, dtype=dtype, device=self.x.device) if self.weight is None else self.weight

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function` to every tensor that is there."""
        others = (None if field is None else function(field) for field in self[1:])
        return Batch(function(self.x), *others)

    def select(self, index: Tensor | slice) -> Batch:
        """The data at `index`."""
        return self.map(lambda field: field[index])

    def to(self, like: Tensor) -> Batch:
        """Move to the device of `like`, and floating-point parts to its dtype."""
        return self.map(lambda field: field.to(like.device, like.dtype if field.is_floating_point() else field.dtype))


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
    """log p(x, z), and a way to guess z: all that evaluation needs."""

    @abstractmethod
    def posterior(self, batch: Batch) -> Distribution:
        """q(z | x), batch shape (B,): exact, amortised or iterative."""

    @abstractmethod
    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x, z) in nats, (S, B), for z of shape (S, B, *latent)."""

    def generate(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Any]:
        """n draws from p(x, z | context): x (n, *event) and z (n, *latent)."""
        raise CapabilityError(
            f"{type(self).__name__} cannot generate: write {type(self).__name__}.generate(n, context)"
        )

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


def _first_floating(module: nn.Module) -> nn.Parameter | None:
    """The first floating-point parameter. `Module.parameters` takes ten times as long, and every step asks for it."""
    own = (parameter for parameter in module._parameters.values() if parameter is not None)
    inside = (_first_floating(child) for child in module._modules.values() if child is not None)
    first = next((parameter for parameter in own if parameter.is_floating_point()), None)
    return first if first is not None else next((found for found in inside if found is not None), None)


class DirectedModel(LatentVariableModel):
    """p(x, z) = p(z) p(x | z): you write `prior` and `likelihood`; `log_joint` and `generate` follow."""

    @abstractmethod
    def prior(self, batch: Batch) -> Distribution:
        """p(z | context), batch shape (B,). Reads of the batch only its size, its lengths and its context."""

    @abstractmethod
    def likelihood(self, z: Tensor, batch: Batch) -> Distribution:
        """p(x | z), batch shape (S, B, *event): one independent factor a coordinate of x.

        A model whose x is not independent given z (a full covariance) returns a distribution with an
        event shape, and writes `log_likelihood` and `conditional` itself.
        """

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x | z) of what is observed, (S, B)."""
        likelihood = self.likelihood(z, batch)
        if likelihood.event_shape:
            raise CapabilityError(
                f"{type(self).__name__}.likelihood does not factorise: write log_likelihood(batch, z)"
            )
        return log_prob_of_observed(likelihood, batch.x, batch.mask)

    def conditional(self, z: Tensor, batch: Batch) -> Distribution:
        """p(x | z, the observed part of x): the likelihood itself where coordinates are independent given z."""
        return self.likelihood(z, batch)

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        return self.prior(batch).log_prob(z) + self.log_likelihood(batch, z)

    def generate(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Any]:
        batch = Batch(self.anchor.new_empty(n, 0), context=context)
        z: Any = self.prior(batch).sample((1,))  # type: ignore[arg-type]
        x = self.likelihood(z, batch).sample().squeeze(0)
        return x, {name: part[0] for name, part in z.items()} if isinstance(z, dict) else z[0]


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

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
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
