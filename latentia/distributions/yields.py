"""Sentences as what trees have at their leaves, the trees summed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from latentia.distributions import observed
from latentia.distributions.tree import Tree
from latentia.errors import CapabilityError

TRIES = 1000
"""Draws for each sentence that is asked for, most of them too long, before it is given up."""
BLOCK = 2**26
"""Numbers in the grammars that are held in memory at a time, where no gradient is asked for."""


class Grammar(NamedTuple):
    """Log-probabilities of a grammar, or of one for each sentence (see `Tree` for K, P and S).

    Attributes:
        root: (K,) or (M, K).
        rule: (K, S, S) or (M, K, S, S), of the two parts given a label.
        word: (P, V) or (M, P, V), of words given a preterminal.
    """

    root: Tensor
    rule: Tensor
    word: Tensor

    def trees(self, x: Tensor, mask: Tensor | None, lengths: Tensor) -> Tree:
        """Over sentences x (M, T): score(z) = log p(x, z), of what is observed of x."""
        x = x if mask is None else torch.where(mask, x, 0)
        if self.word.ndim == 3:
            index = x.long().unsqueeze(-1).expand(-1, -1, self.word.shape[1])
            word = self.word.mT.gather(1, index)
        else:
            word = torch.nn.functional.embedding(x.long(), self.word.mT)
        word = word if mask is None else torch.where(mask.unsqueeze(-1), word, 0.0)
        return Tree({"root": self.root, "rule": self.rule, "word": word}, lengths)

    def derive(self, size: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `derive`."""
        return derive(self.root.exp(), self.rule.exp(), self.word.exp(), size, most)


class Yield(Distribution):
    """p(x | z) = sum over trees of p(x, tree | grammar(z)), batch shape (S, B), event shape (T,).

    A grammar says itself where a sentence ends, so that x of all lengths of two words or more share the probability;
    the length of an x is what `observed.ending` says, T where it has said nothing.

    Args:
        grammar: z (M, D) to a grammar for each.
        z: (S, B, D).
        steps: T.
        lengths: (B,).
        most: the most words of a draw.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict
    # of any number of words, so that nobody lists them
    support = constraints.independent(constraints.nonnegative_integer, 1)  # type: ignore[assignment]

    def __init__(
        self, grammar: Callable[[Tensor], Grammar], z: Tensor, steps: int, lengths: Tensor | None = None, most: int = 40
    ):
        self.grammar, self.z, self.known, self.most = grammar, z, lengths, most
        super().__init__(z.shape[:2], torch.Size([steps]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.marginal(value, None)

    def marginal(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x | z) of what is observed, in nats, (S, B)."""
        shape = torch.broadcast_shapes((*self.batch_shape, x.shape[-1]), x.shape)
        lengths = torch.tensor(x.shape[-1], device=x.device) if self.known is None else self.known
        lengths = lengths.expand(shape[:2]).flatten()
        z, x = self.z.flatten(0, 1), x.expand(shape).flatten(0, 1)
        mask = None if mask is None else mask.expand(shape).flatten(0, 1)
        values = [
            self.grammar(z[part]).trees(x[part], None if mask is None else mask[part], lengths[part]).log_partition
            for part in self._parts(len(z))
        ]
        return torch.cat(values).view(shape[:2]) if values else self.z.new_zeros(shape[:2])

    def _parts(self, size: int) -> list[slice]:
        if torch.is_grad_enabled() or not size:
            return [slice(0, size)] if size else []
        one = self.grammar(self.z.flatten(0, 1)[:1])
        step = max(BLOCK // (one.rule.numel() + one.word.numel()), 1)
        return [slice(start, start + step) for start in range(0, size, step)]

    @property
    def mean(self) -> Tensor:
        """Raises `CapabilityError`: sentences have none."""
        raise CapabilityError("what a grammar derives are sentences, which have no mean: draw some instead")

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if len(sample_shape):
            raise NotImplementedError("draws of several samples: make them part of the batch shape")
        x, _, _ = self.grammar(self.z.flatten(0, 1)).derive(self.batch_shape.numel(), self.most)
        return x.view(*self.batch_shape, -1)


@observed.log_prob.register
def _(p: Yield, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.marginal(x, mask)


@observed.ending.register
def _(p: Yield, lengths: Tensor | None) -> Yield:
    return Yield(p.grammar, p.z, p.event_shape[0], lengths, p.most)


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
