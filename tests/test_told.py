"""What is refused, what is told, and what is left as it was."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import sklearn.cluster
import torch
from torch import nn

import latentia.sklearn as estimators
from latentia.data import load
from latentia.errors import DataError, OptionError
from latentia.evaluate import criteria, evaluate, log_marginal
from latentia.learners import EM, Gradient, Online
from latentia.model import minibatches
from latentia.models import (
    HMM,
    LDA,
    VAE,
    ClusteringVAE,
    FactorialHMM,
    KMeans,
    MixtureOfBernoullis,
    MixtureOfCategoricals,
    NeuralHMM,
    ProbabilisticPCA,
)
from latentia.models import GaussianMixture as Mixture


@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda v: HMM(symbols=3, smoothing=v),
        lambda v: HMM(features=2, smoothing=v),
        lambda v: HMM(features=2, floor=v),
        lambda v: HMM(features=2, emission="poisson", smoothing=v),
        lambda v: HMM(features=2, emission="multinomial", smoothing=v),
        lambda v: HMM(features=2, emission="mixture", floor=v),
        lambda v: Mixture(2, floor=v),
        lambda v: KMeans(2, floor=v),
        lambda v: MixtureOfCategoricals(3, smoothing=v),
        lambda v: MixtureOfBernoullis((3,), smoothing=v),
        lambda v: FactorialHMM(2, smoothing=v),
        lambda v: FactorialHMM(2, floor=v),
        lambda v: FactorialHMM(2, tol=v),
        lambda v: ProbabilisticPCA((3,), latent=1, floor=v),
        lambda v: LDA(3, smoothing=v),
        lambda v: LDA(3, tol=v),
        lambda v: LDA(3, concentration=v),
    ],
)
def test_options_that_are_no_numbers_of_at_least_0_are_refused(make, value):
    with pytest.raises(OptionError, match=r"at least 0|above 0"):
        make(value)


# ------------------------------------------------------------------------------------------------------ convergence


@pytest.mark.parametrize("hard", [False, True])
def test_at_a_fixed_point_em_has_converged_even_with_tol_0(hard):
    x = np.random.default_rng(0).normal(size=(60, 2)) + 9 * np.arange(60)[:, None] // 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = EM(tol=0, hard=hard, steps=500, progress=False).fit(Mixture(2, 2).double(), load(x))
        assert history.stopped == "converged"
        estimator = estimators.GaussianMixture(1, tol=0).fit(x)
    assert estimator.converged_


def test_a_bound_has_converged_too():
    data = load([[0, 1, 0, 0], [2, 3, 3, 2]] * 5, values="symbols")
    history = EM(tol=0, steps=1000, progress=False).fit(LDA(4, topics=1, learn_concentration=False).double(), data)
    assert history.stopped == "converged"


def test_a_bound_that_falls_is_told():
    random = np.random.default_rng(1)
    words = random.dirichlet(np.full(30, 0.1), 5)
    shares = random.dirichlet(np.full(5, 0.2), 60)
    data = load([random.choice(30, 30, p=share @ words).tolist() for share in shares], values="symbols")
    with pytest.warns(UserWarning, match=r"the bound fell in \d+ of \d+ steps"):
        EM(steps=60, progress=False).fit(LDA(30, topics=5).double(), data)


# ------------------------------------------------------------------------------------------------- empty components


def test_what_a_first_chunk_gives_reason_to_doubt_is_told_once():
    online = Online(KMeans(1, 5).double(), hard=True)
    with pytest.warns(UserWarning, match=r"cluster \d is empty"):
        online.partial_fit(load(np.array([[0.0], [1.0]] * 5)))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*empty.*")
        online.partial_fit(load(np.array([[0.0], [1.0]] * 5)))


def test_the_same_of_estimators():
    with pytest.warns(UserWarning, match=r"cluster \d is empty"):
        estimators.KMeans(3, random_state=0).partial_fit([[0.0], [1.0]] * 5)
    with pytest.warns(UserWarning, match="floor"):
        estimators.GaussianMixture(3, random_state=0).partial_fit([[0.0], [1.0]] * 5)


def test_an_empty_cluster_of_k_means_is_moved():
    # the situation of scikit-learn's test_kmeans_relocate_empty_clusters
    x = np.array([-10.0, -9.5, -9, -8.5, -8, -1, 1, 9, 9.5, 10])[:, None]
    model = KMeans(1, 3).double()
    model.emissions.means.data = torch.tensor([[-10.0], [-10.0], [-10.0]]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EM(hard=True, fresh=False, progress=False).fit(model, load(x))
    peer = sklearn.cluster.KMeans(3, init=np.full((3, 1), -10.0), n_init=1).fit(x)
    assert sorted(model.means.detach().ravel().tolist()) == pytest.approx(sorted(peer.cluster_centers_.ravel()))


@pytest.mark.parametrize("features", [1, 5])
def test_moving_empty_clusters_never_lengthens_the_distances(features):
    x = load(np.random.default_rng(0).normal(size=(300, features)))
    model = KMeans(features, 12).double()
    model.emissions.means.data[:] = 5.0
    history = EM(hard=True, fresh=False, progress=False).fit(model, x)  # which would raise LikelihoodFell
    assert history.stopped == "converged"
    assert (model.sizes > 0).all()


def test_a_cluster_that_cannot_be_filled_is_named():
    with pytest.warns(UserWarning, match=r"cluster \d is empty"):
        EM(hard=True, progress=False).fit(KMeans(1, 3).double(), load(np.array([[0.0], [1.0]] * 5)))


def test_k_means_of_before_is_read():
    model, other = KMeans(2, 2), KMeans(2, 2)
    other.load_state_dict({name: value for name, value in model.state_dict().items() if name != "sizes"})
    assert other.concerns() == []


@pytest.mark.parametrize(
    ("estimator", "x"),
    [
        (estimators.GaussianMixture(4), np.zeros((3, 1))),
        (estimators.KMeans(4), np.zeros((3, 1))),
        (estimators.MixtureOfBernoullis(4), np.zeros((3, 1))),
        (estimators.MixtureOfCategoricals(4), np.zeros((3, 1))),
    ],
)
def test_more_components_than_samples_are_refused(estimator, x):
    for learn in (estimator.fit, estimator.partial_fit):
        with pytest.raises(DataError, match=r"n_samples=3 should be >= n_(components|clusters)=4"):
            learn(x)


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("estimator", "answers"),
    [
        (estimators.LDA(2, max_iter=5), ("transform", "score_samples")),
        (estimators.MixtureOfCategoricals(2), ("transform", "predict_proba", "score_samples")),
        (estimators.HMM(2, emissions="categorical"), ("predict_proba", "score_samples")),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_comes_in_float32_is_answered_in_float32(estimator, answers, dtype):
    x = np.random.default_rng(0).integers(0, 3, size=(20, 4)).astype(dtype)
    estimator.fit(x)
    assert {getattr(estimator, answer)(x).dtype for answer in answers} == {np.dtype(dtype)}
    learned = [name for name in ("components_", "probs_", "emissionprob_") if hasattr(estimator, name)]
    assert [getattr(estimator, name).dtype for name in learned] == [np.dtype(dtype)]


# ------------------------------------------------------------------------------------------------ modes and batches


def normed() -> VAE:
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    return VAE((4,), latent=2, encoder=encoder, decoder=nn.Linear(2, 4))


def bits(rows: int):
    return load(np.random.default_rng(0).integers(2, size=(rows, 4)).astype(float))


@pytest.mark.parametrize("rows", [17, 25, 24])
def test_batch_normalisation_meets_no_batch_of_one(rows):
    history = Gradient(epochs=2, batch_size=8, progress=False).fit(normed(), bits(rows))
    assert math.isfinite(history.records[-1]["bound"])
    assert history.records[-1]["step"] == 2 * {17: 2, 25: 3, 24: 3}[rows]


def test_nor_in_the_pretraining_of_clusters():
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    model = ClusteringVAE((4,), components=2, latent=2, encoder=encoder, decoder=nn.Linear(2, 4), pretrain=1)
    model.start(bits(257).batch(), torch.Generator().manual_seed(0))


def test_one_datum_a_step_is_refused_where_it_has_no_variance():
    with pytest.raises(OptionError, match="batch_size"):
        Gradient(epochs=1, batch_size=1, progress=False).fit(normed(), bits(4))


@pytest.mark.parametrize(("rows", "size", "parts"), [(9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1])])
def test_a_last_row_alone_joins_those_before_it(rows, size, parts):
    found = minibatches(torch.arange(rows), size)
    assert [len(part) for part in found] == parts
    assert torch.cat(found).tolist() == list(range(rows))


def test_measuring_leaves_every_module_in_its_own_mode():
    model = normed().train()
    model.encoder[1].eval()  # type: ignore[index]
    before = [module.training for module in model.modules()]
    mean = model.encoder[1].running_mean.clone()  # type: ignore[index]
    evaluate(model, bits(20), importance_samples=3)
    log_marginal(model, bits(20), importance_samples=3)
    chain = NeuralHMM(symbols=3, states=2, hidden=4, dropout=0.5).train()
    data = load([[0, 1, 2, 1], [2, 0, 0, 1]], values="symbols")
    # without dropout both times
    assert criteria(chain, data).log_likelihood == criteria(chain, data).log_likelihood
    assert chain.training
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model.encoder[1].running_mean, mean)  # type: ignore[index]
