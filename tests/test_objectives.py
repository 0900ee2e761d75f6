"""The bounds: their order, their parts, their options, and what they refuse."""

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal
from torch.distributions import kl_divergence as torch_kl

from latentia import gradients, testing
from latentia.errors import CapabilityError, OptionError
from latentia.model import Batch, DirectedModel, LatentVariableModel
from latentia.models.chains import hmm
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import semi_supervised_vae, vae
from latentia.objectives import Bound, elbo, exact, iwae, kl_divergence


def seeded(function, *args, **options):
    torch.manual_seed(0)
    return function(*args, **options)


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_elbo_is_its_definition():
    model, batch = vae.tiny(0)
    bound = seeded(elbo, model, batch, samples=3)
    torch.manual_seed(0)
    q, p = model.posterior(batch), model.prior(batch.frame)
    close(bound.reconstruction, model.log_likelihood(batch, q.rsample((3,))).mean(0))
    close(bound.kl, torch_kl(q, p))
    close(bound.value, bound.reconstruction - bound.kl)
    assert bound.value.shape == (batch.size,)


def test_beta_weighs_the_kl_and_reports_it_whole():
    model, batch = vae.tiny(0)
    plain, weighed = seeded(elbo, model, batch), seeded(elbo, model, batch, beta=4.0)
    close(weighed.value, plain.reconstruction - 4 * plain.kl)
    close(weighed.kl, plain.kl)


def test_free_bits_floor_each_dimension():
    generator = torch.Generator().manual_seed(0)
    model = vae.VAE((3,), latent=2, hidden=(4,)).double()
    batch = Batch(torch.randint(2, (5, 3), generator=generator).double())
    terms = kl_divergence(model.posterior(batch), model.prior(batch.frame))
    assert terms.shape == (5, 2)
    floor = float(terms.detach().mean())
    bound = seeded(elbo, model, batch, free_bits=floor)
    close(bound.value, bound.reconstruction - terms.clamp(min=floor).sum(-1))
    close(bound.kl, terms.sum(-1))


def test_iwae_of_one_sample_is_a_sampled_elbo():
    model, batch = vae.tiny(0)
    bound = seeded(iwae, model, batch, samples=1)
    close(bound.value, bound.reconstruction - bound.kl)


def test_iwae_approaches_log_p():
    model, batch = vae.tiny(0)
    # q = p(z): its weights are bounded, while those of a random encoder have no variance
    for parameter in model.encoder[-1].parameters():
        parameter.data.zero_()
    with torch.no_grad():
        value = seeded(iwae, model, batch, samples=100_000).value
    close(value, testing.brute_force_log_marginal(model, batch), 2e-2)


def test_iwae_of_a_chain_is_exact_with_one_sample():
    model, batch = hmm.tiny(0)
    close(seeded(iwae, model, batch, samples=1).value, exact(model, batch).value)


def test_elbo_of_an_exact_posterior_is_log_p():
    model, batch = gaussian_mixture.tiny(0)
    close(elbo(model, batch, estimator=gradients.enumerate).value, exact(model, batch).value)
    close(exact(model, batch).value, testing.brute_force_log_marginal(model, batch))


def test_exact_needs_a_log_partition():
    with pytest.raises(CapabilityError, match="VAE has no exact"):
        exact(*vae.tiny(0))


class Bare(LatentVariableModel):
    """z ~ N(0, 1), x | z ~ N(z, 1), known by its joint alone, with its exact posterior."""

    def posterior(self, batch):
        return Independent(Normal(batch.x / 2, torch.full_like(batch.x, 0.5**0.5)), 1)

    def log_joint(self, batch, z):
        return (Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(batch.x)).sum(-1)


def test_a_model_without_prior_has_one_term():
    batch = Batch(torch.randn(4, 1, dtype=torch.float64))
    truth = Normal(0.0, torch.tensor(2.0, dtype=torch.float64).sqrt()).log_prob(batch.x).squeeze(-1)
    for bound in (elbo(Bare(), batch), iwae(Bare(), batch, samples=2)):
        close(bound.value, truth)
        assert bound.kl is None
        assert bound.reconstruction is None


@pytest.mark.parametrize("options", [{"beta": 2.0}, {"free_bits": 0.1}])
def test_a_model_without_prior_takes_no_options_on_the_kl(options):
    with pytest.raises(CapabilityError, match=r"Bare\.prior"):
        elbo(Bare(), Batch(torch.zeros(1, 1)), **options)


