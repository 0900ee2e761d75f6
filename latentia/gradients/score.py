"""The gradient of log q(z), weighed by how much better a draw was than expected: unbiased for any z.

    d E_q f = E_q [(f(z) - b) d log q(z) + d f(z)]

for a baseline b that does not depend on z; the nearer it is to f, the less the variance (Williams 1992; Mnih and Gregor
2014, section 2.3). Latents of a `Joint` that can be reparameterised are, and count in no log q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.batch import Batch
from latentia.distributions.joint import Draw, draw, log_prob_of_parts
from latentia.distributions.latents import named
from latentia.errors import CapabilityError, OptionError
from latentia.gradients.expectation import Estimator, Function, OfDraw, value
from latentia.networks.mlp import MLP, glorot

COLUMNS = 2
"""Columns of f that a learned baseline has a value for: what is reconstructed, and a KL that is sampled."""
DECAY = 0.99
LEAST = 1.0
"""Nats: the least spread of f that a baseline counts in."""


def score_of(drawn: Draw) -> Tensor:
    """log q of the draws of the latents that have no reparameterisation, (S, B)."""
    parts = {name: part for name, part in drawn.parts.items() if not part.has_rsample}
    return log_prob_of_parts(parts, {name: part for name, part in named(drawn.z).items() if name in parts})


def credited(signal: Tensor, score: Tensor) -> Tensor:
    """Zeros, (S, B) or (S, B, C), whose gradient is signal * d score."""
    moving = score - score.detach()
    return signal.detach() * (moving if signal.ndim == moving.ndim else moving.unsqueeze(-1))


class Baseline(nn.Module):
    """b for each draw of f, (S, B) or (S, B, C): from f's values in steps before, and from the data."""

    def forward(self, f: Function, values: Tensor) -> Tensor:
        raise NotImplementedError

    def climbs(self, f: Function) -> Tensor | None:
        """What it learns by beside the squared error of b, to be made large, (B,)."""
        return None


