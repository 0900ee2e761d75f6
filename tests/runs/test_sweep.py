"""Sweeps: what a range means, that all share their held-out data, and that one that fails or dies harms no other."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentia import cli
from latentia.cli import fitting
from latentia.errors import OptionError
from latentia.evaluate import criteria
from latentia.report.comparison import build_comparison, conclusions
from latentia.runs import sweep
from latentia.runs.directory import Run
from latentia.runs.sweep import choose, expand, values
from latentia.tensors import read_tensors

Said = tuple[int, str, str]


@pytest.fixture
def command(capsys) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        return int(left.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    random = np.random.default_rng(3)
    rows = random.normal(size=(90, 2)) + 5 * random.integers(0, 2, size=(90, 1))
    pd.DataFrame(rows.round(3), columns=["a", "b"]).to_csv(path, index=False)
    return path


# ------------------------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1:4", "1 2 3 4"),
        ("3:3", "3"),
        ("-1:1", "-1 0 1"),
        ("10:50:20", "10 30 50"),
        ("10:45:20", "10 30"),
        ("0.1:0.3:0.1", "0.1 0.2 0.3"),
        ("1e-3:3e-3:1e-3", "0.001 0.002 0.003"),
        ("full,tied", "full tied"),
        ("1:3,10,2", "1 2 3 10"),
        ("[16,32],[8]", "[16,32] [8]"),
        ("1e-2,1e-3", "1e-2 1e-3"),
    ],
)
def test_several_values(text, meant):
    assert values(text) == meant.split()


@pytest.mark.parametrize("text", ["3", "full", "cuda:0", "[16,32]", "(0.9,0.99)", "-1", "", "a:b"])
def test_a_single_value_is_no_sweep(text):
    assert values(text) is None


@pytest.mark.parametrize("text", ["5:1", "1:5:0", "1:5:-1", "0.5:2.5", "1:2000", "1:2,5:1"])
def test_a_range_that_leads_nowhere_is_refused(text):
    with pytest.raises(OptionError, match=r"\d:"):
        values(text)


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(1, 7))
def test_a_range_is_that_of_python_with_both_ends(first, length, step):
    assert values(f"{first}:{first + length}:{step}") == [str(i) for i in range(first, first + length + 1, step)]


def test_only_options_of_model_learner_and_objective_vary():
    words = shlex.split(
        "--data a,b.csv --columns a,b --model.components 1:2 --learner.tol=1,2 --model.floor 0.5 --seed 3"
    )
    plain, several = expand(words)
    assert plain == shlex.split("--data a,b.csv --columns a,b --model.floor 0.5 --seed 3")
    assert several == {"model.components": ["1", "2"], "learner.tol": ["1", "2"]}


# --------------------------------------------------------------------------------------------------- the whole of it


@pytest.fixture(scope="module")
def swept(table, tmp_path_factory) -> Path:
    """One to three components, and so many that the data do not suffice."""
    out = tmp_path_factory.mktemp("sweep") / "mixtures"
    words = f"sweep --model GaussianMixture --data {table} --model.components 1:3,200 --learner.restarts 3 --jobs 2"
    with pytest.raises(SystemExit) as left:
        cli.main([*shlex.split(words), "--out", str(out)])
    assert left.value.code == 2  # a member has failed
    return out


@pytest.fixture(scope="module")
def summary(swept) -> dict:
    return json.loads((swept / "sweep.json").read_text())


def test_members_are_what_fit_makes_alone(swept, table, tmp_path, command):
    alone = tmp_path / "alone"
    words = ("fit", "--model", "GaussianMixture", "--data", table, "--model.components", 2, "--learner.restarts", 3)
    assert command(*words, "--out", alone)[0] == 0
    member = swept / "components=2"
    assert json.loads((member / "evaluation.json").read_text()) == json.loads((alone / "evaluation.json").read_text())
    ours, theirs = (read_tensors(path / "model.safetensors")[0] for path in (member, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    said = shlex.split(Run.open(member).config.command)
    assert said[:2] == ["latentia", "fit"]
    assert said[-2:] == ["--out", str(member)]


def test_all_members_are_measured_on_the_same_held_out_data(swept, summary):
    rows = [Run.open(swept / f"components={k}").parts.test.rows.tolist() for k in (1, 2, 3)]
    assert rows[0] == rows[1] == rows[2]
    assert summary["n"] == len(rows[0]) == 9
    assert summary["held_out"]


def test_the_figures_are_those_of_the_members(swept, summary):
    run = Run.open(swept / "components=3")
    member = next(member for member in summary["members"] if member["name"] == "components=3")
    found = criteria(run.model(), run.parts.train)
    assert member["free_parameters"] == 2 + 3 * 2 + 3 * 3
    assert member["bic"] == pytest.approx(found.bic)
    assert member["aic"] == pytest.approx(found.aic)
    assert len(member["restarts"]) == 3
    assert summary["best"]["bic"] == "components=2"


def test_behind_is_the_paired_difference(swept, summary):
    best = summary["best"]["log_marginal"]
    each = {
        m["name"]: read_tensors(swept / m["name"] / "evaluation.safetensors")[0]["each"][:, 0]
        for m in summary["members"][:3]
    }
    for member in summary["members"][:3]:
        away = each[best] - each[member["name"]]
        assert member["behind"] == pytest.approx(float(away.mean()), abs=1e-12)
        assert member["behind_se"] == pytest.approx(float(away.std()) / 3, abs=1e-12)


def test_one_that_fails_is_reported_and_loses_no_other(swept, summary):
    errors = [member["error"] for member in summary["members"]]
    assert errors[:3] == [None] * 3
    assert "components=200" in errors[3]
    assert all((swept / f"components={k}" / "model.safetensors").exists() for k in (1, 2, 3))
    assert "Failed: components=200: components=200, and" in (swept / "sweep.html").read_text()


def test_the_page_links_to_the_reports_that_there_are(swept, summary, command):
    def linked() -> list[str]:
        return re.findall(r'<td><a href="([^"]+)/report.html">', (swept / "sweep.html").read_text())

    chosen = {name for name in summary["best"].values() if name}
    assert {unquote(name) for name in linked()} == chosen
    status, _, said = command("report", swept)
    assert status == 0
    assert "sweep.html" in said
    fitted = [member["name"] for member in summary["members"] if not member["error"]]
    assert [unquote(name) for name in linked()] == fitted
    assert all((swept / name / "report.html").exists() for name in fitted)
    (swept.parent / "empty").mkdir()
    (swept.parent / "empty" / "sweep.json").write_text("{}")
    status, _, error = command("report", swept.parent / "empty")
    assert status == 2
    assert "no finished sweep" in error


def test_the_same_command_keeps_what_is_finished(swept, table, command):
    before = {path: path.stat().st_mtime_ns for path in swept.glob("*/model.safetensors")}
    start = ("sweep", "--model", "GaussianMixture", "--data", table, "--learner.restarts", 3, "--out", swept)
    status, out, err = command(*start, "--model.components", "2:3")
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for words in ("Best by held-out log p(x): components=", "Best by BIC: components=2"):
        assert words in out
    # nothing overwrites what was asked for otherwise
    status, _, err = command(*start, "--model.components", "2:3", "--seed", 1)
    assert status == 2
    assert "holds a run that was asked for otherwise" in err


def test_what_was_killed_goes_on(table, tmp_path, monkeypatch):
    """A process that dies takes nothing along; the same sweep again does what is left to do."""
    out = tmp_path / "out"

    def dies_at_two(path: str, *rest: object) -> None:
        if path.endswith("components=2"):
            raise SystemExit(3)
        work(path, *rest)

    work = sweep._work
    plan = planned(table, out, "1:2")
    monkeypatch.setattr(sweep, "_work", dies_at_two)
    monkeypatch.setattr(sweep.multiprocessing, "get_all_start_methods", lambda: ["fork"])
    real = sweep.multiprocessing.get_context
    monkeypatch.setattr(sweep.multiprocessing, "get_context", lambda _: real("fork"))
    first, second = plan.run(jobs=2, progress=False)["members"]
    assert first["error"] is None
    assert "ended with status 3" in second["error"]
    monkeypatch.setattr(sweep, "_work", work)
    assert [member["error"] for member in plan.run(jobs=2, progress=False)["members"]] == [None, None]


def planned(table: Path, out: Path, components: str) -> sweep.Sweep:
    """The plan of a sweep, by the command's own parser."""
    chosen = fitting._choices(["--model", "GaussianMixture", "--data", str(table)], "sweep")
    parser = fitting._fit_parser(chosen)

    def configure(words: list[str]):
        return fitting._config(chosen, parser.parse_args([*chosen.rest, *words]).as_dict(), "")

    return sweep.Sweep.plan({"model.components": values(components) or []}, configure, out, "latentia sweep")


