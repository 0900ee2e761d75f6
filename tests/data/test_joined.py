"""Results stand beside what they are results of: every column, row number and file name of the source, as it was."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import latentia
from latentia.data import load
from latentia.data.joining import beside, filled, origin, write_columns
from latentia.errors import OptionError
from latentia.tasks import cluster, column_scores, responsibilities, step_scores

LINES = [
    "id,city,height,weight,count,flag",
    'a1,"Rome, north",1.85,80.5,3,yes',
    "a2,Oslo,1.62,,4,no",
    "",
    "a3,Bonn,,55.0,,no",
    'a4,"two\nlines",1.70,71.25,2,yes',
    "",
    "",
    "a5,Graz,1.91,92.0,7,yes",
]


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("\n".join(LINES) + "\n")
    return path


def rows(path, delimiter=","):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def test_blank_lines_keep_their_numbers(people):
    data = load(people, columns="height,weight")
    of = origin(people, data)
    assert of.numbers == [1, 2, 4, 5, 8]
    assert of.columns["id"] == ["a1", "a2", "a3", "a4", "a5"]
    assert of.columns["city"][3] == "two\nlines"
    assert of.all
    some = origin(people, data.subset([4, 1]))
    assert (some.numbers, some.columns["id"], some.all) == ([8, 2], ["a5", "a2"], False)


def test_what_is_filled_in_has_the_digits_of_its_column(people):
    data = load(people, columns="height,weight,count")
    of = origin(people, data)
    values = np.full((5, 3), [1.7777, 60.0001, 3.4])
    found = filled(of, data.schema.names, values, data.batch().hidden.numpy())
    assert found["height"] == ["1.85", "1.62", "1.78", "1.70", "1.91"]
    assert found["weight"] == ["80.5", "60.00", "55.0", "71.25", "92.0"]
    assert found["count"] == ["3", "4", "3", "2", "7"]
    assert found["city"] == of.columns["city"]


@pytest.mark.parametrize(
    ("cells", "value", "text"),
    [
        (["1,5", "2,25"], 3.14159, "3,14"),
        (["true", "", "false"], 0.8, "true"),
        (["TRUE", "FALSE"], 0.2, "FALSE"),
        (["1e-3", "2"], 0.5, "0.500000"),
        (["", "NA"], 1.25, "1.250000"),
        (["0.1"], -0.01, "0.0"),
        (["red"], "blue", "blue"),
        ([1, 2, 3], 2.6, 3),
        ([1.5, 2.25], 2.6666, 2.67),
        ([True, False], 0.7, True),
    ],
)
def test_a_number_is_written_as_the_others_are(cells, value, text):
    of = origin(pd.DataFrame({"x": pd.Series(cells, dtype=object)}), load(np.zeros((len(cells), 1))))
    hidden = np.zeros((len(cells), 1), dtype=bool)
    hidden[0] = True
    values = np.array([[value]] * len(cells), dtype=object)
    assert filled(of, ["x"], values, hidden)["x"] == [text, *cells[1:]]


def test_a_name_that_is_taken_gets_another(people):
    of = origin(people, load(people, columns="height"))
    found = beside(of, {"cluster": [0] * 5, "id": [1] * 5, "row": [2] * 5})
    assert list(found) == ["row", "id", "city", "height", "weight", "count", "flag", "cluster", "id_2", "row_2"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_form_is_read_back(tmp_path, suffix):
    columns = {"n": [1, 2, 3], "x": [0.5, None, 2.0], "name": ["a", None, 'b "c", d']}
    write_columns(columns, tmp_path / f"t{suffix}")
    read = {
        ".csv": pd.read_csv,
        ".tsv": lambda path: pd.read_csv(path, sep="\t"),
        ".parquet": pd.read_parquet,
        ".jsonl": lambda path: pd.read_json(path, lines=True),
    }
    found = read[suffix](tmp_path / f"t{suffix}")
    assert found["n"].tolist() == [1, 2, 3]
    assert found["x"].isna().tolist() == [False, True, False]
    assert found["name"][2] == 'b "c", d'


def test_other_forms_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"\.csv, \.tsv, \.parquet, \.jsonl"):
        write_columns({"x": [1]}, tmp_path / "t.xls")


def test_sources_that_name_nothing_have_numbers(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((4, 2)))
    for source in (tmp_path / "t.npy", "digits", tmp_path / "nowhere.csv"):
        of = origin(source, load(np.zeros((4, 2))).subset([1, 3]))
        assert (of.numbers, dict(of.columns)) == ([2, 4], {})


def test_texts_keep_their_lines(tmp_path):
    (tmp_path / "t.txt").write_text("the cat\n\n\nthe dog sat\n")
    of = origin(tmp_path / "t.txt", load(tmp_path / "t.txt"))
    assert (of.numbers, of.columns["text"]) == ([1, 4], ["the cat", "the dog sat"])
    (tmp_path / "t.jsonl").write_text('{"id": 7, "text": "the cat"}\n\n{"id": 9, "text": "the dog", "by": "me"}\n')
    of = origin(tmp_path / "t.jsonl", load(tmp_path / "t.jsonl"))
    assert of.numbers == [1, 3]
    assert of.columns == {"id": [7, 9], "text": ["the cat", "the dog"], "by": [None, "me"]}


# ------------------------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of people with an id, text and holes, in a .csv with semicolons, and a mixture fitted to it."""
    from latentia import cli

    folder = tmp_path_factory.mktemp("joined")
    draw = np.random.default_rng(0)
    which = draw.integers(2, size=60)
    table = pd.DataFrame({"id": [f"p{i:03}" for i in range(60)], "town": draw.choice(["Rome", "Oslo"], 60)})
    table["age"] = (30 + 30 * which + draw.normal(0, 3, 60)).round(1)
    table["income"] = (20_000 + 20_000 * which + draw.normal(0, 2000, 60)).round()
    table.loc[[3, 10], "age"] = np.nan
    table.loc[[4], ["age", "income"]] = np.nan
    table.loc[20, "income"] = 90_000
    table["income"] = table["income"].astype("Int64")
    table.to_csv(folder / "people.csv", index=False, sep=";")
    words = ["fit", "--model", "GaussianMixture", "--model.components", "2", "--columns", "age,income"]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--data", str(folder / "people.csv"), "--out", str(folder / "run"), "--evaluation", "false"])
    assert not end.value.code
    return folder, table


