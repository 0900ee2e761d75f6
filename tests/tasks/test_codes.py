"""Codes as files say what the tasks say."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from latentia.data import load
from latentia.errors import OptionError
from latentia.models import HMM, VAE, GaussianMixture
from latentia.tasks import cluster, codes, decode_path, encode


def test_clusters_as_csv(tmp_path):
    data = load(torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).subset([4, 2, 7])
    model = GaussianMixture(2, 3).double()
    model.start(data.batch(), torch.Generator().manual_seed(0))
    codes.write(model, data, tmp_path / "codes.csv")
    rows = list(csv.DictReader((tmp_path / "codes.csv").open()))
    assert [row["row"] for row in rows] == ["5", "3", "8"]
    assert [int(row["cluster"]) for row in rows] == cluster(model, data).tolist()
    values = torch.tensor([[float(row[f"p{k}"]) for k in range(3)] for row in rows], dtype=torch.float64)
    assert torch.allclose(values, encode(model, data), atol=1e-5)  # type: ignore[arg-type]


def test_means_as_npy(tmp_path):
    data, model = load("digits", binarize="dynamic").subset(slice(0, 5)), VAE((8, 8), latent=3)
    codes.write(model, data, tmp_path / "codes.npy", seed=2)
    assert np.array_equal(np.load(tmp_path / "codes.npy"), encode(model, data, seed=2).numpy())  # type: ignore[union-attr]


def test_paths_as_jsonl(tmp_path):
    data = load([[0, 1, 1], [2]], kind="sequence")
    model = HMM(symbols=3, states=2).double()
    model.start(data.batch(), torch.Generator().manual_seed(0))
    codes.write(model, data, tmp_path / "codes.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "codes.jsonl").read_text().splitlines()]
    states, lengths = decode_path(model, data)
    assert [line["x"] for line in lines] == [[0, 1, 1], [2]]
    assert [line["states"] for line in lines] == [states[i, : lengths[i]].tolist() for i in range(2)]
    with pytest.raises(OptionError, match=r"\.jsonl or \.npy"):
        codes.write(model, data, tmp_path / "codes.csv")
