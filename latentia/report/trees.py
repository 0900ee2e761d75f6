"""What a model that parses has found: trees, how well they agree with people's, rules, and what its labels cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from latentia.data import Dataset
from latentia.data.treebanks import Node
from latentia.distributions import Tree
from latentia.errors import CapabilityError
from latentia.model import LatentVariableModel
from latentia.report import figures
from latentia.report.panel import Panel, gathered, table
from latentia.report.vocabulary import words_of
from latentia.report.words import number, percent
from latentia.tasks.common import using
from latentia.tasks.parse import (
    Parser,
    agreement,
    balanced,
    constituents,
    gold,
    left_branching,
    oracle,
    parse,
    random_tree,
    right_branching,
)

PARSED, COUNTED = 300, 300
"""Sentences that are parsed, and those of which rules are counted: more would cost more than they tell."""
DRAWN, LETTERS, LEAST_WORDS = 4, 88, 4
"""Trees that are drawn, and letters of the longest sentence that stands under one."""
RULES, LABELS, PHRASES, GOLD = 20, 15, 4, 3
LEAST_SHARE = 0.0005
"""Of what is told in tenths of a per cent."""
BATCH = 32
LEVEL = 0.24
"""Inches between a part and the whole."""


def trees(model: LatentVariableModel, data: Dataset, train: Dataset, seed: int) -> list[Panel]:
    """The panels of a model that parses.

    Args:
        data: whose trees are shown; those of people, where it has them, are beside.
        train: of which rules and words are counted.
    """
    some = data.subset(figures.thinned(len(data), PARSED).tolist())
    found = parse(model, some, seed=seed)
    people = None if some.trees is None else gold(some)
    return [
        *_drawn(found, people),
        *([] if people is None else [_scores(found, people, seed), _by_label(found, people)]),
        *gathered(lambda: [_covered(found, people)], lambda: _rules(model, train, seed)),
    ]


def _drawn(found: Sequence[Node], people: Sequence[Node] | None) -> list[Panel]:
    """A few sentences that fit under a tree, from short to long."""
    fits = [i for i, tree in enumerate(found) if len(" ".join(tree.words)) <= LETTERS]
    fits = sorted((i for i in fits if len(found[i].words) >= LEAST_WORDS), key=lambda i: len(found[i].words))
    chosen = [fits[i] for i in figures.thinned(len(fits), DRAWN)]
    caption = "The tree of which most constituents are expected to be right."
    if people is not None:
        caption += " Blue: people have that constituent too; grey: they do not."
    panels = []
    for i in chosen:
        right = None if people is None else {*constituents(people[i]), (0, len(found[i].words) - 1)}
        last = caption if i == chosen[-1] else ""
        panels.append(Panel("svg", drawn(found[i], right), last, "" if panels else "Trees"))
    return panels


class _Placed(NamedTuple):
    """A constituent in the plane: x from the left, y from the words up; its span, its label, its parts."""

    x: float
    y: int
    span: tuple[int, int]
    label: str
    parts: list[_Placed]


def drawn(tree: Node, right: set[tuple[int, int]] | None = None):
    """The SVG of a tree over its words, those constituents in colour that are among the `right` ones."""
    words = tree.words
    widths = np.array([max(len(word), 2) + 1.5 for word in words])
    middles = np.cumsum(widths) - widths / 2
    top = _placed(tree, 0, middles)

    def paint(axes) -> None:
        for node in _every(top):
            ours = figures.MAIN if right is None or node.span in right else figures.MUTED
            for part in node.parts:
                axes.plot([node.x, part.x, part.x], [node.y, node.y, part.y], color=ours, linewidth=1.3)
            if node.parts and node.label != "X":
                # in front of the line from above
                own = {"facecolor": figures.PAPER, "edgecolor": "none", "pad": 0.8}
                place = {"ha": "center", "va": "center", "bbox": own, "zorder": 3}
                axes.text(node.x, node.y + 0.38, node.label, fontsize=7, color=figures.FAINT, **place)
        for word, x in zip(words, middles, strict=True):
            axes.text(x, -0.15, word, ha="center", va="top", fontsize=8.5, color=figures.INK)
        for node in _every(top):
            if not node.parts and node.label != "X":
                axes.text(node.x, -1.05, node.label, ha="center", va="top", fontsize=6.5, color=figures.FAINT)
        axes.set_xlim(0, max(widths.sum(), LETTERS * 0.6))
        axes.set_ylim(-1.9, top.y + 0.9)
        axes.set_axis_off()

    return figures.draw(paint, height=LEVEL * (top.y + 2.8))


def _placed(tree: Node, start: int, middles: np.ndarray) -> _Placed:
    if tree.is_tag:
        return _Placed(float(middles[start]), 0, (start, start), tree.label, [])
    parts = []
    for child in tree.children:
        begin = start + sum(part.span[1] - part.span[0] + 1 for part in parts)
        child = Node("X", [child]) if isinstance(child, str) else child
        parts.append(_placed(child, begin, middles))
    x = (parts[0].x + parts[-1].x) / 2
    return _Placed(x, 1 + max(part.y for part in parts), (start, parts[-1].span[1]), tree.label, parts)


def _every(node: _Placed) -> Iterator[_Placed]:
    yield node
    for part in node.parts:
        yield from _every(part)


def _scores(found: Sequence[Node], people: Sequence[Node], seed: int) -> Panel:
    generator = torch.Generator().manual_seed(seed)
    rows = {
        "this model": found,
        "right-branching": [right_branching(tree.words) for tree in people],
        "left-branching": [left_branching(tree.words) for tree in people],
        "balanced": [balanced(tree.words) for tree in people],
        "random": [random_tree(tree.words, generator) for tree in people],
        "best binary trees": [oracle(tree) for tree in people],
    }
    told = {name: agreement(trees, people) for name, trees in rows.items()}
    cells = [
        [name, *(f"{100 * value:.1f}" for value in (one.sentence, one.corpus, one.precision, one.recall))]
        for name, one in told.items()
    ]
    caption = (
        f"Unlabelled agreement with people's trees of {len(found):,} sentences, in per cent: spans of two words or "
        "more, the whole sentence's left out; a sentence that has no such span has recall 1. The model never saw them. "
        "The best binary trees are what any tree of two parts each can reach."
    )
    return table(["trees", "sentence F1", "corpus F1", "precision", "recall"], cells, caption, "Against people's trees")


def _by_label(found: Sequence[Node], people: Sequence[Node]) -> Panel:
    labels = agreement(found, people).labels
    rows = [[name, f"{count:,}", percent(share)] for name, (share, count) in list(labels.items())[:LABELS]]
    caption = "Of people's constituents of each kind, how many there are, and which share of them the model has too."
    return table(["people's label", "constituents", "found"], rows, caption)


def _covered(found: Sequence[Node], people: Sequence[Node] | None) -> Panel:
    """Of each label of constituents. Raises `CapabilityError` where there are no labels."""
    spans: dict[str, list[tuple[str, int, str]]] = {}
    for i, tree in enumerate(found):
        theirs = {} if people is None else {(a, b): label for a, b, label in people[i].spans()}
        words = tree.words
        for a, b, label in tree.spans():
            spans.setdefault(label, []).append((" ".join(words[a : b + 1]), b - a + 1, theirs.get((a, b), "none")))
    if spans.keys() <= {"X"}:
        raise CapabilityError("these trees have no labels")
    total = sum(map(len, spans.values()))
    rows = []
    for label, parts in sorted(spans.items(), key=lambda item: -len(item[1]))[:LABELS]:
        mean = sum(size for _, size, _ in parts) / len(parts)
        cells = [label, percent(len(parts) / total), number(mean, 2)]
        cells += [] if people is None else [_commonest([kind for *_, kind in parts], GOLD, share=True)]
        rows.append([*cells, _commonest([phrase for phrase, *_ in parts], PHRASES)])
    head = ["label", "share", "words", *([] if people is None else ["people's"]), "commonest"]
    caption = "What each label of constituents covers: its share of them, how many words, and what it stands over"
    caption += " most often." if people is None else " most often; and what people call the same spans, if anything."
    return Panel("table", {"head": head, "rows": rows, "text": 1, "words": 3}, caption, "What each label covers")


def _commonest(values: Sequence[str], most: int, share: bool = False) -> str:
    counts = Counter(values).most_common(most)
    if share:
        return ", ".join(
            f"{name}\N{NO-BREAK SPACE}{100 * count / len(values):.0f}\N{NO-BREAK SPACE}%" for name, count in counts
        )
    return "; ".join(name if len(name) <= 40 else f"{name[:39]}…" for name, _ in counts)


class _Counts(NamedTuple):
    """Expected uses over the data, see `Tree` for the shapes: of roots, of rules, of words by preterminals (P, V)."""

    root: np.ndarray
    rule: np.ndarray
    word: np.ndarray


def _rules(model: LatentVariableModel, train: Dataset, seed: int) -> list[Panel]:
    """Raises `CapabilityError` where trees have no rules."""
    some = train.subset(figures.thinned(len(train), COUNTED).tolist())
    counts = _counted(model, some, seed)
    first, last = len(counts.root), len(counts.word)
    names = [f"N{k}" for k in range(first)] + [f"P{k}" for k in range(last)]
    share, given = counts.rule / counts.rule.sum(), counts.rule / counts.rule.sum((1, 2), keepdims=True).clip(1e-300)
    best = np.argsort(-share, axis=None, kind="stable")[:RULES]
    rows = []
    for a, b, c in zip(*np.unravel_index(best, share.shape), strict=True):
        if share[a, b, c] >= LEAST_SHARE:
            rule = f"{names[a]} → {names[b]} {names[c]}"
            rows.append([rule, percent(share[a, b, c]), percent(given[a, b, c])])
    of = f"{len(some):,} of the sentences learned from" if len(some) < len(train) else "the sentences learned from"
    roots = counts.root / counts.root.sum()
    best = [k for k in np.argsort(-roots, kind="stable")[:GOLD] if roots[k] >= LEAST_SHARE]
    tops = ", ".join(f"{names[k]} ({percent(roots[k])})" for k in best)
    caption = (
        f"The rules that are expected to be used most in {of}: their share of all rules used, and of those used for "
        f"their label. N: a label of two words or more, P: of one. A sentence is {tops}."
    )
    rules = table(["rule", "of all", "of its label"], rows, caption, "The commonest rules")
    order = np.argsort(-counts.word.sum(1), kind="stable")
    return [rules, words_of(counts.word * len(train) / len(some), order, train, "preterminal", "P")]


def _counted(model: LatentVariableModel, data: Dataset, seed: int) -> _Counts:
    total: dict[str, np.ndarray] = {}
    if not isinstance(model, Parser):
        raise CapabilityError("there are no trees")
    with using(model, seed):
        for _, batch in data.by_length(BATCH):
            batch = batch.to(model.anchor)
            posterior = model.trees(batch)
            if not isinstance(posterior, Tree):
                raise CapabilityError("these trees have no rules")
            expected = posterior.expectations(batch.weights.to(model.anchor), ("root", "rule", "word"))
            word = expected["word"].double().flatten(0, 1)
            into = word.new_zeros(data.schema.levels or 0, word.shape[1])
            symbols = torch.where(batch.observed, batch.x, 0).long().flatten()
            parts = {
                "root": expected["root"].reshape(-1, posterior.nonterminals).sum(0),
                "rule": expected["rule"].reshape(-1, *expected["rule"].shape[-3:]).sum(0),
                "word": into.index_add_(0, symbols, word * batch.observed.flatten().unsqueeze(-1)).mT,
            }
            for name, part in parts.items():
                total[name] = total.get(name, 0.0) + part.double().cpu().numpy()
    return _Counts(**total)
