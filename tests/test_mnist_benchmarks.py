"""The GPU benchmarks on MNIST at small size on the CPU: their protocol, their results, going on when cut off."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PARTS = sum(3**i for i in range(8))


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def run(name, folder, *arguments):
        if not (DATA / folder).is_dir():
            pytest.skip(f"{folder} is not here")
        places = ["--data", DATA / folder, "--state", tmp_path / "state", "--out", tmp_path / "results"]
        monkeypatch.setattr(sys, "argv", [name, *map(str, [*places, *arguments])])
        importlib.import_module(name).main()
        (path,) = (tmp_path / "results").glob("*.json")
        return path.stem, json.loads(path.read_text())

    return run


SHORT = ["--first", 200, "--test_images", 20, "--samples", 5]


@pytest.mark.parametrize(("row", "latents"), [("1L-k5", {"z": 50}), ("2L-k50", {"z1": 100, "z2": 50})])
def test_a_row_of_burda(benchmark, row, latents, capsys):
    name, found = benchmark("burda", "mnist", "--row", row, "--scale", 2 / PARTS, "--batch_size", 80, *SHORT)
    assert name == f"burda_{row}_scale-{2 / PARTS}_batch-80_first-200_test-20_samples-5"
    assert found["epochs"] == found["fit"]["last_epoch"]["epoch"] == 2
    assert found["lr"] == pytest.approx(2e-3)
    assert found["fit"]["last_epoch"]["lr"] == pytest.approx(2e-4)
    # the test images at their own frequencies have some 206 nats
    assert 150 < found["nll"] < 300
    for part in ("active_units_test", "active_units_500_training"):
        assert found[part].keys() == latents.keys()
        assert all(0 <= count <= latents[name] for name, count in found[part].items())
    assert "published" in capsys.readouterr().out


def test_a_fit_that_was_cut_off_goes_on(benchmark):
    arguments = ["burda", "mnist", "--row", "1L-k1", "--scale", 1 / PARTS, *SHORT]
    _, first = benchmark(*arguments)
    _, again = benchmark(*arguments)
    assert not first["fit"]["resumed"]
    assert again["fit"]["resumed"]
    assert again["nll"] == pytest.approx(first["nll"])


def test_the_convolutional_ladder(benchmark):
    size = ["--latents", 2, 2, "--scales", 4, 2, "--channels", 8, "--blocks", 1]
    short = ["--epochs", 2, "--first", 64, "--test_images", 20, "--samples", 5, "--batch_size", 32]
    _, found = benchmark("conv_ladder", "binarized_mnist", *size, *short, "--warmup", 1)
    assert found["published_nll"] == 79.24
    assert found["evaluation"]["layers"].keys() == {"z1", "z2"}
    assert math.isfinite(found["nll"])
    assert found["fit"]["last_epoch"]["validation_bound"] < 0


def test_without_the_data_they_say_so(benchmark, monkeypatch, tmp_path):
    for name in ("burda", "conv_ladder"):
        arguments = [name, "--data", str(tmp_path / "nowhere"), *(["--row", "1L-k1"] if name == "burda" else [])]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit, match="is not here"):
            importlib.import_module(name).main()
