"""The two gaps, on a linear-Gaussian model whose log p(x), best q and KL are known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentia.errors import CapabilityError
from latentia.model import Batch, DirectedModel
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import semi_supervised_vae
from latentia.tasks import gaps

DOUBLE = torch.float64


class Linear(DirectedModel):
    """z ~ N(0, I), x | z ~ N(W z, s^2 I), with q(z | x) of one width for all data."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.4], [0.2, -1.0], [0.7, 0.7]], dtype=DOUBLE))
        self.noise = 0.8

    def prior(self, frame):
        return Independent(Normal(torch.zeros(frame.size, 2, dtype=DOUBLE), 1.0), 1)

    def likelihood(self, z, frame):
        return Normal(z @ self.weight.T, self.noise)

    def posterior(self, batch):
        return Independent(Normal(0.3 * batch.x[:, :2], 0.7), 1)


def test_both_gaps_are_divergences_in_closed_form():
    """log p(x) - ELBO(q) = KL(q || p(z | x)); the best diagonal q has the inverse of the precision's diagonal."""
    model = Linear()
    x = 1.5 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    with torch.no_grad():
        precision = torch.eye(2, dtype=DOUBLE) + model.weight.T @ model.weight / model.noise**2
        mean = torch.linalg.solve(precision, model.weight.T @ x.T / model.noise**2).T
        truth = MultivariateNormal(mean, precision_matrix=precision)
        marginal = MultivariateNormal(
            torch.zeros(3, dtype=DOUBLE), model.weight @ model.weight.T + model.noise**2 * torch.eye(3, dtype=DOUBLE)
        )
        first = model.posterior(Batch(x))
        best = MultivariateNormal(mean, torch.diag(1 / precision.diagonal()))
        first = MultivariateNormal(first.mean, torch.diag_embed(first.variance))
        approximation, whole = kl_divergence(best, truth), kl_divergence(first, truth)
        z = first.sample((20_000,))
        noise = (truth.log_prob(z) - first.log_prob(z)).std(0) / math.sqrt(len(z))
    found = gaps(model, Batch(x), steps=400, importance_samples=20_000)
    assert torch.allclose(found.log_marginal, marginal.log_prob(x).detach(), atol=0.02)
    assert torch.allclose(found.approximation, approximation, atol=0.03)
    assert bool(((found.amortization - whole + approximation).abs() < 5 * noise + 0.01).all())
    assert float((whole - approximation).min()) > 0.05


def test_an_exact_posterior_has_no_gap():
    model, batch = gaussian_mixture.tiny(0)
    found = gaps(model, batch, importance_samples=3)
    assert torch.allclose(found.approximation, torch.zeros(7, dtype=DOUBLE), atol=1e-9)
    assert torch.allclose(found.amortization, torch.zeros(7, dtype=DOUBLE), atol=1e-9)


def test_a_posterior_that_cannot_be_refined_is_named():
    with pytest.raises(CapabilityError, match="cannot be reparameterised"):
        gaps(*semi_supervised_vae.tiny(0))
