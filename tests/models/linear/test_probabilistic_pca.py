"""Probabilistic PCA against scikit-learn, the normal density itself, and its conditionals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentia.data import load
from latentia.distributions.canonical import CanonicalGaussian
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import EM, Gradient
from latentia.model import Batch, Frame
from latentia.models import ProbabilisticPCA
from latentia.tasks import complete, encode, interpolate

DIGITS = torch.from_numpy(load_digits().data)


def started(x: torch.Tensor, latent: int, **options) -> ProbabilisticPCA:
    model = ProbabilisticPCA((x.shape[1],), latent, **options).double()
    model.start(Batch.of(x), torch.Generator())
    return model


def covariance(model: ProbabilisticPCA) -> torch.Tensor:
    weight = model.weight.detach()
    return weight @ weight.mT + math.exp(2 * model.log_noise.item()) * (torch.eye(len(weight), dtype=weight.dtype))


def normal(model: ProbabilisticPCA) -> MultivariateNormal:
    return MultivariateNormal(model.mean.detach(), covariance(model))


def log_marginal(model: ProbabilisticPCA, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.posterior(Batch.of(x)).log_partition


@pytest.mark.parametrize("latent", [2, 10, 40])
def test_the_score_is_scikit_learns(latent):
    peer = PCA(latent, svd_solver="full").fit(DIGITS.numpy())
    model = started(DIGITS, latent)
    # scikit-learn divides by N - 1, which is not the maximum of the likelihood
    count = len(DIGITS)
    assert np.allclose(covariance(model) * count / (count - 1), peer.get_covariance(), atol=1e-10)
    model.weight.data *= math.sqrt(count / (count - 1))
    model.log_noise.data += 0.5 * math.log(count / (count - 1))
    assert np.allclose(log_marginal(model, DIGITS), peer.score_samples(DIGITS.numpy()), atol=1e-8, rtol=0)
    assert float(log_marginal(model, DIGITS).mean()) == pytest.approx(peer.score(DIGITS.numpy()), abs=1e-8)


def test_the_codes_span_scikit_learns():
    model = started(DIGITS, 5)
    model.canonical()
    peer = PCA(5, svd_solver="full").fit(DIGITS.numpy())
    codes = encode(model, load(DIGITS.numpy(), scale="none"))
    scores = torch.from_numpy(peer.transform(DIGITS.numpy()))
    agreement = torch.corrcoef(torch.cat([codes, scores], 1).T)[:5, 5:].abs()
    assert torch.allclose(agreement, torch.eye(5, dtype=torch.float64), atol=1e-6)


def test_the_start_is_where_em_stands_still():
    model = started(DIGITS, 6)
    before = log_marginal(model, DIGITS).mean()
    batch = Batch.of(DIGITS)
    with torch.no_grad():
        model.update(model.expect(batch)[0])
    assert log_marginal(model, DIGITS).mean() == pytest.approx(float(before), abs=1e-9)
    value = model.posterior(batch).log_partition.mean()
    for slope in torch.autograd.grad(value, list(model.parameters())):
        assert slope.abs().max() < 1e-8


def test_em_finds_the_closed_form_from_anywhere():
    x = DIGITS[:300, 16:32]
    model, best = ProbabilisticPCA((16,), 3).double(), started(x, 3)
    model.weight.data = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model.center.copy_(x.mean(0))
    EM(steps=2000, tol=1e-12, fresh=False).fit(model, load(x.numpy(), scale="none"))
    assert float(log_marginal(model, x).mean()) == pytest.approx(float(log_marginal(best, x).mean()), abs=1e-7)
    assert torch.allclose(covariance(model), covariance(best), atol=1e-3)


def test_the_gradient_finds_it_too():
    x = DIGITS[:300, 16:24] / 4
    model, best = ProbabilisticPCA((8,), 2).double(), started(x, 2)
    Gradient(lr=0.05, epochs=300, batch_size=300, fresh=False).fit(model, load(x.numpy(), scale="none"))
    assert float(log_marginal(best, x).mean() - log_marginal(model, x).mean()) < 0.02


def with_holes(x: torch.Tensor, share: float = 0.3) -> torch.Tensor:
    x = x.clone()
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share] = torch.nan
    return x


def test_missing_values_are_marginalised():
    x = DIGITS[:40, 16:32]
    model, holes = started(x, 4), with_holes(x)
    whole = normal(model)
    for row, value in zip(holes, log_marginal(model, holes), strict=True):
        seen = ~row.isnan()
        part = MultivariateNormal(whole.mean[seen], whole.covariance_matrix[seen][:, seen])
        assert float(value) == pytest.approx(float(part.log_prob(row[seen])), abs=1e-9)


def test_em_climbs_with_values_missing():
    x = DIGITS[:400, 16:32]
    holes = with_holes(x)
    model = started(holes, 3)
    before = log_marginal(model, holes).mean()
    EM(steps=300, tol=1e-8).fit(model, load(holes.numpy(), scale="none"))
    after = log_marginal(model, holes).mean()
    assert after > before + 0.2
    # what it has learned of the complete data is near what they themselves teach
    assert float(log_marginal(started(x, 3), x).mean() - log_marginal(model, x).mean()) < 1.0


def test_a_column_that_nobody_has_seen_is_no_trouble():
    x = DIGITS[:100, 16:24].clone()
    x[:, 3] = torch.nan
    model = started(x, 2)
    with torch.no_grad():
        model.update(model.expect(Batch.of(x))[0])
    assert log_marginal(model, x).isfinite().all()
    assert model.weight[3].abs().max().item() == 0


def test_completion_is_the_conditional_normal():
    x = DIGITS[:300, 16:28]
    model = started(x, 3)
    whole, row = normal(model), x[7].clone()
    hidden = torch.arange(12) % 3 == 0
    row[hidden] = torch.nan
    gain = torch.linalg.solve(whole.covariance_matrix[~hidden][:, ~hidden], whole.covariance_matrix[~hidden][:, hidden])
    mean = whole.mean[hidden] + (x[7] - whole.mean)[~hidden] @ gain
    left = whole.covariance_matrix[hidden][:, hidden] - whole.covariance_matrix[hidden][:, ~hidden] @ gain
    found = complete(model, Batch.of(row.unsqueeze(0)), draws=20_000)
    assert torch.allclose(found.mean[0, hidden], mean, atol=1e-9)
    draws = found.draws[:, 0, hidden]
    assert torch.allclose(draws.T.cov(), left, atol=0.06 * float(left.diagonal().max()))


def test_far_away_data_lose_no_digits():
    x = DIGITS[:200, 16:24]
    near, far = (load((x + shift).numpy(), scale="none") for shift in (0.0, 1e7))
    values = []
    for data in (near, far):
        model = ProbabilisticPCA((8,), 2).double()
        EM(steps=5).fit(model, data)
        values.append(evaluate(model, data).log_marginal)
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_data_in_few_dimensions_stay_finite_and_are_named():
    line = torch.linspace(-1, 1, 50, dtype=torch.float64).unsqueeze(1) * torch.tensor([[1.0, 2.0, -1.0]])
    model = ProbabilisticPCA((3,), 1).double()
    with pytest.warns(UserWarning, match="noise is at its floor"):
        EM(steps=3).fit(model, load(line.numpy(), scale="none"))
    assert math.exp(2 * float(model.log_noise)) == pytest.approx(1e-6 * float(line.var(0, unbiased=False).mean()))
    assert log_marginal(model, line).isfinite().all()


def test_images_keep_their_shape():
    data = load("digits", scale="none", values="real").subset(slice(0, 100))
    model = ProbabilisticPCA((8, 8), 4).double()
    EM(steps=3).fit(model, data)
    assert model.generate(Frame(3))[0].x.shape == (3, 8, 8)
    assert interpolate(model, data.batch(slice(0, 2), torch.float64), steps=3).shape == (1, 3, 8, 8)
    found = evaluate(model, data)
    assert found.method == "exact"
    assert found.elbo == pytest.approx(found.log_marginal, abs=1e-9)
    assert found.rate + found.distortion == pytest.approx(-found.elbo, abs=1e-9)


def test_what_does_not_fit_is_refused():
    with pytest.raises(OptionError, match=r"latent=4: choose from 1 to 3"):
        ProbabilisticPCA((4,), 4)
    with pytest.raises(DataError, match="shape"):
        ProbabilisticPCA((4,), 2).check(Batch(torch.zeros(3, 5)))


class TestCanonicalGaussian:
    @staticmethod
    def some(shared: bool) -> tuple[CanonicalGaussian, MultivariateNormal]:
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(*(() if shared else (4,)), 3, 5, generator=generator, dtype=torch.float64)
        linear, constant = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,)))
        q = CanonicalGaussian(constant, linear, root @ root.mT)
        return q, MultivariateNormal(q.mean, precision_matrix=root @ root.mT)

    @pytest.mark.parametrize("shared", [True, False])
    def test_it_is_the_normal(self, shared):
        q, peer = self.some(shared)
        z = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        assert torch.allclose(q.log_prob(z), peer.log_prob(z), atol=1e-10)
        assert torch.allclose(q.score(z) - q.log_partition, q.log_prob(z), atol=1e-10)
        assert torch.allclose(q.entropy(), peer.entropy(), atol=1e-10)
        assert torch.allclose(q.variance, peer.variance, atol=1e-10)
        assert torch.allclose(q.hard().log_partition, q.score(q.mean), atol=1e-12)
        # every draw against every datum, as the aggregate posterior has them
        assert torch.allclose(q.log_prob(z[0].unsqueeze(1)), peer.log_prob(z[0].unsqueeze(1)), atol=1e-10)

    @pytest.mark.parametrize("shared", [True, False])
    def test_draws_and_divergence(self, shared):
        q, peer = self.some(shared)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            z = q.rsample((100_000,))
        for b in range(4):
            assert torch.allclose(z[:, b].T.cov(), peer.covariance_matrix[b], rtol=0.05, atol=0.03)
        loc, scale = torch.randn(4, 3).double(), torch.rand(4, 3).double() + 0.5
        wide = MultivariateNormal(loc, torch.diag_embed(scale**2))
        assert torch.allclose(kl_divergence(q, Independent(Normal(loc, scale), 1)), kl_divergence(peer, wide))