def test_combinations_of_several_options_without_a_held_out_part(table, tmp_path, command):
    out = tmp_path / "two"
    words = ("--model.components", "1,2", "--model.covariance", "full,tied", "--holdout", 0, "--out", out)
    status, said, _ = command("sweep", "--model", "GaussianMixture", "--data", table, *words)
    assert status == 0
    found = json.loads((out / "sweep.json").read_text())
    assert [member["name"] for member in found["members"]] == [
        f"components={k},covariance={kind}" for k in (1, 2) for kind in ("full", "tied")
    ]
    assert found["best"]["log_marginal"] is None
    assert found["best"]["bic"].startswith("components=2")
    assert "Nothing was held out" in said
    assert "<script" not in (out / "sweep.html").read_text()


def test_a_model_without_criteria(table, tmp_path, command):
    out = tmp_path / "vae"
    words = "--model.likelihood gaussian --model.hidden [4] --learner.epochs 1 --importance_samples 5"
    start = ("sweep", "--model", "VAE", "--data", table, *words.split())
    status, said, err = command(*start, "--model.latent", "1,2", "--out", out)
    assert status == 0, err
    assert "BIC: " not in said
    found = json.loads((out / "sweep.json").read_text())
    assert [member["bic"] for member in found["members"]] == [None, None]
    assert found["best"]["log_marginal"] in ("latent=1", "latent=2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model.components 3", "nothing varies"),
        ("--model.components 5:1", "5:1 is no range"),
        ("--model.components 0:2", "components"),
        ("--model.components 1,two", "components"),
        ("--model.component 1:2", "did you mean '--model.components'"),
        ("--model.components 1:2 --jobs 0", "--jobs"),
        ("--model.components 1:2 --evaluation false", "--evaluation"),
        ("--model.components 1:100 --model.floor 1:20", "2,000 combinations"),
        ("--model.components 1:2 --resume x", "same command again"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(words, told, table, tmp_path, command):
    out = tmp_path / "out"
    status, said, err = command("sweep", "--model", "GaussianMixture", "--data", table, *words.split(), "--out", out)
    assert (status, said) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert not out.exists()


# -------------------------------------------------------------------------------------------------- choice and page


def member(
    name: str, log_marginal: float | None, behind: float | None, error: float, parameters: int, bic: float
) -> dict:
    return {
        "name": name, "options": {"model.states": name}, "run": name, "error": None, "log_marginal": log_marginal,
        "log_marginal_se": 0.5, "behind": behind, "behind_se": error, "free_parameters": parameters, "bic": bic,
        "aic": -bic, "seconds": 1.0, "stopped": "converged", "concerns": [],
    }  # fmt: skip


MEMBERS = [
    member("1", -4.0, 1.0, 0.30, 3, 30.0),
    member("2", -3.2, 0.2, 0.25, 6, 20.0),
    member("4", -3.0, 0.0, 0.00, 12, 25.0),
    member("8", -3.1, 0.1, 0.05, 24, 40.0),
]


def test_choice_by_each_rule():
    assert choose(MEMBERS, held_out=True) == {"log_marginal": "4", "simplest": "2", "aic": "8", "bic": "2"}
    assert choose(MEMBERS, held_out=False) == {"log_marginal": None, "simplest": None, "aic": "8", "bic": "2"}
    assert choose([], held_out=True) == dict.fromkeys(("log_marginal", "simplest", "aic", "bic"))
    unmeasured = member("9", None, None, 0.0, 1, 99.0)
    assert choose([unmeasured, *MEMBERS], held_out=True)["simplest"] == "2"


def content(results: list[dict], **changes: object) -> dict:
    summary = {
        "model": "HMM", "data": "x.csv", "seed": 0, "command": "latentia sweep", "options": ["model.states"],
        "held_out": True, "evaluated_on": "held-out data", "n": 9, "units": "nats per row",
        "criteria_on": "81 training data", "best": choose(results, True), "members": results,
    }  # fmt: skip
    return {**summary, **changes}


def test_what_is_concluded():
    assert conclusions(content(MEMBERS)) == [
        "Best by held-out log p(x): 4",
        "Simplest within one standard error of the difference: 2",
        "Best by BIC: 2; by AIC: 8",
    ]
    edge = conclusions(content(MEMBERS[:3]))
    assert edge[-1] == "The best lies at the end of the range: try further values"
    early = [{**MEMBERS[0], "stopped": "steps"}, *MEMBERS[1:]]
    assert "Not converged, so not at their best, raise --learner.steps: 1" in conclusions(content(early))


def test_the_page_stands_alone_and_escapes_the_words_of_others():
    evil = "<script>alert(1)</script>"
    bad = [{**MEMBERS[0], "concerns": [evil]}, {**MEMBERS[1], "error": evil}, *MEMBERS[2:]]
    for options in ({}, {"data": evil, "command": evil, "units": evil}):
        text = build_comparison(content(bad, **options))
        assert "<script" not in text
        assert "://" not in text
        assert not re.findall(r'(?:src|href)="(?!data:image/png|#)', text)
        ids = re.findall(r'\sid="([^"]+)"', text)
        assert len(ids) == len(set(ids))
    assert text.count("&lt;script") >= 5


def test_members_with_a_rate_are_points_of_the_plane():
    traded = [{**one, "method": "iwae", "rate": 9.0 - i, "distortion": 50.0 + 2 * i} for i, one in enumerate(MEMBERS)]
    heading = "Rate and distortion"
    assert heading not in build_comparison(content(MEMBERS))
    assert heading not in build_comparison(content([{**one, "method": "exact"} for one in traded]))
    assert heading not in build_comparison(content([traded[0], *MEMBERS[1:]])), "a point is no plane"
    assert heading not in build_comparison(content([traded[0], {**traded[1], "rate": math.nan}]))
    alone = build_comparison(content(traded))
    assert heading in alone
    assert "squared error" not in alone
    assert "squared error" in build_comparison(content([{**one, "squared_error": 0.1} for one in traded]))


def test_a_page_of_words_and_of_nothing():
    kinds = [{**one, "options": {"model.covariance": kind}} for one, kind in zip(MEMBERS, "abcd", strict=True)]
    assert "<svg" in build_comparison(content(kinds, options=["model.covariance"]))
    failed = [{"name": "1", "options": {"model.states": "1"}, "run": "1", "error": "no luck"}]
    nothing = content([], members=failed, evaluated_on=None, n=None, units=None, criteria_on=None)
    text = build_comparison(nothing)
    assert "failed: no luck" in text
    assert "<svg" not in text
