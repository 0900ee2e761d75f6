"""The chain on the CPU: scaled forward-backward and Viterbi in float64, compiled by numba.

Four sequences go forward together, so that a row of the transition matrix that has been loaded serves four states at
once, and four rows of it are added in one pass over the outcome: an inner loop does 16 multiply-adds for 12 loads and
stores. Sequences lie one after another, `start[b]` to `start[b + 1]`, and the longest come first, so that those still
going are always the first of their four. What a step emits is row `row[p]` of a table of likelihoods: its own, or that
of its symbol. There is no exp here, and hardly a log: numba's are slow.

Each step is divided by the sum of the step before, so that one pass multiplies, divides and sums:

    filtered[t] = (filtered[t - 1] @ matrix) * likelihood[t] / scale[t - 1],   scale[t] = sum(filtered[t])
    beta[t - 1] = matrix @ (likelihood[t] * beta[t]) / scale[t - 1],           beta[T] = 1 / scale[T]
    scale[t] = p(x_t | x_1..t-1),                                              p(z_t | x) = filtered[t] * beta[t]
"""

from __future__ import annotations

import numpy as np

from latentia.kernels.compiled import njit

# no "nnan" or "ninf": overflow is to be noticed, not assumed away
FAST = {"reassoc", "contract", "nsz", "arcp"}
TOGETHER = 4
# below this a state counts as not reached: its beta could overflow, and denormal numbers are slow
LEAST = 1e-280
# how much less likely than its best state could make it (e^-10) a step may be without counting as a surprise
ALLOWED = np.exp(10.0)


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def below_peak(table, least, relative, peak):
    """peak (R,), the largest of each row of a table in logs, but at least -1e30; relative = table - peak, at least
    `least`."""
    for r in range(len(table)):
        most = -1e30
        for k in range(table.shape[1]):
            most = max(most, table[r, k])
        peak[r] = most
        for k in range(table.shape[1]):
            relative[r, k] = max(table[r, k] - most, least)


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _move(state, matrix, moved):
    """moved = state @ matrix, of four sequences."""
    states = matrix.shape[0]
    whole = states - states % 4
    for s in range(TOGETHER):
        for k in range(states):
            moved[s, k] = 0.0
    for i in range(0, whole, 4):
        a0, a1, a2, a3 = state[0, i], state[0, i + 1], state[0, i + 2], state[0, i + 3]
        b0, b1, b2, b3 = state[1, i], state[1, i + 1], state[1, i + 2], state[1, i + 3]
        c0, c1, c2, c3 = state[2, i], state[2, i + 1], state[2, i + 2], state[2, i + 3]
        d0, d1, d2, d3 = state[3, i], state[3, i + 1], state[3, i + 2], state[3, i + 3]
        for k in range(states):
            m0, m1, m2, m3 = matrix[i, k], matrix[i + 1, k], matrix[i + 2, k], matrix[i + 3, k]
            moved[0, k] += a0 * m0 + a1 * m1 + a2 * m2 + a3 * m3
            moved[1, k] += b0 * m0 + b1 * m1 + b2 * m2 + b3 * m3
            moved[2, k] += c0 * m0 + c1 * m1 + c2 * m2 + c3 * m3
            moved[3, k] += d0 * m0 + d1 * m1 + d2 * m2 + d3 * m3
    for i in range(whole, states):
        a, b, c, d = state[0, i], state[1, i], state[2, i], state[3, i]
        for k in range(states):
            m = matrix[i, k]
            moved[0, k] += a * m
            moved[1, k] += b * m
            moved[2, k] += c * m
            moved[3, k] += d * m


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _move_one(state, matrix, moved):
    """moved = state @ matrix, of one sequence."""
    states = matrix.shape[0]
    whole = states - states % 4
    for k in range(states):
        moved[k] = 0.0
    for i in range(0, whole, 4):
        a0, a1, a2, a3 = state[i], state[i + 1], state[i + 2], state[i + 3]
        for k in range(states):
            moved[k] += a0 * matrix[i, k] + a1 * matrix[i + 1, k] + a2 * matrix[i + 2, k] + a3 * matrix[i + 3, k]
    for i in range(whole, states):
        a = state[i]
        for k in range(states):
            moved[k] += a * matrix[i, k]


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _observe(predicted, s, table, r, inverse, state, filtered, p):
    """state[s] = filtered[p] = predicted[s] * table[r] * inverse, and its sum."""
    total = 0.0
    for k in range(state.shape[1]):
        joint = predicted[s, k] * table[r, k] * inverse
        joint = joint if joint > LEAST else 0.0
        state[s, k] = joint
        filtered[p, k] = joint
        total += joint
    return total


