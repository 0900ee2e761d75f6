"""What grammars share: sentences of which charts can be held, and their generation."""

from __future__ import annotations

import torch
from torch import Tensor

from latentia.distributions.emissions.rows import check_symbols
from latentia.errors import CapabilityError, DataError
from latentia.model import Batch

MOST_WORDS = 200
"""A chart grows with the square of a sentence's words, and the work with the cube."""
BLOCK = 2**23
"""Numbers in the charts that are held in memory at a time."""
TRIES = 1000
"""Draws for each sentence that is asked for, most of them too long, before it is given up."""


def check_sentences(batch: Batch, symbols: int) -> None:
    """Raise `DataError` for what no grammar has written, or whose chart is too large."""
    if batch.x.ndim != 2:
        raise DataError(f"a grammar writes sentences of symbols, x (B, T), not data of shape {tuple(batch.x.shape)}")
    check_symbols(batch.x, batch.seen, symbols)
    for wrong, reason in (
        (batch.ends < 2, "a grammar's sentences have two or more (its first rule makes two constituents)"),
        (batch.ends > MOST_WORDS, f"the chart of its constituents would be too large: {MOST_WORDS} are the most"),
    ):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            count = int(batch.ends[row])
            raise DataError(f"sentence {row + 1} has {count} word{'s' * (count != 1)}: {reason}; leave it out")


def blocks(batch: Batch, labels: int) -> list[Batch]:
    """The data, sentences of like length together, as many at a time as their charts leave room for."""
    order = batch.ends.argsort(descending=True, stable=True)
    found = []
    while len(order):
        size = max(BLOCK // (int(batch.ends[order[0]]) ** 2 * labels), 1)
        found.append(batch.select(order[:size]).cut())
        order = order[size:]
    return found


@torch.no_grad()
def derive(root: Tensor, rules: Tensor, words: Tensor, size: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sentences (size, N), their lengths, and their trees (size, N, N, K + P), from the top down, each drawn again
    until it has no more than `most` words.

    Args:
        root: (K,) or (size, K), rules (K, S, S) or (size, K, S, S) and words (P, V) or (size, P, V): probabilities.
    """
    owns = rules.ndim == 4
    left = torch.arange(size, device=root.device)
    leaves = torch.full((size, most), -1, device=root.device)
    trees = torch.full((size, most, 3), -1, device=root.device)
    for _ in range(TRIES):
        if not len(left):
            break
        own = (root[left], rules[left]) if owns else (root.expand(len(left), -1), rules)
        leaves[left], trees[left], done = _expanded(*own, most)
        left = left[~done]
    if len(left):
        raise CapabilityError(
            f"{len(left)} of {size} sentences had more than {most} words each time, {TRIES} times: this grammar hardly "
            "ever comes to an end; raise length, or fit the model first"
        )
    lengths = (leaves >= 0).sum(-1)
    longest = int(lengths.max()) if size else 0
    leaves, first = leaves[:, :longest], root.shape[-1]
    probs = words.gather(1, _wide(leaves - first, words)) if words.ndim == 3 else words[(leaves - first).clamp(min=0)]
    x = torch.multinomial(probs.flatten(0, 1), 1).view(leaves.shape) if leaves.numel() else leaves
    return torch.where(leaves >= 0, x, 0), lengths, _charts(trees, leaves, first, rules.shape[-1]).to(root)


def _wide(preterminals: Tensor, words: Tensor) -> Tensor:
    return preterminals.clamp(min=0).unsqueeze(-1).expand(-1, -1, words.shape[-1])


def _expanded(root: Tensor, rules: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The preterminals of one derivation each, (n, most), its rules from the left and from the top, (n, most, 3), and
    whether it came to an end in time."""
    size, first = root.shape
    leaves = torch.full((size, most + 1), -1, device=root.device)
    used = torch.full((size, most, 3), -1, device=root.device)
    leaves[:, 0] = torch.multinomial(root, 1).squeeze(-1)
    place = torch.arange(most + 1, device=root.device)
    symbols = rules.shape[-1]
    for step in range(most - 1):
        going = (leaves >= 0) & (leaves < first)
        at = going.to(torch.uint8).argmax(-1)
        active = going.any(-1).nonzero().squeeze(-1)
        if not len(active):
            break
        at, before = at[active].unsqueeze(-1), leaves[active]
        parent = before.gather(-1, at).squeeze(-1)
        probs = rules[active, parent] if rules.ndim == 4 else rules[parent]
        drawn = torch.multinomial(probs.flatten(1), 1)
        left, right = drawn // symbols, drawn % symbols
        moved = before.gather(-1, (place - 1).clamp(min=0).expand(len(active), -1))
        after = torch.where(place <= at, before, torch.where(place == at + 1, right, moved))
        leaves[active] = torch.where(place == at, left, after)
        used[active, step] = torch.cat([parent.unsqueeze(-1), left, right], -1)
    done = ((leaves < 0) | (leaves >= first)).all(-1)
    return leaves[:, :most], used, done


def _charts(used: Tensor, leaves: Tensor, first: int, symbols: int) -> Tensor:
    """Trees as charts of their spans, from their rules in the order of a leftmost derivation."""
    size, longest = leaves.shape
    spans = []
    for b, rules in enumerate(used.tolist()):
        turn = iter(rules)

        def grow(label: int, start: int, turn=turn, b=b) -> int:
            """One past the last word of the label that starts at this one."""
            end = start + 1
            if label < first:
                _, left, right = next(turn)
                end = grow(right, grow(left, start))
            spans.append((b, start, end - 1, label))
            return end

        grow(rules[0][0], 0)
    z = torch.zeros(size, longest, longest, symbols)
    if spans:
        z[tuple(torch.tensor(spans).unbind(-1))] = 1
    return z
