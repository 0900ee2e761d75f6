"""Evaluation and diagnosis against closed forms: probabilistic PCA, exact models, and each other."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hmmlearn import hmm as hmmlearn
from sklearn import mixture as sklearn
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from latentia.data import Dataset, load
from latentia.distributions import Chain
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.evaluate import criteria, evaluate, log_marginal, standard_error
from latentia.learners import EM, Gradient
from latentia.measure.diagnose import diagnose
from latentia.measure.information import mutual_information
from latentia.model import Batch, DirectedModel, Frame, LatentVariableModel
from latentia.models import (
    HMM,
    LDA,
    VAE,
    ClusteringVAE,
    ExactFactorialHMM,
    GaussianMixture,
    KMeans,
    MixtureOfCategoricals,
    NeuralHMM,
)
from latentia.models.grammars.pcfg import tiny


class LinearGaussian(DirectedModel):
    """x = W z + noise: log p(x), the posterior and the mutual information are known in closed form."""

    def __init__(self, features: int, latent: int, noise: float = 0.5, widened: float = 1.0, idle: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(features, latent, generator=generator, dtype=torch.float64))
        self.weight.data[:, latent - idle :] = 0 if idle else self.weight.data[:, latent:]
        self.noise, self.widened = noise, widened

    def prior(self, frame: Frame) -> Independent:
        zeros = self.weight.new_zeros(frame.size, self.weight.shape[1])
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def likelihood(self, z, frame):
        return Normal(z @ self.weight.T, self.noise)

    def covariance(self):
        return self.weight @ self.weight.T + self.noise**2 * torch.eye(len(self.weight), dtype=torch.float64)

    @torch.no_grad()
    def exact(self, x):
        return MultivariateNormal(torch.zeros(len(self.weight), dtype=torch.float64), self.covariance()).log_prob(x)

    def posterior(self, batch: Batch) -> MultivariateNormal:
        precision = torch.eye(self.weight.shape[1], dtype=torch.float64) + self.weight.T @ self.weight / self.noise**2
        covariance = torch.linalg.inv(precision)
        mean = batch.x @ self.weight @ covariance / self.noise**2
        return MultivariateNormal(mean, self.widened * covariance)


@pytest.fixture(scope="module")
def pca() -> tuple[LinearGaussian, Dataset]:
    model = LinearGaussian(features=6, latent=2)
    torch.manual_seed(1234)  # not the seed that the posterior draws with
    (x, *_), _ = model.generate(Frame(1500))
    return model, load(x)


def test_one_sample_of_the_exact_posterior_is_exact(pca):
    model, data = pca
    found = log_marginal(model, data, importance_samples=1)
    assert torch.allclose(found.value, model.exact(data.x), atol=1e-9)


def test_importance_sampling_from_a_wrong_posterior_comes_close_and_knows_its_error(pca):
    model, data = pca
    model.widened = 2.0
    try:
        found = log_marginal(model, data.subset(slice(0, 200)), importance_samples=2000)
    finally:
        model.widened = 1.0
    gap = found.value - model.exact(data.x[:200])
    assert gap.abs().max() < 0.2
    # the stated errors are those made: z-scores have variance about 1
    assert 0.8 < float((gap / found.standard_error).square().mean()) < 1.25
    # E_q[w]^2 / E_q[w^2] of N(m, C) under N(m, 2C) in two dimensions is 3/4
    assert float(found.effective_sample_size.mean()) == pytest.approx(2000 * 0.75, rel=0.02)
    assert (found.elbo < found.value).all()


def test_naive_monte_carlo_agrees(pca):
    model, data = pca
    found = log_marginal(model, data.subset(slice(0, 50)), importance_samples=20000, proposal="prior")
    assert (found.value - model.exact(data.x[:50])).abs().mean() < 0.15


def test_chunks_change_only_the_random_numbers(pca):
    model, data = pca
    part = data.subset(slice(0, 40))
    values = [
        log_marginal(model, part, importance_samples=500, memory=memory).value for memory in (2**12, 2**16, 2**28)
    ]
    for value in values:
        assert torch.allclose(value, model.exact(part.x), atol=1e-8)


@pytest.mark.slow
def test_memory_is_bounded():
    data = load("digits", binarize="dynamic").subset(slice(0, 200))
    model = VAE((8, 8), latent=4)
    log_marginal(model, data, importance_samples=10, memory=2**26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log_marginal(model, data, importance_samples=20000, memory=2**26)
    # 200 x 20,000 x 64 floats would be a gigabyte
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_mutual_information_is_the_closed_form(pca):
    model, data = pca
    truth = 0.5 * float(torch.linalg.slogdet(model.covariance())[1]) - len(model.weight) * math.log(model.noise)
    found, ceiling = mutual_information(model, data, limit=1500)
    assert ceiling == pytest.approx(math.log(1500))
    assert found == pytest.approx(truth, rel=0.05)
    assert truth > 1.5


def test_mutual_information_of_a_mixture_is_exact():
    model = GaussianMixture(1, 2).double()
    model.means.data = torch.tensor([[-50.0], [50.0]], dtype=torch.float64)
    data = load(torch.cat([torch.full((30, 1), -50.0), torch.full((10, 1), 50.0)]).double())
    found, _ = mutual_information(model, data)
    assert found == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-9)


def test_mutual_information_of_sorted_data_is_that_of_shuffled_data():
    model = LinearGaussian(features=6, latent=2)
    torch.manual_seed(1234)
    x = model.generate(Frame(3000))[0].x
    by_column = x[x[:, 0].argsort()]
    a, b = (mutual_information(model, load(rows), limit=400)[0] for rows in (x, by_column))
    assert a == pytest.approx(b, abs=0.4)


def test_a_length_that_is_given_is_no_information():
    model = HMM(symbols=2, states=3).double()
    data = load([[0] * (1 + i % 7) for i in range(200)], kind="sequence")
    found = diagnose(model, data)
    assert found.mutual_information == pytest.approx(0, abs=1e-9)
    assert "has collapsed" in found.verdict


def test_weights_count_in_the_diagnosis():
    model = GaussianMixture(1, 2).double()
    model.means.data = torch.tensor([[-50.0], [50.0]], dtype=torch.float64)
    x = torch.cat([torch.full((30, 1), -50.0), torch.full((30, 1), 50.0)]).double()
    weight = torch.cat([torch.full((30,), 1.0), torch.full((30,), 1e-9)])
    found = diagnose(model, load(x, weight=weight.numpy()))
    assert found.mutual_information < 1e-6
    assert found.active_units == 0


def test_bits_are_of_what_is_observed():
    x = torch.randint(2, (50, 4), generator=torch.Generator().manual_seed(0)).double()
    holes = x.clone()
    holes[:, 2:] = torch.nan
    holes[0] = x[0]
    model = VAE((4,), latent=1, hidden=(3,)).double()
    for parameter in model.parameters():
        parameter.data.zero_()
    for rows in (x, holes):
        assert evaluate(model, load(rows), importance_samples=5).bits_per_dimension == pytest.approx(1, abs=1e-9)
    nothing = replace(load(x), mask=torch.zeros_like(x, dtype=torch.bool))
    assert evaluate(model, nothing, importance_samples=5).bits_per_dimension is None


def test_active_units_are_counted_by_posterior_means():
    model = LinearGaussian(features=5, latent=3, idle=2)
    torch.manual_seed(0)
    data = load(model.generate(Frame(500))[0].x)
    found = diagnose(model, data)
    # samples of the idle units have variance 1 under their prior, and would be called active
    assert (found.active_units, found.latent_units) == (1, 3)
    assert "1 of 3 units active" in found.verdict


def test_a_collapsed_posterior_is_called_so():
    model = VAE((8, 8), latent=32, hidden=(8,))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
    found = evaluate(model, load("digits", binarize="dynamic").subset(slice(0, 100)), importance_samples=10)
    assert found.active_units == 0
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.mutual_information == pytest.approx(0, abs=1e-4)
    assert "0 of 32 units active: the posterior has collapsed" in found.verdict
    assert found.kl_per_unit == pytest.approx([0.0] * 32, abs=1e-6)


def coins(count: int, columns: int) -> torch.Tensor:
    return torch.randint(2, (count, columns), generator=torch.Generator().manual_seed(7)).float()


def test_a_verdict_weighs_nats_and_not_units():
    """Independent coins, of which noise was learned: all units vary with x, and x is no likelier for it."""
    train, test = load(coins(900, 8)).split(0.3)
    model = VAE((8,), latent=3, hidden=(16,))
    Gradient(epochs=15, lr=5e-3, progress=False).fit(model, train)
    for options in ({}, {"training": train}):
        found = evaluate(model, test, importance_samples=100, **options)
        assert found.active_units == 3
        assert found.without_z == pytest.approx(-8 * math.log(2), abs=0.05)
        assert found.verdict.startswith("z is of no use, as if the posterior had collapsed")
        assert "more latents" not in found.verdict.lower()
        assert "no collapse" not in found.verdict


def test_many_levels_of_few_data_are_no_gain():
    """Uniform levels: frequencies alone would give those that were not seen next to no probability."""
    x = torch.randint(64, (150, 6), generator=torch.Generator().manual_seed(7))
    train, test = load(x, values="levels").split(0.3)
    model = VAE((6,), symbols=64, latent=2, hidden=(8,), likelihood="categorical")
    for parameter in model.decoder.parameters():
        parameter.data.zero_()  # uniform over the levels
    found = evaluate(model, test, importance_samples=20, training=train)
    assert (found.gain or 0) < 1e-3
    assert "with z" not in found.verdict.lower()


def noise(count: int = 300) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


NOTHING = {
    "mixture": (GaussianMixture(3, 3), lambda: load(noise())),
    "levels": (MixtureOfCategoricals(2, 5, 3), lambda: load(coins(300, 5).long(), values="levels")),
    "hmm": (HMM(symbols=2, states=2), lambda: load(list(coins(80, 12).long().numpy()), kind="sequence")),
}


@pytest.mark.parametrize("name", NOTHING)
def test_clusters_of_nothing_are_called_so(name):
    model, data = NOTHING[name][0].double(), NOTHING[name][1]()
    train, test = data.split(0.4)
    EM(steps=30).fit(model, train)
    assert "z is of no use" in evaluate(model, test, training=train).verdict


def test_what_z_is_worth_is_the_difference_to_the_best_model_without_it(pca):
    """Of normal data both are known: log p(x) with the whole covariance, and with its diagonal alone."""
    model, data = pca
    deviation = model.covariance().diagonal().sqrt().detach()
    apart = Normal(torch.zeros_like(deviation), deviation).log_prob(data.x).sum(-1)
    truth = model.exact(data.x) - apart
    found = evaluate(model, data, importance_samples=2)
    error = float(truth.std()) / len(truth) ** 0.5
    assert found.gain == pytest.approx(float(truth.mean()), abs=0.02)
    assert found.gain_se == pytest.approx(error, rel=0.05)
    assert found.without_z == pytest.approx(found.log_marginal - found.gain, abs=1e-9)
    assert "more than that of the best model without (independent coordinates)" in found.verdict


def test_two_clusters_gain_by_z():
    x = noise()
    x[::2] += 5
    model = GaussianMixture(3, 2).double()
    EM().fit(model, load(x))
    found = evaluate(model, load(x))
    assert found.without_z_how == "one Gaussian"
    assert (found.gain or 0) > 0.5
    assert "of no use" not in found.verdict


class TestExactModels:
    def test_a_mixture(self):
        generator = torch.Generator().manual_seed(0)
        data = load(torch.randn(60, 2, generator=generator, dtype=torch.float64))
        model = GaussianMixture(2, 2).double()
        EM(restarts=2).fit(model, data)
        found = evaluate(model, data, naive=True, importance_samples=5000)
        with torch.no_grad():
            exact = model.posterior(data.batch()).log_partition
        assert found.method == "exact"
        assert found.log_marginal == pytest.approx(float(exact.mean()), abs=1e-12)
        assert found.elbo == pytest.approx(found.log_marginal, abs=1e-9)
        assert found.elbo == pytest.approx(found.reconstruction - found.kl, abs=1e-9)
        assert found.log_marginal_se == pytest.approx(float(exact.std()) / 60**0.5, rel=1e-9)
        assert found.naive_log_marginal == pytest.approx(found.log_marginal, abs=0.05)
        assert log_marginal(model, data, importance_samples=1).value.tolist() == pytest.approx(exact.tolist(), abs=1e-9)

    def test_an_hmm(self):
        data = load("sentences", min_count=20).subset(slice(0, 60))
        model = HMM(symbols=data.schema.levels, states=3).double()
        model.start(data.batch(), torch.Generator().manual_seed(0))
        found = evaluate(model, data)
        by_samples = log_marginal(model, data, importance_samples=1)
        assert float(by_samples.value.mean()) == pytest.approx(found.log_marginal, abs=1e-9)
        assert found.kl >= 0
        assert found.perplexity == pytest.approx(math.exp(-found.total_log_marginal / int(data.lengths.sum())))
        assert "not counted" in (found.divided_by or "")
        assert found.latent_units == 3


def test_units_follow_the_data_as_given():
    metres = torch.randn(80, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = []
    for factor in (1, 1000):
        data = load(metres * factor, scale="standard")
        model = GaussianMixture(2, 2).double()
        EM().fit(model, data)
        values.append(evaluate(model, data).log_marginal)
    assert values[0] - values[1] == pytest.approx(2 * math.log(1000), abs=1e-9)


def test_weights_count():
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = GaussianMixture(1, 2).double()
    model.means.data = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    weight = torch.arange(50) % 3
    weighted = evaluate(model, load(x, weight=weight.numpy()))
    repeated = evaluate(model, load(x.repeat_interleave(weight, 0)))
    assert weighted.log_marginal == pytest.approx(repeated.log_marginal, abs=1e-12)
    assert weighted.log_marginal_se == pytest.approx(repeated.log_marginal_se, abs=1e-12)


def test_the_same_seed_gives_the_same_figures_and_leaves_the_generator_alone():
    data, model = load("digits", binarize="dynamic").subset(slice(0, 30)), VAE((8, 8), latent=2)
    before = torch.random.get_rng_state()
    a, b = (evaluate(model, data, importance_samples=20, seed=4).to_json() for _ in range(2))
    assert a == b
    assert torch.equal(before, torch.random.get_rng_state())
    assert a["log_marginal"] != evaluate(model, data, importance_samples=20, seed=5).log_marginal


def test_json_has_no_nan():
    data = load(torch.zeros(1, 1, dtype=torch.float64))
    found = evaluate(GaussianMixture(1, 2).double(), data)
    assert math.isnan(found.log_marginal_se)  # one datum has no spread
    json.dumps(found.to_json(), allow_nan=False)


class OnlyJoint(LatentVariableModel):
    """A model without prior and likelihood: N(z; 0, 1) N(x; z, 1)."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def posterior(self, batch):
        return Independent(Normal(batch.x / 2 + self.shift, 0.5**0.5), 1)

    def log_joint(self, batch, z):
        return (Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(batch.x)).sum(-1)


