"""The mixture that all data share, against torch's own."""

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentia.distributions.mixture import Mixture


def pair():
    torch.manual_seed(0)
    parts = Independent(Normal(3 * torch.randn(4, 2).double(), torch.rand(4, 2).double() + 0.2), 1)
    log_weights = torch.randn(4).double().log_softmax(-1)
    return Mixture(parts, log_weights, 5), MixtureSameFamily(Categorical(logits=log_weights), parts)


def test_its_density_is_torchs():
    ours, torchs = pair()
    z = torch.randn(7, 5, 2).double()
    torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))
    torch.testing.assert_close(ours.log_prob(z[:, :1]), torchs.log_prob(z[:, :1]).expand(7, 5))
    torch.testing.assert_close(ours.mean, torchs.mean.expand(5, 2))


def test_its_draws_are_independent_and_have_its_moments():
    ours, torchs = pair()
    z = ours.sample((20_000,))
    assert z.shape == (20_000, 5, 2)
    flat = z.flatten(0, 1)
    error = (torchs.variance / len(flat)).sqrt()
    assert float(((flat.mean(0) - torchs.mean) / error).abs().max()) < 5
    torch.testing.assert_close(flat.var(0), torchs.variance, rtol=0.03, atol=0)
    # neighbours among the draws and among the data have nothing to do with one another
    for a, b in ((z[:-1, 0, 0], z[1:, 0, 0]), (z[:, 0, 0], z[:, 1, 0])):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / len(z) ** 0.5
    assert len(flat.unique(dim=0)) == len(flat)


def test_parts_may_be_of_another_family_and_unlikely():
    parts = MultivariateNormal(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
    mixture = Mixture(parts, torch.tensor([0.0, -torch.inf]), 4)
    z = mixture.sample((6,))
    assert z.shape == (6, 4, 3)
    torch.testing.assert_close(mixture.log_prob(z), parts.log_prob(z.unsqueeze(-2))[..., 0])
    assert mixture.sample().shape == (4, 3)
    assert mixture.support.check(z).all()
