"""The hidden Markov model against hmmlearn, in float64 on ragged sequences."""

import numpy as np
import pytest
import torch
from hmmlearn.hmm import GMMHMM, CategoricalHMM, GaussianHMM, MultinomialHMM, PoissonHMM

import latentia.sklearn
from latentia.data import as_dataset, load
from latentia.distributions.emissions import GaussianEmissions
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.model import Batch, ExactModel, Frame
from latentia.models import HMM
from latentia.models.chains import hmm
from latentia.tasks import decode_path, encode
from latentia.tasks.common import log_marginals
from latentia.testing import one_thread

STATES, SYMBOLS, FEATURES = 3, 4, 2
LENGTHS = [7, 1, 12, 4, 9, 20]


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def tensor(array):
    return torch.as_tensor(np.array(array), dtype=torch.float64)


def padded(rows):
    """Rows of all sequences, one after another, as a padded batch."""
    parts = torch.as_tensor(rows).split(LENGTHS)
    x = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    return Batch(x, lengths=torch.tensor(LENGTHS))


def dirichlet(generator, *shape):
    return generator.dirichlet(np.ones(shape[-1]), shape[:-1])


def categorical(seed=0):
    generator = np.random.default_rng(seed)
    peer = CategoricalHMM(STATES, n_features=SYMBOLS, init_params="", n_iter=10, tol=-np.inf)
    peer.startprob_, peer.transmat_ = dirichlet(generator, STATES), dirichlet(generator, STATES, STATES)
    peer.emissionprob_ = dirichlet(generator, STATES, SYMBOLS)
    rows = generator.integers(SYMBOLS, size=(sum(LENGTHS), 1))
    model = HMM(symbols=SYMBOLS, states=STATES, smoothing=0.0).double()
    model.emissions.logits.data = tensor(peer.emissionprob_).log()
    return with_chain(model, peer), peer, rows, padded(rows.squeeze(-1))


def gaussian(covariance, seed=0):
    generator = np.random.default_rng(seed)
    # hmmlearn's defaults add 1e-2 to every covariance and 1e-3 to its diagonal: neither is maximum likelihood
    peer = GaussianHMM(
        STATES, "full" if covariance == "full" else "diag", init_params="", n_iter=10, tol=-np.inf,
        min_covar=0.0, covars_prior=0.0, covars_weight=1.0 if covariance != "full" else 0.0,
        means_weight=0.0, means_prior=0.0,
    )  # fmt: skip
    peer.n_features = FEATURES
    peer.startprob_, peer.transmat_ = dirichlet(generator, STATES), dirichlet(generator, STATES, STATES)
    peer.means_ = generator.normal(size=(STATES, FEATURES))
    factor = np.tril(generator.normal(size=(STATES, FEATURES, FEATURES)) * 0.3) + 1.5 * np.eye(FEATURES)
    if covariance == "full":
        peer.covars_ = factor @ factor.swapaxes(1, 2)
    else:
        factor = factor * np.eye(FEATURES)
        peer.covars_ = np.diagonal(factor, axis1=1, axis2=2) ** 2
    rows = generator.normal(size=(sum(LENGTHS), FEATURES)) * 1.5
    model = HMM(features=FEATURES, states=STATES, covariance=covariance, smoothing=0.0, floor=1e-12).double()
    diagonal = np.diagonal(factor, axis1=1, axis2=2)
    # the Cholesky factor's diagonal is positive
    factor = factor * np.sign(diagonal)[:, None, :]
    model.emissions.means.data = tensor(peer.means_)
    model.emissions.log_scale.data = tensor(np.abs(diagonal)).log()
    if covariance == "full":
        i, j = torch.tril_indices(FEATURES, FEATURES, offset=-1)
        model.emissions.below.data = tensor(factor)[:, i, j]
    return with_chain(model, peer), peer, rows, padded(rows)


