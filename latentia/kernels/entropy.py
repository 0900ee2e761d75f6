"""Asymmetric numeral systems: symbols to bits and back, last in first out (Duda 2009; the range variant, section 3).

A message is a number. It is held as a stack of 32-bit words with a head of 64 bits, which is at least 2^32. A symbol
that has the slots start..start+size-1 out of 2^precision, so the probability size / 2^precision, is pushed by

    head <- (head // size) 2^precision + head mod size + start

which makes the number longer by log2(2^precision / size) bits; popping undoes it exactly. Before a push that would
overflow, the head's lower half goes to the stack; after a pop that leaves less than 2^32, a word comes back.

A pop from a message that holds no such symbol is a draw from the distribution, with the message's bits as randomness:
what bits-back coding lives by.

The work is that of `constriction.stream.stack.AnsCoder`, whose words these are, and `constriction` has nothing for a
normal's cells of equal prior probability; where each bit has a probability of its own, this is several times as fast:
`benchmarks/codec.py` measures the two.

Shapes: N symbols. Words are uint32, heads uint64. Kernels take the message as `words`, `head` (1,) and `place` (2,),
the number of words and the fewest that there ever were, and change it. They return -1, or the number of the symbol at
which it ran out of words.
"""

from __future__ import annotations

import math

import numpy as np

from latentia.kernels.compiled import njit

HEAD = 2**32
"""The head of an empty message."""
PRECISION = 24
"""Of probabilities of symbols. The head has at least 32 bits: 8 more than these keep the loss by a remainder small."""
FINE = 28
"""Of the cells of a continuous latent, of which there are thousands: each then has a slot, and hundreds of them."""
_ONE, _WORD, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def push(words, head, place, start, size, precision):
    """Push the N symbols with slots `start` and `size` (N,) uint32, the last one first."""
    precision = np.uint64(precision)
    limit, now, top = np.uint64(64) - precision, head[0], place[0]
    for n in range(len(start) - 1, -1, -1):
        many = np.uint64(size[n])
        if now >> limit >= many:
            words[top] = np.uint32(now & _LOW)
            top += 1
            now = now >> _WORD
        whole = now // many
        now = (whole << precision) + (now - whole * many) + np.uint64(start[n])
    head[0], place[0] = now, top


@njit(nogil=True, cache=True, inline="always")
def _take(words, now, top, start, size, precision):
    """Pop the symbol that has these slots: the head after it, 0 where there is no word left, and how many words are
    left. What is popped keeps both in variables of its own: in memory they cost eight times as much."""
    slot = now & ((_ONE << precision) - _ONE)
    now = size * (now >> precision) + slot - start
    if now <= _LOW:
        if top == 0:
            return np.uint64(0), top
        top -= 1
        now = (now << _WORD) | np.uint64(words[top])
    return now, top


@njit(nogil=True, cache=True)
def pop_even(words, head, place, found, precision):
    """Pop N symbols that are one of 2^precision alike, into `found` (N,)."""
    precision = np.uint64(precision)
    now, top, least = head[0], place[0], place[1]
    for n in range(len(found)):
        slot = now & ((_ONE << precision) - _ONE)
        now, top = _take(words, now, top, slot, _ONE, precision)
        if now == 0:
            return n
        least = min(least, top)
        found[n] = slot
    head[0], place[0], place[1] = now, top, least
    return -1


@njit(nogil=True, cache=True, inline="always")
def _ones(p, whole):
    """How many of `whole` slots a 1 has."""
    return min(max(np.int64(np.float64(p) * whole + 0.5), 1), whole - 1)


@njit(nogil=True, cache=True)
def bits(p, x, precision, start, size):
    """The slots of bits x (N,), of which a 1 has the probability p (N,), and the slots from 0 on."""
    whole = np.int64(1) << np.int64(precision)
    for n in range(len(x)):
        one = _ones(p[n], whole)
        start[n] = 0 if x[n] == 1 else one
        size[n] = one if x[n] == 1 else whole - one


@njit(nogil=True, cache=True)
def pop_bits(words, head, place, p, found, precision):
    """Pop N bits with the slots that `bits` gives them, into `found` (N,)."""
    whole = np.int64(1) << np.int64(precision)
    now, top, least = head[0], place[0], place[1]
    for n in range(len(found)):
        slot, one = np.int64(now & np.uint64(whole - 1)), _ones(p[n], whole)
        bit = slot < one
        start, size = (0, one) if bit else (one, whole - one)
        now, top = _take(words, now, top, np.uint64(start), np.uint64(size), np.uint64(precision))
        if now == 0:
            return n
        least = min(least, top)
        found[n] = bit
    head[0], place[0], place[1] = now, top, least
    return -1


@njit(nogil=True, cache=True, inline="always")
def _cut(below, total, room, number):
    """Where the slots of a value begin, before which there are `number` values of the probability `below` in all."""
    return np.int64(below / total * room) + number


@njit(nogil=True, cache=True)
def intervals(p, row, symbol, precision, start, size):
    """The slots of `symbol` (N,), of which each has the probabilities p[row[n]], p being (M, V) and not negative.

    The v-th of V values begins at v + floor((2^precision - V) P(values before it)): each has a slot at least.
    """
    whole = np.int64(1) << np.int64(precision)
    values = p.shape[1]
    room = float(whole - values)
    for n in range(len(symbol)):
        m, total = row[n], 0.0
        for v in range(values):
            total += p[m, v]
        below = 0.0
        for v in range(symbol[n]):
            below += p[m, v]
        first = _cut(below, total, room, symbol[n])
        last = whole if symbol[n] == values - 1 else _cut(below + p[m, symbol[n]], total, room, symbol[n] + 1)
        start[n], size[n] = first, last - first


