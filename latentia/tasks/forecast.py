"""What comes next in a sequence: filtering as it arrives, and forecasts of its next steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical

from latentia.batch import Batch, Frame
from latentia.data import batch_for
from latentia.distributions import Chain
from latentia.distributions.chain import shared_steps
from latentia.distributions.observed import plain
from latentia.errors import CapabilityError, OptionError
from latentia.model import DirectedModel, LatentVariableModel
from latentia.tasks.common import directed, using


class Forecast(NamedTuple):
    """The next H steps of each sequence, in the model's coordinates.

    Attributes:
        states: p(z_{T+h} | x_1..T), (B, H, K).
        mean: E[x_{T+h} | x_1..T], (B, H, *event); of symbols their probabilities, (B, H, V).
        draws: x_{T+1..T+H} together, from p(. | x_1..T), (draws, B, H, *event).
    """

    states: Tensor
    mean: Tensor
    draws: Tensor


def forecast(model: LatentVariableModel, data: Any, *, steps: int = 1, draws: int = 1, seed: int = 0) -> Forecast:
    """p(x_{T+1}, .., x_{T+H} | x_1..T) of every sequence, T being its length: exact, and drawn from.

    Args:
        data: anything that `as_dataset` takes.

    Raises:
        CapabilityError: z is not a chain with one transition matrix for all steps.
        DataError: data that the model cannot have.
        OptionError: steps or draws below 1.
    """
    if steps < 1 or draws < 1:
        raise OptionError(f"steps={steps}, draws={draws}: at least 1 of each")
    model = directed(model, "forecast")
    batch = batch_for(model, data, seed)
    with using(model, seed):
        initial, transition = _dynamics(model, batch.frame)
        posterior = model.posterior(batch)
        assert isinstance(posterior, Chain)  # as the prior is
        states = [_next_state(posterior, initial, transition)]
        while len(states) < steps:
            states.append(states[-1] @ transition)
        ahead = torch.stack(states, 1)
        potentials = {"initial": states[0].log(), "transition": transition.log(), "node": torch.zeros_like(ahead)}
        potentials["transition"] = potentials["transition"].unsqueeze(0)
        z = Chain(potentials).sample((draws,))
        ends = torch.full((batch.size,), steps, device=z.device)
        drawn = model.likelihood(z, Frame(batch.size, ends, batch.context)).sample().to(batch.x)
        mean = torch.tensordot(ahead, _means(model), 1)
    return Forecast(ahead, mean, drawn)


class Filter:
    """One sequence that arrives step by step: what is known so far, for O(K^2) work a step however long it gets.

        filter = Filter(model)
        for x in stream:
            filter.update(x)        # p(z_t | x_1..t), (K,)
            filter.expected()       # E[x_{t+1} | x_1..t]

    Attributes:
        steps: t, how many have arrived.
        log_prob: log p(x_1..t) in nats, of what was observed.
        state: p(z_t | x_1..t), (K,); None before the first step.

    Raises:
        CapabilityError: z is not a chain with one transition matrix for all steps.
    """

    def __init__(self, model: LatentVariableModel):
        self.model = directed(model, "filter")
        self.steps, self.log_prob = 0, 0.0
        self.state: Tensor | None = None
        with using(self.model, 0):
            self.initial, self.transition = _dynamics(self.model, Frame(1))

    def update(self, x: Any = None, mask: Tensor | None = None) -> Tensor:
        """Take the next step x (*event), and say p(z_t | x_1..t), (K,). None, NaN and mask False are missing values.

        Raises:
            DataError: x is none that the model can generate.
        """
        predicted = self.predict().log()
        if x is not None:
            log_likelihood = self._log_likelihood(torch.as_tensor(x), mask)
            predicted = predicted + log_likelihood
        total = torch.logsumexp(predicted, -1)
        self.log_prob += float(total)
        self.steps += 1
        self.state = (predicted - total).exp()
        return self.state

    def predict(self, steps: int = 1) -> Tensor:
        """p(z_{t+steps} | x_1..t), (K,)."""
        if self.state is None:
            state, steps = self.initial, steps - 1
        else:
            state = self.state
        for _ in range(steps):
            state = state @ self.transition
        return state

    def expected(self, steps: int = 1) -> Tensor:
        """E[x_{t+steps} | x_1..t], (*event); of symbols their probabilities, (V,)."""
        with using(self.model, 0):
            return torch.tensordot(self.predict(steps), _means(self.model), 1)

    def _log_likelihood(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch = Batch.of(x[None, None], None if mask is None else mask[None, None]).to(self.model.anchor)
        self.model.check(batch)
        with using(self.model, 0):
            posterior = self.model.posterior(batch)
            assert isinstance(posterior, Chain)  # as the prior is
            return posterior.log_potentials["node"][0, 0]


def _dynamics(model: DirectedModel, frame: Frame) -> tuple[Tensor, Tensor]:
    """p(z_1), (K,), and p(z_t | z_{t-1}), (K, K), of a model whose z is a chain."""
    prior = model.prior(frame)
    steps = shared_steps(prior) if isinstance(prior, Chain) else None
    if steps is not None:
        return steps
    name = type(model).__name__
    raise CapabilityError(
        f"{name} has nothing to forecast by: {name}.prior would have to return a Chain with one transition matrix "
        "for all steps"
    )


def _next_state(posterior: Chain, initial: Tensor, transition: Tensor) -> Tensor:
    """p(z_{T+1} | x_1..T), (B, K)."""
    lengths = posterior.lengths.expand(posterior.batch_shape[0])
    last = posterior.filtered[torch.arange(len(lengths)), (lengths - 1).clamp(min=0)]
    return torch.where((lengths > 0).unsqueeze(-1), last @ transition, initial)


def _means(model: DirectedModel) -> Tensor:
    """E[x_t | z_t = k], (K, *event); of symbols their probabilities, (K, V)."""
    frame = Frame(1, torch.ones(1, dtype=torch.long))
    states = model.prior(frame).event_shape[-1]
    z = torch.eye(states).to(model.anchor).reshape(states, 1, 1, states)
    inner: Any = plain(model.likelihood(z, frame))
    return (inner.probs if isinstance(inner, Categorical) else inner.mean)[:, 0, 0]
