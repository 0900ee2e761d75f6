"""Work on rows in blocks that fit the cache, spread over threads of one core each.

A matrix product of a few thousand rows is too small to be shared between cores, so the cores take a block each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, local
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
CACHE = 2**22
"""Bytes that a block may have: about a core's second-level cache."""


def second_level_cache() -> int:
    """Bytes of a core's second-level cache, as Linux says; 2 megabytes where nobody says."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]]
    except (OSError, ValueError, KeyError, IndexError):
        return 2**21


def block_rows(width: int, like: Tensor) -> int:
    """How many rows of `width` numbers make a block."""
    return min(max(CACHE // (max(width, 1) * like.element_size()), 1024), 16_384)


def run_blocks(work: Callable[[list[slice]], Result], count: int, rows: int) -> list[Result]:
    """`work` on runs of consecutive slices, one run a thread."""
    threads = torch.get_num_threads()
    if count > rows:
        # as many for each thread, and all of a size
        rows = math.ceil(count / (threads * math.ceil(count / (rows * threads))))
    slices = [slice(start, min(start + rows, count)) for start in range(0, count, rows)] or [slice(0, 0)]
    threads = min(threads, len(slices))
    cuts = [len(slices) * i // threads for i in range(threads + 1)]
    runs = [slices[cuts[i] : cuts[i + 1]] for i in range(threads)]

    def quiet(run: list[slice]) -> Result:
        with torch.no_grad():  # what a thread is told of gradients holds for that thread alone
            return work(run)

    if threads == 1:
        return [quiet(runs[0])]
    return list(_pool(threads).map(quiet, runs))


def map_blocks(function: Callable[[slice], Tensor], count: int, rows: int) -> list[Tensor]:
    """`function` of each slice of `rows` out of `count`, in order, without gradients."""
    return [
        result
        for share in run_blocks(lambda parts: [function(part) for part in parts], count, rows)
        for result in share
    ]


def sum_blocks(function: Callable[[slice], tuple[Tensor, ...]], count: int, rows: int) -> tuple[Tensor, ...]:
    """The sums over all slices of what `function` gives for each. The order of summation depends only on the number
    of threads, so the same machine gives the same bits."""

    def total(parts: list[slice]) -> tuple[Tensor, ...]:
        sums = function(parts[0])
        for part in parts[1:]:
            for sum, more in zip(sums, function(part), strict=True):
                sum += more
        return sums

    shares = run_blocks(total, count, rows)
    return tuple(torch.stack(parts).sum(0) for parts in zip(*shares, strict=True))


_SCRATCH = local()


def scratch(name: str, rows: int, columns: int, like: Tensor) -> Tensor:
    """Memory of this thread's own, (rows, columns), which the next block of the same name writes over: memory that is
    new in every block costs more than the work on it."""
    kept = _SCRATCH.__dict__.setdefault("kept", {})
    key = (name, like.dtype)
    if key not in kept or kept[key].numel() < rows * columns:
        kept[key] = torch.empty(rows * columns, dtype=like.dtype)
    return kept[key][: rows * columns].view(rows, columns)


_POOLS: dict[int, ThreadPoolExecutor] = {}
# threads do not survive a fork
os.register_at_fork(after_in_child=_POOLS.clear)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that are kept: to tell a new one to keep to one core takes longer than a block does."""
    if threads not in _POOLS:
        before = torch.get_num_threads()
        started = Barrier(threads)

        def alone() -> None:
            # asked first: torch gives a thread the others' number of threads the first time that it looks for one
            torch.get_num_threads()
            torch.set_num_threads(1)
            torch.set_flush_denormal(True)
            started.wait()

        pool = ThreadPoolExecutor(threads)
        for waiting in [pool.submit(alone) for _ in range(threads)]:
            waiting.result()
        torch.set_num_threads(before)
        _POOLS[threads] = pool
    return _POOLS[threads]
