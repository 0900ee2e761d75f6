"""Fused inference in chains that share one transition matrix, in scaled probability space.

The recursion of `distributions.chain.Chain` is the specification; this computes its value under `log_sum`, its first
derivative, and its best path, one or two orders of magnitude faster. Each step is divided by its sum (Rabiner 1989,
section V.A), so that only a sequence with a step that is e^-230 less likely than its neighbours, or several in a row
that are as unlikely together, can lose anything to underflow. That is noticed, sequence by sequence, and the caller
falls back on the recursion. On the CPU it is numba's work (`chain_cpu`), elsewhere torch's (`chain_torch`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentia.errors import DataError
from latentia.kernels import chain_cpu, chain_torch
from latentia.kernels.bags import check_rows
from latentia.kernels.blocks import second_level_cache

SMALLEST_MARGIN = 1e-100
SMALLEST_LOG = -700.0
# states of which the transitions' counts stay in a core's first-level cache, and are added up as they come
FEW = 64
# numbers in a block of filtered probabilities: what a core's second-level cache holds beside the rest; where that is
# half a megabyte (Zen 3) an E-step takes 14 % less time with the smaller
BLOCK = 2**17 if second_level_cache() > 2**20 else 2**16


class Counts(NamedTuple):
    """How often each potential is used, weighted and added up over sequences, in float64.

    Attributes:
        initial: (K,), first states.
        transition: (K, K).
        table: (R, K), states in which each row of the table was emitted.
        value: (B,), log p(x) or the best path's score, in nats.
        safe: (B,), False where a sequence may have suffered from underflow: it counts for nothing here.
    """

    initial: Tensor
    transition: Tensor
    table: Tensor
    value: Tensor
    safe: Tensor


def applies(log_potentials: dict[str, Tensor]) -> bool:
    """Whether this kernel computes that chain: one transition matrix for all steps, and one batch dimension."""
    transition, node = log_potentials["transition"], log_potentials["node"]
    return transition.ndim == 3 and transition.shape[0] == 1 and node.ndim == 3


def log_partition(log_potentials: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """log Z (B,), and where it can be trusted, (B,). Differentiable once with respect to every potential."""
    initial, transition, node = (log_potentials[name] for name in ("initial", "transition", "node"))
    lengths = lengths.expand(len(node))
    run = _ScaledChain if node.device.type == "cpu" else chain_torch.ScaledChain
    value, margin = run.apply(initial, transition[0], node, lengths)  # type: ignore[misc]
    return value.to(node.dtype), margin > SMALLEST_MARGIN


def filtered(log_potentials: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """p(z_t | x_1..t), (B, T, K), and where it can be trusted, (B,), on the CPU."""
    initial, transition, node = (log_potentials[name].detach() for name in ("initial", "transition", "node"))
    packed = _Packed.of(lengths.expand(len(node)), node.shape[1])
    run, _, margin = _forward(initial, transition[0], node, packed)
    found = packed.padded(torch.from_numpy(run.filtered / run.scale[:, None]), node)
    return found.to(node), packed.unsorted(margin) > SMALLEST_MARGIN


def expected_score(
    log_potentials: dict[str, Tensor], others: dict[str, Tensor], lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """E[the score that `others` give], (B,) in float64, and where it can be trusted, (B,), on the CPU. Differentiable
    once with respect to all potentials."""
    parts = (chain[name] for chain in (log_potentials, others) for name in ("initial", "transition", "node"))
    value, margin = _ExpectedScore.apply(*parts, lengths.expand(len(log_potentials["node"])))  # type: ignore[misc]
    return value, margin > SMALLEST_MARGIN


def marginals(log_potentials: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """p(z_t | x), (B, T, K) in float64, and where it can be trusted, (B,), on the CPU. Differentiable once."""
    parts = (log_potentials[name] for name in ("initial", "transition", "node"))
    value, margin = _Marginals.apply(*parts, lengths.expand(len(log_potentials["node"])))  # type: ignore[misc]
    return value, margin > SMALLEST_MARGIN


def sample(log_potentials: dict[str, Tensor], lengths: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """States drawn from p(z | x), (draws, B, T), -1 beyond the end, and where they can be trusted, (B,), on the CPU."""
    initial, transition, node = (log_potentials[name].detach() for name in ("initial", "transition", "node"))
    packed = _Packed.of(lengths.expand(len(node)), node.shape[1])
    run, _, margin = _forward(initial, transition[0], node, packed)
    states = torch.full((draws, *node.shape[:2]), -1)
    with _Threads(torch.get_num_threads()) as run.threads:
        path = run.drawn(torch.rand(draws, len(packed.place), dtype=torch.float64))
    states.view(draws, -1)[:, packed.place] = path
    return states, packed.unsorted(margin) > SMALLEST_MARGIN


def best_path(log_potentials: dict[str, Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The best score (B,) and its states (B, T), -1 beyond the end, on the CPU."""
    initial, transition, node = (log_potentials[name].detach() for name in ("initial", "transition", "node"))
    packed = _Packed.of(lengths.expand(len(node)), node.shape[1])
    value, path = _viterbi(initial, transition[0], node.flatten(0, 1), packed.place, packed)
    states = torch.full(node.shape[:2], -1)
    states.view(-1)[packed.place] = path
    return packed.unsorted(value).to(node.dtype), states


