"""From sentences to trees, and how well trees agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from latentia.data import data_for
from latentia.data.treebanks import Node, parse_trees
from latentia.distributions import Brackets, Tree
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.model import Batch, LatentVariableModel
from latentia.tasks.common import using

DECODERS = ("risk", "best")
Span = tuple[int, int]


@runtime_checkable
class Parser(Protocol):
    """What makes a model one that parses."""

    def trees(self, batch: Batch) -> Tree | Brackets:
        """The trees that the sentences may have."""
        ...


def parse(
    model: LatentVariableModel, data: Any, *, decode: str = "risk", batch_size: int = 16, seed: int = 0
) -> list[Node]:
    """A tree for each sentence, with its words: labels are "N3" of the third nonterminal (from 0), "P3" of a
    preterminal.

    Args:
        data: anything that `as_dataset` takes.
        decode: "risk", the tree of which most constituents are expected to be right (Goodman 1996); "best", the most
            probable one.

    Raises:
        CapabilityError: the model has no trees.
        DataError: data that the model cannot have.
        OptionError: another way to decode.
    """
    if decode not in DECODERS:
        raise OptionError(f"decode={decode!r}: choose one of {', '.join(DECODERS)}")
    if not isinstance(model, Parser):
        name = type(model).__name__
        raise CapabilityError(f"{name} has no trees: write {name}.trees(batch), a Tree or Brackets over each sentence")
    data = data_for(model, data, seed)
    words = data.decoded()
    found: list[Node | None] = [None] * len(data)
    with using(model, seed):
        for index, batch in data.by_length(batch_size):
            trees = model.trees(batch.to(model.anchor))
            z = trees.minimum_risk if decode == "risk" else trees.mode
            first = trees.nonterminals if isinstance(trees, Tree) else 0
            for row, n in zip(z.cpu(), index.tolist(), strict=True):
                found[n] = _node(row if row.ndim == 3 else row.unsqueeze(-1), first, [str(word) for word in words[n]])
    return [node for node in found if node is not None]


def _node(z: Tensor, first: int, words: list[str]) -> Node:
    """The tree of a chart (N, N, S)."""
    labels = {(i, j): a for i, j, a in z.nonzero().tolist()}

    def grow(i: int, j: int) -> Node:
        label = labels[i, j]
        name = (f"N{label}" if label < first else f"P{label - first}") if first else "X"
        if i == j:
            return Node(name, [words[i]])
        k = next(k for k in range(i, j) if (i, k) in labels and (k + 1, j) in labels)
        return Node(name, [grow(i, k), grow(k + 1, j)])

    return grow(0, len(words) - 1)


def worded(tree: Node, words: Sequence[str]) -> Node:
    """The same tree over other words, as many: those that a sentence had before its vocabulary made some "<unk>"."""
    left = iter(words)

    def grow(node: Node) -> Node:
        return Node(node.label, [next(left) if isinstance(child, str) else grow(child) for child in node.children])

    return grow(tree)


def gold(data: Any) -> list[Node]:
    """The trees that people have drawn. Raises `DataError` where there are none."""
    if getattr(data, "trees", None) is None:
        raise DataError("these data have no trees to compare with: give a treebank (.mrg, .zip, .conllu)")
    return [parse_trees(text, "the data")[0][1] for text in data.trees]


@dataclass(frozen=True)
class Agreement:
    """Unlabelled agreement of constituents with those of people, in [0, 1].

    Constituents are sets of spans of two words or more, without the whole sentence's; punctuation is not there.

    Attributes:
        sentence: mean of each sentence's F1. A sentence whose gold tree has no such span has recall 1, and precision
            1 where nothing is found in it and 0 otherwise: F1 is 1 or 0 (as Shen et al. 2018 count).
        corpus: F1 of all spans together.
        precision, recall: of all spans together.
        labels: by the label of the gold constituent, the share found, and how many there are.
        sentences: how many there are.
    """

    sentence: float
    corpus: float
    precision: float
    recall: float
    labels: dict[str, tuple[float, int]]
    sentences: int


def agreement(found: Sequence[Node], people: Sequence[Node]) -> Agreement:
    """How well trees agree with gold trees of the same sentences. Raises `DataError` where words are not as many."""
    each, right, guessed, wanted = [], 0, 0, 0
    labels: dict[str, list[bool]] = {}
    for number, (one, truth) in enumerate(zip(found, people, strict=True), 1):
        if len(one.words) != len(truth.words):
            raise DataError(
                f"sentence {number} has {len(one.words)} words, and its gold tree {len(truth.words)}: they are not of "
                "the same data"
            )
        ours, theirs = constituents(one), constituents(truth)
        both = len(ours & theirs)
        right, guessed, wanted = right + both, guessed + len(ours), wanted + len(theirs)
        precision = both / len(ours) if ours else float(not theirs)
        recall = both / len(theirs) if theirs else 1.0
        each.append(_f1(precision, recall))
        for i, j, label in truth.spans():
            if (i, j) in theirs:
                labels.setdefault(label, []).append((i, j) in ours)
    precision, recall = right / max(guessed, 1), right / max(wanted, 1)
    by_label = {name: (sum(hits) / len(hits), len(hits)) for name, hits in labels.items()}
    by_label = dict(sorted(by_label.items(), key=lambda item: -item[1][1]))
    return Agreement(sum(each) / max(len(each), 1), _f1(precision, recall), precision, recall, by_label, len(each))


def constituents(tree: Node) -> set[Span]:
    """Spans of two words or more, without the whole sentence's."""
    length = len(tree.words)
    return {(i, j) for i, j, _ in tree.spans() if i < j and (i, j) != (0, length - 1)}


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _split(words: Sequence[str], place: Callable[[int, int], int]) -> Node:
    """A binary tree of which the words from i to j are split after `place(i, j)`."""

    def grow(i: int, j: int) -> Node:
        if i == j:
            return Node("P", [words[i]])
        k = place(i, j)
        return Node("X", [grow(i, k), grow(k + 1, j)])

    return grow(0, len(words) - 1)


def left_branching(words: Sequence[str]) -> Node:
    return _split(words, lambda i, j: j - 1)


def right_branching(words: Sequence[str]) -> Node:
    return _split(words, lambda i, j: i)


def balanced(words: Sequence[str]) -> Node:
    return _split(words, lambda i, j: (i + j) // 2)


def random_tree(words: Sequence[str], generator: torch.Generator) -> Node:
    """Every binary tree alike, by the number of trees that each split leaves."""
    size = len(words)
    counts = [1.0]
    for n in range(1, size):
        counts.append(counts[-1] * 2 * (2 * n - 1) / (n + 1))

    def place(i: int, j: int) -> int:
        ways = torch.tensor([counts[k - i] * counts[j - k - 1] for k in range(i, j)], dtype=torch.float64)
        return i + int(torch.multinomial(ways, 1, generator=generator))

    return _split(words, place)


def oracle(people: Node) -> Node:
    """The binary tree that agrees best: the gold tree, its wider constituents split to the right."""
    words, spans = people.words, constituents(people)

    def place(i: int, j: int) -> int:
        # the first part of the constituent is the longest one that begins here, or one word
        return max((k for k in range(i, j) if (i, k) in spans), default=i)

    return _split(words, place)
