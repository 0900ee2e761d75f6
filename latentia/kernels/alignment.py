"""E-steps of the classical alignment models on the CPU: pairs of sentences under one translation table.

A pair reads as many entries of the table as it has pairs of words, and no others, so that a step costs nothing for the
size of the vocabularies. One thread: all pairs write to the same table of counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.errors import DataError
from latentia.kernels.bags import check_rows
from latentia.kernels.compiled import njit


class Pairs(NamedTuple):
    """Sentences x (B, T) with their lengths (B,), and the rows (B, J) of the table that their sources are, with theirs
    (B,); the weight of each pair, (B,)."""

    x: Tensor
    lengths: Tensor
    rows: Tensor
    sources: Tensor
    weight: Tensor

    def arrays(self, table: Tensor) -> tuple[np.ndarray, ...]:
        check_rows(self.rows, len(table))
        check_rows(self.x, table.shape[1])
        parts = (self.x.long(), self.lengths.long(), self.rows.long(), self.sources.long(), self.weight.double())
        return tuple(part.contiguous().numpy() for part in parts)


class Independent(NamedTuple):
    """What `independent` counts, in float64.

    Attributes:
        table: (R, V), how often each row gave each word.
        value: (B,), log p(x), in nats.
        null: how many words came from nowhere.
        distance: sum over the other words of |j / J - t / T|.
        words: (longest + 1, longest + 1, longest + 1), how many came from somewhere, by T, J and t, each from 1; of no
            size where nothing asks for them.
    """

    table: Tensor
    value: Tensor
    null: float
    distance: float
    words: Tensor


def independent(pairs: Pairs, table: Tensor, tension: float, null: float | None, longest: int = 0) -> Independent:
    """One source position for each word: 0, nowhere, with probability `null`, else j with one in proportion to
    exp(-tension |j / J - t / T|); all, nowhere among them, alike where null is None.

    Args:
        table: (R, V), probabilities, whose last row is nowhere's.
    """
    if longest and len(pairs.x) and max(int(pairs.sources.max()), int(pairs.lengths.max())) > longest:
        raise DataError(f"a sentence of more than {longest} words, which are the most")
    counts, value = np.zeros(table.shape), np.empty(len(pairs.x))
    words, sums = np.zeros((longest + 1,) * 3 if longest else (1, 1, 1)), np.zeros(2)
    probabilities = table.double().contiguous().numpy()
    share = -1.0 if null is None else float(null)
    _independent(*pairs.arrays(table), probabilities, float(tension), share, counts, value, words, sums, bool(longest))
    return Independent(
        torch.from_numpy(counts), torch.from_numpy(value), float(sums[0]), float(sums[1]), torch.from_numpy(words)
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _independent(x, lengths, rows, sources, weight, table, tension, null, counts, value, words, sums, by_place):
    nowhere = len(table) - 1
    share = np.empty(rows.shape[1])
    for b in range(len(x)):
        source, length = sources[b], lengths[b]
        value[b] = 0.0
        for t in range(length):
            word, w = x[b, t], weight[b]
            if null < 0:
                nothing = 1.0 / (source + 1)
                each = nothing
                for j in range(source):
                    share[j] = each * table[rows[b, j], word]
            else:
                nothing = null
                norm = 0.0
                for j in range(source):
                    share[j] = np.exp(-tension * abs((j + 1) / source - (t + 1) / length))
                    norm += share[j]
                for j in range(source):
                    share[j] *= (1.0 - null) / norm * table[rows[b, j], word]
            nothing *= table[nowhere, word]
            total = nothing
            for j in range(source):
                total += share[j]
            value[b] += np.log(total)
            if w == 0.0 or total == 0.0:
                continue
            counts[nowhere, word] += w * nothing / total
            sums[0] += w * nothing / total
            for j in range(source):
                part = w * share[j] / total
                counts[rows[b, j], word] += part
                sums[1] += part * abs((j + 1) / source - (t + 1) / length)
            if by_place:
                words[length, source, t + 1] += w * (1.0 - nothing / total)


class Moving(NamedTuple):
    """What `moving` counts, in float64.

    Attributes:
        table: (R, V), how often each row gave each word.
        value: (B,), log p(x), in nats.
        null: how many words came from nowhere.
        jumps: (2 reach + 1,), how often each width was jumped, those beyond the reach with it.
        left: (longest + 2, longest + 2), how often there was a jump from position i of J, at [i, J - i + 1], counted
            from 1; the first jump of a sentence is from position 0, before all others.
    """

    table: Tensor
    value: Tensor
    null: float
    jumps: Tensor
    left: Tensor


def moving(pairs: Pairs, table: Tensor, jump: Tensor, null: float, longest: int) -> Moving:
    """A chain of source positions by forward and backward sums: each word comes from nowhere, and the position stays,
    with probability `null`; else from a position j with a probability in proportion to jump[j - the one before].

    Args:
        table: (R, V), probabilities, whose last row is nowhere's.
        jump: (2 reach + 1,), weights of widths -reach..reach.
        longest: the most positions of a source.
    """
    counts, value, nothing = np.zeros(table.shape), np.empty(len(pairs.x)), np.zeros(1)
    jumps, left = np.zeros(len(jump)), np.zeros((longest + 2, longest + 2))
    if len(pairs.x) and int(pairs.sources.max()) > longest:
        raise DataError(f"a source sentence of {int(pairs.sources.max())} words, where {longest} are the most")
    probabilities, widths = table.double().contiguous().numpy(), jump.double().contiguous().numpy()
    _moving(*pairs.arrays(table), probabilities, widths, float(null), counts, value, nothing, jumps, left)
    table_counts, values, jumped, begun = (torch.from_numpy(part) for part in (counts, value, jumps, left))
    return Moving(table_counts, values, float(nothing[0]), jumped, begun)


@njit(cache=True, nogil=True, error_model="numpy")
def _moving(x, lengths, rows, sources, weight, table, jump, null, counts, value, nothing, jumps, left):
    """States (j, from somewhere) and (j, from nowhere) of each step; `at` is their sum, which is all that a next step
    asks for."""
    nowhere, reach = len(table) - 1, len(jump) // 2
    most, steps = rows.shape[1], x.shape[1]
    move = np.empty((most + 1, most))
    somewhere, empty = np.empty((steps, most)), np.empty((steps, most))
    beta, ahead, scale = np.empty(most), np.empty(most), np.empty(steps)
    for b in range(len(x)):
        source, length, w = sources[b], lengths[b], weight[b]
        value[b] = 0.0
        if length == 0:
            continue
        # row i is of jumps from i - 1, the first one from before all positions
        for i in range(source + 1):
            norm = 0.0
            for j in range(source):
                move[i, j] = jump[min(max(j - (i - 1), -reach), reach) + reach]
                norm += move[i, j]
            for j in range(source):
                move[i, j] /= norm
        for t in range(length):
            word, total = x[b, t], 0.0
            for j in range(source):
                reached, stayed = 0.0, 0.0
                if t == 0:
                    reached = move[0, j]
                    stayed = reached
                else:
                    for i in range(source):
                        reached += (somewhere[t - 1, i] + empty[t - 1, i]) * move[i + 1, j]
                    stayed = somewhere[t - 1, j] + empty[t - 1, j]
                somewhere[t, j] = reached * (1.0 - null) * table[rows[b, j], word]
                empty[t, j] = stayed * null * table[nowhere, word]
                total += somewhere[t, j] + empty[t, j]
            value[b] += np.log(total)
            scale[t] = total
            if total == 0.0:
                break
            for j in range(source):
                somewhere[t, j] /= total
                empty[t, j] /= total
        if value[b] == -np.inf or w == 0.0:
            continue
        for j in range(source):
            beta[j] = 1.0
        for t in range(length - 1, -1, -1):
            word = x[b, t]
            for j in range(source):
                one, none = somewhere[t, j] * beta[j], empty[t, j] * beta[j]
                counts[rows[b, j], word] += w * one
                counts[nowhere, word] += w * none
                nothing[0] += w * none
            for j in range(source):
                ahead[j] = (1.0 - null) * table[rows[b, j], word] * beta[j] / scale[t]
            if t == 0:
                # where there is nowhere's word first, a position is jumped to all the same
                for j in range(source):
                    first = w * (somewhere[0, j] + empty[0, j]) * beta[j]
                    jumps[min(j + 1, reach) + reach] += first
                    left[0, source + 1] += first
                break
            for i in range(source):
                at = somewhere[t - 1, i] + empty[t - 1, i]
                sums = 0.0
                for j in range(source):
                    part = move[i + 1, j] * ahead[j]
                    sums += part
                    jumps[min(max(j - i, -reach), reach) + reach] += w * at * part
                left[i + 1, source - i] += w * at * sums
                # the sums of step t are read for the last time, so those of t - 1 may be put in their place
                scale_of = null * table[nowhere, word] * beta[i] / scale[t]
                somewhere[t, i] = sums + scale_of
            for i in range(source):
                beta[i] = somewhere[t, i]
