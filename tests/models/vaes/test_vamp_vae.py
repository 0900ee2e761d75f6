"""The VampPrior: a mixture of the model's own posteriors, which approximates the aggregate posterior."""

from __future__ import annotations

import math

import pytest
import torch

from latentia.data import load
from latentia.errors import OptionError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.model import Batch, Frame
from latentia.models import VAE, VampVAE
from latentia.models.vaes import vamp_vae
from latentia.objectives import elbo


def test_the_prior_is_the_mean_of_posteriors_at_the_pseudo_inputs():
    model, batch = vamp_vae.tiny(0)
    z = torch.randn(6, batch.size, 1).double()
    each = []
    for u in model.pseudo_inputs:
        mean, log_scale = model.encoder(u).chunk(2, -1)
        each.append(torch.distributions.Normal(mean, log_scale.exp()).log_prob(z).sum(-1))
    truth = torch.stack(each).logsumexp(0) - math.log(3)
    torch.testing.assert_close(model.prior(batch.frame).log_prob(z), truth)


def test_all_data_as_pseudo_inputs_are_the_aggregate_posterior():
    """Then E_x KL(q(z | x) || p(z)) is the mutual information, which cannot exceed log N."""
    torch.manual_seed(0)
    x = torch.randint(2, (8, 6)).double()
    model = VampVAE((6,), pseudo_inputs=8, latent=2, hidden=(5,)).double()
    for parameter in model.encoder.parameters():
        parameter.data = 2 * torch.randn_like(parameter)
    model.pseudo_inputs.data.copy_(x)
    kl = elbo(model, Batch(x), samples=2000).kl
    assert kl is not None
    assert 0 < float(kl.detach().mean()) <= math.log(8) + 1e-3
    plain = VAE((6,), latent=2, hidden=(5,)).double()
    plain.encoder.load_state_dict(model.encoder.state_dict())
    other = elbo(plain, Batch(x)).kl
    assert other is not None
    assert bool(kl.mean() < other.mean())


@pytest.mark.parametrize("posterior", ["diagonal", "full", "maf"])
def test_gradients_reach_the_pseudo_inputs(posterior):
    model = VampVAE((8, 8), pseudo_inputs=5, latent=2, hidden=(8,), posterior=posterior)
    batch = Batch(torch.randint(2, (4, 8, 8)).float())
    model.start(batch, torch.Generator().manual_seed(0))
    elbo(model, batch).value.sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())


def test_pseudo_inputs_begin_at_data_that_count():
    model = VampVAE((3,), pseudo_inputs=6, latent=1, hidden=(4,))
    x = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 1, 0], [9, 9, 9]])
    batch = Batch(x, weight=torch.tensor([1.0, 1, 1, 0]))
    model.start(batch, torch.Generator().manual_seed(0))
    distance = torch.cdist(model.pseudo_inputs.data, x)
    assert float(distance.amin(1).max()) < 0.1
    assert 3 not in distance.argmin(1)
    # six of three data: none twice the same
    assert float(torch.pdist(model.pseudo_inputs.data).min()) > 0


@pytest.mark.parametrize("options", [{}, {"likelihood": "categorical", "symbols": 17}, {"likelihood": "gaussian"}])
def test_it_learns_digits(options):
    data = load("digits", values="levels" if options.get("symbols") else "auto")
    data = (load("digits", binarize="dynamic") if not options else data).subset(slice(0, 300))
    model = VampVAE((8, 8), pseudo_inputs=20, latent=3, hidden=(32,), **options)
    history = Gradient(epochs=6, batch_size=50, lr=3e-3).fit(model, data)
    assert history.records[-1]["bound"] > history.records[0]["bound"]
    found = evaluate(model, data, importance_samples=20)
    assert found.elbo <= found.log_marginal
    assert model.generate(Frame(4))[0].x.shape == (4, 8, 8)


def test_options_without_sense():
    with pytest.raises(OptionError, match="pseudo_inputs"):
        VampVAE((2,), pseudo_inputs=0)
