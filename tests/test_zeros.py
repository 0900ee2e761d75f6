"""What has probability 0 keeps it: in the prior, the M-step, the posterior and on the best path, in every family."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from latentia.data import load
from latentia.distributions.emissions import (
    BernoulliEmissions,
    CategoricalEmissions,
    CategoricalVectorEmissions,
    Emissions,
    MultinomialEmissions,
    PoissonEmissions,
)
from latentia.errors import NonFiniteError
from latentia.evaluate import evaluate
from latentia.learners import EM, Gradient
from latentia.models import HMM, FactorialHMM, MixtureOfBernoullis, MixtureOfCategoricals
from latentia.models import GaussianMixture as Mixture
from latentia.objectives import exact
from latentia.tasks import decode_path

START, STEPS = [1.0, 0.0, 0.0], [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]


def stages(count: int = 30):
    random = np.random.default_rng(0)
    return load([np.concatenate([random.normal(mean, 1, (8, 1)) for mean in (0, 4, 8)]) for _ in range(count)])


def left_to_right(smoothing: float, least: float = -math.inf, dtype=torch.float64) -> HMM:
    model = HMM(features=1, states=3, smoothing=smoothing).to(dtype)
    model.initial_logits.data = torch.tensor(START, dtype=dtype).log().clamp(min=least)
    model.transition_logits.data = torch.tensor(STEPS, dtype=dtype).log().clamp(min=least)
    model.emissions.means.data = torch.tensor([[0.0], [4.0], [8.0]], dtype=dtype)  # type: ignore[union-attr]
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("least", [-math.inf, -700.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.01])
@pytest.mark.parametrize("hard", [False, True])
def test_em_keeps_the_zeros_of_a_left_to_right_chain(smoothing, least, hard, dtype):
    model = left_to_right(smoothing, least, dtype)
    assert math.isfinite(float(model.log_prior().detach()))
    history = EM(fresh=False, hard=hard, progress=False).fit(model, stages())
    assert history.stopped == "converged"
    forbidden = torch.tensor(STEPS) == 0
    assert torch.all(model.transition[forbidden] == 0)
    assert model.initial.tolist() == START
    # a stage has 8 steps, so that one in 8 leaves it
    assert float(model.transition.detach()[0, 1]) == pytest.approx(1 / 8, abs=0.02)
    assert model.posterior(stages(2).batch(dtype=dtype)).mode.argmax(-1).diff(dim=-1).min() >= 0


def test_the_prior_counts_what_it_smooths():
    # Dirichlet(1 + s) over the entries that may be: s times the sum of their logarithms
    expected = 0.01 * (math.log(1) + 4 * math.log(0.5) + math.log(1))
    assert float(left_to_right(0.01).log_prior().detach()) == pytest.approx(expected)


@pytest.mark.parametrize("gap", [10.0, 30.0, 1000.0])
def test_what_an_m_step_leaves_of_a_zero_is_a_zero(gap):
    model = HMM(features=1, states=2, smoothing=0.0).double()
    # two sequences that never change their state
    EM(steps=1, fresh=False, progress=False, hard=True).fit(
        _apart(model, gap), load([np.zeros((5, 1)), np.full((5, 1), gap)])
    )
    assert torch.equal(model.transition.detach(), torch.eye(2).double())
    _apart(model, gap).emissions.log_scale.data.zero_()  # type: ignore[union-attr]
    x = np.r_[np.zeros(5), np.full(5, gap)]
    q = model.posterior(load([x[:, None]]).batch())
    value = np.log(0.5) + np.logaddexp(norm.logpdf(x, 0, 1).sum(), norm.logpdf(x, gap, 1).sum())
    assert float(q.log_partition) == pytest.approx(value, rel=1e-12)
    assert len(set(q.mode.argmax(-1)[0].tolist())) == 1


def _apart(model: HMM, gap: float) -> HMM:
    model.emissions.means.data = torch.tensor([[0.0], [gap]], dtype=torch.float64)  # type: ignore[union-attr]
    return model


def test_old_files_have_their_zeros_written_as_1e_308():
    model = _apart(HMM(features=1, states=2, smoothing=0.0).double(), 100)
    model.transition_logits.data = torch.eye(2).double().clamp(min=2.3e-308).log()
    data = load([np.r_[np.zeros(5), np.full(5, 100.0)][:, None]])
    assert len(set(decode_path(model, data)[0][0].tolist())) == 1
    assert evaluate(model, data).log_marginal == pytest.approx(-25_009.2, abs=0.1)


def test_gradients_leave_zeros_alone():
    model = left_to_right(0.0)
    Gradient(exact, epochs=3, fresh=False, progress=False).fit(model, stages())
    assert torch.all(model.transition[torch.tensor(STEPS) == 0] == 0)
    assert all(parameter.isnan().sum() == 0 for parameter in model.parameters())


def test_chains_side_by_side_keep_theirs():
    data = stages(20)
    model = FactorialHMM(features=1, chains=2, states=3, covariance="diagonal", smoothing=0.1).double()
    model.start(data.batch(), torch.Generator().manual_seed(0))
    model.transition_logits.data = torch.tensor(STEPS).double().log().repeat(2, 1, 1)
    EM(fresh=False, steps=10, tol=0.1, progress=False).fit(model, data)
    assert torch.all(model.transition[:, torch.tensor(STEPS) == 0] == 0)


FAMILIES = {
    "categorical": (lambda s: CategoricalEmissions(2, 3, s), torch.tensor([0, 0, 1, 1]), torch.tensor([2])),
    "vector": (lambda s: CategoricalVectorEmissions(2, 3, 2, s), torch.tensor([[0, 1]] * 4), torch.tensor([[0, 2]])),
    "poisson": (lambda s: PoissonEmissions(2, 2, s), torch.tensor([[0.0, 3.0]] * 4), torch.tensor([[1.0, 3.0]])),
    "multinomial": (
        lambda s: MultinomialEmissions(2, 2, s),
        torch.tensor([[0.0, 3.0]] * 4),
        torch.tensor([[1.0, 2.0]]),
    ),
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_what_a_family_has_never_seen_is_impossible_without_smoothing(name):
    make, seen, never = FAMILIES[name]
    emissions: Emissions = make(0.0).double()
    share = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]]).double()
    with torch.no_grad():
        emissions.update(emissions.statistics(seen, None, share))
        assert emissions.log_prob(seen, None).isfinite().all()
        assert (emissions.log_prob(seen, None).amax(1) > -20).all()
        assert (emissions.log_prob(never, None) < -1e20).all()
        # with a prior too, from then on
        emissions.smoothing = 0.5  # type: ignore[assignment]
        assert emissions.log_prior().isfinite()
        emissions.update(emissions.statistics(seen, None, share))
        assert (emissions.log_prob(never, None) < -1e20).all()


def test_bits_that_cannot_be_stay_so_whatever_the_prior():
    emissions = BernoulliEmissions(1, 2, smoothing=0.5).double()
    emissions.logits.data = torch.tensor([[-math.inf, math.inf]]).double()
    assert emissions.log_prior() == 0
    x = torch.tensor([[0.0, 1.0]] * 4)
    with torch.no_grad():
        emissions.update(emissions.statistics(x, None, torch.ones(4, 1).double()))
        assert emissions.log_prob(x, None).tolist() == [[0.0]] * 4
        assert float(emissions.log_prob(torch.tensor([[1.0, 1.0]]), None)) < -1e20


def test_certain_bits_leave_the_others_their_digits():
    emissions = BernoulliEmissions(1, 3).double()
    emissions.logits.data = torch.tensor([[1e30, -1e30, 0.3]]).double()
    value = emissions.log_prob(torch.tensor([[1.0, 0.0, 1.0]]), None)
    assert float(value.detach()) == pytest.approx(math.log(1 / (1 + math.exp(-0.3))))


def test_mixtures_without_smoothing_never_give_what_cannot_be():
    random = np.random.default_rng(0)
    rows = np.r_[np.c_[np.zeros(40), random.integers(2, size=40)], np.c_[np.ones(40), random.integers(2, size=40)]]
    table = MixtureOfCategoricals(symbols=2, features=2, components=2, smoothing=0.0).double()
    bits = MixtureOfBernoullis((2,), components=2, smoothing=0.0).double()
    for model, data in ((table, load(rows, values="levels")), (bits, load(rows, values="binary"))):
        model.emissions.logits.data = torch.full_like(model.emissions.logits, 0.0)
        # the first cluster gives no one in the first column
        where = (0, 0, 1) if model is table else (0, 0)
        model.emissions.logits.data[where] = -math.inf
        EM(fresh=False, progress=False).fit(model, data)
        assert float(model.probs.detach()[where]) == 0


def test_an_empty_cluster_stays_empty():
    x = load(np.random.default_rng(0).normal(size=(200, 2)))
    model = Mixture(2, 3).double()
    model.start(x.batch(), torch.Generator().manual_seed(0))
    model.logits.data = torch.tensor([0.0, 0.0, -math.inf]).double()
    with pytest.warns(UserWarning, match="empty"):
        EM(fresh=False, steps=5, tol=1e-3, progress=False).fit(model, x)
    assert sorted(model.weights.tolist())[0] == 0


def test_impossible_data_are_told_of():
    model = HMM(symbols=3, states=2, smoothing=0.0).double()
    model.emissions.logits.data[:, 2] = -math.inf  # type: ignore[union-attr]
    assert model.posterior(load([[0, 2, 1]], values="symbols").batch()).log_partition.tolist() == [-math.inf]
    with pytest.raises(NonFiniteError, match="impossible"):
        EM(fresh=False, progress=False).fit(model, load([[0, 2, 1], [0, 1, 1]], values="symbols"))
