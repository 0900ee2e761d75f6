"""A datum counts by its weight, and the same, in whatever minibatch or chunk it comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Distribution

import latentia.sklearn as estimators
from latentia.data import load
from latentia.learners import EM, Gradient, Online
from latentia.learners.ascent import climbed
from latentia.learners.em import share_of
from latentia.model import Batch, DirectedModel, Frame
from latentia.models import HMM, KMeans, MixtureOfCategoricals
from latentia.models import GaussianMixture as Mixture
from latentia.objectives import Bound


class Coin(DirectedModel):
    """x ~ Bernoulli(p), with a z that says nothing."""

    def __init__(self):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.zeros(()))

    def prior(self, frame: Frame) -> Distribution:
        return Bernoulli(torch.full((frame.size,), 0.5))

    posterior = prior

    def likelihood(self, z, frame: Frame) -> Distribution:
        return Bernoulli(logits=self.logit.expand(*z.shape, 1))


def log_probability(model: Coin, batch: Batch) -> Bound:
    return Bound(Bernoulli(logits=model.logit).log_prob(batch.x.float()).squeeze(-1), None, None)


def learned(x, weight, batch_size: int, epochs: int, lr: float) -> float:
    model = Coin()
    data = load(np.asarray(x, dtype=float)[:, None], weight=np.asarray(weight, dtype=float))
    Gradient(log_probability, epochs, batch_size, lr, "linear", fresh=False, progress=False).fit(model, data)
    return float(model.logit.detach().sigmoid())


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, 12), (3, 30), (100, 250)])
def test_the_optimum_of_a_gradient_does_not_depend_on_the_batch_size(batch_size, epochs):
    # ones of weight 9, and as many zeros of weight 1: the share of ones is 0.9
    x, weight = np.tile([1, 0], 50), np.tile([9.0, 1.0], 50)
    assert learned(x, weight, batch_size, epochs, 0.05) == pytest.approx(0.9, abs=0.03)


def test_one_heavy_datum_counts_for_as_many_as_it_weighs():
    # 999 zeros of weight 1 and a one of weight 999: the share of ones is 1/2
    x, weight = np.eye(1, 1000)[0], np.where(np.eye(1, 1000)[0], 999.0, 1.0)
    assert learned(x, weight, 125, 60, 0.05) == pytest.approx(0.5, abs=0.05)


def test_a_last_minibatch_of_few_counts_for_few():
    def linear(model: Coin, batch: Batch) -> Bound:
        return Bound(model.logit * batch.x.float().squeeze(-1), None, None)

    model = Coin()
    data = load(np.ones((10, 1)))
    slopes = [
        float(climbed(linear, model, data.batch(slice(a, b)), [model.logit], 4.0).slopes[0])
        for a, b in ((0, 4), (4, 8), (8, 10))
    ]
    assert slopes == pytest.approx([-1.0, -1.0, -0.5])


def test_shares_are_those_of_cappe_and_moulines_for_chunks_of_one_size():
    assert [share_of(1, k, 0.7) for k in range(5)] == pytest.approx([(k + 1) ** -0.7 for k in range(5)])
    # with power 1 everything counts alike
    assert [share_of(f, 3, 1.0) for f in (0.001, 0.5, 7)] == pytest.approx([f / (3 + f) for f in (0.001, 0.5, 7)])
    # and small pieces of a chunk take together what it would
    left = np.prod([1 - share_of(0.01, 20 + 0.01 * i, 0.7) for i in range(100)])
    assert 1 - left == pytest.approx(share_of(1, 20, 0.7), rel=0.06)


def test_one_row_after_many_does_not_take_over():
    random = np.random.default_rng(0)
    mixture = estimators.GaussianMixture(1, random_state=0)
    for _ in range(10):
        mixture.partial_fit(random.normal(size=(1000, 1)))
    before = mixture.means_.copy()
    mixture.partial_fit([[50.0]])
    # one of 10,001, at a rate that forgets what came first
    assert 0 < mixture.means_[0, 0] - before[0, 0] < 5 * 50 / 10_001
    before = mixture.means_.copy()
    mixture.partial_fit(np.full((1000, 1), 50.0), sample_weight=np.full(1000, 1e-6))
    assert 0 < mixture.means_[0, 0] - before[0, 0] < 1e-4


def test_a_chunk_of_little_weight_hardly_moves_any_model():
    random = np.random.default_rng(0)
    centers = estimators.KMeans(2, random_state=0)
    topics = estimators.LDA(2, random_state=0)
    for _ in range(5):
        centers.partial_fit(np.r_[random.normal(size=(200, 1)), random.normal(size=(200, 1)) + 20])
        topics.partial_fit(random.poisson(2.0, size=(40, 4)))
    before = centers.cluster_centers_.copy(), topics.components_.copy()
    centers.partial_fit([[30.0]])
    topics.partial_fit([[0, 0, 0, 500]], sample_weight=[1e-6])
    assert np.abs(centers.cluster_centers_ - before[0]).max() < 0.1
    assert np.abs(topics.components_ - before[1]).max() < 1e-3


@pytest.mark.parametrize("size", [40, 13, 1])
def test_with_power_1_chunks_are_as_good_as_all_the_data(size):
    # of the M-step of a model without latents nothing is lost: mean and variance are those of all rows
    x = np.random.default_rng(0).normal(size=(80, 1)) * 3 + np.arange(80)[:, None]
    model = Mixture(features=1, components=1).double()
    online = Online(model, power=1.0, passes=1)
    for i in range(0, 80, size):
        online.partial_fit(load(x[i : i + size]))
    assert float(model.means.detach()[0, 0]) == pytest.approx(x.mean(), rel=1e-9)
    assert float(model.covariances.detach()[0, 0, 0]) == pytest.approx(x.var(), rel=1e-6)


def test_a_chunk_of_no_importance_changes_nothing_that_comes_later():
    random = np.random.default_rng(0)
    chunks = [random.normal(size=(100, 1)) + i for i in range(6)]
    models = []
    for extra in (False, True):
        models.append(Mixture(features=1, components=1).double())
        online = Online(models[-1])
        for chunk in chunks:
            online.partial_fit(load(chunk))
            if extra:
                online.partial_fit(load(chunk + 99, weight=np.full(100, 1e-12)))
    assert float(models[0].means) == pytest.approx(float(models[1].means), abs=1e-6)


def test_partial_fit_after_fit_goes_on_from_its_data():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 1))
    mixture = estimators.GaussianMixture(1, random_state=0).fit(x)
    mixture.partial_fit([[5.0]])
    assert abs(mixture.means_[0, 0] - x.mean()) < 5 * 5 / 500
    assert mixture.covariances_[0, 0, 0] == pytest.approx(x.var(), rel=0.3)


@pytest.mark.parametrize("rows", [4096, 4097])
def test_stepwise_em_is_not_led_by_a_last_minibatch_of_one(rows):
    random = np.random.default_rng(0)
    x = np.r_[random.normal(size=(2048, 1)), random.normal(size=(2049, 1)) + 6][:rows]
    model = Mixture(features=1, components=2).double()
    EM(stepwise=0.7, steps=20, progress=False).fit(model, load(x))
    assert model.weights.detach().numpy() == pytest.approx([0.5, 0.5], abs=0.005)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_stepwise_em_counts_by_weight_at_any_batch_size(batch_size):
    x = np.tile([[1.0], [0.0]], (50, 1))
    weight = np.tile([9.0, 1.0], 50)
    model = MixtureOfCategoricals(symbols=2, features=1, components=1, smoothing=0.0).double()
    EM(stepwise=0.7, steps=8, batch_size=batch_size, progress=False).fit(model, load(x, values="levels", weight=weight))
    # the noise of the last steps: of a mean over some tens of data
    assert float(model.probs[0, 0, 1].detach()) == pytest.approx(0.9, abs=0.05)


def test_a_saved_state_knows_the_sizes_of_the_chunks_it_has_seen(tmp_path):
    random = np.random.default_rng(0)
    chunks = [load(random.normal(size=(n, 2))) for n in (200, 3, 50)]
    one, other = Online(KMeans(2, 2).double(), hard=True), Online(KMeans(2, 2).double(), hard=True)
    for chunk in chunks[:2]:
        one.partial_fit(chunk)
    one.save(tmp_path / "state.safetensors")
    other.load(tmp_path / "state.safetensors")
    for online in (one, other):
        online.partial_fit(chunks[2])
    assert torch.equal(one.model.means, other.model.means)


def test_seen_is_for_what_came_before():
    x = np.random.default_rng(0).normal(size=(30, 1))
    model = Mixture(features=1, components=1).double()
    EM(progress=False).fit(model, load(x))
    online = Online(model, fresh=False)
    online.seen(load(x))
    online.partial_fit(load(x + 1))
    # as after two chunks of one size
    expected = x.mean() + 2**-0.7
    assert float(model.means) == pytest.approx(expected)
    with pytest.raises(ValueError, match="before the first chunk"):
        online.seen(load(x))


def test_sequences_are_chunks_too():
    random = np.random.default_rng(0)
    model = HMM(features=1, states=2).double()
    online = Online(model)
    for _ in range(5):
        online.partial_fit(load([random.normal(size=(20, 1)) + 4 * (i % 2) for i in range(20)]))
    before = model.emissions.means.detach().clone()
    online.partial_fit(load([np.full((20, 1), 4.5)], weight=[1e-6]))
    assert float((model.emissions.means - before).abs().max()) < 1e-4
