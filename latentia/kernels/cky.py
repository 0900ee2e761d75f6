"""The best labelled binary tree, by CKY on the CPU.

The recursion of `distributions.tree.Tree` under `max_sum` is the specification. Scores are kept and arguments are not:
from the top down the best parts of each of a tree's nodes are found again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentia.kernels.compiled import njit


def best(log_potentials: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The best score (B,), in float64, and its tree (B, N, N, S), of zeros where there is none."""
    root, rule, word, node = (log_potentials[name].detach() for name in ("root", "rule", "word", "node"))
    root, rule = (root if root.ndim == 2 else root.unsqueeze(0)), (rule if rule.ndim == 4 else rule.unsqueeze(0))
    # one number for all spans takes no memory: each tree of n words has 2 n - 1 of them
    plain = not any(node.stride())
    spans = node[:0] if plain else node
    z, value = torch.zeros(node.shape, dtype=word.dtype), torch.empty(len(word), dtype=torch.float64)
    parts = (part.double().contiguous().numpy() for part in (root, rule, word, spans))
    lengths = lengths.expand(len(word)).contiguous()
    best_trees(*parts, lengths.numpy(), value.numpy(), z.numpy())
    if plain and node.numel():
        value += node.flatten()[0].double() * (2 * lengths - 1).clamp(min=0)
    return value, z


@njit(cache=True, error_model="numpy")
def _pairs(score, w, i, first, pair):
    """The best places of a split for each pair of labels, pair[B, C], of the words from i to i + w."""
    symbols = len(pair)
    pair[:] = -np.inf
    for k in range(w):
        low, high = (first, symbols) if k == 0 else (0, first)
        lower, higher = (first, symbols) if k == w - 1 else (0, first)
        left, right = score[k, i], score[w - 1 - k, i + k + 1]
        for b in range(low, high):
            one, row = left[b], pair[b]
            for c in range(lower, higher):
                both = one + right[c]
                row[c] = both if both > row[c] else row[c]


@njit(cache=True, error_model="numpy")
def _parts(score, w, i, rule):
    """The place of the split and the labels of the best parts under a rule's left side, rule (S, S)."""
    best, k_best, b_best, c_best = -np.inf, 0, 0, 0
    symbols = score.shape[2]
    for k in range(w):
        for b in range(symbols):
            for c in range(symbols):
                both = score[k, i, b] + score[w - 1 - k, i + k + 1, c] + rule[b, c]
                if both > best:
                    best, k_best, b_best, c_best = both, k, b, c
    return k_best, b_best, c_best


@njit(cache=True, error_model="numpy")
def _trace(score, length, label, rule, open_, z):
    """The best tree under this label, from the top down."""
    waiting = 1
    open_[0, 0], open_[0, 1], open_[0, 2] = 0, length - 1, label
    while waiting > 0:
        waiting -= 1
        i, w, a = open_[waiting, 0], open_[waiting, 1], open_[waiting, 2]
        z[i, i + w, a] = 1.0
        if w > 0:
            k, b, c = _parts(score, w, i, rule[a])
            open_[waiting, 0], open_[waiting, 1], open_[waiting, 2] = i, k, b
            open_[waiting + 1, 0], open_[waiting + 1, 1], open_[waiting + 1, 2] = i + k + 1, w - 1 - k, c
            waiting += 2


@njit(cache=True, nogil=True, error_model="numpy")
def best_trees(root, rule, word, node, lengths, value, z):
    """Best scores into `value` (B,) and trees into `z` (B, N, N, S).

    Args:
        root, rule: (B or 1, K) and (B or 1, K, S, S).
        word: (B, N, P).
        node: (B, N, N, S), or of no data where spans say nothing.
    """
    size, first, symbols = word.shape[1], root.shape[1], rule.shape[2]
    score, pair, top = np.empty((size, size, symbols)), np.empty((symbols, symbols)), np.empty(symbols)
    open_ = np.zeros((size + 1, 3), np.int64)
    for b in range(len(word)):
        length, rules = lengths[b], rule[min(b, len(rule) - 1)]
        score[:] = -np.inf
        for i in range(length):
            for p in range(symbols - first):
                own = node[b, i, i, first + p] if len(node) else 0.0
                score[0, i, first + p] = word[b, i, p] + own
        for w in range(1, length):
            for i in range(length - w):
                _pairs(score, w, i, first, pair)
                for a in range(first):
                    top[:] = -np.inf
                    for left in range(first if w == 1 else 0, symbols):
                        rules_here, row = rules[a, left], pair[left]
                        for c in range(symbols):
                            both = rules_here[c] + row[c]
                            top[c] = both if both > top[c] else top[c]
                    score[w, i, a] = top.max() + (node[b, i, i + w, a] if len(node) else 0.0)
        value[b] = -np.inf
        if length > 1:
            label = 0
            for a in range(first):
                found = score[length - 1, 0, a] + root[min(b, len(root) - 1), a]
                if found > value[b]:
                    value[b], label = found, a
            _trace(score, length, label, rules, open_, z[b])
