"""Filtering and forecasts against sums over all paths and all symbols, written without them."""

import itertools

import pytest
import torch
from scipy.stats import chi2

from latentia.errors import CapabilityError, DataError, OptionError
from latentia.model import Batch
from latentia.models import HMM
from latentia.models.chains import hmm
from latentia.models.mixtures import gaussian_mixture
from latentia.tasks import Filter, forecast

STATES, SYMBOLS = 2, 3


@pytest.fixture
def tiny():
    return hmm.tiny(0)


@pytest.fixture
def gaussian():
    torch.manual_seed(1)
    model = HMM(features=2, states=3, covariance="diagonal").double()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    return model


def close(left, right, tolerance=1e-10):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def joint(model, symbols):
    """sum_z p(symbols, z_last = k), (K,), by all paths; a symbol of None is missing."""
    initial, transition, emission = (part.detach() for part in (model.initial, model.transition, model.emissions.probs))
    total = torch.zeros(STATES, dtype=torch.float64)
    for path in itertools.product(range(STATES), repeat=len(symbols)):
        p = initial[path[0]].clone()
        for i, k in itertools.pairwise(path):
            p *= transition[i, k]
        for k, symbol in zip(path, symbols, strict=True):
            p *= 1.0 if symbol is None else emission[k, symbol]
        total[path[-1]] += p
    return total


def observed(batch, b):
    """A sequence's symbols, None where one is hidden."""
    length = int(batch.lengths[b])
    return [int(x) if seen else None for x, seen in zip(batch.x[b][:length], batch.observed[b], strict=False)]


def test_forecasts_equal_enumeration(tiny):
    model, batch = tiny
    found = forecast(model, batch, steps=2)
    for b in range(batch.size):
        symbols = observed(batch, b)
        for h in (1, 2):
            ahead = joint(model, [*symbols, *[None] * h])
            close(found.states[b, h - 1], ahead / ahead.sum())
            future = torch.stack([joint(model, [*symbols, *[None] * (h - 1), v]).sum() for v in range(SYMBOLS)])
            close(found.mean[b, h - 1], future / future.sum())


def test_drawn_futures_have_the_joint_frequencies(tiny):
    model, batch = tiny
    draws = 4000
    drawn = forecast(model, batch, steps=2, draws=draws, seed=3).draws
    assert drawn.shape == (draws, batch.size, 2)
    for b in (0, 3):
        symbols = observed(batch, b)
        pairs = list(itertools.product(range(SYMBOLS), repeat=2))
        p = torch.stack([joint(model, [*symbols, *pair]).sum() for pair in pairs])
        p = p / p.sum()
        counts = torch.stack([(drawn[:, b] == torch.tensor(pair)).all(-1).sum() for pair in pairs])
        assert counts.sum() == draws
        statistic = float(((counts - draws * p) ** 2 / (draws * p)).sum())
        assert chi2.sf(statistic, len(pairs) - 1) > 1e-6


def test_of_nothing_the_forecast_is_the_prior(tiny):
    model, _ = tiny
    nothing, hidden = Batch(torch.zeros(1, 2, dtype=torch.long)), torch.zeros(1, 2, dtype=torch.bool)
    empty = nothing._replace(lengths=torch.tensor([0]))
    close(forecast(model, empty, steps=1).states[0, 0], model.initial.detach())
    # two steps of which nothing is seen are two steps
    twice = model.initial @ model.transition @ model.transition
    close(forecast(model, nothing._replace(mask=hidden), steps=1).states[0, 0], twice.detach())


def test_the_filter_follows_the_posterior_step_by_step(tiny):
    model, batch = tiny
    for b in range(batch.size):
        symbols, filter = observed(batch, b), Filter(model)
        for t, symbol in enumerate(symbols, 1):
            state = filter.update(symbol)
            so_far = joint(model, symbols[:t])
            close(state, so_far / so_far.sum())
            assert filter.log_prob == pytest.approx(float(so_far.sum().log()), abs=1e-10)
        whole = forecast(model, batch.select(torch.tensor([b])), steps=3)
        for h in (1, 2, 3):
            close(filter.predict(h), whole.states[0, h - 1])
            close(filter.expected(h), whole.mean[0, h - 1])
        assert filter.steps == len(symbols)


def test_a_stream_of_vectors_has_the_batchs_likelihood(gaussian):
    x = torch.randn(1, 50, 2, dtype=torch.float64)
    x[0, 7, 1] = x[0, 20] = torch.nan
    batch = Batch.of(x)
    filter = Filter(gaussian)
    states = torch.stack([filter.update(row) for row in x[0]])
    posterior = gaussian.posterior(batch)
    assert filter.log_prob == pytest.approx(posterior.log_partition.item(), rel=1e-12)
    close(states, posterior.filtered[0].detach())


def test_the_mean_of_vectors_is_that_of_many_draws(gaussian):
    batch = Batch(torch.randn(2, 5, 2, dtype=torch.float64))
    found = forecast(gaussian, batch, steps=3, draws=20_000)
    error = found.draws.std(0) / 20_000**0.5
    assert float(((found.draws.mean(0) - found.mean) / error).abs().max()) < 5


def test_a_filter_before_its_first_step_predicts_the_prior(tiny):
    model, _ = tiny
    close(Filter(model).predict(), model.initial.detach())
    close(Filter(model).predict(2), (model.initial @ model.transition).detach())


def test_what_cannot_be_forecast_is_refused(tiny):
    mixture, batch = gaussian_mixture.tiny(0)
    with pytest.raises(CapabilityError, match=r"GaussianMixture\.prior would have to return a Chain"):
        forecast(mixture, batch)
    with pytest.raises(CapabilityError, match="Chain"):
        Filter(mixture)
    with pytest.raises(OptionError, match="steps=0"):
        forecast(*tiny, steps=0)
    with pytest.raises(DataError, match="outside"):
        Filter(tiny[0]).update(SYMBOLS)
