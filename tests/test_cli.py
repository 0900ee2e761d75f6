"""The command: every verb on every kind of run, its numbers, and what it says to bad input."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from latentia import cli
from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import GaussianMixture
from latentia.runs.directory import Run

Said = tuple[int, str, str]
Command = Callable[..., Said]


def run_main(capsys, *words: object) -> Said:
    """(status, stdout, stderr) of `latentia words`; any other exception than SystemExit is a failure."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def command(capsys) -> Command:
    return lambda *words: run_main(capsys, *words)


@pytest.fixture
def refused(command) -> Callable[..., str]:
    """What the command says on refusing `words`: one line on stderr, status 2, no traceback."""

    def refuse(*words: object) -> str:
        status, out, err = command(*words)
        assert status == 2, err
        assert "Traceback" not in err
        assert out == ""
        last = err.strip().splitlines()[-1]
        assert last.startswith("latentia: error: ")
        return last

    return refuse


def write_table(path: Path, factor: float = 1.0, holes: bool = False, count: int = 120) -> Path:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(count, 3)) + 4 * rng.integers(0, 2, size=(count, 1)) * [1.0, -1.0, 0.5]
    values = values.round(3)
    if holes:
        values[rng.random(values.shape) < 0.15] = np.nan
    pd.DataFrame(values * factor, columns=["a", "b", "c"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "t.csv")


VAE = ("--model", "VAE", "--model.latent", 2, "--model.hidden", "[16]", "--learner.epochs", 2)
HMM = ("--model", "HMM", "--model.states", 4, "--learner.steps", 3)
MIXTURE = ("--model", "GaussianMixture", "--model.components", 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, table) -> dict[str, Path]:
    """A finished run of each model."""
    folder = tmp_path_factory.mktemp("runs")
    words = {
        "VAE": (*VAE, "--data", "digits", "--first", 150),
        "GaussianMixture": (*MIXTURE, "--data", table),
        "HMM": (*HMM, "--data", "sentences", "--first", 150),
    }
    for name, options in words.items():
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in ("fit", *options, "--out", folder / name, "--evaluation", "false")])
        assert not left.value.code
    return {name: folder / name for name in words}


MODELS = ("VAE", "GaussianMixture", "HMM")


# ------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(command, name):
    status, out, _ = command(name, "--help")
    assert status == 0
    assert name in out


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_the_commands(command, words):
    status, out, _ = command(*words)
    assert status == 0
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("model", MODELS)
def test_help_of_fit_shows_the_options_of_the_model(command, model):
    status, out, _ = command("fit", "--model", model, "--help")
    assert status == 0
    assert f"options of {model}" in out
    assert "--learner." in out


def test_help_shows_no_inside_of_python(command):
    for words in (("fit",), ("fit", "--model", "VAE"), ("sweep", "--model", "HMM")):
        out = command(*words, "--help")[1]
        assert "function" not in out.replace("function of", "")
        assert "0x" not in out
        assert "whole number from 0" in out


def test_version(command):
    assert command("--version")[:2] == (0, "latentia 0.1.0\n")


def test_as_a_module_and_as_a_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "latentia", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "latentia 0.1.0\n")
    done = subprocess.run(
        [sys.executable, "-m", "latentia", "evaluate", "nowhere"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("latentia: error: nowhere is not a run directory")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# --------------------------------------------------------------------------------------------------- what is misspelt


def test_an_unknown_command_is_told_the_commands(refused):
    said = refused("evalute", "runs/x")
    assert "did you mean 'evaluate'?" in said
    assert all(name in said for name in cli.COMMANDS)


def test_an_unknown_model_is_told_the_models(refused):
    said = refused("fit", "--model", "VAEE", "--data", "digits")
    assert "did you mean 'VAE'?" in said
    assert all(name in said for name in MODELS)


def test_no_model_is_told_the_models(refused):
    assert all(name in refused("fit") for name in MODELS)
    assert "did you mean '--model'?" in refused("fit", "--modle", "VAE", "--data", "digits")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("fit", "--model", "VAE", "--data", "digits", "--model.latnet", "3"), "--model.latent"),
        (("fit", "--model", "VAE", "--data", "digits", "--learner.epoch=3"), "--learner.epochs"),
        (("fit", "--model", "VAE", "--data", "digits", "--objective.betta", "3"), "--objective.beta"),
        (("fit", "--model", "HMM", "--data", "sentences", "--frist", "3"), "--first"),
        (("evaluate", "RUN", "--jsn"), "--json"),
        (("sample", "RUN", "--men"), "--mean"),
        (("encode", "RUN", "--dta", "x.csv"), "--data"),
        (("interpolate", "RUN", "--strat", "1"), "--start"),
        (("complete", "RUN", "--hid", "top"), "--hide"),
        (("report", "RUN", "--jsno"), ""),
    ],
)
def test_an_unknown_option_is_told_the_nearest(refused, words, meant):
    said = refused(*words)
    assert "unknown option" in said
    assert f"did you mean '{meant}'?" in said or not meant


