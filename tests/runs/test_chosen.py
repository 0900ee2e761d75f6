"""What is chosen from the data where nobody has said it."""

import numpy as np
import pytest

from latentia.cli import main
from latentia.data import read
from latentia.runs.chosen import CHEAP, RESTARTS, of_learner, of_model, proposed
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run


def status_of(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    rows = np.random.default_rng(0).normal(100, 20, size=(60, 6))
    path.write_text("a,b,c,d,e,f\n" + "\n".join(",".join(f"{value:.3f}" for value in row) for row in rows))
    return path


def config(source, model="VAE", learner="Gradient", **model_options):
    return Config(model, Source(str(source)), model_options, learner)


@pytest.mark.parametrize(
    ("array", "likelihood"),
    [
        (np.random.default_rng(0).normal(size=(40, 3)), "gaussian"),
        (np.random.default_rng(0).integers(0, 2, size=(40, 3)), "bernoulli"),
        (np.random.default_rng(0).integers(0, 256, size=(40, 2, 2)).astype(np.uint8), "bernoulli"),
        (np.random.default_rng(0).integers(0, 256, size=(40, 2, 2, 3)).astype(np.uint8), "gaussian"),
    ],
    ids=["numbers", "0 and 1", "grey images", "colour photos"],
)
def test_the_likelihood_is_that_of_the_values(tmp_path, array, likelihood):
    np.save(tmp_path / "x.npy", array)
    run = Run.create(tmp_path / "run", config(tmp_path / "x.npy"))
    assert ("likelihood", likelihood) in [choice[:2] for choice in of_model(run.config, run.parts.train.schema)]
    run._begin()  # the model takes the data
    assert any(line.startswith(f"likelihood {likelihood}") for line in run.chosen())


def test_what_is_asked_for_is_not_chosen(tmp_path, table):
    asked = config(table, likelihood="gaussian", latent=5)
    run = Run.create(tmp_path / "run", asked)
    assert of_model(asked, run.parts.train.schema) == []
    assert run.chosen() == []


def test_a_table_has_no_more_latents_than_half_its_columns(tmp_path, table):
    run = Run.create(tmp_path / "run", config(table))
    assert ("latent", 3) in [choice[:2] for choice in of_model(run.config, run.parts.train.schema)]


def test_restarts_where_they_are_cheap_and_hard_em_for_k_means(table):
    def chosen(model, numbers, **options):
        found = of_learner(Config(model, Source(str(table)), {}, "EM", options), numbers)
        return {choice.option: choice.value for choice in found}

    assert chosen("GaussianMixture", CHEAP) == {"restarts": RESTARTS}
    assert chosen("GaussianMixture", CHEAP + 1) == {}
    assert chosen("GaussianMixture", 1, restarts=2) == {}
    assert chosen("GaussianMixture", 1, fresh=False) == {}
    assert chosen("KMeans", CHEAP) == {"restarts": RESTARTS, "hard": True}
    assert chosen("KMeans", CHEAP, hard=False, restarts=1) == {}


def test_a_model_is_proposed(tmp_path, table, capsys):
    assert proposed(read(table))[0] == "GaussianMixture"
    assert proposed(read(np.eye(3)))[0] == "MixtureOfBernoullis"
    assert proposed(read("digits"))[0] == "VAE"
    assert proposed(read([[1, 2, 3], [2, 1]]))[0] == "HMM"
    out = tmp_path / "run"
    assert (
        status_of(["fit", "--data", str(table), "--model.components", "2", "--evaluation", "false", "--out", str(out)])
        == 0
    )
    said = capsys.readouterr().err
    assert "GaussianMixture, as the data are a table of numbers" in said
    assert f"restarts {RESTARTS}" in said
    assert Run.open(out).config.model == "GaussianMixture"


def test_a_run_goes_on_with_what_it_chose(tmp_path, table):
    run = Run.create(tmp_path / "run", config(table, model="KMeans", learner="EM", components=2))
    history = run.fit(progress=False)
    assert len(history.restarts) == RESTARTS
    assert Run.open(tmp_path / "run").model().means.shape == (2, 6)


def test_gibbs_is_what_lda_is_learned_by(tmp_path):
    (tmp_path / "docs.txt").write_text("a b a b\nc d c d d\n" * 20)
    words = ["fit", "--model", "LDA", "--data", str(tmp_path / "docs.txt"), "--model.topics", "2", "--learner.sweeps"]
    assert status_of([*words, "20", "--evaluation", "false", "--out", str(tmp_path / "run")]) == 0
    assert Run.open(tmp_path / "run").config.learner == "Gibbs"