def test_a_model_of_a_joint_alone_is_evaluated():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1)
    found = evaluate(OnlyJoint(), load(x), importance_samples=10)
    assert found.log_marginal == pytest.approx(float(Normal(0.0, 2**0.5).log_prob(x).mean()), abs=1e-6)
    assert math.isnan(found.kl)
    with pytest.raises(CapabilityError, match=r"OnlyJoint\.prior"):
        log_marginal(OnlyJoint(), load(x), proposal="prior")


def test_what_cannot_be_evaluated_is_refused():
    data = load(torch.zeros(3, 2, dtype=torch.float64))
    model = GaussianMixture(2, 2).double()
    with pytest.raises(DataError, match="no data"):
        evaluate(model, data.subset([]))
    with pytest.raises(OptionError, match="importance_samples=0"):
        evaluate(VAE((2,), likelihood="gaussian"), data, importance_samples=0)
    with pytest.raises(DataError, match="features"):
        evaluate(GaussianMixture(3, 2).double(), data)


# ------------------------------------------------------------------------------------------------------- AIC and BIC

GEYSER = Path(__file__).parents[3] / "shared" / "data" / "tabular" / "geyser.csv"
KINDS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def two_clouds(count: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    x[: count // 3] = 0.5 * x[: count // 3] + torch.tensor([3.0, -2.0, 1.0])
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_criteria_of_a_mixture_are_those_of_scikit_learn(kind):
    x = two_clouds()
    model = GaussianMixture(3, 2, kind).double()
    EM(steps=20).fit(model, load(x))
    peer = sklearn.GaussianMixture(2, covariance_type=KINDS[kind])
    covariances, factors = (part.detach() for part in (model.covariances, model.emissions.scale_tril.inverse().mT))
    compact = {"full": lambda c: c, "tied": lambda c: c[0], "diagonal": lambda c: c.diagonal(dim1=1, dim2=2)}
    compact["spherical"] = lambda c: c[:, 0, 0]
    peer.weights_, peer.means_ = model.weights.detach().numpy(), model.means.detach().numpy()
    peer.covariances_, peer.precisions_cholesky_ = (compact[kind](part).numpy() for part in (covariances, factors))
    found = criteria(model, load(x))
    assert found.parameters == peer._n_parameters()
    assert found.bic == pytest.approx(peer.bic(x.numpy()), rel=1e-9)
    assert found.aic == pytest.approx(peer.aic(x.numpy()), rel=1e-9)


def test_criteria_of_an_hmm_are_those_of_hmmlearn():
    random = np.random.default_rng(0)
    lengths = [5, 9, 3, 12]
    symbols = [random.integers(0, 4, size) for size in lengths]
    vectors = [random.normal(size=(size, 2)) for size in lengths]
    for model, data, peer, x in (
        (HMM(symbols=4, states=3), load(symbols, kind="sequence"), hmmlearn.CategoricalHMM(3), symbols),
        (HMM(features=2, states=3), load(vectors), hmmlearn.GaussianHMM(3, "diag"), vectors),
        (HMM(features=2, states=2, covariance="full"), load(vectors), hmmlearn.GaussianHMM(2, "full"), vectors),
    ):
        model.double().start(data.batch(), torch.Generator().manual_seed(1))
        peer.startprob_, peer.transmat_ = model.initial.detach().numpy(), model.transition.detach().numpy()
        if model.symbolic:
            peer.emissionprob_, peer.n_features = model.emissions.probs.detach().numpy(), 4
        else:
            covariances = model.emissions.covariances.detach().numpy()
            peer.n_features, peer.means_ = 2, model.emissions.means.detach().numpy()
            peer.covars_ = covariances if peer.covariance_type == "full" else np.diagonal(covariances, 0, 1, 2)
        found = criteria(model, data)
        rows = np.concatenate(x).reshape(sum(lengths), -1)
        assert found.n == sum(lengths)
        assert found.bic == pytest.approx(peer.bic(rows, lengths), rel=1e-9)
        assert found.aic == pytest.approx(peer.aic(rows, lengths), rel=1e-9)


@pytest.mark.skipif(not GEYSER.exists(), reason="needs the Old Faithful table beside the project")
def test_the_bic_of_old_faithful_is_the_published_one():
    """mclust 5's summary of Mclust(faithful), G = 2, VVV: log-likelihood -1130.264, BIC (its sign) -2322.192."""
    data = load(GEYSER, columns="duration,waiting", scale="standard")
    model = GaussianMixture(2, 2).double()
    EM(tol=1e-12, steps=1000).fit(model, data)
    found = criteria(model, data)
    assert found.log_likelihood == pytest.approx(-1130.264, abs=5e-4)
    assert found.bic == pytest.approx(2322.192, abs=5e-4)


FREE = {
    **{f"mixture-{kind}": (GaussianMixture, {"features": 2, "components": 3, "covariance": kind}) for kind in KINDS},
    "mixture-common": (GaussianMixture, {"features": 2, "components": 3, "covariance": "common"}),
    "k-means": (KMeans, {"features": 2, "components": 3}),
    "hmm-symbols": (HMM, {"symbols": 4, "states": 3, "length": 5}),
    "hmm-diagonal": (HMM, {"features": 2, "states": 2, "length": 4}),
    "hmm-full": (HMM, {"features": 2, "states": 2, "covariance": "full", "length": 4}),
    "categorical-rows": (MixtureOfCategoricals, {"symbols": 3, "features": 3, "components": 2}),
    "neural-hmm-narrow": (NeuralHMM, {"symbols": 3, "states": 3, "hidden": 1, "layers": 0, "length": 8}),
    "factorial-full": (ExactFactorialHMM, {"features": 2, "chains": 2, "states": 2, "length": 5}),
    "factorial-diagonal": (ExactFactorialHMM, {"features": 3, "states": 3, "covariance": "diagonal", "length": 4}),
}


@pytest.mark.parametrize("name", FREE)
def test_free_parameters_are_the_directions_in_which_the_density_can_change(name):
    """The gradients of log p(x) at many x span a space of so many dimensions."""
    form, options = FREE[name]
    model = form(**options).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (x, *_), _ = model.generate(Frame(150))
    gradients = []
    for row in x:
        value = model.posterior(Batch(row.unsqueeze(0))).log_partition.sum()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))]))
    jacobian = torch.stack(gradients)
    singular = torch.linalg.svdvals(jacobian / jacobian.norm(dim=0))
    assert int((singular > 1e-10 * singular[0]).sum()) == model.free_parameters()


