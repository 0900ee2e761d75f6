"""The Gaussian mixture against scikit-learn, published figures and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Peer

from latentia.data import load
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import GaussianMixture

GEYSER = Path(__file__).parents[2] / ".." / "shared" / "data" / "tabular" / "geyser.csv"


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


@pytest.mark.parametrize(("ours", "theirs"), [("full", "full"), ("diagonal", "diag")])
def test_em_steps_equal_scikit_learns(ours, theirs):
    x = cloud()
    means = x[[0, 299]]
    peer = Peer(
        2, covariance_type=theirs, reg_covar=0, tol=0, max_iter=7, means_init=means.numpy(),
        weights_init=[0.5, 0.5], precisions_init=np.stack([np.eye(3)] * 2) if ours == "full" else np.ones((2, 3)),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="did not converge"):
        peer.fit(x.numpy())
    model = GaussianMixture(3, 2, covariance=ours).double()
    model.means.data = means.clone()
    with pytest.warns(UserWarning, match="raise steps"):
        EM(steps=7, tol=0, fresh=False).fit(model, load(x))
    with torch.no_grad():
        assert torch.allclose(model.means, torch.from_numpy(peer.means_), atol=1e-8)
        covariances = torch.from_numpy(peer.covariances_)
        covariances = covariances if ours == "full" else torch.diag_embed(covariances)
        assert torch.allclose(model.covariances, covariances, atol=1e-8)
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
