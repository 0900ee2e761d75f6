"""Scores of oddness: planted outliers, AUROC by its definition, code lengths, and where raw likelihood fails."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from latentia.data import as_dataset, load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.learners import EM, Gradient
from latentia.model import Batch
from latentia.models import HMM, VAE, GaussianMixture, MixtureOfBernoullis
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import semi_supervised_vae, vae
from latentia.tasks import anomaly_scores, auroc, codes, gaps
from latentia.tasks.detect import advice, code_lengths, ranked


def digits(binarize="fixed"):
    return load("digits", binarize=binarize)


@pytest.fixture(scope="module")
def small_vae():
    rest, test = digits().split(0.2)
    model = VAE(event_shape=(8, 8), latent=6, hidden=(64,))
    Gradient(epochs=30, lr=2e-3, batch_size=64, progress=False).fit(model, rest, seed=0)
    return model, test.subset(slice(0, 100))


def test_likelihood_is_minus_log_p_in_the_units_of_the_data():
    model, batch = gaussian_mixture.tiny(0)
    found = anomaly_scores(model, batch)
    assert torch.allclose(found, -model.posterior(batch).log_partition.detach())


def test_regret_is_the_amortization_gap():
    model, batch = vae.tiny(0)
    options = {"steps": 20, "importance_samples": 50}
    assert torch.equal(
        anomaly_scores(model, batch, score="regret", **options), gaps(model, batch, **options).amortization
    )


def test_planted_outliers_are_found():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 3)) @ np.array([[1, 0.9, 0], [0, 0.3, 0], [0, 0, 1.0]])
    values[:5] = [[2, -2, 0], [-2, 2, 0], [1.5, -1.5, 0], [0, 3, 0], [0, 0, 6]]
    data = load(values)
    model = GaussianMixture(features=3, components=1, covariance="full").double()
    EM().fit(model, data)
    found = anomaly_scores(model, data)
    assert set(found.argsort(descending=True)[:5].tolist()) == {0, 1, 2, 3, 4}


def test_noise_among_digits_is_found_by_every_score(small_vae):
    model, test = small_vae
    share = float(test.x.mean())
    generator = torch.Generator().manual_seed(0)
    noise = (torch.rand(60, 8, 8, generator=generator) < share).float()
    for score, least in (("likelihood", 0.97), ("regret", 0.8), ("complexity", 0.97)):
        options = {"score": score, "importance_samples": 50, "steps": 50}
        scores = [anomaly_scores(model, Batch(x), **options) for x in (test.x, noise)]
        assert auroc(*scores) > least, score


def test_raw_likelihood_prefers_what_is_simple_and_length_sees_it():
    """Of pixels that are white one time in ten, no draw is as probable as the black image, which is never drawn."""
    generator = torch.Generator().manual_seed(0)
    inside = Batch((torch.rand(200, 16, 16, generator=generator) < 0.1).double())
    black = Batch(torch.zeros(10, 16, 16, dtype=torch.float64))
    model = MixtureOfBernoullis((16, 16), components=1).double()
    EM().fit(model, as_dataset(inside))
    rates = {
        score: auroc(*(anomaly_scores(model, x, score=score) for x in (inside, black)))
        for score in ("likelihood", "complexity")
    }
    assert rates["likelihood"] == 0.0
    assert rates["complexity"] == 1.0


def test_a_long_document_is_not_odd_for_its_length():
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 120, 150)
    data = load([generator.choice(8, size, p=np.arange(1, 9) / 36) for size in lengths], kind="sequence")
    model = HMM(symbols=8, states=2).double()
    EM(steps=5, restarts=1).fit(model, data)
    found = anomaly_scores(model, data)
    # of independent data the correlation has a standard error of 1 / sqrt(150)
    assert abs(np.corrcoef(found.numpy(), lengths)[0, 1]) < 4 / 150**0.5
    total = model.posterior(data.batch(dtype=torch.float64)).log_partition.detach()
    assert torch.allclose(found * torch.from_numpy(lengths), -total)


def test_what_was_not_observed_at_all_is_set_apart(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 2))
    rows[4] = np.nan
    data = load(rows)
    model = GaussianMixture(2, 1).double()
    found = anomaly_scores(model, data)
    assert found.isnan().tolist() == [row == 4 for row in range(12)]
    order = ranked(found)
    assert sorted(order.tolist()) == [row for row in range(12) if row != 4]
    assert torch.equal(found[order], found[order].sort(descending=True).values)
    assert auroc(found, found) == 0.5
    codes.write_scores(found, [("x", data)], None, tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().splitlines()[-1] == ",x,5,"


def test_the_regret_of_an_exact_posterior_is_not_recommended():
    model, data = GaussianMixture(2, 2).double(), load(np.random.default_rng(0).normal(size=(12, 2)))
    assert "regret" not in advice(model, data)
    with pytest.raises(CapabilityError, match="its regret is 0 for all"):
        anomaly_scores(model, data, score="regret")
    assert "regret and complexity" in advice(VAE((8, 8), latent=2, hidden=(4,)), digits())


def test_another_score_is_refused():
    model, batch = vae.tiny(0)
    with pytest.raises(OptionError, match="choose one of likelihood, regret, complexity"):
        anomaly_scores(model, batch, score="surprise")  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="cannot be reparameterised"):
        anomaly_scores(*semi_supervised_vae.tiny(0), score="regret")


# -------------------------------------------------------------------------------------------------------------- AUROC

VALUES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(VALUES, VALUES)
def test_auroc_counts_pairs_and_half_the_ties(inside, outside):
    found = auroc(torch.tensor(inside), torch.tensor(outside))
    wins = [1.0 if b > a else 0.5 if b == a else 0.0 for a in inside for b in outside]
    assert found == pytest.approx(sum(wins) / len(wins))
    assert found == pytest.approx(roc_auc_score([0] * len(inside) + [1] * len(outside), inside + outside))


def test_auroc_of_nothing_is_refused():
    with pytest.raises(DataError, match="empty"):
        auroc(torch.zeros(0), torch.zeros(3))


# ------------------------------------------------------------------------------------------------------- code lengths


def test_lengths_are_nats_of_the_shortest_file():
    x = torch.randint(2, (4, 3, 40), generator=torch.Generator().manual_seed(0)).double()
    table = load(x.flatten(1).numpy())
    lengths = code_lengths(table) / np.log(2) / 8
    for row, length in zip(x.flatten(1).numpy().astype(np.uint8), lengths, strict=True):
        assert length <= len(zlib.compress(np.packbits(row).tobytes(), 9))
    assert torch.allclose(lengths, lengths.round())


def test_simple_images_are_shorter_than_noise():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (6, 20, 20), generator=generator)
    images = torch.cat([noise, torch.full((6, 20, 20), 7)]).numpy().astype(np.uint8)
    for data in (load(images, values="levels"), load(images, scale="auto")):
        lengths = code_lengths(data)
        # noise takes about a byte a pixel, however it is stored
        assert lengths[:6].min() > 390 * 8 * np.log(2)
        assert lengths[6:].max() < 80 * 8 * np.log(2)


def test_sentences_have_lengths():
    lengths = code_lengths(load("sentences").subset(slice(0, 20)))
    assert lengths.min() > 0
    assert torch.isfinite(lengths).all()


@pytest.mark.parametrize("values", [[[0.5, 1.0]], [[-3.0, 1.0]], [[1.0, float("nan")], [2.0, 5.0]]])
def test_what_has_no_length_is_said(values):
    with pytest.raises(DataError, match="complexity"):
        code_lengths(load(np.array(values), values="real"))
