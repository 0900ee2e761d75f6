"""A stranger's run and data, two processes at once, and a world that changes meanwhile: nothing outside the run is
written, nothing that is finished is overwritten, no number changes without a word, and errors are sentences."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save

from latentia import cli
from latentia.cli.measuring import show_table
from latentia.data import Stream, load
from latentia.data.files import alone, atomic_write
from latentia.errors import DataError, OptionError, ProcessLost, RunError
from latentia.evaluate import evaluate
from latentia.learners import EM, distributed
from latentia.models import HMM, VAE, GaussianMixture
from latentia.runs import sweep
from latentia.runs.build import LEARNERS
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run
from latentia.runs.files import check_parameters as _check_parameters
from latentia.runs.files import read_metrics
from latentia.tasks import anomaly_scores, responsibilities
from latentia.tensors import read_tensors, write_tensors

ESCAPE = "\x1b]0;owned\x07\x1b[31m"


def call(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def command(capsys) -> Callable[..., tuple[int, str, str]]:
    return lambda *words: call(capsys, *words)


@pytest.fixture
def refused(command) -> Callable[..., str]:
    def refuse(*words: object) -> str:
        status, _, err = command(*words)
        assert status == 2, err
        assert "Traceback" not in err
        return err.strip().splitlines()[-1]

    return refuse


def write_table(path: Path, seed: int = 3) -> Path:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, 2)) + 5 * rng.integers(0, 2, size=(40, 1))
    pd.DataFrame(values, columns=["a", "b"]).to_csv(path, index=False)
    return path


def mixture(folder: Path, **options: object) -> Config:
    how = {"validation": 0.0}
    return Config("GaussianMixture", Source(str(folder / "t.csv"), **how), {"components": 2, **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_table(folder / "t.csv")
    run = Run.create(folder / "run", mixture(folder))
    run.fit(progress=False)
    run.evaluate(progress=False)
    return folder / "run"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


# ------------------------------------------------------------------------------------------- writes and the lock


def test_a_planted_link_is_not_followed(tmp_path):
    """Of any name that could be foreseen: that of the process among them."""
    victim, path = tmp_path / "victim", tmp_path / "run" / "model.safetensors"
    victim.write_text("mine")
    path.parent.mkdir()
    (path.parent / f".{path.name}.{os.getpid()}.tmp").symlink_to(victim)
    path.symlink_to(victim)
    (path.parent / ".lock").symlink_to(victim)
    atomic_write(path, b"new")
    assert victim.read_text() == "mine"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    with pytest.raises(RunError, match="cannot lock"), alone(path.parent):
        pass
    assert victim.read_text() == "mine"


def test_temporary_names_cannot_be_foreseen_and_modes_are_the_usual_ones(tmp_path, monkeypatch):
    names = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda one, other: (names.append(one), replace(one, other)))
    for _ in range(2):
        atomic_write(tmp_path / "a", b"")
    assert len(set(names)) == 2
    assert not any(str(os.getpid()) == part for name in names for part in str(name).split("."))
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_pipe_is_neither_written_nor_waited_for(tmp_path, copy, refused):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no ordinary file"):
        atomic_write(tmp_path / "pipe", b"x")
    for name in ("schema.json", "model.safetensors", "metrics.jsonl", "evaluation.json"):
        kept = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mkfifo(copy / name)
        assert name in refused("report", copy)
        (copy / name).unlink()
        (copy / name).write_bytes(kept)


def test_of_two_fits_in_one_directory_the_second_is_refused(tmp_path, refused):
    write_table(tmp_path / "t.csv")
    first = Run.create(tmp_path / "run", mixture(tmp_path))
    words = ("--model", "GaussianMixture", "--data", tmp_path / "t.csv", "--out", tmp_path / "run")
    said = []

    class Meanwhile(EM):
        def fit(self, *arguments, **options):
            said.append(refused("fit", *words, "--model.components", 2))
            said.append(refused("fit", "--resume", tmp_path / "run"))
            return super().fit(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LEARNERS, "EM", Meanwhile)
        history = first.fit(progress=False)
    assert all("another process is at work" in line for line in said)
    assert len(said) == 2
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == len(history.records)
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_finished_run_and_another_ones_directory_are_not_fitted_into(tmp_path, finished):
    write_table(tmp_path / "t.csv")
    before = {path: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(RunError, match="nothing overwrites one"):
        Run.open(finished).fit(progress=False)
    assert {path: path.read_bytes() for path in finished.iterdir()} == before
    first = Run.create(tmp_path / "run", mixture(tmp_path))
    second = Run.create(tmp_path / "run", mixture(tmp_path, floor=1e-3))
    with pytest.raises(RunError, match="another run by now"):
        first.fit(progress=False)
    second.fit(progress=False)
    assert Run.open(tmp_path / "run").config.model_options["floor"] == 1e-3


def test_a_lock_ends_with_its_process(tmp_path):
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        with alone(tmp_path):
            os.write(writer, b"locked")
            time.sleep(600)
        os._exit(0)
    assert os.read(reader, 6) == b"locked"
    with pytest.raises(RunError, match="another process is at work"), alone(tmp_path):
        pass
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert (tmp_path / ".lock").exists()
    with alone(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


# ---------------------------------------------------------------------------------------------------- changed files


@pytest.mark.parametrize(
    "name", ["config.yaml", "schema.json", "model.safetensors", "metrics.jsonl", "environment.json"]
)
def test_a_file_that_has_changed_is_refused(refused, copy, name):
    """Each change leaves a file that reads well, and would give another number, or none."""
    path = copy / name
    if name == "model.safetensors":
        tensors, state = read_tensors(path)
        write_tensors(path, {**tensors, "logits": tensors["logits"] + torch.arange(2.0)}, state)
    elif name == "schema.json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "shift": [shift + 1 for shift in content["shift"]]}))
    else:
        old, new = {"config.yaml": ("seed: 0", "seed: 1"), "metrics.jsonl": ('"step": 0', '"step": 1')}.get(
            name, ("1", "2")
        )
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    said = refused("report", copy)
    assert str(path) in said
    assert "changed since" in said


def test_a_flipped_bit_is_no_other_number(refused, copy):
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused("evaluate", copy)


def test_a_changed_evaluation_is_refused_and_made_again(refused, command, copy):
    path = copy / "evaluation.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "log_marginal": content["log_marginal"] + 1}))
    assert "evaluate again" in refused("report", copy)
    assert sweep._evaluation(Run.open(copy)) is None
    assert command("evaluate", copy)[0] == 0
    assert command("report", copy)[0] == 0


CANNOT = {
    "log_marginal": ["x", [1], {"a": 1}, True],
    "verdict": [3, [1], {"a": 1}, True],
    "active_units": ["x", [1], {"a": 1}, True, 0.5, 10**30],
    "kl_per_unit": [3, "x", ["x"], {"a": 1}, True],
    "effective_sample_size": ["x", [1], {"a": 1}, True],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in CANNOT.items() for value in values])
def test_an_evaluation_of_other_types_is_refused(refused, copy, field, value):
    (copy / "evaluation.safetensors").unlink()
    content = json.loads((copy / "evaluation.json").read_text())
    (copy / "evaluation.json").write_text(json.dumps({**content, field: value}))
    assert field in refused("report", copy)


def test_the_schema_of_another_run_is_refused(refused, copy, tmp_path):
    write_table(tmp_path / "t.csv", seed=4)
    other = Run.create(tmp_path / "other", mixture(tmp_path))
    other.fit(progress=False)
    shutil.copy(other.path / "schema.json", copy / "schema.json")
    assert "schema.json has changed" in refused("sample", copy)


def test_a_run_from_before_the_checksums_is_read_with_a_warning(command, copy):
    (copy / "checksums.json").unlink()
    status, _, err = command("sample", copy)
    assert status == 0
    assert "made before runs had checksums" in err
    path = copy / "model.safetensors"
    tensors, state = read_tensors(path)
    path.write_bytes(save(tensors, metadata={"latentia": json.dumps({"format": 1, **state})}))
    assert command("sample", copy)[0] == 0


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (GaussianMixture(2, 2), "emissions.means", float("nan")),
        (GaussianMixture(2, 2), "emissions.log_scale", 1e4),
        (GaussianMixture(2, 2), "emissions.unit", -1.0),
        (HMM(symbols=3, states=2), "transition_logits", float("nan")),
        (HMM(symbols=3, states=2), "transition_logits", -float("inf")),
        (HMM(symbols=3, states=2), "initial_logits", float("inf")),
        (VAE((2,), 3), "encoder.0.weight", float("nan")),
    ],
)
def test_parameters_that_no_fit_ends_with_are_refused(tmp_path, monkeypatch, model, name, value):
    run = Run(tmp_path, Config(type(model).__name__, Source("digits")))
    monkeypatch.setattr(Run, "blank_model", lambda self: model)
    monkeypatch.setattr(Run, "_unchanged", lambda self, name: None, raising=False)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    write_tensors(tmp_path / "model.safetensors", state, {})
    run.model()
    state[name].fill_(value)
    write_tensors(tmp_path / "model.safetensors", state, {})
    with pytest.raises(RunError, match=f"model.safetensors is damaged: the parameter {name} has a value"):
        run.model()


def test_an_impossible_event_has_a_probability():
    """log 0 is -inf, and no damage, where something else is possible."""
    model = HMM(symbols=3, states=2)
    model.transition_logits.data[0, 1] = -torch.inf
    _check_parameters(model, Path("x"))


# ------------------------------------------------------------------------------------------------ yaml and terminals


def test_aliases_are_refused_before_they_take_memory(copy):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (copy / "config.yaml").write_text("\n".join([*lines, "format: 1", "model: *a8"]))
    with pytest.raises(RunError, match=r"config\.yaml is damaged") as caught:
        Run.open(copy)
    assert "alias" in str(caught.value.__cause__)


def test_a_config_of_ours_has_no_aliases(tmp_path):
    sizes = [2, 3]
    config = Config("VAE", Source("digits"), {"hidden": sizes, "other": sizes})
    assert Config.from_yaml(config.to_yaml(), tmp_path) == config


def test_escapes_reach_no_terminal(command, copy, tmp_path, monkeypatch):
    """Of a config, of column names, of a verdict: whatever a stranger has written, in errors, warnings and tables."""
    path = copy / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for change in ({"model": ESCAPE}, {"latentia": ESCAPE, "format": 9}, {"seed": ESCAPE}):
        path.write_text(yaml.safe_dump({**content, **change}))
        status, out, err = command("evaluate", copy)
        assert status == 2
        assert "\x1b" not in out + err
        assert "\x07" not in out + err
        assert "\\x1b]0;owned\\x07" in err
    data = tmp_path / f"{ESCAPE.replace('/', '')}.csv"
    shutil.copy(write_table(tmp_path / "t.csv"), data)
    frame = pd.read_csv(data)
    frame.columns = [f"a{ESCAPE}", "b\u202e"]
    frame.iloc[0, 0] = 1e20
    frame.to_csv(data, index=False)
    words = ("--model", "GaussianMixture", "--model.components", 2, "--holdout", 0)
    status, out, err = command("fit", *words, "--data", data, "--out", tmp_path / "run")
    assert status == 0
    for table in (out, err, *command("evaluate", tmp_path / "run")[1:], *command("detect", tmp_path / "run")[1:]):
        assert "\x1b" not in table
        assert "\u202e" not in table


# ----------------------------------------------------------------------------------------------- silently wrong


@pytest.fixture(scope="module")
def plain() -> tuple[GaussianMixture, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)) + 5 * rng.integers(0, 2, size=(50, 1))
    model = GaussianMixture(2, 2).double()
    EM(progress=False).fit(model, load(x, scale="none"))
    return model, x


def test_a_cell_that_stands_for_missing_is_named(plain):
    model, x = plain
    data = load(np.vstack([x[:4], [[1.0, 1e20]]]), scale="none")
    with pytest.warns(UserWarning, match=r"1 of 5 data log p\(x\) is -inf.*row 5, where column 2 has 1e\+20"):
        shares = responsibilities(model, data)
    assert torch.allclose(shares.sum(1), torch.ones(5, dtype=shares.dtype))
    with pytest.warns(UserWarning, match="row 5"):
        found = evaluate(model, data)
    assert "-inf" in found.verdict
    with pytest.warns(UserWarning, match="row 5"):
        assert anomaly_scores(model, data)[4] == torch.inf


def test_the_table_never_leaves_log_p_out(capsys, plain):
    model, x = plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(model, load(np.vstack([x, [[1e20, 0.0]]]), scale="none"))
    show_table(json.loads(json.dumps({**found.to_json(), "importance_samples": 3})))
    assert "log p(x)" in capsys.readouterr().out.splitlines()[2]


def test_data_of_which_nothing_is_observed_are_remarked(plain):
    model, x = plain
    data = load(x, scale="none").subset(slice(0, 3))
    blank = replace(data, mask=torch.tensor([[True, True], [False, False], [False, False]]))
    with pytest.warns(UserWarning, match="Of 2 of 3 data nothing is observed: their log p.*row 2"):
        found = evaluate(model, blank)
    assert "nothing is observed" in found.verdict


def test_a_stream_that_changes_under_a_fit_is_refused(tmp_path):
    values = np.random.default_rng(0).normal(size=(500, 2))
    np.save(tmp_path / "t.npy", values)
    stream = Stream.open(tmp_path / "t.npy")
    os.utime(tmp_path / "t.npy", ns=(0, 0))  # so that the clock's grain decides nothing
    stream = Stream.open(tmp_path / "t.npy")

    def change(_: object) -> None:
        np.save(tmp_path / "t.npy", values + 3)

    with pytest.raises(DataError, match=r"t\.npy has changed while it was read"):
        EM(steps=5, progress=False).fit(GaussianMixture(2, 2), stream, callbacks=[change])
    with pytest.raises(DataError, match="has changed"):
        stream.sample(3)


# ----------------------------------------------------------------------------------- numbers, names, outputs, options

DIGITS = "9" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ("--model.components", DIGITS),
        ("--model.components", "9" * 30),
        ("--model.floor", "1e999"),
        ("--learner.steps", "9" * 30),
        ("--seed", DIGITS),
        ("--first", DIGITS),
        ("--min_count", "9" * 30),
        ("--out", "a\0b"),
        ("--data", "a\0b"),
        ("--data", "\udc80.csv"),
    ],
)
def test_numbers_and_names_beyond_reason_are_refused(refused, tmp_path, words):
    write_table(tmp_path / "t.csv")
    said = refused("fit", "--model", "GaussianMixture", "--data", tmp_path / "t.csv", "--out", tmp_path / "r", *words)
    assert len(said) < 600
    assert not (tmp_path / "r" / "model.safetensors").exists()


@pytest.mark.parametrize("words", [("sample", "--n", 10**18), ("sample", "--n", DIGITS), ("gap", "--lr", "1e300")])
def test_uses_beyond_reason_are_refused(refused, copy, words):
    refused(words[0], copy, *words[1:])


@pytest.mark.parametrize("text", ["1:1e400", "1:5:1e-999999", "1e999999999:1e999999999", f"1:{DIGITS}", "1e-5:1e14"])
def test_ranges_beyond_reason_are_refused(text):
    with pytest.raises(OptionError):
        sweep.values(text)


FIELDS = {"seed": 10**30, "data.first": 10**30, "data.holdout": float("nan"), "model_options.floor": float("inf")}


@pytest.mark.parametrize("field", [*FIELDS, "nested", "digits", "surrogate"])
def test_a_config_beyond_reason_is_refused(refused, copy, field):
    path = copy / "config.yaml"
    content = yaml.safe_load(path.read_text())
    if field == "nested":
        path.write_text("[" * 100_000)
    elif field == "digits":
        path.write_text(path.read_text().replace("seed: 0", f"seed: {DIGITS}"))
    elif field == "surrogate":
        path.write_text(path.read_text().replace("GaussianMixture", '"\\uD800"'))
    else:
        *group, name = field.split(".")
        (content[group[0]] if group else content)[name] = FIELDS[field]
        path.write_text(yaml.safe_dump(content))
    assert "config.yaml" in refused("evaluate", copy) or field == "surrogate"


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' + DIGITS + "}", '{"kind": "\\ud800"}', '{"levels": 1e999}']
)
@pytest.mark.parametrize(
    "name", ["schema.json", "evaluation.json", "environment.json", "metrics.jsonl", "checksums.json"]
)
def test_json_beyond_reason_is_refused(refused, copy, name, content):
    (copy / name).write_text(content)
    assert name in refused("report", copy)


STATE = {"restart": 0, "step": 2, "records": 1, "previous": None, "best_value": None, "values": [], "stopped": ""}
STATE["best_stopped"] = ""
WRONG = {
    "restart": -1, "step": "2", "records": True, "previous": [1.0], "best_value": 1.0, "values": ["x"], "stopped": 3,
    "best_stopped": None,
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_checkpoint_of_other_types_is_refused(refused, copy, field):
    tensors, _ = read_tensors(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    moved = {f"model.{name}": tensor for name, tensor in tensors.items()}
    write_tensors(copy / "learner.safetensors", moved, {**STATE, field: WRONG[field]})
    assert "learner.safetensors" in refused("fit", "--resume", copy)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
def test_a_variable_of_torchrun_that_is_no_number_is_named(refused, tmp_path, monkeypatch, name):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, "x")
    write_table(tmp_path / "t.csv")
    said = refused("fit", "--model", "GaussianMixture", "--data", tmp_path / "t.csv", "--out", tmp_path / "run")
    assert f"{name}='x'" in said


def test_an_output_of_ascii_and_one_that_is_closed(copy, monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", str(copy)])
    assert left.value.code == 0
    sys.stdout.flush()
    assert b"log p(x)" in buffer.getvalue()
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", str(copy)])
    assert left.value.code == 2


# ------------------------------------------------------------------------------------------------------- behaviour


class Gone(io.TextIOBase):
    """An output whose reader has left."""

    def write(self, text: str) -> int:
        if text:
            raise BrokenPipeError
        return 0

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def test_a_fit_whose_reader_leaves_writes_its_report(tmp_path, monkeypatch):
    write_table(tmp_path / "t.csv")
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    words = ["fit", "--model", "GaussianMixture", "--data", str(tmp_path / "t.csv"), "--model.components", "2"]
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--out", str(tmp_path / "run")])
    assert left.value.code == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_a_resumed_fit_keeps_what_was_asked_of_the_evaluation(command, tmp_path, monkeypatch):
    write_table(tmp_path / "t.csv")
    words = ("fit", "--model", "VAE", "--model.likelihood", "gaussian", "--model.latent", 1, "--learner.epochs", 1)
    words += ("--data", tmp_path / "t.csv", "--out", tmp_path / "run", "--importance_samples", 7)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "fit", interrupted)
        assert command(*words)[0] == 130
    assert command("fit", "--resume", tmp_path / "run")[0] == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["importance_samples"] == 7
    words = (*words[:-4], "--out", tmp_path / "two", "--evaluation", "false")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "fit", interrupted)
        assert command(*words)[0] == 130
    assert command("fit", "--resume", tmp_path / "two")[0] == 0
    assert not (tmp_path / "two" / "evaluation.json").exists()


@pytest.mark.parametrize("model", ["LDA", "MixtureOfCategoricals"])
def test_encode_chooses_a_form_that_the_model_has(command, tmp_path, model):
    rng = np.random.default_rng(0)
    (tmp_path / "t.txt").write_text("\n".join(" ".join(rng.choice(list("abcde"), 6)) for _ in range(30)))
    words = ("fit", "--model", model, "--learner.steps", 2, "--evaluation", "false")
    count = ("--model.topics", 2, "--learner", "EM") if model == "LDA" else ("--model.components", 2)
    assert command(*words, *count, "--data", tmp_path / "t.txt", "--out", tmp_path / "run")[0] == 0
    status, _, err = command("encode", tmp_path / "run")
    assert status == 0, err
    assert (tmp_path / "run" / "encode.csv").exists()


def _a_sweep(folder: Path) -> None:
    """Of two fits that never end, each of which says who it is."""

    def endless(run: Run, progress: bool = True) -> None:
        Path(f"{run.path}.pid").write_text(str(os.getpid()))
        time.sleep(600)

    def configure(words: list[str]) -> Config:
        return mixture(folder, components=int(words[1]))

    Run.fit = endless  # type: ignore[method-assign]  # in this process, which ends with the sweep
    fork = multiprocessing.get_context("fork")
    sweep.multiprocessing.get_context = lambda _: fork  # type: ignore[assignment]
    sweep.Sweep.plan({"--model.components": ["1", "2"]}, configure, folder / "out", "").run(2, progress=False)


def test_a_killed_sweep_leaves_no_worker(tmp_path):
    write_table(tmp_path / "t.csv")
    process = os.fork()
    if not process:
        with contextlib.suppress(BaseException):
            _a_sweep(tmp_path)
        os._exit(1)
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("out/*.pid"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)  # until the number is in the file
    pids = [int(path.read_text()) for path in tmp_path.glob("out/*.pid")]
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert len(pids) == 2
    while any(map(_lives, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    left = [pid for pid in pids if _lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return False


def test_workers_of_a_sweep_do_not_hear_ctrl_c():
    with sweep._deaf():
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _rank(number: int, port: int, said: Any) -> None:
    """One of two processes, of which the second stops."""
    names = {"RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    distributed.LISTEN = 0.3
    with distributed.group():
        distributed.largest(1)
        if number:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            distributed.largest(2)
        except ProcessLost as error:
            said.send(str(error))
            os._exit(0)


def test_a_stopped_process_is_not_waited_for_without_end():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    heard, said = fork.Pipe(duplex=False)
    ranks = [fork.Process(target=_rank, args=(number, port, said), daemon=True) for number in (0, 1)]
    for rank in ranks:
        rank.start()
    try:
        assert heard.poll(120)
        assert "nothing has been heard of process 1" in heard.recv()
    finally:
        for rank in ranks:
            rank.kill()


def test_one_at_work_is_waited_for(monkeypatch):
    """Those that are alive are never lost, however long they take."""
    beats = iter(range(1000))

    class Store:
        def check(self, _: list[str]) -> bool:
            return True

        def get(self, _: str) -> bytes:
            return str(next(beats)).encode()

    class Work:
        left = 40

        def wait(self, _: object) -> None:
            self.left -= 1
            if self.left:
                raise RuntimeError("Operation timed out!")

        def is_completed(self) -> bool:
            return False

    monkeypatch.setattr(distributed, "_pulse", [Store()])
    monkeypatch.setattr(distributed, "size", lambda: 2)
    distributed._wait(Work())
    monkeypatch.setattr(Store, "get", lambda *_: b"7")
    with pytest.raises(ProcessLost, match="process 1"):
        distributed._wait(Work())
