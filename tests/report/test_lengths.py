"""The report's codes: bits beside those of general compressors, where they go, and when there are none."""

from __future__ import annotations

import torch

from latentia.data import Dataset, as_dataset, load
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import VAE, MixtureOfBernoullis, MixtureOfCategoricals
from latentia.report import lengths as module
from latentia.report.lengths import lengths
from latentia.tasks import compress


def test_a_mixture_beside_general_compressors_and_its_pixels():
    data = load("digits", binarize="fixed").subset(slice(0, 300))
    model = MixtureOfBernoullis((8, 8), 10, smoothing=0.5).double()
    EM(steps=5, progress=False).fit(model, data)
    table, where = lengths(model, data, 0, 10_000)
    rows = {row[0]: row for row in table.content["rows"]}
    made = compress(model, data)
    assert rows["this model"][1] == f"{made.net / made.values:.4f}"
    assert {"gzip", "bz2", "xz", "zstd", "PNG", "WebP", "header of the file, apart"} <= set(rows)
    assert "300 data" in table.caption
    assert where.title == "Where the bits go"


def test_what_a_vae_borrows_stands_apart_and_its_parts_are_told():
    data = load("digits", binarize="fixed").subset(slice(0, 100))
    table, _ = lengths(VAE((8, 8), latent=2, hidden=(4,)), data, 0, 10_000)
    names = [row[0] for row in table.content["rows"]]
    assert names[:3] == ["this model", "of that, z", "of that, x"]
    assert "borrowed bits, apart" in names


def test_columns_of_a_table_are_named():
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randint(5, (200,), generator=generator), torch.zeros(200).long()], 1)
    data = load(x.numpy(), values="levels", kind="table")
    _, where = lengths(MixtureOfCategoricals([5, 2], 2, components=2, smoothing=0.1).double(), data, 0, 10_000)
    assert where.content["rows"][0][0] == "x1"


def test_data_without_a_code_and_few_data_have_none(monkeypatch):
    real = as_dataset(Batch(torch.randn(50, 3)))
    assert lengths(VAE((3,), likelihood="gaussian"), real, 0, 10_000) == []
    few = load("digits", binarize="fixed").subset(slice(0, 5))
    assert lengths(VAE((8, 8)), few, 0, 10_000) == []
    monkeypatch.setattr(module, "affordable", lambda data, learned: 10)
    (note,) = lengths(VAE((8, 8)), load("digits", binarize="fixed"), 0, 10)
    assert note.kind == "note"
    assert isinstance(few, Dataset)
