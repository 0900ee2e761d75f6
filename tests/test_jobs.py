"""The pages of jobs are true: their commands run, one after another, on the data that they speak of."""

import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from latentia.cli import main

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def commands(page):
    text = (ROOT / "docs" / "jobs" / page).read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def run(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0, words


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(path):
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def photos(folder):
    """Thirty pictures of the digit 1, and one of noise."""
    folder.mkdir()
    digits = load_digits()
    ones = digits.images[digits.target == 1][:30] * 15
    noise = np.random.default_rng(0).integers(0, 256, size=(8, 8))
    for name, picture in [*((f"one{i}.png", one) for i, one in enumerate(ones)), ("strange.png", noise)]:
        Image.fromarray(picture.astype(np.uint8)).save(folder / name)


@pytest.mark.filterwarnings("ignore")
def test_penguins_are_completed_and_written_back(here, capsys):
    source = pd.read_csv(given(DATA / "tabular" / "penguins.csv"))
    source.to_csv(here / "penguins.csv", index=False)
    photos(here / "photos")
    for words in commands("penguins.md"):
        run(words)
    completed = pd.read_csv(here / "completed.csv")
    columns = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
    assert list(completed.columns)[: len(source.columns)] == list(source.columns)
    assert not completed[columns].isna().any().any()
    there = source[columns].notna()
    assert np.array_equal(completed[columns].to_numpy()[there], source[columns].to_numpy()[there])
    clusters = pd.read_csv(here / "clusters.csv")
    assert list(clusters["species"].astype(str)) == list(source["species"].astype(str))
    assert "photos, strange.png" in capsys.readouterr().out
    odd = pd.read_csv(here / "odd_photos.csv")
    assert odd.sort_values("score").iloc[-1]["file"] == "strange.png"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_topics_of_raw_articles(here, capsys):
    with tarfile.open(given(DATA / "lda_ap" / "ap.tgz")) as packed:
        text = next(packed.extractfile(part).read() for part in packed if part.name.endswith("ap.txt"))  # type: ignore[union-attr]
    articles = re.findall(r"<TEXT>(.*?)</TEXT>", text.decode("utf-8", "replace"), re.DOTALL)
    pd.DataFrame({"article": [article.strip() for article in articles]}).to_csv(here / "articles.csv", index=False)
    for words in commands("topics.md"):
        run(words)
    said = capsys.readouterr().out
    assert all(word in said for word in ("soviet", "court", "market"))