def test_learner_and_objective_must_exist_and_fit(refused, table):
    start = ("fit", *MIXTURE, "--data", table)
    assert "did you mean 'Gradient'?" in refused(*start, "--learner", "Gradien")
    assert "elbo, iwae" in refused(*start, "--learner", "Gradient", "--objective", "elbow")
    assert "use --learner Gradient" in refused(*start, "--objective", "elbo")


def test_data_are_needed(refused):
    assert "--data" in refused("fit", *MIXTURE)
    assert "--data" in refused("fit", *MIXTURE, "--data")


def test_resume_takes_no_other_option(refused):
    assert "takes no other option" in refused("fit", "--resume", "x", "--seed", "1")
    assert "not a run directory" in refused("fit", "--resume", "nowhere")


# ------------------------------------------------------------------------------------------------- what is out of range


@pytest.mark.parametrize(
    "option",
    [
        "--seed -1",
        "--seed 99999999999999999999",
        "--seed 1.5",
        "--first 0",
        "--first -3",
        "--holdout 1",
        "--holdout -0.1",
        "--validation 2",
        "--importance_samples 0",
        "--evaluation maybe",
        "--model.components 0",
        "--model.components 109",
        "--model.components two",
        "--model.covariance ful",
        "--model.floor -1",
        "--learner.steps 0",
        "--learner.steps -5",
        "--learner.tol -1",
        "--learner.restarts 0",
        "--learner.batch_size 0",
        "--learner.stepwise 3",
        "--kind foo",
        "--kind text",
        "--kind image",
        "--values foo",
        "--values levels",
        "--scale foo",
        "--binarize foo",
        "--columns a,zz",
    ],
)
def test_fit_refuses_an_option_of_the_mixture(refused, table, tmp_path, option):
    name, value = option.split()
    said = refused("fit", "--model", "GaussianMixture", "--data", table, name, value, "--out", tmp_path / "run")
    assert name.lstrip("-").split(".")[-1] in said or table.name in said
    # another attempt with the same --out is not refused for what the failed one has left
    if option == "--model.components 109":
        assert "finished" not in refused(
            "fit", "--model", "GaussianMixture", "--data", table, "--learner.steps", 0, "--out", tmp_path / "run"
        )


@pytest.mark.parametrize(
    "option",
    [
        "--model.latent 0",
        "--model.latent -1",
        "--model.hidden [0]",
        "--model.hidden 5",
        "--model.activation x",
        "--model.likelihood poisson",
        "--learner.lr 0",
        "--learner.lr -1",
        "--learner.lr nan",
        "--learner.lr fast",
        "--learner.epochs -1",
        "--learner.epochs 1.5",
        "--learner.batch_size 0",
        "--learner.clip -1",
        "--learner.patience 0",
        "--learner.warmup -3",
        "--learner.eps 0",
        "--learner.device nowhere",
        "--learner.precision x",
        "--learner.schedule x",
        "--objective.samples 0",
        "--objective.beta -1",
        "--objective.free_bits -1",
        "--binarize none --model.likelihood bernoulli",
    ],
)
def test_fit_refuses_an_option_of_the_vae(refused, tmp_path, option):
    said = refused(
        "fit", "--model", "VAE", "--data", "digits", "--first", 40, *option.split(), "--out", tmp_path / "run"
    )
    assert option.split()[0].split(".")[-1].lstrip("-") in said


@pytest.mark.parametrize(
    "option", ["--model.states 0", "--model.smoothing -1", "--max_vocabulary 1", "--min_count 99999", "--columns a"]
)
def test_fit_refuses_an_option_of_the_hmm(refused, tmp_path, option):
    refused("fit", "--model", "HMM", "--data", "sentences", "--first", 40, *option.split(), "--out", tmp_path / "run")


def test_supervised_without_labels_is_refused(refused, tmp_path):
    options = ("--data", "digits", "--first", 40, "--objective", "supervised", "--out", tmp_path / "run")
    said = refused("fit", "--model", "SemiSupervisedVAE", *options)
    assert "--objective supervised learns from labels" in said
    assert not (tmp_path / "run").exists()


COUNTS = {
    "vectors": [[[5, 0], [0, 2], [1, 1]], [[2, 2], [3, 0]], [[0, 1], [4, 0], [0, 0]], [[1, 2], [2, 0]]],
    "numbers": [[5, 0, 2, 1], [1, 0, 3], [0, 1, 4, 0, 0], [2, 2]],
    "bits": [[0, 1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0]],
}


