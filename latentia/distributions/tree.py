"""Labelled binary trees over words: what a probabilistic context-free grammar sums over."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from latentia.distributions.brackets import Brackets
from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.spans import Splits, diagonals
from latentia.distributions.structured import Potentials, Structured, doubled
from latentia.kernels import inside as kernel

BLOCK = 2**22
"""Numbers in a chart that is held in memory at a time."""


class Tree(Structured):
    """score(z) = root[A of the sentence] + sum rule[A, B, C] over its branchings A -> B C
                  + sum word[i, A] over its words + sum node[i, j, A] over its spans.

    Symbols are K nonterminals, which cover two words or more, and then P preterminals, which cover one: S = K + P. z is
    one-hot, (B, N, N, S): z[i, j, A] = 1 where the words from i to j, both counted, are an A. There is no tree of one
    word or of none.

    Args:
        log_potentials: `root` (K,) or (B, K); `rule` (K, S, S) or (B, K, S, S); `word` (B, N, P); and `node`
            (B, N, N, S), zero where it is left out, of which what is below the diagonal, preterminals of longer spans
            and nonterminals of words are not looked at.
        lengths: (B,), N where it is left out.

    Reference: Lari and Young (1990), "The estimation of stochastic context-free grammars using the inside-outside
    algorithm"; Kim et al. (2019), "Compound probabilistic context-free grammars", section 2.
    """

    dimensions: ClassVar = {"root": 1, "rule": 3, "word": 2, "node": 3}

    def __init__(self, log_potentials: Potentials, lengths: Tensor | None = None, sum: Semiring = log_sum):
        if "node" not in log_potentials:
            word, (*_, symbols) = log_potentials["word"], log_potentials["rule"].shape
            shape = (*word.shape[:-1], word.shape[-2], symbols)
            log_potentials = {**log_potentials, "node": word.new_zeros(()).expand(shape)}
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lengths = torch.full((1,), node.shape[-2], device=node.device) if lengths is None else lengths

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lengths, sum)

    @property
    def nonterminals(self) -> int:
        """K."""
        return self.log_potentials["root"].shape[-1]

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        root, rule, word, node = (log_potentials[name] for name in ("root", "rule", "word", "node"))
        first = self.nonterminals
        spans = [part.mT for part in diagonals(node.movedim(-1, -3))]
        cells = [sum.start(spans[0][..., first:] + word)]
        rules = {
            (a, b): rule[..., left, right].flatten(-2).unsqueeze(-3)
            for a, left in enumerate((slice(first, None), slice(first)))
            for b, right in enumerate((slice(first, None), slice(first)))
        }
        total = sum.start(torch.full_like(node[..., 0, 0, 0], IMPOSSIBLE))
        for width in range(2, len(spans) + 1):
            cells.append(_grown(cells, width, rules, sum) + spans[width - 1][..., :first])
            total = torch.where(self.lengths == width, sum(cells[-1][..., 0, :] + root, -1), total)
        return total

    def fused(self, log_potentials: Potentials) -> Tensor:
        """By the kernel, some sentences of like length at a time, so that what is held in memory is theirs."""
        node = log_potentials["node"]
        if node.ndim != 4 or not len(node):
            return self._summed(log_potentials)
        order = self.lengths.expand(len(node)).argsort(descending=True, stable=True)
        parts = order.split(max(BLOCK // (node.shape[-2] ** 2 * self.nonterminals), 1))
        if len(parts) == 1:
            return self._fused(log_potentials)
        values = [part._fused(part.log_potentials) for part in (self._part(log_potentials, index) for index in parts)]
        return torch.cat(values)[order.argsort()]

    def _fused(self, log_potentials: Potentials) -> Tensor:
        value, safe = kernel.log_partition(log_potentials, self.lengths)
        word = log_potentials["word"]
        value = value.to(word)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return value
        again = self._part(log_potentials, lost)
        if word.dtype == torch.float64:
            return value.index_put((lost,), again._summed(again.log_potentials))
        return value.index_put((lost,), again._fused(doubled(again.log_potentials)).to(value))

    def _part(self, log_potentials: Potentials, index: Tensor) -> Self:
        """The trees at `index`."""
        lengths = self.lengths.expand(len(log_potentials["node"]))[index]
        longest = max(int(lengths.max()), 1)
        own = {"root": 2, "rule": 4, "word": 3, "node": 4}
        part = {
            name: phi if phi.ndim < own[name] else _one(phi, len(index)) if not any(phi.stride()) else phi[index]
            for name, phi in log_potentials.items()
        }
        part["word"], part["node"] = part["word"][:, :longest], part["node"][:, :longest, :longest]
        return type(self)(part, lengths)

    def score(self, z: Tensor) -> Tensor:
        root, rule, word, node = (self.log_potentials[name] for name in ("root", "rule", "word", "node"))
        spans, first = z > 0, self.nonterminals
        splits = Splits.of(spans.any(-1), self.lengths)
        label = spans.to(torch.uint8).argmax(-1)
        where, (i, k, j) = splits.where, (splits.i, splits.k, splits.j)
        parent, left, right = label[*where, i, j], label[*where, i, k], label[*where, k + 1, j]
        rule = rule.expand(*z.shape[:-3], *rule.shape[-3:])
        z = z.to(word)
        value = (z * node).sum((-3, -2, -1)) + (z.diagonal(0, -3, -2).mT[..., first:] * word).sum((-2, -1))
        value = value.index_put(where, rule[*where, parent.clamp(max=first - 1), left, right], accumulate=True)
        whole = (self.lengths - 1).clamp(min=0).expand(value.shape)
        top = label[..., 0, :].gather(-1, whole.unsqueeze(-1))
        value = value + root.expand(*value.shape, -1).gather(-1, top.clamp(max=first - 1)).squeeze(-1)
        valid = splits.valid & self._kinds(spans) & (self.lengths > 1)
        return torch.where(valid & (value > IMPOSSIBLE / 10), value, -torch.inf)

    def _kinds(self, spans: Tensor) -> Tensor:
        """Whether each constituent has one label, words a preterminal and longer spans a nonterminal."""
        words = torch.eye(spans.shape[-2], dtype=torch.bool, device=spans.device).unsqueeze(-1)
        wrong = torch.where(
            words, spans[..., : self.nonterminals].any(-1, True), spans[..., self.nonterminals :].any(-1, True)
        )
        return ~(wrong.squeeze(-1) | (spans.sum(-1) > 1)).flatten(-2).any(-1)

    @property
    def minimum_risk(self) -> Tensor:
        """The tree of which most labelled constituents are expected to be right, (B, N, N, S) (Goodman 1996, section
        3). Its own probability may be 0."""
        marginals = self.marginals.detach()
        best, label = marginals.max(-1)
        spans = Brackets({"node": best}, self.lengths).mode
        return torch.zeros_like(marginals).scatter_(-1, label.unsqueeze(-1), spans.unsqueeze(-1))


def _one(phi: Tensor, size: int) -> Tensor:
    """One number that is expanded, for so many data."""
    return phi[:1].expand(size, *phi.shape[1:])


def _grown(cells: list[Tensor], width: int, rules: dict[tuple[int, int], Tensor], sum: Semiring) -> Tensor:
    """What the spans of a width sum up to under each nonterminal, (..., N - width + 1, K), but for their own
    potential. Between two parts of several words each, the place of the split is summed out before the rule."""
    count = cells[0].shape[-2] - width + 1
    middle = range(2, width - 1)
    edges = {(min(k, 2) - 1, min(width - k, 2) - 1): k for k in range(1, width) if k not in middle}
    parts = []
    for kinds, k in edges.items():
        left, right = cells[k - 1][..., :count, :], cells[width - k - 1][..., k : k + count, :]
        pairs = sum.times(left.unsqueeze(-1), right.unsqueeze(-2)).flatten(-2)
        parts.append(sum(pairs.unsqueeze(-2) + rules[kinds], -1))
    if len(middle):
        left = torch.stack([cells[k - 1][..., :count, :] for k in middle], -2)
        right = torch.stack([cells[width - k - 1][..., k : k + count, :] for k in middle], -2)
        pairs = sum(sum.times(left.unsqueeze(-1), right.unsqueeze(-2)), -3).flatten(-2)
        parts.append(sum(pairs.unsqueeze(-2) + rules[1, 1], -1))
    return parts[0] if len(parts) == 1 else sum(torch.stack(parts, -1), -1)
