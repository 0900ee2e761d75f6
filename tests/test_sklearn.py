"""The estimators: scikit-learn's own checks, its mixtures and k-means, hmmlearn, and closed forms."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn.cluster
import sklearn.mixture
import torch
from hmmlearn.hmm import CategoricalHMM, GaussianHMM
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone, is_clusterer
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_clustering, parametrize_with_checks

import latentia.sklearn
from latentia.evaluate import evaluate
from latentia.model import Batch
from latentia.sklearn import (
    HMM,
    LDA,
    FactorialHMM,
    GaussianMixture,
    KMeans,
    Mixture,
    MixtureOfBernoullis,
    MixtureOfCategoricals,
)

TABULAR = Path(__file__).parents[2] / "shared" / "data" / "tabular"
KINDS = ["full", "tied", "diag", "spherical"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        # small steps and few data: what they warn of is tested where it matters
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------------------------------- scikit-learn's checks

OTHER_START = (
    "random starts are drawn row by row, so that other rows give other starts, and other local maxima; from the same "
    "start it holds, see test_a_weight_is_a_number_of_repetitions"
)
ANY_LENGTH = "rows are sequences, and a sequence may be longer or shorter than those of the fit"
NOT_WHOLE = "the check's data are not whole numbers, which this estimator refuses whatever its tags say"

CHECKED = [
    (GaussianMixture(3), OTHER_START),
    (KMeans(3), OTHER_START),
    (Mixture(2), OTHER_START),
    (MixtureOfBernoullis(2), OTHER_START),
    (MixtureOfCategoricals(2), NOT_WHOLE),
    (HMM(3, max_iter=20), OTHER_START),
    (HMM(2, emissions="categorical", max_iter=20), NOT_WHOLE),
    (FactorialHMM(max_iter=3), None),
    (LDA(2, max_iter=5), NOT_WHOLE),
]
# as they are constructed without arguments; those of FactorialHMM and LDA differ from the above in max_iter alone
DEFAULTS = [
    (GaussianMixture(), None),
    (KMeans(), None),
    (Mixture(), None),
    (MixtureOfBernoullis(), None),
    (MixtureOfCategoricals(), NOT_WHOLE),
    (HMM(), None),
]
CHECKED_AT_LENGTH = [
    (FactorialHMM(), None),
    (KMeans(3), OTHER_START),
    (LDA(), NOT_WHOLE),
    (GaussianMixture(2, covariance_type="tied", n_init=2), OTHER_START),
    (GaussianMixture(2, covariance_type="diag"), OTHER_START),
    (GaussianMixture(2, covariance_type="spherical"), OTHER_START),
    (HMM(2, covariance_type="full", max_iter=20), None),
    (FactorialHMM(3, 3, covariance_type="diag", max_iter=10), None),
    (LDA(5, learn_doc_topic_prior=False), NOT_WHOLE),
]

ONE_SEQUENCE = "a data frame is one sequence of its rows, and has one weight"


def expected_failures(estimator):
    reasons = {repr(one): reason for one, reason in CHECKED + DEFAULTS + CHECKED_AT_LENGTH if reason}
    reason = reasons.get(repr(estimator))
    checks = [f"check_sample_weight_equivalence_on_{form}_data" for form in ("dense", "sparse")]
    failures = dict.fromkeys(checks, reason) if reason else {}
    if isinstance(estimator, (HMM, FactorialHMM)):
        failures["check_n_features_in_after_fitting"] = ANY_LENGTH
        failures["check_sample_weights_pandas_series"] = ONE_SEQUENCE
    return failures


# KMeans(3) is as its defaults, with fewer clusters
BRIEFLY = [one for one, _ in DEFAULTS + CHECKED if repr(one) != repr(KMeans(3))]


@parametrize_with_checks(BRIEFLY, expected_failed_checks=expected_failures)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [GaussianMixture(3), MixtureOfBernoullis(3)], ids=repr)
def test_with_components_it_passes_the_checks_of_clusterers(estimator):
    check_clustering(type(estimator).__name__, estimator)


@pytest.mark.slow
@parametrize_with_checks([one for one, _ in CHECKED_AT_LENGTH], expected_failed_checks=expected_failures)
def test_checks_of_scikit_learn_at_length(estimator, check):
    check(estimator)


def test_every_estimator_is_checked():
    assert {type(one).__name__ for one, _ in CHECKED} == set(latentia.sklearn.__all__)
    defaults = {repr(getattr(latentia.sklearn, name)()) for name in latentia.sklearn.__all__}
    assert defaults <= {repr(one) for one, _ in DEFAULTS + CHECKED_AT_LENGTH}


# ----------------------------------------------------------------------------------------- columns of their own kind


def customers(count=240):
    rng = np.random.default_rng(0)
    z = rng.integers(2, size=count)
    frame = pd.DataFrame(
        {
            "age": rng.normal(30 + 25 * z, 4),
            "plan": np.where(rng.random(count) < 0.1 + 0.8 * z, "pro", "basic"),
            "vip": rng.random(count) < 0.2 + 0.6 * z,
            "visits": rng.poisson(1 + 7 * z),
        }
    )
    frame.loc[rng.random(count) < 0.1, "plan"] = None
    return frame, z


def test_a_data_frame_of_mixed_columns_is_clustered():
    frame, z = customers()
    model = Mixture(2, n_init=3, random_state=0).fit(frame)
    assert model.schema_.kinds == ("real", "category", "binary", "count")
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert adjusted_rand_score(z, model.labels_) > 0.95
    assert np.array_equal(model.predict(frame.iloc[:9]), model.labels_[:9])
    drawn, components = model.sample(20)
    assert set(drawn[:, 1]) <= {"basic", "pro"}
    assert set(components) == {0, 1}
    assert model.bic(frame) < Mixture(1, random_state=0).fit(frame).bic(frame)
    with pytest.raises(ValueError, match="'gold' is none of basic, pro"):
        model.predict(frame.assign(plan="gold"))


def test_kinds_of_columns_are_corrected():
    frame, _ = customers()
    model = Mixture(2, columns={"visits": "real"}, random_state=0).fit(frame)
    assert model.schema_.kinds == ("real", "category", "binary", "real")
    array = frame[["age", "visits"]].to_numpy(float)
    assert Mixture(2, random_state=0).fit(array).schema_.kinds == ("real", "real")
    by_kind = Mixture(2, columns=["real", "count"], random_state=0).fit(array)
    assert by_kind.schema_.kinds == ("real", "count")
    assert by_kind.model_.emissions.part("count").rates.shape == (2, 1)
    with pytest.raises(ValueError, match="the kind of each of the 2 columns"):
        Mixture(2, columns=["real"]).fit(array)
    with pytest.raises(ValueError, match="the kinds are real, category, binary, count"):
        Mixture(2, columns=["real", "word"]).fit(array)


# --------------------------------------------------------------------------------------------------- the peers


def geyser():
    path = TABULAR / "geyser.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    return pd.read_csv(path)[["duration", "waiting"]].to_numpy()


DATA = {"iris": (lambda: load_iris().data, 3), "geyser": (geyser, 2)}


def inverse(covariances, kind):
    return np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", DATA)
def test_the_mixture_of_scikit_learn_from_the_same_start(data, kind):
    X, components = DATA[data][0](), DATA[data][1]
    ours = GaussianMixture(components, covariance_type=kind, floor=1e-12, max_iter=2, random_state=0).fit(X)
    start = {
        "weights_init": ours.weights_,
        "means_init": ours.means_,
        "precisions_init": inverse(ours.covariances_, kind),
    }
    options = {"covariance_type": kind, "reg_covar": 0.0, "tol": 0.0, "max_iter": 15}
    peer = sklearn.mixture.GaussianMixture(components, **options, **start).fit(X)
    ours.set_params(warm_start=True, max_iter=15, tol=0.0).fit(X)
    # where ours has reached the maximum to the last bit, the peer's further steps move it by less than 1e-6
    tolerance = 1e-9 if ours.n_iter_ == peer.n_iter_ else 1e-6
    np.testing.assert_allclose(ours.weights_, peer.weights_, rtol=tolerance)
    np.testing.assert_allclose(ours.means_, peer.means_, rtol=tolerance)
    np.testing.assert_allclose(ours.covariances_, peer.covariances_, rtol=10 * tolerance, atol=tolerance)
    np.testing.assert_array_equal(ours.predict(X), peer.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=tolerance)
    np.testing.assert_allclose(ours.score_samples(X), peer.score_samples(X), rtol=tolerance)
    assert ours.bic(X) == pytest.approx(peer.bic(X), rel=tolerance)
    assert ours.aic(X) == pytest.approx(peer.aic(X), rel=tolerance)
    assert ours.lower_bound_ == pytest.approx(peer.score(X), rel=tolerance)


def test_the_k_means_of_scikit_learn_from_the_same_start():
    X = load_iris().data
    ours = KMeans(5, max_iter=1, random_state=3).fit(X)
    peer = sklearn.cluster.KMeans(5, init=ours.cluster_centers_, n_init=1, tol=0.0).fit(X)
    ours.set_params(warm_start=True, max_iter=300, tol=0.0).fit(X)
    np.testing.assert_allclose(ours.cluster_centers_, peer.cluster_centers_, rtol=1e-9)
    np.testing.assert_array_equal(ours.labels_, peer.labels_)
    assert ours.inertia_ == pytest.approx(peer.inertia_, rel=1e-9)


def sequences(kind, seed=0):
    """Ragged sequences of which steps last, so that there are states to find."""
    random = np.random.default_rng(seed)
    parts = []
    for length in random.integers(5, 30, size=12):
        state = np.repeat(random.integers(2, size=length), 3)[:length]
        parts.append(
            random.binomial(3, 0.2 + 0.6 * state).astype(float)
            if kind == "categorical"
            else random.normal(size=(length, 2)) + 4 * state[:, None]
        )
    return parts


@pytest.mark.parametrize("kind", ["full", "diag", "categorical"])
def test_the_hidden_markov_model_of_hmmlearn(kind):
    parts = sequences(kind)
    emissions = "categorical" if kind == "categorical" else "gaussian"
    options = {} if kind == "categorical" else {"covariance_type": kind}
    ours = HMM(2, emissions=emissions, random_state=0, max_iter=20, **options).fit(parts)
    if kind == "categorical":
        peer = CategoricalHMM(2, n_features=4)
        peer.emissionprob_ = ours.emissionprob_
        rows = np.concatenate(parts).astype(int)[:, None]
    else:
        peer = GaussianHMM(2, kind)
        peer.means_, peer.covars_ = ours.means_, ours.covariances_
        rows = np.concatenate(parts)
    peer.startprob_, peer.transmat_ = ours.startprob_, ours.transmat_
    lengths = [len(part) for part in parts]
    assert ours.score_samples(parts).sum() == pytest.approx(peer.score(rows, lengths), rel=1e-9)
    np.testing.assert_array_equal(np.concatenate(ours.predict(parts)), peer.predict(rows, lengths))
    np.testing.assert_allclose(np.concatenate(ours.predict_proba(parts)), peer.predict_proba(rows, lengths), atol=1e-9)


# ---------------------------------------------------------------------------------------------- missing values


def test_penguins_with_missing_values():
    path = TABULAR / "penguins.csv"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    table = pd.read_csv(path)
    X = table[["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]]
    assert X.isna().any().any()
    with pytest.raises(ValueError, match="NaN"):
        sklearn.mixture.GaussianMixture(3).fit(X)
    ours = GaussianMixture(3, n_init=3, random_state=0).fit(X)
    peer = sklearn.mixture.GaussianMixture(3, n_init=3, random_state=0, reg_covar=1e-6, tol=1e-6, max_iter=300)
    whole = X.notna().all(axis=1)
    peer.fit(X[whole])
    # two of 344 rows say nothing, so that both have found the same clusters
    assert adjusted_rand_score(ours.predict(X[whole]), peer.predict(X[whole])) > 0.95
    assert adjusted_rand_score(ours.labels_, table["species"]) > 0.8


def test_what_is_missing_is_marginalised():
    X = load_iris().data
    X = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    model = GaussianMixture(2, random_state=0).fit(X)
    for x, value, proba in zip(X, model.score_samples(X), model.predict_proba(X), strict=True):
        seen = ~np.isnan(x)
        joint = np.log(model.weights_)
        if seen.any():
            joint = joint + [
                multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(x[seen])
                for mean, covariance in zip(model.means_, model.covariances_, strict=True)
            ]
        assert value == pytest.approx(logsumexp(joint), rel=1e-9)
        np.testing.assert_allclose(proba, np.exp(joint - logsumexp(joint)), atol=1e-9)


# ----------------------------------------------------------------------------------------------------- weights


def rows_for(estimator, count=20, seed=0):
    """A table that the estimator takes."""
    random = np.random.default_rng(seed)
    if estimator.__sklearn_tags__().input_tags.categorical:
        return random.integers(3, size=(count, 6)).astype(float)
    return random.normal(size=(count, 6)) + 4 * random.integers(2, size=(count, 1))


ESTIMATORS = {repr(one): one for one, _ in CHECKED}


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return clone(ESTIMATORS[request.param]).set_params(random_state=0)


def learned(estimator):
    return {
        name: value for name, value in vars(estimator).items() if name.endswith("_") and isinstance(value, np.ndarray)
    }


def test_a_weight_is_a_number_of_repetitions(estimator):
    X = rows_for(estimator)
    weight = np.random.default_rng(1).integers(0, 4, size=len(X))
    estimator.set_params(max_iter=2).fit(X)
    weighted = pickle.loads(pickle.dumps(estimator)).set_params(warm_start=True).fit(X, sample_weight=weight)
    repeated = pickle.loads(pickle.dumps(estimator)).set_params(warm_start=True).fit(X.repeat(weight, axis=0))
    for name, value in learned(repeated).items():
        if name != "labels_":
            np.testing.assert_allclose(getattr(weighted, name), value, rtol=1e-6, atol=1e-9, err_msg=name)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-9)
    assert weighted.score(X, sample_weight=weight) == pytest.approx(repeated.score(X.repeat(weight, axis=0)), rel=1e-9)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(np.zeros(20), "zero"), (-np.ones(20), "0 or more"), (np.ones(3), "shape"), ([np.nan] * 20, "numbers")],
)
def test_weights_that_cannot_be(weight, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(2).fit(rows_for(GaussianMixture()), sample_weight=weight)


# ------------------------------------------------------------------------------------------- the user contract


def test_pickled_it_answers_the_same(estimator):
    X = rows_for(estimator)
    estimator.fit(X)
    other = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(other.score_samples(X), estimator.score_samples(X))
    answer = "predict" if hasattr(estimator, "predict") else "transform"
    np.testing.assert_array_equal(getattr(other, answer)(X), getattr(estimator, answer)(X))


def test_the_same_seed_gives_the_same_fit(estimator):
    X = rows_for(estimator)
    one, two = (learned(clone(estimator).fit(X)) for _ in range(2))
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value)


def test_float32_stays_float32(estimator):
    X = rows_for(estimator).astype(np.float32)
    estimator.fit(X)
    if not estimator.__sklearn_tags__().input_tags.categorical:
        assert {value.dtype for name, value in learned(estimator).items() if name != "labels_"} == {np.dtype("f4")}
        assert estimator.predict_proba(X).dtype == np.float32


def test_a_warm_start_goes_on_where_the_last_fit_ended(estimator):
    X = rows_for(estimator)
    whole = clone(estimator).set_params(max_iter=4, tol=0.0, n_init=1).fit(X)
    parts = estimator.set_params(max_iter=2, tol=0.0, n_init=1).fit(X).set_params(warm_start=True).fit(X)
    # each fit ends by measuring what it has, which the next one begins with
    np.testing.assert_allclose(parts.lower_bound_, whole.lower_bound_, rtol=1e-6)
    assert parts.lower_bounds_[0] == pytest.approx(whole.lower_bounds_[min(2, whole.n_iter_)], rel=1e-6)


def test_a_warm_start_of_another_size_is_refused():
    X = rows_for(GaussianMixture())
    model = GaussianMixture(2, warm_start=True).fit(X).set_params(n_components=3)
    with pytest.raises(ValueError, match="warm_start"):
        model.fit(X)


def test_it_warns_when_em_was_stopped_and_only_then():
    X = load_iris().data
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        stopped = GaussianMixture(3, max_iter=2, random_state=0).fit(X)
    assert not stopped.converged_
    assert stopped.n_iter_ == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = GaussianMixture(3, random_state=0).fit(X)
    assert done.converged_
    assert 2 < done.n_iter_ < 200
    assert len(done.lower_bounds_) == done.n_iter_ + 1
    assert done.lower_bounds_ == sorted(done.lower_bounds_)


def test_what_the_model_doubts_is_passed_on():
    X = np.column_stack([load_iris().data, np.ones(150)])
    with pytest.warns(UserWarning, match="floor"):
        GaussianMixture(2, random_state=0).fit(X)


def test_restarts_keep_the_best():
    X = load_iris().data
    one = [GaussianMixture(4, random_state=seed).fit(X).lower_bound_ for seed in range(5)]
    many = GaussianMixture(4, n_init=20, random_state=0).fit(X)
    assert many.lower_bound_ >= np.median(one)
    assert many.lower_bound_ == pytest.approx(many.score(X), rel=1e-9)


def test_names_of_columns():
    X = load_iris(as_frame=True).data
    model = GaussianMixture(3, random_state=0).set_output(transform="pandas").fit(X)
    assert list(model.feature_names_in_) == list(X.columns)
    assert list(model.transform(X).columns) == ["gaussianmixture0", "gaussianmixture1", "gaussianmixture2"]
    np.testing.assert_array_equal(model.transform(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.rename(columns={X.columns[0]: "another"}))


def test_chunks_that_are_not_kept(estimator):
    X = rows_for(estimator, 300)
    whole = clone(estimator).set_params(max_iter=30).fit(X)
    for chunk in np.array_split(X, 6):
        estimator.partial_fit(chunk)
    assert estimator.n_iter_ == 6
    # a few passes' worth of learning, from another start: better than no learning and not far below the whole
    one = clone(estimator).set_params(max_iter=1).fit(X[:50])
    assert estimator.score(X) > one.score(X) - 0.05 * abs(one.score(X))
    # counts are real columns to a Mixture: a fit of all may collapse onto a value, and one by chunks does not
    if not isinstance(estimator, Mixture):
        assert estimator.score(X) > whole.score(X) - 0.2 * abs(whole.score(X))


def test_one_chunk_after_a_fit_is_a_step_of_em():
    X = load_iris().data
    chunked = GaussianMixture(3, random_state=0, max_iter=3).fit(X)
    stepped = pickle.loads(pickle.dumps(chunked)).set_params(max_iter=1, warm_start=True).fit(X)
    chunked.partial_fit(X)
    np.testing.assert_allclose(chunked.means_, stepped.means_, rtol=1e-9)
    np.testing.assert_allclose(chunked.covariances_, stepped.covariances_, rtol=1e-9)
    assert chunked.lower_bound_ == pytest.approx(stepped.lower_bounds_[0], rel=1e-9)
    assert chunked.labels_.shape == (150,)
    # a fit begins anew, and chunks are counted from there
    assert chunked.fit(X[:100]).partial_fit(X).n_iter_ == 1


def test_chunks_count_as_much_as_their_weight():
    X = load_iris().data
    weight = np.random.default_rng(0).integers(0, 3, size=150)
    weighted = GaussianMixture(2, random_state=0, max_iter=3).fit(X)
    repeated = pickle.loads(pickle.dumps(weighted))
    for rows in np.array_split(np.arange(150)[::-1], 3):
        weighted.partial_fit(X[rows], sample_weight=weight[rows])
        repeated.partial_fit(X[rows].repeat(weight[rows], axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)


def test_a_grid_search_finds_the_number_of_components():
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 2)) + 6 * np.eye(3, 2)[random.integers(3, size=300)]
    search = GridSearchCV(GaussianMixture(n_init=3, random_state=0), {"n_components": [1, 2, 3, 5]}, cv=3).fit(X)
    assert search.best_params_ == {"n_components": 3}
    held_out = cross_val_score(GaussianMixture(3, n_init=3, random_state=0), X, cv=3)
    assert search.best_score_ == pytest.approx(held_out.mean())
    part = GaussianMixture(3, n_init=3, random_state=0).fit(X[100:])
    assert held_out[0] == pytest.approx(part.score_samples(X[:100]).mean())


def test_a_grid_search_over_sequences():
    search = GridSearchCV(HMM(random_state=0, max_iter=20), {"n_components": [1, 2]}, cv=3).fit(sequences("full"))
    assert search.best_params_ == {"n_components": 2}


def test_a_step_of_a_pipeline():
    X, y = load_iris(return_X_y=True)
    steps = make_pipeline(StandardScaler(), GaussianMixture(6, n_init=3, random_state=0), LogisticRegression())
    scores = cross_val_score(steps, X, y, cv=5)
    # of three classes of the same size
    assert scores.mean() > 0.8


def test_it_is_a_clusterer():
    model = GaussianMixture(2, random_state=0)
    X = load_iris().data
    assert is_clusterer(model)
    assert not is_clusterer(GaussianMixture())  # of one component
    assert is_clusterer(KMeans())
    np.testing.assert_array_equal(model.fit_predict(X), model.predict(X))
    np.testing.assert_array_equal(model.labels_, model.predict_proba(X).argmax(1))


def test_the_fitted_model_is_there_for_the_rest_of_the_library():
    X = load_iris().data
    model = GaussianMixture(2, random_state=0).fit(X)
    assert evaluate(model.model_, Batch(torch.from_numpy(X))).log_marginal == pytest.approx(model.score(X), rel=1e-9)


def test_samples_have_the_moments_of_the_model():
    model = GaussianMixture(3, random_state=0).fit(load_iris().data)
    x, z = model.sample(20_000)
    share = np.bincount(z, minlength=3) / len(z)
    np.testing.assert_allclose(share, model.weights_, atol=5 * np.sqrt(0.25 / len(z)))
    for k, (mean, covariance) in enumerate(zip(model.means_, model.covariances_, strict=True)):
        error = np.sqrt(np.diag(covariance) / (z == k).sum())
        assert (np.abs(x[z == k].mean(0) - mean) < 5 * error).all()
    np.testing.assert_array_equal(model.sample(5)[0], model.sample(5)[0])


def test_samples_are_sequences():
    parts = sequences("full")
    vectors = HMM(2, random_state=0).fit(parts)
    assert [part.shape for part in vectors.sample(3, n_steps=7)] == [(3, 7, 2), (3, 7)]
    numbers = HMM(2, random_state=0).fit([part[:, 0] for part in parts])
    assert [part.shape for part in numbers.sample(3, n_steps=7)] == [(3, 7), (3, 7)]
    chains = FactorialHMM(3, 2, random_state=0, max_iter=2).fit(parts)
    assert [part.shape for part in chains.sample(3, n_steps=7)] == [(3, 7, 2), (3, 7, 3)]


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_the_forms_of_sequences_are_the_same(kind):
    parts = sequences("categorical")
    padded = np.full((len(parts), max(map(len, parts))), np.nan)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    model = HMM(2, emissions=kind, random_state=0, max_iter=5)
    listed, filled = clone(model).fit(parts), clone(model).fit(padded)
    np.testing.assert_allclose(filled.transmat_, listed.transmat_, rtol=1e-9)
    paths = filled.predict(padded)
    for row, path, part in zip(paths, listed.predict(parts), parts, strict=True):
        np.testing.assert_array_equal(row[: len(part)], path)
        assert (row[len(part) :] == -1).all()
    if kind == "gaussian":
        deep = clone(model).fit(padded[:, :, None])
        np.testing.assert_allclose(deep.transmat_, listed.transmat_, rtol=1e-9)


FORMS = {
    "numbers": lambda x: x[:, :, 0],
    "vectors": lambda x: x,
    "list": list,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [HMM, FactorialHMM])
def test_sequences_of_another_length_than_those_of_the_fit(make, form):
    x = np.random.default_rng(0).normal(size=(8, 20, 2)) + 4 * (np.arange(20)[:, None] // 5 % 2)
    model = make(max_iter=3, random_state=0).fit(FORMS[form](x))
    for steps in (1, 12, 40):
        more = FORMS[form](np.concatenate([x, x], 1)[:, :steps])
        value = model.score_samples(more)
        paths, marginals = model.predict(more), model.predict_proba(more)
        assert {len(path) for path in paths} == {len(row) for row in marginals} == {steps}
        # one by one they are the same
        alone = [model.score_samples([np.array(part)])[0] for part in more]
        np.testing.assert_allclose(value, alone, rtol=1e-9)
    assert model.partial_fit(FORMS[form](x[:, :7])).n_iter_ == 1
    with pytest.raises(ValueError, match=r"column|vectors|features"):
        model.score_samples(np.ones((3, 4, 5)))


@pytest.mark.parametrize("kind", ["vectors", "column", "categorical"])
def test_the_lengths_of_hmmlearn(kind):
    parts = sequences("categorical" if kind == "categorical" else "full")
    parts = [part if kind == "vectors" else part.reshape(len(part), -1)[:, :1] for part in parts]
    emissions = "categorical" if kind == "categorical" else "gaussian"
    model = HMM(2, emissions=emissions, random_state=0, max_iter=5)
    rows, lengths = np.concatenate(parts), [len(part) for part in parts]
    listed = clone(model).fit([part[:, 0] if kind == "categorical" else part for part in parts])
    weight = np.arange(len(parts)) % 3
    for fitted in (clone(model).fit(rows, lengths), clone(model).fit(rows, lengths=np.array(lengths))):
        np.testing.assert_array_equal(fitted.transmat_, listed.transmat_)
        np.testing.assert_array_equal(fitted.predict(rows, lengths), np.concatenate(listed.predict(parts)))
        assert fitted.predict_proba(rows, lengths).shape == (len(rows), 2)
        np.testing.assert_array_equal(fitted.score_samples(rows, lengths), listed.score_samples(parts))
        assert fitted.score(rows, lengths) == listed.score(parts)
        assert fitted.score(rows, None, weight, lengths) == listed.score(parts, sample_weight=weight)
    # labels of the samples are not used, as everywhere in scikit-learn
    np.testing.assert_array_equal(clone(model).fit(parts, np.ones(len(parts))).transmat_, listed.transmat_)


@pytest.mark.parametrize(
    ("X", "lengths", "message"),
    [
        (np.ones((10, 2)), [3, 4], "add up to the 10 steps of X; they add up to 7"),
        (np.ones((10, 2)), [3, 7.0], "whole numbers"),
        (np.ones((10, 2)), [10, 0], "at least 1"),
        ([np.ones((4, 2)), np.ones((3, 2))], [4, 3], "list of sequences"),
        (np.ones((10, 2, 3)), [10], r"shape \(10, 2, 3\)"),
    ],
)
def test_lengths_that_cannot_be(X, lengths, message):
    with pytest.raises(ValueError, match=message):
        HMM().fit(X, lengths=lengths)
    # in the place of y it is neither lengths nor a value for each sequence
    if len(lengths) != len(X) and sum(lengths) != len(X):
        with pytest.raises(ValueError, match="y has 2 values for 10 sequences"):
            HMM().fit(X, lengths)


def test_the_bound_of_factorial_chains_is_below_the_exact_value():
    parts = sequences("full")
    model = FactorialHMM(2, 2, random_state=0, max_iter=10).fit(parts)
    bound = model.score_samples(parts)
    x = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(part) for part in parts], batch_first=True)
    mask = torch.arange(x.shape[1]) < torch.tensor([len(part) for part in parts]).unsqueeze(-1)
    with torch.no_grad():
        exact = model.model_.exact().posterior(Batch(x, mask.unsqueeze(-1).expand_as(x))).log_partition.numpy()
    assert (bound <= exact + 1e-9).all()
    assert (exact - bound).max() < 5
    assert {path.shape[1:] for path in model.predict(parts)} == {(2,)}


def test_the_mixture_of_bernoullis_by_its_formula():
    random = np.random.default_rng(0)
    X = (random.random((200, 5)) < np.where(random.integers(2, size=(200, 1)), 0.8, 0.1)).astype(float)
    X[random.random(X.shape) < 0.1] = np.nan
    model = MixtureOfBernoullis(2, random_state=0).fit(X)
    factor = np.where(X[:, None] == 1, model.probs_, np.where(np.isnan(X[:, None]), 1, 1 - model.probs_))
    joint = model.weights_ * factor.prod(-1)
    np.testing.assert_allclose(model.score_samples(X), np.log(joint.sum(1)), rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), joint / joint.sum(1, keepdims=True), rtol=1e-9)
    same = clone(model).set_params(binarize=7).fit(10 * X)
    np.testing.assert_array_equal(same.probs_, model.probs_)
    assert model.bic(X) == pytest.approx(11 * np.log(200) - 2 * model.score_samples(X).sum())
    # what is above 0 is a 1 unless said otherwise, as in scikit-learn
    np.testing.assert_array_equal(clone(model).fit(10 * X).probs_, model.probs_)
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        clone(model).set_params(binarize=None).fit(10 * X)


def test_a_weight_counts_in_the_criteria():
    X, weight = load_iris().data, np.arange(150) % 3
    model = GaussianMixture(2, random_state=0).fit(X, sample_weight=weight)
    repeated = np.repeat(X, weight, axis=0)
    assert model.bic(X, sample_weight=weight) == pytest.approx(model.bic(repeated), rel=1e-12)
    assert model.aic(X, sample_weight=weight) == pytest.approx(model.aic(repeated), rel=1e-12)
    assert model.bic(X, sample_weight=weight) != pytest.approx(model.bic(X))
    with pytest.raises(ValueError, match="a number for each"):
        model.bic(X, sample_weight=[1.0])


def test_the_mixture_of_categoricals_by_its_formula():
    random = np.random.default_rng(0)
    X = random.integers(3, size=(100, 4)).astype(float)
    X[random.random(X.shape) < 0.1] = np.nan
    model = MixtureOfCategoricals(2, random_state=0, n_categories=4).fit(X)
    assert model.probs_.shape == (2, 4, 4)
    symbol = np.nan_to_num(X).astype(int)
    factor = model.probs_[:, np.arange(4), symbol].swapaxes(0, 1)
    joint = model.weights_ * np.where(np.isnan(X)[:, None], 1, factor).prod(-1)
    np.testing.assert_allclose(model.score_samples(X), np.log(joint.sum(1)), rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X), joint / joint.sum(1, keepdims=True), rtol=1e-9)


def documents(seed=0):
    """Counts of 12 words: each document has words of one half, but for a few."""
    random = np.random.default_rng(seed)
    half = random.integers(2, size=60)
    rate = np.where((np.arange(12) < 6) == half[:, None], 5.0, 0.1)
    return random.poisson(rate), half


def test_topics_of_documents():
    counts, half = documents()
    model = LDA(2, random_state=0, tol=1e-6).fit(counts)
    np.testing.assert_allclose(model.components_.sum(1), 1)
    # each topic has half of the words, and each document its topic
    assert sorted(model.components_[:, :6].sum(1) > 0.5) == [False, True]
    shares = model.transform(counts)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert adjusted_rand_score(shares.argmax(1), half) == 1
    sparse = clone(model).fit(scipy.sparse.csr_array(counts))
    np.testing.assert_array_equal(sparse.components_, model.components_)
    np.testing.assert_array_equal(sparse.transform(scipy.sparse.coo_array(counts)), shares)
    assert model.score(counts) == pytest.approx(model.score_samples(counts).mean(), rel=1e-9)
    assert model.score(counts) == pytest.approx(model.lower_bound_, rel=1e-6)
    assert np.log(model.perplexity(counts)) == pytest.approx(-model.score_samples(counts).sum() / counts.sum())
    drawn, theta = model.sample(2000, n_words=30)
    assert (drawn.sum(1) == 30).all()
    np.testing.assert_allclose(drawn.mean(0) / 30, (theta @ model.components_).mean(0), atol=5 * 0.5 / np.sqrt(60_000))


def test_a_document_without_words_has_the_topics_of_the_prior():
    counts, _ = documents()
    model = LDA(3, random_state=0, max_iter=5).fit(counts)
    share = model.transform(np.zeros((1, 12)))
    np.testing.assert_allclose(share[0], model.doc_topic_prior_ / model.doc_topic_prior_.sum(), rtol=1e-9)
    assert model.score_samples(np.zeros((1, 12)))[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("estimator", "X", "message"),
    [
        (GaussianMixture(covariance_type="round"), np.eye(3), "covariance_type"),
        (GaussianMixture(0), np.eye(3), "component"),
        (GaussianMixture(max_iter=0), np.eye(3), "max_iter"),
        (HMM(emissions="poisson"), np.eye(3), "emissions"),
        (HMM(emissions="categorical"), np.eye(3) + 0.5, "whole"),
        (HMM(emissions="categorical"), -np.eye(3), "Negative"),
        (HMM(emissions="categorical"), np.ones((3, 3, 2)), "one a step"),
        (LDA(2), np.eye(3) / 2, "whole number of times"),
        (LDA(2), -np.eye(3), "Negative"),
        (HMM(), np.ones((3, 3, 2, 2)), "features"),
        (HMM(), [np.ones((3, 2)), np.ones((3, 1))], "same features"),
    ],
)
def test_what_cannot_be_is_refused(estimator, X, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


def test_symbols_that_were_never_seen():
    X = np.array([[0, 1, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match="symbol 2"):
        HMM(2, emissions="categorical").fit(X).score_samples(X + 1)
    assert np.isfinite(HMM(2, emissions="categorical", n_symbols=3).fit(X).score_samples(X + 1)).all()


def test_nothing_is_answered_before_it_is_fitted(estimator):
    with pytest.raises(NotFittedError):
        estimator.score_samples(rows_for(estimator))
    with pytest.raises(NotFittedError):
        estimator.sample()
