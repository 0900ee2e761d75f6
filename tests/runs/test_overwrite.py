"""A fit that is refused leaves nothing behind, one that stops half-way names the command that goes on, and --overwrite
replaces a run, once the new one has begun."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import latentia
from latentia.learners.em import _Fit
from latentia.runs.directory import Run


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(40, 2)) + 5 * draw.integers(0, 2, (40, 1)), columns=["a", "b"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def fit(table, out, *more):
    words = ("fit", "--model", "GaussianMixture", "--data", table, "--model.components", 2, "--evaluation", "false")
    return (*words, "--out", out, *more)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


REFUSED = {
    "option": ("--model.components", 0),
    "count": ("--model.components", 1000),
    "data": ("--columns", "a,nope"),
    "values": ("--kind", "sequence", "--values", "symbols"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_refused_fit_leaves_no_directory(answer, table, tmp_path, how):
    status, _, err = answer(*fit(table, tmp_path / "runs" / "new"), *REFUSED[how])
    assert status == 2, err
    assert not (tmp_path / "runs").exists()
    assert "--resume" not in err
    assert "go on" not in err


def test_a_folder_that_was_there_stays(answer, table, tmp_path):
    (tmp_path / "mine").mkdir()
    assert answer(*fit(table, tmp_path / "mine", *REFUSED["count"]))[0] == 2
    assert list((tmp_path / "mine").iterdir()) == []


def test_overwrite_replaces_a_finished_run(answer, table, tmp_path):
    run = tmp_path / "run"
    assert answer(*fit(table, run))[0] == 0
    (run / "cluster.csv").write_text("of the old run")
    status, _, err = answer(*fit(table, run, "--model.components", 3))
    assert status == 2
    assert "--overwrite to replace it" in err
    assert answer(*fit(table, run, "--model.components", 3, "--overwrite"))[0] == 0
    assert latentia.open_run(run).config.model_options["components"] == 3
    assert not (run / "cluster.csv").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "t.csv"]


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused_overwrites_nothing(answer, table, tmp_path, how):
    run = tmp_path / "run"
    assert answer(*fit(table, run))[0] == 0
    before = content(tmp_path)
    assert answer(*fit(table, run, "--overwrite"), *REFUSED[how])[0] == 2
    assert content(tmp_path) == before


def test_nothing_but_a_run_is_overwritten(answer, table, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    status, _, err = answer(*fit(table, tmp_path / "mine", "--overwrite"))
    assert status == 2
    assert "holds no run" in err
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_fit_that_stops_half_way_names_the_command_that_goes_on(answer, table, tmp_path, monkeypatch):
    run, steps = tmp_path / "run", _Fit._judge
    monkeypatch.setattr("latentia.learners.checkpoint.Checkpoint.due", True)

    def full(self, value):
        if self.step >= 1 and self.records:
            raise MemoryError
        return steps(self, value)

    with monkeypatch.context() as patch:
        patch.setattr(_Fit, "_judge", full)
        status, _, err = answer(*fit(table, run))
    assert status == 2
    assert f"go on with `latentia fit --resume {run}`" in err
    assert answer("fit", "--resume", run)[0] == 0
    assert latentia.open_run(run).finished


def test_a_report_that_fails_is_named_too(answer, table, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def full(self):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "report", full)
        status, _, err = answer(*fit(table, run, "--evaluation", "true"))
    assert status == 2
    assert f"go on with `latentia report {run}`" in err
    assert answer("report", run)[0] == 0


def test_an_interrupted_replacement_gives_the_old_run_back(answer, table, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert answer(*fit(table, run))[0] == 0
    before = content(tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "fit", interrupted)
        assert answer(*fit(table, run, "--model.components", 3, "--overwrite"))[0] == 130
    assert content(tmp_path) == before
