"""From an encoder's numbers to q(z | x), and p(z)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, kl_divergence

from latentia.distributions.divergence import kl_terms
from latentia.distributions.heads import POSTERIORS, PRIORS, PosteriorHead, PriorHead
from latentia.errors import OptionError


@pytest.mark.parametrize("kind", POSTERIORS)
@pytest.mark.parametrize("latent", [1, 3])
def test_every_head_gives_a_distribution(kind, latent):
    head = PosteriorHead(kind, latent).double()
    head.start(torch.Generator().manual_seed(0))
    q = head(torch.randn(5, head.inputs, dtype=torch.float64))
    assert q.batch_shape == (5,)
    assert q.event_shape == (latent,)
    z = q.rsample((7,))
    assert z.shape == (7, 5, latent)
    assert z.dtype == torch.float64
    assert q.log_prob(z).shape == (7, 5)
    assert q.mean.shape == q.stddev.shape == (5, latent)


@pytest.mark.parametrize("kind", PRIORS)
def test_every_prior_has_the_batch_that_is_asked_for(kind):
    head = PriorHead(kind, 3).double()
    p = head(5, torch.empty(0, dtype=torch.float64))
    z = p.sample((7,))
    assert z.shape == (7, 5, 3)
    assert p.log_prob(z).shape == (7, 5)
    assert z.dtype == torch.float64


@settings(max_examples=50, deadline=None)
@given(latent=st.integers(1, 6), batch=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_the_kl_of_a_full_covariance_is_torchs(latent, batch, seed):
    torch.manual_seed(seed)
    head = PosteriorHead("full", latent)
    q = head(torch.randn(batch, head.inputs, dtype=torch.float64))
    assert isinstance(q, MultivariateNormal)
    mean, scale = torch.randn(batch, latent, dtype=torch.float64), torch.rand(batch, latent, dtype=torch.float64) + 0.1
    p = Independent(Normal(mean, scale), 1)
    same = MultivariateNormal(mean, scale_tril=torch.diag_embed(scale))
    terms = kl_terms(q, p)
    assert terms is not None
    assert terms.shape == (batch, 1)
    torch.testing.assert_close(terms.squeeze(-1), kl_divergence(q, same))


def test_a_kl_without_a_closed_form_is_none():
    head = PosteriorHead("full", 2)
    q = head(torch.randn(3, head.inputs))
    assert kl_terms(q, Independent(Laplace(torch.zeros(3, 2), torch.ones(3, 2)), 1)) is None
    assert kl_terms(q, PriorHead("maf", 2)(3, torch.empty(0))) is None
    flow = PosteriorHead("iaf", 2)
    assert kl_terms(flow(torch.randn(3, flow.inputs)), PriorHead("normal", 2)(3, torch.empty(0))) is None


def test_a_diagonal_factor_is_the_diagonal_posterior():
    full, diagonal = PosteriorHead("full", 3), PosteriorHead("diagonal", 3)
    features = torch.randn(4, 9)
    features[:, 6:] = 0
    z = torch.randn(2, 4, 3)
    torch.testing.assert_close(full(features).log_prob(z), diagonal(features[:, :6]).log_prob(z))


def test_options_name_their_choices():
    with pytest.raises(OptionError, match="diagonal, full, planar, iaf, maf, spline"):
        PosteriorHead("radial", 2)
    with pytest.raises(OptionError, match="normal, maf, spline"):
        PriorHead("iaf", 2)
    with pytest.raises(OptionError, match=r"takes 68 numbers.*gives 4"):
        PosteriorHead("iaf", 2)(torch.zeros(1, 4))
