"""Annealed importance sampling against models whose log p(x) is known, or found by quadrature."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from latentia import cli
from latentia.data import as_dataset, load
from latentia.distributions import Joint
from latentia.errors import CapabilityError, OptionError
from latentia.evaluate import evaluate, log_marginal
from latentia.inference.annealed import Annealing, _Path, _still, annealed_log_marginal, bidirectional, rate_distortion
from latentia.model import Batch, DirectedModel, Frame
from latentia.models import VAE, GaussianMixture, ProbabilisticPCA
from latentia.models.vaes import clustering_vae, vamp_vae
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run
from latentia.testing import agrees, brute_force_log_marginal, one_thread

CHEAP = Annealing(steps=60, chains=8, leapfrogs=4, data=20, simulated=8)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def pca(latent: int = 2, noise: float = 0.7, data: int = 40):
    generator = torch.Generator().manual_seed(0)
    model = ProbabilisticPCA((5,), latent).double()
    model.weight.data = torch.randn(5, latent, generator=generator, dtype=torch.float64)
    model.log_noise.data.fill_(math.log(noise))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        (x, *_), _ = model.generate(Frame(data))
    return model, load(x), model.posterior(Batch(x)).log_partition.detach()


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_it_finds_log_p_and_knows_its_error(start):
    model, data, truth = pca()
    if start == "posterior":
        model = Wrong(model)
    found = annealed_log_marginal(model, data, Annealing(steps=150, chains=16, leapfrogs=5, start=start))
    gap = found.value - truth
    assert abs(float(gap.mean())) < 0.05
    assert 0.4 < float((gap / found.standard_error).square().mean()) < 2.0
    assert float(found.effective_sample_size.mean()) > 10
    assert (found.elbo <= found.value).all()


def within_error(found, truth) -> bool:
    """Whether every datum is within five of its own standard errors: with a few dozen data and chains, whose standard
    error is itself uncertain by an eighth, less than one run in a thousand is not. The 1e-3 is for a datum whose
    chains all agree."""
    return bool(((found.value - truth).abs() < 5 * found.standard_error + 1e-3).all())


class Wrong(DirectedModel):
    """Another model behind a posterior that is off."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def prior(self, frame):
        return self.model.prior(frame)

    def likelihood(self, z, frame):
        return self.model.likelihood(z, frame)

    def posterior(self, batch):
        exact = self.model.posterior(batch)
        return Independent(Normal(exact.mean + 0.3, exact.variance.sqrt() * 1.3), 1)


def test_the_estimate_of_p_is_unbiased_with_few_steps():
    """Two temperatures on one datum, many chains: the mean weight is p(x), though single weights are far off."""
    model, data, truth = pca(data=3)
    for start, hidden in (("prior", model), ("posterior", Wrong(model))):
        for schedule in ("linear", "sigmoidal"):
            how = Annealing(steps=3, chains=5000, leapfrogs=2, start=start, schedule=schedule)
            found = annealed_log_marginal(hidden, data, how)
            assert within_error(found, truth)


def test_one_step_is_importance_sampling():
    model, data, _ = pca()
    hidden, how = Wrong(model), Annealing(steps=1, chains=200, start="posterior")
    found = [annealed_log_marginal(hidden, data, how, seed=seed) for seed in range(20)]
    plain = [log_marginal(hidden, data, importance_samples=200, seed=seed) for seed in range(100, 120)]
    for name in ("elbo", "effective_sample_size"):
        difference = [getattr(one, name) - getattr(other, name) for one, other in zip(found, plain, strict=True)]
        assert agrees(torch.stack(difference), 0.0), name


def test_more_steps_come_closer():
    model, data, truth = pca(noise=0.2)
    short, long = (annealed_log_marginal(model, data, Annealing(steps=t, leapfrogs=5)).value - truth for t in (5, 80))
    assert float(short.mean()) < float(long.mean()) < 0.05
    assert float(short.mean()) < -1


def test_a_decoder_against_quadrature():
    generator = torch.Generator().manual_seed(1)
    model = VAE((6,), latent=1, hidden=(5,)).double()
    for parameter in model.parameters():
        parameter.data = 1.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (12, 6), generator=generator).double()
    x[0, 2] = torch.nan  # missing values are left out here too
    data = load(x)
    truth = brute_force_log_marginal(model, data.batch(dtype=torch.float64))
    before = [parameter.requires_grad for parameter in model.parameters()]
    found = annealed_log_marginal(model, data, Annealing(steps=150, chains=32, leapfrogs=5))
    assert within_error(found, truth)
    assert float(found.standard_error.mean()) < 0.1
    assert [parameter.requires_grad for parameter in model.parameters()] == before


