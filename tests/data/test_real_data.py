"""Real data, where they are present beside the project: `../shared/data`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from latentia.data import Schema, load, read

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def real(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def test_geyser():
    path = real("tabular/geyser.csv")
    raw = read(path, columns=["duration", "waiting"])
    data = Schema.of(raw).encode(raw)
    assert data.x.shape == (272, 2)
    assert data.schema.shift == pytest.approx((3.48778, 70.89706), abs=1e-4)
    assert load(path).schema.kinds == ("real", "real", "category")
    labelled = load(path, labels="kind")
    assert labelled.schema.names == ("duration", "waiting")
    assert set(labelled.labels) == {"long", "short"}


def test_penguins_have_missing_values():
    names = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
    data = load(real("tabular/penguins.csv"), columns=names, labels="species")
    assert data.x.shape == (344, 4)
    assert (~data.mask).sum() == 8
    assert data.x[~data.mask].eq(0).all()
    assert len(set(data.labels)) == 3


def test_mnist():
    data = load(
        real("mnist/t10k-images-idx3-ubyte.gz"), binarize="dynamic", labels=str(real("mnist/t10k-labels-idx1-ubyte.gz"))
    )
    assert data.x.shape == (10_000, 28, 28)
    assert data.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.x.mean() == pytest.approx(0.1325, abs=1e-3)
    assert data.frozen(0).x.mean() == pytest.approx(0.1325, abs=2e-3)


def test_binarized_mnist():
    path = real("binarized_mnist/binarized_mnist_test.mat")
    flat = load(path)
    assert flat.x.shape == (10_000, 784)
    assert flat.schema.values == "binary"
    images = load(path, kind="image")
    assert torch.equal(images.x.flatten(1), flat.x)
    assert images.schema.describe() == "images of 28 x 28, of 0 and 1"


def test_frey_faces_and_camvid(refused):
    faces = np.load(real("frey_faces/freyfaces_1965x560_uint8.npy")).reshape(-1, 28, 20)
    raw = read(faces)
    assert Schema.of(raw).scale == (255.0,)
    path = real("camvid/camvid_val_120x90.npz")
    assert load(path, key="images").schema.event_shape == (90, 120, 3)
    with refused("camvid_val_120x90.npz", "images, masks, names"):
        read(path)


def test_penn_treebank_text():
    raw = read(real("ptb/ptb.valid.txt"))
    schema = Schema.of(raw, min_count=1)
    assert len(raw) == 3370
    data = schema.encode(raw)
    assert int(data.lengths.sum()) == 73760 - 3370  # the usual count has the end of each sentence
    assert data.subset([0]).decoded() == raw.values[:1]
