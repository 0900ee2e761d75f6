"""The VAE: likelihoods, users' own networks, missing values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from latentia.data import load
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate, log_marginal
from latentia.learners import Gradient
from latentia.model import Batch
from latentia.models import VAE
from latentia.networks import MLP


def test_it_begins_with_the_datas_own_marginal():
    data = load("digits", binarize="dynamic")
    model = VAE((8, 8), latent=2)
    model.start(data.batch(dtype=torch.float32), torch.Generator().manual_seed(0))
    bias = torch.as_tensor(model.decoder.output_bias).sigmoid().reshape(8, 8)  # type: ignore[union-attr]
    assert torch.allclose(bias, data.x.mean(0).clamp(1e-3, 1 - 1e-3), atol=0.05)


def test_a_gaussian_likelihood_learns_mean_and_variance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 3.0]) + torch.tensor([5, 0])
    data = load(x, scale="standard")
    model = VAE((2,), latent=1, hidden=(8,), likelihood="gaussian")
    Gradient(epochs=20, lr=0.01, schedule="cosine").fit(model, data)
    found = evaluate(model, data, importance_samples=50)
    entropy = 0.5 * math.log((2 * math.pi * math.e) ** 2 * (0.1 * 3.0) ** 2)
    assert found.log_marginal == pytest.approx(-entropy, abs=0.05)


def test_a_categorical_likelihood_of_levels():
    data = load("digits", values="levels").subset(slice(0, 300))
    model = VAE((8, 8), symbols=17, latent=4, hidden=(32,), likelihood="categorical")
    history = Gradient(epochs=8, batch_size=50).fit(model, data)
    bounds = [record["bound"] for record in history.records]
    assert bounds[-1] > bounds[0] > -64 * math.log(17)
    assert model.generate(3)[0].max() <= 16


def test_your_own_networks_fit_in_one_line():
    encoder = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 6))
    model = VAE((8, 8), latent=3, encoder=encoder, decoder=MLP([3, 32, 64], "gelu"))
    data = load("digits", binarize="dynamic").subset(slice(0, 200))
    before = encoder[1].weight.clone()  # type: ignore[union-attr, operator]
    history = Gradient(epochs=5, batch_size=50).fit(model, data)
    assert history.records[-1]["bound"] > history.records[0]["bound"]
    assert not torch.equal(before, encoder[1].weight)  # type: ignore[arg-type]


def test_missing_pixels_are_left_out():
    model = VAE((2,), latent=1, hidden=(4,), likelihood="gaussian").double()
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hidden = Batch.of(torch.where(torch.tensor([True, False]), x, torch.nan))
    z = torch.zeros(1, 20, 1, dtype=torch.float64)
    first = model.likelihood(z, hidden).log_prob(hidden.x)[..., 0]
    assert torch.allclose(model.log_joint(hidden, z), first + Normal(0.0, 1.0).log_prob(z).sum(-1).double(), atol=1e-6)


def test_more_importance_samples_raise_the_estimate():
    data = load("digits", binarize="dynamic").subset(slice(0, 200))
    model = VAE((8, 8), latent=4, hidden=(32,))
    Gradient(epochs=10, batch_size=50).fit(model, data)
    found = {k: float(log_marginal(model, data, importance_samples=k).value.mean()) for k in (1, 10, 500)}
    assert found[1] < found[10] < found[500]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "sine"}, "activation"),
        ({"likelihood": "poisson"}, "likelihood"),
        ({"likelihood": "categorical"}, "symbols"),
    ],
)
def test_options_without_sense(options, named):
    with pytest.raises(OptionError, match=named):
        VAE((2,), **options)


def test_data_it_cannot_generate():
    with pytest.raises(DataError, match="shape"):
        VAE((3,)).check(Batch(torch.zeros(2, 4)))
    with pytest.raises(DataError, match="whole numbers"):
        VAE((2,), symbols=3, likelihood="categorical").check(Batch(torch.tensor([[1, 3]])))
