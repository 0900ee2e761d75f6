"""Damage at random: whatever is done to the files of a run or to data, there is a sentence and status 2, or the same
number as before; no traceback, no hang, no memory without measure.

Every mutation is made by a seed of its own, so that one that fails can be made again alone.
"""

from __future__ import annotations

import gzip
import json
import random
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from latentia import cli
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run

SECONDS = 30
BYTES = 2 * 2**30
FEW, MANY = range(48), range(2000)

NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"2",
    b"7",
    b"0.5",
    b"1e20",
    b"1e308",
    b"1e999",
    b"-1e999",
    b"NaN",
    b"9" * 19,
    b"9" * 5000,
]
WORDS = [
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[[[1]]]",
    b"[" * 20000,
    b'"\\ud800"',
    b"\xff\xfe",
    b"\x00",
    b"\x1b[2J",
]
VALUES: list = [
    None, True, -1, 0, 1, 3, 10**6, 2**31, 2**63, 10**30, 0.5, -0.0, 1e20, 1e308, float("nan"), float("inf"), "", "x",
    "1e999", "\ud800", "../../etc", [], [1], [[]], {}, {"a": 1}, ["a", 1, None],
]  # fmt: skip


# ------------------------------------------------------------------------------------------------- what is damaged


def write_data(folder: Path) -> None:
    """A small file of every form that is read."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 2)) + 5 * rng.integers(0, 2, size=(40, 1))
    symbols = rng.integers(0, 4, size=(40, 6))
    pd.DataFrame(table, columns=["a", "b"]).round(4).to_csv(folder / "t.csv", index=False)
    pd.DataFrame(table, columns=["a", "b"]).to_parquet(folder / "t.parquet")
    np.save(folder / "t.npy", table)
    np.savez(folder / "t.npz", x=table)
    (folder / "s.jsonl").write_text("".join(json.dumps(row.tolist()) + "\n" for row in symbols))
    (folder / "s.txt").write_text("".join(" ".join("abcd"[i] for i in row) + "\n" for row in symbols))
    images = rng.integers(0, 256, size=(12, 4, 4), dtype=np.uint8)
    (folder / "i-idx3-ubyte.gz").write_bytes(
        gzip.compress(bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes() + images.tobytes())
    )


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    """Data, and a finished and evaluated run of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    configs = {
        "mixture": Config("GaussianMixture", Source(str(folder / "t.csv"), validation=0.0), {"components": 2}),
        "hmm": Config(
            "HMM", Source(str(folder / "s.jsonl"), validation=0.0), {"states": 2}, learner_options={"steps": 5}
        ),
        "vae": Config(
            "VAE",
            Source(str(folder / "t.csv")),
            {"latent": 1, "hidden": [4], "likelihood": "gaussian"},
            "Gradient",
            {"epochs": 1},
            "elbo",
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, config in configs.items():
            run = Run.create(folder / name, config)
            run.fit(progress=False)
            run.evaluate(5, progress=False)
    return folder


# -------------------------------------------------------------------------------------------------------- mutations


def flip(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def cut(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.choice([1, 2, 8, 100, len(content)])]


def double(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    content[start:start] = content[start : start + chance.choice([1, 4, 30, 200])]


def scatter(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    content[start : start + 4] = chance.randbytes(chance.choice([1, 4, 16]))


def insert(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content) + 1)
    content[start:start] = chance.choice(NUMBERS + WORDS)


def replace_token(content: bytearray, chance: random.Random) -> None:
    """A number or a word gives way to another."""
    start = chance.randrange(len(content))
    stop = start
    while start > 0 and chr(content[start - 1]).isalnum():
        start -= 1
    while stop < len(content) and (chr(content[stop]).isalnum() or content[stop] in b".+-"):
        stop += 1
    content[start:stop] = chance.choice(NUMBERS + WORDS)


STEPS = [flip, cut, double, scatter, insert, replace_token]


def of_bytes(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if content:
            chance.choice(STEPS)(content, chance)
    path.write_bytes(content)


def of_values(path: Path, chance: random.Random) -> None:
    """One value of JSON or YAML is another: what is left reads well."""
    is_yaml = path.suffix == ".yaml"
    lines = [path.read_text()] if path.suffix != ".jsonl" else path.read_text().splitlines()
    index = chance.randrange(len(lines))
    whole = yaml.safe_load(lines[index]) if is_yaml else json.loads(lines[index])
    inside, key = whole, None
    while isinstance(inside, dict | list) and inside:
        parent, key = inside, chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        inside = parent[key]
        if chance.random() < 0.5:
            break
    if key is not None:
        parent[key] = chance.choice(VALUES)
    lines[index] = yaml.safe_dump(whole) if is_yaml else json.dumps(whole)
    path.write_text("\n".join(lines))


FILES = {
    "config.yaml": 4, "schema.json": 4, "model.safetensors": 4, "checksums.json": 2, "evaluation.json": 1,
    "metrics.jsonl": 1, "environment.json": 1, "evaluation.safetensors": 1,
}  # fmt: skip
IN_THE_REPORT = ("evaluation.json", "metrics.jsonl", "environment.json", "evaluation.safetensors")


# ------------------------------------------------------------------------------------------------------ what is held


@contextmanager
def watched() -> Iterator[None]:
    """At most so many seconds, and no more memory than promised."""

    def late(*_: object) -> None:
        raise AssertionError(f"it took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert now <= max(most, BYTES), f"memory has grown from {most / 2**30:.1f} to {now / 2**30:.1f} GiB"


Said = tuple[int, str, str]


@pytest.fixture
def command(capsys) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        capsys.readouterr()
        with watched(), pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        status = int(left.value.code or 0)
        assert status in (0, 2), err
        assert "Traceback" not in err
        assert status == 0 or "latentia: error: " in err
        assert "\x1b" not in out + err
        return status, out, err

    return run


def measured(command: Callable[..., Said], run: Path) -> tuple[int, str]:
    return command("evaluate", run, "--importance_samples", 5, "--json")[:2]


def told(command: Callable[..., Said], run: Path) -> tuple[int, str]:
    """The report, but for what an unread file cannot change."""
    status, _, _ = command("report", run)
    return status, (run / "report.html").read_text("utf-8") if status == 0 else ""


def damaged_run(seed: int, there: Path, folder: Path, command: Callable[..., Said], base: dict[str, str]) -> None:
    """Damage a file of a run, by chance with checksums taken away as well, as in a run from before there were any."""
    chance = random.Random(seed)
    kind = chance.choice(["mixture", "mixture", "hmm", "vae"])
    name = chance.choices(list(FILES), list(FILES.values()))[0]
    run = Path(shutil.copytree(there / kind, folder / str(seed)))
    structured = not name.endswith("safetensors") and chance.random() < 0.6
    (of_values if structured else of_bytes)(run / name, chance)
    unsealed = chance.random() < 0.4
    if unsealed:
        (run / "checksums.json").unlink()
    ask = told if name in IN_THE_REPORT else measured
    key = f"{ask.__name__} {kind}"
    if key not in base:
        base[key] = ask(command, Path(shutil.copytree(there / kind, folder / key.replace(" ", "-"))))[1]
    status, found = ask(command, run)
    if status == 0 and not unsealed:
        assert found == base[key], f"seed {seed}: another number from a damaged {name} of {kind}"
    shutil.rmtree(run)


def damaged_data(seed: int, there: Path, folder: Path, command: Callable[..., Said]) -> None:
    """Damage a data file: the run's own is refused, or gives the same number; others are read, or refused."""
    chance = random.Random(seed)
    names = ["t.csv", "t.csv", "t.parquet", "t.npy", "t.npz", "s.jsonl", "s.txt", "i-idx3-ubyte.gz"]
    name = chance.choice(names)
    here = folder / str(seed)
    here.mkdir()
    path = Path(shutil.copy(there / name, here / name))
    (of_values if name == "s.jsonl" and chance.random() < 0.5 else of_bytes)(path, chance)
    kind = "hmm" if name.startswith("s") else "mixture"
    command("evaluate", there / kind, "--importance_samples", 5, "--json", "--data", path)
    if chance.random() < 0.3:
        model = "HMM" if kind == "hmm" else "GaussianMixture"
        size = ("--model.states", 2) if kind == "hmm" else ("--model.components", 2)
        words = ("fit", "--model", model, *size, "--learner.steps", 3, "--evaluation", "false")
        command(*words, "--data", path, "--out", here / "run")
    shutil.rmtree(here)


def all_of(seeds: range, there: Path, folder: Path, command: Callable[..., Said]) -> None:
    """All mutations; what any of them has shown is told at the end."""
    base: dict[str, str] = {}
    wrong: list[str] = []
    for seed in seeds:
        try:
            if seed % 4 == 3:
                damaged_data(seed, there, folder, command)
            else:
                damaged_run(seed, there, folder, command, base)
        except Exception as error:  # whatever it is, it has left the command as a traceback
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else ""
            wrong.append(f"mutation {seed}: {type(error).__name__} at {place}: {str(error)[:200]}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(seeds)}:", *wrong])


def test_a_few_mutations(there, tmp_path, command):
    all_of(FEW, there, tmp_path, command)


@pytest.mark.slow
def test_two_thousand_mutations(there, tmp_path, command):
    all_of(MANY, there, tmp_path, command)


def test_the_damage_is_seen_where_nothing_looks(there, tmp_path, command, monkeypatch):
    """The test can fail: without the checks, damage gives other numbers."""
    monkeypatch.setattr(Run, "_unchanged", lambda self, name: None)
    run = Path(shutil.copytree(there / "mixture", tmp_path / "run"))
    base = measured(command, run)
    path = run / "schema.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "shift": [0.0, 0.0]}))
    status, found = measured(command, run)
    assert status == 0
    assert found != base[1]