@njit(nogil=True, cache=True)
def pop_values(words, head, place, p, row, found, precision):
    """Pop N values with the slots that `intervals` gives them, into `found` (N,)."""
    whole = np.int64(1) << np.int64(precision)
    values = p.shape[1]
    room = float(whole - values)
    now, top, least = head[0], place[0], place[1]
    for n in range(len(found)):
        m, total = row[n], 0.0
        for v in range(values):
            total += p[m, v]
        slot = np.int64(now & np.uint64(whole - 1))
        below, v, first = 0.0, 0, 0
        last = whole if values == 1 else _cut(p[m, 0], total, room, 1)
        while last <= slot:
            below += p[m, v]
            v += 1
            first = last
            last = whole if v == values - 1 else _cut(below + p[m, v], total, room, v + 1)
        now, top = _take(words, now, top, np.uint64(first), np.uint64(last - first), np.uint64(precision))
        if now == 0:
            return n
        least = min(least, top)
        found[n] = v
    head[0], place[0], place[1] = now, top, least
    return -1


@njit(nogil=True, cache=True, inline="always")
def _below(x):
    """P(a standard normal is below x)."""
    return 0.5 * math.erfc(-x * 0.7071067811865476)


@njit(nogil=True, cache=True)
def quantile(u):
    """Where a standard normal has the probability u below, to nine digits (Acklam 2003)."""
    tail = min(u, 1.0 - u)
    if tail < 0.02425:
        q = math.sqrt(-2.0 * math.log(tail))
        x = (
            (((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838) * q - 2.549732539343734) * q
            + 4.374664141464968
        ) * q + 2.938163982698783
        x /= (
            ((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996) * q + 3.754408661907416
        ) * q + 1.0
        return x if u < 0.5 else -x
    q = u - 0.5
    r = q * q
    x = (
        (((-3.969683028665376e01 * r + 2.209460984245205e02) * r - 2.759285104469687e02) * r + 1.383577518672690e02) * r
        - 3.066479806614716e01
    ) * r + 2.506628277459239
    y = (
        (((-5.447609879822406e01 * r + 1.615858368580409e02) * r - 1.556989798598866e02) * r + 6.680131188771972e01) * r
        - 1.328068155288572e01
    ) * r + 1.0
    return q * x / y


@njit(nogil=True, cache=True)
def quantiles(u, found):
    """`quantile` of each."""
    for n in range(len(u)):
        found[n] = quantile(u[n])


@njit(nogil=True, cache=True, inline="always")
def _edge(i, cells, edges, shift, width, loc, scale, room, each, whole):
    """Where the slots of cell i begin, under Normal(loc, scale): `each` a slot for every cell, 0 or 1."""
    if i <= 0:
        return np.int64(0)
    if i >= cells:
        return whole
    return np.int64(_below((shift + width * edges[i] - loc) / scale) * room) + each * i


@njit(nogil=True, cache=True)
def cells(edges, shift, width, loc, scale, cell, each, precision, start, size):
    """The slots of `cell` (N,) under Normal(loc, scale), (N,) each: cell i lies between shift + width edges[i] and
    shift + width edges[i + 1], and the first and the last one are open.

    Args:
        each: 1 where every cell is to have a slot at least, 0 where only those that were drawn are asked for.
    """
    whole = np.int64(1) << np.int64(precision)
    count = len(edges) - 1
    room = float(whole - each * count)
    for n in range(len(cell)):
        first = _edge(cell[n], count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
        last = _edge(cell[n] + 1, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
        start[n], size[n] = first, last - first


@njit(nogil=True, cache=True)
def pop_cells(words, head, place, edges, shift, width, loc, scale, each, normal, precision, found):
    """Pop N cells with the slots that `cells` gives them, into `found` (N,).

    Args:
        normal: whether the cells are of equal probability under Normal(shift, width), which tells where to look first.
    """
    whole = np.int64(1) << np.int64(precision)
    count = len(edges) - 1
    room = float(whole - each * count)
    now, top, least = head[0], place[0], place[1]
    for n in range(len(found)):
        slot = np.int64(now & np.uint64(whole - 1))
        low, high, first, last = 0, count, np.int64(-1), np.int64(-1)
        if normal:
            near = loc[n] + scale[n] * quantile((slot + 0.5) / whole)
            guess = min(max(int(count * _below((near - shift[n]) / width[n])), 0), count - 1)
            at = _edge(guess, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
            after = _edge(guess + 1, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
            # the guess is mostly right, and an edge costs as much as all else
            if at <= slot:
                low, first = guess, at
            else:
                high, last = guess, at
            if after <= slot:
                low, first = guess + 1, after
            elif low == guess:
                high, last = guess + 1, after
            if high - low > 2:
                near_by = guess + 3 if low > guess else guess - 2
                near_by = min(max(near_by, low), high)
                at = _edge(near_by, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
                if at <= slot:
                    low, first = near_by, at
                else:
                    high, last = near_by, at
        while high - low > 1:
            middle = (low + high) // 2
            at = _edge(middle, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
            if at <= slot:
                low, first = middle, at
            else:
                high, last = middle, at
        if first < 0:
            first = _edge(low, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
        if last < 0:
            last = _edge(high, count, edges, shift[n], width[n], loc[n], scale[n], room, each, whole)
        now, top = _take(words, now, top, np.uint64(first), np.uint64(last - first), np.uint64(precision))
        if now == 0:
            return n
        least = min(least, top)
        found[n] = low
    head[0], place[0], place[1] = now, top, least
    return -1
