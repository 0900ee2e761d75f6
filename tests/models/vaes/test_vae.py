"""The VAE: likelihoods, users' own networks, missing values."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from latentia.cli import main
from latentia.data import load
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate, log_marginal
from latentia.learners import Gradient
from latentia.model import Batch, Frame
from latentia.models import VAE
from latentia.networks import MLP
from latentia.runs.directory import Run


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
    assert model.generate(Frame(3))[0].x.max() <= 16


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
    first = model.likelihood(z, hidden.frame).log_prob(hidden.x)[..., 0]
    assert torch.allclose(model.log_joint(hidden, z), first + Normal(0.0, 1.0).log_prob(z).sum(-1).double(), atol=1e-6)


def test_more_importance_samples_raise_the_estimate():
    data = load("digits", binarize="dynamic").subset(slice(0, 200))
    model = VAE((8, 8), latent=4, hidden=(32,))
    Gradient(epochs=10, batch_size=50).fit(model, data)
    found = {k: float(log_marginal(model, data, importance_samples=k).value.mean()) for k in (1, 10, 500)}
    assert found[1] < found[10] < found[500]


LEARNED = [{"posterior": kind} for kind in ("full", "planar", "spline")] + [{"posterior": "iaf", "prior": "maf"}]
LEARNED += [{"network": "residual", "activation": "gelu"}, {"network": "gated"}]


@pytest.mark.parametrize("options", LEARNED, ids=lambda options: "-".join(options.values()))
def test_every_option_learns_digits(options):
    data = load("digits", binarize="dynamic").subset(slice(0, 300))
    model = VAE((8, 8), latent=3, hidden=(32,), channels=(8, 8), **options)
    history = Gradient(epochs=6, batch_size=50, lr=3e-3).fit(model, data)
    # independent pixels have -27.1 nats
    assert history.records[-1]["bound"] > max(history.records[0]["bound"], -28.5)
    found = evaluate(model, data.subset(slice(0, 60)), importance_samples=20)
    assert found.elbo <= found.log_marginal
    # with a flow the KL is of the posterior and prior as they are, so it is sampled and no unit has its own
    assert (found.kl_per_unit is None) == ("posterior" in options or "prior" in options)


@pytest.mark.parametrize("network", ["residual", "gated"])
@pytest.mark.parametrize(("likelihood", "symbols"), [("bernoulli", None), ("categorical", 3), ("gaussian", None)])
@pytest.mark.parametrize("shape", [(8, 8), (5, 4, 3)])
def test_convolutions_begin_with_the_datas_own_marginal(network, likelihood, symbols, shape):
    torch.manual_seed(0)
    model = VAE(shape, symbols, latent=2, likelihood=likelihood, network=network, channels=(4, 4))
    chance = torch.rand(shape)
    x = torch.rand(2000, *shape).lt(chance).float() * (2 if symbols else 1)
    model.start(Batch(x), torch.Generator().manual_seed(0))
    for layer in model.decoder.layers[-1:]:
        layer.weight.data.zero_()
    likelihood = model.likelihood(torch.zeros(1, 1, 2), Batch(x[:1]))
    mean = likelihood.probs[0, 0, ..., 2] if symbols else likelihood.mean[0, 0]
    torch.testing.assert_close(mean, x.mean(0) / (2 if symbols else 1), atol=0.01, rtol=0)


def test_an_encoder_of_the_wrong_width_is_told_the_right_one():
    model = VAE((8, 8), latent=3, posterior="iaf", encoder=nn.Linear(64, 6))
    with pytest.raises(OptionError, match="takes 70 numbers"):
        model.posterior(Batch(torch.zeros(1, 8, 8)))
    model = VAE((8, 8), latent=3, posterior="iaf", encoder=nn.Linear(64, 70))
    assert model.posterior(Batch(torch.zeros(1, 8, 8))).sample().shape == (1, 3)


@pytest.mark.parametrize("options", [["posterior", "iaf"], ["posterior", "full"], ["prior", "spline"]])
def test_the_command_fits_saves_and_loads(options, tmp_path, capsys):
    name, kind = options
    line = (
        f"fit --model VAE --data digits --model.{name} {kind} --model.latent 3 --model.hidden [16] --learner.epochs 2"
    )
    rest = ["--out", str(tmp_path / "run"), "--importance_samples", "10", "--first", "300"]
    with pytest.raises(SystemExit) as end:
        main([*line.split(), *rest])
    assert end.value.code == 0, capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    first, again = run.model(), run.model()
    batch = run.held_out.frozen(0).batch()
    z = torch.randn(2, batch.size, 3)
    assert torch.equal(first.log_joint(batch, z), again.log_joint(batch, z))
    assert torch.equal(first.posterior(batch).mean, again.posterior(batch).mean)
    assert (
        run.evaluate(10)["log_marginal"]
        == json.loads((tmp_path / "run" / "evaluation.json").read_text())["log_marginal"]
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "sine"}, "activation"),
        ({"posterior": "radial"}, "posterior"),
        ({"prior": "iaf"}, "prior"),
        ({"network": "resnet"}, "network"),
        ({"network": "gated"}, "images"),
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
