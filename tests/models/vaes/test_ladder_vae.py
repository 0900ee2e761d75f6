"""The ladder VAE: bounds in their order, the exact linear-Gaussian ladder, unbiased gradients, every verb."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from latentia import testing
from latentia.data import load
from latentia.distributions.divergence import kl_given
from latentia.errors import OptionError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.measure.diagnose import diagnose
from latentia.measure.information import decompose
from latentia.model import Batch, Frame
from latentia.models import LadderVAE
from latentia.models.vaes import ladder_vae
from latentia.objectives import elbo, iwae
from latentia.tasks import complete, encode, generate, interpolate

A, S, B, R = 0.8, 0.5, 1.7, 0.6  # z2 ~ N(0, 1), z1 | z2 ~ N(A z2, S^2), x | z1 ~ N(B z1, R^2)


def set_linear(network, weight, bias):
    network[0].weight.data = torch.tensor(weight, dtype=torch.float64).reshape(-1, 1)
    network[0].bias.data = torch.tensor(bias, dtype=torch.float64)


def linear(wrong=0.0):
    """A ladder of linear maps in one dimension with its exact posterior, whose means are `wrong` by so much."""
    model = LadderVAE((1,), latents=(1, 1), hidden=((), ()), likelihood="gaussian").double()
    raw = math.log(math.expm1(R - 1e-3))
    set_linear(model.decoder, [B, 0.0], [0.0, raw])
    set_linear(model.down[0], [A, 0.0], [0.0, math.log(S)])
    prior = A**2 + S**2
    precision = 1 / prior + B**2 / R**2
    set_linear(model.encoder, [B / R**2 / precision, 0.0], [wrong, -0.5 * math.log(precision)])
    above = 1 + A**2 / S**2
    set_linear(model.up[0], [A / S**2 / above, 0.0], [-wrong, -0.5 * math.log(above)])
    return model


X = Batch(torch.tensor([[0.3], [-1.2], [2.0]], dtype=torch.float64))
LOG_P = Normal(0.0, math.sqrt(B**2 * (A**2 + S**2) + R**2)).log_prob(X.x).squeeze(-1)


def gradients(model, bound):
    found = torch.autograd.grad(bound.value.mean(), list(model.parameters()))
    return torch.cat([part.flatten() for part in found])


def test_one_draw_of_the_exact_posterior_gives_log_p():
    model = linear()
    torch.testing.assert_close(iwae(model, X, samples=1).value, LOG_P)
    torch.testing.assert_close(testing.brute_force_log_marginal(model, X), LOG_P)


def test_bounds_rise_to_the_closed_form():
    model, times = linear(wrong=0.25), 4000
    many = X.select(torch.arange(3).repeat(times))
    torch.manual_seed(0)
    with torch.no_grad():
        values = [elbo(model, many).value] + [iwae(model, many, samples=k).value for k in (5, 50)]
    means = [value.view(times, 3).mean(0) for value in values]
    for low, high in zip(means, [*means[1:], LOG_P], strict=True):
        assert bool((low < high + 2e-3).all())
    assert bool((means[0] < LOG_P - 0.05).all())
    torch.testing.assert_close(means[-1], LOG_P, atol=0.02, rtol=0)


def test_sticking_the_landing_leaves_no_noise_at_the_exact_posterior():
    """In none of the layers: the later latent's density counts as a way through the earlier one."""
    model = linear()
    inference = [*model.encoder.parameters(), *model.up.parameters()]
    for bound in (elbo(model, X, stl=True), iwae(model, X, samples=4, gradient="dreg")):
        found = torch.autograd.grad(bound.value.mean(), inference)
        assert max(float(part.abs().max()) for part in found) < 1e-12
    noisy = torch.autograd.grad(elbo(model, X).value.mean(), inference)
    assert max(float(part.abs().max()) for part in noisy) > 1e-2


@pytest.mark.parametrize(
    ("unbiased", "options"), [(elbo, {"stl": True}), (iwae, {"samples": 4, "gradient": "dreg"})], ids=["stl", "dreg"]
)
def test_the_mean_gradient_is_that_of_the_bound_in_every_layer(unbiased, options):
    model, times = linear(wrong=0.4), 60_000
    many = X.select(torch.arange(3).repeat(times))
    plain = {name: option for name, option in options.items() if name == "samples"}
    torch.manual_seed(0)
    expected, found = (
        gradients(model, unbiased(model, many, **plain)),
        gradients(model, unbiased(model, many, **options)),
    )
    assert float(expected.abs().max()) > 0.3
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.02)


