"""The run directory: what survives a kill, a full disk and damage, and that loading one runs no code."""

from __future__ import annotations

import ast
import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save

import latentia
from latentia import cli
from latentia.data import files
from latentia.errors import DataError, RunError
from latentia.learners.checkpoint import Checkpoint
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run
from latentia.runs.files import read_metrics
from latentia.tensors import FORMAT, read_tensors, write_tensors
from latentia.testing import one_thread

Said = tuple[int, str]

VAE = [
    "--model",
    "VAE",
    "--data",
    "digits",
    "--model.latent",
    "2",
    "--model.hidden",
    "[16]",
    "--learner.epochs",
    "12",
    "--evaluation",
    "false",
]
HMM = [
    "--model",
    "HMM",
    "--data",
    "sentences",
    "--first",
    "300",
    "--model.states",
    "4",
    "--learner.steps",
    "12",
    "--learner.restarts",
    "2",
    "--evaluation",
    "false",
]

# EM saves every two seconds: so that small fits are interrupted between two saves of theirs, save each step
# STRIKE=LINES,SIGNAL is sent by the process to itself, as another one might come too late, when the fit is over
EAGER = """
import contextlib, os
from latentia.runs import directory
from latentia.learners.checkpoint import Checkpoint
Checkpoint.due = True
lines, by = map(int, os.environ.get("STRIKE", "-1,0").split(","))
whole = directory.metrics_writer
@contextlib.contextmanager
def struck(path, keep):
    with whole(path, keep) as write:
        def then(record):
            write(record)
            if path.read_bytes().count(b"\\n") == lines:
                os.kill(os.getpid(), by)
        yield then
directory.metrics_writer = struck
from latentia.cli import main
main()
"""


def call(capsys, *words: object) -> Said:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return int(left.value.code or 0), capsys.readouterr().err


@pytest.fixture
def command(capsys) -> Callable[..., Said]:
    return lambda *words: call(capsys, *words)


@pytest.fixture
def refused(command) -> Callable[..., str]:
    def refuse(*words: object) -> str:
        status, err = command(*words)
        assert status == 2, err
        assert "Traceback" not in err
        return err.strip().splitlines()[-1]

    return refuse


def write_table(path: Path) -> Path:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(60, 2)) + 5 * rng.integers(0, 2, size=(60, 1))
    pd.DataFrame(values, columns=["a", "b"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished, evaluated run of a mixture, for copies to be damaged."""
    folder = tmp_path_factory.mktemp("finished")
    config = Config(
        "GaussianMixture",
        Source(str(write_table(folder / "t.csv")), validation=0.0),
        {"components": 2},
        learner_options={"steps": 20},
    )
    run = Run.create(folder / "run", config)
    run.fit(progress=False)
    run.evaluate(progress=False)
    return folder / "run"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def records(run: Path) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_metrics(run / "metrics.jsonl")]


def _hears_ctrl_c() -> None:
    """A process that was started in the background may be deaf to it, and its children too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*words: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", EAGER, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **{"preexec_fn": _hears_ctrl_c, **options},
    )


def finish(*words: object, **options) -> Said:
    process = started(*words, **options)
    _, err = process.communicate()
    return process.returncode, err


def done(*words: object) -> int:
    """The status of `latentia words`, in this process, with a checkpoint at every step."""
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(Checkpoint, "due", True)
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
    return int(left.value.code or 0)


def strike(after: int, by: int, words: list, run: Path, monkeypatch) -> Said:
    """The process gets the signal `by` as soon as it has written line number `after` of metrics.jsonl."""
    with monkeypatch.context() as patch:
        patch.setenv("STRIKE", f"{after},{int(by)}")
        return finish("fit", *words, "--out", run)


def interrupt(after: int, by: int, words: list, run: Path, delay: float) -> Said:
    """Send the signal `by` once `after` lines are in metrics.jsonl, and after a delay: at any moment."""
    process, metrics = started("fit", *words, "--out", run), run / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < after):
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(by)
    _, err = process.communicate()
    return process.returncode, err


