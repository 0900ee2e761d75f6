"""benchmarks/collapse.py at small size: every row runs, what is saved is kept, and the table and plot are there."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MNIST = ROOT.parent / "shared" / "data" / "mnist"


def test_every_row_runs_and_a_saved_one_is_kept(tmp_path, monkeypatch, capsys):
    if not MNIST.is_dir():
        pytest.skip("MNIST is not here")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    collapse = importlib.import_module("collapse")
    whole, loaded = collapse.load, {}
    # reading 60,000 images is the slow part
    monkeypatch.setattr(
        collapse,
        "load",
        lambda source, **how: loaded.setdefault(source, whole(source)) if not how else whole(source, **how),
    )
    monkeypatch.setattr("latentia.learners.remedies.MOST", 2)
    size = ["--images", "60", "--validation", "30", "--test", "12", "--epochs", "6", "--importance_samples", "5"]
    command = ["--data", str(MNIST), "--out", str(tmp_path / "collapse"), *size]
    collapse.main([*command, "--rows", "aggressive"])
    first = json.loads((tmp_path / "collapse.json").read_text())["rows"]
    assert list(first) == ["plain ELBO", "aggressive"]
    capsys.readouterr()
    collapse.main(command)
    rows = json.loads((tmp_path / "collapse.json").read_text())["rows"]
    assert list(rows) == list(collapse.ROWS)
    assert rows["aggressive"] == first["aggressive"]
    assert rows["plain ELBO"]["difference"] == 0
    assert rows["aggressive"]["aggressive_epochs"] > 0 == rows["plain ELBO"]["aggressive_epochs"]
    assert all(row["elbo"] < -row["nll"] + 0.5 for row in rows.values())
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]) == len(rows) + 1
    assert (tmp_path / "collapse.svg").read_text().startswith("<?xml")
