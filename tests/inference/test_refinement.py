"""Per-datum inference, held against linear-Gaussian models whose best q is known in closed form."""

import pytest
import torch
from torch import nn
from torch.distributions import (
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)

from latentia.data import as_dataset
from latentia.distributions import Joint
from latentia.errors import CapabilityError, OptionError
from latentia.evaluate import evaluate
from latentia.inference import refinement
from latentia.inference.refinement import refinable, refine, refined, semi_amortized
from latentia.learners import Gradient
from latentia.model import Batch, DirectedModel, LatentVariableModel
from latentia.models import VAE
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import vae
from latentia.objectives import elbo
from latentia.testing import brute_force_log_marginal

DOUBLE = torch.float64


class Linear(DirectedModel):
    """z ~ N(0, I), x | z ~ N(W z, s^2 I), with a q that is wrong in a way we know."""

    def __init__(self, family="diagonal", noise=0.7, latent=2):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2 * latent, latent, generator=generator, dtype=DOUBLE))
        self.noise, self.family, self.latent = noise, family, latent

    def prior(self, frame):
        return Independent(Normal(torch.zeros(frame.size, self.latent, dtype=DOUBLE), 1.0), 1)

    def likelihood(self, z, frame):
        return Normal(z @ self.weight.T, self.noise)

    def posterior(self, batch):
        mean = batch.x[:, : self.latent] * 0.1
        if self.family == "full":
            return MultivariateNormal(
                mean, scale_tril=0.8 * torch.eye(self.latent, dtype=DOUBLE).expand(batch.size, -1, -1)
            )
        return Independent(Normal(mean, 0.8), 1)

    def exact(self, batch):
        precision = torch.eye(self.latent, dtype=DOUBLE) + self.weight.T @ self.weight / self.noise**2
        mean = torch.linalg.solve(precision, self.weight.T @ batch.x.T / self.noise**2).T
        return MultivariateNormal(mean, precision_matrix=precision)


class TwoLayers(DirectedModel):
    """top ~ N(0, 1), low | top ~ N(top, 1), x | low ~ N(low, 1); q(low | top, x) depends on top, rightly in form."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, dtype=DOUBLE))

    def prior(self, frame):
        zero = torch.zeros(frame.size, 1, dtype=DOUBLE)
        return Joint({"top": Independent(Normal(zero, 1.0), 1), "low": lambda z: Independent(Normal(z["top"], 1.0), 1)})

    def posterior(self, batch):
        top = Independent(Normal(0 * batch.x, 1.0), 1)
        return Joint({"top": top, "low": lambda z: Independent(Normal(z["top"] / 2, 1.0), 1)})

    def likelihood(self, z, frame):
        return Normal(z["low"] + self.shift, 1.0)


def data(count=6):
    return Batch(2 * torch.randn(count, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE))


def test_a_full_covariance_reaches_the_exact_posterior():
    model, batch = Linear("full"), data()
    torch.manual_seed(0)
    q, truth = refine(model, batch, steps=400, lr=0.1), model.exact(batch)
    assert torch.allclose(q.mean, truth.mean, atol=1e-4)
    assert torch.allclose(q.covariance_matrix, truth.covariance_matrix, atol=1e-4)
    assert float(kl_divergence(q, truth).detach().max()) < 1e-6


class Nearby(Linear):
    """q has the exact mean, and the best variances of a q without covariances."""

    def posterior(self, batch):
        exact = self.exact(batch)
        spread = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        return MultivariateNormal(exact.mean, scale_tril=torch.diag_embed(spread).expand(batch.size, -1, -1))


@pytest.mark.parametrize(("latent", "noise", "alike"), [(2, 0.2, 0.9), (40, 1.0, 0.0)])
def test_a_full_covariance_comes_near_in_the_usual_steps(latent, noise, alike):
    """If 780 entries off the diagonal moved as fast as 40 means, they would throw a good q hundreds of nats off; if the
    one entry of two latents that are hard to tell apart were as slow, it would not arrive."""
    model = Nearby(noise=noise, latent=latent)
    model.weight.data = alike + (1 - alike) * model.weight.data
    batch = Batch(2 * torch.randn(6, 2 * latent, generator=torch.Generator().manual_seed(2), dtype=DOUBLE))
    torch.manual_seed(0)
    before, after = (
        kl_divergence(q, model.exact(batch)).detach() for q in (model.posterior(batch), refine(model, batch))
    )
    assert float(after.max()) < 0.3 < 1 < float(before.min())


def test_a_diagonal_reaches_the_best_diagonal():
    """Of all diagonal Gaussians the nearest in KL(q || p) has p's mean and the inverse of its precision's diagonal."""
    model, batch = Linear(), data()
    torch.manual_seed(0)
    q, truth = refine(model, batch, steps=800, lr=0.1, samples=64), model.exact(batch)
    assert torch.allclose(q.mean, truth.mean, atol=0.02)
    assert torch.allclose(q.variance, 1 / truth.precision_matrix.diagonal(dim1=-2, dim2=-1), rtol=0.05)


def test_a_latent_that_depends_on_others_is_refined_with_them():
    """p(top | x) = N(x / 3, 2 / 3) and p(low | top, x) = N((top + x) / 2, 1 / 2): a shift of q's gets there."""
    model, batch = TwoLayers(), Batch(torch.tensor([[-2.0], [0.5], [3.0]], dtype=DOUBLE))
    torch.manual_seed(0)
    q = refine(model, batch, steps=500, lr=0.1)
    z = q.sample((200,))
    low = q.conditional("low", z)
    assert torch.allclose(q.parts["top"].mean, batch.x / 3, atol=1e-4)
    assert torch.allclose(q.parts["top"].variance, torch.full_like(batch.x, 2 / 3), atol=1e-4)
    assert torch.allclose(low.mean, (z["top"] + batch.x) / 2, atol=1e-3)
    assert torch.allclose(low.variance, torch.full_like(low.mean, 0.5), atol=1e-4)
    log_weight = model.log_joint(batch, z) - q.log_prob(z)
    assert torch.allclose(log_weight, Normal(0.0, 3**0.5).log_prob(batch.x[:, 0]).expand_as(log_weight), atol=1e-4)


