"""Gaussian likelihoods of data in any unit: each kind of VAE learns, and says log p(x) of the data as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from torch import nn

from latentia.data import load
from latentia.errors import NonFiniteError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import (
    VAE,
    ClusteringVAE,
    ConvLadder,
    LadderVAE,
    MissingDataVAE,
    SemiSupervisedVAE,
    VampVAE,
)
from latentia.networks.mlp import MLP

GAUSSIAN = {"likelihood": "gaussian"}
KINDS = {
    "vae": lambda: VAE((6,), latent=2, hidden=(16,), **GAUSSIAN),
    "relu": lambda: VAE((6,), latent=2, hidden=(16,), activation="relu", **GAUSSIAN),
    "vamp": lambda: VampVAE((6,), pseudo_inputs=5, latent=2, hidden=(16,), **GAUSSIAN),
    "ladder": lambda: LadderVAE((6,), latents=(2, 1), hidden=((16,), (8,)), **GAUSSIAN),
    "missing": lambda: MissingDataVAE((6,), latent=2, hidden=(16,), **GAUSSIAN),
    "clusters": lambda: ClusteringVAE((6,), latent=2, components=2, hidden=(16,), pretrain=1, **GAUSSIAN),
    "classes": lambda: SemiSupervisedVAE((6,), classes=2, latent=2, hidden=(16,), **GAUSSIAN),
}


def normals(holes: bool = False):
    x = np.random.default_rng(0).normal(size=(200, 6))
    if holes:
        x[::7, 2] = np.nan
    return x


def fitted(model, x, epochs: int = 2) -> float:
    return Gradient(epochs=epochs, batch_size=50, progress=False).fit(model, load(x)).records[-1]["bound"]


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1e6), (100, 20)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_learns_in_any_unit(kind, mean, deviation):
    x = normals(holes=kind == "missing")
    bound = fitted(KINDS[kind](), deviation * x + mean)
    seen = np.isfinite(x).sum() / len(x)
    # of the same data in unit scale, whose density is that times the product of the units
    best = -seen * (0.5 * math.log(2 * math.pi * math.e) + math.log(deviation))
    assert best - 12 < bound < best + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_start_is_the_datas_own_mean_and_deviation(dtype):
    x = torch.tensor([[-3e4, 2.0, 900.0], [5e4, 3.0, 1100.0]], dtype=dtype)
    model = VAE((3,), latent=1, hidden=(4,), **GAUSSIAN).to(dtype)
    batch = load(x, values="real").batch(dtype=dtype)
    model.start(batch, torch.Generator().manual_seed(0))
    # a decoder of no weights gives its bias
    model.decoder[-1].weight.data.zero_()
    p = model.likelihood(torch.zeros(1, 2, 1, dtype=dtype), batch.frame)
    assert torch.allclose(p.mean[0, 0], x.mean(0), rtol=1e-4)
    assert torch.allclose(p.stddev[0, 0], x.std(0, correction=0), rtol=5e-3)


def test_raw_wine_is_learned_as_well_as_scaled_wine():
    x = load_wine().data
    raw, scaled = (
        Gradient(epochs=20, progress=False).fit(VAE((13,), latent=2, hidden=(20,), **GAUSSIAN), load(x, scale=scale))
        for scale in ("none", "standard")
    )
    # both are of the data as given
    assert raw.records[-1]["bound"] > scaled.records[-1]["bound"] - 5


def test_data_of_unit_scale_are_left_as_they_are():
    model = KINDS["vae"]()
    fitted(model, normals() * 3 + 1, 1)
    assert torch.equal(model.shift, torch.zeros(6))
    assert torch.equal(model.unit, torch.ones(6))


def test_images_of_grey_values():
    x = np.random.default_rng(0).integers(0, 256, size=(40, 8, 8)).astype(float)
    model = ConvLadder((8, 8), latents=(2, 2), scales=(2, 2), channels=4, blocks=1, **GAUSSIAN)
    history = Gradient(epochs=1, batch_size=20, progress=False).fit(model, load(x, values="real"))
    assert math.isfinite(history.records[-1]["bound"])


def test_states_of_before_are_read():
    model, before = KINDS["vae"](), KINDS["vae"]()
    fitted(before, normals(), 1)
    state = {name: value for name, value in before.state_dict().items() if name not in ("shift", "unit")}
    model.load_state_dict(state)
    data = load(normals())
    assert evaluate(model, data, importance_samples=10).elbo == evaluate(before, data, importance_samples=10).elbo


def test_own_networks_get_the_data_as_they_are_and_errors_speak_of_scaling():
    model = VAE((6,), latent=2, encoder=MLP([6, 32, 4], "relu"), decoder=nn.Linear(2, 12), **GAUSSIAN)
    with pytest.raises(NonFiniteError, match=r"column \d of the data has values of size .* scale='standard'"):
        fitted(model, normals() * 1e6, 5)
    assert torch.equal(model.unit, torch.ones(6))


def test_a_frozen_decoder_keeps_its_units():
    model = KINDS["vae"]()
    fitted(model, normals() * 100, 1)
    model.decoder.requires_grad_(False)
    before = model.unit.clone()
    fitted(model, normals() * 500, 1)
    assert torch.equal(model.unit, before)
