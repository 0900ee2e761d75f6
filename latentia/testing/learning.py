"""Checks of what EM promises."""

from __future__ import annotations

import math

import torch

from latentia.batch import Batch
from latentia.model import ExactModel
from latentia.testing.expect import Tiny, as_exact, frame_of, generated, require, require_equal, seeded

STILL = 1e-4  # nats a datum and unit of a parameter: a gradient that counts as zero


def check_expect(tiny: Tiny, seed: int) -> None:
    """A model's own E-step, soft and hard, gives what posterior, statistics and log-partition give."""
    model, batch = tiny(seed)
    exact = as_exact(model)
    weight = torch.linspace(0, 2, batch.size, dtype=model.anchor.dtype)
    for hard in (False, True):
        for some in (batch, batch._replace(weight=weight)):
            with torch.no_grad():
                sums, value = exact.expect(some, hard)
                expected, expected_value = ExactModel.expect(exact, some, hard)
            require_equal(f"the E-step's log p(x), hard={hard}", value, expected_value, 1e-9)
            for name, statistic in expected.items():
                require_equal(f"the E-step's statistic {name}, hard={hard}", sums[name], statistic, 1e-9)


def check_canonical(tiny: Tiny, seed: int) -> None:
    """A canonical order changes no log p(x), and finding it twice changes nothing more."""
    model, batch = tiny(seed)
    exact = as_exact(model)
    with torch.no_grad():
        before = exact.posterior(batch).log_partition
        exact.canonical()
        after = exact.posterior(batch).log_partition
        once = {name: value.clone() for name, value in exact.state_dict().items()}
        exact.canonical()
    require_equal("a canonical order changes no log p(x)", after, before, 1e-9)
    for name, value in exact.state_dict().items():
        require_equal(f"a canonical order stands still: {name}", value, once[name], 0.0)


def check_em_ascends(tiny: Tiny, seed: int, steps: int = 30) -> None:
    """EM never lowers log p(x) + log_prior(), from where the model is and from a fresh start."""
    for fresh in (False, True):
        model, batch = tiny(seed)
        exact = as_exact(model)
        if fresh:
            exact.start(batch, torch.Generator().manual_seed(seed))
        values = [_climbed(exact, batch)]
        for _ in range(steps):
            em_step(exact, batch)
            values.append(_climbed(exact, batch))
        # a tensor's maximum, because NaN survives it
        worst = -float(torch.tensor(values, dtype=torch.float64).diff().min())
        allowed = 1e-8 * (1 + abs(values[0]))
        require(worst <= allowed, f"EM never lowers log p(x): it fell by {worst:.6g} nats in a step")


def check_em_fixed_point(tiny: Tiny, seed: int, data: int = 100, steps: int = 2000) -> None:
    """Where EM stands still the gradient of log p(x) + log_prior() is zero."""
    model, batch = tiny(seed)
    exact = as_exact(model)
    with seeded(seed):
        batch = generated(exact, frame_of(batch, data))
    slopes: dict[str, float] = {}
    # EM may creep: it stands still once the gradient is small, and if it never is, the last one says so
    for _ in range(0, steps, 25):
        for _ in range(25):
            em_step(exact, batch)
        slopes = _slopes(exact, batch)
        if max(slopes.values()) < STILL:
            return
    name, worst = max(slopes.items(), key=lambda item: item[1])
    raise AssertionError(
        f"at EM's fixed point the gradient is 0: that of {name} is {worst:.3g} a datum after {steps} steps"
    )


def _slopes(model: ExactModel, batch: Batch) -> dict[str, float]:
    """The largest entry of each parameter's gradient of what EM climbs, in nats per datum."""
    value = model.posterior(batch).log_partition.sum() + model.log_prior()
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.numel() > 0), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return {name: float(slope.abs().max()) / batch.size for name, slope in zip(names, found, strict=True)}


def check_em_recovers(tiny: Tiny, seed: int, data: int = 1500, steps: int = 60, restarts: int = 3) -> None:
    """Learned from its own data, a model predicts fresh data as well as the true one does (whatever its labels)."""
    truth, small = tiny(seed)
    as_exact(truth)
    with seeded(seed):
        batch, fresh = generated(truth, frame_of(small, data)), generated(truth, frame_of(small, data))
    learned = []
    for restart in range(restarts):
        model = as_exact(tiny(seed + 1)[0])
        model.start(batch, torch.Generator().manual_seed(restart))
        for _ in range(steps):
            em_step(model, batch)
        learned.append((_climbed(model, batch), model))
    best = max(learned, key=lambda pair: pair[0])[1]
    with torch.no_grad():
        gap = as_exact(truth).posterior(fresh).log_partition - best.posterior(fresh).log_partition
    loss, error = float(gap.mean()), float(gap.std()) / math.sqrt(data)
    allowed = 0.02 + 3 * error
    require(loss <= allowed, f"EM recovers the truth: {loss:.4g} nats a datum short of it, {allowed:.4g} allowed")


@torch.no_grad()
def em_step(model: ExactModel, batch: Batch) -> None:
    model.update(model.statistics(batch, model.posterior(batch)))


@torch.no_grad()
def _climbed(model: ExactModel, batch: Batch) -> float:
    """log p(x) + log_prior(), in nats over the whole batch: what EM climbs."""
    return float((batch.weights * model.posterior(batch).log_partition).sum() + model.log_prior())