def test_conditional_kls_add_up_to_the_divergence():
    """By quadrature: E_q of the layers' terms = E_q[log q - log p], and ELBO = log p(x) - KL(q || p(z | x))."""
    model, batch = ladder_vae.tiny(0)
    q, p = model.posterior(batch), model.prior(batch.frame)
    z, log_weight = testing.nodes(q)
    terms = torch.cat(list(kl_given(q, p, z).values()), -1).sum(-1)
    kl = (log_weight.exp() * terms).sum(0)
    torch.testing.assert_close(kl, (log_weight.exp() * (q.log_prob(z) - p.log_prob(z))).sum(0))
    bound = (log_weight.exp() * model.log_likelihood(batch, z)).sum(0) - kl
    gap = (log_weight.exp() * (q.log_prob(z) - model.log_joint(batch, z))).sum(0)
    torch.testing.assert_close(bound, -gap)
    assert bool((bound < testing.brute_force_log_marginal(model, batch)).all())


def test_free_bits_floor_each_layer():
    model, batch = ladder_vae.tiny(0)
    with torch.no_grad():
        torch.manual_seed(0)
        plain = elbo(model, batch, samples=3)
        torch.manual_seed(0)
        z = model.posterior(batch).rsample((3,))
        parts = kl_given(model.posterior(batch), model.prior(batch.frame), z)
        layers = torch.stack([part.sum(-1).mean(0) for part in parts.values()], -1)
        torch.testing.assert_close(plain.kl, layers.sum(-1))
        floor = float(layers.median())
        torch.manual_seed(0)
        bound = elbo(model, batch, samples=3, free_bits=floor, free="latent")
    torch.testing.assert_close(bound.value, bound.reconstruction - layers.clamp(min=floor).sum(-1))
    torch.testing.assert_close(bound.kl, plain.kl)
    assert bool((bound.value < plain.value).any())


def test_the_networks_are_those_of_the_paper():
    """Burda, Grosse and Salakhutdinov (2016): 784-200-200-100-100-100-50 and back."""
    model = LadderVAE((28, 28))
    networks = {"q1": model.encoder, "q2": model.up[0], "p1": model.down[0], "p0": model.decoder}
    widths = {
        name: [part.out_features for part in net if hasattr(part, "out_features")] for name, net in networks.items()
    }
    assert widths == {"q1": [200, 200, 200], "q2": [100, 100, 100], "p1": [100, 100, 200], "p0": [200, 200, 784]}
    z = model.prior(Frame(2)).sample((3,))
    assert {name: part.shape for name, part in z.items()} == {"z2": (3, 2, 50), "z1": (3, 2, 100)}


def test_three_layers():
    model = LadderVAE((8, 8), latents=(6, 4, 2), hidden=((16,), (8,), (8,)))
    batch = load("digits", binarize="fixed").batch(slice(0, 5), torch.float32)
    z = model.posterior(batch).rsample((2,))
    assert list(z) == ["z1", "z2", "z3"]
    assert list(model.prior(batch.frame).parts) == ["z3", "z2", "z1"]
    assert elbo(model, batch).value.shape == (5,)


def test_every_verb_takes_several_layers():
    data = load("digits", binarize="dynamic").subset(slice(0, 300))
    model = LadderVAE((8, 8), latents=(6, 3), hidden=((32,), (16,)))
    history = Gradient(epochs=8, batch_size=50, lr=3e-3).fit(model, data)
    assert history.records[-1]["bound"] > history.records[0]["bound"]
    found = evaluate(model, data, importance_samples=20)
    assert found.elbo < found.log_marginal
    assert found.layers is not None
    assert {name: layer["latent_units"] for name, layer in found.layers.items()} == {"z1": 6, "z2": 3}
    assert sum(layer["active_units"] for layer in found.layers.values()) == found.active_units
    assert sum(layer["kl"] for layer in found.layers.values()) == pytest.approx(found.kl)
    codes = encode(model, data)
    assert {name: part.shape for name, part in codes.items()} == {"z1": (300, 6), "z2": (300, 3)}
    assert generate(model, 4)[0].x.shape == (4, 8, 8)
    batch = data.frozen(0).batch(slice(0, 4), torch.float32)
    assert interpolate(model, batch, steps=3).shape == (2, 3, 8, 8)
    mask = torch.ones_like(batch.x, dtype=torch.bool)
    mask[:, 4:] = False
    completed = complete(model, Batch.of(batch.x, mask), draws=2, sweeps=4)
    assert torch.equal(completed.draws[:, mask], batch.x[mask].expand(2, -1))
    assert "of 9 units active" in diagnose(model, data, limit=50).verdict
    assert "By layer: z1 " in found.verdict
    # q(z2 | z1) takes no x, so the density of a pair costs next to nothing
    assert decompose(model, data, limit=80).ceiling == pytest.approx(math.log(80))


@pytest.mark.parametrize("options", [{"latents": ()}, {"latents": (3, 2, 1)}, {"hidden": ((5,),)}])
def test_layers_without_their_widths(options):
    with pytest.raises(OptionError, match="one list of hidden widths"):
        LadderVAE((4,), **options)
