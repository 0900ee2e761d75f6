"""`model.summary()` and `latentia show`: the fitted parameters, in the units of the data."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

import latentia
from latentia.data import load
from latentia.learners import EM
from latentia.models import HMM, LDA, GaussianMixture, KMeans, MixtureOfBernoullis, MixtureOfCategoricals
from latentia.report.summary import summary_of
from latentia.tasks import coherence, document_completion
from latentia.testing import all_models


def people(count=120):
    draw = np.random.default_rng(0)
    which = draw.integers(2, size=count)
    age = 30 + 40 * which + draw.normal(0, 2, count)
    return pd.DataFrame({"age": age, "income": 2e4 + 3e4 * which + draw.normal(0, 900, count)})


def cells(table):
    """Row by row, by the names of the columns."""
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


def pair(cell):
    return [float(part.replace(",", "")) for part in cell.split(" ± ")]


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_clusters_are_those_of_the_parameters_in_the_units_of_the_data(covariance):
    data = load(people(), scale="standard")
    model = GaussianMixture(2, components=2, covariance=covariance).double()
    EM().fit(model, data)
    found = model.summary()
    assert found.of == "clusters"
    (table,) = found.tables
    scale, shift = np.array(data.schema.scale), np.array(data.schema.shift)
    means = model.means.detach().numpy() * scale + shift
    spread = model.covariances.detach().diagonal(dim1=-2, dim2=-1).sqrt().numpy() * scale
    for row in cells(table):
        k = int(row["cluster"])
        assert float(row["share"].rstrip("%")) == pytest.approx(100 * float(model.weights[k].detach()), abs=0.051)
        for j, name in enumerate(("age", "income")):
            mean, deviation = pair(row[name])
            assert deviation == pytest.approx(spread[k, j], rel=0.06)  # two digits
            assert mean == pytest.approx(means[k, j], abs=0.06 * spread[k, j])
    assert "units of the data" in table.caption


def test_without_a_schema_it_says_so():
    model = GaussianMixture(2, components=2)
    assert "the model's coordinates" in str(model.summary())


def test_k_means_has_equal_shares():
    data = load(people(), scale="standard")
    model = KMeans(2, components=3).double()
    EM(hard=True).fit(model, data)
    assert [row["share"] for row in cells(model.summary().tables[0])] == ["33.3%"] * 3


def test_of_many_columns_those_are_shown_that_tell():
    draw = np.random.default_rng(1)
    which = draw.integers(2, size=200)
    values = draw.normal(size=(200, 20))
    values[:, [4, 11]] += 9 * which[:, None]
    model = GaussianMixture(20, components=2, covariance="diagonal").double()
    EM().fit(model, load(values))
    (table,) = model.summary().tables
    assert {"x5", "x12"} < set(table.head)
    assert len(table.head) == 8
    assert "The 6 of 20 columns" in table.caption


def test_probabilities_of_bernoullis():
    model = MixtureOfBernoullis((3,), components=2).double()
    x = torch.tensor([[0.0, 0, 1], [1, 1, 0]]).repeat(20, 1).numpy()
    EM().fit(model, load(x))
    for row in cells(model.summary().tables[0]):
        for j in range(3):
            assert float(row[f"x{j + 1}"]) == pytest.approx(float(model.probs[int(row["cluster"]), j]), abs=5e-4)


def test_levels_of_categorical_columns():
    x = np.array([[0, 2], [0, 2], [0, 1], [1, 0], [1, 0], [1, 0]] * 10)
    model = MixtureOfCategoricals(3, 2, components=2).double()
    EM(restarts=3).fit(model, load(x, values="levels"))
    told = {(row["x1"].split()[0], row["x2"].split()[0]) for row in cells(model.summary().tables[0])}
    assert told == {("0", "2"), ("1", "0")}
    assert any("(66." in row["x2"] for row in cells(model.summary().tables[0]))


def test_words_of_documents():
    data = load([["cat", "dog", "cat"], ["tax", "law"]] * 20)
    model = MixtureOfCategoricals(data.schema.levels or 0, components=2).double()
    EM(restarts=3).fit(model, data)
    told = [row["emits"] for row in cells(model.summary().tables[0])]
    assert any(re.match(r"cat 6\d\.\d% dog 3\d\.\d%", words) for words in told)


def test_a_chain_is_told_by_its_probabilities():
    model = HMM(symbols=3, states=2).double()
    model.initial_logits.data = torch.tensor([0.25, 0.75]).double().log()
    model.transition_logits.data = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double().log()
    states, transitions = model.summary().tables
    told = {row["state"]: row for row in cells(states)}
    assert [told[k]["first"] for k in "01"] == ["25.0%", "75.0%"]
    assert [told[k]["steps"] for k in "01"] == ["10.0", "5.0"]
    # of a long sequence: the stationary distribution, 2/3 and 1/3
    assert float(told["0"]["share"].rstrip("%")) == pytest.approx(200 / 3, abs=0.3)
    matrix = {row["from"]: row for row in cells(transitions)}
    assert (matrix["0"]["1"], matrix["1"]["0"]) == ("0.10", "0.20")


def test_a_state_that_is_never_left():
    model = HMM(symbols=2, states=2).double()
    model.transition_logits.data = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double().log()
    told = {row["state"]: row["steps"] for row in cells(model.summary().tables[0])}
    assert told == {"0": "2.0", "1": "for ever"}


def documents():
    draw = np.random.default_rng(2)
    pets, state = ["cat", "dog", "fish", "bird", "tail"], ["tax", "law", "vote", "bill", "court"]
    return [[str(word) for word in draw.choice(pets if i % 2 else state, 20)] for i in range(60)]


def test_topics_have_words_coherence_and_completion():
    data, test = load(documents()).split(0.2)
    model = LDA(symbols=data.schema.levels or 0, topics=2).double()
    EM(restarts=3).fit(model, data)
    found = summary_of(model, data, test)
    (table,) = found.tables
    told = [set(re.findall("[a-z]+", row["words"])) for row in cells(table)]
    assert {frozenset(words) for words in told} >= {frozenset(["cat", "dog", "fish", "bird", "tail"])}
    npmi = coherence(model.topics, data).npmi
    for row in cells(table):
        assert float(row["NPMI"]) == pytest.approx(npmi[int(row["topic"])], abs=0.006)
    done = document_completion(model, test)
    assert f"{done.log_prob:.3f} nats a word" in found.remarks[0]
    # without data it is the model's own
    assert "NPMI" not in str(summary_of(model, None, None))


@pytest.mark.parametrize("name", all_models())
def test_every_model_has_a_summary(name):
    model, _ = all_models()[name](0)
    found = model.summary()
    assert type(model).__name__ in str(found)
    assert f"{model.free_parameters():,} free" in str(found)
    for table in found.tables:
        assert all(len(row) == len(table.head) for row in table.rows)
        for line in str(found).splitlines():
            assert line == line.rstrip()


def test_names_of_others_are_escaped():
    data = load(people().rename(columns={"age": "<script>alert(1)</script>"}))
    model = GaussianMixture(2, components=2).double()
    EM(steps=2).fit(model, data)
    assert "<script>" not in model._repr_html_()
    assert "&lt;script&gt;" in model._repr_html_()
    assert str(model.summary()) == repr(model.summary())


@pytest.fixture
def csv(tmp_path):
    people().to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


FIT = ("fit", "--model", "GaussianMixture", "--model.components", 2, "--data")


@pytest.mark.parametrize("evaluation", ["true", "false"])
def test_a_fit_ends_with_its_clusters_and_show_says_the_same(answer, csv, tmp_path, evaluation):
    status, out, err = answer(*FIT, csv, "--out", tmp_path / "run", "--evaluation", evaluation)
    assert status == 0
    told = str(latentia.open_run(tmp_path / "run").summary())
    assert out.endswith(told + "\n")
    assert ("report: " in err) == (evaluation == "true")
    status, shown, _ = answer("show", tmp_path / "run")
    assert status == 0
    assert told in shown
    assert ("held-out data" in shown) == (evaluation == "true")
    csv.unlink()  # what a model says needs no data
    assert answer("show", tmp_path / "run")[1] == shown
    latentia.load_model(tmp_path / "run").save(tmp_path / "model")
    assert answer("show", tmp_path / "model")[1] == told + "\n"


def test_show_refuses_what_is_no_run(answer, tmp_path):
    status, out, err = answer("show", tmp_path)
    assert (status, out) == (2, "")
    assert "not a run directory" in err
