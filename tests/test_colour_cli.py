"""Images in colour from the command: a folder is fitted, and pictures come out."""

import numpy as np
import pytest
from PIL import Image

import latentia
from latentia import cli
from latentia.data.colour import pairs
from latentia.data.images import read_folder
from latentia.report.colourings import colourings

FIT = ["--model.segments", "2", "--model.channels", "[2,2]", "--model.hidden", "4", "--learner.epochs", "1"]


def main(words):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    return left.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colour")
    (folder / "photographs").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)):
        Image.fromarray(image).save(folder / "photographs" / f"{i}.png")
    data = ["--data", str(folder / "photographs"), "--values", "colour:20:100", "--importance_samples", "5"]
    assert not main(["fit", "--model", "LatentColorization", *data, *FIT, "--out", str(folder / "run")])
    return folder / "run"


def test_the_run_knows_its_grid_and_reads_others_alike(run):
    opened = latentia.open_run(run)
    assert opened.schema.grid.symbols == 121
    other = opened.other(str(run.parent / "photographs"))
    assert other.x.shape == (12, 6, 5)
    assert "Colourings" in (run / "report.html").read_text()


def test_samples_are_a_picture_beside_the_truth_or_images(run, capsys):
    assert not main(["sample", str(run), "--n", "3"])
    assert "grey, segments, draw 1, draw 2, draw 3, mean, truth" in capsys.readouterr().out
    with Image.open(run / "sample.png") as image:
        assert image.size[0] == 13 * (3 * 5 + 2)  # three images of 5 columns, enlarged
    assert not main(["sample", str(run), "--n", "3", "--out", str(run.parent / "drawn.npy")])
    drawn = np.load(run.parent / "drawn.npy", allow_pickle=False)
    assert drawn.shape == (3, 6, 5, 3)
    assert drawn.dtype == np.uint8
    assert main(["sample", str(run), "--mean"])


def test_a_half_is_coloured_in(run, capsys):
    (run.parent / "filled").mkdir()
    assert not main(["complete", str(run), "--hide", "bottom", "--out", str(run.parent / "filled" / "done.png")])
    assert "of the hidden values are filled in as they were" in capsys.readouterr().out
    assert np.ndim(read_folder(run.parent / "filled").values) == 4


def test_the_pictures_are_those_of_the_data(run):
    model = latentia.open_run(run).model()
    images = np.random.default_rng(1).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    data = pairs(images, model.schema.grid)
    found = colourings(model, data, seed=0, draws=1)
    assert list(found) == ["grey", "segments", "draw 1", "mean", "truth"]
    # no more than half a step of the grid away in each of a and b
    assert np.abs(255 * found["truth"] - images).mean() < 30
    np.testing.assert_array_equal(found["grey"][..., 0], found["grey"][..., 1])


def test_without_values_the_model_says_how_to_read(run, tmp_path):
    out = str(tmp_path / "run")
    data = ["--data", str(run.parent / "photographs"), "--importance_samples", "5"]
    assert not main(["fit", "--model", "LatentColorization", *data, *FIT, "--out", out])
    assert latentia.open_run(out).schema.grid.symbols == 441
    assert main(["fit", "--model", "LatentColorization", "--data", "digits", "--out", str(tmp_path / "no")])
