"""CTC's forward and backward sums on the CPU, fused with the softmax over symbols, in scaled probability space.

The recursion of `distributions.alignment.MonotoneAlignment` is the specification. Here the blanks and the symbols of a
string are two rows of states,

    blank'[i] = (blank[i] + symbol[i - 1]) p(blank)
    symbol'[i] = (symbol[i] + blank[i] + differs[i] symbol[i - 1]) p(y_i)

in float64, each frame divided by its sum. float32 is not enough: forward and backward sums overlap little, and what is
lost of one is what the other needs. Exponentials are torch's, in the dtype that was given: numba's are slow.

At every frame Z is the product of both sums, so that what a flushed state can have lost is known: beside their overlap,
each of them divided by its own sum, no more than LEAST over it. Where that is not small the caller falls back on the
recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.errors import DataError
from latentia.kernels.compiled import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
# below this, beside the sum of its frame, a state counts as not reached
LEAST = 1e-290
# the overlap of both sums below which what was flushed may have counted
SMALLEST_OVERLAP = 1e-260
# likelihoods below these, beside the likeliest symbol's, are raised to them: their exponentials are slow, or denormal
LEAST_LOG = {torch.float32: -80.0, torch.float64: -690.0}
IMPOSSIBLE = -1e30


def log_partition(
    node: Tensor, lengths: Tensor, target: Tensor, ends: Tensor, blank: int, softmax: bool
) -> tuple[Tensor, Tensor]:
    """log of the sum over all alignments, (B,) in float64, `IMPOSSIBLE` where there is none, and where it can be
    trusted, (B,). Differentiable once with respect to node.

    Args:
        node: (B, T, C), log-potentials, or with `softmax` logits, whose log-softmax they are.
        lengths: (B,), frames of each; target: (B, L), symbols of each, ends (B,) of them.
        blank: the column of the blank.
    """
    _check(node, lengths, target, ends)
    return _CTC.apply(node, lengths, target, ends, blank, softmax)  # type: ignore[return-value]


def _check(node: Tensor, lengths: Tensor, target: Tensor, ends: Tensor) -> None:
    """What would be read or written beyond an array."""
    if not len(node):
        return
    if int(lengths.max()) > node.shape[1] or int(lengths.min()) < 0:
        raise DataError(f"lengths from {int(lengths.min())} to {int(lengths.max())} of {node.shape[1]} frames at most")
    if int(ends.max()) > target.shape[1] or int(ends.min()) < 0:
        raise DataError(f"strings of {int(ends.min())} to {int(ends.max())} symbols in room for {target.shape[1]}")
    if target.numel() and (int(target.min()) < 0 or int(target.max()) >= node.shape[2]):
        raise DataError(f"symbols from {int(target.min())} to {int(target.max())}: there are 0 to {node.shape[2] - 1}")


class _CTC(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, node: Tensor, lengths: Tensor, target: Tensor, ends: Tensor, blank: int, softmax: bool
    ) -> tuple[Tensor, Tensor]:
        given = node.detach().to(torch.promote_types(node.dtype, torch.float32))
        least = LEAST_LOG[given.dtype]
        peak = given.amax(-1, keepdim=True)
        likelihood = (given - peak).clamp_(min=least).exp_()
        base = peak.squeeze(-1).double()
        if softmax:
            total = likelihood.sum(-1)
            base = -total.double().log()
            share = likelihood / total.unsqueeze(-1)
        else:
            share = likelihood[:, :0]
        value, safe = torch.empty(len(node), dtype=torch.float64), torch.empty(len(node), dtype=torch.bool)
        # the gradient costs little beside the sums that it is made of
        slope = torch.empty_like(likelihood)
        strings = (lengths.long(), target.long(), ends.long())
        arrays = (likelihood, base, *strings, share, value, safe, slope)
        given_arrays = [part.contiguous().numpy() for part in arrays]
        raised = 1.01 * float(np.exp(least))
        _in_threads(lambda thread, threads: _sums(thread, threads, *given_arrays, blank, softmax, raised))
        ctx.save_for_backward(slope)
        ctx.dtype = node.dtype
        ctx.mark_non_differentiable(safe)
        return value, safe

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        found = slope * grads[0].to(slope)[:, None, None]
        return found.to(ctx.dtype), None, None, None, None, None


def _in_threads(work: Callable[[int, int], None]) -> None:
    threads = torch.get_num_threads()
    if threads == 1:
        work(0, 1)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda thread: work(thread, threads), range(threads)))


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _step(blanks, symbols, differs, likely, blank, count, inverse, next_blanks, next_symbols):
    """A frame forwards; the sum of what it leaves."""
    next_blanks[0] = blanks[0] * blank * inverse
    total = next_blanks[0]
    for i in range(count):
        b = (blanks[i + 1] + symbols[i]) * (blank * inverse)
        next_blanks[i + 1] = b if b > LEAST else 0.0
        total += next_blanks[i + 1]
    if count > 0:
        s = (symbols[0] + blanks[0]) * (likely[0] * inverse)
        next_symbols[0] = s if s > LEAST else 0.0
        total += next_symbols[0]
    for i in range(1, count):
        s = (symbols[i] + blanks[i] + differs[i] * symbols[i - 1]) * (likely[i] * inverse)
        next_symbols[i] = s if s > LEAST else 0.0
        total += next_symbols[i]
    return total


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _step_back(blanks, symbols, differs, likely, blank, count, inverse, next_blanks, next_symbols):
    """The sums before a frame from those behind it; their sum. `likely` and `blank` are of the frame between."""
    total = 0.0
    for i in range(count):
        b = (blanks[i] * blank + symbols[i] * likely[i]) * inverse
        next_blanks[i] = b if b > LEAST else 0.0
        total += next_blanks[i]
    b = blanks[count] * blank * inverse
    next_blanks[count] = b if b > LEAST else 0.0
    total += next_blanks[count]
    for i in range(count - 1):
        s = symbols[i] * likely[i] + blanks[i + 1] * blank + differs[i + 1] * symbols[i + 1] * likely[i + 1]
        s *= inverse
        next_symbols[i] = s if s > LEAST else 0.0
        total += next_symbols[i]
    if count > 0:
        s = (symbols[count - 1] * likely[count - 1] + blanks[count] * blank) * inverse
        next_symbols[count - 1] = s if s > LEAST else 0.0
        total += next_symbols[count - 1]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(thread, threads, likelihood, base, lengths, target, ends, share, value, safe, slope, blank, softmax, raised):
    """The data thread, thread + threads, ...: log Z, whether it can be trusted, and its derivative (T, C)."""
    frames, columns, room = likelihood.shape[1], likelihood.shape[2], target.shape[1]
    ahead_blanks, ahead_symbols = np.empty((frames, room + 1)), np.empty((frames, room + 1))
    scale, likely = np.empty(frames), np.empty((frames, room))
    differs = np.empty(room)
    beta_blanks, beta_symbols = np.empty((2, room + 1)), np.empty((2, room + 1))
    zero_blanks, zero_symbols = np.zeros(room + 1), np.zeros(room + 1)
    for b in range(thread, len(likelihood), threads):
        length, count = lengths[b], ends[b]
        slope[b] = 0.0
        safe[b] = True
        value[b] = 0.0
        needed = count
        for i in range(count):
            differs[i] = 1.0 if i > 0 and target[b, i] != target[b, i - 1] else 0.0
            if i > 0 and differs[i] == 0.0:
                needed += 1
        if needed > length:
            value[b] = IMPOSSIBLE
            continue
        if length == 0:
            continue
        low = False
        for t in range(length):
            for i in range(count):
                p = likelihood[b, t, target[b, i]]
                low = low or p < raised
                likely[t, i] = p
            low = low or likelihood[b, t, blank] < raised
        # before the first frame there is a blank that costs nothing
        zero_blanks[0] = 1.0
        total = _step(
            zero_blanks,
            zero_symbols,
            differs,
            likely[0],
            likelihood[b, 0, blank],
            count,
            1.0,
            ahead_blanks[0],
            ahead_symbols[0],
        )
        scale[0], product = total, total
        value[b] = base[b, 0]
        for t in range(1, length):
            if not 1e-290 < total < 1e290:
                break
            total = _step(
                ahead_blanks[t - 1],
                ahead_symbols[t - 1],
                differs,
                likely[t],
                likelihood[b, t, blank],
                count,
                1.0 / total,
                ahead_blanks[t],
                ahead_symbols[t],
            )
            scale[t] = total
            product *= total
            value[b] += base[b, t]
            if not 1e-150 < product < 1e150:
                value[b] += np.log(product)
                product = 1.0
        if not 1e-290 < total < 1e290:
            safe[b] = False
            continue
        last = ahead_blanks[length - 1, count] + (ahead_symbols[length - 1, count - 1] if count > 0 else 0.0)
        value[b] += np.log(product) + np.log(last / total)
        for i in range(count + 1):
            beta_blanks[0, i] = beta_symbols[0, i] = 0.0
        beta_blanks[0, count] = 1.0
        if count > 0:
            beta_symbols[0, count - 1] = 1.0
        now, inverse = 0, 1.0
        least_overlap, least_emitted = 1.0, 1.0
        for t in range(length - 1, -1, -1):
            if t < length - 1:
                total = _step_back(
                    beta_blanks[now],
                    beta_symbols[now],
                    differs,
                    likely[t + 1],
                    likelihood[b, t + 1, blank],
                    count,
                    inverse,
                    beta_blanks[1 - now],
                    beta_symbols[1 - now],
                )
                inverse = 1.0 / total
                now = 1 - now
            blanks, symbols = 0.0, 0.0
            for i in range(count + 1):
                blanks += ahead_blanks[t, i] * beta_blanks[now, i]
            for i in range(count):
                symbols += ahead_symbols[t, i] * beta_symbols[now, i]
            overlap = (blanks + symbols) * inverse / scale[t]
            if not 1e-300 < overlap < 1e300:
                least_overlap = 0.0
                break
            least_overlap = min(least_overlap, overlap)
            least_emitted = min(least_emitted, overlap * scale[t])
            share_of = 1.0 / (blanks + symbols)
            if softmax:
                for c in range(columns):
                    slope[b, t, c] = -share[b, t, c]
            slope[b, t, blank] += blanks * share_of
            for i in range(count):
                slope[b, t, target[b, i]] += ahead_symbols[t, i] * beta_symbols[now, i] * share_of
        # what a raised likelihood adds to its frame's sum counts less than 1e-10 of the whole
        if least_overlap < SMALLEST_OVERLAP or (low and least_emitted < 1e10 * raised):
            safe[b] = False
        if not safe[b]:
            slope[b] = 0.0
