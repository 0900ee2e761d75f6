"""Fused inside-outside of labelled binary trees, in scaled probability space, as products of matrices.

The recursion of `distributions.tree.Tree` is the specification; this computes its value under `log_sum` and its first
derivative, a span width at a time: the places of a split are summed out by a product of matrices a span, the rules are
applied by one product for all spans of the width, and the rules with a word on one side are first turned into a matrix
a word. A cell (a span's symbols) is divided by its largest entry, whose logarithm is kept in float64.

Entries below `FLOOR` of their cell's largest are dropped, so that no product of those that are kept underflows. What
that may have cost is bounded: the same chart with such entries raised to the floor, and not dropped, gives an upper
bound on log Z. Sentences of which the two differ by more than `LEEWAY` are told to the caller, who takes a wider
format or the recursion.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

FLOOR = {torch.float32: 1e-12, torch.float64: 1e-100}
LEEWAY = {torch.float32: 1e-6, torch.float64: 1e-10}
"""Nats that dropped entries may cost at most."""
NOTHING = -1e30
"""The logarithm of a cell that is empty."""


def log_partition(log_potentials: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """log Z (B,) in float64, and where it can be trusted, (B,). Differentiable once with respect to every potential,
    in whose dtype, float32 or float64, the products are."""
    parts = (log_potentials[name] for name in ("root", "rule", "word", "node"))
    return _Inside.apply(*parts, lengths.expand(len(log_potentials["word"])))  # type: ignore[return-value]


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, root: Tensor, rule: Tensor, word: Tensor, node: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        order = lengths.argsort(descending=True, stable=True)
        sentences = _Sentences.of(root, rule, word, node, lengths, order)
        chart = _Chart(sentences)
        value, upper = chart.total(), _Chart(sentences, upper=True).total()
        safe = (value > NOTHING / 10) & (upper - value < LEEWAY[word.dtype])
        ctx.chart, ctx.back = chart, order.argsort()
        ctx.save_for_backward(order)
        ctx.each = root.ndim == 2, rule.ndim == 4
        ctx.mark_non_differentiable(safe)
        return value[ctx.back], safe[ctx.back]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        spans = ctx.needs_input_grad[3]
        root, rule, word, node = ctx.chart.outside(grads[0][order].to(ctx.chart.words), spans)
        root = root[ctx.back] if ctx.each[0] else root.sum(0)
        rule = rule[ctx.back] if ctx.each[1] else rule
        return root, rule, word[ctx.back], node[ctx.back] if spans else None, None


class _Sentences(NamedTuple):
    """Potentials, the longest sentences first: those that have a span of a width are then the first `live[width]`."""

    root: Tensor
    rule: Tensor
    word: Tensor
    node: Tensor
    last: Tensor
    live: list[int]

    @classmethod
    def of(cls, root: Tensor, rule: Tensor, word: Tensor, node: Tensor, lengths: Tensor, order: Tensor) -> _Sentences:
        lengths, size = lengths[order], word.shape[1]
        live = (lengths.unsqueeze(-1) >= torch.arange(size + 1, device=lengths.device)).sum(0).tolist()
        root = root[order] if root.ndim == 2 else root.expand(len(word), -1)
        node = node[order] if any(node.stride()) else node
        return cls(root, rule[order] if rule.ndim == 4 else rule, word[order], node, (lengths - 1).clamp(min=0), live)


def _exp(x: Tensor, floor: float) -> Tensor:
    """exp of what is at most 0; 0 far below the floor, where the machine's own exp is slow."""
    least = -80.0 if floor > 1e-30 else -700.0
    return x.clamp(min=least).exp_().masked_fill_(x < least, 0.0)


class _Rules(NamedTuple):
    """exp(rule - its largest), (K, S, S) or (B, K, S, S), and by what the two parts are."""

    scaled: Tensor
    both: Tensor
    after_word: Tensor
    before_word: Tensor
    words: Tensor
    peak: Tensor