def test_complete_writes_the_whole_table_back(folder, answer):
    path, _ = folder
    status, said, _ = answer("complete", path / "run", "--data", path / "people.csv")
    assert status == 0
    assert "filled in 4 values of 3 data; the other 57 data are complete" in said
    before, after = rows(path / "people.csv", ";"), rows(path / "run" / "complete.csv", ";")
    changed = [(i, j) for i, row in enumerate(before) for j, cell in enumerate(row) if after[i][j] != cell]
    assert changed == [(4, 2), (5, 2), (5, 3), (11, 2)]
    assert all(before[i][j] == "" for i, j in changed)
    for i, j in changed:
        assert len(after[i][j].partition(".")[2]) == (1 if j == 2 else 0)


def test_held_out_rows_are_numbered(folder, answer):
    path, table = folder
    assert answer("complete", path / "run", "--hide", "random:0.5")[0] == 0
    found = pd.read_csv(path / "run" / "complete.csv", sep=";")
    assert found["id"].tolist() == table["id"][found["row"] - 1].tolist()
    assert len(found) == 6


def test_hidden_values_have_an_error(folder, answer):
    path, _ = folder
    words = ("complete", path / "run", "--data", path / "people.csv", "--hide", "random:0.3", "--out", path / "h.csv")
    status, said, _ = answer(*words)
    assert status == 0
    assert "nats a hidden value" in said
    after, truth = pd.read_csv(path / "h.csv", sep=";"), pd.read_csv(path / "people.csv", sep=";")
    run = latentia.open_run(path / "run")
    hidden = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) < 0.3
    hidden = (hidden & run.other(str(path / "people.csv")).batch().observed).numpy()
    for j, name in enumerate(("age", "income")):
        at = hidden[:, j]
        rmse = np.sqrt(np.mean((after[name] - truth[name])[at] ** 2))
        told = next(line for line in said.splitlines() if line.startswith(f"  {name}: RMSE"))
        assert float(told.split()[2].replace(",", "")) == pytest.approx(rmse, rel=0.01)
        assert f"over {at.sum()} hidden values" in told


