"""Top words, their coherence, and document completion, by hand."""

import math

import pytest
import torch

from latentia.data import load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.model import LatentVariableModel
from latentia.models import LDA
from latentia.tasks import coherence, document_completion, top_words


class Bare(LatentVariableModel):
    """A model without a likelihood of its own."""

    def posterior(self, batch):
        raise NotImplementedError

    def log_joint(self, batch, z):
        raise NotImplementedError


DOCUMENTS = [[0, 1, 1], [0, 1, 4], [2, 4], [3, 4], [2, 4, 0]]


def test_top_words():
    topics = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.2, 0.2]])
    assert top_words(topics, ["a", "b", "c"], 2) == [["b", "c"], ["a", "b"]]


def test_coherence_is_that_of_counted_pairs():
    data = load(DOCUMENTS, kind="sequence")
    topics = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0], [0.0, 0.0, 0.4, 0.3, 0.3]])
    found = coherence(topics, data, words=3)

    def npmi(both, one, other):
        return math.log(both / 5 / (one / 5 * other / 5)) / -math.log(both / 5)

    # words 0..4 are in 3, 2, 2, 1, 4 documents
    first = (npmi(2, 3, 2) + npmi(1, 3, 2) - 1) / 3
    second = (-1 + npmi(2, 2, 4) + npmi(1, 1, 4)) / 3
    assert found.npmi == pytest.approx([first, second])
    assert found.mean == pytest.approx((first + second) / 2)
    assert (found.documents, found.words) == (5, 3)


def test_a_document_counts_by_its_weight():
    topics = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0], [0.0, 0.0, 0.4, 0.3, 0.3]])
    times = [1, 3, 2, 1, 0]
    repeated = [words for words, count in zip(DOCUMENTS, times, strict=True) for _ in range(count)]
    weighted = coherence(topics, load(DOCUMENTS, kind="sequence", weight=times), words=3)
    assert weighted.npmi == pytest.approx(coherence(topics, load(repeated, kind="sequence"), words=3).npmi)
    assert weighted.documents == 7
    model = LDA(5, 1).double()
    model.emissions.logits.data = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.2]], dtype=torch.float64).log()
    data = load([[0] * 4, [1] * 6], kind="sequence", weight=[0.25, 0.5])
    found = document_completion(model, data)
    assert found.words == 2 * 0.25 + 3 * 0.5
    assert found.log_prob == pytest.approx((0.5 * math.log(0.5) + 1.5 * math.log(0.1)) / 2)


def test_coherence_at_its_ends():
    topics = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    always = coherence(topics[:1], load([[0, 1], [0, 1, 2]], kind="sequence"), words=2)
    assert always.npmi == [1.0]
    together = coherence(topics[:1], load([[0, 1], [2], [2]], kind="sequence"), words=2)
    assert together.npmi == pytest.approx([1.0])
    never = coherence(topics[1:], load([[0, 1], [1, 2]], kind="sequence"), words=2)
    assert never.npmi == [-1.0]
    with pytest.raises(OptionError, match="a pair has two"):
        coherence(topics, load([[0, 1, 2]], kind="sequence"), words=1)
    with pytest.raises(DataError, match="no documents of words"):
        coherence(topics, load([[0.0, 1.0]]), words=2)


def test_completion_of_one_topic_is_its_unigram():
    model = LDA(5, 1).double()
    model.emissions.logits.data = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.2]], dtype=torch.float64).log()
    data = load([[0] * 4, [1] * 6, [4]], kind="sequence")
    found = document_completion(model, data)
    assert found.words == 5
    assert found.log_prob == pytest.approx((2 * math.log(0.5) + 3 * math.log(0.1)) / 5)
    assert found.perplexity == pytest.approx(math.exp(-found.log_prob))


def test_completion_sees_the_first_half_only():
    model = LDA(4, 2, concentration=0.05).double()
    model.emissions.logits.data = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).double().clamp(min=1e-9).log()
    x = torch.tensor([[0, 1] * 10, [2, 3] * 10])
    found = document_completion(model, load(list(x.numpy()), kind="sequence"), seed=3)
    # ten words tell the topic: each word of the rest has nearly one half
    assert 0.5 * 0.99 < math.exp(found.log_prob) <= 0.5
    mixed = document_completion(model, load([[0, 2]] * 50, kind="sequence"), seed=3)
    # the one word that is seen says nothing good of the other
    assert math.exp(mixed.log_prob) < 0.1


def test_completion_needs_documents_and_a_likelihood():
    with pytest.raises(DataError, match="two words"):
        document_completion(LDA(4, 2), load([[0], [3]], kind="sequence"))
    data = load([[0, 1], [1, 1]], kind="sequence")
    weighted = load([[0, 1], [1, 1]], kind="sequence", weight=[2, 0])
    assert document_completion(LDA(2, 2), weighted).words == 2
    assert document_completion(LDA(2, 2), data).words == 2
    with pytest.raises(CapabilityError, match="predict the rest"):
        document_completion(Bare(), data)
