"""The clustering VAE: its prior, its bound beside VaDE's, its clusters and its start."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from latentia.data import load
from latentia.errors import OptionError
from latentia.learners import Gradient
from latentia.model import Batch, Frame
from latentia.models import ClusteringVAE
from latentia.models.vaes.clustering_vae import tiny
from latentia.objectives import elbo, iwae
from latentia.tasks.agreement import one_to_one
from latentia.testing import agrees, brute_force_log_marginal, nodes


@pytest.fixture
def prototypes() -> tuple[torch.Tensor, torch.Tensor]:
    """Three binary pictures of 24 pixels, each seen 100 times with a twentieth of its pixels turned."""
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(3).repeat(100)
    pictures = torch.randint(2, (3, 24), generator=generator)[which]
    turned = torch.rand(pictures.shape, generator=generator) < 0.05
    return (pictures ^ turned.long()).float(), which


def joint_parts(model: ClusteringVAE, z: torch.Tensor) -> torch.Tensor:
    """log p(c) + log p(z | c) for each c, one by one, (..., K)."""
    terms = [
        model.weights[c].log()
        + torch.distributions.Normal(model.means[c], model.log_scales[c].exp()).log_prob(z).sum(-1)
        for c in range(len(model.logits))
    ]
    return torch.stack(terms, -1)


def test_the_prior_sums_over_the_clusters():
    model = ClusteringVAE((3,), components=4, latent=2, hidden=(4,), covariance="diagonal").double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    z = torch.randn(5, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    log_p = model.prior(Frame(6)).log_prob(z)
    assert torch.allclose(log_p, joint_parts(model, z).logsumexp(-1), atol=1e-12)
    assert torch.allclose(model.responsibilities(z), joint_parts(model, z).softmax(-1), atol=1e-12)


def test_a_full_covariance_has_torchs_density():
    model = ClusteringVAE((3,), components=3, latent=3, hidden=(4,)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(1))
    z = torch.randn(5, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parts = model.prior(Frame(6)).parts
    each = [MultivariateNormal(parts.loc[c], parts.covariance_matrix[c]).log_prob(z) for c in range(3)]  # type: ignore[attr-defined]
    expected = torch.stack([model.weights[c].log() + each[c] for c in range(3)]).logsumexp(0)
    assert torch.allclose(model.prior(Frame(6)).log_prob(z), expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_lies_between_vades_and_log_p(seed):
    model, batch = tiny(seed)
    with torch.no_grad():
        q = model.posterior(batch)
        z, log_weight = nodes(q)

        def expect(f):
            return (log_weight.exp() * f).sum(0)

        ours = expect(model.log_joint(batch, z) - q.log_prob(z))
        # VaDE's, with log pi once: E_q(z|x) sum_c q(c|x) [log p(c) + log p(z|c) - log q(c|x)] for log p(z)
        shares = torch.einsum("sb,sbk->bk", log_weight.exp(), model.responsibilities(z))
        inner = (shares * (joint_parts(model, z) - shares.log())).sum(-1)
        vades = expect(model.log_likelihood(batch, z) + inner - q.log_prob(z))
        given = model.responsibilities(z)
        exact = expect(
            model.log_likelihood(batch, z)
            + (given * joint_parts(model, z) + torch.special.entr(given)).sum(-1)
            - q.log_prob(z)
        )
    assert (vades < ours).all()
    assert torch.allclose(exact, ours, atol=1e-10)  # equal where q(c) is p(c | z)
    assert (ours < brute_force_log_marginal(model, batch)).all()


def test_sampled_bounds_agree_with_quadrature():
    model, batch = tiny(0)
    torch.manual_seed(0)
    with torch.no_grad():
        q = model.posterior(batch)
        z, log_weight = nodes(q)
        expected = (log_weight.exp() * (model.log_joint(batch, z) - q.log_prob(z))).sum(0)
        assert agrees(torch.stack([elbo(model, batch, samples=1000).value for _ in range(40)]), expected)
        model.encoder[-1].bias[1] += 1.0  # type: ignore[index, union-attr]  # wide enough for all that p(z | x) holds
        found = torch.stack([iwae(model, batch, samples=1000).value for _ in range(40)])
        # the bias of the logarithm of a mean of a thousand
        assert agrees(found, brute_force_log_marginal(model, batch), slack=0.01)


def test_clusters_are_the_expectation_of_p_of_c_given_z():
    model, batch = tiny(3)
    with torch.no_grad():
        z, log_weight = nodes(model.posterior(batch))
        expected = torch.einsum("sb,sbk->bk", log_weight.exp(), model.responsibilities(z))
        torch.manual_seed(0)
        found = model.clusters(batch, samples=40_000)
    assert found.shape == (5, 2)
    assert torch.allclose(found, expected, atol=0.01)
    assert torch.allclose(found.sum(-1), torch.ones(5).double())


def fitted(x: torch.Tensor, seed: int) -> tuple[ClusteringVAE, list[float]]:
    model = ClusteringVAE((24,), components=3, latent=2, hidden=(16,), pretrain=60)
    history = Gradient(epochs=20, batch_size=50, lr=3e-3, progress=False).fit(model, load(x), seed=seed)
    return model, [record["bound"] for record in history.records]


def test_a_fit_climbs_the_bound(prototypes):
    _, bounds = fitted(prototypes[0], 1)
    assert bounds[-1] > bounds[0]


@pytest.mark.slow
def test_the_best_of_a_few_fits_finds_the_pictures(prototypes):
    """One fit in three or so puts two pictures into one cluster, and its bound is then lower."""
    x, which = prototypes
    model, _ = max((fitted(x, seed) for seed in range(1, 6)), key=lambda one: one[1][-1])
    found = model.clusters(Batch(x)).argmax(-1)
    assert one_to_one(found, which) > 0.95  # each picture has its own cluster
    assert torch.allclose(model.weights, torch.full((3,), 1 / 3), atol=0.08)


def test_an_absent_datum_does_not_shape_the_start(prototypes):
    x, _ = prototypes
    weight = torch.ones(301)
    weight[-1] = 0
    far = Batch(torch.cat([x, 1 - x[:1]]), weight=weight)
    model = ClusteringVAE((24,), components=3, latent=2, hidden=(16,), pretrain=5)
    model.start(far, torch.Generator().manual_seed(0))
    assert model.weights.detach().min() > 0.05


@pytest.mark.parametrize(("options", "named"), [({"components": 0}, "components"), ({"pretrain": -1}, "pretrain")])
def test_options_without_sense(options, named):
    with pytest.raises(OptionError, match=named):
        ClusteringVAE((2,), **options)
