"""Variational inference for bags of words under topics: coordinate ascent, a document at a time.

Documents are their different words with counts, those of document d at `starts[d]` to `starts[d + 1]`. Given the
topics beta, q(theta) = Dirichlet(gamma) and the topic of word v is k with probability phi_k (Blei, Ng and Jordan 2003,
section 5.2):

    phi_k = exp(psi(gamma_k)) beta[k, v] / norm_v,      norm_v = sum_k exp(psi(gamma_k)) beta[k, v]
    gamma_k = concentration_k + sum_v count_v phi_k

The factor exp(-psi(sum gamma)), which cancels in phi, is left out. So all that is asked of special functions is
exp(psi(x)), which needs one exponential and no logarithm, and is written out here: numba's own exp is slow.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import torch
from torch import Tensor

from latentia.kernels.bags import check_rows
from latentia.kernels.compiled import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
# exp(psi(y + 1/2)) = y + 1/(24 y) - 37/(5760 y^3) + ...; at y > 11 what is left out is below 2e-13 of it
SERIES = (1 / 24, -37 / 5760, 10313 / 2903040, -5509121 / 1393459200)
EXP = tuple(1 / factorial(n) for n in range(12))
LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
LEAST_LOG, LEAST = -700.0, 1e-300


def posterior(
    x: Tensor,
    mask: Tensor | None,
    topics: Tensor,
    concentration: Tensor,
    weight: Tensor,
    steps: int = 100,
    tol: float = 1e-4,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q(theta | x) of padded documents x (B, T), in float64 on the CPU.

    Args:
        topics: (K, V) of any scale: exp(E log beta) where the topics themselves have a posterior.
        weight: (B,), of each document in the expected counts.
        steps, tol: at most so many rounds, or until the mean |change| of gamma is less, in words.
        start: gamma to begin from; concentration + N / K where none is given.

    Returns:
        gamma (B, K); sum_t log sum_k exp(E_q log theta_k) topics[k, x_t], (B,), a lower bound on E_q log p(x | theta);
        and how often each topic is expected to have given each word, (K, V).
    """
    starts, words, counts = _bags(x, mask, topics.shape[1])
    lengths = torch.full(x.shape[:1], x.shape[1]) if mask is None else mask.sum(1)
    beta, prior = topics.double().T.contiguous(), concentration.double()
    gamma = prior + lengths.unsqueeze(-1) / len(prior) if start is None else start.double().clone()
    expected = torch.zeros_like(beta)
    bags = (starts.numpy(), words.numpy(), counts.double().numpy())
    given = (beta.numpy(), prior.numpy(), weight.double().numpy())
    log_norm = torch.from_numpy(infer(*bags, *given, gamma.numpy(), expected.numpy(), steps, tol))
    return gamma, log_norm - lengths * gamma.sum(-1).digamma(), expected.T


def _bags(x: Tensor, mask: Tensor | None, symbols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each document starts, (B + 1,), its different words in order, (U,), and their counts, (U,)."""
    document = torch.arange(len(x)).unsqueeze(-1).expand_as(x)
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    check_rows(x[seen], symbols)
    key, counts = torch.unique(document[seen] * symbols + x[seen].long(), return_counts=True)
    different = torch.bincount(key // symbols, minlength=len(x))
    return torch.cat([different.new_zeros(1), different.cumsum(0)]), key % symbols, counts


@njit(cache=True, error_model="numpy", forceinline=True)
def exp_digamma(x, out, power, bits):
    """out = exp(psi(x)) for x > 0, to 1e-12 of it. `bits` is `power`'s memory as whole numbers, to write 2^n there."""
    for k in range(len(x)):
        # psi(x) = psi(x + 12) - sum_i 1 / (x + i), i and 11 - i taken together
        q = x[k] * (x[k] + 11.0)
        pairs = 1 / q + 1 / (q + 10.0) + 1 / (q + 18.0) + 1 / (q + 24.0) + 1 / (q + 28.0) + 1 / (q + 30.0)
        y = x[k] + 11.5
        square = 1.0 / (y * y)
        large = y + (SERIES[0] + square * (SERIES[1] + square * (SERIES[2] + square * SERIES[3]))) / y
        # exp(-sum) = 2^n exp(r), |r| <= log(2) / 2
        log = max(-pairs * (2.0 * x[k] + 11.0), LEAST_LOG)
        n = np.floor(log * LOG2E + 0.5)
        r = (log - n * LN2_HIGH) - n * LN2_LOW
        low = 1.0 + r * (1.0 + r * (EXP[2] + r * (EXP[3] + r * (EXP[4] + r * (EXP[5] + r * EXP[6])))))
        series = low + r**7 * (EXP[7] + r * (EXP[8] + r * (EXP[9] + r * (EXP[10] + r * EXP[11]))))
        out[k] = large * series
        bits[k] = (np.int64(n) + 1023) << 52
    for k in range(len(x)):
        out[k] *= power[k]


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _round(rows, counts, concentration, weights, gamma):
    """One update of gamma, in place, given weights = exp(psi(gamma)); returns the mean of |change|."""
    topics = len(gamma)
    total = np.zeros(topics)
    for u in range(len(counts)):
        norm = 0.0
        for k in range(topics):
            norm += weights[k] * rows[u, k]
        share = counts[u] / max(norm, LEAST)
        for k in range(topics):
            total[k] += share * rows[u, k]
    change = 0.0
    for k in range(topics):
        new = concentration[k] + weights[k] * total[k]
        change += abs(new - gamma[k])
        gamma[k] = new
    return change / topics


@njit(cache=True, fastmath=FAST, error_model="numpy")
def infer(starts, words, counts, beta, concentration, weight, gamma, expected, steps, tol):
    """Coordinate ascent from the gamma (B, K) given, in place; returns sum_v count_v log norm_v, (B,).

    beta is (V, K), a row a word; weight * count * phi are added to `expected` (V, K).
    """
    topics = len(concentration)
    longest = 0
    for d in range(len(gamma)):
        longest = max(longest, starts[d + 1] - starts[d])
    rows = np.empty((longest, topics))
    weights, power = np.empty(topics), np.empty(topics)
    bits, log_norm = power.view(np.int64), np.zeros(len(gamma))
    for d in range(len(gamma)):
        first, size = starts[d], starts[d + 1] - starts[d]
        count = counts[first : first + size]
        for u in range(size):
            rows[u] = beta[words[first + u]]
        for _ in range(steps):
            exp_digamma(gamma[d], weights, power, bits)
            if _round(rows, count, concentration, weights, gamma[d]) < tol:
                break
        # phi and the bound are those of the final gamma
        exp_digamma(gamma[d], weights, power, bits)
        for u in range(size):
            norm = 0.0
            for k in range(topics):
                norm += weights[k] * rows[u, k]
            norm = max(norm, LEAST)
            log_norm[d] += count[u] * np.log(norm)
            share = weight[d] * count[u] / norm
            target = expected[words[first + u]]
            for k in range(topics):
                target[k] += share * weights[k] * rows[u, k]
    return log_norm
