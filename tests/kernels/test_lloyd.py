"""The nearest centre against distances written out, for every number of centres that the passes leave over."""

import numpy as np
import pytest

from latentia.kernels.lloyd import nearest


@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_is_the_argmin_of_the_distances_and_of_equals_the_first(states, dtype):
    random = np.random.default_rng(states)
    # whole numbers, of which distances are exact and often equal
    x = random.integers(-2, 3, size=(700, 3)).astype(dtype)
    centers = random.integers(-2, 3, size=(states, 3)).astype(dtype)
    weight = random.random(700).astype(dtype)
    sums, counts, squares = np.zeros((states, 3)), np.zeros(states), np.zeros(3)
    inertia = nearest(x, np.zeros(3, dtype), dtype(1), centers, weight, sums, counts, squares)
    distances = ((x[:, None].astype(np.float64) - centers) ** 2).sum(-1)
    member = np.eye(states)[distances.argmin(1)] * weight.astype(np.float64)[:, None]
    np.testing.assert_allclose(counts, member.sum(0), rtol=1e-12)
    np.testing.assert_allclose(sums, member.T @ x, rtol=1e-12, atol=1e-12)
    assert inertia == pytest.approx(distances.min(1) @ weight, rel=1e-6)
