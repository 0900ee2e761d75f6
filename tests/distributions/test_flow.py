"""Flows: densities against autodiff and quadrature, inverses, what is remembered of a draw, fixed parameters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Distribution, Normal

from latentia import gradients
from latentia.distributions.flow import Flow, PlanarTransform, PosteriorBend, PriorBend, begin

POSTERIOR, PRIOR = ("planar", "iaf", "maf", "spline"), ("maf", "spline")
EVERY = [*((kind, "posterior") for kind in POSTERIOR), *((kind, "prior") for kind in PRIOR)]
every = pytest.mark.parametrize(("kind", "use"), EVERY)


def flow(kind, use="posterior", latent=2, batch=3, scale=0.5, seed=0):
    """A flow in float64 with random parameters, away from where it begins."""
    torch.manual_seed(seed)
    bend = (PosteriorBend if use == "posterior" else PriorBend)(kind, latent, 3, (8,)).double()
    for parameter in bend.parameters():
        parameter.data = scale * torch.randn_like(parameter)
    inputs = bend.inputs if use == "posterior" else 0
    features = (scale * torch.randn(batch, inputs, dtype=torch.float64)).requires_grad_()
    return Flow(bend, features, latent)


@every
@pytest.mark.parametrize("latent", [1, 2, 5])
def test_the_density_is_that_of_the_change_of_variables(kind, use, latent):
    q = flow(kind, use, latent)
    noise = torch.randn(q.batch_shape + q.event_shape, dtype=torch.float64)
    bend = q.bend(q.features)
    z = bend(noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: bend(e).sum(0), noise).permute(1, 0, 2)
    truth = Normal(0.0, 1.0).log_prob(noise).sum(-1) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(z), truth, rtol=1e-8, atol=1e-8)


@every
@pytest.mark.parametrize("latent", [1, 2])
def test_it_integrates_to_one(kind, use, latent):
    q = flow(kind, use, latent, batch=1, scale=0.2)
    axis = torch.linspace(-9, 9, 2001 if latent == 1 else 361, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * latent).reshape(-1, 1, latent)
    with torch.no_grad():
        total = q.log_prob(grid).exp().sum(0) * float(axis[1] - axis[0]) ** latent
    torch.testing.assert_close(total, torch.ones(1, dtype=torch.float64), rtol=0, atol=2e-3)


@every
def test_draws_have_the_mean_and_variance_of_the_density(kind, use):
    q = flow(kind, use, latent=1, scale=0.3)
    axis = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    with torch.no_grad():
        weight = q.log_prob(axis.reshape(-1, 1, 1)).exp() * float(axis[1] - axis[0])
        mean = (weight * axis.unsqueeze(-1)).sum(0)
        variance = (weight * (axis.unsqueeze(-1) - mean) ** 2).sum(0)
        z = q.sample((100_000,)).squeeze(-1)
    error = (variance / len(z)).sqrt()
    assert float(((z.mean(0) - mean) / error).abs().max()) < 5
    torch.testing.assert_close(z.var(0), variance, rtol=0.05, atol=0)
    # 128 points, placed evenly, against the integral
    assert float((q.mean.detach().squeeze(-1) - mean).abs().max()) < 0.02 * float(variance.max().sqrt())
    torch.testing.assert_close(q.variance.squeeze(-1), variance, rtol=0.25, atol=0)


@every
def test_a_draw_knows_its_density(kind, use):
    q = flow(kind, use, latent=3)
    z = q.rsample((4,))
    assert z.shape == (4, 3, 3)
    known, found = q.log_prob(z), q.log_prob(z + 0.0)
    assert known is q._log_prob
    torch.testing.assert_close(known, found, rtol=1e-9, atol=1e-9)
    # through the draw and through the parameters: the same total derivative
    leaves = [q.features, *q.bend.parameters()]
    one, other = (
        torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True) for value in (known, found)
    )
    for a, b in zip(one, other, strict=True):
        if a is not None or b is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_what_is_known_of_a_draw_is_not_used_where_it_would_be_wrong():
    q = flow("iaf")
    z = q.sample((2,))
    with torch.no_grad():
        assert q.log_prob(z) is q._log_prob
    # drawn without a graph: the score of q needs one
    assert q.log_prob(z).requires_grad
    z = q.rsample((2,))
    before = q.log_prob(z).detach()
    with torch.no_grad():
        z.add_(1.0)
    assert not torch.allclose(q.log_prob(z), before)
    z = q.rsample((2,))
    assert q.log_prob(z.detach()) is not q._log_prob
    q.rsample((2,))
    assert q.log_prob(z) is not q._log_prob
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.detach()))


@every
def test_a_fixed_flow_depends_on_z_alone(kind, use):
    q = flow(kind, use, latent=3)
    z = q.rsample((4,))
    still = gradients.fixed(q)
    torch.testing.assert_close(still.log_prob(z), q.log_prob(z), rtol=1e-9, atol=1e-9)
    leaf = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(still.log_prob(leaf).sum(), leaf)
    (truth,) = torch.autograd.grad(q.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(slope, truth, rtol=1e-9, atol=1e-9)
    assert not still.log_prob(z.detach()).requires_grad
    # the model's own parameters still learn
    assert all(parameter.requires_grad for parameter in q.bend.parameters())


@every
def test_values_broadcast_against_the_batch(kind, use):
    q = flow(kind, use, latent=2, batch=3)
    z = q.sample((5,))
    each = q.log_prob(z[:, :1])
    for b in range(3):
        torch.testing.assert_close(each[:, b], q.log_prob(z[:, :1].expand(-1, 3, -1).clone())[:, b])


@pytest.mark.parametrize("kind", POSTERIOR)
def test_equal_features_have_equal_means(kind):
    q = flow(kind)
    same = Flow(q.bend, q.features[:1].expand(4, -1), 2)
    assert float(same.mean.detach().var(0).max()) == 0.0
    assert torch.equal(same.mean, same.mean)


@pytest.mark.parametrize("kind", ["iaf", "maf", "spline"])
def test_flows_begin_near_the_diagonal_normal(kind):
    bend = PosteriorBend(kind, 4, 3, (16,)).double()
    before = {name: value.clone() for name, value in bend.named_parameters()}
    begin(bend, torch.Generator().manual_seed(0))
    assert all(not torch.equal(value, before[name]) for name, value in bend.named_parameters())
    features = torch.randn(50, bend.inputs, dtype=torch.float64)
    q = Flow(bend.requires_grad_(False), features, 4)
    mean, log_scale, _ = features.split([4, 4, 16], -1)
    assert float(((q.mean - mean) / log_scale.exp()).abs().mean()) < 0.3
    assert float((q.stddev / log_scale.exp() - 1).abs().mean()) < 0.3


@settings(max_examples=200, deadline=None)
@given(latent=st.integers(1, 4), scale=st.sampled_from([0.0, 1e-6, 0.3, 3.0, 30.0]), seed=st.integers(0, 10_000))
def test_planar_maps_are_invertible_whatever_their_parameters(latent, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    u, w, b, x = (
        size * torch.randn(6, width, generator=generator, dtype=torch.float64)
        for size, width in ((scale, latent), (scale, latent), (scale, 1), (1.0, latent))
    )
    # where 1 + w . u' is 1e-9 the inverse exists and float64 has not the digits for it
    u = torch.where((u * w).sum(-1, keepdim=True) < -8, -u, u)
    planar = PlanarTransform(u, w, b)
    y = planar(x)
    jacobian = torch.autograd.functional.jacobian(lambda x: planar(x).sum(0), x).permute(1, 0, 2)
    sign, log_det = torch.linalg.slogdet(jacobian)
    assert bool((sign > 0).all())
    slack = 1e-6 * (1 + float(planar.u.abs().max()))
    torch.testing.assert_close(planar.log_abs_det_jacobian(x, y), log_det, rtol=1e-5, atol=slack)
    torch.testing.assert_close(planar(planar.inv(y)), y, rtol=1e-7, atol=slack)


def test_the_inverse_of_a_planar_map_has_its_gradient():
    torch.manual_seed(0)
    u, w, b, y = (torch.randn(4, width, dtype=torch.float64, requires_grad=True) for width in (3, 3, 1, 3))
    assert torch.autograd.gradcheck(lambda *parts: PlanarTransform(*parts[:3]).inv(parts[3]), (u, w, b, y))


def test_torch_still_checks_its_arguments():
    flow("iaf")
    assert Distribution._validate_args == __debug__
    with pytest.raises(ValueError, match="scale"):
        Normal(0.0, -1.0)