def test_the_tables_of_a_neural_hmm_are_counted_and_not_its_networks():
    """The singular values of the tables' derivatives: no data can tell more directions than these apart."""
    for symbols, states, hidden, layers in ((4, 2, 3, 1), (3, 3, 1, 0), (9, 6, 2, 0), (3, 4, 2, 1), (5, 1, 2, 1)):
        model = NeuralHMM(symbols, states, hidden, layers).double()
        generator = torch.Generator().manual_seed(0)
        parameters = list(model.parameters())
        for parameter in parameters:
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        tables = (model.initial_log_probs, model.transition_log_probs, model.emission_log_probs)
        entries = torch.cat([table.flatten() for table in tables])
        rows = []
        for entry in entries:
            slopes = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([slope.flatten() for slope in slopes]))
        singular = torch.linalg.svdvals(torch.stack(rows))
        assert int((singular > 1e-9 * singular[0]).sum()) == model.free_parameters()
    assert NeuralHMM(symbols=4, states=2, hidden=3).free_parameters() == 9


def test_what_sums_to_one_leaves_one_without_a_choice():
    assert LDA(symbols=4, topics=3).free_parameters() == 3 * 3 + 3
    assert LDA(symbols=4, topics=3, learn_concentration=False).free_parameters() == 3 * 3
    assert LDA(symbols=4, topics=1).free_parameters() == 3  # theta is 1, whatever its concentration
    model = ClusteringVAE((3,), components=2, latent=1, hidden=(4,))
    assert model.free_parameters() == sum(parameter.numel() for parameter in model.parameters()) - 1