@pytest.mark.parametrize(
    "family",
    [
        lambda x: Normal(x, 0.5),
        lambda x: Laplace(x, 0.5),
        lambda x: Gamma(x.exp(), x.exp() + 1),
    ],
)
def test_no_step_is_the_encoders_own(family):
    x = torch.randn(3, 2, dtype=DOUBLE)
    q = Independent(family(x), 1)
    shift = refinement.still(q)
    same = refinement.moved(q, shift)
    z = q.sample((4,))
    assert {name: part.shape for name, part in shift.items()} == dict.fromkeys(shift, (3, 2))
    assert torch.allclose(same.log_prob(z), q.log_prob(z))


def test_data_are_refined_each_for_itself():
    """With draws of its own for each datum there is only the optimum to agree on: here both find the exact one."""
    model, batch = Linear("full"), data()
    torch.manual_seed(0)
    together = refine(model, batch, steps=400, lr=0.1)
    alone = refine(model, batch.select(slice(2, 3)), steps=400, lr=0.1)
    assert torch.allclose(together.mean[2:3], alone.mean, atol=1e-4)


@pytest.mark.parametrize("kind", ["full", "planar", "iaf", "maf", "spline"])
def test_every_posterior_of_a_vae_can_be_refined(kind):
    """From the same start, and to a better bound, which stays one."""
    model = VAE(event_shape=(4,), latent=2, hidden=(6,), posterior=kind, flow_hidden=(8,)).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
    batch = Batch(torch.randint(2, (3, 4), generator=generator).double())
    with torch.no_grad():
        torch.manual_seed(1)
        q = model.posterior(batch)
        z = q.sample((2000,))
        plain = model.log_joint(batch, z) - q.log_prob(z)
        same = refinement.moved(q, refinement.still(q))
        assert torch.allclose(same.log_prob(z[:2]), q.log_prob(z[:2]), atol=1e-6)
        better = refine(model, batch, steps=60)
        z = better.sample((2000,))
        found = model.log_joint(batch, z) - better.log_prob(z)
        line = torch.linspace(-7, 7, 141, dtype=DOUBLE)
        grid = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, 3, 2)
        log_marginal = torch.logsumexp(model.log_joint(batch, grid), 0) + 2 * (line[1] - line[0]).log()
    assert float((found.mean(0) - plain.mean(0)).min()) > 0.05
    assert float((found.mean(0) - log_marginal).max()) < 0.02


