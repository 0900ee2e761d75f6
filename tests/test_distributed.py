"""Several processes, each with its share of the data, end where one process with all of them ends."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from latentia import cli
from latentia.errors import OptionError
from latentia.learners import distributed
from latentia.runs.build import build_learner
from latentia.runs.config import Config, Source
from latentia.runs.files import read_metrics
from latentia.tensors import read_tensors

SCRIPT = Path(__file__).with_name("distributed_fits.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def work():
    specification = importlib.util.spec_from_file_location("distributed_fits", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(work, tmp_path_factory):
    """What one process finds, and each of two."""
    folder = tmp_path_factory.mktemp("two")
    np.save(folder / "t.npy", work.points())
    both = subprocess.Popen([*TORCHRUN, str(SCRIPT), str(folder)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    alone = work.everything(folder)
    _, err = both.communicate()
    assert both.returncode == 0, err
    return alone, *(load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1))


FITS = ["mixture", "k-means", "symbols", "vectors", "stream", "part of a stream", "resumed", "sampled"]


@pytest.mark.parametrize("name", FITS)
def test_two_processes_end_where_one_ends(results, name):
    alone, first, _ = results
    keys = [key for key in alone if key.startswith(f"{name}/")]
    assert len(keys) > 3
    for key in keys:
        assert alone[key].shape == first[key].shape, key
        assert torch.allclose(alone[key].double(), first[key].double(), rtol=1e-10, atol=1e-10), key


def test_all_processes_end_with_the_same_parameters(results):
    _, first, second = results
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("which", [0, 1])
def test_an_interrupted_fit_goes_on_bit_for_bit(results, which):
    found = results[which]
    for key in [key for key in found if key.startswith("symbols/") and "log p" not in key]:
        assert torch.equal(found[key], found[key.replace("symbols", "resumed")]), key


def test_stepwise_em_in_two_processes_comes_near_the_optimum(results):
    alone, first, _ = results
    assert float(first["stepwise/log p(x)"][-1]) == pytest.approx(float(alone["stepwise/log p(x)"][-1]), abs=0.01)


def test_data_are_gathered_in_the_order_of_the_processes(results):
    _, first, _ = results
    assert first["gathered/x"].tolist() == [[1, 1, 1, 0]] * 2 + [[2, 2, 2, 2]] * 3
    assert first["gathered/mask"].tolist() == [[True, True, True, False]] * 5
    assert first["gathered/weight"].tolist() == [0.5] * 5
    assert "".join(map(chr, first["text"].tolist())) == "λόγος"


def test_too_few_data_for_the_processes_are_refused(results):
    alone, first, second = results
    assert "refused" not in alone
    for found in (first, second):
        assert "1 data for 2 processes" in "".join(map(chr, found["refused"].tolist()))


def test_one_process_needs_no_group():
    assert (distributed.rank(), distributed.size(), distributed.bounds(7)) == (0, 1, (0, 7))
    total = {"a": torch.ones(2)}
    assert distributed.added(total) is total
    assert distributed.largest(3, 1) == [3, 1]
    assert distributed.counts(5) == [5]
    with distributed.group():
        assert not torch.distributed.is_initialized()


def test_shares_are_all_data_in_order(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 4)
    for count in (4, 7, 1001):
        shares = []
        for rank in range(4):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares.append(distributed.bounds(count))
        assert [share[1] for share in shares[:-1]] == [share[0] for share in shares[1:]]
        assert (shares[0][0], shares[-1][1]) == (0, count)
        sizes = [stop - start for start, stop in shares]
        assert max(sizes) - min(sizes) <= 1


def test_what_learns_in_one_process_refuses_several(monkeypatch):
    config = Config("VAE", Source("digits"), learner="Gradient", objective="elbo")
    build_learner(config)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(OptionError, match="Gradient learns from data in memory in one process, not from 2 processes"):
        build_learner(config)


# ------------------------------------------------------------------------------------------------------- the command

# each process saves every step, so that a fit of seconds is interrupted between two saves; the victim kills itself
# after a dozen sums, as another process might come too late to do it
EAGER = """
import itertools, os, signal
from latentia.learners import distributed
from latentia.learners.checkpoint import Checkpoint
Checkpoint.due = True
added, calls = distributed.added, itertools.count()
def dying(sums):
    if next(calls) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return added(sums)
if os.environ["RANK"] == os.environ.get("VICTIM"):
    distributed.added = dying
from latentia.cli import main
main()
"""


def fit(folder: Path, *words: object, victim: object = "") -> subprocess.Popen:
    (folder / "eager.py").write_text(EAGER)
    command = [*TORCHRUN, "eager.py", "fit", *map(str, words)]
    environment = {**ENVIRONMENT, "VICTIM": str(victim)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_fit_which_goes_on(tmp_path, monkeypatch, victim):
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 2)) + 2 * random.integers(0, 3, size=(400, 1))
    table = pd.DataFrame({"a": values[:, 0], "b": values[:, 1], "n": random.integers(0, 3, size=400)})
    table.to_csv(tmp_path / "t.csv", index=False)
    words = ["--model", "GaussianMixture", "--data", "t.csv", "--weight", "n", "--model.components", 3]
    words += ["--learner.tol", 0, "--learner.steps", 40, "--learner.restarts", 1, "--evaluation", "false"]
    process = fit(tmp_path, *words, "--out", "run", victim=victim)
    _, err = process.communicate()
    assert 2 < len(read_metrics(tmp_path / "run" / "metrics.jsonl")) < 40
    assert process.returncode != 0
    assert not (tmp_path / "run" / "model.safetensors").exists()
    said = [line for line in err.splitlines() if line.startswith("latentia: error")]
    assert len(said) == 1, err
    assert "go on with `torchrun --nproc-per-node 2 -m latentia fit --resume run`" in said[0]
    again = fit(tmp_path, "--resume", "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main([*map(str, ["fit", *words]), "--out", "alone"])
    assert not left.value.code
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert "in 2 processes" in err
    (alone, _), (run, _) = (read_tensors(tmp_path / name / "model.safetensors") for name in ("alone", "run"))
    for key, value in alone.items():
        assert torch.allclose(value.double(), run[key].double(), rtol=1e-10, atol=1e-10), key
    steps = [
        [record["step"] for record in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("alone", "run")
    ]
    assert steps[1] == list(range(len(steps[1])))  # each step once