def same_run(run: Path, whole: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert records(run) == records(whole)
    assert not list(run.glob(".*"))


@pytest.fixture(scope="module")
def whole_vae(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "vae"
    assert done("fit", *VAE, "--out", run) == 0
    return run


@pytest.fixture(scope="module")
def whole_hmm(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "hmm"
    assert done("fit", *HMM, "--out", run) == 0
    return run


# ------------------------------------------------------------------------------------------------- kill and go on


def test_ctrl_c_says_how_to_go_on(whole_hmm, tmp_path, monkeypatch):
    run = tmp_path / "run"
    status, err = strike(2, signal.SIGINT, HMM, run, monkeypatch)
    assert status == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    assert done("fit", "--resume", run) == 0
    same_run(run, whole_hmm)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
@pytest.mark.parametrize("resume", [False, True])
def test_killed_at_random_moments_vae(whole_vae, tmp_path, trial, resume):
    random_kills(whole_vae, VAE, tmp_path / "run", trial, resume)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
@pytest.mark.parametrize("resume", [False, True])
def test_killed_at_random_moments_hmm(whole_hmm, tmp_path, trial, resume):
    random_kills(whole_hmm, HMM, tmp_path / "run", trial, resume)


def random_kills(whole: Path, words: list, run: Path, seed: int, resume: bool) -> None:
    rng = np.random.default_rng(seed)
    for lines in sorted(rng.integers(0, len(records(whole)), size=2)):
        interrupt(int(lines), signal.SIGKILL, words, run, float(rng.random()) * 0.1)
    if not (run / "model.safetensors").exists():
        again = ["--resume", run] if resume and (run / "config.yaml").exists() else [*words, "--out", run]
        assert finish("fit", *again)[0] == 0
    same_run(run, whole)


@pytest.mark.slow
def test_killed_while_it_starts(whole_hmm, tmp_path):
    """Before the first record, at any moment from the making of the directory."""
    for trial in range(8):
        run = tmp_path / str(trial)
        process = started("fit", *HMM, "--out", run)
        while not run.exists():
            time.sleep(0.001)
        time.sleep(0.02 * trial)
        process.kill()
        process.communicate()
        if not (run / "model.safetensors").exists():
            assert finish("fit", *HMM, "--out", run)[0] == 0
        same_run(run, whole_hmm)


# ----------------------------------------------------------------------------------------------------------- full disk


def test_a_kill_and_a_full_disk_lose_nothing(whole_vae, tmp_path, monkeypatch):
    """Killed; then the same command on a full disk; then again.

    No file may grow beyond a part of the checkpoint: as on a full disk, the write fails half-way.
    """
    run = tmp_path / "run"
    assert strike(3, signal.SIGKILL, VAE, run, monkeypatch)[0] == -signal.SIGKILL
    checkpoint = run / "learner.safetensors"
    assert not (run / "model.safetensors").exists()
    before, limit = checkpoint.read_bytes(), checkpoint.stat().st_size // 2
    status, err = finish(
        "fit", *VAE, "--out", run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert status == 2
    assert "Traceback" not in err
    assert "cannot write" in err
    assert checkpoint.read_bytes() == before
    assert not list(run.glob(".*"))
    assert done("fit", *VAE, "--out", run) == 0
    same_run(run, whole_vae)
    assert [record["epoch"] for record in records(run)] == list(range(1, 13))


@pytest.mark.parametrize("name", ["learner.safetensors", "model.safetensors", "schema.json", "evaluation.json"])
def test_whatever_cannot_be_written_loses_nothing(finished, command, tmp_path, monkeypatch, name):
    whole, run = finished, tmp_path / "run"
    words = ["fit", *from_config(whole), "--out", run]
    replace = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    monkeypatch.setattr("latentia.learners.checkpoint.Checkpoint.due", True)
    status, err = command(*words)
    assert status == 2, err
    assert "No space left on device" in err
    assert name in err
    assert not list(run.glob(".*"))
    monkeypatch.setattr(files.os, "replace", replace)
    if name != "evaluation.json":
        assert command(*words, "--evaluation", "false")[0] == 0
    assert read_tensors(run / "model.safetensors")[0].keys() == read_tensors(whole / "model.safetensors")[0].keys()
    assert records(run) == records(whole)


def from_config(run: Path) -> list[str]:
    source = yaml.safe_load((run / "config.yaml").read_text())["data"]["source"]
    return f"--model GaussianMixture --data {source} --model.components 2 --learner.steps 20".split()


# --------------------------------------------------------------------------------------------------- what is there


def test_nothing_overwrites_what_is_there(refused, finished, tmp_path):
    words = ["fit", *from_config(finished)]
    before = {path: path.read_bytes() for path in finished.iterdir()}
    assert "nothing overwrites" in refused(*words, "--out", finished)
    assert "is finished" in refused("fit", "--resume", finished)
    assert {path: path.read_bytes() for path in finished.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "not empty and holds no run" in refused(*words, "--out", tmp_path / "mine")
    assert "is a file" in refused(*words, "--out", tmp_path / "mine" / "thesis.tex")
    assert "cannot make" in refused(*words, "--out", tmp_path / "mine" / "thesis.tex" / "run")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    assert "not a run directory" in refused("evaluate", tmp_path / "mine")


@pytest.fixture
def unfinished(copy) -> Path:
    """The run before its end: its checkpoint is there, its parameters are not."""
    tensors, _ = read_tensors(copy / "model.safetensors")
    state = {"restart": 0, "step": 2, "records": 3, "previous": None, "best_value": None, "values": [], "stopped": ""}
    moved = {f"model.{name}": tensor for name, tensor in tensors.items()}
    write_tensors(copy / "learner.safetensors", moved, {**state, "best_stopped": ""})
    for name in ("model.safetensors", "evaluation.json"):
        (copy / name).unlink()
    return copy


def test_an_interrupted_run_of_other_options_is_left_alone(refused, command, unfinished, finished):
    before = {path: path.read_bytes() for path in unfinished.iterdir()}
    said = refused("fit", *from_config(finished), "--model.floor", "1e-3", "--out", unfinished)
    assert "asked for otherwise" in said
    assert f"latentia fit --resume {unfinished}" in said
    assert "not finished" in refused("evaluate", unfinished)
    assert {path: path.read_bytes() for path in unfinished.iterdir()} == before
    assert command("fit", "--resume", unfinished)[0] == 0
    assert (unfinished / "evaluation.json").exists()


def test_a_run_that_has_learned_nothing_gives_way(refused, command, tmp_path):
    """After an option that only the data could refuse, the corrected command takes the same --out."""
    data = write_table(tmp_path / "t.csv")
    start = ["fit", "--model", "GaussianMixture", "--data", data, "--out", tmp_path / "run", "--evaluation", "false"]
    assert "components=90" in refused(*start, "--model.components", 90)
    assert command(*start, "--model.components", 2, "--columns", "b")[0] == 0
    # a path may be a str, as everywhere
    run = Run.open(str(tmp_path / "run"))
    assert run.schema.names == ("b",)
    assert run.path == tmp_path / "run"
    assert read_metrics(str(run.path / "metrics.jsonl"))
    with pytest.raises(RunError, match="finished"):
        Run.create(str(run.path), run.config)


def test_changed_and_absent_data_are_noticed(refused, command, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_table(Path("t.csv"))
    words = [
        "fit",
        "--model",
        "GaussianMixture",
        "--data",
        "t.csv",
        "--model.components",
        "2",
        "--out",
        "run",
        "--evaluation",
        "false",
    ]
    assert command(*words)[0] == 0
    assert command("evaluate", "run")[0] == 0
    # a relative path counts from where one is
    monkeypatch.chdir(tmp_path / "elsewhere")
    said = refused("evaluate", "../here/run")
    assert "t.csv, the data of ../here/run, is not there" in said
    assert "--data" in said
    assert command("evaluate", "../here/run", "--data", "../here/t.csv")[0] == 0
    assert command("sample", "../here/run")[0] == 0
    monkeypatch.chdir(tmp_path / "here")
    text = Path("t.csv").read_text().splitlines()
    Path("t.csv").write_text("\n".join([*text[:-1], "1,2"]) + "\n")
    assert "t.csv has changed" in refused("evaluate", "run")


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("command_name", ["evaluate", "sample", "encode", "report"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_a_truncated_model_is_refused(refused, copy, command_name, keep):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert str(path) in refused(command_name, copy)


def test_a_model_of_another_shape_is_refused(refused, copy):
    path = copy / "model.safetensors"
    tensors, state = read_tensors(path)
    write_tensors(path, {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}, state)
    assert "does not fit GaussianMixture" in refused("sample", copy)
    write_tensors(path, {"other": torch.zeros(3)}, state)
    assert "does not fit GaussianMixture" in refused("sample", copy)
    path.write_bytes(save(tensors))
    assert "not latentia's" in refused("sample", copy)
    path.write_bytes(save(tensors, metadata={"latentia": "[1, 2]"}))
    assert "not latentia's" in refused("sample", copy)
    path.write_bytes(save(tensors, metadata={"latentia": json.dumps({"format": FORMAT + 1})}))
    assert "upgrade latentia" in refused("sample", copy)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:20] + bytes([content[20] ^ 0xFF]) + content[21:]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: b"", lambda content: b"\x80\x04K\x01."])
def test_a_damaged_checkpoint_is_refused(refused, unfinished, damage):
    path = unfinished / "learner.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    metrics = (unfinished / "metrics.jsonl").read_bytes()
    assert str(path) in refused("fit", "--resume", unfinished)
    assert (unfinished / "metrics.jsonl").read_bytes() == metrics


def test_the_checkpoint_of_another_fit_is_refused(refused, unfinished, finished):
    path = unfinished / "learner.safetensors"
    tensors, state = read_tensors(path)
    metrics = (unfinished / "metrics.jsonl").read_bytes()
    shutil.copy(finished / "model.safetensors", path)
    assert str(path) in refused("fit", "--resume", unfinished)
    assert (unfinished / "metrics.jsonl").read_bytes() == metrics
    write_tensors(path, {name: tensor[:1] for name, tensor in tensors.items()}, state)
    assert str(path) in refused("fit", "--resume", unfinished)
    write_tensors(path, tensors, {"epoch": 1, "records": 1})
    assert str(path) in refused("fit", "--resume", unfinished)


def test_a_checkpoint_sets_nothing_but_its_own(command, unfinished):
    """State of other names, which a stranger may have written, is not looked at."""
    path = unfinished / "learner.safetensors"
    tensors, state = read_tensors(path)
    write_tensors(path, tensors, {**state, "seed": 99, "learner": "x", "run": "x", "callbacks": ["x"]})
    assert command("fit", "--resume", unfinished)[0] == 0


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}\n[1]\n', "\x00\xff", "[" * 100_000])
def test_damaged_metrics_are_refused(refused, copy, unfinished, content):
    (copy / "metrics.jsonl").write_text(content)
    assert "metrics.jsonl" in refused("fit", "--resume", unfinished)
    assert (copy / "metrics.jsonl").read_text() == content


def test_damaged_metrics_spoil_no_more_than_the_report(refused, command, copy):
    (copy / "metrics.jsonl").write_text('{"step": 1')
    assert "metrics.jsonl" in refused("report", copy)
    assert command("evaluate", copy)[0] == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"n": 1}', "null", "\x00"])
def test_a_damaged_evaluation_is_refused(refused, command, copy, content):
    (copy / "evaluation.json").write_text(content)
    assert "evaluation.json" in refused("report", copy)
    assert command("evaluate", copy)[0] == 0
    assert command("report", copy)[0] == 0


SCHEMA = {
    "kind": "tabel",
    "values": 3,
    "event_shape": [-2],
    "names": ["a"],
    "scale": [0.0, 1.0],
    "shift": ["a", "b"],
    "levels": "x",
    "binarize": None,
}


@pytest.mark.parametrize("name", SCHEMA)
def test_a_damaged_schema_is_refused(refused, copy, name):
    path = copy / "schema.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, name: SCHEMA[name]}))
    assert "schema.json" in refused("evaluate", copy)
    del content[name]
    path.write_text(json.dumps(content))
    assert "schema.json" in refused("evaluate", copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_schema_that_is_none_is_refused(refused, copy, content):
    (copy / "schema.json").write_text(content)
    assert "schema.json" in refused("sample", copy)
    (copy / "schema.json").unlink()
    assert "schema.json" in refused("sample", copy)


CONFIG = {
    "format": FORMAT + 1,
    "model": "os.system",
    "learner": "subprocess.Popen",
    "objective": "builtins.eval",
    "data": "x",
    "model_options": 3,
    "learner_options": [1],
    "seed": "x",
    "surplus": 1,
}


@pytest.mark.parametrize("name", CONFIG)
def test_a_damaged_config_is_refused(refused, unfinished, name):
    path = unfinished / "config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "learner": "Gradient", "learner_options": {}, name: CONFIG[name]}))
    said = refused("fit", "--resume", unfinished)
    assert "config.yaml" in said or "not one of" in said or "unknown" in said


@pytest.mark.parametrize("part", ["source", "holdout", "first", "columns", "surplus"])
def test_a_config_of_damaged_data_is_refused(refused, copy, part):
    path = copy / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["data"][part] = {"a": 1}
    path.write_text(yaml.safe_dump(content))
    assert "config.yaml" in refused("evaluate", copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "a: 2020-13-45", "\x00", "format: 1", "[" * 5000])
def test_a_config_that_is_none_is_refused(refused, copy, content):
    (copy / "config.yaml").write_text(content)
    assert "config.yaml" in refused("evaluate", copy)


@pytest.mark.parametrize("bytes_", [b"\xff\xfe\xfa"])
def test_a_config_in_no_unicode_is_refused(refused, copy, bytes_):
    (copy / "config.yaml").write_bytes(bytes_)
    assert "config.yaml" in refused("evaluate", copy)


def test_a_newer_format_asks_for_an_upgrade(copy):
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("format: 1", "format: 2").replace("latentia: 0.1.0", "latentia: 9.9.9"))
    with pytest.raises(RunError, match=r"made by latentia 9.9.9 in format 2; .* upgrade latentia"):
        Run.open(copy)


# ------------------------------------------------------------------------------------------- a stranger's directory


class Bomb:
    """On unpickling, makes the file `path`."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return (exec, (f"open({self.path!r}, 'w').close()",))


@pytest.mark.parametrize("name", ["model.safetensors", "learner.safetensors"])
@pytest.mark.parametrize("writer", [lambda bomb: pickle.dumps(bomb), "torch"])
def test_a_pickle_in_disguise_is_not_opened(copy, unfinished, tmp_path, name, writer):
    trace, path = tmp_path / "trace", copy / name
    if writer == "torch":
        torch.save({"x": Bomb(trace)}, path)
    else:
        path.write_bytes(writer(Bomb(trace)))
    run = Run.open(copy)
    with pytest.raises(RunError, match="damaged or not latentia's"):
        run.model() if name == "model.safetensors" else run.fit(progress=False)
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch TRACE']",
        "format: 1\nmodel: !!python/object/apply:os.system ['touch TRACE']",
        "format: 1\nmodel: !!python/name:os.system",
        "format: 1\nmodel: !!python/object/new:subprocess.Popen [['touch', TRACE]]",
    ],
)
def test_yaml_makes_no_objects(copy, tmp_path, text):
    trace = tmp_path / "trace"
    (copy / "config.yaml").write_text(text.replace("TRACE", str(trace)))
    with pytest.raises(RunError, match="damaged"):
        Run.open(copy)
    assert not trace.exists()


@pytest.mark.parametrize("field", ["model", "learner", "objective"])
def test_a_dotted_path_is_never_imported(unfinished, tmp_path, monkeypatch, field):
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')\nclass Model: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = unfinished / "config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, field: "trap_module.Model"}))
    with pytest.raises((RunError, ValueError), match="trap_module"):
        Run.open(unfinished).fit(progress=False)
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize("content", [{"class_path": "os.system"}, "os.system"])
def test_an_option_is_never_imported(unfinished, content):
    path = unfinished / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, "model_options": {"components": 2, "covariance": content}}))
    with pytest.raises((RunError, ValueError)):
        Run.open(unfinished).fit(progress=False)


def test_data_with_a_pickle_are_not_opened(tmp_path):
    trace = tmp_path / "trace"
    np.save(tmp_path / "x.npy", np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickle"):
        Source(str(tmp_path / "x.npy")).read()
    assert not trace.exists()


FORBIDDEN = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {
    "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "np.load", "eval",
    "exec",
}  # fmt: skip


def test_the_source_unpickles_and_evaluates_nothing():
    for path in Path(latentia.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, f"{path}:{node.lineno}"
            assert not FORBIDDEN & set(names), f"{path}:{node.lineno}"