def test_nothing_but_q_moves():
    model, batch = vae.tiny(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    q = refine(model, batch, steps=5)
    assert not q.mean.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_works_where_gradients_are_off():
    model, batch = vae.tiny(0)
    with torch.no_grad():
        assert not torch.equal(refine(model, batch, steps=5).mean, model.posterior(batch).mean)
        assert not semi_amortized(model, batch).value.requires_grad


def test_an_exact_posterior_is_given_back():
    model, batch = gaussian_mixture.tiny(0)
    # with a gradient and without one it is computed by two ways
    found, own = refine(model, batch).log_partition, model.posterior(batch).log_partition
    assert torch.allclose(found, own, rtol=1e-12, atol=1e-12)
    assert refined(model) is model


class Odd(LatentVariableModel):
    """A posterior of whatever family it is given."""

    def __init__(self, q):
        super().__init__()
        self.nothing, self.q = nn.Parameter(torch.zeros(1)), q

    def posterior(self, batch):
        return self.q

    def log_joint(self, batch, z):
        return z.sum(-1)


def test_what_cannot_be_refined_is_named():
    squashed = Independent(TransformedDistribution(Normal(torch.zeros(2, 1), 1.0), [TanhTransform()]), 1)
    discrete = gaussian_mixture.tiny(0)[0].posterior(gaussian_mixture.tiny(0)[1])
    batch = Batch(torch.zeros(2, 1))
    with pytest.raises(CapabilityError, match="TransformedDistribution cannot be refined"):
        refine(Odd(squashed), batch)
    with pytest.raises(CapabilityError, match="OneHot cannot be reparameterised"):
        refine(Odd(discrete), batch)
    assert not refinable(Odd(squashed), batch)
    assert refinable(*vae.tiny(0))
    for options in ({"steps": -1}, {"samples": 0}, {"lr": 0.0}):
        with pytest.raises(OptionError, match=next(iter(options))):
            refine(*vae.tiny(0), **options)


def test_a_refined_model_answers_the_verbs():
    model, batch = vae.tiny(0)
    plain = evaluate(model, as_dataset(batch), importance_samples=4000)
    better = evaluate(refined(model, steps=200), as_dataset(batch), importance_samples=4000)
    assert better.elbo > plain.elbo + 0.05
    # a q that has been refined covers p(z | x), so that its weights have a variance
    truth = float(brute_force_log_marginal(model, batch).mean())
    assert abs(better.log_marginal - truth) < 5 * better.log_marginal_mc_se + 0.02
    assert better.effective_sample_size > plain.effective_sample_size


# ---------------------------------------------------------------------------------------------------- semi-amortized


def test_one_small_step_is_the_elbos_gradient():
    """With a closed-form bound: q0 a diagonal Gaussian, x linear in z, so each step can be written down."""
    model, batch = Linear(), data()
    q = model.posterior(batch)
    mean, deviation = q.mean, q.stddev
    rate, many = 0.01, 20_000
    precision = torch.eye(2, dtype=DOUBLE) + model.weight.T @ model.weight / model.noise**2
    slope_mean = batch.x @ model.weight / model.noise**2 - mean @ precision
    slope_log = 1 - deviation**2 * precision.diagonal()
    moved_mean, moved_log = mean + rate * slope_mean, deviation.log() + rate * slope_log
    better = Independent(Normal(moved_mean, moved_log.exp()), 1)
    truth = model.exact(batch)
    log_marginal = MultivariateNormal(
        torch.zeros(4, dtype=DOUBLE),
        model.weight @ model.weight.T + model.noise**2 * torch.eye(4, dtype=DOUBLE),
    ).log_prob(batch.x)
    full = MultivariateNormal(better.mean, torch.diag_embed(better.variance))
    want = log_marginal - kl_divergence(full, truth)
    torch.manual_seed(0)
    found = semi_amortized(model, batch, samples=many, steps=1, lr=rate, clip=1e9)
    assert torch.allclose(found.value, want, rtol=0.005, atol=0.05)
    assert torch.allclose(found.value, found.reconstruction - found.kl)


def test_the_gradient_goes_through_the_steps():
    """Against finite differences, of every parameter, encoder and decoder."""
    model, batch = vae.tiny(1)

    def value():
        torch.manual_seed(3)
        return semi_amortized(model, batch, steps=3, lr=0.2, samples=2, clip=1.0).value.sum()

    value().backward()
    for name, parameter in model.named_parameters():
        flat, slope = parameter.data.view(-1), parameter.grad.view(-1)
        i = int(slope.abs().argmax())
        values = []
        for step in (1e-5, -2e-5):
            flat[i] += step
            values.append(value().detach())
        flat[i] += 1e-5
        assert float(slope[i]) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-7), name


def test_a_clipped_step_is_no_longer_than_that():
    model, batch = Linear(noise=0.01), data()
    with torch.no_grad():
        torch.manual_seed(0)
        moves = semi_amortized(model, batch, steps=4, lr=0.1, clip=1e-9).value
        torch.manual_seed(0)
        for _ in range(4):  # the draws of the steps that went nowhere
            elbo(model, batch)
        stays = elbo(model, batch).value
    assert torch.allclose(moves, stays, rtol=1e-6)


@pytest.mark.slow
def test_on_digits_the_steps_are_worth_having():
    """Trained alike, the semi-amortized bound on held-out digits is above the amortised one's."""
    from latentia.data import load

    rest, test = load("digits", binarize="fixed").split(0.2)
    bounds = {}
    objectives = {"amortised": elbo, "semi-amortised": semi_amortized}
    for name, objective in objectives.items():
        model = VAE(event_shape=(8, 8), latent=8, hidden=(64,))
        Gradient(objective, epochs=40, lr=2e-3, batch_size=64, progress=False).fit(model, rest, seed=0)
        torch.manual_seed(0)
        with torch.no_grad():
            values = [objective(model, test.batch(dtype=torch.float32)).value.mean() for _ in range(20)]
        bounds[name] = float(torch.stack(values).mean())
    assert bounds["semi-amortised"] > bounds["amortised"] + 0.1
