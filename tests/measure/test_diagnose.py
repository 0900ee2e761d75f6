"""The KL of the posterior taken apart, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from latentia.data import load
from latentia.distributions.divergence import kl_terms
from latentia.evaluate import evaluate
from latentia.measure.diagnose import diagnose
from latentia.measure.information import decompose
from latentia.model import Batch, DirectedModel, Frame
from latentia.models import VAE, GaussianMixture, ProbabilisticPCA
from latentia.testing import one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


class Channel(DirectedModel):
    """q(z | x) = N(gain x, noise^2), coordinate by coordinate: with normal x all that is asked for is known."""

    def __init__(self, gain: float = 1.0, noise: float = 0.8, dense: bool = False):
        super().__init__()
        self.gain, self.noise, self.dense = nn.Parameter(torch.tensor(gain, dtype=torch.float64)), noise, dense

    def prior(self, frame: Frame) -> Independent:
        return Independent(Normal(torch.zeros(frame.size, 1, dtype=torch.float64), 1.0), 1)

    def likelihood(self, z, frame):
        return Normal(z, 1.0)

    def posterior(self, batch: Batch):
        mean = self.gain.detach() * batch.x
        if self.dense:
            return MultivariateNormal(mean, self.noise**2 * torch.eye(mean.shape[1], dtype=mean.dtype))
        return Independent(Normal(mean, self.noise), 1)


# data are not drawn by seed 0: that is the one by which the posterior draws, and the noise would be the data's own


def correlated(count: int, correlation: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    covariance = torch.tensor([[1.0, correlation, 0], [correlation, 1.0, 0], [0, 0, 0.5]], dtype=torch.float64)
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    return noise @ torch.linalg.cholesky(covariance).mT, covariance


@pytest.mark.parametrize("dense", [False, True])
def test_the_parts_are_the_closed_forms(dense):
    x, covariance = correlated(2000)
    model = Channel(dense=dense)
    # z is normal with this covariance
    total = covariance + model.noise**2 * torch.eye(3, dtype=torch.float64)
    variance = total.diagonal()
    found = decompose(model, load(x, scale="none"), limit=2000)
    information = 0.5 * float(torch.logdet(total)) - 3 * math.log(model.noise)
    assert found.mutual_information == pytest.approx(information, abs=0.08)
    assert found.total_correlation == pytest.approx(0.5 * float(variance.log().sum() - torch.logdet(total)), abs=0.06)
    assert found.dimension_wise_kl == pytest.approx(0.5 * float((variance - 1 - variance.log()).sum()), abs=0.06)
    assert found.mutual_information < (found.upper or 0) < information + 0.1


def test_they_add_up_to_the_kl():
    x, _ = correlated(500)
    for model in (Channel(), Channel(gain=3.0), Channel(dense=True)):
        data = load(x, scale="none", weight=(torch.arange(500) % 3 + 0.5).numpy())
        found = decompose(model, data, limit=500)
        parts = found.mutual_information, found.total_correlation, found.dimension_wise_kl
        assert sum(part or 0 for part in parts) == pytest.approx(found.kl, abs=1e-9)
        batch = data.batch()
        exact = kl_terms(model.posterior(batch), Channel().prior(batch.frame))
        if exact is not None:
            share = batch.weights / batch.weights.sum()
            assert found.kl == pytest.approx(float((share * exact.sum(-1)).sum()), rel=0.1)


def test_near_the_ceiling_the_truth_lies_between():
    """Eight nats, on 400 data that cannot show more than 6: below it stays below, and the bound above holds."""
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    model = Channel(gain=0.935, noise=0.354)
    truth = 4 * math.log(1 + (0.935 / 0.354) ** 2)
    found = diagnose(model, load(x, scale="none"))
    assert found.mutual_information < found.mutual_information_ceiling + 0.01 == pytest.approx(math.log(400) + 0.01)
    assert truth > 8
    assert found.mutual_information < truth < (found.mutual_information_upper or 0) + 0.3
    assert "at most" in found.verdict


def test_leaving_a_datum_out_is_what_it_says():
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    model, weight = Channel(noise=1.5), torch.tensor([1.0, 2, 1, 3, 1, 1, 2], dtype=torch.float64)
    found = decompose(model, load(x, scale="none", weight=weight.numpy()))
    q = model.posterior(Batch(x))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = q.sample((found.draws or 0,))
    value = 0.0
    for m in range(7):
        others = [n for n in range(7) if n != m]
        each = torch.stack([weight[n] * q.log_prob(z[:, m : m + 1])[:, n].exp() for n in others]).sum(0)
        own = q.log_prob(z[:, m : m + 1])[:, m] - (each / weight[others].sum()).log()
        value += float(weight[m] / weight.sum() * own.mean())
    assert found.draws == 16
    assert found.upper == pytest.approx(value, abs=1e-9)


def test_the_parts_come_with_the_errors_that_they_have():
    """Over forty sets of data: the errors said are those made, and the bounds lie on their sides of the truth."""
    model, truth = Channel(gain=0.5, noise=0.9), 1.5 * math.log(1 + (0.5 / 0.9) ** 2)
    found = []
    for seed in range(40):
        x = torch.randn(150, 3, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
        found.append(decompose(model, load(x, scale="none"), seed=seed))
    for name, error in (("mutual_information", "mutual_information_se"), ("upper", "upper_se")):
        values = torch.tensor([getattr(one, name) for one in found], dtype=torch.float64)
        stated = torch.tensor([getattr(one, error) for one in found], dtype=torch.float64)
        # a standard deviation of 40 values is off by a ninth
        assert float(values.std() / stated.mean()) == pytest.approx(1, abs=4 / 9)
        side = 1 if name == "upper" else -1
        assert side * (float(values.mean()) - truth) > -3 * float(values.std()) / 40**0.5
    assert sum(one.mutual_information for one in found) < sum(one.upper or 0 for one in found)


def test_what_is_near_nothing_is_not_said_to_be_less():
    """Its noise is of second order, and nothing is cut off at 0, which would make the mean too large."""
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    truth = math.log(1 + 0.05**2)
    for seed in range(5):
        found = decompose(Channel(gain=0.05, noise=1.0), load(x, scale="none"), seed=seed)
        assert found.mutual_information == pytest.approx(truth, abs=4 * found.mutual_information_se)
        assert found.mutual_information_se < 0.3 * truth
        assert found.total_correlation is not None
        assert -1e-6 < found.total_correlation < 1e-3


def test_the_lesser_of_two_bounds_is_taken_beyond_doubt_alone():
    """One latent is N(0, 1) as its prior is, so that both bounds hold the same on average; eight are told apart."""
    model, truth = Channel(gain=0.6, noise=0.8), 0.5 * math.log(1 + (0.6 / 0.8) ** 2)
    values = []
    for seed in range(60):
        x = torch.randn(80, 1, generator=torch.Generator().manual_seed(200 + seed), dtype=torch.float64)
        values.append(decompose(model, load(x, scale="none"), seed=seed).upper or 0)
    found = torch.tensor(values, dtype=torch.float64)
    assert float(found.mean()) > truth - 2 * float(found.std()) / 60**0.5
    far = torch.randn(100, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    found = decompose(Channel(gain=0.995, noise=0.1), load(far, scale="none"))
    # leaving out says 150 nats and more
    assert found.upper == pytest.approx(4 * math.log(1 + 0.995**2 / 0.01), rel=0.1)


def test_errors_are_in_the_evaluation():
    x = torch.randint(2, (40, 5), generator=torch.Generator().manual_seed(11)).double()
    found = evaluate(VAE((5,), latent=2, hidden=(6,)).double(), load(x), importance_samples=20)
    for name in ("mutual_information", "mutual_information_upper", "total_correlation", "dimension_wise_kl"):
        assert getattr(found, f"{name}_se") > 0
    exact = evaluate(GaussianMixture(5, 2).double(), load(x))
    assert exact.mutual_information_se >= 0


def test_a_collapsed_posterior_has_nothing_to_take_apart():
    found = decompose(Channel(gain=0.0, noise=1.0), load(correlated(200)[0], scale="none"))
    assert found.mutual_information == pytest.approx(0, abs=1e-12)
    assert found.total_correlation == pytest.approx(0, abs=1e-12)
    assert found.dimension_wise_kl == pytest.approx(0, abs=1e-12)


def test_an_exact_gaussian_posterior_is_taken_apart():
    model = ProbabilisticPCA((6,), 2).double()
    model.weight.data = torch.randn(6, 2, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        (x, *_), _ = model.generate(Frame(3000))
    eye = torch.eye(2, dtype=torch.float64)
    truth = 0.5 * float(torch.logdet(eye + (model.weight.mT @ model.weight).detach()))
    found = decompose(model, load(x, scale="none"), limit=3000)
    assert found.mutual_information == pytest.approx(truth, rel=0.03)
    assert found.upper == pytest.approx(truth, rel=0.03)
    # x is the model's own, so z is the prior's: nothing else is left of the KL
    assert found.total_correlation == pytest.approx(0, abs=0.02)
    assert found.dimension_wise_kl == pytest.approx(0, abs=0.02)


def test_what_has_no_such_parts_says_so():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    found = diagnose(GaussianMixture(2, 3).double(), load(x))
    assert found.total_correlation is None
    assert found.dimension_wise_kl is None


def test_rate_and_distortion_are_the_bound():
    x = torch.randint(2, (40, 5), generator=torch.Generator().manual_seed(11)).double()
    found = evaluate(VAE((5,), latent=2, hidden=(6,)).double(), load(x), importance_samples=20)
    assert found.rate + found.distortion == pytest.approx(-found.elbo, abs=1e-12)
    assert (found.rate, found.distortion) == (found.kl, -found.reconstruction)
    parts = (found.mutual_information, found.total_correlation, found.dimension_wise_kl)
    assert sum(part or 0 for part in parts) == pytest.approx(found.kl, abs=0.5)  # sampled, 40 draws
