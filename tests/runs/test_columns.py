"""Tables of mixed columns at the command: what is told, what is refused, and names in all that is written."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from latentia import cli
from latentia.data import load
from latentia.runs.directory import Run


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    z = rng.integers(2, size=240)
    frame = pd.DataFrame(
        {
            "id": np.arange(240),
            "age": (30 + 25 * z + rng.normal(0, 4, 240)).round(1),
            "plan": np.where(rng.random(240) < 0.1 + 0.8 * z, "pro", np.where(rng.random(240) < 0.5, "basic", "plus")),
            "active": np.where(rng.random(240) < 0.2 + 0.6 * z, "yes", "no"),
            "visits": rng.poisson(1 + 7 * z),
        }
    )
    for name in frame.columns[1:]:
        frame.loc[rng.random(240) < 0.08, name] = None
    path = tmp_path_factory.mktemp("customers") / "customers.csv"
    frame.to_csv(path, index=False)
    return path


def said(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return int(left.value.code or 0), "".join(capsys.readouterr())


def fitted(capsys, table, *options, model="Mixture") -> tuple[Run, str]:
    out = table.parent / f"run{len(list(table.parent.iterdir()))}"
    code, words = said(capsys, "fit", "--model", model, "--data", table, "--exclude", "id", "--out", out, *options)
    assert code == 0, words
    return Run.open(out), words


def test_a_mixture_of_mixed_columns_from_fit_to_report(capsys, table):
    run, words = fitted(capsys, table, "--model.components", "2", "--learner.restarts", "3")
    assert "columns: age (real), plan (category: basic, plus, pro), active (yes/no: no, yes), visits (count)" in words
    assert "--columns NAME:KIND" in words
    assert run.schema.kinds == ("real", "category", "binary", "count")
    assert "without z" in words or "independent" in words
    page = (run.path / "report.html").read_text()
    for part in ("yes ", "basic", "Samples against data", "Oddest rows", "in the fitted model"):
        assert part in page, part
    assert "could not be made" not in page
    names = {"basic", "plus", "pro"}
    assert said(capsys, "sample", run.path, "--n", "30", "--out", table.parent / "s.csv")[0] == 0
    drawn = list(csv.DictReader((table.parent / "s.csv").open()))
    assert {row["plan"] for row in drawn} <= names
    assert {row["active"] for row in drawn} == {"no", "yes"}
    assert said(capsys, "complete", run.path, "--data", table, "--out", table.parent / "c.csv")[0] == 0
    given, done = (list(csv.DictReader(path.open())) for path in (table, table.parent / "c.csv"))
    filled = [one["plan"] for one, other in zip(done, given, strict=True) if not other["plan"]]
    assert filled
    assert set(filled) <= names
    assert all(other["plan"] in ("", one["plan"]) for one, other in zip(done, given, strict=True))
    for verb in ("cluster", "detect", "encode", "evaluate"):
        code, words = said(capsys, verb, run.path, "--data", table)
        assert code == 0, words
        assert "complexity" not in words


def test_what_was_told_is_corrected_and_kept(capsys, table):
    run, words = fitted(capsys, table, "--model.components", "2", "--columns", "visits:real,active:category")
    assert "active (category: no, yes), visits (real)" in words
    other = run.other(str(table))
    assert np.array_equal(other.x, load(table, schema=run.schema, exclude="id").x)
    assert json.loads((run.path / "schema.json").read_text())["kinds"] == ["real", "category", "category", "real"]


def test_a_new_category_is_refused_by_its_place(capsys, table, tmp_path):
    run, _ = fitted(capsys, table, "--model.components", "2", "--evaluation", "false")
    pd.read_csv(table).assign(plan="gold").to_csv(tmp_path / "new.csv", index=False)
    code, words = said(capsys, "evaluate", run.path, "--data", tmp_path / "new.csv")
    assert code == 2
    assert "new.csv, line 2, column 'plan': 'gold' is none of basic, plus, pro" in words


@pytest.mark.parametrize("model", ["VAE", "MissingDataVAE"])
def test_vaes_take_mixed_columns(capsys, table, model):
    options = ("--model.latent", "2", "--model.hidden", "[16]", "--learner.epochs", "8")
    run, words = fitted(capsys, table, *options, model=model)
    assert "plan (category: basic, plus, pro)" in words
    assert said(capsys, "sample", run.path, "--n", "5")[0] == 0
    drawn = list(csv.DictReader((run.path / "sample.csv").open()))
    assert {row["plan"] for row in drawn} <= {"basic", "plus", "pro"}
    code, words = said(capsys, "complete", run.path, "--data", table)
    assert code == 0, words


def test_an_hmm_takes_series_of_mixed_columns(capsys, tmp_path):
    rng = np.random.default_rng(0)
    z = np.repeat(rng.integers(2, size=60), 10)
    frame = pd.DataFrame(
        {
            "who": np.repeat(["a", "b", "c"], 200),
            "minute": np.tile(np.arange(200), 3),
            "level": rng.normal(5 * z, 1).round(2),
            "mode": np.where(rng.random(600) < 0.1 + 0.8 * z, "walk", "rest"),
            "steps": rng.poisson(1 + 9 * z),
        }
    )
    frame.loc[3, "mode"] = None
    frame.to_csv(tmp_path / "days.csv", index=False)
    words = ("fit", "--model", "HMM", "--data", tmp_path / "days.csv", "--group", "who", "--time", "minute")
    options = ("--holdout", "0", "--model.states", "2", "--out", tmp_path / "days")
    code, heard = said(capsys, *words, *options)
    assert code == 0, heard
    assert "level (real), mode (category: rest, walk), steps (count)" in heard
    model: Any = Run.open(tmp_path / "days").model()
    assert sorted(model.emissions.part("count").rates.flatten().tolist()) == pytest.approx([1, 10], rel=0.15)
    page = (tmp_path / "days" / "report.html").read_text()
    assert "could not be made" not in page
    assert "walk" in page


def test_a_model_of_numbers_says_what_it_takes(capsys, table):
    words = ("fit", "--model", "GaussianMixture", "--data", table, "--out", table.parent / "no")
    code, heard = said(capsys, *words)
    assert code == 2
    assert "GaussianMixture takes numbers, and customers.csv has the column plan (category: basic, plus, pro)" in heard
    assert "Mixture" in heard
    assert "--columns" in heard


def test_categories_alone_are_a_mixture_of_categoricals(capsys, table):
    options = ("--columns", "plan,active", "--model.components", "2")
    out = table.parent / "classes"
    code, words = said(capsys, "fit", "--model", "MixtureOfCategoricals", "--data", table, "--out", out, *options)
    assert code == 0, words
    # a weight, and for each cluster two and one
    assert Run.open(out).model().free_parameters() == 1 + 2 * 3