@pytest.mark.parametrize(
    ("values", "emission"),
    [
        ("vectors", "poisson"),
        ("vectors", "multinomial"),
        ("numbers", "poisson"),
        ("numbers", "multinomial"),
        ("numbers", "gaussian"),
        ("numbers", "mixture"),
        ("bits", "bernoulli"),
        ("bits", "poisson"),
    ],
)
def test_an_emission_tells_what_the_values_are(command, tmp_path, values, emission):
    """Counts are not standardized, and whole numbers of one a step are no symbols where another emission is named."""
    path = tmp_path / "counts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in COUNTS[values]))
    out = tmp_path / "run"
    options = ("--model.states", 2, "--learner.steps", 2, "--holdout", 0, "--evaluation", "false", "--out", out)
    assert command("fit", "--model", "HMM", "--data", path, "--model.emission", emission, *options)[0] == 0
    schema = Run.open(str(out)).schema
    assert schema.values == ("binary" if emission == "bernoulli" else "real")
    scaled = emission in ("gaussian", "mixture")
    assert (set(schema.scale) <= {1.0}) == (not scaled)
    assert any(schema.shift) == scaled


def test_what_would_do_read_otherwise_is_told_the_option(refused, tmp_path):
    path, rows = tmp_path / "counts.jsonl", tmp_path / "rows.csv"
    path.write_text("".join(json.dumps(row) + "\n" for row in COUNTS["vectors"]))
    rows.write_text("a,b\n" + "0,2\n1,0\n2,1\n0,0\n")
    counts = ("--model", "HMM", "--model.emission", "poisson", "--data", path, "--scale", "standard")
    assert "say --scale none" in refused("fit", *counts, "--out", tmp_path / "scaled")
    rows = ("--model", "MixtureOfCategoricals", "--model.components", 2, "--data", rows)
    assert "say --values levels" in refused("fit", *rows, "--out", tmp_path / "rows")
    path.write_text("".join(json.dumps(row) + "\n" for row in COUNTS["numbers"]))
    assert "say --values real" in refused(
        "fit", "--model", "FactorialHMM", "--data", path, "--out", tmp_path / "chains"
    )


def test_zero_is_a_weight(command, tmp_path):
    """What may be 0 may be written as 0 and 0.0."""
    start = ("fit", "--data", "digits", "--first", 40, *VAE, "--learner.epochs", 1, "--evaluation", "false")
    for i, zero in enumerate(("0", "0.0")):
        assert command(*start, "--objective.beta", zero, "--out", tmp_path / str(i))[0] == 0
    start = ("fit", "--data", "sentences", "--first", 40, *HMM, "--evaluation", "false", "--model.smoothing", 0)
    assert command(*start, "--out", tmp_path / "hmm")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        "evaluate --importance_samples 0",
        "evaluate --seed -1",
        "evaluate --first 0 --data digits",
        "evaluate --first 5",
        "evaluate --columns a",
        "evaluate --key a",
        "sample --n 0",
        "sample --n many",
        "sample --seed -1",
        "interpolate --start 0",
        "interpolate --end 9999",
        "interpolate --steps 1",
        "complete --sweeps 1",
        "complete --hide middle",
        "complete",
        "encode --out codes.pkl",
        "sample --out x.exe",
        "sample --out nowhere/x.png",
    ],
)
def test_what_takes_a_run_refuses_an_option(refused, runs, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *options = words.split()
    refused(name, runs["VAE"], *options)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- bad data


def fit_refuses(refused, path: Path, *options: object, model: str = "GaussianMixture") -> str:
    said = refused("fit", "--model", model, "--data", path, *options, "--out", path.parent / "run")
    assert not (path.parent / "run" / "model.safetensors").exists()
    return said


def test_an_infinite_value_is_named(refused, tmp_path):
    (tmp_path / "x.csv").write_text("height,weight\n1,2\n3,4\n5,inf\n")
    said = fit_refuses(refused, tmp_path / "x.csv")
    assert "x.csv, line 4, column 'weight'" in said
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0], [-np.inf, 3.0]]))
    assert "x.npy, row 2, column 1" in fit_refuses(refused, tmp_path / "x.npy")


def test_a_column_of_text_is_named(refused, command, tmp_path):
    rows = "".join(f"{1.5 + i / 10},{50 + i % 7},{'long' if i % 2 else 'short'}\n" for i in range(20))
    (tmp_path / "geyser.csv").write_text("duration,waiting,kind\n" + rows)
    said = fit_refuses(refused, tmp_path / "geyser.csv")
    assert "geyser.csv, line 2, column 'kind' holds text, 'short'" in said
    assert "--columns duration,waiting" in said
    # the advice works, also for the other commands on the same file
    run = tmp_path / "other"
    words = ("fit", *MIXTURE, "--data", tmp_path / "geyser.csv", "--columns", "duration,waiting", "--out", run)
    assert command(*words, "--evaluation", "false")[0] == 0
    assert command("evaluate", run, "--data", tmp_path / "geyser.csv")[0] == 0


