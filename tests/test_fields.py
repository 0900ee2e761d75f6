"""What stands beside x: contexts and labels, from the file to the model and back."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from latentia import cli
from latentia.data import Schema, load
from latentia.errors import DataError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import VAE, SemiSupervisedVAE
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run
from latentia.tasks import complete, generate

BIRDS = ("Adelie", "Chinstrap", "Gentoo")


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Two measures whose mean is the species', with its sex and age beside them; some cells of all are empty."""
    rng = np.random.default_rng(0)
    which = np.arange(240) % 3
    frame = pd.DataFrame(rng.normal(size=(240, 2)) + 6 * which[:, None], columns=["bill", "mass"]).round(3)
    frame["species"] = [BIRDS[k] for k in which]
    frame["age"] = rng.integers(1, 9, size=240)
    frame.loc[3, "species"], frame.loc[4, "age"], frame.loc[5, "bill"] = None, None, None
    path = tmp_path_factory.mktemp("birds") / "birds.csv"
    frame.to_csv(path, index=False)
    return path


def said(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return int(left.value.code or 0), *capsys.readouterr()


def test_columns_of_a_context_are_numbers_or_categories(birds):
    data = load(birds, context="species,age", columns="bill,mass")
    assert data.schema.names == ("bill", "mass")
    assert data.context is not None
    schema = data.context.schema
    assert schema.categories == (BIRDS, ())
    assert data.schema.sizes()["context"] == (3, 0)
    assert data.context.x[:3, 0].tolist() == [0, 1, 2]
    ages = pd.read_csv(birds)["age"].to_numpy()
    assert float(data.context.x[0, 1]) == pytest.approx((ages[0] - np.nanmean(ages)) / np.nanstd(ages))
    batch = data.batch().context
    assert batch is not None
    assert batch.hidden.nonzero().tolist() == [[3, 0], [4, 1]]
    assert data.context.decoded()[0].tolist() == ["Adelie", ages[0]]
    part = data.subset([2, 0])
    assert part.context is not None
    assert part.context.x[:, 0].tolist() == [2, 0]


def test_without_names_x_is_what_is_left(birds):
    assert load(birds, context="species", labels="age").schema.names == ("bill", "mass")


def test_a_schema_comes_back_and_one_from_before_is_read(birds):
    schema = load(birds, context="species,age", labels="species", columns="bill,mass").schema
    assert schema.classes == BIRDS
    content = json.loads(json.dumps(schema.to_json()))
    assert Schema.from_json(content) == schema
    for name in ("context", "categories", "classes"):
        del content[name]
    old = Schema.from_json(content)
    assert (old.context, old.categories, old.classes) == (None, (), ())
    with pytest.raises(DataError, match="damaged"):
        Schema.from_json({**content, "context": [1]})


def test_a_context_of_another_file_or_key(tmp_path):
    x, c = np.arange(12.0).reshape(6, 2), np.arange(6.0).reshape(6, 1)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "c.npy", c)
    np.savez(tmp_path / "both.npz", x=x, c=c, y=np.array([0, 1, 2, 0, 1, np.nan]))
    (tmp_path / "few.csv").write_text("place\nhere\nthere\n")
    for data in (
        load(tmp_path / "x.npy", context=str(tmp_path / "c.npy")),
        load(tmp_path / "both.npz", key="x", context="c", labels="y"),
        load(x, context=c),
    ):
        assert data.context is not None
        assert data.context.x.flatten().argsort().tolist() == [0, 1, 2, 3, 4, 5]
    labelled = load(tmp_path / "both.npz", key="x", labels="y")
    assert labelled.schema.classes == ("0", "1", "2")
    assert labelled.labelled().batch().known.tolist()[4:] == [[0, 1, 0], [0, 0, 0]]
    with pytest.raises(DataError, match=r"few\.csv has 2 data for the 6 of x\.npy"):
        load(tmp_path / "x.npy", context=str(tmp_path / "few.csv"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context": "sex"}, ["no column 'sex'", "species"]),
        ({"labels": "sex"}, ["no column 'sex'"]),
        ({"context": "note"}, ["column 'note'", "different words"]),
        ({"context": "empty"}, ["column 'empty'", "no value is observed"]),
    ],
)
def test_what_cannot_be_a_context_is_said(tmp_path, options, words):
    frame = pd.DataFrame(
        {"a": range(1200), "species": "x", "note": [f"n{i}" for i in range(1200)], "empty": [None] * 1200}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError) as error:
        load(tmp_path / "t.csv", columns="a", **options)
    for word in words:
        assert word in str(error.value)


def test_new_data_have_the_categories_of_the_run(birds, tmp_path):
    schema = load(birds, context="species,age", columns="bill,mass").schema
    (tmp_path / "new.csv").write_text("bill,mass,species,age\n1,2,Gentoo,3\n1,2,Emu,3\n")
    with pytest.raises(DataError, match=r"new\.csv, line 3, column 'species': 'Emu' is none of Adelie"):
        load(tmp_path / "new.csv", schema=schema, context="species,age", columns="bill,mass")
    (tmp_path / "new.csv").write_text("bill,mass,species,age\n1,2,Gentoo,old\n")
    with pytest.raises(DataError, match="line 2, column 'age': 'old' is not a finite number"):
        load(tmp_path / "new.csv", schema=schema, context="species,age", columns="bill,mass")