def test_clusters_are_joined_sized_and_told_apart(folder, answer):
    path, table = folder
    status, said, _ = answer("cluster", path / "run", "--data", path / "people.csv")
    assert status == 0
    found = pd.read_csv(path / "run" / "cluster.csv", sep=";")
    assert list(found.columns) == ["row", *table.columns, "cluster", "p0", "p1"]
    run = latentia.open_run(path / "run")
    data = run.other(str(path / "people.csv"))
    assert found["cluster"].tolist() == cluster(run.model(), data).tolist()
    assert found["row"].tolist() == list(range(1, 61))
    for k, count in found["cluster"].value_counts().items():
        assert f"cluster {k}: {count} data ({count / 60:.1%})" in said
    # they are apart by both columns, in opposite directions
    assert said.count("age higher") == said.count("age lower") == 1
    assert said.count("income higher") == said.count("income lower") == 1
    # row 5, of which nothing is observed, lies between the clusters and tells nothing
    shares = responsibilities(run.model(), data)
    between = int(((shares.amax(1) < 0.8) & data.batch().observed.any(1)).sum())
    assert (f"{between} of 60 lie between clusters" in said) == (between > 0)
    assert "row 5:" not in said


def test_oddness_is_told_by_row_and_column(folder, answer):
    path, table = folder
    status, said, _ = answer("detect", path / "run", "--data", path / "people.csv")
    assert status == 0
    found = pd.read_csv(path / "run" / "detect.csv", sep=";")
    assert found["id"][0] == "p020"
    assert found["row"].tolist()[-1] == 5
    assert np.isnan(found["rank"].tolist()[-1])
    assert found["id"].tolist() == table["id"][found["row"] - 1].tolist()
    assert "row 21: most of all income" in said
    assert "−log p(x), in nats, a log-density in the units of the data" in said
    assert "1 of which nothing is observed" in said
    assert "regret" not in said
    assert "complexity" not in said
    run = latentia.open_run(path / "run")
    scores = column_scores(run.model(), run.other(str(path / "people.csv")))
    at = np.array(found["row"].tolist()) - 1
    for name, j in (("age", 0), ("income", 1)):
        np.testing.assert_allclose(found[f"score of {name}"].tolist(), scores.numpy()[at, j], rtol=1e-4)


def test_a_column_is_scored_given_the_others(folder):
    path, _ = folder
    run = latentia.open_run(path / "run")
    model, data = run.model(), run.other(str(path / "people.csv"))
    found = column_scores(model, data)
    # by the density of the conditioned mixture, for a row that is whole
    x = data.x[0].clone()
    x[1] = torch.nan
    rest = model.condition(x)  # type: ignore[operator]
    log_p = rest.posterior(load(data.x[:1, 1:].numpy()).batch()).log_partition - np.log(data.schema.scale[1])
    assert float(found[0, 1]) == pytest.approx(-float(log_p.detach()), abs=1e-9)
    assert found.isnan().sum(0).tolist() == [3, 1]


def test_codes_are_joined_in_the_form_asked_for(folder, answer):
    path, table = folder
    assert answer("encode", path / "run", "--data", path / "people.csv", "--out", path / "codes.parquet")[0] == 0
    found = pd.read_parquet(path / "codes.parquet")
    assert found["id"].tolist() == table["id"].tolist()
    table.astype({"income": "float64"}).to_parquet(path / "people.parquet")
    assert answer("cluster", path / "run", "--data", path / "people.parquet")[0] == 0
    again = pd.read_parquet(path / "run" / "cluster.parquet")
    assert again["cluster"].tolist() == found["cluster"].tolist()
    np.testing.assert_array_equal(again["age"].tolist(), table["age"].tolist())


