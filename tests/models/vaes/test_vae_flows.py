"""The VAE with other posteriors and priors: bounds, promises and gradients."""

from __future__ import annotations

import functools

import pytest
import torch

from latentia import testing
from latentia.model import Batch
from latentia.models import VAE
from latentia.models.vaes import vae
from latentia.objectives import elbo, iwae

FLOWS = [{"posterior": kind} for kind in ("full", "planar", "iaf", "maf", "spline")]
FLOWS += [{"prior": kind} for kind in ("maf", "spline")] + [{"posterior": "spline", "prior": "spline"}]
each = pytest.mark.parametrize("options", FLOWS, ids=lambda options: "-".join(map("-".join, options.items())))


def tiny(seed, latent=1, scale=0.5, **options):
    """As `vae.tiny`, with another posterior or prior."""
    generator = torch.Generator().manual_seed(seed)
    model = VAE((3,), latent=latent, hidden=(4,), flow_hidden=(4,), **options).double()
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, vae.tiny(seed)[1]


@each
@pytest.mark.parametrize("name", ["bounds", "normalised", "gradients", "batching", "missing", "nan", "save", "moves"])
def test_every_posterior_and_prior_keeps_the_promises(options, name):
    with testing.one_thread():
        getattr(testing, f"check_{name}")(functools.partial(tiny, **options), 0)


@each
@pytest.mark.parametrize("name", ["seed", "generate"])
def test_starts_and_draws_follow_their_seed_and_density(options, name):
    with testing.one_thread():
        getattr(testing, f"check_{name}")(functools.partial(tiny, **options), 1)


@each
def test_bounds_lie_in_order_below_log_p_in_two_dimensions(options):
    model, batch = tiny(0, latent=2, scale=0.2, **options)
    # a random encoder may have importance weights without a variance
    for parameter in model.encoder[-1].parameters():
        parameter.data.zero_()
    truth = testing.brute_force_log_marginal(model, batch)
    torch.manual_seed(0)
    many = batch.select(torch.arange(batch.size).repeat(100))
    with torch.no_grad():
        found = [elbo(model, many).value, *(iwae(model, many, samples=k).value for k in (5, 200))]
    found = torch.stack([value.view(100, -1) for value in found])
    mean, error = torch.cat([found.mean(1), truth[None]]), torch.cat([found.std(1) / 10, 0 * truth[None]])
    assert bool((mean.diff(dim=0) > -5 * (error[1:] ** 2 + error[:-1] ** 2).sqrt() - 1e-3).all())
    # the bias of 200 samples, half the variance of a single value
    assert testing.agrees(found[2], truth, slack=float(found[2].var(0).max()))


@each
def test_the_joint_integrates_to_log_p(options):
    """On a grid of z, by the prior's density, against nodes that its map has moved."""
    model, batch = tiny(0, latent=1, **options)
    axis = torch.linspace(-14, 14, 4001, dtype=torch.float64)
    with torch.no_grad():
        joint = model.log_joint(batch, axis.reshape(-1, 1, 1).expand(-1, batch.size, 1))
    value = joint.logsumexp(0) + (axis[1] - axis[0]).log()
    # a spline has kinks, between which the nodes of the one rule fall otherwise than the grid of the other
    tolerance = 1e-2 if "spline" in options.values() else 2e-3
    torch.testing.assert_close(value, testing.brute_force_log_marginal(model, batch), rtol=0, atol=tolerance)


@each
@pytest.mark.parametrize("latent", [1, 3])
def test_every_parameter_of_a_flow_learns(options, latent):
    model = VAE((3,), latent=latent, hidden=(4,), flow_hidden=(4,), transforms=3, **options)
    batch = Batch(torch.randint(2, (6, 3)).float())
    model.start(batch, torch.Generator().manual_seed(0))
    for _ in range(3):  # where a flow begins, what lies behind a zero has no gradient yet
        slopes = torch.autograd.grad(elbo(model, batch).value.sum(), list(model.parameters()), allow_unused=True)
        for parameter, slope in zip(model.parameters(), slopes, strict=True):
            parameter.data += 0.1 * torch.randn_like(parameter) + (0 if slope is None else 0 * slope)
    named = zip(model.named_parameters(), slopes, strict=True)
    assert not [name for (name, _), slope in named if slope is None or not slope.any()]


@pytest.mark.parametrize("posterior", ["full", "planar", "iaf", "maf", "spline"])
@pytest.mark.parametrize(
    ("unbiased", "options"), [(elbo, {"stl": True}), (iwae, {"samples": 5, "gradient": "dreg"})], ids=["stl", "dreg"]
)
def test_other_gradients_have_the_same_mean(posterior, unbiased, options):
    """Over many draws the gradient with respect to the encoder's last bias, and to each flow's, is the bound's own."""
    model, batch = tiny(2, latent=2, scale=0.4, posterior=posterior)
    torch.manual_seed(0)
    leaves = [p for name, p in model.named_parameters() if "encoder" in name or "head" in name]

    def slopes(times, **chosen):
        found = []
        for _ in range(times):
            many = batch.select(torch.arange(batch.size).repeat(200))
            value = unbiased(model, many, **chosen).value.view(200, -1).mean(0).sum()
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves)]))
        return torch.stack(found)

    own, other = slopes(8, **{k: v for k, v in options.items() if k == "samples"}), slopes(8, **options)
    gap, error = own.mean(0) - other.mean(0), ((own.var(0) + other.var(0)) / 8).sqrt()
    assert float(own.mean(0).abs().max()) > 0.1
    # 8 runs give a t statistic with 14 degrees of freedom; masked weights have neither gradient nor error
    assert float((gap.abs() / error.clamp(min=1e-9)).max()) < 7
    assert float(gap.norm()) < 0.25 * float(own.mean(0).norm()) + 3 * float(error.norm())
