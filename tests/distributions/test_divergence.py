"""KL divergences latent by latent: closed forms where they are right, draws elsewhere."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from latentia.distributions import Joint, OneHot
from latentia.distributions.divergence import kl_by_latent, kl_given, kl_terms, sampled_kl


def normal(mean, scale=1.0):
    return Independent(Normal(mean, torch.full_like(mean, scale), validate_args=False), 1, validate_args=False)


def down(shift, slope, scale, size=3):
    """u ~ N(shift, 1), v | u ~ N(slope u, scale^2), in one dimension, for a batch."""
    root = torch.full((size, 1), shift, dtype=torch.float64)
    return Joint({"u": normal(root), "v": lambda z: normal(slope * z["u"], scale)})


def up(shift, slope, scale, size=3):
    """v ~ N(shift, 1), u | v ~ N(slope v, scale^2): the same latents in the other order."""
    root = torch.full((size, 1), shift, dtype=torch.float64)
    return Joint({"v": normal(root), "u": lambda z: normal(slope * z["v"], scale)})


def covariance(root, slope, scale):
    """Mean and covariance of (root, child) where child = slope root + scale noise."""
    return torch.tensor([root, slope * root]), torch.tensor([[1.0, slope], [slope, slope**2 + scale**2]])


def gaussian_kl(q, p):
    (m, s), (n, t) = q, p
    inverse = torch.linalg.inv(t)
    return 0.5 * (torch.trace(inverse @ s) + (n - m) @ inverse @ (n - m) - 2 + torch.logdet(t) - torch.logdet(s))


def test_the_same_order_has_closed_forms_given_the_ancestors():
    q, p = down(0.7, 1.5, 0.4), down(0.0, 0.5, 1.3)
    torch.manual_seed(0)
    z = q.sample((4,))
    parts = kl_given(q, p, z)
    torch.testing.assert_close(parts["u"], kl_divergence(q.parts["u"], p.parts["u"]).expand(4, 3).unsqueeze(-1))
    one, other = q.conditional("v", z), p.conditional("v", z)
    torch.testing.assert_close(parts["v"].squeeze(-1), kl_divergence(one, other))
    truth = gaussian_kl(covariance(0.7, 1.5, 0.4), covariance(0.0, 0.5, 1.3)).double()
    torch.testing.assert_close(sampled_kl(q, p, q.sample((200_000,))), truth.expand(3), rtol=5e-3, atol=0)


def test_in_the_other_order_only_the_uppermost_latent_has_a_closed_form():
    q, p = up(0.7, 0.6, 0.4), down(0.0, 0.5, 1.3)
    torch.manual_seed(0)
    z = q.sample((200_000,))
    parts = kl_given(q, p, z)
    # p(u) has no ancestors, so KL(q(u | v) || p(u)) is right for each v; v's own is not, as p(v | u) needs u
    torch.testing.assert_close(
        parts["u"].squeeze(-1), kl_divergence(q.conditional("u", z), p.parts["u"]).expand(200_000, 3)
    )
    torch.testing.assert_close(
        parts["v"].squeeze(-1), q.parts["v"].log_prob(z["v"]) - p.conditional("v", z).log_prob(z["v"])
    )
    mean, cov = covariance(0.7, 0.6, 0.4)
    swapped = mean.flip(0), cov.flip(0, 1)
    truth = gaussian_kl(swapped, covariance(0.0, 0.5, 1.3)).double()
    torch.testing.assert_close(sampled_kl(q, p, z), truth.expand(3), rtol=1e-2, atol=0)


def test_terms_have_a_column_a_dimension_where_they_factorise():
    zero = torch.zeros(3, 4, dtype=torch.float64)
    q = Joint({"u": normal(zero + 1), "v": lambda z: normal(0.5 * z["u"], 0.3)})
    p = Joint({"u": normal(zero), "v": lambda z: normal(z["u"])})
    z = q.sample((5,))
    parts = kl_given(q, p, z)
    assert {name: part.shape for name, part in parts.items()} == {"u": (5, 3, 4), "v": (5, 3, 4)}
    torch.testing.assert_close(parts["u"], torch.full((5, 3, 4), 0.5, dtype=torch.float64))


def test_maps_are_flattened():
    def maps(mean):
        return Independent(Normal(mean, torch.ones_like(mean)), 3)

    zero = torch.zeros(3, 2, 4, 5)
    q = Joint({"u": maps(zero), "v": lambda z: maps(z["u"] + 1)})
    p = Joint({"u": maps(zero), "v": lambda z: maps(z["u"])})
    assert {part.shape for part in kl_given(q, p, q.sample((6,))).values()} == {(6, 3, 40)}
    torch.testing.assert_close(sampled_kl(q, p, q.sample((6,))), torch.full((3,), 20.0))


def test_independent_latents_have_their_closed_forms_by_name():
    zero, one = torch.zeros(3, 2), torch.ones(3, 2)
    q = Joint({"u": normal(one), "k": OneHot({"node": torch.tensor([[1.0, 0.0]]).expand(3, 2)})})
    p = Joint({"u": normal(zero), "k": OneHot({"node": zero})})
    parts = kl_by_latent(q, p)
    assert parts is not None
    assert {name: part.shape for name, part in parts.items()} == {"u": (3, 2), "k": (3, 1)}
    terms = kl_terms(q, p)
    assert terms is not None
    torch.testing.assert_close(terms.sum(-1), kl_divergence(q, p))


def test_dependent_latents_have_none():
    assert kl_terms(down(0.0, 1.0, 1.0), down(0.0, 1.0, 1.0)) is None


def test_one_latent_is_sampled_as_a_whole():
    q, p = Normal(torch.zeros(3), torch.ones(3)), torch.distributions.StudentT(torch.full((3,), 5.0))
    z = q.sample((7,))
    parts = kl_given(q, p, z)
    torch.testing.assert_close(parts["z"], (q.log_prob(z) - p.log_prob(z)).unsqueeze(-1))


def test_other_latents_are_refused():
    with pytest.raises(ValueError, match=r"q has the latents u, v, and p has w"):
        kl_given(down(0.0, 1.0, 1.0), Joint({"w": normal(torch.zeros(3, 1).double())}), {})