@pytest.mark.parametrize("tiny", [vamp_vae.tiny, clustering_vae.tiny])
def test_from_a_prior_that_is_a_mixture(tiny):
    model, batch = tiny(3)
    truth = brute_force_log_marginal(model, batch)
    found = annealed_log_marginal(model, as_dataset(batch), Annealing(steps=60, chains=64, leapfrogs=4))
    assert within_error(found, truth)
    assert float(found.standard_error.mean()) < 0.1


class Tower(DirectedModel):
    """Two latents, one above the other: x ~ N(2 b, 1), b ~ N(a, 1), a ~ N(0, 1), so x ~ N(0, 9)."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def prior(self, frame):
        first = Independent(Normal(torch.zeros(frame.size, 1, dtype=torch.float64), 1.0), 1)
        return Joint({"a": first, "b": lambda z: Independent(Normal(z["a"], 1.0), 1)})

    def likelihood(self, z, frame):
        return Normal(self.slope * z["b"], 1.0)

    def posterior(self, batch):
        first = Independent(Normal(batch.x / 3, 1.0), 1)
        return Joint({"b": first, "a": lambda z: Independent(Normal(z["b"] / 2, 1.0), 1)})


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_several_latents(start):
    x = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(-1)
    truth = Normal(0.0, 3.0).log_prob(x).sum(-1)
    found = annealed_log_marginal(Tower(), load(x), Annealing(steps=80, chains=32, leapfrogs=4, start=start))
    assert within_error(found, truth)
    assert float(found.standard_error.mean()) < 0.1
    bounds = bidirectional(Tower(), 50, CHEAP)
    assert bounds.gap == pytest.approx(0, abs=4 * bounds.gap_se + 0.05)


def test_the_truth_lies_between_the_bounds_and_the_gap_closes():
    model, _, _ = pca(noise=0.3)
    gaps = {}
    for steps in (4, 60):
        with torch.random.fork_rng():
            torch.manual_seed(5)  # what `bidirectional` draws first
            (x, *_), _ = model.generate(Frame(60))
        truth = model.posterior(Batch(x)).log_partition.detach()
        bounds = bidirectional(model, 60, Annealing(steps=steps, chains=4, leapfrogs=4), seed=5)
        for low, high in ((bounds.lower, truth), (truth, bounds.upper)):
            excess = (low - high).mean() - 4 * (low - high).std() / math.sqrt(60)
            assert float(excess) < 0
        gaps[steps] = bounds.gap
    assert gaps[4] > 10 * gaps[60] > 0


def test_a_move_leaves_its_level_alone():
    """Chains that start in f_beta stay in it, whatever the step size: mean and covariance are still the normal's."""
    model, data, _ = pca(data=2)
    beta = 0.4
    inner = torch.eye(2, dtype=torch.float64) + beta * (model.weight.mT @ model.weight).detach() / 0.49
    covariance = torch.linalg.inv(inner)
    mean = beta * (data.x @ model.weight.detach() / 0.49) @ covariance
    with _still(model, 0):
        path = _Path(model, data.batch(), Annealing(chains=30_000, leapfrogs=3))
        z = mean + torch.randn(30_000, 2, 2, dtype=torch.float64) @ torch.linalg.cholesky(covariance).mT
        for size in (0.05, 0.6):
            state, accepted = path._move(path.at(z), beta, torch.full((2,), size, dtype=torch.float64))
            assert (state.z != z).any(-1).double().mean(0).allclose(accepted, atol=0.02)
            for b in range(2):
                assert torch.allclose(state.z[:, b].mean(0), mean[b], atol=0.02)
                assert torch.allclose(state.z[:, b].T.cov(), covariance, atol=0.02)


def test_the_pilot_finds_the_acceptance_it_aims_at():
    model, data, _ = pca(latent=3, noise=0.1)
    with _still(model, 0):
        path = _Path(model, data.batch(), Annealing(steps=200))
        sizes, state, rates = path.tuned(), path.draw(), []
        assert sizes.shape == (199, 40)
        for beta, size in zip(path.betas[1:-1], sizes, strict=True):
            state, accepted = path._move(state, beta, size)
            rates.append(accepted.mean())
    assert 0.5 < float(torch.stack(rates).mean()) < 0.8
    # smaller at the posterior than at the prior, as it is narrower
    assert float(sizes[-1].mean()) < 0.5 * float(sizes[0].mean())


def test_schedules_run_from_0_to_1():
    for schedule in ("linear", "sigmoidal"):
        beta = Annealing(steps=50, schedule=schedule).temperatures()
        assert (float(beta[0]), float(beta[-1]), len(beta)) == (0, 1, 51)
        assert (beta.diff() > 0).all()
    assert float(beta[1]) < 1 / 50


