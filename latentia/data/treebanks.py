"""Treebanks: sentences with the trees that people have drawn over them."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentia.data.files import read_text, readable
from latentia.data.limits import judge
from latentia.data.raw import Raw
from latentia.errors import DataError

NOT_WORDS = {"-NONE-", "-LRB-", "-RRB-", "PUNCT"}
"""Tags of what is no word: traces, brackets, punctuation. Tags without a letter (, . : `` '' $ #) are none of words."""
BRACKETED = re.compile(r"\s*\(\s*(\(\s*)?[A-Z][^\s()]*\s+\(")
NUMBER = re.compile(r"[0-9]+([,.]?[0-9]*)*")
_TOKEN = re.compile(r"[()]|[^\s()]+")


class Node(NamedTuple):
    """A constituent.

    Attributes:
        label: "" where it has none.
        children: constituents and words.
    """

    label: str
    children: list[Node | str]

    @property
    def words(self) -> list[str]:
        """What it covers, from the left."""
        return [word for child in self.children for word in ([child] if isinstance(child, str) else child.words)]

    def spans(self, start: int = 0) -> Iterator[tuple[int, int, str]]:
        """Of every constituent that is more than a word's tag: its first word, its last one, its label."""
        end = start
        inner = []
        for child in self.children:
            if isinstance(child, str):
                end += 1
            else:
                inner += list(child.spans(end))
                end += len(child.words)
        if not self.is_tag:
            yield start, end - 1, self.label
        yield from inner

    @property
    def is_tag(self) -> bool:
        """Whether it is a word with its part of speech."""
        return len(self.children) == 1 and isinstance(self.children[0], str)

    def __str__(self) -> str:
        return f"({self.label} {' '.join(map(str, self.children))})"


def parse_trees(text: str, source: str) -> list[tuple[int, Node]]:
    """Bracketed trees, each with the line that it starts in.

    Raises:
        DataError: a bracket without its other half, an empty tree, or a word outside of all, with the line.
    """
    found: list[tuple[int, Node]] = []
    open_: list[tuple[int, list[str], list[Node | str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        for token in _TOKEN.findall(line):
            place = f"{source}, line {number}"
            if token == "(":
                open_.append((number, [], []))
            elif not open_:
                what = "a closing bracket without an opening one" if token == ")" else f"{token!r} outside of any tree"
                raise DataError(f"{place}: {what}: correct the line")
            elif token == ")":
                start, label, children = open_.pop()
                if not children:
                    raise DataError(f"{place}: a constituent of no words: take it out, or write its words")
                node = Node("".join(label), children)
                if open_:
                    open_[-1][2].append(node)
                else:
                    found.append((start, node))
            else:
                _, label, children = open_[-1]
                (children if label or children else label).append(token)
    if open_:
        raise DataError(f"{source}, line {open_[0][0]}: the bracket that opens here is never closed: add the )")
    if not found:
        raise DataError(f"{source} is empty: it holds no tree")
    return found


def cleaned(tree: Node) -> Node | None:
    """The tree without traces and punctuation, in lower case, with N for digits, and without functions in labels (NP
    for NP-SBJ-1). A constituent of which nothing is left, and a bracket without a label around one, are gone."""
    if tree.is_tag:
        word = str(tree.children[0])
        if tree.label in NOT_WORDS or not any(map(str.isalpha, tree.label)):
            return None
        return Node(tree.label, [NUMBER.sub("N", word.lower()).replace("(", "-lrb-").replace(")", "-rrb-")])
    children: list[Node | str] = []
    for child in tree.children:
        kept = child if isinstance(child, str) else cleaned(child)
        if kept is not None:
            children.append(kept)
    if not children:
        return None
    if not tree.label and len(children) == 1 and isinstance(children[0], Node):
        return children[0]
    return Node(re.split(r"[-=|]", tree.label)[0] if not tree.label.startswith("-") else tree.label, children)


def read_brackets(path: Path) -> Raw:
    """Trees in brackets, as in the Penn Treebank (.mrg), or one a line."""
    return _as_raw([(path.name, *found) for found in parse_trees(read_text(path), path.name)], path.name)


def is_bracketed(path: Path) -> bool:
    """Whether a file of text begins as a tree does."""
    with readable(path, "UTF-8 text"), path.open("rb") as file:
        return BRACKETED.match(file.read(400).decode("utf-8", "replace")) is not None


def read_zip(path: Path) -> Raw:
    """The .mrg files of an archive in the order of their names."""
    found = []
    with readable(path, "a zip archive"), zipfile.ZipFile(path) as archive:
        members = sorted((part for part in archive.infolist() if part.filename.endswith(".mrg")), key=_name)
        if not members:
            raise DataError(f"{path.name} holds no .mrg file: a treebank is a zip archive of files of bracketed trees")
        judge(path.name, sum(member.file_size for member in members), path.stat().st_size)
        for member in members:
            text = archive.read(member).decode("utf-8")
            place = f"{path.name}, {member.filename}"
            found += [(place, *tree) for tree in parse_trees(text, place)] if text.strip() else []
    return _as_raw(found, path.name)


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename


def read_conllu(path: Path) -> Raw:
    """CoNLL-U (universaldependencies.org/format): a constituent is a word with all that hangs from it."""
    found, rows, start = [], [], 1
    for number, line in enumerate([*read_text(path).split("\n"), ""], 1):
        if not line.strip():
            if rows:
                found.append((path.name, start, _of_heads(rows, f"{path.name}, line {start}")))
            rows, start = [], number + 1
        elif not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) != 10:
                raise DataError(f"{path.name}, line {number}: {len(cells)} columns where CoNLL-U has 10: correct it")
            if cells[0].isdigit():  # not a token of several words (1-2), nor one that is not there (1.1)
                if not cells[6].isdigit():
                    raise DataError(f"{path.name}, line {number}: the head {cells[6]!r} is no number of a word")
                rows.append((cells[1], cells[3], int(cells[6])))
    if not found:
        raise DataError(f"{path.name} is empty: it holds no sentence")
    return _as_raw(found, path.name)


def _of_heads(rows: list[tuple[str, str, int]], place: str) -> Node:
    """Words (form, tag, head from 1, 0 of the root) as a tree of the words that hang from each, where they are one
    behind the other."""
    below: list[set[int]] = [{i} for i in range(len(rows))]
    for i, (_, _, head) in enumerate(rows):
        up, steps = head, 0
        while up:
            if up > len(rows) or steps > len(rows):
                raise DataError(f"{place}: the heads of this sentence are no tree: correct the seventh column")
            below[up - 1].add(i)
            up, steps = rows[up - 1][2], steps + 1
    whole = {(min(b), max(b)): rows[i][1] for i, b in enumerate(below) if len(b) == max(b) - min(b) + 1}
    whole.setdefault((0, len(rows) - 1), "S")
    leaves = [Node(tag, [form]) for form, tag, _ in rows]
    return _nested(leaves, 0, len(rows) - 1, {span: label for span, label in whole.items() if span[0] < span[1]})


def _nested(leaves: list[Node], start: int, end: int, spans: dict[tuple[int, int], str]) -> Node:
    children: list[Node | str] = []
    i = start
    while i <= end:
        j = max((j for (a, j) in spans if a == i and j <= end and (a, j) != (start, end)), default=i)
        children.append(leaves[i] if j == i else _nested(leaves, i, j, spans))
        i = j + 1
    return Node(spans.get((start, end), "S"), children)


def _as_raw(found: list[tuple[str, int, Node]], source: str) -> Raw:
    """Sentences of two words or more, with their trees: of one word there is nothing to parse."""
    kept = [(line, tree) for _, line, whole in found if (tree := cleaned(whole)) and len(tree.words) > 1]
    if not kept:
        raise DataError(f"{source} holds no sentence of two words or more, when punctuation is left out")
    if len(kept) < len(found):
        warnings.warn(
            f"{source}: {len(found) - len(kept)} of {len(found)} sentences have fewer than two words, punctuation left "
            "out, and are left out",
            stacklevel=3,
        )
    trees = np.array([str(tree) for _, tree in kept], dtype=object)
    lines = np.array([line for line, _ in kept])
    return Raw("text", [tree.words for _, tree in kept], source=source, trees=trees, lines=lines)