def same_for_all(covariance, seed=0):
    """Tied or spherical covariances: one matrix, or one variance a state."""
    generator = np.random.default_rng(seed)
    peer = GaussianHMM(
        STATES, covariance, init_params="", n_iter=10, tol=-np.inf, min_covar=0.0, covars_prior=0.0,
        covars_weight=1.0 if covariance == "spherical" else 0.0,
    )  # fmt: skip
    peer.n_features = FEATURES
    peer.startprob_, peer.transmat_ = dirichlet(generator, STATES), dirichlet(generator, STATES, STATES)
    peer.means_ = generator.normal(size=(STATES, FEATURES))
    rows = generator.normal(size=(sum(LENGTHS), FEATURES)) * 1.5
    model = HMM(features=FEATURES, states=STATES, covariance=covariance, smoothing=0.0, floor=1e-12).double()
    model.emissions.means.data = tensor(peer.means_)
    if covariance == "tied":
        peer.covars_ = np.eye(FEATURES) * 1.5**2
        model.emissions.log_scale.data.fill_(np.log(1.5))
    else:
        peer.covars_ = generator.uniform(0.5, 2.0, STATES)
        model.emissions.log_scale.data = 0.5 * tensor(peer._covars_).log().reshape(STATES, 1)
    return with_chain(model, peer), peer, rows, padded(rows)


def poisson(seed=0):
    generator = np.random.default_rng(seed)
    peer = PoissonHMM(STATES, init_params="", n_iter=10, tol=-np.inf)
    peer.n_features = FEATURES
    peer.startprob_, peer.transmat_ = dirichlet(generator, STATES), dirichlet(generator, STATES, STATES)
    peer.lambdas_ = generator.uniform(1, 6, size=(STATES, FEATURES))
    rows = generator.poisson(3.0, size=(sum(LENGTHS), FEATURES))
    model = HMM(features=FEATURES, states=STATES, emission="poisson", smoothing=0.0).double()
    model.emissions.log_rates.data = tensor(peer.lambdas_).log()
    return with_chain(model, peer), peer, rows, padded(rows.astype(float))


def multinomial(seed=0):
    generator = np.random.default_rng(seed)
    peer = MultinomialHMM(STATES, n_trials=5, init_params="", n_iter=10, tol=-np.inf)
    peer.n_features = SYMBOLS
    peer.startprob_, peer.transmat_ = dirichlet(generator, STATES), dirichlet(generator, STATES, STATES)
    peer.emissionprob_ = dirichlet(generator, STATES, SYMBOLS)
    rows = generator.multinomial(5, np.ones(SYMBOLS) / SYMBOLS, size=sum(LENGTHS))
    model = HMM(features=SYMBOLS, states=STATES, emission="multinomial", smoothing=0.0).double()
    model.emissions.logits.data = tensor(peer.emissionprob_).log()
    return with_chain(model, peer), peer, rows, padded(rows.astype(float))


def with_chain(model, peer):
    model.initial_logits.data = tensor(peer.startprob_).log()
    model.transition_logits.data = tensor(peer.transmat_).log()
    return model


