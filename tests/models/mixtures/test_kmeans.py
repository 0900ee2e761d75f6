"""k-means against scikit-learn's Lloyd iterations, and the kernel against distances written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as Peer

from latentia.data import load
from latentia.kernels.lloyd import nearest
from latentia.learners import EM
from latentia.model import Batch, ExactModel
from latentia.models import KMeans


def blobs(rows: int = 600, features: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = 4 * torch.randn(6, features, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, features, generator=generator, dtype=torch.float64)
    return centers[torch.randint(6, (rows,), generator=generator)] + noise


@pytest.mark.parametrize("steps", [1, 3, 25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_em_is_lloyds_algorithm(steps, dtype):
    x = blobs().to(dtype)
    starts = x[::100]
    peer = Peer(len(starts), init=starts.numpy(), n_init=1, max_iter=steps, tol=0, algorithm="lloyd").fit(x.numpy())
    model = KMeans(5, len(starts)).to(dtype)
    model.means.data = starts.clone()
    with torch.no_grad():
        for _ in range(steps):
            model.update(model.expect(Batch(x), hard=True)[0])
        chosen = model.posterior(Batch(x)).mode.argmax(-1)
    assert np.allclose(
        model.means.numpy(force=True), peer.cluster_centers_, atol=1e-4 if dtype == torch.float32 else 1e-9
    )
    assert np.array_equal(chosen.numpy(), peer.labels_)


def test_the_variance_is_the_inertia_per_coordinate():
    x = blobs()
    model = KMeans(5, 6).double()
    EM(hard=True, restarts=3, tol=0).fit(model, load(x))
    inertia = torch.cdist(x, model.means.detach()).amin(1).square().sum().item()
    assert model.covariances[0, 0, 0].item() == pytest.approx(inertia / x.numel(), rel=1e-6)


def test_restarts_find_the_inertia_that_the_peer_finds():
    x = blobs()
    model = KMeans(5, 6).double()
    EM(hard=True, restarts=10).fit(model, load(x))
    peer = Peer(6, n_init=10, random_state=0).fit(x.numpy())
    inertia = torch.cdist(x, model.means.detach()).amin(1).square().sum().item()
    assert inertia <= peer.inertia_ * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700), st.integers(1, 20), st.integers(1, 9), st.booleans(), st.integers(0, 10**6))
def test_the_kernel_is_the_plain_computation(rows, features, states, single, seed):
    generator = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    x = generator.normal(size=(rows, features)).astype(dtype)
    centers = generator.normal(size=(states, features)).astype(dtype)
    shift = generator.normal(size=features).astype(dtype)
    weight = generator.integers(0, 3, rows).astype(dtype)
    sums, counts, squares = np.zeros((states, features)), np.zeros(states), np.zeros(features)
    inverse = dtype(0.5)
    inertia = nearest(x, shift, inverse, centers, weight, sums, counts, squares)
    away = (x.astype(np.float64) - shift) / 2
    distance = ((away[:, None] - centers) ** 2).sum(2)
    tolerance = 1e-3 if single else 1e-8
    assert inertia == pytest.approx(
        (weight * distance.min(1, initial=np.inf)).sum() if rows else 0.0, abs=tolerance * (1 + rows)
    )
    assert np.allclose(squares, (weight[:, None] * away**2).sum(0), atol=tolerance * (1 + rows))
    assert counts.sum() == weight.sum()
    assert np.allclose(sums.sum(0), (weight[:, None] * away).sum(0), atol=tolerance * (1 + rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fused_step_is_the_plain_one(dtype):
    x = blobs(400).to(dtype)
    model = KMeans(5, 4).to(dtype)
    model.start(Batch(x), torch.Generator().manual_seed(0))
    batch = Batch(x, weight=torch.linspace(0, 2, 400, dtype=dtype))
    with torch.no_grad():
        sums, value = model.expect(batch, hard=True)
        expected, total = ExactModel.expect(model, batch, hard=True)
    assert float(value) == pytest.approx(float(total), rel=1e-5)
    for name, statistic in expected.items():
        assert torch.allclose(sums[name], statistic, rtol=1e-4, atol=1e-3), name


def test_missing_coordinates_count_by_what_is_seen():
    x = blobs(300)
    x[::3, 1] = torch.nan
    model = KMeans(5, 6).double()
    history = EM(hard=True, restarts=5).fit(model, load(x))
    assert history.stopped == "converged"
    assert model.means.isfinite().all()


def test_far_away_data_lose_no_digits():
    x = blobs()
    found = []
    for shift in (0.0, 1e7):
        model = KMeans(5, 6).double()
        EM(hard=True).fit(model, load(x + shift))
        found.append(model.means.detach() - shift)
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_conditioning_gives_the_exact_conditional_mixture():
    x = blobs(100, 3)
    model = KMeans(3, 4).double()
    EM(hard=True, progress=False).fit(model, load(x))
    seen, hidden = [float(x[0, 0]), float("nan"), float(x[0, 2])], torch.linspace(-6, 6, 9).double()
    conditional = model.condition(seen)
    whole = torch.stack([x[0, 0].expand(9), hidden, x[0, 2].expand(9)], 1)
    with torch.no_grad():
        joint = model.posterior(Batch(whole)).log_partition
        marginal = model.posterior(Batch.of(torch.tensor([seen]).double())).log_partition
        found = conditional.posterior(Batch(hidden.unsqueeze(-1))).log_partition
    assert torch.allclose(found, joint - marginal, atol=1e-9)
