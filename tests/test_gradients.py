"""The estimators of E_q f(z) and of its gradient, against closed forms."""

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from latentia import gradients
from latentia.distributions import Chain, Joint, OneHot
from latentia.errors import CapabilityError


def test_pathwise_estimates_the_mean_and_its_gradient():
    """E z^2 = mean^2 + scale^2 under a normal: gradients 2 mean and 2 scale."""
    torch.manual_seed(0)
    mean, scale = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.7, 1.3))
    value = gradients.pathwise(Normal(mean, scale), lambda z: z**2, 200_000)
    assert value.shape == (1,)
    torch.testing.assert_close(value, mean**2 + scale**2, rtol=0.02, atol=0)
    slopes = torch.autograd.grad(value.sum(), (mean, scale))
    torch.testing.assert_close(slopes, (2 * mean.detach(), 2 * scale.detach()), rtol=0.02, atol=0)


def test_enumerate_is_exact_with_its_gradient():
    node = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    cost = torch.randn(4, 3, dtype=torch.float64)

    def expected(node):
        return gradients.enumerate(OneHot({"node": node}), lambda z: (z * cost).sum(-1))

    torch.testing.assert_close(expected(node), (node.softmax(-1) * cost).sum(-1))
    assert torch.autograd.gradcheck(expected, (node,))


def test_enumerate_takes_torchs_own_distributions():
    q = Categorical(logits=torch.randn(5, 3))
    torch.testing.assert_close(gradients.enumerate(q, lambda z: z.float()), q.probs @ torch.arange(3.0))


def test_what_q_rules_out_adds_nothing():
    node = torch.tensor([[0.0, 0.0, -torch.inf]], dtype=torch.float64)
    cost = torch.tensor([[1.0, 3.0, -torch.inf]], dtype=torch.float64)
    value = gradients.enumerate(OneHot({"node": node}), lambda z: torch.where(z > 0, cost, 0.0).sum(-1))
    torch.testing.assert_close(value, torch.tensor([2.0], dtype=torch.float64))


def test_estimators_say_what_they_lack():
    with pytest.raises(CapabilityError, match=r"gradients\.enumerate"):
        gradients.pathwise(OneHot({"node": torch.zeros(1, 2)}), lambda z: z.sum(-1), 1)
    with pytest.raises(CapabilityError, match="pathwise"):
        gradients.enumerate(Normal(torch.zeros(1), torch.ones(1)), lambda z: z)
    chain = Chain({"initial": torch.zeros(2), "transition": torch.zeros(1, 2, 2), "node": torch.zeros(1, 3, 2)})
    with pytest.raises(CapabilityError):
        gradients.enumerate(chain, lambda z: z.sum((-1, -2)))


def dependent(weight, shift):
    """u ~ N(shift, 1), v | u ~ N(weight u, 1): the second by a function that captures its parameter."""
    return Joint({"u": Independent(Normal(shift, 1.0), 1), "v": lambda z: Independent(Normal(weight * z["u"], 1.0), 1)})


def test_fixed_parameters_of_functions_leave_every_way_through_z_open():
    weight, shift = (torch.tensor([[value]], dtype=torch.float64, requires_grad=True) for value in (0.7, 0.2))
    q = dependent(weight, shift)
    z = {name: part.detach().requires_grad_() for name, part in q.sample((3,)).items()}
    log_prob = gradients.fixed(q).log_prob(z)
    torch.testing.assert_close(log_prob, q.log_prob(z))
    scale = torch.tensor([[1.0], [2.0], [-3.0]], dtype=torch.float64)
    found = torch.autograd.grad((scale * log_prob).sum(), [*z.values(), weight, shift], allow_unused=True)
    residual = z["v"] - 0.7 * z["u"]
    # d log q / du goes by way of v's mean too; the parameters get nothing
    torch.testing.assert_close(found[0], scale.unsqueeze(-1) * (0.7 * residual - (z["u"] - 0.2)))
    torch.testing.assert_close(found[1], -scale.unsqueeze(-1) * residual)
    assert found[2:] == (None, None)
    with torch.no_grad():
        torch.testing.assert_close(gradients.fixed(q).log_prob(z), q.log_prob(z))


def test_estimators_take_functions_of_several_columns():
    q = OneHot({"node": torch.randn(4, 3, dtype=torch.float64)})
    both = gradients.enumerate(q, lambda z: torch.stack([z[..., 0], 2 * z[..., 1]], -1))
    torch.testing.assert_close(both, torch.stack([q.marginals[:, 0], 2 * q.marginals[:, 1]], -1))