def test_kl_without_a_closed_form_is_sampled():
    torch.manual_seed(0)
    q, p = Normal(torch.zeros(1), torch.ones(1)), torch.distributions.StudentT(torch.full((1,), 5.0))
    assert kl_divergence(q, p, samples=50_000).shape == (1, 1)
    axis = torch.linspace(-12, 12, 20_001)
    truth = torch.trapezoid(q.log_prob(axis).exp() * (q.log_prob(axis) - p.log_prob(axis)), axis)
    close(kl_divergence(q, p, samples=50_000).squeeze(), truth, 1e-2)


def test_kl_with_a_closed_form_is_exact():
    q, p = Categorical(logits=torch.randn(3, 4)), Categorical(logits=torch.randn(3, 4))
    close(kl_divergence(q, p), torch_kl(q, p).unsqueeze(-1))


class Line(DirectedModel):
    """z ~ N(0, 1), x | z ~ N(z, 1), q(z | x) = N(slope x, scale): exact at slope 1/2 and scale sqrt(1/2)."""

    def __init__(self, slope=0.5, scale=0.5**0.5):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.log_scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64).log())
        self.bias = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def prior(self, frame):
        return Independent(Normal(torch.zeros(frame.size, 1, dtype=torch.float64), 1.0), 1)

    def likelihood(self, z, frame):
        return Normal(z + self.bias, 1.0)

    def posterior(self, batch):
        return Independent(Normal(self.slope * batch.x, self.log_scale.exp()), 1)


LINE = Batch(torch.tensor([[0.3], [-1.2], [2.0]], dtype=torch.float64))


def slopes(model, bound):
    parts = torch.autograd.grad(bound.value.mean(), list(model.parameters()))
    return torch.stack([part.reshape(()) for part in parts])


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_other_gradients_leave_the_value(gradient):
    model, batch = vae.tiny(0)
    plain, other = seeded(iwae, model, batch, samples=7), seeded(iwae, model, batch, samples=7, gradient=gradient)
    for name in Bound._fields:
        close(getattr(other, name), getattr(plain, name))


def test_sticking_the_landing_leaves_no_noise_at_the_exact_posterior():
    model = Line()
    noisy = torch.stack([slopes(model, elbo(model, LINE)) for _ in range(20)])
    still = torch.stack([slopes(model, elbo(model, LINE, stl=True)) for _ in range(20)])
    assert float(noisy[:, :2].std(0).min()) > 1e-2
    assert float(still[:, :2].abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("unbiased", "options"), [(elbo, {"stl": True}), (iwae, {"samples": 6, "gradient": "dreg"})], ids=["stl", "dreg"]
)
def test_the_mean_gradient_is_that_of_the_bound(unbiased, options):
    """Away from the optimum, averaged over many draws, for the parameters of the model and of q alike."""
    model, times = Line(0.8, 0.4), 40_000
    model.bias.data += 0.3
    many = LINE.select(torch.arange(3).repeat(times))
    plain = {name: option for name, option in options.items() if name == "samples"}
    torch.manual_seed(0)
    expected, found = slopes(model, unbiased(model, many, **plain)), slopes(model, unbiased(model, many, **options))
    assert float(expected.abs().min()) > 0.02
    torch.testing.assert_close(found, expected, rtol=0.05, atol=5e-3)


def test_dreg_has_less_noise_than_the_bounds_own_gradient():
    model = Line(0.7, 0.6)
    torch.manual_seed(0)
    noise = {
        gradient: torch.stack([slopes(model, iwae(model, LINE, samples=64, gradient=gradient)) for _ in range(200)])
        for gradient in ("pathwise", "dreg")
    }
    assert float(noise["dreg"][:, 0].std() / noise["pathwise"][:, 0].std()) < 0.5


def test_gradients_that_do_not_apply_are_refused():
    model, batch = gaussian_mixture.tiny(0)
    with pytest.raises(CapabilityError, match="cannot be reparameterised"):
        iwae(model, batch, gradient="dreg")
    with pytest.raises(OptionError, match="pathwise, stl, dreg"):
        iwae(model, batch, gradient="best")
    model, batch = semi_supervised_vae.tiny(0)
    with pytest.raises(CapabilityError, match="learn by elbo"):
        iwae(model, batch)
    model, batch = vae.tiny(0)
    with pytest.raises(OptionError, match="free_bits"):
        elbo(model, batch, stl=True, free_bits=0.1)
    with pytest.raises(OptionError, match="estimator"):
        elbo(model, batch, stl=True, estimator=gradients.enumerate)
