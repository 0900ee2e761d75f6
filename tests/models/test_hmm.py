"""The hidden Markov model against hmmlearn, in float64 on ragged sequences."""

import numpy as np
import pytest
import torch
from hmmlearn.hmm import CategoricalHMM, GaussianHMM

from latentia.model import Batch
from latentia.models import HMM
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
    mask = torch.arange(x.shape[1]) < torch.tensor(LENGTHS).unsqueeze(-1)
    return Batch(x, mask if x.ndim == 2 else mask.unsqueeze(-1).expand_as(x))


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


def with_chain(model, peer):
    model.initial_logits.data = tensor(peer.startprob_).log()
    model.transition_logits.data = tensor(peer.transmat_).log()
    return model


CASES = {
    "categorical": categorical,
    "diagonal": lambda: gaussian("diagonal"),
    "full": lambda: gaussian("full"),
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
    else:
        close(model.emissions.means, peer.means_)
        close(model.emissions.covariances, peer.covars_)
