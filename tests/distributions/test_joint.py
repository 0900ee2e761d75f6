"""Several latents: a `Joint` is the product of its parts."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from latentia.distributions import Joint, OneHot
from latentia.distributions.joint import remembering


def normal(mean, scale=1.0):
    return Independent(Normal(mean, torch.full_like(mean, scale), validate_args=False), 1, validate_args=False)


def ladder(shift=0.0):
    """u ~ N(shift, I), v | u ~ N(2 u, 0.5^2 I), for a batch of three."""
    return Joint({"u": normal(torch.full((3, 2), shift).double()), "v": lambda z: normal(2 * z["u"], 0.5)})


def test_log_prob_is_the_sum_over_latents():
    torch.manual_seed(0)
    joint = ladder()
    z = joint.sample((5,))
    assert {name: part.shape for name, part in z.items()} == {"u": (5, 3, 2), "v": (5, 3, 2)}
    expected = normal(torch.zeros(3, 2).double()).log_prob(z["u"]) + normal(2 * z["u"], 0.5).log_prob(z["v"])
    torch.testing.assert_close(joint.log_prob(z), expected)
    assert joint.log_prob(z).shape == (5, 3)


def test_draws_follow_their_parents():
    torch.manual_seed(0)
    z = ladder(1.0).sample((50_000,))
    torch.testing.assert_close((z["v"] - 2 * z["u"]).std(), torch.tensor(0.5).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(z["v"].var(0), torch.full((3, 2), 4.25).double(), atol=0.2, rtol=0)


def test_density_integrates_to_one():
    joint = Joint({"u": normal(torch.zeros(1, 1).double()), "v": lambda z: normal(z["u"], 0.5)})
    axis = torch.linspace(-9, 9, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_prob = joint.log_prob({"u": grid[:, :1].unsqueeze(1), "v": grid[:, 1:].unsqueeze(1)})
    assert abs(float(log_prob.exp().sum() * (axis[1] - axis[0]) ** 2) - 1) < 1e-9


def test_rsample_has_gradients_and_sample_has_none():
    mean = torch.zeros(3, 2, requires_grad=True)
    joint = Joint({"u": normal(mean), "v": lambda z: normal(2 * z["u"])})
    assert joint.has_rsample
    (gradient,) = torch.autograd.grad(joint.rsample((4,))["v"].sum(), mean)
    torch.testing.assert_close(gradient, torch.full((3, 2), 8.0))
    assert not joint.sample((4,))["v"].requires_grad


def counted():
    """The ladder, remembering, and a list that grows by one whenever v's distribution is computed."""
    calls = []

    def below(z):
        calls.append(z)
        return normal(2 * z["u"], 0.5)

    return remembering(Joint({"u": normal(torch.zeros(3, 2).double()), "v": below})), calls


@pytest.mark.parametrize("draw", ["sample", "rsample"])
def test_a_draw_and_its_density_ask_once_for_a_distribution(draw):
    joint, calls = counted()
    with torch.set_grad_enabled(draw == "rsample"):
        z = getattr(joint, draw)((2,))
        density = joint.log_prob(z)
    assert len(calls) == 1
    torch.testing.assert_close(density, ladder().log_prob(z))


def test_another_value_is_given_its_own_distribution():
    joint, calls = counted()
    z = joint.rsample((2,))
    other = {"u": z["u"] + 1, "v": z["v"]}
    torch.testing.assert_close(joint.log_prob(other), ladder().log_prob(other))
    newer = joint.rsample((2,))
    assert len(calls) == 3
    torch.testing.assert_close(joint.log_prob(z), ladder().log_prob(z))
    torch.testing.assert_close(joint.log_prob(newer), ladder().log_prob(newer))


def test_what_was_drawn_without_a_gradient_has_one_where_it_is_asked_for():
    scale = torch.tensor(2.0).double().requires_grad_()
    joint = remembering(Joint({"u": normal(torch.zeros(3, 2).double()), "v": lambda z: normal(scale * z["u"], 0.5)}))
    z = joint.sample((2,))
    assert torch.autograd.grad(joint.log_prob(z).sum(), scale)[0] != 0


def test_what_is_no_joint_has_nothing_to_remember():
    q = normal(torch.zeros(3, 2))
    assert remembering(q) is q


def test_a_discrete_part_cannot_be_reparameterised():
    assert not Joint({"k": OneHot({"node": torch.zeros(3, 2)})}).has_rsample


def test_mean_is_given_the_ancestors_means():
    mean = ladder(1.5).mean
    torch.testing.assert_close(mean["u"], torch.full((3, 2), 1.5).double())
    torch.testing.assert_close(mean["v"], torch.full((3, 2), 3.0).double())


def test_kl_of_independent_latents_adds_up():
    zero, one = torch.zeros(3, 2), torch.ones(3, 2)
    q = Joint({"u": normal(one), "k": OneHot({"node": torch.tensor([[1.0, 0.0]]).expand(3, 2)})})
    p = Joint({"u": normal(zero), "k": OneHot({"node": zero})})
    expected = kl_divergence(q.parts["u"], p.parts["u"]) + kl_divergence(q.parts["k"], p.parts["k"])
    torch.testing.assert_close(kl_divergence(q, p), expected)
    assert bool((kl_divergence(q, q) == 0).all())


def test_kl_of_dependent_or_other_latents_is_refused():
    with pytest.raises(NotImplementedError, match="depend on each other"):
        kl_divergence(ladder(), ladder())
    with pytest.raises(NotImplementedError):
        kl_divergence(Joint({"u": normal(torch.zeros(1, 1))}), Joint({"v": normal(torch.zeros(1, 1))}))


def test_a_joint_needs_a_first_latent_without_parents():
    with pytest.raises(ValueError, match="at least one"):
        Joint({})
    with pytest.raises(ValueError, match="no parents"):
        Joint({"u": lambda z: normal(torch.zeros(1, 1))})