def test_images_are_told_by_their_files(tmp_path, answer):
    draw = np.random.default_rng(1)
    (tmp_path / "faces").mkdir()
    for i in range(12):
        image = np.full((4, 4), 30 + 180 * (i % 2)) + draw.integers(0, 20, (4, 4))
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "faces" / f"face{i}.png")
    words = ("fit", "--model", "GaussianMixture", "--model.components", 2, "--model.covariance", "spherical")
    out = ("--data", tmp_path / "faces", "--out", tmp_path / "run", "--holdout", 0, "--evaluation", "false")
    assert answer(*words, *out)[0] == 0
    assert answer("cluster", tmp_path / "run")[0] == 0
    found = pd.read_csv(tmp_path / "run" / "cluster.csv")
    assert found["file"].tolist() == [f"face{i}.png" for i in range(12)]
    assert found["cluster"][::2].nunique() == found["cluster"][1::2].nunique() == 1
    assert answer("detect", tmp_path / "run")[0] == 0
    assert set(pd.read_csv(tmp_path / "run" / "detect.csv")["file"]) == set(found["file"])


def test_steps_of_sequences_are_scored_and_joined(tmp_path, answer):
    draw = np.random.default_rng(2)
    lines = [{"id": f"s{i}", "x": draw.choice([0, 1], 8, p=[0.9, 0.1]).tolist()} for i in range(20)]
    text = "\n".join(json.dumps(line) for line in lines[:10]) + "\n\n"
    (tmp_path / "s.jsonl").write_text(text + "\n".join(json.dumps(line) for line in lines[10:]))
    words = ("fit", "--model", "HMM", "--model.states", 2, "--evaluation", "false", "--data", tmp_path / "s.jsonl")
    assert answer(*words, "--out", tmp_path / "run")[0] == 0
    status, said, _ = answer("detect", tmp_path / "run", "--data", tmp_path / "s.jsonl")
    assert status == 0
    assert "in nats per observed step" in said
    assert "most of all step" in said
    run = latentia.open_run(tmp_path / "run")
    scores = step_scores(run.model(), run.other(str(tmp_path / "s.jsonl")))
    steps = pd.read_json(tmp_path / "run" / "detect-steps.jsonl", lines=True)
    np.testing.assert_allclose(steps["score"].to_numpy().reshape(20, 8), scores.numpy(), rtol=1e-4)
    whole = pd.read_json(tmp_path / "run" / "detect.jsonl", lines=True).set_index("id")
    assert whole["row"].to_dict()["s12"] == 14  # the blank line counts
    assert whole["score"].to_dict()["s12"] == pytest.approx(float(scores[12].mean()), rel=1e-4)
    assert answer("encode", tmp_path / "run", "--data", tmp_path / "s.jsonl")[0] == 0
    paths = [json.loads(line) for line in (tmp_path / "run" / "encode.jsonl").read_text().splitlines()]
    assert [line["id"] for line in paths] == [line["id"] for line in lines]
    assert all(len(line["states"]) == len(line["x"]) == 8 for line in paths)


def test_words_tell_clusters_of_documents_apart(tmp_path, answer):
    draw = np.random.default_rng(3)
    pets, state = ["cat", "dog", "fish"], ["tax", "law", "vote"]
    text = "\n".join(" ".join([*draw.choice(pets if i % 2 else state, 10), "the"]) for i in range(40))
    (tmp_path / "t.txt").write_text(text)
    words = ("fit", "--model", "MixtureOfCategoricals", "--model.components", 2, "--evaluation", "false")
    assert answer(*words, "--data", tmp_path / "t.txt", "--out", tmp_path / "run")[0] == 0
    status, said, _ = answer("cluster", tmp_path / "run", "--data", tmp_path / "t.txt")
    assert status == 0
    told = [set(line.split(": ")[2].split()) for line in said.splitlines() if line.startswith("cluster")]
    assert {frozenset(words) for words in told} == {frozenset(pets), frozenset(state)}
    assert pd.read_csv(tmp_path / "run" / "cluster.csv")["text"].tolist() == text.splitlines()
