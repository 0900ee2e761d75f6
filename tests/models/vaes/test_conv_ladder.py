"""The convolutional ladder: its shapes, residual normals, and that it learns, in float32, what a picture needs."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from latentia import testing
from latentia.data import load
from latentia.distributions.divergence import kl_given
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.inference.importance import chunks
from latentia.learners import Gradient
from latentia.measure.information import decompose
from latentia.model import Batch, Frame
from latentia.models import ConvLadder
from latentia.models.vaes import conv_ladder
from latentia.models.vaes.conv_ladder import residual_normal
from latentia.objectives import elbo, iwae
from latentia.tasks import complete, encode, generate, interpolate


def small(event_shape=(8, 8), **options):
    given = {"latents": (3, 2), "scales": (2, 2), "channels": 8, "blocks": 1, **options}
    return ConvLadder(event_shape, **given)


def started(model, x, seed=0):
    model.start(Batch(x), torch.Generator().manual_seed(seed))
    return model


def test_the_divergence_of_a_residual_normal():
    """Vahdat and Kautz (2020), equation 2: 1/2 (shift^2 / scale^2 + ratio^2 - log ratio^2 - 1)."""
    torch.manual_seed(0)
    mean, shift, log_ratio = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64).unbind(0)
    p = Independent(Normal(mean, torch.rand_like(mean) + 0.1), 3)
    q = residual_normal(p, shift, log_ratio)
    terms = 0.5 * (shift**2 / p.stddev**2 + (2 * log_ratio).exp() - 2 * log_ratio - 1)
    torch.testing.assert_close(kl_divergence(q, p), terms.flatten(1).sum(-1))
    assert bool((kl_divergence(residual_normal(p, 0 * shift, 0 * log_ratio), p) == 0).all())


@pytest.mark.parametrize(
    ("event_shape", "scales", "sizes"),
    [
        ((28, 28), (2, 2, 2), [(14, 14), (7, 7), (4, 4)]),
        ((28, 28), (4, 2), [(7, 7), (4, 4)]),
        ((8, 8), (2, 2, 2), [(4, 4), (2, 2), (1, 1)]),
        ((5, 7), (2, 1), [(3, 4), (3, 4)]),
        ((1, 9, 9), (3,), [(3, 3)]),
        ((6, 6, 3), (2,), [(3, 3)]),
    ],
)
def test_every_layer_has_maps_of_its_size(event_shape, scales, sizes):
    model = small(event_shape, latents=[2] * len(scales), scales=scales)
    batch = Batch(torch.randint(2, (3, *event_shape)).float())
    names = [f"z{layer + 1}" for layer in range(len(scales))]
    for drawn in (model.posterior(batch).sample((4,)), model.prior(batch.frame).sample((4,))):
        assert [tuple(drawn[name].shape) for name in names] == [(4, 3, 2, *size) for size in sizes]
    assert model.generate(Frame(5))[0].x.shape == (5, *event_shape)
    assert model.log_joint(batch, model.posterior(batch).sample((4,))).shape == (4, 3)


def test_posterior_and_prior_go_down_together():
    model, batch = conv_ladder.tiny(0)
    q, p = model.posterior(batch), model.prior(batch.frame)
    assert list(q.parts) == list(p.parts) == ["z2", "z1"]
    z, log_weight = testing.nodes(q)
    parts = kl_given(q, p, z)
    for name in q.parts:
        one, other = q.conditional(name, z), p.conditional(name, z)
        torch.testing.assert_close(parts[name].sum(-1), kl_divergence(one, other).expand(log_weight.shape))
        assert bool((parts[name] >= 0).all())
    whole = (log_weight.exp() * (q.log_prob(z) - p.log_prob(z))).sum(0)
    torch.testing.assert_close((log_weight.exp() * torch.cat(list(parts.values()), -1).sum(-1)).sum(0), whole)


def test_bounds_rise_to_log_p_by_quadrature():
    model, batch = conv_ladder.tiny(1)
    # the posterior is the prior, so that the weights are bounded, while those of a random one have no variance
    for layer in model.layers:
        for parameter in layer.posterior_head[-1].parameters():  # type: ignore[index, union-attr]
            parameter.data.zero_()
    truth, times = testing.brute_force_log_marginal(model, batch), 200
    many = batch.select(torch.arange(batch.size).repeat(times))
    torch.manual_seed(0)
    with torch.no_grad():
        bounds = [elbo(model, many).value, *(iwae(model, many, samples=k).value for k in (5, 100))]
    means = [bound.view(times, -1).mean(0) for bound in bounds] + [truth]
    for low, high in pairwise(means):
        assert float((high - low).mean()) > -5e-3
    torch.testing.assert_close(means[-2], truth, atol=0.05, rtol=0)


def test_it_begins_with_the_datas_own_marginal_and_a_posterior_near_the_prior():
    data = load("digits", binarize="fixed")
    batch = data.batch(slice(0, 200), torch.float32)
    model = started(small(), batch.x)
    with torch.no_grad():
        bound = elbo(model, batch)
    frequency = batch.x.mean(0).clamp(1e-3, 1 - 1e-3)
    marginal = torch.where(batch.x > 0, frequency.log(), (-frequency).log1p()).flatten(1).sum(-1)
    assert float(bound.kl.mean()) < 3
    assert abs(float(bound.reconstruction.mean() - marginal.mean())) < 3


def test_log_scales_are_bounded():
    """In float32 no state, however large, makes a scale that is 0 or inf."""
    model = small()
    model.top.data.fill_(1e6)
    scale = model.prior(Frame(2)).conditional("z2", {}).stddev.detach()
    assert math.exp(-5.01) < float(scale.min()) <= float(scale.max()) < math.exp(5.01)


def test_free_bits_for_each_layer_keep_the_upper_ones_awake():
    model, batch = conv_ladder.tiny(0)
    torch.manual_seed(0)
    bound = elbo(model, batch, free_bits=50.0, free="latent")
    torch.testing.assert_close(bound.value, bound.reconstruction - 100.0)


def test_it_learns_the_digits_in_float32():
    train, held_out = load("digits", binarize="dynamic").split(0.03)
    model = small()
    options = {"epochs": 8, "batch_size": 50, "lr": 6e-3, "schedule": "cosine"}
    history = Gradient(**options).fit(model, train)
    assert all(math.isfinite(record["gradient_norm"]) for record in history.records)
    found = evaluate(model, held_out, importance_samples=10)
    # independent Bernoullis with each pixel's own frequency have -27.1 nats
    assert found.log_marginal > -26.6
    assert found.layers is not None
    assert {name: layer["latent_units"] for name, layer in found.layers.items()} == {"z2": 8, "z1": 48}
    total = sum(layer["kl"] for layer in found.layers.values())
    assert total == pytest.approx(found.kl, rel=0.2)


def test_dropout_is_off_when_it_is_measured():
    batch = Batch(torch.randint(2, (4, 8, 8)).float())
    model = small(dropout=0.5).eval()
    assert torch.equal(model.posterior(batch).mean["z2"], model.posterior(batch).mean["z2"])
    model.train()
    assert not torch.equal(model.posterior(batch).mean["z2"], model.posterior(batch).mean["z2"])


@pytest.mark.parametrize(("likelihood", "symbols"), [("categorical", 17), ("gaussian", None)])
def test_other_likelihoods(likelihood, symbols):
    data = load("digits", values="levels") if symbols else load("digits", values="real")
    batch = data.batch(slice(0, 20), torch.float32)
    model = started(small(symbols=symbols, likelihood=likelihood), batch.x)
    z = model.posterior(batch).sample((2,))
    assert model.likelihood(z, batch.frame).batch_shape == (2, 20, 8, 8)
    expected = batch.x.double().mean(0)
    flat = {name: torch.zeros_like(part) for name, part in z.items()}
    with torch.no_grad():
        likelihood_ = model.likelihood(flat, batch.frame)
    mean = (likelihood_.probs @ torch.arange(17.0) if symbols else likelihood_.mean)[0, 0].double()
    # what the bias alone gives, but for what a random network adds
    assert float((mean - expected).abs().mean()) < (0.9 if symbols else 0.5)
    assert elbo(model, batch).value.isfinite().all()


def test_every_verb_takes_maps():
    data = load("digits", binarize="fixed").subset(slice(0, 40))
    model = started(small(), data.batch(dtype=torch.float32).x)
    codes = encode(model, data)
    assert {name: part.shape for name, part in codes.items()} == {"z2": (40, 2, 2, 2), "z1": (40, 3, 4, 4)}
    assert generate(model, 4, mean=True)[0].x.shape == (4, 8, 8)
    # the density of a pair takes a pass of the networks
    assert decompose(model, data, limit=80).ceiling == pytest.approx(math.log(10))
    batch = data.batch(slice(0, 4), torch.float32)
    assert interpolate(model, batch, steps=3).shape == (2, 3, 8, 8)
    mask = torch.ones_like(batch.x, dtype=torch.bool)
    mask[:, 4:] = False
    completed = complete(model, Batch.of(batch.x, mask), draws=2, sweeps=4)
    assert torch.equal(completed.draws[:, mask], batch.x[mask].expand(2, -1))


def test_chunks_of_an_evaluation_know_how_wide_the_maps_are():
    data = load("digits", binarize="fixed")
    with torch.no_grad():
        draws, rows = chunks(small(channels=32), data, 1000, 2**22)
    # the gated block holds 2 * 32 maps of 4 x 4, and the last one 2 * 16 of 8 x 8
    assert draws * rows <= 2**22 / 64 / (2 * 16 * 64)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"latents": ()}, "one scale for each"),
        ({"scales": (2,)}, "one scale for each"),
        ({"dropout": 1.0}, "dropout"),
        ({"likelihood": "poisson"}, "likelihood"),
        ({"event_shape": (64,)}, "image"),
    ],
)
def test_options_without_sense(options, named):
    with pytest.raises(OptionError, match=named):
        small(**options)


def test_grey_images_are_refused():
    with pytest.raises(DataError, match="binarize"):
        small().check(Batch(torch.full((2, 8, 8), 0.5)))