def test_the_rate_distortion_curve_is_the_closed_form():
    model, data, truth = pca(data=30)
    curve = rate_distortion(model, data, Annealing(steps=150, chains=64, leapfrogs=4))
    for place in (9, 49, 99):
        beta = float(curve.beta[place])
        weight = model.weight.detach()
        covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + beta * weight.mT @ weight / 0.49)
        mean = beta * (data.x @ weight / 0.49) @ covariance
        rate = 0.5 * (covariance.trace() + (mean**2).sum(-1) - 2 - torch.logdet(covariance)).mean()
        left = ((data.x - mean @ weight.mT) ** 2).sum(-1) + torch.trace(weight @ covariance @ weight.mT)
        distortion = (0.5 * left / 0.49 + 2.5 * math.log(2 * math.pi * 0.49)).mean()
        assert float(curve.rate[place]) == pytest.approx(float(rate), rel=0.06, abs=0.1)
        assert float(curve.distortion[place]) == pytest.approx(float(distortion), rel=0.06)
    assert float(curve.rate[-1] + curve.distortion[-1]) == pytest.approx(-float(truth.mean()), abs=0.05)
    found = evaluate(Wrong(model), data, importance_samples=100)
    # an encoder pays more for the same distortion: its point lies above the tangent at the price of 1
    assert found.rate + found.distortion > float(curve.rate[-1] + curve.distortion[-1])
    with pytest.raises(OptionError, match="from the prior"):
        rate_distortion(model, data, Annealing(start="posterior"))


def test_the_evaluation_holds_it_against_importance_sampling():
    model, data, _ = pca()
    found = evaluate(Wrong(model), data, importance_samples=5, annealing=CHEAP)
    assert found.annealed_n == 20
    assert found.annealed_how == "20 data, 60 temperatures from the prior, 8 chains"
    assert found.annealed_gain is not None
    assert found.annealed_gain_se is not None
    # five samples are too low by more than the annealed value is
    assert -4 * found.annealed_gain_se < found.annealed_gain < 1 + 4 * found.annealed_gain_se
    assert found.annealed_gap is not None
    known = evaluate(model, data, annealing=CHEAP)
    # the logarithm of an unbiased estimate is too low on average, with eight chains by some tenths at most
    assert -0.5 - 4 * known.annealed_gain_se < known.annealed_gain < 4 * known.annealed_gain_se
    assert evaluate(Wrong(model), data, importance_samples=5).annealed_log_marginal is None


def test_the_same_seed_gives_the_same_value_and_leaves_the_generator_alone():
    model, data, _ = pca(data=5)
    before = torch.random.get_rng_state()
    a, b = (annealed_log_marginal(model, data, CHEAP, seed=1).value for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(a, annealed_log_marginal(model, data, CHEAP, seed=2).value)


def test_memory_cuts_the_data_and_not_the_chains():
    model, data, truth = pca(data=6)
    found = annealed_log_marginal(model, data, CHEAP, memory=2**14)  # a datum at a time
    assert ((found.value - truth).abs() < 5 * found.standard_error).all()
    assert found.effective_sample_size.max() <= CHEAP.chains + 1e-9


def said(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return int(left.value.code or 0), *capsys.readouterr()


def test_the_command(tmp_path, capsys):
    config = Config("ProbabilisticPCA", Source("digits", first=100), model_options={"latent": 3}, learner="EM")
    run = Run.create(tmp_path / "run", config)
    run.fit(progress=False)
    words = ("evaluate", run.path, "--ais", "--ais_steps", 20, "--ais_chains", 4, "--ais_simulated", 4)
    status, out, error = said(capsys, *words)
    assert (status, error) == (0, "")
    for words_of_the_table in (
        "annealed log p(x)",
        "annealing gap",
        "20 temperatures from the prior",
        "KL(q(z | x) ‖ p(z))",
    ):
        assert words_of_the_table in " ".join(out.replace("│", " ").split())
    found = json.loads((run.path / "evaluation.json").read_text())
    assert found["annealed_n"] == 10
    assert found["rate"] == found["kl"]
    run.report()
    page = (run.path / "report.html").read_text()
    assert "annealed log p(x)" in page
    assert "total correlation" in page
    assert said(capsys, "evaluate", run.path, "--ais_chains", 4)[0] == 2


def test_what_cannot_be_annealed_is_refused():
    x = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(CapabilityError, match="no real vector"):
        annealed_log_marginal(GaussianMixture(2, 2).double(), load(x), CHEAP)
    with pytest.raises(OptionError, match="chains=0"):
        Annealing(chains=0)
    with pytest.raises(OptionError, match="choose one of prior, posterior"):
        Annealing(start="middle")  # type: ignore[arg-type]