@njit(cache=True, error_model="numpy")
def _forward(first, live, initial, matrix, table, peak, row, start, filtered, scale, value, margin):
    """`forward` for the `live` sequences from `first` on."""
    states = matrix.shape[0]
    state, moved = np.zeros((TOGETHER, states)), np.zeros((TOGETHER, states))
    lone_state, lone_moved = state[0], moved[0]
    product, inverse, left = np.ones(TOGETHER), np.ones(TOGETHER), np.ones(TOGETHER)
    for s in range(live):
        value[first + s], margin[first + s] = 0.0, 1.0
        for k in range(states):
            moved[s, k] = initial[min(first + s, len(initial) - 1), k]
    count = live
    for t in range(start[first + 1] - start[first]):
        while start[first + live] - start[first + live - 1] <= t:
            live -= 1
        if t > 0 and live > 1:
            _move(state, matrix, moved)
        elif t > 0:
            _move_one(lone_state, matrix, lone_moved)
        for s in range(live):
            b, p = first + s, start[first + s] + t
            total = _observe(moved, s, table, row[p], inverse[s], state, filtered, p)
            if not 0.0 < total < np.inf:
                total = left[s] = 0.0
                for k in range(states):
                    state[s, k] = filtered[p, k] = 0.0
            scale[p] = total if total > 0.0 else 1.0
            inverse[s] = 1.0 / scale[p]
            value[b] += peak[row[p]]
            product[s] *= total
            if not 1e-100 < product[s] < 1e100:
                value[b] += np.log(product[s])
                product[s] = 1.0
            left[s] = min(1.0, left[s] * total * ALLOWED)
            margin[b] = min(margin[b], left[s])
    for s in range(count):
        value[first + s] += np.log(product[s])


@njit(cache=True, nogil=True, error_model="numpy")
def forward(thread, threads, initial, matrix, table, peak, row, start, filtered, scale, value, margin):
    """`filtered` (steps, K) and its sums `scale` (steps,) as above, and log p(x) into `value` (B,).

    Args:
        thread: of `threads`, among whom the sequences are dealt four at a time.
        initial: (B, K), or (1, K) for all.
        table, peak: likelihoods (R, K) divided by e^peak (R,), what each step emits at its `row` (steps,).
        margin: (B,), the least of what is left of 1 after surprises in a row. Where it is near 0 a state may have been
            lost that mattered later, and all the rest is wrong.
    """
    for first in range(TOGETHER * thread, len(start) - 1, TOGETHER * threads):
        live = min(TOGETHER, len(start) - 1 - first)
        _forward(first, live, initial, matrix, table, peak, row, start, filtered, scale, value, margin)


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _look_back(beta, s, table, r, inverse, filtered, p, counts, state):
    """counts[r] += filtered[p] * beta[s], and state[s] = table[r] * beta[s] * inverse.

    A state that has not been reached is left out: nothing depends on its beta, which might grow without bound.
    """
    for k in range(state.shape[1]):
        counts[r, k] += filtered[p, k] * beta[s, k]
        back = table[r, k] * beta[s, k] * inverse
        back = back if filtered[p, k] > 0.0 else 0.0
        state[s, k] = back


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _add_moves(one, two, three, four, state, moves):
    """moves += outer products of four sequences' filtered probabilities and their states, one step later."""
    states = len(one)
    for i in range(states):
        a, b, c, d = one[i], two[i], three[i], four[i]
        for k in range(states):
            moves[i, k] += a * state[0, k] + b * state[1, k] + c * state[2, k] + d * state[3, k]


@njit(cache=True, fastmath=FAST, error_model="numpy", forceinline=True)
def _add_moves_of_one(one, state, moves):
    """The same of one sequence."""
    for i in range(len(one)):
        a = one[i]
        for k in range(len(one)):
            moves[i, k] += a * state[k]


