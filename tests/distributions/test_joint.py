"""Several latents: a `Joint` is the product of its parts."""

import pytest
import torch
from torch.distributions import Independent, Normal, OneHotCategorical, kl_divergence

from latentia.distributions import Joint, OneHot
from latentia.distributions.joint import at, draw


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
    """The ladder, and a list that grows by one whenever v's distribution is computed."""
    calls = []

    def below(z):
        calls.append(z)
        return normal(2 * z["u"], 0.5)

    return Joint({"u": normal(torch.zeros(3, 2).double()), "v": below}), calls


@pytest.mark.parametrize("gradient", [True, False])
def test_a_draw_and_its_density_ask_once_for_a_distribution(gradient):
    joint, calls = counted()
    drawn = draw(joint, 2, gradient)
    assert len(calls) == 1
    torch.testing.assert_close(drawn.log_q, ladder().log_prob(drawn.z))
    assert {name: part.shape for name, part in drawn.z.items()} == {"u": (2, 3, 2), "v": (2, 3, 2)}
    assert len(calls) == 1


def test_a_draw_has_a_density_with_a_gradient_whether_or_not_it_has_one_itself():
    scale = torch.tensor(2.0).double().requires_grad_()
    joint = Joint({"u": normal(torch.zeros(3, 2).double()), "v": lambda z: normal(scale * z["u"], 0.5)})
    drawn = draw(joint, 2, gradient=False)
    assert not drawn.z["v"].requires_grad
    assert torch.autograd.grad(drawn.log_q.sum(), scale)[0] != 0


def test_a_draw_of_one_latent():
    q = normal(torch.zeros(3, 2).requires_grad_())
    drawn = draw(q, 4)
    torch.testing.assert_close(drawn.log_q, q.log_prob(drawn.z))
    assert drawn.z.requires_grad
    assert not draw(q, 4, gradient=False).z.requires_grad


def test_a_value_that_was_not_drawn():
    z = ladder().sample((5,))
    torch.testing.assert_close(at(ladder(1.0), z).log_q, ladder(1.0).log_prob(z))


def choices(seed=0):
    """Two classes, of which the second depends on the first and on a real number between them; and one more after."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    b = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    one_hot = OneHotCategorical
    return {
        "a": one_hot(logits=a, validate_args=False),
        "u": lambda z: normal(z["a"] @ b[:, :1]),
        "b": lambda z: one_hot(logits=z["a"] @ b + z["u"], validate_args=False),
        "v": lambda z: normal(z["b"][..., :1] + z["u"]),
    }


@pytest.mark.parametrize("summed", [["a"], ["b"], ["a", "b"]])
def test_any_finite_latent_is_summed_out(summed):
    torch.manual_seed(0)
    cost_a, cost_b = torch.randn(2).double(), torch.randn(4).double()
    joint = Joint(choices(), summed)

    def f(z):
        return z["a"] @ cost_a + (z["b"] @ cost_b) * z["v"].squeeze(-1) + z["u"].squeeze(-1) ** 2

    drawn = joint.branches(40_000)
    torch.testing.assert_close(drawn.log_weight.logsumexp(0), torch.zeros(3).double())
    plain = f(Joint(choices()).sample((400_000,)))
    error = plain.std(0) / 400_000**0.5 + f(drawn.z).std(0) / 40_000**0.5
    # three comparisons: beyond 5 standard errors once in 600,000 runs
    assert bool(((drawn.mean(f(drawn.z)) - plain.mean(0)).abs() < 5 * error).all())
    for name in summed:
        expected = plain.new_zeros(3, joint.parts["a"].event_shape[0] if name == "a" else 4)
        assert drawn.mean(drawn.z[name]).shape == expected.shape


def test_the_means_of_summed_latents_are_sums():
    means, parts = Joint(choices(), ["a"]).mean, choices()
    values = torch.eye(2).double().unsqueeze(1).expand(2, 3, 2)
    each = parts["u"]({"a": values}).mean
    weight = parts["a"].log_prob(values).exp().unsqueeze(-1)
    torch.testing.assert_close(means["u"], (weight * each).sum(0))
    torch.testing.assert_close(means["a"], parts["a"].probs)


def test_only_finite_latents_can_be_summed_out():
    with pytest.raises(ValueError, match="no support to enumerate"):
        Joint({"u": normal(torch.zeros(3, 2))}, ["u"])
    with pytest.raises(ValueError, match="the latents are u"):
        Joint({"u": normal(torch.zeros(3, 2))}, ["w"])


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
