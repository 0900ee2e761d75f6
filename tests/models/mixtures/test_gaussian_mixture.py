"""The Gaussian mixture against scikit-learn, published figures and closed forms."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.mixture import GaussianMixture as Peer

from latentia.data import load
from latentia.errors import DataError
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import FactorialHMM, GaussianMixture, KMeans, ProbabilisticPCA
from latentia.tasks import complete

GEYSER = Path(__file__).parents[3] / ".." / "shared" / "data" / "tabular" / "geyser.csv"


def cloud(rows: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    x[: rows // 2] = x[: rows // 2] @ torch.diag(torch.tensor([0.3, 2.0, 1.0]).double()) + 3
    return x


@pytest.mark.skipif(not GEYSER.exists(), reason="the Old Faithful table is not beside the project")
def test_old_faithful():
    data = load(GEYSER, columns=["duration", "waiting"])
    model = GaussianMixture(features=2, components=2).double()
    EM(restarts=20, steps=1000, tol=1e-10).fit(model, data)
    with torch.no_grad():
        total = model.posterior(data.batch()).log_partition.sum().item()
    assert round(total, 3) == -1130.264
    assert sorted(model.weights.tolist()) == pytest.approx([0.3559, 0.6441], abs=1e-3)


def starting_precision(kind):
    eye = np.eye(3)
    return {"full": np.stack([eye] * 2), "tied": eye, "diag": np.ones((2, 3)), "spherical": np.ones(2)}[kind]


def as_matrices(covariances, kind):
    covariances = torch.from_numpy(covariances)
    if kind == "diag":
        return torch.diag_embed(covariances)
    if kind == "spherical":
        return covariances[:, None, None] * torch.eye(3, dtype=torch.float64)
    return covariances.expand(2, 3, 3)


KINDS = [("full", "full"), ("tied", "tied"), ("diagonal", "diag"), ("spherical", "spherical")]


@pytest.mark.parametrize(("ours", "theirs"), KINDS)
def test_em_steps_equal_scikit_learns(ours, theirs):
    x = cloud()
    means = x[[0, 299]]
    peer = Peer(
        2, covariance_type=theirs, reg_covar=0, tol=0, max_iter=7, means_init=means.numpy(),
        weights_init=[0.5, 0.5], precisions_init=starting_precision(theirs),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="did not converge"):
        peer.fit(x.numpy())
    model = GaussianMixture(3, 2, covariance=ours).double()
    model.means.data = means.clone()
    with pytest.warns(UserWarning, match="raise steps"):
        EM(steps=7, tol=0, fresh=False).fit(model, load(x))
    with torch.no_grad():
        assert torch.allclose(model.means, torch.from_numpy(peer.means_), atol=1e-8)
        assert torch.allclose(model.covariances, as_matrices(peer.covariances_, theirs), atol=1e-8)
        scores = model.posterior(Batch(x)).log_partition
    assert np.allclose(scores.numpy(), peer.score_samples(x.numpy()), atol=1e-6)


def test_far_away_data_lose_no_digits():
    x = cloud()
    with torch.no_grad():
        totals = []
        for shift in (0.0, 1e6):
            model = GaussianMixture(3, 2).double()
            EM(tol=1e-8).fit(model, load(x + shift))
            totals.append(model.posterior(Batch(x + shift)).log_partition.mean().item())
    assert totals[0] == pytest.approx(totals[1], abs=1e-6)


def test_a_component_on_a_single_point_is_floored_not_fatal():
    x = torch.cat([cloud(60), torch.full((3, 3), 50.0, dtype=torch.float64)])
    model = GaussianMixture(3, 4).double()
    EM(restarts=3).fit(model, load(x))
    assert model.covariances.isfinite().all()
    least = torch.linalg.eigvalsh(model.covariances / x.var(0).sqrt() / x.var(0).sqrt().unsqueeze(-1)).amin().item()
    assert least >= 0.9e-6


@pytest.mark.parametrize("values", [torch.zeros(5, 2), torch.ones(1, 2), torch.eye(2).repeat(3, 1)])
def test_degenerate_tables_give_numbers(values):
    model = GaussianMixture(2, 3).double()
    EM().fit(model, load(values.double()))
    with torch.no_grad():
        assert model.posterior(Batch(values.double())).log_partition.isfinite().all()


def test_em_with_holes_fits_better_than_dropping_them():
    x = cloud(400)
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    torn = load(torch.where(holes, torch.nan, x))
    whole = load(x[~holes.any(1)])
    scores = []
    for data in (torn, whole):
        model = GaussianMixture(3, 2).double()
        EM(restarts=3).fit(model, data)
        with torch.no_grad():
            scores.append(model.posterior(Batch(x)).log_partition.mean().item())
    assert scores[0] > scores[1]


@pytest.mark.skipif(not GEYSER.exists(), reason="the Old Faithful table is not beside the project")
def test_old_faithful_tied():
    data = load(GEYSER, columns="duration,waiting")
    model = GaussianMixture(features=2, components=3, covariance="tied", floor=0).double()
    # of 60 random starts at least half end at the maximum: all ten elsewhere is less than one in a thousand
    EM(restarts=10, steps=2000, tol=1e-11).fit(model, data)
    with torch.no_grad():
        total = model.posterior(data.batch()).log_partition.sum().item()
    assert total == pytest.approx(-1126.316, abs=1e-3)


def exactly(model, x):
    """log p(x) by `MultivariateNormal`, one component at a time."""
    terms = [
        weight.log() + torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
        for weight, mean, covariance in zip(model.weights, model.means, model.covariances, strict=True)
    ]
    return torch.logsumexp(torch.stack(terms), 0)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical", "common"])
@pytest.mark.parametrize("width", [1e-7, 1e-3, 1.0])
def test_a_component_far_tighter_than_the_data_loses_no_digits(covariance, width):
    """Quadratic features cancel there, so the Cholesky factor must take over."""
    generator = torch.Generator().manual_seed(0)
    model = GaussianMixture(3, 2, covariance=covariance, floor=0).double()
    model.means.data = torch.tensor([[1.0, 2.0, 3.0], [-40.0, 0.0, 5.0]]).double()
    scale = model.emissions.log_scale
    scale.data = torch.full_like(scale, np.log(width))
    x = model.means[0] + width * torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = model.posterior(Batch(x)).log_partition, exactly(model, x)
        sums, value = model.expect(Batch(x))
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-8)
    assert float(value) == pytest.approx(float(theirs.sum()), rel=1e-9)
    assert all(part.isfinite().all() for part in sums.values())


def test_float32_takes_the_cholesky_factor_where_it_must():
    generator = torch.Generator().manual_seed(0)
    model = GaussianMixture(2, 2, floor=0)
    model.means.data = torch.tensor([[1.0, 2.0], [-4.0, 0.0]])
    model.emissions.log_scale.data[0] = np.log(1e-3)
    x = model.means.data[0] + 1e-3 * torch.randn(1000, 2, generator=generator)
    with torch.no_grad():
        ours = model.posterior(Batch(x)).log_partition.double()
        theirs = exactly(model.double(), x.double())
    assert float((ours - theirs).abs().max()) < 0.05


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical", "common"])
def test_many_rows_with_many_patterns_of_holes(covariance):
    """Patterns that many rows share and patterns of a single row give the marginals of the observed coordinates."""
    generator = torch.Generator().manual_seed(0)
    model, x = GaussianMixture(3, 2, covariance=covariance).double(), cloud(300)
    EM(steps=3, tol=0).fit(model, load(x))
    holes = torch.rand(x.shape, generator=generator) < 0.3
    holes[:40] = torch.tensor([True, False, False])
    batch = Batch.of(torch.where(holes, torch.nan, x))
    with torch.no_grad():
        found = model.posterior(batch).log_partition
        for row in range(0, 300, 7):
            seen = ~holes[row]
            terms = [
                weight.log() + torch.distributions.MultivariateNormal(m[seen], c[seen][:, seen]).log_prob(x[row, seen])
                for weight, m, c in zip(model.weights, model.means, model.covariances, strict=True)
                if seen.any()
            ]
            truth = torch.logsumexp(torch.stack(terms), 0).item() if terms else 0.0
            assert found[row].item() == pytest.approx(truth, abs=1e-8)


def test_conditioning_gives_the_exact_conditional_mixture():
    model = GaussianMixture(3, 2).double()
    EM(restarts=2).fit(model, load(cloud()))
    seen, hidden = torch.tensor([2.5, torch.nan, 1.0]).double(), torch.linspace(-4, 8, 50).double()
    conditional = model.condition(seen)
    x = torch.stack([seen[0].expand(50), hidden, seen[2].expand(50)], 1)
    with torch.no_grad():
        joint = model.posterior(Batch(x)).log_partition
        marginal = model.posterior(Batch.of(seen.unsqueeze(0))).log_partition
        found = conditional.posterior(Batch(hidden.unsqueeze(-1))).log_partition
    assert torch.allclose(found, joint - marginal, atol=1e-9)
    with pytest.raises(DataError, match="nothing to condition"):
        model.condition(torch.zeros(3))


def test_completion_draws_from_the_conditional():
    model = GaussianMixture(3, 2).double()
    EM(restarts=2).fit(model, load(cloud()))
    seen = torch.tensor([2.5, torch.nan, 1.0]).double()
    found = complete(model, Batch.of(seen.unsqueeze(0)), draws=20_000, seed=0)
    conditional = model.condition(seen)
    expected = float((conditional.weights @ conditional.means).squeeze())
    drawn = found.draws[:, 0, 1].double()
    assert float(drawn.mean()) == pytest.approx(expected, abs=6 * float(drawn.std()) / 20_000**0.5)


def test_a_collapsed_component_is_warned_about_by_number():
    x = torch.cat([cloud(60), torch.full((3, 3), 50.0, dtype=torch.float64)])
    with pytest.warns(UserWarning, match=r"variance of component \d+ is at its floor.*fewer components"):
        EM(restarts=3).fit(GaussianMixture(3, 4).double(), load(x))


def test_components_come_by_falling_weight():
    model = GaussianMixture(3, 3).double()
    EM().fit(model, load(cloud()))
    assert model.weights.tolist() == sorted(model.weights.tolist(), reverse=True)


def test_hard_em_is_lloyd_as_the_covariance_shrinks():
    x = cloud(200)
    centers = x[[0, 50, 150]]
    lloyd = SklearnKMeans(3, init=centers.numpy(), n_init=1, max_iter=1, tol=0, algorithm="lloyd").fit(x.numpy())
    nearest = torch.cdist(x, centers).argmin(1)
    shares = []
    for width in (3.0, 1.0, 1e-2, 1e-4):
        model = GaussianMixture(3, 3, covariance="spherical").double()
        model.logits.data = torch.tensor([0.7, 0.2, 0.1]).double().log()
        model.means.data, model.emissions.log_scale.data = centers.clone(), torch.full((3, 1), np.log(width)).double()
        with torch.no_grad():
            chosen = model.posterior(Batch(x)).mode.argmax(-1)
            model.update(model.expect(Batch(x), hard=True)[0])
        shares.append((chosen == nearest).double().mean().item())
    assert shares[0] < 1
    assert shares[-2:] == [1.0, 1.0]
    means = torch.stack([x[nearest == k].mean(0) for k in range(3)])
    assert torch.allclose(model.means, means, atol=1e-12)
    assert lloyd.n_iter_ == 1


PENGUINS = GEYSER.with_name("penguins.csv")
MEASURES = "bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g"


@pytest.mark.skipif(not PENGUINS.exists(), reason="the penguins are not beside the project")
@pytest.mark.parametrize(("ours", "theirs"), KINDS)
def test_penguins_complete_rows_equal_scikit_learns(ours, theirs):
    whole = load(PENGUINS, columns=MEASURES)
    assert whole.mask is not None
    x = whole.x[whole.mask.all(1)]
    x = (x - x.mean(0)) / x.std(0)
    starts = x[[0, 150, 300]]
    eye = np.eye(4)
    precision = {"full": np.stack([eye] * 3), "tied": eye, "diag": np.ones((3, 4)), "spherical": np.ones(3)}[theirs]
    peer = Peer(
        3, covariance_type=theirs, reg_covar=0, tol=0, max_iter=30, means_init=starts.numpy(),
        weights_init=np.full(3, 1 / 3), precisions_init=precision,
    )  # fmt: skip
    model = GaussianMixture(4, 3, covariance=ours).double()
    model.means.data = starts.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are stopped early
        peer.fit(x.numpy())
        EM(steps=30, tol=0, fresh=False).fit(model, load(x))
    with torch.no_grad():
        scores = model.posterior(Batch(x)).log_partition
    assert np.allclose(scores.numpy(), peer.score_samples(x.numpy()), atol=1e-6)
    assert np.allclose(model.means.numpy(force=True), peer.means_, atol=1e-6)


@pytest.mark.skipif(not PENGUINS.exists(), reason="the penguins are not beside the project")
def test_penguins_with_their_missing_values():
    """All rows are used, and what a row misses is integrated out: EM climbs, and log p(x) is the marginal's."""
    data = load(PENGUINS, columns=MEASURES, scale="standard")
    model = GaussianMixture(4, 3).double()
    history = EM(restarts=3, tol=1e-8, steps=2000).fit(model, data)
    assert history.stopped == "converged"
    batch = data.batch()
    with torch.no_grad():
        scores = model.posterior(batch).log_partition
        torn = (~batch.observed.all(1)).nonzero().flatten()
        assert len(torn) == 2
        for row in torn.tolist():
            seen = batch.observed[row]
            terms = [
                w.log() + torch.distributions.MultivariateNormal(m[seen], c[seen][:, seen]).log_prob(batch.x[row, seen])
                if seen.any()
                else w.log()
                for w, m, c in zip(model.weights, model.means, model.covariances, strict=True)
            ]
            assert scores[row].item() == pytest.approx(torch.logsumexp(torch.stack(terms), 0).item(), abs=1e-9)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_a_tiny_value_beside_data_of_no_weight_is_as_good_as_zero(covariance):
    x = torch.tensor([[0.0, 6e-183], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    model = GaussianMixture(2, 1, covariance=covariance).double()
    EM(steps=1, progress=False).fit(model, load(x, weight=torch.tensor([1.0, 1.0, 0.0])))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


# ------------------------------------------------------------------------------------ float32 far from the origin


def far_away(offset, dtype):
    """Two clusters 20 apart around an offset, as float32 has them, and a column that does not vary."""
    random = np.random.default_rng(0)
    x = np.array([[0.0, 0.0], [20.0, 10.0]])[np.arange(400) % 2] + 3 * random.normal(size=(400, 2))
    return torch.from_numpy((x + offset).astype(np.float32)).to(dtype)


@pytest.mark.parametrize("offset", [2e5, -5.4e6])
@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical", "common"])
def test_float32_far_from_the_origin_learns_what_float64_does(covariance, offset):
    """|mean| / sd up to two million: moments and centring are in float64, and constant is what has one value."""
    values, spreads = [], []
    for dtype in (torch.float32, torch.float64):
        model = GaussianMixture(2, 2, covariance).to(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            history = EM(steps=100, tol=1e-4, progress=False).fit(model, Batch(far_away(offset, dtype)))
        values.append(history.records[-1]["log_marginal"])
        spreads.append(model.covariances.detach().double().sort(0).values)
    # a mean may be half of float32's step from the best one: 0.25 of a sd of 3 there
    assert values[0] == pytest.approx(values[1], abs=0.02)
    torch.testing.assert_close(spreads[0], spreads[1], rtol=0.03, atol=0.2)


@pytest.mark.parametrize("kind", [KMeans, ProbabilisticPCA, FactorialHMM])
def test_other_models_far_from_the_origin_do_too(kind):
    values = []
    for dtype in (torch.float32, torch.float64):
        x = far_away(5.4e6, dtype)
        if kind is FactorialHMM:
            model, x = FactorialHMM(2, 1, 2), x.view(20, 20, 2)
        else:
            model = KMeans(2, 2) if kind is KMeans else ProbabilisticPCA((2,), 1)
        learner = EM(steps=100, tol=1e-3, hard=kind is KMeans, progress=False)
        values.append(learner.fit(model.to(dtype), Batch(x)).records[-1]["log_marginal"] / x[0, ..., 0].numel())
    assert values[0] == pytest.approx(values[1], abs=0.02)


def test_constant_columns_are_blamed_where_there_are_some_and_named():
    x = far_away(5.4e6, torch.float32)
    x[1:100:2] = x[1]
    for columns, said in ((x, False), (torch.cat([x, torch.full((400, 1), 0.1)], 1), True)):
        model = GaussianMixture(columns.shape[1], 3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            EM(steps=100, tol=1e-3, progress=False).fit(model, Batch(columns))
        words = " ".join(str(one.message) for one in caught)
        assert "at its floor" in words
        assert ("constant columns (3)" in words) == ("constant" in words) == said


def test_precision_is_blamed_where_it_is_short():
    model = GaussianMixture(2, 1)
    x = far_away(1e8, torch.float32)
    with pytest.warns(UserWarning, match="column 1, 2 lies so far from 0 that float32"):
        EM(steps=5, tol=1e-3, progress=False).fit(model, Batch(x))


def test_a_cast_model_tells_what_the_cast_loses():
    model = GaussianMixture(2, 2).double()
    EM(steps=20, tol=1e-3, progress=False).fit(model, Batch(far_away(0, torch.float64) + torch.tensor([0, 1e9])))
    with pytest.warns(UserWarning, match="float32 moves the means of column 2 by more than"):
        model.float()
    near = GaussianMixture(2, 2).double()
    near.means.data += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near.float().double()
