"""Collapsed Gibbs sampling of the topics of words, and the left-to-right estimate of log p(x).

Theta and the topics' words are summed out; what is left to draw is the topic of every token given all others
(Griffiths and Steyvers 2004, equation 5):

    p(topic = k | the others) ~ (n_dk + concentration_k) (n_kv + smoothing) / (n_k + V smoothing)

Tokens lie one after another, those of document d at `starts[d]` to `starts[d + 1]`. Counts are whole numbers in
float32, exact up to 2^24. Topics come in blocks of eight, the last one filled up with topics of weight 0: a block's
weights are made and summed by vector instructions, and a draw looks for its block first and then inside it.
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
BLOCK = 8
# sums in float32 differ by some 1e-6 with their order: a draw stays as far below the total, lest it fall behind the
# last topic; a test of the drawn topic itself would cost a tenth of the speed
INSIDE = 1 - 4e-6


@njit(inline="always")
def _uniform(state):
    """A number in [0, 1), of 53 bits, by splitmix64 (Steele, Lea and Flood 2014); `state` is one uint64 in an array."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * (1.0 / (1 << 53))


@njit(cache=True, fastmath=FAST, error_model="numpy")
def sweep(starts, words, topics, word_topic, topic_total, concentration, smoothing, state):
    """Draw every token's topic once, in place.

    Args:
        topics: (N,) int32, of each token.
        word_topic: (V, K padded to blocks) float32, how often each word has each topic.
        topic_total: its sum over words.
        concentration: (K padded,) float32, 0 in the padding.
        smoothing: pseudo-count of a word in a topic.
        state: of the random numbers, (1,) uint64.
    """
    padded, blocks = len(concentration), len(concentration) // BLOCK
    one, eta, all_eta = np.float32(1), np.float32(smoothing), np.float32(smoothing * word_topic.shape[0])
    share, weight, part = np.zeros(padded, np.float32), np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    below = np.zeros(blocks + 1, np.float32)
    for d in range(len(starts) - 1):
        first, last = starts[d], starts[d + 1]
        share[:] = concentration
        for t in range(first, last):
            share[topics[t]] += one
        for k in range(padded):
            weight[k] = share[k] / (topic_total[k] + all_eta)
        for t in range(first, last):
            row, old = word_topic[words[t]], topics[t]
            row[old] -= one
            share[old] -= one
            topic_total[old] -= one
            weight[old] = share[old] / (topic_total[old] + all_eta)
            total = np.float32(0)
            for b in range(blocks):
                block = np.float32(0)
                for k in range(b * BLOCK, b * BLOCK + BLOCK):
                    part[k] = weight[k] * (row[k] + eta)
                    block += part[k]
                total += block
                below[b + 1] = total
            left = np.float32(_uniform(state) * INSIDE) * total
            b = 0
            for i in range(1, blocks):
                b += left >= below[i]
            left -= below[b]
            new, inside = b * BLOCK, np.float32(0)
            for k in range(b * BLOCK, b * BLOCK + BLOCK - 1):
                inside += part[k]
                new += left >= inside
            topics[t] = new
            row[new] += one
            share[new] += one
            topic_total[new] += one
            weight[new] = share[new] / (topic_total[new] + all_eta)


@njit(cache=True, error_model="numpy")
def _draw(weight, state):
    """A number with these weights, (K,)."""
    left, k = _uniform(state) * weight.sum(), 0
    while k < len(weight) - 1 and left >= weight[k]:
        left -= weight[k]
        k += 1
    return k


@njit(cache=True, error_model="numpy")
def _resample(weight, topics, counts, state):
    """Particles in proportion to their weights, in place (systematic resampling, Douc and Cappe 2005)."""
    particles = len(weight)
    step = weight.sum() / particles
    point, reached, source = _uniform(state) * step, weight[0], 0
    old_topics, old_counts = topics.copy(), counts.copy()
    for r in range(particles):
        while reached <= point and source < particles - 1:
            source += 1
            reached += weight[source]
        topics[r], counts[r] = old_topics[source], old_counts[source]
        point += step


@njit(cache=True, error_model="numpy")
def left_to_right(starts, words, beta, concentration, particles, state):
    """log p(x) of each document, (B,), in nats; its exponential is an unbiased estimate of p(x).

    p(x_n | x_<n) is the mean over particles of sum_k p(topic_n = k | topics_<n) beta[x_n, k], each particle's topics_<n
    having been drawn again one by one (Wallach, Murray, Salakhutdinov and Mimno 2009, algorithm 3; Buntine 2009), and
    the particles resampled by what they gave the word before.

    Args:
        beta: (V, K), a row a word; concentration: (K,).
    """
    kinds, total = len(concentration), concentration.sum()
    value, weight, given = np.zeros(len(starts) - 1), np.empty(kinds), np.empty(particles)
    for d in range(len(starts) - 1):
        document = words[starts[d] : starts[d + 1]]
        topics = np.zeros((particles, len(document)), np.int32)
        counts = np.zeros((particles, kinds))
        for n in range(len(document)):
            for r in range(particles):
                for t in range(n):
                    counts[r, topics[r, t]] -= 1
                    weight[:] = (counts[r] + concentration) * beta[document[t]]
                    topics[r, t] = _draw(weight, state)
                    counts[r, topics[r, t]] += 1
                weight[:] = (counts[r] + concentration) * beta[document[n]]
                given[r] = weight.sum() / (n + total)
                topics[r, n] = _draw(weight, state)
                counts[r, topics[r, n]] += 1
            value[d] += np.log(given.mean())
            if given.sum() > 0:
                _resample(given, topics, counts, state)
    return value