CASES = {
    "categorical": categorical,
    "diagonal": lambda: gaussian("diagonal"),
    "full": lambda: gaussian("full"),
    "tied": lambda: same_for_all("tied"),
    "spherical": lambda: same_for_all("spherical"),
    "poisson": poisson,
    "multinomial": multinomial,
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def close(left, right, tolerance=1e-6):
    np.testing.assert_allclose(left.detach().numpy(), right, rtol=tolerance, atol=tolerance)


def test_log_likelihood_of_each_sequence(case):
    model, peer, rows, batch = case
    expected = [peer.score(part) for part in np.split(rows, np.cumsum(LENGTHS)[:-1])]
    close(model.posterior(batch).log_partition, expected)


def test_posterior_marginals(case):
    model, peer, rows, batch = case
    found = model.posterior(batch).marginals
    close(
        torch.cat([row[:length] for row, length in zip(found, LENGTHS, strict=True)]), peer.predict_proba(rows, LENGTHS)
    )


def test_viterbi_path(case):
    model, peer, rows, batch = case
    mode = model.posterior(batch).mode
    path = torch.cat([row[:length].argmax(-1) for row, length in zip(mode, LENGTHS, strict=True)])
    value, expected = peer.decode(rows, LENGTHS, algorithm="viterbi")
    np.testing.assert_array_equal(path.numpy(), expected)
    close(model.log_joint(batch, mode.unsqueeze(0)).sum(), value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ten_steps_of_em(case):
    model, peer, rows, batch = case
    with torch.no_grad():
        for _ in range(10):
            model.update(model.statistics(batch, model.posterior(batch)))
    peer.fit(rows, LENGTHS)
    assert peer.monitor_.iter == 10
    close(model.initial, peer.startprob_)
    close(model.transition, peer.transmat_)
    if hasattr(peer, "emissionprob_"):
        close(model.emissions.probs, peer.emissionprob_)
    elif hasattr(peer, "lambdas_"):
        close(model.emissions.rates, peer.lambdas_)
    else:
        close(model.emissions.means, peer.means_)
        # after a fit hmmlearn has a spherical covariance once for each dimension
        close(model.emissions.covariances, peer.covars_[:: len(peer.covars_) // STATES])


def test_mixtures_in_each_state_have_hmmlearns_likelihood():
    generator = np.random.default_rng(0)
    peer = GMMHMM(STATES, 2, covariance_type="diag", init_params="")
    peer.n_features = FEATURES
    peer.startprob_, peer.transmat_ = dirichlet(generator, STATES), dirichlet(generator, STATES, STATES)
    peer.weights_, peer.means_ = dirichlet(generator, STATES, 2), generator.normal(size=(STATES, 2, FEATURES))
    peer.covars_ = generator.uniform(0.5, 2.0, size=(STATES, 2, FEATURES))
    rows = generator.normal(size=(sum(LENGTHS), FEATURES)) * 1.5
    model = HMM(features=FEATURES, states=STATES, emission="mixture", components=2, covariance="diagonal").double()
    model.emissions.logits.data = tensor(peer.weights_).log()
    model.emissions.gaussians.means.data = tensor(peer.means_).flatten(0, 1)
    model.emissions.gaussians.log_scale.data = 0.5 * tensor(peer.covars_).log().flatten(0, 1)
    batch = padded(rows)
    close(with_chain(model, peer).posterior(batch).log_partition.sum(), peer.score(rows, LENGTHS), 1e-9)
    with torch.no_grad():
        close(model.expect(batch)[1], peer.score(rows, LENGTHS), 1e-9)


@pytest.mark.parametrize("emission", ["mixture", "poisson", "multinomial", "bernoulli"])
def test_em_climbs_with_every_emission(emission):
    """From a random start, on data with missing steps: EM raises an error if log p(x) falls."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2 if emission == "bernoulli" else 5, (20, 8, 3), generator=generator).double()
    mask = (torch.rand(20, 8, 1, generator=generator) < 0.8).expand_as(x)
    model = HMM(features=3, states=3, emission=emission).double()
    history = EM(steps=15, tol=1e-12, progress=False).fit(model, as_dataset(Batch.of(x, mask)))
    values = [record["log_marginal"] for record in history.records]
    assert values[-1] > values[0]
    assert bool((model.generate(Frame(2))[0].x >= (-torch.inf if emission == "mixture" else 0)).all())


# ---------------------------------------------------------------------------------------- the fused E-step


def random_model(kind, seed=0, states=5):
    generator = torch.Generator().manual_seed(seed)
    options = {"symbols": 7} if kind == "categorical" else {"features": 2, "covariance": kind}
    model = HMM(states=states, smoothing=0.0, **options).double()
    batch = ragged(kind, seed)
    model.start(batch, generator)
    return model, batch


def ragged(kind, seed=0, count=11, longest=9):
    """Sequences of 0 to `longest` steps, a fifth of whose values are missing, weighted, some absent."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, longest) if kind == "categorical" else (count, longest, 2)
    x = torch.randint(7, shape, generator=generator)
    x = x if kind == "categorical" else torch.randn(shape, generator=generator, dtype=torch.float64)
    lengths = torch.randint(longest + 1, (count,), generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.8
    return Batch.of(x, mask, lengths, weight=torch.randint(3, (count,), generator=generator).double())


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("kind", ["categorical", "diagonal", "full"])
def test_the_fused_step_gives_the_posteriors_statistics(kind, hard, monkeypatch):
    model, batch = random_model(kind)
    monkeypatch.setattr(hmm, "BLOCK", 100)  # two sequences at a time
    with torch.no_grad():
        sums, value = model.expect(batch, hard)
        expected, expected_value = ExactModel.expect(model, batch, hard)
    close(value, expected_value, 1e-10)
    assert sums.keys() == expected.keys()
    for name, statistic in expected.items():
        close(sums[name], statistic, 1e-10)


def test_a_sequence_that_underflows_is_computed_by_the_recursion():
    """A change of state that costs 1,000 nats and that the data insist on."""
    model = HMM(features=1, states=2, covariance="diagonal").double()
    model.emissions.means.data = torch.tensor([[0.0], [100.0]], dtype=torch.float64)
    model.transition_logits.data = torch.tensor([[0.0, -1000.0], [-1000.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[[0.0], [0.0], [100.0]], [[0.0], [0.0], [0.0]]], dtype=torch.float64)
    with torch.no_grad():
        sums, value = model.expect(Batch(x))
    density = -0.5 * np.log(2 * np.pi)
    assert float(value) == pytest.approx(2 * np.log(0.5) + 6 * density - 1000.0, abs=1e-9)
    close(sums["transition"], [[3.0, 1.0], [0.0, 0.0]])
    away = sums["sum"] * model.emissions.unit
    close(away + sums["count"].unsqueeze(-1) * model.emissions.center, [[0.0], [100.0]])


def test_single_precision_follows_double():
    model, batch = random_model("categorical")
    with torch.no_grad():
        expected, expected_value = model.expect(batch)
        found, value = model.float().expect(batch)
    assert value.dtype == torch.float64
    close(value, expected_value, 1e-5)
    for name in expected:
        close(found[name].double(), expected[name], 1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ten_steps_of_the_learner_reach_hmmlearns_likelihood(case):
    model, peer, rows, batch = case
    history = EM(steps=10, tol=0.0, fresh=False, progress=False).fit(model, as_dataset(batch))
    peer.fit(rows, LENGTHS)
    assert history.records[-1]["log_marginal"] * len(LENGTHS) == pytest.approx(peer.score(rows, LENGTHS), rel=1e-9)


# ------------------------------------------------------------------------------------------- order and worries


def test_canonical_order_puts_what_is_visited_most_first():
    """The shares of a two-state chain: to 2/3 in the state that is left half as often, whatever the start."""
    model = HMM(symbols=2, states=2).double()
    model.initial_logits.data = tensor([1.0, 1e-9]).log()
    model.transition_logits.data = tensor([[0.8, 0.2], [0.1, 0.9]]).log()
    model.emissions.logits.data = tensor([[0.7, 0.3], [0.4, 0.6]]).log()
    model.canonical()
    close(model.transition, [[0.9, 0.1], [0.2, 0.8]])
    close(model.initial, [0.0, 1.0])
    close(model.emissions.probs, [[0.4, 0.6], [0.7, 0.3]])


def test_canonical_order_of_equal_shares_is_that_of_the_start():
    """A wheel of three states spends equal times in all, but for where it starts."""
    wheel = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    orders = []
    for first in ([0.2, 0.5, 0.3], [0.5, 0.3, 0.2]):
        model = HMM(symbols=2, states=3).double()
        model.initial_logits.data = tensor(first).log()
        model.transition_logits.data = (wheel + 1e-12).log()
        model.canonical()
        orders.append(model.initial.tolist())
    # the wheel goes 0 -> 2 -> 1, and each state's share falls with the time until it is first reached
    assert orders[0] == pytest.approx([0.5, 0.2, 0.3])
    assert orders[1][0] == pytest.approx(0.5)


def test_a_state_without_data_is_named():
    x = torch.tensor([[0, 0, 1, 1, 0, 1]] * 4)
    model = HMM(symbols=2, states=3, smoothing=0.0).double()
    model.start(Batch(x), torch.Generator().manual_seed(0))
    assert model.concerns() == []
    model.transition_logits.data[:, 1] = -100.0
    model.initial_logits.data[1] = -100.0
    with pytest.warns(UserWarning, match="state 1 has less than one step"):
        EM(steps=3, fresh=False, progress=False, tol=0.0).fit(model, as_dataset(Batch(x)))


def test_free_parameters_are_counted():
    """Rows of probabilities sum to one: 2 + 3 * 2 + 3 * 6 of 3 + 9 + 21; of Gaussians all count."""
    assert HMM(symbols=7, states=3).free_parameters() == 26
    assert HMM(features=2, states=3).free_parameters() == 8 + 12


def test_what_cannot_be_is_refused():
    with pytest.raises(OptionError, match="give one of symbols=V, features=D"):
        HMM(states=2)
    with pytest.raises(OptionError, match="symbols are categorical"):
        HMM(features=2, emission="categorical")
    with pytest.raises(OptionError, match="symbols are categorical"):
        HMM(symbols=2, emission="poisson")
    with pytest.raises(DataError, match=r"vectors, x \(B, T, D\)"):
        HMM(features=2, states=2).check(Batch(torch.zeros(3, 4)))


# -------------------------------------------------------------------------------------------- one long sequence


def mixed_lengths():
    random = np.random.default_rng(0)
    return [random.normal(size=10) for _ in range(30)] + [random.normal(size=2000)] + [np.ones(7)] * 30


USES = {
    "fit": lambda model, data: EM(steps=1, progress=False).fit(model, data),
    "evaluate": lambda model, data: evaluate(model, data),
    "encode": lambda model, data: encode(model, data),
    "paths": lambda model, data: decode_path(model, data),
    "scores": lambda model, data: log_marginals(model, data, 1, 0, 0),
}


@pytest.mark.parametrize("use", USES)
def test_one_long_sequence_pads_no_others(use, monkeypatch):
    """What goes through the model is about as long as the data: blocks are of sequences of like length."""
    data, seen, log_prob = load(mixed_lengths()), [], GaussianEmissions.log_prob

    def counted(self, x, mask):
        seen.append(len(x))
        return log_prob(self, x, mask)

    monkeypatch.setattr(GaussianEmissions, "log_prob", counted)
    USES[use](HMM(features=1, states=2).double(), data)
    # evaluation asks five times
    assert sum(seen) < 12 * int(data.lengths.sum())


def test_one_long_sequence_pads_no_others_in_an_estimator(monkeypatch):
    sequences, seen, log_prob = mixed_lengths(), [], GaussianEmissions.log_prob

    def counted(self, x, mask):
        seen.append(len(x))
        return log_prob(self, x, mask)

    monkeypatch.setattr(GaussianEmissions, "log_prob", counted)
    steps = sum(map(len, sequences))
    estimator = latentia.sklearn.HMM(2, max_iter=2, random_state=0).fit(sequences)
    assert sum(seen) < 9 * steps
    seen.clear()
    estimator.predict(sequences)
    assert sum(seen) < 3 * steps


def test_blocks_of_like_length_give_answers_in_the_order_of_the_data():
    sequences = mixed_lengths()
    data, model = load(sequences), HMM(features=1, states=2).double()
    model.emissions.means.data = torch.tensor([[0.0], [1.0]]).double()
    each = [load([one]) for one in sequences]
    states, steps = decode_path(model, data)
    values, _ = log_marginals(model, data, 1, 0, 0)
    for n, one in enumerate(each):
        assert int(steps[n]) == len(sequences[n])
        assert torch.equal(states[n, : int(steps[n])], decode_path(model, one)[0][0])
        assert values[n] == pytest.approx(float(log_marginals(model, one, 1, 0, 0)[0][0]), rel=1e-12)
    estimator = latentia.sklearn.HMM(2, max_iter=2, random_state=0).fit(sequences)
    assert [len(path) for path in estimator.predict(sequences)] == [len(one) for one in sequences]
    alone = [estimator.score_samples([one])[0] for one in sequences]
    np.testing.assert_allclose(estimator.score_samples(sequences), alone, rtol=1e-12)