class _Chart:
    """The cells of all spans, of which [b, start, width] are one behind the other, and [b, end, N - width] too: both
    parts of all the splits of a span are then slices."""

    def __init__(self, sentences: _Sentences, upper: bool = False):
        root, rule, word, node, self.last, self.live = sentences
        self.root, self.upper, self.floor = root, upper, FLOOR[word.dtype]
        self.first, (batch, self.size) = root.shape[-1], word.shape[:2]
        self.rules, self.node = self._rules(rule), node
        self.starting = word.new_zeros(batch, self.size, self.size + 1, self.first)
        self.ending = torch.zeros_like(self.starting)
        self.log_starting = word.new_full(self.starting.shape[:-1], NOTHING, dtype=torch.float64)
        self.log_ending = self.log_starting.clone()
        # of each width: the summed splits, the weights of splits, the derivative of cells by what is summed in them
        self.pairs: dict[int, Tensor] = {}
        self.weights: dict[int, Tensor] = {}
        self.slopes: dict[int, Tensor] = {}
        self._read(word + node.diagonal(0, 1, 2).mT[..., self.first :])
        for width in range(2, self.size + 1):
            if self.live[width]:
                self._grow(width)

    def _kept(self, x: Tensor) -> Tensor:
        return x.clamp_(min=self.floor) if self.upper else x.masked_fill_(x < self.floor, 0.0)

    def _rules(self, rule: Tensor) -> _Rules:
        first, peak = self.first, rule.flatten(-3).amax(-1)
        scaled = self._kept(_exp(rule - peak[..., None, None, None], self.floor))
        both, words = scaled[..., :first, :first], scaled[..., first:, first:]
        after, before = scaled[..., first:, :first], scaled[..., :first, first:]
        # by the word first, [word, A, the other part]
        after, before = after.transpose(-3, -2).flatten(-2), before.movedim(-1, -3).flatten(-2)
        return _Rules(scaled, both.flatten(-2), after, before, words.flatten(-2), peak.double())

    def _read(self, words: Tensor) -> None:
        peak = words.amax(-1, keepdim=True)
        self.words = self._kept(_exp(words - peak, self.floor))
        self.log_words = peak.squeeze(-1).double()
        # what a word makes of a span behind it, and of one before it: (B, N, A, K)
        shape = (self.first, self.first)
        self.before = (self.words @ self.rules.after_word).unflatten(-1, shape)
        self.after = (self.words @ self.rules.before_word).unflatten(-1, shape)

    def _grow(self, width: int) -> None:
        live, count = self.live[width], self.size - width + 1
        logs = self._log_splits(width, live, count)
        base = logs.amax(-1, keepdim=True)
        self.weights[width] = weight = self._kept(_exp((logs - base).to(self.words), self.floor))
        cell, scale = self._by_largest(self._joined(width, live, count, weight))
        logs, slope = base + scale.double().log(), 1 / scale
        spans = self.node[:live].diagonal(width - 1, 1, 2).mT[..., : self.first]
        if any(self.node.stride()):
            high = spans.amax(-1, keepdim=True)
            turn = self._kept(_exp(spans - high, self.floor))
            cell, scale = self._by_largest(cell * turn)
            logs, slope = logs + high.double() + scale.double().log(), slope * turn / scale
        else:
            logs = logs + spans[..., :1].double()
        logs = logs.squeeze(-1) + (self.rules.peak[:live, None] if self.rules.peak.ndim else self.rules.peak)
        logs = torch.where(cell.amax(-1) > 0, logs, NOTHING)
        self.starting[:live, :count, width], self.log_starting[:live, :count, width] = cell, logs
        self.ending[:live, width - 1 :, self.size - width] = cell
        self.log_ending[:live, width - 1 :, self.size - width] = logs
        self.slopes[width] = slope

    def _by_largest(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The value less what is below the floor, divided by its largest, and that; 1 of nothing."""
        peak = value.amax(-1, keepdim=True)
        peak = torch.where(peak > 0, peak, 1.0)
        return self._kept(value / peak), peak

    def _log_splits(self, width: int, live: int, count: int) -> Tensor:
        """The logs of the scales of both parts, (live, count, width - 1)."""
        if width == 2:
            return (self.log_words[:live, :-1] + self.log_words[:live, 1:]).unsqueeze(-1)
        left = self.log_starting[:live, :count, 1:width].clone()
        right = self.log_ending[:live, width - 1 :, self.size - width + 1 : self.size].clone()
        left[..., 0], right[..., -1] = self.log_words[:live, :count], self.log_words[:live, width - 1 :]
        return left + right

    def _joined(self, width: int, live: int, count: int, weight: Tensor) -> Tensor:
        rules = self.rules
        if width == 2:
            self.pairs[2] = pair = (self.words[:live, :-1, :, None] * self.words[:live, 1:, None]).flatten(-2)
            return pair @ _some(rules.words, live).mT
        behind, ahead = self._neighbours(width, live, count)
        # not by a product of matrices: for one column it takes twice the time
        value = (self.before[:live, :count] * behind.unsqueeze(-2)).sum(-1)
        value += (self.after[:live, width - 1 :] * ahead.unsqueeze(-2)).sum(-1)
        if width > 3:
            left, right = self._parts(width, live, count)
            pair = (left.mT @ right).flatten(-2)
            value += pair @ _some(rules.both, live).mT
            if not self.upper:
                self.pairs[width] = pair
        return value

    def _neighbours(self, width: int, live: int, count: int) -> tuple[Tensor, Tensor]:
        """The spans behind the first word and before the last one, (live, count, K), with the splits' weights."""
        weight = self.weights[width]
        behind, ahead = self.starting[:live, 1 : count + 1, width - 1], self.starting[:live, :count, width - 1]
        return self._kept(behind * weight[..., :1]), self._kept(ahead * weight[..., -1:])

    def _parts(self, width: int, live: int, count: int) -> tuple[Tensor, Tensor]:
        """The left parts, with the splits' weights, and the right parts of splits between two words or more on either
        side, (live, count, width - 3, K)."""
        left = self.starting[:live, :count, 2 : width - 1] * self.weights[width][..., 1:-1, None]
        return self._kept(left), self.ending[:live, width - 1 :, self.size - width + 2 : self.size - 1]

    def _top(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each sentence the weights of roots, (B, K), their logarithmic scale, and the cell of all words."""
        peak = self.root.amax(-1, keepdim=True)
        roots = self._kept(_exp(self.root - peak, self.floor))
        whole = torch.arange(len(self.root), device=self.root.device), 0, self.last + 1
        return roots, peak.squeeze(-1).double() + self.log_starting[whole], self.starting[whole]

    def total(self) -> Tensor:
        """log Z, (B,), in float64; what is as small as `NOTHING` is nothing."""
        roots, scale, cell = self._top()
        share = (roots * cell).sum(-1).double()
        return torch.where(share > 0, share.log() + scale, NOTHING)

    def outside(self, grad: Tensor, spans: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Expected uses of each potential, weighted by `grad` (B,): roots (B, K), rules, words (B, N, P), and spans
        (B, N, N, S) where they are asked for. A cell's derivative is that by its scaled entries, so that the two
        multiply to the expected use."""
        roots, _, cell = self._top()
        share = (roots * cell).sum(-1, keepdim=True)
        seed = torch.where(share > 0, grad.unsqueeze(-1) * roots / share, 0.0)
        back = _Back(self, seed, spans)
        for width in range(self.size, 1, -1):
            if self.live[width]:
                back.step(width)
        rules = back.rules()
        words = self.words * back.words
        if back.node is not None:
            back.node.diagonal(0, 1, 2).mT[..., self.first :] = words
        return seed * cell, rules, words, back.node


def _some(rule: Tensor, live: int) -> Tensor:
    """The rules of the first sentences, where each has its own."""
    return rule[:live] if rule.ndim == 3 else rule


class _Back:
    """The pass from the whole sentence down to its words."""

    def __init__(self, chart: _Chart, seed: Tensor, spans: bool):
        self.chart = chart
        rules = chart.rules
        symbols, (batch, size) = rules.scaled.shape[-1], chart.words.shape[:2]
        self.node = seed.new_zeros(batch, size, size, symbols) if spans else None
        self.starting, self.ending = torch.zeros_like(chart.starting), torch.zeros_like(chart.ending)
        self.starting[torch.arange(batch, device=seed.device), 0, chart.last + 1] = seed
        self.words = torch.zeros_like(chart.words)
        self.before, self.after = torch.zeros_like(chart.before), torch.zeros_like(chart.after)
        self.pairs_of_words, self.pairs_of_both = torch.zeros_like(rules.words), torch.zeros_like(rules.both)

    def step(self, width: int) -> None:
        chart = self.chart
        live, count, first = chart.live[width], chart.size - width + 1, chart.first
        cell = chart.starting[:live, :count, width]
        slope = self.starting[:live, :count, width] + self.ending[:live, width - 1 :, chart.size - width]
        slope = torch.where(cell > 0, slope, 0.0)
        if self.node is not None:
            self.node[:live].diagonal(width - 1, 1, 2).mT[..., :first] = cell * slope
        slope = slope * chart.slopes[width]
        if width == 2:
            self._words(slope, live)
            return
        behind, ahead = chart._neighbours(width, live, count)
        weight = chart.weights[width]
        self.before[:live, :count] += slope.unsqueeze(-1) * behind.unsqueeze(-2)
        self.after[:live, width - 1 :] += slope.unsqueeze(-1) * ahead.unsqueeze(-2)
        across = (slope.unsqueeze(-1) * chart.before[:live, :count]).sum(-2) * weight[..., :1]
        self.starting[:live, 1 : count + 1, width - 1] += across
        across = (slope.unsqueeze(-1) * chart.after[:live, width - 1 :]).sum(-2) * weight[..., -1:]
        self.starting[:live, :count, width - 1] += across
        if width > 3:
            self._both(width, slope, live, count)

    def _both(self, width: int, slope: Tensor, live: int, count: int) -> None:
        chart = self.chart
        left, right = chart._parts(width, live, count)
        rule = _some(chart.rules.both, live)
        pair = (slope @ rule).unflatten(-1, (chart.first, chart.first))
        weight = chart.weights[width][..., 1:-1, None]
        self.starting[:live, :count, 2 : width - 1] += (right @ pair.mT) * weight
        self.ending[:live, width - 1 :, chart.size - width + 2 : chart.size - 1] += left @ pair
        _add_uses(self.pairs_of_both, slope, chart.pairs[width], live)

    def _words(self, slope: Tensor, live: int) -> None:
        chart = self.chart
        rule, words = _some(chart.rules.words, live), chart.words
        pair = (slope @ rule).unflatten(-1, (words.shape[-1], words.shape[-1]))
        self.words[:live, :-1] += (pair @ words[:live, 1:].unsqueeze(-1)).squeeze(-1)
        self.words[:live, 1:] += (words[:live, :-1].unsqueeze(-2) @ pair).squeeze(-2)
        _add_uses(self.pairs_of_words, slope, chart.pairs[2], live)

    def rules(self) -> Tensor:
        """Expected uses of rules, which add to words' derivatives on the way."""
        chart, rules, first = self.chart, self.chart.rules, self.chart.first
        found = torch.empty_like(rules.scaled)
        found[..., :first, :first] = self.pairs_of_both.unflatten(-1, (first, first))
        found[..., first:, first:] = self.pairs_of_words.unflatten(-1, (rules.scaled.shape[-1] - first,) * 2)
        before, after = self.before.flatten(-2), self.after.flatten(-2)
        self.words += before @ rules.after_word.mT + after @ rules.before_word.mT
        words = chart.words if rules.scaled.ndim == 4 else chart.words.flatten(0, 1)
        before, after = (uses if rules.scaled.ndim == 4 else uses.flatten(0, 1) for uses in (before, after))
        found[..., first:, :first] = (words.mT @ before).unflatten(-1, (first, first)).transpose(-3, -2)
        found[..., :first, first:] = (words.mT @ after).unflatten(-1, (first, first)).movedim(-3, -1)
        return found * rules.scaled


def _add_uses(total: Tensor, slope: Tensor, pair: Tensor, live: int) -> None:
    """Add the derivatives by rules, (K, pairs) for all sentences or for each."""
    if total.ndim == 3:
        total[:live] += slope.mT @ pair
    else:
        total += slope.flatten(0, 1).mT @ pair.flatten(0, 1)