def damaged_files(folder: Path) -> dict[Path, str]:
    """Files that cannot be used, and a word of what is said about each."""
    whole = np.arange(48.0).reshape(16, 3)
    np.save(folder / "whole.npy", whole)
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    idx = bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 2, 2) + bytes(range(16))
    contents = {
        "empty.csv": b"",
        "header.csv": b"a,b\n",
        "short.csv": b"a,b,c\n1,2,3\n4,5",
        "quote.csv": b'a,b\n1,2\n3,"4',
        "numbers.csv": b"1,2\n3,4\n",
        "bytes.csv": b"a,b\n\xff\xfe,1\n",
        "blank.csv": b"a,b\n1,\n2,\n",
        "empty.npy": b"",
        "cut.npy": (folder / "whole.npy").read_bytes()[:-20],
        "header.npy": (folder / "whole.npy").read_bytes()[:9],
        "cut.idx": idx[:-3],
        "long.idx": idx + b"x",
        "header.idx": idx[:7],
        "cut.idx.gz": gzip.compress(idx)[:-9],
        "cut.npz": b"PK\x03\x04abc",
        "cut.parquet": b"PAR1abc",
        "cut.jsonl": b"[1, 2]\n[3,",
        "empty.txt": b"\n\n",
        "what.doc": b"abc",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {folder / name: name for name in [*contents, "objects.npy"]}


def test_damaged_files_are_named(refused, tmp_path):
    for path, name in damaged_files(tmp_path).items():
        assert name in fit_refuses(refused, path), name
    assert "does not exist" in fit_refuses(refused, tmp_path / "nowhere.csv")


def test_other_data_must_fit_the_run(refused, runs, tmp_path):
    (tmp_path / "two.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "names.csv").write_text("a,b,z\n1,2,3\n3,4,5\n")
    np.save(tmp_path / "four.npy", np.zeros((5, 4)))
    np.save(tmp_path / "images.npy", np.zeros((5, 9, 9), np.uint8))
    np.save(tmp_path / "bright.npy", np.full((5, 8, 8), 99, np.uint8))
    (tmp_path / "words.txt").write_text("a b c\n")
    for name, file, words in (
        ("GaussianMixture", "two.csv", "no column 'c'"),
        ("GaussianMixture", "names.csv", "no column 'c'"),
        ("GaussianMixture", "four.npy", "3 columns (a, b, c), four.npy has 4 columns"),
        ("GaussianMixture", "words.txt", "words.txt"),
        ("VAE", "images.npy", "images of shape (8, 8), images.npy has (9, 9)"),
        ("VAE", "bright.npy", "99 is outside the schema"),
        ("VAE", "words.txt", "words.txt"),
        ("HMM", "two.csv", "two.csv"),
        ("HMM", "four.npy", "four.npy"),
    ):
        assert words in refused("evaluate", runs[name], "--data", tmp_path / file)
        assert words in refused("encode", runs[name], "--data", tmp_path / file)


def test_a_model_that_the_data_cannot_have(refused, table, tmp_path):
    out = ("--out", tmp_path / "run")
    assert "GaussianMixture needs features" in refused("fit", *MIXTURE, "--data", "sentences", "--first", 50, *out)
    refused("fit", "--model", "VAE", "--data", table, "--model.likelihood", "bernoulli", *out)
    refused("fit", "--model", "VAE", "--data", "sentences", "--first", 50, *out)
    refused("fit", "--model", "HMM", "--data", table, *out)


def test_what_would_do_as_another_kind_is_told_so(refused, command, table, tmp_path):
    out = ("--out", tmp_path / "run")
    assert "say --kind sequence" in refused("fit", "--model", "HMM", "--data", table, *out)
    assert command("fit", *HMM, "--data", table, "--kind", "sequence", "--evaluation", "false", *out)[0] == 0
    (tmp_path / "walks.jsonl").write_text("[1, 2, 3]\n[3, 1, 2]\n[0, 2, 2]\n[1, 1, 0]\n")
    out = ("--out", tmp_path / "table")
    assert "say --kind table" in refused("fit", *MIXTURE, "--data", tmp_path / "walks.jsonl", *out)
    # ragged sequences are no table
    (tmp_path / "ragged.jsonl").write_text("[1, 2, 3]\n[3, 1]\n[0, 2, 2]\n[1, 1, 0]\n")
    said = refused("fit", *MIXTURE, "--data", tmp_path / "ragged.jsonl", "--out", tmp_path / "ragged")
    assert "say --kind" not in said


def test_a_symbol_may_be_seen_in_the_held_out_data_alone(command, tmp_path):
    """How many symbols there are is counted over all data, whichever of them hold the last one."""
    for row in range(10):
        sequences = [[0, 1, 2, 1]] * 10
        sequences[row] = [0, 1, 7, 1]
        data = tmp_path / f"{row}.jsonl"
        data.write_text("".join(f"{sequence}\n" for sequence in sequences))
        out = tmp_path / f"run{row}"
        assert command("fit", *HMM, "--data", data, "--holdout", 0.5, "--evaluation", "false", "--out", out)[0] == 0
        assert json.loads((out / "schema.json").read_text())["levels"] == 8


def test_the_closing_lines_tell_how_the_restarts_ended(command, table, tmp_path):
    words = ("fit", *MIXTURE, "--data", table, "--learner.restarts", 4, "--evaluation", "false")
    err = command(*words, "--out", tmp_path / "a")[2]
    assert "4 restarts ended at" in err
    assert "converged" in err
    restarts = Run.open(tmp_path / "a").learned["restarts"]
    assert len(restarts) == 4
    assert f"{max(restarts):,.3f}".replace("-", "−") in err
    err = command(*words, "--learner.steps", 1, "--learner.tol", 0, "--out", tmp_path / "b")[2]
    assert "fit again with a larger --learner.steps" in err


# ------------------------------------------------------------------------------------------------------------- holes


@pytest.mark.parametrize("options", [MIXTURE, (*VAE, "--model.likelihood", "gaussian")], ids=["GaussianMixture", "VAE"])
def test_empty_cells_are_missing_values(command, tmp_path, options):
    data = write_table(tmp_path / "holes.csv", holes=True)
    run = tmp_path / "run"
    assert command("fit", *options, "--data", data, "--out", run, "--evaluation", "false")[0] == 0
    status, out, _ = command("evaluate", run, "--json", "--importance_samples", 10)
    assert status == 0
    assert math.isfinite(json.loads(out)["log_marginal"])
    filled = tmp_path / "filled.csv"
    assert command("complete", run, "--data", data, "--sweeps", 4, "--out", filled)[0] == 0
    before, after = pd.read_csv(data), pd.read_csv(filled)
    assert before.isna().any().any()
    assert not after.isna().any().any()
    seen = before.notna().to_numpy()
    np.testing.assert_allclose(after.to_numpy()[seen], before.to_numpy()[seen], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- verbs

KEYS = {"log_marginal", "log_marginal_se", "elbo", "reconstruction", "kl", "mutual_information", "active_units"}
KEYS |= {"n", "units"}


@pytest.mark.parametrize("model", MODELS)
def test_evaluate_prints_one_json_object(command, runs, model):
    status, out, _ = command("evaluate", runs[model], "--json", "--importance_samples", 20)
    assert status == 0
    assert len(out.strip().splitlines()) == 1
    found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert set(found) >= KEYS
    assert all(found[key] is not None for key in KEYS)
    assert found["n"] == {"VAE": 15, "GaussianMixture": 12, "HMM": 15}[model]
    assert found["elbo"] <= found["log_marginal"] + 0.5
    assert found["elbo"] == pytest.approx(found["reconstruction"] - found["kl"])
    assert found["evaluated_on"] == "held-out data"
    assert json.loads((runs[model] / "evaluation.json").read_text()) == found


@pytest.mark.parametrize("model", MODELS)
def test_evaluate_prints_a_table(command, runs, model):
    status, out, _ = command("evaluate", runs[model], "--importance_samples", 5)
    assert status == 0
    assert "log p(x)" in out
    assert "active units" in out


def test_evaluate_other_data_leaves_the_run_alone(command, runs):
    before = {path: path.read_bytes() for path in runs["VAE"].iterdir()}
    status, out, _ = command(
        "evaluate", runs["VAE"], "--data", "digits", "--first", 7, "--json", "--importance_samples", 5, "--naive"
    )
    found = json.loads(out)
    assert (status, found["n"], found["evaluated_on"]) == (0, 7, "digits")
    assert math.isfinite(found["naive_log_marginal"])
    assert {path: path.read_bytes() for path in runs["VAE"].iterdir()} == before


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_evaluation(command, runs, model):
    words = ("evaluate", runs[model], "--json", "--importance_samples", 5)
    assert command(*words, "--seed", 4)[1] == command(*words, "--seed", 4)[1]


SUFFIXES = {"VAE": (".png", ".npy"), "GaussianMixture": (".csv", ".npy"), "HMM": (".txt", ".jsonl")}


@pytest.mark.parametrize("model", MODELS)
def test_sample_writes_every_form(command, refused, runs, model, tmp_path):
    assert command("sample", runs[model])[0] == 0
    assert (runs[model] / f"sample{SUFFIXES[model][0]}").exists()
    for suffix in SUFFIXES[model]:
        out = tmp_path / f"x{suffix}"
        assert command("sample", runs[model], "--n", 5, "--out", out)[0] == 0
        assert len(load(out)) == 5 if suffix != ".png" else out.read_bytes().startswith(b"\x89PNG")
    assert "can be written as" in refused("sample", runs[model], "--out", tmp_path / "x.pkl")


@pytest.mark.parametrize("model", MODELS)
def test_encode_writes_every_form(command, refused, runs, model, tmp_path):
    suffixes = (".jsonl", ".npy") if model == "HMM" else (".csv", ".npy")
    assert command("encode", runs[model])[0] == 0
    assert (runs[model] / f"encode{suffixes[0]}").exists()
    for suffix in suffixes:
        assert command("encode", runs[model], "--out", tmp_path / f"x{suffix}")[0] == 0
    count = 12 if model == "GaussianMixture" else 15
    assert len(np.load(tmp_path / "x.npy")) == count
    if model == "HMM":
        lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
        assert len(lines) == count
        assert all(len(line["x"]) == len(line["states"]) for line in lines)
    else:
        assert len(pd.read_csv(tmp_path / "x.csv")) == count
    assert "codes of this model are written as" in refused("encode", runs[model], "--out", tmp_path / "x.png")


def test_encode_of_vectors_with_holes_is_json(command, tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        [[round(float(v), 2) for v in rng.normal(size=2)] for _ in range(int(rng.integers(3, 8)))] for _ in range(20)
    ]
    lines[1][1][0] = None  # type: ignore[call-overload]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run, out = tmp_path / "run", tmp_path / "codes.jsonl"
    words = ("fit", *HMM, "--data", tmp_path / "x.jsonl", "--out", run, "--evaluation", "false")
    assert command(*words)[0] == 0
    assert command("encode", run, "--data", tmp_path / "x.jsonl", "--out", out)[0] == 0
    codes = [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    assert [len(code["states"]) for code in codes] == [len(line) for line in lines]
    assert codes[1]["x"][1][0] is None
    assert codes[1]["x"][1][1] == pytest.approx(lines[1][1][1])
    assert command("complete", run, "--data", tmp_path / "x.jsonl", "--out", tmp_path / "full.jsonl")[0] == 0
    full = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "full.jsonl").read_text().splitlines()]
    assert [len(line) for line in full] == [len(line) for line in lines]
    assert isinstance(full[1][1][0], float)


def test_interpolate_and_complete_images(command, runs, tmp_path):
    run = runs["VAE"]
    assert command("interpolate", run)[0] == 0
    assert (run / "interpolate.png").exists()
    words = ("interpolate", run, "--data", "digits", "--first", 9, "--start", 9, "--end", 1, "--steps", 3)
    assert command(*words, "--out", tmp_path / "x.npy")[0] == 0
    assert np.load(tmp_path / "x.npy").shape == (3, 8, 8)
    for half in ("top", "bottom", "left", "right"):
        out = tmp_path / f"{half}.npy"
        assert command("complete", run, "--hide", half, "--sweeps", 3, "--out", out)[0] == 0
        assert np.isfinite(np.load(out)).all()
    assert command("complete", run, "--hide", "bottom", "--draw", "--sweeps", 3)[0] == 0
    assert (run / "complete.png").exists()


def test_what_is_hidden_has_a_probability(command, runs, tmp_path):
    run, out = runs["VAE"], tmp_path / "x.npy"
    status, said, _ = command(
        "complete", run, "--hide", "bottom", "--first", 5, "--sweeps", 3, "--importance_samples", 20, "--out", out
    )
    assert status == 0
    found = re.search(r"5 data: log p\(hidden \| shown\) = (-[\d.]+) ± [\d.]+ nats per image", said)
    assert found is not None
    assert -60 < float(found[1]) < -5
    assert "32.0 a datum" in said
    assert "importance sampling" in said
    with Image.open(tmp_path / "x-sheet.png") as sheet:
        assert sheet.width / sheet.height == pytest.approx(5 / 9, abs=0.05)


def test_a_share_is_hidden_of_tables_too(command, runs):
    words = ("complete", runs["GaussianMixture"], "--hide", "random:0.3", "--out", runs["GaussianMixture"] / "x.csv")
    status, said, _ = command(*words)
    assert status == 0
    assert "exact" in said
    hidden = float(re.search(r"([\d.]+) a datum", said)[1])
    assert 0.4 < hidden < 1.5


@pytest.mark.parametrize("how", ["random:0", "random:1", "random:x", "random", "up"])
def test_a_share_must_be_a_share(refused, runs, how):
    assert "--hide" in refused("complete", runs["VAE"], "--hide", how)


def test_sampling_grid(command, refused, runs, tmp_path):
    run = runs["VAE"]
    assert command("sample", run, "--grid", "2x5", "--out", tmp_path / "g.png")[0] == 0
    with Image.open(tmp_path / "g.png") as image:
        assert image.size == (8 * (5 * 9 - 1), 8 * (2 * 9 - 1))
    assert "8x12" in refused("sample", run, "--grid", "5")
    assert "makes a picture" in refused("sample", runs["GaussianMixture"], "--grid", "2x2")
    assert ".png" in refused("sample", run, "--grid", "2x2", "--out", tmp_path / "g.csv")


def test_traverse(command, refused, runs, tmp_path):
    run = runs["VAE"]
    status, said, _ = command("traverse", run, "--steps", 4)
    assert status == 0
    dimensions = [line for line in said.splitlines() if line.startswith("dimension ")]
    assert len(dimensions) in (1, 2)
    with Image.open(run / "traverse.png") as image:
        assert image.size == (8 * (4 * 9 - 1), 8 * (len(dimensions) * 9 - 1))
    assert command("traverse", run, "--through", "prior", "--out", tmp_path / "t.npy")[0] == 0
    assert np.load(tmp_path / "t.npy").shape[1:] == (8, 8)
    assert "--start 99" in refused("traverse", run, "--start", 99)
    assert "discrete" in refused("traverse", runs["GaussianMixture"])


def test_cluster_and_its_accuracy(command, refused, runs, tmp_path):
    data = tmp_path / "t.csv"
    table = pd.read_csv(write_table(data))
    table["kind"] = (table["a"] > 0).astype(int)
    table.to_csv(data, index=False)
    run, out = runs["GaussianMixture"], tmp_path / "c.csv"
    status, said, _ = command("cluster", run, "--data", data, "--labels", "kind", "--out", out)
    assert status == 0
    found = pd.read_csv(out)
    assert list(found.columns) == ["row", *table.columns, "cluster", "p0", "p1"]
    right = (found["cluster"] == table["kind"]).mean()
    assert f"accuracy {max(right, 1 - right):.4f}" in said
    assert "NMI" in said
    assert "has no clusters" in refused("cluster", runs["VAE"])
    assert "--labels belong to --data" in refused("cluster", run, "--labels", "kind")


def test_detect_ranks_and_tells_apart(command, refused, runs, tmp_path):
    run = runs["GaussianMixture"]
    odd = pd.DataFrame({"a": [90.0, -80.0], "b": [0.0, 50.0], "c": [0.0, 0.0]})
    odd.to_csv(tmp_path / "odd.csv", index=False)
    out = tmp_path / "d.csv"
    status, said, _ = command("detect", run, "--outliers", tmp_path / "odd.csv", "--out", out)
    assert status == 0
    assert "AUROC 1.0000" in said
    assert "can rank outliers above the data" in said
    found = pd.read_csv(out)
    assert found["odd"].tolist()[:2] == [1, 1]
    assert sorted(found["row"][:2]) == [1, 2]
    assert found["score"].is_monotonic_decreasing
    assert "no whole numbers" in refused("detect", run, "--score", "complexity")


def test_detect_by_labels(command, refused, runs, tmp_path):
    data = tmp_path / "t.csv"
    table = pd.read_csv(write_table(data))
    table.loc[7, ["a", "b", "c"]] = [70.0, 70.0, 70.0]
    table["odd"] = 0
    table.loc[7, "odd"] = 1
    table.to_csv(data, index=False)
    status, said, _ = command(
        "detect", runs["GaussianMixture"], "--data", data, "--labels", "odd", "--out", tmp_path / "d.csv"
    )
    assert status == 0
    assert "AUROC 1.0000" in said
    assert pd.read_csv(tmp_path / "d.csv")["row"][0] == 8
    both = ("--labels", "odd", "--outliers", data)
    assert "leave one out" in refused("detect", runs["GaussianMixture"], "--data", data, *both)


@pytest.mark.parametrize("score", ["likelihood", "regret", "complexity"])
def test_detect_shows_the_oddest_images(command, runs, score):
    words = ("detect", runs["VAE"], "--score", score, "--importance_samples", 10, "--steps", 5, "--first", 12)
    status, said, _ = command(*words)
    assert status == 0
    assert f"12 data by {score}" in said
    assert ("Nalisnick" in said) == (score == "likelihood")
    assert (runs["VAE"] / "detect.png").exists()


def test_gap(command, runs):
    status, said, _ = command("gap", runs["VAE"], "--first", 6, "--steps", 60, "--importance_samples", 300, "--json")
    assert status == 0
    means = json.loads(said)["means"]
    assert means["log_marginal"] >= means["refined"] - 0.05
    assert means["approximation"] == pytest.approx(means["log_marginal"] - means["refined"])
    assert means["amortization"] == pytest.approx(means["refined"] - means["amortized"])
    status, said, noted = command("gap", runs["VAE"], "--first", 1, "--steps", 2, "--importance_samples", 2, "--json")
    assert json.loads(said, parse_constant=pytest.fail)["standard_errors"]["refined"] is None
    assert "warning" not in noted
    status, said, _ = command("gap", runs["GaussianMixture"], "--importance_samples", 2)
    assert status == 0
    assert re.search(r"amortization gap +-?0\.000", said)


def test_semi_amortized_is_an_objective(command, tmp_path):
    words = (*VAE, "--data", "digits", "--first", 80, "--objective", "semi_amortized", "--objective.steps", 2)
    status, _, said = command("fit", *words, "--out", tmp_path / "run", "--evaluation", "false")
    assert status == 0, said


def test_a_mixture_of_images_writes_images(command, tmp_path):
    run = tmp_path / "run"
    words = ("fit", *MIXTURE, "--data", "digits", "--first", 60, "--out", run, "--evaluation", "false")
    assert command(*words)[0] == 0
    for verb, option in (("sample", "--mean"), ("complete", "--hide=top")):
        assert command(verb, run, option, "--out", tmp_path / "x.npy")[0] == 0
        assert np.load(tmp_path / "x.npy").shape[1:] == (8, 8)


def test_symbols_have_no_mean(refused, runs):
    assert "--mean" in refused("sample", runs["HMM"], "--mean")


@pytest.mark.parametrize("model", ["GaussianMixture", "HMM"])
def test_what_a_model_lacks_is_said(refused, runs, model):
    assert f"{model} cannot interpolate" in refused("interpolate", runs[model])
    assert "--hide bottom is for images" in refused("complete", runs[model], "--hide", "bottom")
    assert "nothing is missing" in refused("complete", runs[model])


@pytest.mark.parametrize("model", MODELS)
def test_report_is_written(command, runs, model):
    assert command("evaluate", runs[model], "--importance_samples", 5)[0] == 0  # else the report would, with 1000
    assert command("report", runs[model])[0] == 0
    assert "<html" in (runs[model] / "report.html").read_text()


# ------------------------------------------------------------------------------------------------------------- units


def measured(command, run: Path, data: Path, *options: object) -> dict:
    """The evaluation of a mixture fitted on `data`."""
    assert command("fit", *MIXTURE, "--data", data, "--out", run, "--evaluation", "false", *options)[0] == 0
    return json.loads(command("evaluate", run, "--json")[1])


def test_the_units_are_those_of_the_table(command, tmp_path):
    metres = measured(command, tmp_path / "m", write_table(tmp_path / "metres.csv"))
    millimetres = measured(command, tmp_path / "mm", write_table(tmp_path / "millimetres.csv", 1000.0))
    difference = metres["log_marginal"] - millimetres["log_marginal"]
    assert difference == pytest.approx(3 * math.log(1000), rel=1e-9)
    assert metres["mutual_information"] == pytest.approx(millimetres["mutual_information"], rel=1e-6)
    assert "in the units of the data as given" in metres["units"]


def test_csv_npy_and_parquet_give_the_same_number(command, table, tmp_path):
    frame = pd.read_csv(table)
    np.save(tmp_path / "t.npy", frame.to_numpy())
    frame.to_parquet(tmp_path / "t.parquet")
    files = (table, tmp_path / "t.npy", tmp_path / "t.parquet")
    found = [measured(command, tmp_path / f"run{i}", file) for i, file in enumerate(files)]
    assert len({each["log_marginal"] for each in found}) == 1


def test_every_kind_of_source_gives_the_same_number(table, tmp_path):
    frame = pd.read_csv(table)
    values = frame.to_numpy()
    np.save(tmp_path / "t.npy", values)
    numbers = set()
    for source in (table, str(table), frame, values, torch.from_numpy(values), tmp_path / "t.npy", values.tolist()):
        data = load(source, scale="standard")
        model = GaussianMixture(3, components=2).double()
        EM(progress=False).fit(model, data)
        numbers.add(evaluate(model, data).log_marginal)
    assert max(numbers) - min(numbers) < 1e-12


def test_first_and_holdout_zero(command, table, tmp_path):
    found = measured(command, tmp_path / "run", table, "--first", 50, "--holdout", 0)
    assert found["n"] == 50
    assert found["evaluated_on"] == "the training data (nothing was held out)"
    _, said, noted = command("detect", tmp_path / "run")
    assert "the training data (nothing was held out)" in noted
    assert "held out, row" not in said


def test_a_reader_that_leaves_is_no_error(runs):
    """`latentia evaluate ... | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "latentia", "evaluate", str(runs["GaussianMixture"])]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_device_of_a_fit_is_an_option_of_its_own(refused, tmp_path):
    said = refused("fit", "--model", "VAE", "--data", "digits", "--device", "nowhere", "--out", tmp_path / "run")
    assert "device='nowhere' cannot be used here" in said


def test_images_for_a_model_of_bits_are_binarized_unless_said_otherwise(command, tmp_path):
    options = ("--model.components", 2, "--learner.steps", 3, "--first", 100, "--evaluation", "false")
    out = tmp_path / "run"
    status, _, err = command("fit", "--model", "MixtureOfBernoullis", "--data", "digits", *options, "--out", out)
    assert status == 0, err
    assert json.loads((out / "schema.json").read_text())["binarize"] == "dynamic"