def test_the_levels_of_each_column_are_counted_as_they_are():
    """Columns of 2, 3, 5 and 2 levels share tables of five: 2 + 3 (1 + 2 + 4 + 1) are free, and not 2 + 3 * 4 * 4."""
    random = np.random.default_rng(0)
    x = np.stack([random.integers(0, levels, 200) for levels in (2, 3, 5, 2)], 1)
    data = load(x, values="levels")
    model = MixtureOfCategoricals(5, 4, components=3).double()
    assert model.free_parameters() == 2 + 3 * 4 * 4
    EM(steps=3).fit(model, data)
    assert model.free_parameters() == 2 + 3 * (1 + 2 + 4 + 1) == 26
    assert criteria(model, data).parameters == 26
    # one of another level that comes later counts from then on
    model.update(model.expect(Batch(torch.tensor([[0, 0, 0, 4]])))[0])
    assert model.free_parameters() == 26 + 3
    again = MixtureOfCategoricals(5, 4, components=3).double()
    again.load_state_dict(model.state_dict())
    assert again.free_parameters() == 29
    old = {name: value for name, value in model.state_dict().items() if name != "emissions.shown"}
    again.load_state_dict(old)
    assert again.free_parameters() == 2 + 3 * 4 * 4


def test_a_weight_counts_in_the_criteria():
    x, weight = two_clouds(30), torch.arange(30) % 3
    model = GaussianMixture(3, 2).double()
    EM(steps=5).fit(model, load(x))
    weighted = criteria(model, load(x, weight=weight.numpy()))
    repeated = criteria(model, load(x.repeat_interleave(weight, 0)))
    assert weighted.n == repeated.n == int(weight.sum())
    assert weighted.bic == pytest.approx(repeated.bic, rel=1e-12)


