"""Equality with the peers on real text: an HMM on the Penn Treebank, naive Bayes on 20 Newsgroups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hmmlearn.hmm import CategoricalHMM
from sklearn.naive_bayes import MultinomialNB

from latentia.data import load
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import HMM, MixtureOfCategoricals

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
PTB, NEWS = DATA / "ptb" / "ptb.valid.txt", DATA / "20news_nvdm" / "train.feat"


@pytest.mark.skipif(not PTB.exists(), reason="the Penn Treebank text is not beside the project")
def test_an_hmm_on_sentences_is_hmmlearns(tmp_path):
    """Ten EM steps from one start: log p(x) of every sentence, the marginals and the best path."""
    text = tmp_path / "sentences.txt"
    text.write_text("\n".join(PTB.read_text().splitlines()[:300]))
    data = load(text, min_count=1)
    batch, symbols, states = data.batch(), data.schema.levels, 8
    assert batch.mask is None
    random = np.random.default_rng(0)
    start, move, emit = (
        random.dirichlet(np.ones(size), rows) for rows, size in ((1, states), (states, states), (states, symbols))
    )
    peer = CategoricalHMM(
        states, n_iter=10, tol=-np.inf, init_params="", implementation="scaling", n_features=symbols,
        startprob_prior=1, transmat_prior=1,
    )  # fmt: skip
    peer.startprob_, peer.transmat_, peer.emissionprob_ = start[0], move, emit
    rows = [row[:length].numpy() for row, length in zip(batch.x, batch.lengths, strict=True)]
    lengths = [len(row) for row in rows]
    peer.fit(np.concatenate(rows)[:, None], lengths)
    model = HMM(symbols=symbols, states=states, smoothing=0.0).double()
    model.initial_logits.data = torch.from_numpy(start[0]).log()
    model.transition_logits.data = torch.from_numpy(move).log()
    model.emissions.logits.data = torch.from_numpy(emit).log()
    with pytest.warns(UserWarning, match="raise steps"):
        EM(steps=10, tol=0, fresh=False, progress=False).fit(model, data)
    with torch.no_grad():
        posterior = model.posterior(batch)
        values, marginals, paths = posterior.log_partition, posterior.marginals, posterior.mode.argmax(-1)
    for i in range(0, len(rows), 10):
        score, expected = peer.score_samples(rows[i][:, None])
        assert values[i].item() == pytest.approx(score, abs=1e-6)
        assert np.allclose(marginals[i, : lengths[i]].numpy(), expected, atol=1e-6)
        assert np.array_equal(paths[i, : lengths[i]].numpy(), peer.predict(rows[i][:, None]))


def newsgroups() -> tuple[np.ndarray, np.ndarray]:
    """Labels, and counts (N, 2000), of the first 2,000 documents."""
    labels, counts = [], np.zeros((2000, 2000))
    for i, line in enumerate(NEWS.read_text().splitlines()[:2000]):
        label, *pairs = line.split()
        labels.append(int(label))
        for pair in pairs:
            word, count = pair.split(":")
            counts[i, int(word) - 1] = int(count)
    return np.array(labels), counts


@pytest.mark.skipif(not NEWS.exists(), reason="20 Newsgroups is not beside the project")
def test_naive_bayes_on_newsgroups_is_scikit_learns():
    """With known labels the M-step is multinomial naive Bayes, and the posterior is its prediction."""
    labels, counts = newsgroups()
    names, known = np.unique(labels, return_inverse=True)
    peer = MultinomialNB(alpha=1.0).fit(counts, known)
    words = [torch.from_numpy(np.repeat(np.arange(2000), row.astype(int))) for row in counts]
    longest = max(map(len, words))
    x, mask = torch.zeros(2000, longest, dtype=torch.long), torch.zeros(2000, longest, dtype=torch.bool)
    for i, row in enumerate(words):
        x[i, : len(row)], mask[i, : len(row)] = row, True
    batch = Batch(x, mask)
    model = MixtureOfCategoricals(symbols=2000, components=len(names), smoothing=1.0).double()
    with torch.no_grad():
        member = torch.nn.functional.one_hot(torch.from_numpy(known), len(names)).double()
        sums = model.emissions.statistics(x, mask, member)
        model.update({**sums, "count": member.sum(0)})
        posterior = model.posterior(batch)
        log_joint = posterior.log_potentials["node"]
    assert np.allclose(log_joint.numpy(), peer.predict_joint_log_proba(counts), atol=1e-6)
    assert np.allclose(posterior.marginals.numpy(), peer.predict_proba(counts), atol=1e-6)
