"""The page about customers: its commands run, and find the groups that the table was made from."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from runpy import run_path

import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from latentia import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "customers.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]


def test_the_commands_of_the_page_find_the_groups(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = {}
    for line in COMMANDS:
        words = shlex.split(line)
        if words[0] == "python":
            script(ROOT / words[1], *words[2:])
            continue
        assert words[0] == "latentia"
        with pytest.raises(SystemExit) as left:
            cli.main(words[1:])
        said[words[1]] = "".join(capsys.readouterr())
        assert not left.value.code, said[words[1]]
    assert list(said) == ["fit", "cluster", "complete", "detect"]
    # what the page quotes
    quoted = next(line for line in PAGE.splitlines() if line.startswith("columns: "))
    assert quoted in said["fit"]
    table, truth = run_path(str(ROOT / "examples" / "customers.py"))["customers"]()
    found = pd.read_csv("clusters.csv")["cluster"]
    assert adjusted_rand_score(truth, found) >= 0.85
    filled = pd.read_csv("filled.csv")
    assert not filled.isna().any().any()
    assert set(filled["plan"]) == {"basic", "family", "plus", "pro"}
    given = table[filled.columns]
    assert (filled["plan"][given["plan"].notna()] == given["plan"].dropna()).all()
    report = Path("groups/report.html").read_text("utf-8")
    assert "family" in report
    assert "could not be made" not in report
