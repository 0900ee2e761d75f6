"""Rows of which not all is seen, under K Gaussians: what each row adds, given what all rows of its pattern share.

Pattern p is a set of coordinates that are seen. Rows y (M, D) are 0 where nothing is seen, and `which` (M,) says which
pattern each row has.
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def add_log_normals(y, which, seen, means, whitening, constant, total):
    """Add log N(y_m; mean_k, covariance_k) of what is seen to total (M, K).

    whitening (P, K or 1, D, D) is the inverse of the Cholesky factor of the seen coordinates' covariance, with zeros
    elsewhere; constant (P, K or 1) what does not depend on y; seen (P, D) is 1 or 0.
    """
    features, tied = y.shape[1], whitening.shape[1] == 1
    away = np.empty(features, y.dtype)
    for m in range(y.shape[0]):
        p = which[m]
        for k in range(means.shape[0]):
            own = 0 if tied else k
            for d in range(features):
                away[d] = (y[m, d] - means[k, d]) * seen[p, d]
            square = 0.0
            for i in range(features):
                white = 0.0
                for j in range(i + 1):
                    white += whitening[p, own, i, j] * away[j]
                square += white * white
            total[m, k] += constant[p, own] - 0.5 * square


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz", "contract"})
def add_moments(y, which, responsibility, count, first, square):
    """Add each row's responsibility (M, K) to count (P, K), times y to first (P, K, D), and times the lower half of
    y y' to square (P, K, D, D)."""
    features = y.shape[1]
    for m in range(y.shape[0]):
        p = which[m]
        for k in range(responsibility.shape[1]):
            share = responsibility[m, k]
            count[p, k] += share
            for i in range(features):
                part = share * y[m, i]
                first[p, k, i] += part
                for j in range(i + 1):
                    square[p, k, i, j] += part * y[m, j]