class RunningMean(Baseline):
    """The mean of f over the steps before this one, weighed down by 0.99 a step: the same for all data.

    Buffers: sums (3, 2): running sums of 1, f and f^2 for each column.
    """

    sums: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("sums", torch.zeros(3, COLUMNS, dtype=torch.float64))

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.sums.zero_()

    def moments(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and standard deviation of each column before these values, () or (C,); they count from then on."""
        columns = values.detach().unsqueeze(-1) if values.ndim == 2 else values.detach()
        if columns.shape[-1] > COLUMNS:
            raise CapabilityError(
                f"a learned baseline weighs {COLUMNS} columns, and f has {columns.shape[-1]}: leave out free_bits, or "
                "use rloo"
            )
        count, total, squares = self.sums.to(columns).clone()
        mean = total / count.clamp(min=1e-12)
        spread = (squares / count.clamp(min=1e-12) - mean.square()).clamp(min=LEAST**2).sqrt()
        if torch.is_grad_enabled():
            flat = columns.flatten(0, 1)
            now = torch.stack([torch.ones_like(flat[0]), flat.mean(0), flat.square().mean(0)])
            self.sums[:, : columns.shape[-1]].mul_(DECAY).add_(now * (1 - DECAY))
        mean, spread = mean[: columns.shape[-1]], spread[: columns.shape[-1]]
        return (mean[0], spread[0]) if values.ndim == 2 else (mean, spread)

    def forward(self, f: Function, values: Tensor) -> Tensor:
        return self.moments(values)[0]


class InputDependent(RunningMean):
    """A network of x, in units of f's running spread around its running mean: the baseline of NVIL.

    Mnih and Gregor (2014), section 2.3.1. It learns to predict f by least squares.

    Args:
        hidden: widths of its hidden layers; what goes in is x, less its mean over the data.
    """

    def __init__(self, hidden: Sequence[int] = (100,)):
        super().__init__()
        self.hidden = tuple(hidden)
        self.network: MLP | None = None

    @property
    def begun(self) -> bool:
        """Whether it has been told how wide x is."""
        return self.network is not None

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        super().start(batch, generator)
        x = _plain(batch)
        self.network = MLP([x.shape[1], *self.hidden, COLUMNS], "tanh").to(x)
        glorot(self.network, generator)
        first: Any = self.network[0]
        last: Any = self.network[-1]
        last.weight.data.zero_()
        # x less its mean, by the bias
        first.bias.data = -(first.weight @ x.mean(0)).detach()

    def forward(self, f: Function, values: Tensor) -> Tensor:
        mean, spread = self.moments(values)
        if not isinstance(f, OfDraw) or f.batch is None:
            raise CapabilityError("a baseline that depends on x needs an f with its batch: OfDraw(q, f, batch)")
        if self.network is None:
            raise CapabilityError("this baseline has not begun: call start(batch, generator), as a learner does")
        told = self.network(_plain(f.batch).to(values))
        return mean + spread * (told[:, 0] if values.ndim == 2 else told[:, : values.shape[-1]])


def _plain(batch: Batch) -> Tensor:
    x = batch.x.flatten(1).to(torch.get_default_dtype()) if not batch.x.is_floating_point() else batch.x.flatten(1)
    return x if batch.seen is None else torch.where(batch.seen.flatten(1), x, 0.0)


class ScoreFunction(nn.Module):
    """The score-function gradient with a baseline (see `score_function`)."""

    def __init__(self, baseline: Baseline | None = None):
        super().__init__()
        self.baseline = baseline

    def forward(self, q: Distribution, f: Function, samples: int) -> Tensor:
        drawn = draw(q, samples)
        values = value(f, drawn)
        return self.told(f, values, score_of(drawn)).mean(0)

    def log_mean_exp(self, q: Distribution, f: Function, samples: int) -> Tensor:
        """E log (1/S) sum_s exp f(z_s), (B,): all S draws have the credit of the whole."""
        drawn = draw(q, samples)
        bound = value(f, drawn).logsumexp(0, keepdim=True) - torch.tensor(float(samples)).log()
        return self.told(f, bound, score_of(drawn).sum(0, keepdim=True)).squeeze(0)

    def told(self, f: Function, values: Tensor, score: Tensor) -> Tensor:
        """f of draws with this score, (S, B) or (S, B, C), and the gradient of its expectation behind it."""
        if self.baseline is None:
            return values + credited(values, score)
        expected = self.baseline(f, values)
        told = values + credited(values - expected, score)
        own = self.baseline.climbs(f)
        if own is not None:
            told = told + (own - own.detach()).view(1, -1, *(1,) * (told.ndim - 2)) / told.shape[2:].numel()
        if not expected.requires_grad:
            return told
        # nothing in value, and the slope of the squared error for the baseline's own parameters
        error = (values.detach() - expected).square()
        return told - (error - error.detach())


def rloo(q: Distribution, f: Function, samples: int) -> Tensor:
    """The score function, each draw against the mean of the others: b_s = sum_{r != s} f(z_r) / (S - 1).

    Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!"; Salimans and Knowles (2014).
    Raises `OptionError` for fewer than two draws.
    """
    if samples < 2:
        raise OptionError(f"samples={samples}: leave-one-out wants another draw to compare with; give at least 2")
    drawn = draw(q, samples)
    values = value(f, drawn)
    still = values.detach()
    others = (still.sum(0) - still) / (samples - 1)
    return (values + credited(still - others, score_of(drawn))).mean(0)


def score_function(
    baseline: Literal["none", "mean", "network", "leave_one_out"] = "none", hidden: Sequence[int] = (100,)
) -> Estimator:
    """The score-function gradient, unbiased for any z.

    Args:
        baseline: none; mean, the running mean of f; network, of x, learned beside the model (NVIL); leave_one_out, the
            mean of the other draws (see `rloo`).
        hidden: widths of the network's hidden layers.
    """
    known: dict[str, Any] = {
        "none": lambda: ScoreFunction(),
        "mean": lambda: ScoreFunction(RunningMean()),
        "network": lambda: ScoreFunction(InputDependent(hidden)),
        "leave_one_out": lambda: rloo,
    }
    if baseline not in known:
        raise OptionError(f"baseline={baseline!r}: choose one of {', '.join(known)}")
    return known[baseline]()
