"""The conditional log-likelihood of what was hidden, against closed forms and quadrature."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from latentia.data import Schema, as_dataset
from latentia.errors import DataError
from latentia.model import Batch
from latentia.models import GaussianMixture, ProbabilisticPCA
from latentia.models.chains import hmm
from latentia.models.vaes import vae
from latentia.tasks import complete, conditional_log_likelihood

HIDDEN = torch.tensor([False, True, False, True])


def gaussian(kind):
    """A model of x in R^4 that is one Gaussian, and its mean and covariance."""
    generator = torch.Generator().manual_seed(4)
    if kind == "mixture":
        model = GaussianMixture(features=4, components=1, covariance="full").double()
    else:
        model = ProbabilisticPCA((4,), latent=2).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if kind == "mixture":
        return model, model.means[0].detach(), model.covariances[0].detach()
    noise = (2 * model.log_noise).exp() * torch.eye(4, dtype=torch.float64)
    return model, model.mean.detach(), (model.weight @ model.weight.T + noise).detach()


def conditional(x, mean, covariance):
    """p(x_hidden | x_shown) of a Gaussian."""
    shown = ~HIDDEN
    gain = torch.linalg.solve(covariance[shown][:, shown], covariance[shown][:, HIDDEN]).T
    left = covariance[HIDDEN][:, HIDDEN] - gain @ covariance[shown][:, HIDDEN]
    return MultivariateNormal(mean[HIDDEN] + (x[:, shown] - mean[shown]) @ gain.T, left)


@pytest.mark.parametrize("kind", ["mixture", "pca"])
def test_a_gaussian_has_its_exact_conditional(kind):
    model, mean, covariance = gaussian(kind)
    x = 2 * torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = conditional(x, mean, covariance)
    found = conditional_log_likelihood(model, Batch(x), HIDDEN)
    assert torch.allclose(found.value, truth.log_prob(x[:, HIDDEN]), atol=1e-9)
    assert torch.equal(found.standard_error, torch.zeros(3, dtype=torch.float64))
    assert found.entries.tolist() == [2, 2, 2]
    draws = 20_000
    done = complete(model, Batch.of(x, (~HIDDEN).expand(3, 4)), draws=draws)
    error = 5 * (truth.variance / draws).sqrt()
    assert ((done.draws[..., HIDDEN].mean(0) - truth.mean).abs() < error).all()
    assert torch.allclose(done.mean[:, HIDDEN], truth.mean)
    assert ((done.expected[..., HIDDEN].mean(0) - truth.mean).abs() < error).all()
    for b in range(3):
        assert torch.allclose(done.draws[:, b, HIDDEN].T.cov(), truth.covariance_matrix, rtol=0.1, atol=0.05)


def test_a_vae_agrees_with_quadrature():
    model, batch = vae.tiny(2)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64).reshape(-1, 1, 1)
    shown = batch._replace(mask=batch.observed & torch.tensor([True, False, False]))
    truth = [torch.logsumexp(model.log_joint(part, z), 0) for part in (batch, shown)]
    found = conditional_log_likelihood(model, batch, torch.tensor([False, True, True]), importance_samples=20_000)
    want = (truth[0] - truth[1]).detach()
    assert torch.allclose(found.value, want, atol=0.02)
    assert ((found.value - want).abs() < 5 * found.standard_error + 1e-6).all()
    assert found.entries.tolist() == [2, 1, 2, 2, 2]


def test_probabilities_of_all_that_may_be_hidden_sum_to_one():
    model, batch = hmm.tiny(0)
    pair = batch.select(slice(0, 1))
    hidden = torch.tensor([[False, True, False, True]])
    total = 0.0
    for symbols in itertools.product(range(3), repeat=2):
        x = pair.x.clone()
        x[0, 1], x[0, 3] = symbols
        full = Batch(x, torch.ones_like(x, dtype=torch.bool))
        total += float(conditional_log_likelihood(model, full, hidden).value.exp())
    assert total == pytest.approx(1.0, abs=1e-9)


def test_refined_proposals_make_it_surer():
    """The encoder has not learned what to make of half a datum, and its draws then miss where the mass is."""
    model, batch = vae.tiny(2)
    hidden = torch.tensor([False, True, True])
    errors = [conditional_log_likelihood(model, batch, hidden, steps=steps).standard_error.mean() for steps in (0, 100)]
    assert errors[1] < 0.7 * errors[0]


def test_in_the_units_of_the_data():
    """Of values scaled by 1 / 10 the density is ten times lower for each that is hidden."""
    model, _, _ = gaussian("mixture")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    schema = Schema("table", "real", (4,), shift=(0.0,) * 4, scale=(10.0,) * 4)
    plain = conditional_log_likelihood(model, Batch(x), HIDDEN).value
    scaled = conditional_log_likelihood(model, replace(as_dataset(Batch(x)), schema=schema), HIDDEN).value
    assert torch.allclose(plain - scaled, torch.full_like(plain, 2 * torch.tensor(10.0).log().item()))


def test_masks_that_do_not_fit_are_refused():
    model, batch = vae.tiny(0)
    with pytest.raises(DataError, match="hides nothing"):
        conditional_log_likelihood(model, batch, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(DataError, match="shape"):
        conditional_log_likelihood(model, batch, torch.ones(4, dtype=torch.bool))
