"""Importance weights: their tail's shape against the distribution that they come from, and against another code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto
from torch import nn
from torch.distributions import Independent, Normal

from latentia.data import load
from latentia.evaluate import evaluate, log_marginal
from latentia.inference.importance import Weights, doubtful, pareto_shape, tail_length
from latentia.model import Batch, DirectedModel, Frame
from latentia.models import ProbabilisticPCA


def drawn(shape: float, count: int = 4000, data: int = 100) -> torch.Tensor:
    return torch.from_numpy(genpareto.rvs(shape, size=(count, data), random_state=1)).log()


def of(log_weight: torch.Tensor, chunk: int = 300):
    weights = Weights(log_weight.shape[1], len(log_weight), log_weight)
    for part in log_weight.split(chunk):
        weights.add(part, part)
    return weights.result()


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_the_shape_of_pareto_weights_is_found(shape):
    found, tail = of(drawn(shape)).pareto_k, tail_length(4000)
    # the mean over the data, after the pull of ten weights towards 1/2
    expected = (tail * shape + 5) / (tail + 10)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / 10 + 0.01)


def by_loops(excess: np.ndarray) -> float:
    """Zhang and Stephens (2009), as their paper has it, for one ascending sample."""
    n, m = len(excess), 30 + int(math.sqrt(len(excess)))
    b = np.array(
        [1 / excess[-1] + (1 - math.sqrt(m / (j - 0.5))) / 3 / excess[int(n / 4 + 0.5) - 1] for j in range(1, m + 1)]
    )
    k = [np.log1p(-one * excess).mean() for one in b]
    profile = [n * (math.log(-one / shape) - shape - 1) for one, shape in zip(b, k, strict=True)]
    weight = [1 / sum(math.exp(other - own) for other in profile) for own in profile]
    found = np.log1p(-float(b @ weight) * excess).mean()
    return (n * found + 5) / (n + 10)


def test_it_is_zhang_and_stephenss_estimate():
    log_weight = drawn(0.6, 1000, 5)
    for column, found in zip(log_weight.T, of(log_weight).pareto_k, strict=True):
        weight = column.exp().sort(descending=True).values
        tail = tail_length(1000)
        assert float(found) == pytest.approx(by_loops((weight[:tail] - weight[tail]).flip(0).numpy()), abs=1e-9)


def test_chunks_and_scale_change_nothing():
    log_weight = drawn(0.6, 1000, 7)
    whole = of(log_weight, 1000)
    for other in (of(log_weight, 1), of(log_weight, 137)):
        for one, two in zip(whole, other, strict=True):
            assert torch.allclose(one, two, atol=1e-9)
    assert torch.allclose(of(log_weight - 5000).pareto_k, whole.pareto_k, atol=1e-6)
    # no more is kept than the tail and its threshold
    weights = Weights(7, 1000, log_weight)
    weights.add(log_weight, log_weight)
    assert weights.largest.shape == (tail_length(1000) + 1, 7)


def test_what_has_no_tail():
    same = torch.zeros(1000, 2, dtype=torch.float64)
    assert of(same).pareto_k.tolist() == [-math.inf, -math.inf]
    one = same - math.inf
    one[5] = 0
    assert of(one).pareto_k.tolist() == [math.inf, math.inf]
    assert of(same - math.inf).pareto_k.isnan().all()
    assert of(same[:20]).pareto_k.isnan().all()  # too few to tell
    assert pareto_shape(same[:96]).shape == (2,)


class Narrow(DirectedModel):
    """z and x normal, and q too narrow by a factor: the weights' tail has shape 1 - factor^2, for one dimension."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def prior(self, frame: Frame) -> Independent:
        return Independent(Normal(torch.zeros(frame.size, 1, dtype=torch.float64), 1.0), 1)

    def likelihood(self, z, frame):
        return Normal(z, 1.0)

    def posterior(self, batch: Batch) -> Independent:
        return Independent(Normal(batch.x / 2, self.factor.detach() * 0.5**0.5), 1)


def test_a_narrow_proposal_is_doubted_and_a_good_one_is_not():
    x = torch.linspace(-2, 2, 60, dtype=torch.float64).unsqueeze(-1)
    shapes = {f: float(log_marginal(Narrow(f), load(x), importance_samples=20_000).pareto_k.mean()) for f in (0.4, 0.9)}
    # P(w > t) falls as t^(-1 / (1 - factor^2)), but for logarithms
    assert shapes[0.4] > 0.7 > 0.45 > shapes[0.9]
    doubted, trusted = (evaluate(Narrow(f), load(x), importance_samples=2000) for f in (0.3, 0.95))
    assert (doubted.pareto_above or 0) > 0.5
    assert "Pareto k above 0.7)" in doubted.verdict
    assert trusted.pareto_above == 0
    assert "Pareto" not in trusted.verdict


def test_few_weights_bear_less_of_a_tail():
    """Vehtari et al. (2024), section 3.2.4: a shape that 2,000 weights average out is too much for 100."""
    assert [doubtful(10**n) for n in (1, 2, 3)] == pytest.approx([0, 0.5, 2 / 3])
    assert doubtful(2200) == doubtful(10**6) == 0.7
    x = torch.linspace(-2, 2, 60, dtype=torch.float64).unsqueeze(-1)
    found = evaluate(Narrow(0.7), load(x), importance_samples=100)
    shapes = log_marginal(Narrow(0.7), load(x), importance_samples=100).pareto_k
    assert found.pareto_threshold == pytest.approx(0.5)
    assert found.pareto_above == pytest.approx(float((shapes > 0.5).double().mean()))
    assert (found.pareto_above or 0) > float((shapes > 0.7).double().mean())
    assert "Pareto k above 0.5)" in found.verdict


def test_the_error_of_a_mean_of_weights_has_divisor_k_less_one():
    weight = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    found = of(weight.log())
    assert float(found.standard_error) == pytest.approx(float(weight.std()) / 3**0.5 / float(weight.mean()))
    # a single weight has no spread to tell its error by
    assert of(weight[:1].log()).standard_error.isnan().all()
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).unsqueeze(-1)
    found = evaluate(Narrow(0.7), load(x), importance_samples=1)
    assert math.isnan(found.log_marginal_mc_se)
    assert found.to_json()["log_marginal_mc_se"] is None


def test_exact_values_have_no_weights_to_doubt():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = ProbabilisticPCA((4,), 2).double()
    assert evaluate(model, load(x)).pareto_above is None
    # an exact posterior's weights differ by rounding alone
    found = log_marginal(model, load(x), importance_samples=500)
    assert torch.allclose(found.value, model.posterior(Batch(x)).log_partition.detach(), atol=1e-9)