def test_labels_are_known_where_they_are_learned_from_and_nowhere_else(birds):
    data = load(birds, labels="species", columns="bill,mass", scale="standard")
    assert data.batch().known is None
    known = data.labelled().batch().known
    assert isinstance(known, torch.Tensor)
    assert known.sum(-1).eq(0).nonzero().flatten().tolist() == [3]
    torch.manual_seed(0)
    model = SemiSupervisedVAE((2,), classes=3, latent=1, hidden=(4,), likelihood="gaussian")
    plain = load(birds, columns="bill,mass", scale="standard")
    options = {"importance_samples": 10, "seed": 3}
    assert evaluate(model, data, **options).log_marginal == evaluate(model, plain, **options).log_marginal
    with pytest.raises(DataError, match="no labels to learn from"):
        plain.labelled()


def test_the_verbs_see_the_context(birds):
    data = load(birds, context="species", columns="bill,mass", scale="standard")
    torch.manual_seed(0)
    model = VAE((2,), latent=1, hidden=(8,), likelihood="gaussian", context=(3,))
    Gradient(epochs=30, batch_size=30, lr=1e-2, progress=False).fit(model, data)
    one = data.context.batch(slice(2, 3))
    for place, name in enumerate(BIRDS):
        drawn, _ = generate(model, 400, context=data.context.batch(slice(place, place + 1)), seed=1)
        assert abs(float(data.schema.decode(drawn.x).mean()) - 6 * place) < 1.0, name
    # x_2 is independent of x_1 given the species: what is filled in comes from the context alone
    hidden = data.subset([2]).batch(dtype=torch.float32)
    hidden = hidden._replace(mask=torch.zeros_like(hidden.x, dtype=torch.bool))
    filled = complete(model, hidden, draws=200, sweeps=5, seed=0).mean
    assert np.abs(data.schema.decode(filled) - 12).max() < 1.5
    assert one.size == 1


def test_the_command_with_a_context(birds, tmp_path, capsys):
    run = tmp_path / "run"
    fit = ["fit", "--model", "VAE", "--data", birds, "--columns", "bill,mass", "--context", "species,age", "--out", run]
    fit += ["--model.likelihood", "gaussian", "--model.latent", "1", "--model.hidden", "[8]", "--learner.epochs", "2"]
    status, _, error = said(capsys, *fit, "--importance_samples", "5")
    assert status == 0, error
    assert (run / "report.html").exists()
    assert json.loads((run / "schema.json").read_text())["context"]["categories"] == [list(BIRDS), []]
    status, _, error = said(capsys, "sample", run, "--given", "species=Gentoo", "--n", "3")
    assert status == 0, error
    assert len((run / "sample.csv").read_text().splitlines()) == 4
    assert said(capsys, "sample", run, "--n", "3")[0] == 0
    for words in (["--given", "species=Emu"], ["--given", "sex=m"], ["--given", "Gentoo"]):
        status, _, error = said(capsys, "sample", run, *words)
        assert status == 2
        assert "--given" in error
    for verb in ("evaluate", "complete", "encode", "detect"):
        more = ["--importance_samples", "3"] if verb in ("evaluate", "detect") else []
        status, _, error = said(capsys, verb, run, "--data", birds, *more)
        assert status == 0, (verb, error)
    status, _, error = said(capsys, *fit[:2], "GaussianMixture", *fit[3:9], "--out", tmp_path / "other")
    assert status == 2
    assert "does nothing with --context" in error


def test_the_command_with_labels(birds, tmp_path, capsys):
    fit = [
        "fit",
        "--model",
        "SemiSupervisedVAE",
        "--data",
        birds,
        "--columns",
        "bill,mass",
        "--objective",
        "supervised",
    ]
    fit += ["--model.likelihood", "gaussian", "--model.latent", "1", "--model.hidden", "[8]", "--learner.epochs", "40"]
    status, _, error = said(capsys, *fit, "--out", tmp_path / "none")
    assert status == 2
    assert "--labels" in error
    fit += ["--labels", "species", "--learner.lr", "0.01", "--learner.batch_size", "30", "--importance_samples", "5"]
    status, _, error = said(capsys, *fit, "--out", tmp_path / "run")
    assert status == 0, error
    status, out, error = said(capsys, "cluster", tmp_path / "run", "--data", birds, "--labels", "species")
    assert status == 0, error
    accuracy = float(out.split("accuracy")[1].split()[0])
    assert accuracy > 0.9
    # draws of a class have the mean of its data
    table = pd.read_csv(birds)
    for species, own in table.groupby("species"):
        given = (
            "sample",
            tmp_path / "run",
            "--n",
            400,
            "--given",
            f"species={species}",
            "--out",
            tmp_path / "drawn.csv",
        )
        status, _, error = said(capsys, *given)
        assert status == 0, error
        drawn = pd.read_csv(tmp_path / "drawn.csv")
        apart = (drawn[["bill", "mass"]].mean() - own[["bill", "mass"]].mean()).abs() / table[["bill", "mass"]].std()
        assert apart.max() < 0.5
    for wrong in ("species=Dodo", "sex=male", "Gentoo"):
        status, _, error = said(capsys, "sample", tmp_path / "run", "--given", wrong)
        assert status == 2
        assert "species" in error


def test_a_run_refuses_a_changed_context(birds, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(birds.read_text())
    options = {"likelihood": "gaussian", "latent": 1, "hidden": [4]}
    source = Source(str(path), columns="bill,mass", context="species")
    config = Config("VAE", source, options, "Gradient", {"epochs": 1}, "elbo", fingerprint=source.fingerprint())
    run = Run.create(tmp_path / "run", config)
    run.fit(progress=False)
    path.write_text(birds.read_text().replace("Chinstrap", "Gentoo", 1))
    with pytest.raises(Exception, match="has changed since"):
        _ = Run.open(tmp_path / "run").parts