@njit(cache=True, error_model="numpy")
def _backward(first, most, transposed, table, row, start, weight, filtered, scale, counts, first_counts, moves, ahead):
    """`backward` for the `most` sequences from `first` on."""
    states = transposed.shape[0]
    state, beta = np.zeros((TOGETHER, states)), np.zeros((TOGETHER, states))
    lone_state, lone_beta = state[0], beta[0]
    live = 0
    for t in range(start[first + 1] - start[first] - 1, -1, -1):
        if live > 1:
            _move(state, transposed, beta)
        elif live == 1:
            _move_one(lone_state, transposed, lone_beta)
        while live < most and start[first + live + 1] - start[first + live] > t:
            for k in range(states):
                beta[live, k] = weight[first + live] / scale[start[first + live] + t]
            live += 1
        for s in range(live):
            p = start[first + s] + t
            inverse = 1.0 / scale[p - 1] if t > 0 else 0.0
            _look_back(beta, s, table, row[p], inverse, filtered, p, counts, state)
            if len(ahead) > 0:
                ahead[p] = state[s]
        if t > 0 and live > 1 and len(moves) > 0:
            # of a sequence that has not begun, state is 0 still, and any step will do
            a, b = start[first] + t - 1, start[first + 1] + t - 1
            c, d = start[first + 2] + t - 1 if live > 2 else a, start[first + 3] + t - 1 if live > 3 else a
            _add_moves(filtered[a], filtered[b], filtered[c], filtered[d], state, moves)
        elif t > 0 and live == 1 and len(moves) > 0:
            _add_moves_of_one(filtered[start[first] + t - 1], lone_state, moves)
    for s in range(most):
        for k in range(states):
            first_counts[first + s, k] = filtered[start[first + s], k] * beta[s, k] if s < live else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def backward(
    thread, threads, transposed, table, row, start, weight, filtered, scale, counts, first_counts, moves, ahead
):  # fmt: skip
    """Expected counts: of each row of the table into `counts`, and of first states into `first_counts` (B, K).

    Args:
        transposed: the transition matrix, transposed.
        weight: (B,), what each sequence counts for.
        counts: (R, K), added to: each thread's own, unless each row of the table is that of one step.
        moves: (K, K), added to, each thread's own, or with no rows: times the matrix, expected transitions.
        ahead: (steps, K), or with no rows: what `filtered[:-1].T @ ahead[1:]` makes the moves of. Weight is in it
            already, and it is 0 in the first step of each sequence.
    """
    for first in range(TOGETHER * thread, len(start) - 1, TOGETHER * threads):
        most = min(TOGETHER, len(start) - 1 - first)
        given = (first, most, transposed, table, row, start, weight, filtered, scale)
        _backward(*given, counts, first_counts, moves, ahead)


@njit(cache=True, fastmath={"nsz"}, error_model="numpy", forceinline=True)
def _best_move(score, transition, moved):
    """moved[k] = max_i score[i] + transition[i, k]"""
    states = transition.shape[0]
    whole = states - states % 4
    moved[:] = -np.inf
    for i in range(0, whole, 4):
        a0, a1, a2, a3 = score[i], score[i + 1], score[i + 2], score[i + 3]
        for k in range(states):
            one = max(a0 + transition[i, k], a1 + transition[i + 1, k])
            other = max(a2 + transition[i + 2, k], a3 + transition[i + 3, k])
            moved[k] = max(moved[k], max(one, other))
    for i in range(whole, states):
        for k in range(states):
            moved[k] = max(moved[k], score[i] + transition[i, k])


@njit(cache=True, error_model="numpy")
def _best(score, step):
    """The first i for which score[i] + step[i] is largest."""
    best = 0
    for i in range(1, len(score)):
        if score[i] + step[i] > score[best] + step[best]:
            best = i
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def best_path(thread, threads, initial, transition, transposed, table, row, start, longest, value, path):
    """Viterbi in log space: the best score into `value` (B,) and its states into `path` (steps,).

    Scores are kept and arguments are not: going back, the best of K predecessors is found again for one state a step,
    which leaves the way forward without a comparison that the processor cannot do for eight states at a time.
    """
    states = len(transition)
    scores, nothing = np.empty((longest, states)), np.zeros(states)
    for b in range(thread, len(start) - 1, threads):
        begin, steps = start[b], start[b + 1] - start[b]
        value[b] = 0.0
        for t in range(steps):
            score, likelihood = scores[t], table[row[begin + t]]
            if t > 0:
                _best_move(scores[t - 1], transition, score)
            for k in range(states):
                score[k] = likelihood[k] + (score[k] if t > 0 else initial[min(b, len(initial) - 1), k])
        if steps > 0:
            state = _best(scores[steps - 1], nothing)
            value[b] = scores[steps - 1, state]
            path[begin + steps - 1] = state
            for t in range(steps - 2, -1, -1):
                state = _best(scores[t], transposed[state])
                path[begin + t] = state