def test_criteria_are_of_the_training_data_alone():
    x = two_clouds()
    train, test = load(x[::2]), load(x[1::2])
    model = GaussianMixture(3, 2).double()
    EM(steps=20).fit(model, train)
    found = evaluate(model, test, training=train)
    of_train = criteria(model, train)
    assert (found.aic, found.bic) == (of_train.aic, of_train.bic)
    assert found.bic != pytest.approx(criteria(model, test).bic)
    assert found.criteria_on == "45 training data"
    assert evaluate(model, test).bic is None


def test_a_bound_has_no_criteria():
    model, data = VAE((2,), latent=1, hidden=(3,), likelihood="gaussian"), load(two_clouds(12)[:, :2])
    found = evaluate(model, data, training=data, importance_samples=5)
    assert (found.aic, found.bic) == (None, None)
    assert found.free_parameters == sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(CapabilityError, match="held-out"):
        criteria(model, data)


def test_naive_monte_carlo_tells_its_errors(pca):
    model, data = pca
    part = data.subset(slice(0, 60))
    found = evaluate(model, part, naive=True, importance_samples=3000)
    by_prior = log_marginal(model, part, importance_samples=3000, proposal="prior")
    assert found.naive_effective_sample_size == pytest.approx(float(by_prior.effective_sample_size.mean()))
    assert found.naive_log_marginal_mc_se == pytest.approx(float(by_prior.standard_error.square().sum().sqrt()) / 60)
    assert found.naive_log_marginal_se == pytest.approx(float(by_prior.value.std()) / 60**0.5)
    # the prior is the worse proposal by far
    assert found.naive_effective_sample_size < 0.2 * found.effective_sample_size
    assert found.naive_log_marginal_mc_se > found.log_marginal_mc_se


