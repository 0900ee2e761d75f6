"""Better posteriors for one datum: q(z | x) improved by gradient steps on its own parameters, the model held still.

An encoder answers for all data at once, and gives up some of the bound for it. `refine` takes that back datum by
datum, `refined` makes a model of it that every verb takes, and `semi_amortized` learns through the steps.

    lambda_0     = encoder(x)
    lambda_{k+1} = lambda_k + step along the gradient of ELBO(lambda_k)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, transform_to

from latentia.batch import Batch, Frame
from latentia.bound import Bound
from latentia.data import batch_for
from latentia.distributions import Joint
from latentia.distributions.flow import Flow
from latentia.distributions.latents import Latents
from latentia.errors import CapabilityError, OptionError
from latentia.inference.ascent import Adam, Point, ascend, clipped, freed, slopes_at
from latentia.model import DirectedModel, LatentVariableModel, TractableModel
from latentia.objectives.elbo import charged, expected_terms

Shift = Point
"""What is added to the unconstrained parameters of each part of q, by "part.parameter"."""


def refine(
    model: LatentVariableModel, data: Any, *, steps: int = 100, lr: float = 0.05, samples: int = 8
) -> Distribution:
    """argmax over q's own parameters of E_q[log p(x, z) - log q(z)], datum by datum, from where the encoder puts it.

    The parameters are unconstrained (a mean, a log standard deviation, a Cholesky factor with the logarithm of its
    diagonal, the features that steer a flow), and every datum has its own; where one latent of a `Joint` depends on
    those before it, a shift of each datum's own is added to the parameters that they give it. Adam, whose rate falls
    to 0 as a half cosine, on the sticking-the-landing gradient (Roeder, Wu and Duvenaud 2017), which has no noise left
    where q can be exact. Batch shape (B,), as `model.posterior`; an exact posterior is given back as it is.

    Args:
        data: anything that `as_dataset` takes.
        steps: of ascent; 0 gives the encoder's q.
        lr: the first steps' size in the unconstrained parameters; of D latents' Cholesky factor below its diagonal,
            2 / D of it.
        samples: draws of z a datum and step, from torch's global generator.

    Raises:
        CapabilityError: q cannot be reparameterised, or is of a family whose parameters are not known.
        OptionError: steps below 0, samples below 1 or lr not positive.
    """
    if steps < 0 or samples < 1 or not (lr > 0 and math.isfinite(lr)):
        raise OptionError(f"steps={steps}, samples={samples}, lr={lr}: at least 0, at least 1, and positive")
    batch = data if isinstance(data, Batch) else batch_for(model, data)
    with torch.no_grad():
        q = model.posterior(batch)
        if isinstance(model, TractableModel) or not steps:
            return q
        start = still(q)
        step = Adam(lr, steps, {name: _pace(name, part) for name, part in start.items()})
        return moved(q, ascend(start, lambda shift: _gradient(model, batch, q, shift, samples), step, steps))


def _pace(name: str, shift: Tensor) -> Tensor | float:
    """Adam moves all entries of a Cholesky factor alike, and z by a row of them at once: with many latents they have to
    be slow, or a good q is lost before its noise has fallen."""
    if not name.endswith("scale_tril"):
        return 1.0
    latents = shift.shape[-1]
    slow = min(1.0, 2 / latents)
    return slow + (1 - slow) * torch.eye(latents).to(shift)


def semi_amortized(
    model: LatentVariableModel,
    batch: Batch,
    *,
    samples: int = 1,
    steps: int = 10,
    lr: float = 0.03,
    clip: float = 5.0,
) -> Bound:
    """The ELBO at q refined by `steps` gradient steps from the encoder's: Kim, Wiseman, Miller, Sontag and Rush (2018).

        lambda_{k+1} = lambda_k + lr * g_k * min(1, clip / |g_k|),    g_k = d ELBO(lambda_k) / d lambda_k

    Plain gradient ascent, as in the paper. The bound is differentiated through the steps, exactly and for encoder and
    decoder alike (second derivatives by automatic differentiation, where the paper's own code has finite differences).
    It is the bound of a slower posterior: measure what was learned with `refined(model)`, or the encoder's q gives
    away what the steps were to find. Parts as in `elbo`.

    Args:
        samples: draws of z a datum, at each step and for the bound.
        steps: K, ascents from the encoder's output; each costs about two of a plain ELBO.
        lr: of those ascents.
        clip: largest norm of one datum's gradient.
    """
    # compiled graphs have no second derivative
    climb: Any = torch.compiler.disable(_climb)
    q = climb(model, batch, samples, steps, lr, clip)
    return charged(*expected_terms(model, batch, q, samples))


def _climb(model: LatentVariableModel, batch: Batch, samples: int, steps: int, lr: float, clip: float) -> Distribution:
    learning = torch.is_grad_enabled()

    def slopes(shift: Shift) -> Shift:
        free = shift if learning else freed(shift)
        value = charged(*expected_terms(model, batch, moved(q, free), samples)).value.sum()
        return slopes_at(free, value, create_graph=learning)

    with torch.enable_grad():
        q = model.posterior(batch)
        return moved(q, ascend(freed(still(q)), slopes, clipped(lr, clip), steps))


def _gradient(model: LatentVariableModel, batch: Batch, q: Distribution, shift: Shift, samples: int) -> Shift:
    """Of E_q[log p(x, z) - log q(z)] with respect to the shift: by way of z alone, but for a flow."""
    with torch.enable_grad():
        free = freed(shift)
        here = moved(q, free)
        # a flow knows the density of its own draw; any other flow, however alike, would have to be inverted for it
        log_q: Any = (here if isinstance(q, Flow) else moved(q, shift)).log_prob
        value = charged(*expected_terms(model, batch, here, samples, log_q=log_q)).value.sum()
        return slopes_at(free, value)


# ----------------------------------------------------------------------------------------- the parameters of q, freed


def still(q: Distribution) -> Shift:
    """The shift that moves nothing: zeros for each parameter of each part of q, (B, ...).

    Raises:
        CapabilityError: see `refine`.
    """
    if not q.has_rsample:
        raise CapabilityError(f"{type(q).__name__} cannot be reparameterised, so there is no gradient to refine it by")
    shift: Shift = {}

    def note(name: str, value: Tensor, drawn: bool) -> Tensor:
        # a part that depends on others has (S, B, ...), and its shift is the datum's own
        shift[name] = torch.zeros_like(value[0] if drawn else value)
        return value

    noted = _rebuilt(q, note, "", False)
    if isinstance(noted, Joint):
        noted.sample((1,))  # what depends on other latents is made only then
    return shift


def moved(q: Distribution, shift: Shift) -> Distribution:
    """q with `shift` added to its unconstrained parameters."""
    return _rebuilt(q, lambda name, value, drawn: value + shift[name], "", False)


Change = Callable[[str, Tensor, bool], Tensor]


def _rebuilt(q: Distribution, change: Change, path: str, drawn: bool) -> Distribution:
    """q of unconstrained parameters that went through `change`, which hears whether samples lead them: (S, B, ...)."""
    if isinstance(q, Joint):
        return Joint({name: _part(part, change, f"{path}{name}.") for name, part in q.parts.items()}, q.summed)
    if isinstance(q, Independent):
        inner = _rebuilt(q.base_dist, change, path, drawn)
        return Independent(inner, q.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(q, Flow):
        return Flow(q.bend, change(f"{path}features", q.features, drawn), *q.event_shape)
    parameters = {}
    for name, free in _transforms(q).items():
        parameters[name] = free(change(path + name, free.inv(getattr(q, name)), drawn))
    return type(q)(**parameters, validate_args=False)


def _part(part: Any, change: Change, path: str) -> Any:
    if isinstance(part, Distribution):
        return _rebuilt(part, change, path, False)
    return lambda before: _rebuilt(part(before), change, path, True)


def _transforms(q: Distribution) -> dict[str, Any]:
    """From the real line to each parameter of q, of those from which q can be built again."""
    constraints: dict[str, Any] = dict(q.arg_constraints)
    if isinstance(q, MultivariateNormal):  # three names for one covariance
        constraints = {name: constraints[name] for name in ("loc", "scale_tril")}
    try:
        if constraints and all(isinstance(getattr(q, name, None), Tensor) for name in constraints):
            return {name: transform_to(constraint) for name, constraint in constraints.items()}
    except NotImplementedError:  # such as a bound that is another parameter
        pass
    raise CapabilityError(
        f"{type(q).__name__} cannot be refined: its arg_constraints do not name tensors that could move freely"
    )


# ------------------------------------------------------------------------------------------- a model that refines


class Refined(LatentVariableModel):
    """A model whose posterior is `refine(model, batch, ...)`: made by `refined`."""

    def __init__(self, model: LatentVariableModel, options: dict[str, Any]):
        super().__init__()
        self.model, self.options = model, options

    def posterior(self, batch: Batch) -> Distribution:
        return refine(self.model, batch, **self.options)

    def log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        return self.model.log_joint(batch, z)

    def generate(self, frame: Frame) -> tuple[Batch, Latents]:
        return self.model.generate(frame)

    def check(self, batch: Batch) -> None:
        self.model.check(batch)


class RefinedDirected(Refined, DirectedModel):
    """The same, of a model with a prior and a likelihood."""

    model: DirectedModel

    def prior(self, frame: Frame) -> Distribution:
        return self.model.prior(frame)

    def likelihood(self, z: Any, frame: Frame) -> Distribution:
        return self.model.likelihood(z, frame)

    def log_likelihood(self, batch: Batch, z: Any) -> Tensor:
        return self.model.log_likelihood(batch, z)

    def log_likelihood_bound(self, batch: Batch, z: Any) -> Tensor:
        return self.model.log_likelihood_bound(batch, z)


def refined(model: LatentVariableModel, *, steps: int = 100, lr: float = 0.05, samples: int = 8) -> LatentVariableModel:
    """The same model with per-datum inference in the place of its encoder: every verb takes it.

        evaluate(refined(model, steps=50), data)      # the refined bound; the model's log p(x) by a better proposal

    Options are those of `refine`; an exact model is given back as it is.
    """
    if isinstance(model, TractableModel):
        return model
    options = {"steps": steps, "lr": lr, "samples": samples}
    return RefinedDirected(model, options) if isinstance(model, DirectedModel) else Refined(model, options)


def refinable(model: LatentVariableModel, batch: Batch) -> bool:
    """Whether `refine` knows how to move the model's posterior."""
    try:
        with torch.no_grad():
            still(model.posterior(batch))
    except CapabilityError:
        return False
    return True