@njit(cache=True, nogil=True, error_model="numpy")
def drawn_path(thread, threads, transposed, filtered, start, uniform, path):
    """States drawn from p(z | x) by going back (forward filtering, backward sampling): `path` (draws, steps).

    Args:
        transposed: the transition matrix, transposed; `filtered` (steps, K) is that of `forward`.
        uniform: (draws, steps), numbers in [0, 1) that decide.
    """
    share = np.empty(len(transposed))
    for b in range(thread, len(start) - 1, threads):
        for s in range(len(path)):
            for p in range(start[b + 1] - 1, start[b] - 1, -1):
                share[:] = filtered[p]
                if p < start[b + 1] - 1:
                    share *= transposed[path[s, p + 1]]
                path[s, p] = _drawn(share, uniform[s, p])


@njit(cache=True, error_model="numpy")
def _drawn(share, uniform):
    """The k with sum(share[:k]) <= uniform sum(share) < sum(share[:k + 1])."""
    rest = uniform * np.sum(share)
    last = 0
    for k in range(len(share)):
        if share[k] > 0.0:
            last = k
            if rest < share[k]:
                break
            rest -= share[k]
    return last


@njit(cache=True, nogil=True, error_model="numpy")
def sum_ahead(thread, threads, matrix, table, row, start, filtered, scale, initial, transition, node, sums, value):
    """E[score of z_1..t | z_t = k, x_1..t] filtered[t], into `sums` (steps, K), and E[score | x] into `value` (B,).

    Args:
        matrix, table, row, start, filtered, scale: see `forward`.
        initial, transition, node: what the score adds up, (B or 1, K), (K, K) and (steps, K); the second is multiplied
            by `matrix`, entry by entry.
    """
    states = len(matrix)
    moved, others = np.empty(states), np.empty(states)
    for b in range(thread, len(start) - 1, threads):
        value[b] = 0.0
        first = initial[min(b, len(initial) - 1)]
        for p in range(start[b], start[b + 1]):
            here = filtered[p]
            if p > start[b]:
                _move_one(sums[p - 1], matrix, moved)
                _move_one(filtered[p - 1], transition, others)
            inverse = 1.0 / scale[p - 1] if p > start[b] else 0.0
            for k in range(states):
                past = (moved[k] + others[k]) * table[row[p], k] * inverse if p > start[b] else here[k] * first[k]
                sums[p, k] = past + here[k] * node[p, k] if here[k] > 0.0 else 0.0
            if p == start[b + 1] - 1:
                value[b] = np.sum(sums[p]) / scale[p]


@njit(cache=True, nogil=True, error_model="numpy")
def sum_back(
    thread, threads, transposed, table, row, start, weight, filtered, scale, ahead, transition, node, sums, back, counts
):  # fmt: skip
    """Derivatives of sum_b weight_b E[score | x_b] with respect to the potentials, which are covariances with the
    score: of each step's into `counts` (steps, K), and `back` (steps, K), with which those of the transitions are
    `matrix (sums[:-1].T @ ahead[1:] + filtered[:-1].T @ back[1:]) + transition (filtered[:-1].T @ ahead[1:])`.

    Args:
        transposed: the transition matrix, transposed, like `transition`, which is the score's times the matrix.
        ahead: of `backward` with this weight.
        sums: of `sum_ahead`, less the value times `filtered`.
    """
    states = len(transposed)
    beta, later, others, carried = np.empty(states), np.empty(states), np.empty(states), np.empty(states)
    for b in range(thread, len(start) - 1, threads):
        for p in range(start[b + 1] - 1, start[b] - 1, -1):
            if p == start[b + 1] - 1:
                beta[:] = weight[b] / scale[p]
                later[:] = 0.0
            else:
                _move_one(ahead[p + 1], transposed, beta)
                _move_one(back[p + 1], transposed, carried)
                _move_one(ahead[p + 1], transition, others)
                for k in range(states):
                    later[k] = carried[k] + others[k]
            inverse = 1.0 / scale[p - 1] if p > start[b] else 0.0
            for k in range(states):
                counts[p, k] = sums[p, k] * beta[k] + filtered[p, k] * later[k]
                future = ahead[p, k] * node[p, k] + table[row[p], k] * inverse * later[k]
                back[p, k] = future if filtered[p, k] > 0.0 else 0.0