def test_the_error_of_a_difference_is_that_of_paired_data():
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    weight = torch.arange(400) % 3
    data = load(x, weight=weight.numpy())
    models = [GaussianMixture(1, 1).double() for _ in range(2)]
    for model, mean in zip(models, (0.0, 0.1), strict=True):
        model.means.data.fill_(mean)
    one, other = (evaluate(model, data) for model in models)
    away = (x[:, 0] - 0.1).square() / 2 - x[:, 0].square() / 2  # log N(x; 0, 1) - log N(x; 0.1, 1)
    repeated = away.repeat_interleave(weight)
    assert standard_error(one.each, other.each) == pytest.approx(float(repeated.std()) / len(repeated) ** 0.5)
    assert standard_error(one.each, other.each) < 0.1 * one.log_marginal_se
    assert standard_error(one.each, one.each) == 0


def test_a_long_chain_is_measured_by_the_kernel_and_float32_loses_nothing(monkeypatch):
    """KL, rate, distortion and the rest of a sequence of 3,000 steps: the recursion, a step at a time, is not asked."""

    def refused(*_):
        raise AssertionError("the recursion takes thousands of times as long as the kernel")

    monkeypatch.setattr(Chain, "recursion", refused)
    x = torch.randn(1, 3000, 1, generator=torch.Generator().manual_seed(0)) + torch.arange(3000).view(-1, 1) // 50 % 2
    data = load([x[0].numpy()])
    model = HMM(features=1, states=2)
    model.emissions.means.data = torch.tensor([[0.0], [1.0]])
    model.transition_logits.data = torch.tensor([[0.98, 0.02], [0.02, 0.98]]).log()
    single, double = evaluate(model, data), evaluate(model.double(), data)
    assert double.kl > 50
    for name in ("kl", "rate"):
        assert getattr(single, name) == pytest.approx(getattr(double, name), rel=1e-4)
    assert single.distortion == pytest.approx(double.distortion, rel=1e-6)


def test_a_grammar_says_itself_where_a_sentence_ends_and_its_perplexity_counts_that():
    model, batch = tiny(0)
    found = evaluate(model, batch)
    ends = float(batch.weights.sum())
    observed = float((batch.observed.sum(-1) * batch.weights).sum())
    assert found.units == "nats per sequence, end of sequence counted"
    assert f"and {ends:,.0f} ends; the end of a sequence is counted" in (found.divided_by or "")
    assert found.perplexity == pytest.approx(math.exp(-found.total_log_marginal / (observed + ends)))