def expected_counts(
    initial: Tensor, transition: Tensor, table: Tensor, row: Tensor, lengths: Tensor, weight: Tensor, own_rows: bool
) -> Counts:
    """The E-step on the CPU, in blocks of sequences: what is held in memory is a block and the counts.

    Args:
        initial: (K,), in logs like the next two.
        transition: (K, K).
        table: (R, K), what may be emitted; step t of sequence b emits row `row[b, t]` of it.
        lengths: (B,).
        weight: (B,).
        own_rows: no two steps emit the same row.
    """
    packed = _Packed.of(lengths, row.shape[1])
    check_rows(row, len(table))
    model = _Scaled.of(initial, transition, table)
    rows, weight = row.reshape(-1)[packed.place].numpy(), weight.double()[packed.order]
    threads = torch.get_num_threads()
    tables = np.zeros((1 if own_rows else threads, *table.shape))
    value, safe = torch.empty(len(lengths), dtype=torch.float64), torch.empty(len(lengths), dtype=torch.bool)
    firsts, moves = torch.zeros(len(initial), dtype=torch.float64), torch.zeros(transition.shape, dtype=torch.float64)
    with _Threads(threads) as pool:
        blocks = packed.blocks(BLOCK // len(initial) * threads)
        longest = max((steps.stop - steps.start for _, steps in blocks), default=0)
        space = _Space(longest, len(initial), whole=len(initial) > FEW)
        for part, steps in blocks:
            start = packed.start[part.start : part.stop + 1] - steps.start
            run = _Run(model, rows[steps], start, pool, space)
            value[part], margin = run.forward()
            safe[part] = margin > SMALLEST_MARGIN
            first, move = run.backward(torch.where(safe[part], weight[part], 0.0), tables)
            firsts += first.sum(0)
            moves += move
    value = model.restored(value, packed)
    table = torch.from_numpy(tables[0] if len(tables) == 1 else tables.sum(0))
    return Counts(firsts, moves, table, packed.unsorted(value), packed.unsorted(safe))


def best_counts(
    initial: Tensor, transition: Tensor, table: Tensor, row: Tensor, lengths: Tensor, weight: Tensor, own_rows: bool
) -> Counts:
    """`expected_counts` of hard EM: each sequence counts along its best path alone."""
    packed, states = _Packed.of(lengths, row.shape[1]), len(initial)
    check_rows(row, len(table))
    rows = row.reshape(-1)[packed.place]
    value, path = _viterbi(initial, transition, table, rows, packed)
    mass = weight.double()[packed.order].repeat_interleave(packed.lengths)
    first = torch.from_numpy(packed.start[:-1])[packed.lengths > 0]
    later = torch.ones(len(path), dtype=torch.bool).index_fill_(0, first, False)[1:]
    moves = (path[:-1] * states + path[1:])[later]

    def count(which: Tensor, mass: Tensor, *shape: int) -> Tensor:
        return torch.bincount(which, mass, minlength=int(np.prod(shape))).double().view(shape)

    return Counts(
        count(path[first], mass[first], states),
        count(moves, mass[1:][later], states, states),
        count(rows * states + path, mass, *table.shape),
        packed.unsorted(value),
        torch.ones(len(lengths), dtype=torch.bool),
    )


class _Packed(NamedTuple):
    """Sequences one after another, the longest first, without their padding.

    Attributes:
        order: (B,), which sequence comes where.
        lengths: (B,), falling.
        start: (B + 1,), where each begins.
        place: (steps,), where each step was in the padded (B * T).
    """

    order: Tensor
    lengths: Tensor
    start: np.ndarray
    place: Tensor

    @classmethod
    def of(cls, lengths: Tensor, longest: int) -> _Packed:
        order = lengths.argsort(descending=True, stable=True)
        lengths = lengths[order]
        if len(lengths) and (int(lengths[0]) > longest or int(lengths[-1]) < 0):
            raise DataError(
                f"lengths from {int(lengths[-1])} to {int(lengths[0])} of chains of {longest} steps at most"
            )
        start = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).numpy()
        place = order.unsqueeze(1) * longest + torch.arange(longest)
        if len(lengths) and int(lengths[-1]) < longest:
            return cls(order, lengths, start, place[torch.arange(longest) < lengths.unsqueeze(1)])
        return cls(order, lengths, start, place.flatten())

    def unsorted(self, values: Tensor) -> Tensor:
        """(B,), in the order in which the sequences were given."""
        return torch.empty_like(values).index_copy_(0, self.order, values)

    def padded(self, steps: Tensor, like: Tensor) -> Tensor:
        """What each step has, (steps, K), where it was, (B, T, K), and zeros elsewhere."""
        found = torch.zeros(like.shape, dtype=steps.dtype)
        found.flatten(0, 1)[self.place] = steps
        return found

    def as_given(self, given: list[Tensor], first: Tensor, move: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        """Of first states (B, K), transitions (K, K) and steps (steps, K), as packed, what the potentials `given` get:
        initial (K,), (1, K) or (B, K), transition (K, K) or (1, K, K), and node (B, T, K)."""
        initial, transition, node = given
        first = self.unsorted(first) if _by_datum(initial) else first.sum(0).view_as(initial)
        return first.to(initial), move.view_as(transition).to(transition), self.padded(steps, node).to(node)

    def blocks(self, most: int) -> list[tuple[slice, slice]]:
        """Runs of sequences of at most `most` steps together, and those steps."""
        cuts = [0]
        while cuts[-1] < len(self.order):
            end = int(np.searchsorted(self.start, self.start[cuts[-1]] + most, "right")) - 1
            several = (end - cuts[-1]) // chain_cpu.TOGETHER * chain_cpu.TOGETHER
            cuts.append(min(cuts[-1] + max(several, chain_cpu.TOGETHER), len(self.order)))
        return [(slice(a, b), slice(int(self.start[a]), int(self.start[b]))) for a, b in itertools.pairwise(cuts)]


class _Scaled(NamedTuple):
    """Potentials as probabilities, each kind divided by its largest: nothing overflows, and emissions have a 1 in
    each row."""

    initial: np.ndarray
    matrix: np.ndarray
    transposed: np.ndarray
    table: np.ndarray
    peak: np.ndarray
    initial_peak: Tensor
    transition_peak: Tensor

    @classmethod
    def of(cls, initial: Tensor, transition: Tensor, table: Tensor) -> _Scaled:
        initial, transition, table = (phi.detach().double() for phi in (initial, transition, table))
        initial_peak, transition_peak = initial.amax(-1), transition.amax()
        first = _exp(initial - initial_peak.unsqueeze(-1)).reshape(-1, initial.shape[-1])
        matrix = _exp(transition - transition_peak)
        # a floor here, not 0: what is so much below its row's largest is lost in any case
        likelihood, peak = torch.empty(table.shape, dtype=torch.float64), torch.empty(len(table), dtype=torch.float64)
        chain_cpu.below_peak(table.contiguous().numpy(), SMALLEST_LOG, likelihood.numpy(), peak.numpy())
        first, matrix = first.numpy(), matrix.numpy()
        transposed = np.ascontiguousarray(matrix.T)
        return cls(first, matrix, transposed, likelihood.exp_().numpy(), peak.numpy(), initial_peak, transition_peak)

    def restored(self, value: Tensor, packed: _Packed) -> Tensor:
        """log p(x) of what was given from that of what was scaled, both as packed."""
        whole = value + self.initial_peak + (packed.lengths - 1) * self.transition_peak
        return torch.where(packed.lengths > 0, whole, value)


class _Threads:
    """A thread for each core, none where there is one core."""

    def __init__(self, count: int):
        self.count = count
        self.pool = ThreadPoolExecutor(count) if count > 1 else None

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def run(self, work: Callable[[int], None]) -> None:
        """`work` of each thread's number."""
        if self.pool is None:
            work(0)
        else:
            list(self.pool.map(work, range(self.count)))


class _Space:
    """Room for the steps of a run: fresh memory for each block would cost as much as a fifth of its work."""

    def __init__(self, steps: int, states: int, whole: bool = True):
        self.filtered, self.scale = np.empty((steps, states)), np.empty(steps)
        self.ahead = np.empty((steps if whole else 0, states))


class _Run:
    """Forward and backward through sequences that are held in memory together."""

    def __init__(self, model: _Scaled, row: np.ndarray, start: np.ndarray, threads: _Threads, space: _Space):
        self.model, self.row, self.start, self.threads = model, row, start, threads
        steps = len(row)
        self.filtered, self.ahead, self.scale = space.filtered[:steps], space.ahead[:steps], space.scale[:steps]

    def forward(self) -> tuple[Tensor, Tensor]:
        """log p(x) of what was scaled, and the margin, (B,)."""
        model, threads = self.model, self.threads.count
        value, margin = np.empty(len(self.start) - 1), np.empty(len(self.start) - 1)
        given = (model.initial, model.matrix, model.table, model.peak, self.row, self.start)
        self.threads.run(
            lambda thread: chain_cpu.forward(thread, threads, *given, self.filtered, self.scale, value, margin)
        )
        return torch.from_numpy(value), torch.from_numpy(margin)

    def backward(self, weight: Tensor, tables: np.ndarray) -> tuple[Tensor, Tensor]:
        """Expected first states (B, K) and transitions (K, K), weighted; those of the table are added to `tables`, of
        which each thread has its own or all have one."""
        model, threads = self.model, self.threads.count
        firsts = np.empty((len(self.start) - 1, len(model.matrix)))
        moves = np.zeros((threads, *(model.matrix.shape if not len(self.ahead) else (0, 0))))
        given = (model.transposed, model.table, self.row, self.start, weight.contiguous().numpy())
        found = (self.filtered, self.scale)
        self.threads.run(
            lambda thread: chain_cpu.backward(
                thread, threads, *given, *found, tables[thread % len(tables)], firsts, moves[thread], self.ahead
            )
        )
        if not len(self.ahead):
            return torch.from_numpy(firsts), torch.from_numpy(moves.sum(0) * model.matrix)
        before, after = torch.from_numpy(self.filtered[:-1]), torch.from_numpy(self.ahead[1:])
        return torch.from_numpy(firsts), before.T @ after * torch.from_numpy(model.matrix)

    def drawn(self, uniform: Tensor) -> Tensor:
        """States by going back, (draws, steps), after `forward`."""
        path, threads = np.empty(uniform.shape, dtype=np.int64), self.threads.count
        given = (self.model.transposed, self.filtered, self.start, uniform.numpy())
        self.threads.run(lambda thread: chain_cpu.drawn_path(thread, threads, *given, path))
        return torch.from_numpy(path)

    def expected(self, score: _Score) -> tuple[Tensor, Tensor]:
        """What `chain_cpu.sum_ahead` finds, (steps, K) and (B,), after `forward`."""
        model, threads = self.model, self.threads.count
        sums, value = np.empty_like(self.filtered), np.empty(len(self.start) - 1)
        given = (model.matrix, model.table, self.row, self.start, self.filtered, self.scale)
        asked = (score.initial, model.matrix * score.transition, score.node)
        self.threads.run(lambda thread: chain_cpu.sum_ahead(thread, threads, *given, *asked, sums, value))
        return torch.from_numpy(sums), torch.from_numpy(value)

    def covariances(self, score: _Score, weight: Tensor, sums: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The derivatives of sum_b weight_b E[score | x_b] with respect to the potentials: (B, K), (K, K) and
        (steps, K), after `backward` with this weight."""
        model, threads = self.model, self.threads.count
        counts, back = np.empty_like(self.filtered), np.empty_like(self.filtered)
        lengths = np.diff(self.start)
        less = sums.numpy() - self.filtered * value.numpy().repeat(lengths)[:, None]
        moves = model.matrix * score.transition
        given = (model.transposed, model.table, self.row, self.start, weight.contiguous().numpy())
        found = (self.filtered, self.scale, self.ahead, np.ascontiguousarray(moves.T), score.node, less)
        self.threads.run(lambda thread: chain_cpu.sum_back(thread, threads, *given, *found, back, counts))
        move = model.matrix * (less[:-1].T @ self.ahead[1:] + self.filtered[:-1].T @ back[1:])
        move += moves * (self.filtered[:-1].T @ self.ahead[1:])
        first = np.zeros((len(lengths), len(moves)))
        first[lengths > 0] = counts[self.start[:-1][lengths > 0]]
        return torch.from_numpy(first), torch.from_numpy(move), torch.from_numpy(counts)


class _Score(NamedTuple):
    """What a score adds up, as packed: (B or 1, K), (K, K) and (steps, K)."""

    initial: np.ndarray
    transition: np.ndarray
    node: np.ndarray

    @classmethod
    def of(cls, initial: Tensor, transition: Tensor, node: Tensor, packed: _Packed) -> _Score:
        initial, transition, node = (phi.detach().double() for phi in (initial, transition, node))
        first = (initial[packed.order] if _by_datum(initial) else initial).reshape(-1, initial.shape[-1])
        return cls(
            first.numpy(), transition.reshape(transition.shape[-2:]).numpy(), node.flatten(0, 1)[packed.place].numpy()
        )


class _ExpectedScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        initial, transition, node, first, move, each, lengths = given
        ctx.packed = packed = _Packed.of(lengths, node.shape[1])
        ctx.given, ctx.score = [phi.detach() for phi in given[:6]], _Score.of(first, move, each, packed)
        ctx.run, _, margin = _forward(initial, transition[0], node, packed)
        with _Threads(torch.get_num_threads()) as ctx.run.threads:
            ctx.found = ctx.run.expected(ctx.score)
        margin = packed.unsorted(margin)
        ctx.mark_non_differentiable(margin)
        return packed.unsorted(ctx.found[1]), margin

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, counts = grads[0].double()[ctx.packed.order], np.zeros((1, *ctx.run.filtered.shape))
        with _Threads(torch.get_num_threads()) as ctx.run.threads:
            means = *ctx.run.backward(weight, counts), torch.from_numpy(counts[0])
            covariances = ctx.run.covariances(ctx.score, weight, *ctx.found)
        return *ctx.packed.as_given(ctx.given[:3], *covariances), *ctx.packed.as_given(ctx.given[3:], *means), None


class _Marginals(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        *ctx.given, lengths = (phi.detach() for phi in given)
        initial, transition, node = ctx.given
        ctx.packed = packed = _Packed.of(lengths, node.shape[1])
        ctx.run, _, margin = _forward(initial, transition[0], node, packed)
        counts = np.zeros((1, *ctx.run.filtered.shape))
        with _Threads(torch.get_num_threads()) as ctx.run.threads:
            ctx.run.backward(torch.ones_like(margin), counts)
        margin = packed.unsorted(margin)
        ctx.mark_non_differentiable(margin)
        return packed.padded(torch.from_numpy(counts[0]), node), margin

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        initial, transition, _ = ctx.given
        # the derivative of sum_t g_t . E[z_t] is that of the expectation of a score
        score = _Score.of(torch.zeros_like(initial), torch.zeros_like(transition), grads[0], ctx.packed)
        with _Threads(torch.get_num_threads()) as ctx.run.threads:
            weight = torch.ones(len(ctx.packed.order), dtype=torch.float64)
            found = ctx.run.covariances(score, weight, *ctx.run.expected(score))
        return *ctx.packed.as_given(ctx.given, *found), None


class _ScaledChain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, node: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = _Packed.of(lengths, node.shape[1])
        ctx.run, value, margin = _forward(initial, transition, node, packed)
        ctx.packed, ctx.given = packed, [initial.detach(), transition.detach(), node.detach()]
        value, margin = packed.unsorted(value), packed.unsorted(margin)
        ctx.mark_non_differentiable(margin)
        return value, margin

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        counts = np.zeros((1, *ctx.run.filtered.shape))
        with _Threads(torch.get_num_threads()) as ctx.run.threads:
            first, move = ctx.run.backward(grads[0].double()[ctx.packed.order], counts)
        return *ctx.packed.as_given(ctx.given, first, move, torch.from_numpy(counts[0])), None


def _forward(initial: Tensor, transition: Tensor, node: Tensor, packed: _Packed) -> tuple[_Run, Tensor, Tensor]:
    """The forward pass of all sequences at once; log Z and the margin, as packed."""
    # the steps that are there and no others: of sequences of many lengths most of `node` may be padding
    table = node.detach().flatten(0, 1).index_select(0, packed.place)
    model = _Scaled.of(initial[packed.order] if _by_datum(initial) else initial, transition, table)
    with _Threads(torch.get_num_threads()) as threads:
        run = _Run(model, np.arange(len(table)), packed.start, threads, _Space(len(table), table.shape[1]))
        value, margin = run.forward()
    return run, model.restored(value, packed), margin


def _by_datum(initial: Tensor) -> bool:
    return initial.ndim == 2 and len(initial) != 1


def _viterbi(initial: Tensor, transition: Tensor, table: Tensor, row: Tensor, packed: _Packed) -> tuple[Tensor, Tensor]:
    """Best scores (B,) and paths (steps,), as packed."""
    value, path = np.empty(len(packed.order)), np.empty(len(row), dtype=np.int64)
    first = (initial[packed.order] if _by_datum(initial) else initial).reshape(-1, len(transition))
    first, matrix, emitted = (phi.detach().double().contiguous().numpy() for phi in (first, transition, table))
    transposed, rows = np.ascontiguousarray(matrix.T), row.contiguous().numpy()
    longest = int(packed.lengths[0]) if len(packed.lengths) else 0

    def work(thread: int) -> None:
        given = (first, matrix, transposed, emitted, rows, packed.start, longest)
        chain_cpu.best_path(thread, threads.count, *given, value, path)

    with _Threads(torch.get_num_threads()) as threads:
        threads.run(work)
    return torch.from_numpy(value), torch.from_numpy(path)


def _exp(x: Tensor) -> Tensor:
    """exp, exactly 0 far down, where the machine's own exp would take the slow path."""
    return torch.where(x > SMALLEST_LOG, x.clamp(min=SMALLEST_LOG).exp(), 0.0)
