"""The missing-data VAE: what it never reads, its bound beside the exact marginal, and what it fills in."""

from __future__ import annotations

import pytest
import torch

from latentia.data import load
from latentia.model import Batch
from latentia.models import MissingDataVAE
from latentia.models.vaes.missing_data_vae import tiny
from latentia.objectives import elbo, iwae
from latentia.tasks import complete
from latentia.testing import agrees, brute_force_log_marginal, enumerate_latents


def exact_mean(model: MissingDataVAE, batch: Batch) -> torch.Tensor:
    """E[x_d | x_observed] of every coordinate, by quadrature over z."""
    z, log_weight = enumerate_latents(model, batch)
    share = (log_weight + model.log_likelihood(batch, z)).softmax(0)
    return torch.einsum("sb,sbd->bd", share, model.likelihood(z, batch.frame).mean)


@pytest.mark.parametrize("seed", range(3))
def test_the_bounds_rise_to_the_exact_marginal_of_what_is_observed(seed):
    model, batch = tiny(seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        marginal = brute_force_log_marginal(model, batch)
        # the marginal of a datum with holes is the sum over what may be in them
        filled = [batch.x.where(batch.observed, bit) for bit in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)]
        values = torch.stack([brute_force_log_marginal(model, Batch(x.double())) for x in filled])
        repeats = 2.0 ** batch.observed.sum(-1)  # every filling of the holes is met so often
        assert torch.allclose(values.logsumexp(0) - repeats.log(), marginal, atol=1e-9)
        few, many = (torch.stack([f(model, batch, samples=1000).value for _ in range(20)]) for f in (elbo, iwae))
    assert (few.mean(0) - 5 * few.std(0) / 20**0.5 <= marginal).all()
    assert agrees(many, marginal, slack=0.01)


@pytest.mark.parametrize("posterior", ["full", "planar"])
def test_other_posteriors_bound_the_same_marginal(posterior):
    _, batch = tiny(0)
    torch.manual_seed(0)
    model = MissingDataVAE((3,), latent=2, hidden=(4,), posterior=posterior).double()
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    with torch.no_grad():
        marginal = brute_force_log_marginal(model, batch)
        few, many = (torch.stack([f(model, batch, samples=1000).value for _ in range(20)]) for f in (elbo, iwae))
        filled = torch.stack([model.impute(batch, samples=1000) for _ in range(20)])
        expected = torch.where(batch.observed, batch.x, exact_mean(model, batch))
    assert (few.mean(0) - 5 * few.std(0) / 20**0.5 < marginal).all()
    # both are ratios or logarithms of means, whose bias is of the order of one over the thousand draws
    assert agrees(many, marginal, slack=0.01)
    assert agrees(filled, expected, slack=0.01)


def test_imputation_and_completion_agree_with_quadrature():
    model, batch = tiny(1)
    torch.manual_seed(0)
    with torch.no_grad():
        expected = torch.where(batch.observed, batch.x, exact_mean(model, batch))
        assert torch.allclose(model.impute(batch, samples=40_000), expected, atol=0.02)
        chains = complete(model, batch, draws=200, sweeps=400, seed=0).mean
    assert torch.allclose(chains, expected, atol=0.03)


def test_the_encoder_gets_what_is_observed_about_its_mean():
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, torch.nan, 0.0], [torch.nan, torch.nan, torch.nan, 1.0]])
    batch = Batch.of(x)
    model = MissingDataVAE((4,), latent=1, hidden=(3,))
    model.start(batch, torch.Generator().manual_seed(0))
    assert torch.allclose(model.center, torch.tensor([1.0, 0.5, 1.0, 2 / 3]))
    seen = model._seen(batch)
    assert seen.shape == (3, 4)
    assert torch.allclose(seen[0], torch.tensor([0.0, -0.5, 0.0, 1 / 3]))
    assert torch.allclose(seen[2], 2 * torch.tensor([0, 0, 0, 1 / 3]))
    other = model._seen(batch._replace(x=torch.where(batch.observed, batch.x, 7.0)))
    assert torch.equal(other, seen)


def test_a_datum_without_anything_seen_is_finite():
    model, batch = tiny(0)
    nothing = batch._replace(mask=torch.zeros_like(batch.observed))
    assert model.posterior(nothing).mean.isfinite().all()
    torch.manual_seed(0)
    times = nothing.select(torch.arange(5).repeat(50))
    assert agrees(iwae(model, times, samples=400).value.detach().exp().view(50, 5), 1.0)  # p(nothing) = 1


def test_levels_and_real_values_with_holes():
    x = torch.randint(3, (40, 2, 2), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    levels = MissingDataVAE((2, 2), symbols=3, latent=1, hidden=(4,), likelihood="categorical")
    real = MissingDataVAE((2, 2), latent=1, hidden=(4,), likelihood="gaussian")
    for model, values in ((levels, x), (real, x.float())):
        batch = Batch.of(values, mask)
        model.start(batch, torch.Generator().manual_seed(0))
        filled = model.impute(batch, samples=20)
        assert filled.shape == x.shape
        assert torch.equal(filled[mask], x[mask].float())
        assert bool(((filled > -1) & (filled < 3)).all())
        assert iwae(model, batch, samples=5).value.isfinite().all()


def test_it_learns_from_holes_what_the_pixels_have_in_common():
    """Eight copies of one coin, half of them hidden: the others tell."""
    from functools import partial

    from latentia.learners import Gradient

    generator = torch.Generator().manual_seed(0)
    coin = torch.randint(2, (600, 1), generator=generator).float().expand(-1, 8)
    x = torch.where(torch.rand(600, 8, generator=generator) < 0.5, coin, torch.nan)
    model = MissingDataVAE((8,), latent=1, hidden=(16,))
    Gradient(partial(iwae, samples=5), epochs=40, batch_size=50, lr=0.01, progress=False).fit(model, load(x[:500]))
    test, truth = Batch.of(x[500:]), coin[500:]
    asked = ~test.observed & test.observed.any(-1, keepdim=True)
    with torch.no_grad():
        error = (model.impute(test) - truth).abs()[asked]
        complete_value = iwae(model, Batch(truth.contiguous()), samples=500).value.mean()
    assert float(error.mean()) < 0.05
    assert float(complete_value) == pytest.approx(-0.693, abs=0.15)
