"""Time series in tables: a step a row."""

import numpy as np
import pandas as pd
import pytest

import latentia.sklearn
from latentia.cli import main
from latentia.data import load, read
from latentia.errors import DataError, OptionError
from latentia.runs.config import Source
from latentia.runs.directory import Run
from latentia.runs.parts import split_parts


def status_of(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


LONG = """who,day,v,w
a,2020-01-02,1.5,1
b,2020-01-01,2,2
a,2020-01-01,0.5,3
b,2020-01-03,4,4
b,2020-01-02,,5
"""


@pytest.fixture
def long(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(LONG)
    return path


def test_series_are_parted_by_group_and_sorted_by_time(long):
    raw = read(long, group="who", time="day")
    assert (raw.kind, raw.names) == ("sequence", ("v", "w"))
    assert np.array_equal(raw.values[0], [[0.5, 3], [1.5, 1]])
    assert np.array_equal(raw.values[1], [[2, 2], [np.nan, 5], [4, 4]], equal_nan=True)


def test_rows_stay_in_their_order_without_a_time(long):
    assert read(long, group="who", columns="w").values[1].ravel().tolist() == [2, 4, 5]


def test_numbers_and_clock_times_order_steps(long):
    frame = pd.DataFrame({"t": [3, 1, 2], "v": [30.0, 10.0, 20.0]})
    assert read(frame, time="t").values[0].ravel().tolist() == [10, 20, 30]
    frame["t"] = ["2020-01-01 12:00", "2020-01-01 00:30", "2020-01-01 01:00"]
    assert read(frame, time="t").values[0].ravel().tolist() == [10, 20, 30]


def test_a_named_table_is_one_sequence_of_its_rows(long):
    data = load(long, kind="sequence", columns="w")
    assert (data.x.shape, data.lengths.tolist()) == ((1, 5, 1), [5])


def test_one_column_of_words_is_sequences_of_them(long):
    frame = pd.DataFrame({"who": ["a", "a", "b"], "did": ["walk", "rest", "walk"]})
    raw = read(frame, group="who")
    assert (raw.kind, raw.values) == ("text", [["walk", "rest"], ["walk"]])


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (LONG, {"group": "whom"}, "no column 'whom'"),
        (LONG, {"time": "day"}, "line 3 and line 4 are at the same 'day'"),
        (LONG.replace("a,2020-01-02", ",2020-01-02"), {"group": "who"}, "line 2, column 'who' is empty"),
        (LONG.replace("2020-01-03", "soon"), {"group": "who", "time": "day"}, "line 5, column 'day' holds 'soon'"),
        (LONG.replace("2020-01-03", ""), {"group": "who", "time": "day"}, "line 5, column 'day' is empty"),
    ],
)
def test_what_is_no_series_is_refused(tmp_path, text, options, said):
    (tmp_path / "long.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "long.csv", **options)


def test_what_has_no_columns_is_refused(long):
    with pytest.raises(DataError, match="no named columns"):
        read(np.zeros((3, 2)), group="who")
    with pytest.raises(OptionError, match="neither weight"):
        read(long, group="who", weight="w")


def test_of_one_series_the_end_is_held_out():
    raw = read(pd.DataFrame({"v": np.arange(100.0)}), kind="sequence")
    train, validation, test = split_parts(raw, Source("x", holdout=0.1, validation=0.1), seed=0)
    parts = [part.values[0].ravel().tolist() for part in (train, validation, test)]
    assert [step for part in parts for step in part] == list(range(100))
    assert [len(part) for part in parts] == [81, 9, 10]


def test_a_series_is_fitted_at_the_command_and_others_are_read_like_it(tmp_path):
    generator = np.random.default_rng(0)
    steps = np.repeat([0.0, 10.0] * 10, 5) + generator.normal(size=100)
    frame = pd.DataFrame({"who": ["a"] * 60 + ["b"] * 40, "t": [*range(60), *range(40)], "v": steps})
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "long.csv", index=False)
    words = ["fit", "--model", "HMM", "--model.states", "2", "--data", str(tmp_path / "long.csv"), "--group", "who"]
    run = tmp_path / "run"
    assert status_of([*words, "--time", "t", "--holdout", "0", "--evaluation", "false", "--out", str(run)]) == 0
    found = Run.open(run)
    other = found.other(str(tmp_path / "long.csv"))
    assert sorted(other.lengths.tolist()) == [40, 60]
    means = found.schema.decode(found.model().emissions.means.detach()[None])[0].ravel()
    assert np.allclose(np.sort(means), [0, 10], atol=5 / 7)  # 5 standard errors of a mean of 50


def test_a_frame_is_one_sequence_for_the_estimator():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(50, 2)) + 8 * (np.arange(50) // 10 % 2)[:, None], columns=["v", "w"])
    estimator = latentia.sklearn.HMM(2, random_state=0).fit(frame)
    assert estimator.means_.shape == (2, 2)
    assert estimator.predict(frame).shape == (50,)
    array = frame.to_numpy()
    assert estimator.score(frame) == pytest.approx(estimator.score(array, lengths=[50]), abs=1e-9)
