"""Collapsed Gibbs sampling against the enumeration of all topics of a few words."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from latentia.kernels import gibbs
from latentia.kernels.gibbs_chain import LEAST, TopicChain

CONCENTRATION, SMOOTHING, SYMBOLS = [0.7, 0.3], 0.4, 3
DOCUMENTS = [[0, 1, 1], [2, 0], [1]]


def chain(documents, concentration=CONCENTRATION, symbols=SYMBOLS, smoothing=SMOOTHING, learn=False, seed=0):
    starts = torch.tensor([0, *itertools.accumulate(map(len, documents))])
    words = torch.tensor([word for words in documents for word in words], dtype=torch.long)
    prior = torch.as_tensor(concentration, dtype=torch.float64)
    return TopicChain(starts, words, symbols, prior, smoothing, learn, seed)


def urn(documents, topics, concentration, smoothing, symbols):
    """log p(words, topics): one token after another from Polya's urns, which is the definition."""
    kinds, value, left = len(concentration), 0.0, iter(topics)
    words, totals = np.full((kinds, symbols), smoothing), np.full(kinds, smoothing * symbols)
    for document in documents:
        shares = np.array(concentration, dtype=float)
        for word in document:
            k = next(left)
            value += math.log(shares[k] / shares.sum()) + math.log(words[k, word] / totals[k])
            shares[k] += 1
            words[k, word] += 1
            totals[k] += 1
    return value


def test_the_joint_is_that_of_the_urns():
    found = chain(DOCUMENTS)
    for topics in itertools.product(range(2), repeat=6):
        found.topics[:] = topics
        found._count()
        assert found.log_joint() == pytest.approx(urn(DOCUMENTS, topics, CONCENTRATION, SMOOTHING, SYMBOLS), abs=1e-10)


def test_draws_have_the_posterior_frequencies():
    found, draws = chain(DOCUMENTS), 60_000
    every = list(itertools.product(range(2), repeat=6))
    log_joint = np.array([urn(DOCUMENTS, topics, CONCENTRATION, SMOOTHING, SYMBOLS) for topics in every])
    expected = draws * np.exp(log_joint - np.logaddexp.reduce(log_joint))
    counts = np.zeros(len(every))
    for _ in range(draws):
        for _ in range(4):  # so that draws are nearly independent
            found.sweep()
        counts[int("".join(map(str, found.topics)), 2)] += 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, len(every) - 1) > 1e-6


@pytest.mark.parametrize("topics", [1, 7, 8, 9, 50])
def test_counts_stay_those_of_the_topics_and_no_other_topic_is_drawn(topics):
    generator = np.random.default_rng(topics)
    documents = [list(generator.integers(30, size=size)) for size in generator.integers(1, 40, size=200)]
    found = chain(documents, np.full(topics, 0.1), symbols=30, smoothing=0.01)
    for _ in range(50):
        found.sweep()
    assert found.topics.min() >= 0
    assert found.topics.max() < topics
    kept, totals = found.word_topic.copy(), found.topic_total.copy()
    found._count()
    np.testing.assert_array_equal(found.word_topic, kept)
    np.testing.assert_array_equal(found.topic_total, totals)


def test_the_learned_concentration_is_a_maximum():
    generator = np.random.default_rng(3)
    documents = [list(generator.integers(SYMBOLS, size=size)) for size in generator.integers(1, 12, size=60)]
    found = chain(documents, [0.5, 0.5, 0.5], learn=True, seed=1)
    for _ in range(30):
        found.sweep()
    before = found.log_joint()
    found.learn()
    assert found.log_joint() > before
    for _ in range(300):
        found.learn()
    best, step = found.concentration.clone(), 1e-4
    for k in range(3):
        values = []
        for sign in (1, -1):
            found.concentration = best.clone()
            found.concentration[k] *= 1 + sign * step
            values.append(found.log_joint())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(0.0, abs=1e-3)


def test_a_topic_that_no_document_has_keeps_a_little():
    found = chain(DOCUMENTS, [0.5, 0.5, 0.5], learn=True)
    found.topics[:] = [0, 1, 0, 1, 0, 1]
    found._count()
    found.learn()
    assert found.concentration[2] == LEAST
    assert bool(found.concentration.isfinite().all())


def test_restored_chains_go_on_alike():
    first, second = chain(DOCUMENTS, seed=3), chain(DOCUMENTS, seed=4)
    first.sweep()
    state = {name: value.clone() for name, value in first.state().items()}
    second.restore(state)
    for _ in range(5):
        first.sweep()
        second.sweep()
    np.testing.assert_array_equal(first.topics, second.topics)
    with pytest.raises(ValueError, match="other documents"):
        chain([[0]]).restore(state)


# ------------------------------------------------------------------------------------------------- left to right

BETA = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])


def exact(document):
    """log p(document) given the topics' words, by all topics of all its words."""
    values = []
    for topics in itertools.product(range(2), repeat=len(document)):
        shares, value = np.array(CONCENTRATION), 0.0
        for word, k in zip(document, topics, strict=True):
            value += math.log(shares[k] / shares.sum() * BETA[k, word])
            shares[k] += 1
        values.append(value)
    return np.logaddexp.reduce(values)


def left_to_right(documents, particles, seed=0, beta=BETA, concentration=CONCENTRATION):
    starts = np.array([0, *itertools.accumulate(map(len, documents))])
    words, state = np.concatenate([*documents, np.zeros(0, int)]).astype(int), np.array([seed], dtype=np.uint64)
    return gibbs.left_to_right(starts, words, np.ascontiguousarray(beta.T), np.array(concentration), particles, state)


@pytest.mark.parametrize("document", [[0], [0, 2], [0, 2, 2, 1], [1, 0, 0, 2, 0, 2]])
@pytest.mark.parametrize("particles", [1, 3])
def test_left_to_right_is_unbiased(document, particles):
    times = 20_000
    ratio = np.exp(left_to_right([document] * times, particles) - exact(document))
    error = ratio.std() / math.sqrt(times)
    assert abs(ratio.mean() - 1) <= 5 * error + 1e-12


def test_left_to_right_with_many_particles_is_exact():
    document = [1, 0, 0, 2, 0, 2, 2]
    assert left_to_right([document], 20_000)[0] == pytest.approx(exact(document), abs=0.02)


def test_left_to_right_of_one_topic_and_of_nothing():
    found = left_to_right([[0, 1, 1], []], 2, beta=BETA[:1], concentration=[0.3])
    np.testing.assert_allclose(found, [math.log(0.7 * 0.2 * 0.2), 0.0], atol=1e-12)
