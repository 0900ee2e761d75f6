"""Weights at the door: a weight of 2 is a row twice, a weight of 0 is no row, from the file to the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from latentia import cli
from latentia.data import Schema, load, read
from latentia.errors import DataError
from latentia.runs.directory import Run


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Three clusters of different size, weights 0 to 3, and a monster of weight 0."""
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 2)) + np.array([[0, 0], [8, 1], [1, 9]])[random.integers(3, size=300)]
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame["n"] = random.integers(0, 4, size=300)
    frame.loc[7, ["a", "b", "n"]] = [1e8, -1e8, 0]
    return frame


def repeated(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table.index.repeat(table.n.astype(int)), ["a", "b"]].reset_index(drop=True)


def test_a_weighted_schema_is_that_of_repeated_rows(table):
    weighted, plain = (load(t, scale="standard", **o) for t, o in ((table, {"weight": "n"}), (repeated(table), {})))
    np.testing.assert_allclose(weighted.schema.shift, plain.schema.shift, rtol=1e-12)
    np.testing.assert_allclose(weighted.schema.scale, plain.schema.scale, rtol=1e-12)
    assert weighted.schema.names == ("a", "b")
    assert weighted.batch().weights.tolist() == table.n.tolist()


def test_weighted_columns_with_holes_and_sequences():
    values = [[1.5, np.nan], [np.nan, np.nan], [4.0, 1.0, 7.0]]
    weighted = load(values, scale="standard", weight=[2, 5, 1]).schema
    plain = load([values[0], values[0], *[values[1]] * 5, values[2]], scale="standard").schema
    assert weighted.shift + weighted.scale == pytest.approx(plain.shift + plain.scale)


def test_absent_rows_are_encoded_all_the_same_and_words_are_counted_by_weight():
    assert load(np.array([[1], [9], [2]]), values="levels", weight=[1, 0, 3]).schema.levels == 10
    words = read("sentences").take(slice(0, 50))
    count = np.random.default_rng(0).integers(0, 3, size=50)
    twice = words.take(np.repeat(np.arange(50), count))
    weighted = read(words, weight=count)
    for least in (1, 2, 3):
        assert Schema.of(weighted, min_count=least).vocabulary == Schema.of(twice, min_count=least).vocabulary


def test_weights_travel_with_the_rows(table):
    raw = read(table, weight="n")
    assert raw.take(np.array([5, 2])).weight.tolist() == table.n[[5, 2]].tolist()  # type: ignore[union-attr]
    assert raw.fingerprint() != read(table, columns="a,b").fingerprint()
    more = table.assign(n=table.n + 1)
    assert raw.fingerprint() != read(more, weight="n").fingerprint()


def test_weights_that_are_none_are_refused(table, tmp_path):
    for bad, word in ((-1.0, "-1"), (np.nan, "nan"), (np.inf, "inf")):
        with pytest.raises(DataError, match=f"row 3: the weight is {word}"):
            load(table.assign(n=np.where(table.index == 2, bad, 1.0)), weight="n")
    with pytest.raises(DataError, match="no column 'm'"):
        load(table, weight="m")
    with pytest.raises(DataError, match="every weight is 0"):
        load(table, weight=np.zeros(300))
    np.save(tmp_path / "x.npy", table.to_numpy())
    with pytest.raises(DataError, match="give the weights as an array"):
        load(tmp_path / "x.npy", weight="n")


# ------------------------------------------------------------------------------------------------------- the command


def fit(folder: Path, name: str, frame: pd.DataFrame, *words: object) -> Run:
    frame.to_csv(folder / f"{name}.csv", index=False)
    options = ["--model.components", 3, "--learner.tol", 1e-13, "--learner.restarts", 4, "--holdout", 0]
    command(
        [
            "fit",
            "--model",
            "GaussianMixture",
            "--data",
            folder / f"{name}.csv",
            *options,
            *words,
            "--out",
            folder / name,
        ]
    )
    return Run.open(folder / name)


def command(words: list) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    assert not left.value.code


def test_integer_weights_fit_as_repeated_rows_do(table, tmp_path, capsys):
    weighted = fit(tmp_path, "weighted", table, "--weight", "n")
    plain = fit(tmp_path, "plain", repeated(table))
    one, other = weighted.model().state_dict(), plain.model().state_dict()
    for name, value in one.items():
        assert torch.allclose(value.double(), other[name].double(), atol=1e-5), name
    found, expected = (json.loads((run.path / "evaluation.json").read_text()) for run in (weighted, plain))
    for name in ("log_marginal", "log_marginal_se", "total_log_marginal", "kl", "aic", "bic"):
        assert found[name] == pytest.approx(expected[name], rel=1e-8), name
    assert found["n"] == 300
    capsys.readouterr()
    weights = ["evaluate", weighted.path, "--data", tmp_path / "weighted.csv", "--json"]
    command([*weights, "--weight", "n"])
    assert json.loads(capsys.readouterr().out)["log_marginal"] == pytest.approx(found["log_marginal"], rel=1e-9)
    command(weights)  # without them, the monster counts
    assert json.loads(capsys.readouterr().out)["log_marginal"] < found["log_marginal"] - 100


def test_held_out_rows_keep_their_weights(table, tmp_path, capsys):
    run = fit(tmp_path, "held", table, "--weight", "n", "--holdout", 0.2)
    for part in (run.parts.train, run.parts.test):
        batch = part.batch()
        assert part.rows is not None  # type: ignore[union-attr]
        assert batch.weights.tolist() == table.n.to_numpy()[part.rows.numpy() - 1].tolist()  # type: ignore[union-attr]
    found = json.loads((run.path / "evaluation.json").read_text())
    total = float(run.parts.test.batch().weights.sum())
    assert found["total_log_marginal"] == pytest.approx(total * found["log_marginal"])


def test_a_weight_without_data_and_an_unknown_column_are_refused(table, tmp_path, capsys):
    run = fit(tmp_path, "r", table, "--weight", "n", "--evaluation", "false")
    for words, said in (
        (["evaluate", run.path, "--weight", "n"], "--weight says how to read --data"),
        (["evaluate", run.path, "--data", tmp_path / "r.csv", "--weight", "m"], "no column 'm'"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        assert left.value.code == 2
        assert said in capsys.readouterr().err
