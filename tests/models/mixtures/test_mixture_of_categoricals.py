"""The mixture of categoricals: closed forms, brute force, other models' equal cases, and 20 Newsgroups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from latentia.data import load
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import MixtureOfBernoullis, MixtureOfCategoricals
from latentia.models.mixtures.mixture_of_categoricals import tiny
from latentia.runs.build import build_model
from latentia.testing import check_model, one_thread

NEWS = Path(__file__).parents[3] / ".." / "shared" / "data" / "20news_nvdm"


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def tiny_rows(seed):
    """Two components over rows of three columns with three levels, two values missing."""
    generator = torch.Generator().manual_seed(seed)
    model = MixtureOfCategoricals(symbols=3, features=3, components=2, smoothing=0.3).double()
    for parameter in model.parameters():
        parameter.data = 1.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(3, (9, 3), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = mask[4, 0] = False
    return model, Batch.of(x, mask)


def test_rows_pass_the_checks_as_documents_do():
    assert "check_em_recovers" in check_model(tiny_rows)


@pytest.mark.parametrize("make", [tiny, tiny_rows])
def test_log_likelihood_is_the_sum_over_clusters(make):
    model, batch = make(0)
    with torch.no_grad():
        found = model.posterior(batch).log_partition.tolist()
        probs, weights = model.emissions.probs.numpy(), model.weights.numpy()
    for x, seen, value in zip(batch.x.numpy(), batch.observed.numpy(), found, strict=True):
        columns = np.arange(len(x)) if probs.shape[1] > 1 else 0
        factors = np.where(seen, probs[:, columns, x], 1.0)
        assert value == pytest.approx(np.log(weights @ factors.prod(1)), abs=1e-12)


def test_documents_of_one_topic_are_the_unigram():
    model = MixtureOfCategoricals(symbols=4, components=1, smoothing=0.0).double()
    x = torch.tensor([[0, 1, 1, 3], [1, 3, 0, 0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    EM(progress=False).fit(model, Batch.of(x, mask))
    assert torch.allclose(model.probs[0], torch.tensor([1, 3, 0, 2]).double() / 6)


def test_two_levels_are_bernoullis():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(200, 6, generator=generator) < torch.rand(2, 1, 6, generator=generator)[0]).double()
    mask = torch.rand(x.shape, generator=generator) < 0.9
    bits, levels = MixtureOfBernoullis((6,), 3, 0.2).double(), MixtureOfCategoricals(2, 6, 3, 0.2).double()
    bits.start(Batch.of(x, mask), generator)
    levels.logits.data = bits.logits.data.clone()
    levels.emissions.average.copy_(torch.stack([1 - bits.emissions.average, bits.emissions.average], 1))
    levels.emissions.logits.data = torch.stack([torch.zeros_like(bits.emissions.logits), bits.emissions.logits], -1)
    for model, values in ((bits, x), (levels, x.long())):
        with pytest.warns(UserWarning, match="raise steps"):
            EM(steps=10, tol=0, fresh=False, progress=False).fit(model, Batch.of(values, mask))
    assert torch.allclose(bits.weights, levels.weights, atol=1e-10)
    assert torch.allclose(bits.probs, levels.probs[..., 1], atol=1e-10)
    assert torch.allclose(bits.log_prior(), levels.log_prior(), atol=1e-8)


def test_the_sizes_come_from_the_data():
    text = load([["a", "b"], ["b", "c", "a"]], kind="text")
    model = build_model("MixtureOfCategoricals", {"components": 2}, text.schema)
    assert isinstance(model, MixtureOfCategoricals)
    assert model.probs.shape == (2, text.schema.levels)
    table = load(np.array([[0, 2], [1, 0], [3, 1]]), values="levels")
    model = build_model("MixtureOfCategoricals", {"components": 2}, table.schema)
    assert isinstance(model, MixtureOfCategoricals)
    assert model.probs.shape == (2, 2, 4)
    model.check(table.batch())
    with pytest.raises(OptionError, match="needs symbols"):
        build_model("MixtureOfCategoricals", {}, load(np.array([[0.5], [1.5]])).schema)


def test_free_parameters_are_weights_and_probabilities():
    assert MixtureOfCategoricals(5, components=3).free_parameters() == 2 + 3 * 4
    assert MixtureOfCategoricals(5, 2, components=3).free_parameters() == 2 + 3 * 2 * 4


def test_an_empty_component_is_told_of():
    model, _ = tiny(0)
    assert not model.concerns()
    model.logits.data[0] = -100
    assert model.concerns() == ["component 0 is empty: use fewer components or more restarts"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 4).long(), "flatten each datum"),
        (torch.tensor([[0, 1, 2]]), "outside 0..1"),
        (torch.tensor([[0, 1]]), "3 features"),
    ],
)
def test_other_data_are_refused(x, message):
    with pytest.raises(DataError, match=message):
        EM(progress=False).fit(MixtureOfCategoricals(2, 3, components=2).double(), Batch(x))


def newsgroups(name, most):
    """Documents of at most 200 words as lists of word numbers, and their groups."""
    words, groups = [], []
    for line in (NEWS / f"{name}.feat").read_text().splitlines():
        group, *pairs = line.split()
        counts = np.array([pair.split(":") for pair in pairs], dtype=np.int64).reshape(-1, 2)
        document = np.repeat(counts[:, 0] - 1, counts[:, 1])
        if 0 < len(document) <= 200:
            words.append(document)
            groups.append(int(group))
    every = max(len(words) // most, 1)
    return words[::every], groups[::every]


@pytest.mark.skipif(not NEWS.is_dir(), reason="20 Newsgroups is not beside the project")
def test_newsgroups():
    """Topics predict held-out words better than word frequencies do, and are about what the groups are about."""
    (words, _), (held_out, groups) = newsgroups("train", 5000), newsgroups("test", 2000)
    train = load(words, kind="sequence")
    test = load(held_out, kind="sequence", schema=train.schema)
    counts = np.bincount(np.concatenate(words), minlength=train.schema.levels) + 0.5
    unigram = np.log(counts / counts.sum())
    tokens = sum(map(len, held_out))
    by_unigram = sum(unigram[document].sum() for document in held_out) / tokens
    model = MixtureOfCategoricals(train.schema.levels, components=20, smoothing=0.1).double()
    EM(tol=1e-3, progress=False).fit(model, train)
    by_topics = evaluate(model, test).total_log_marginal / tokens
    assert by_topics - by_unigram > 0.1
    with torch.no_grad():
        cluster = model.posterior(test.batch()).mode.argmax(-1)
    assert normalized_mutual_info_score(groups, cluster.numpy()) > 0.3
