"""Global settings of torch that make fitting fast: set for the duration, and put back."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from latentia.errors import OptionError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**25
"""Bytes: the largest threshold that glibc takes for memory of its own."""

PRECISIONS = ("highest", "high", "medium")


def flushes_denormals() -> bool:
    """Whether torch rounds denormal float32 numbers to zero at present: it has no getter, so try."""
    return bool((torch.full((1,), 1e-38) * 1e-3 == 0).all())


def flush_denormals(on: bool, threads: int) -> None:
    """Round denormal numbers to zero, in this thread and in the others of its team of `threads`: each core has a switch
    of its own, which a thread takes over from the one that starts it and nobody sets afterwards."""
    torch.set_flush_denormal(on)
    run = getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None
    if run is not None and threads > 1:
        # no line of Python inside it, in which an interrupt would be lost
        run(_IN_EACH(partial(torch.set_flush_denormal, on)), None, threads, 0)


_IN_EACH = ctypes.CFUNCTYPE(None)


@contextmanager
def fitting(precision: str, seed: int) -> Iterator[None]:
    """Flush denormals (they slow a CPU 2-4x), multiply matrices in `precision`, and own the random numbers.

    Everything is as before afterwards: the precision, the flushing, torch's random generators, and what memory was kept
    is given back.
    """
    before, flushing = torch.get_float32_matmul_precision(), flushes_denormals()
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            flush_denormals(True, threads)
            torch.set_float32_matmul_precision(precision)
            torch.manual_seed(seed)
            _keep_memory(2**31 - 1)
            yield
        finally:
            _keep_memory(LARGEST)
            torch.set_float32_matmul_precision(before)
            flush_denormals(flushing, threads)


@contextmanager
def whole_steps() -> Iterator[None]:
    """Let `torch.compile` take a gradient into one graph with what it is of, if this torch knows how."""
    config: Any = importlib.import_module("torch._dynamo.config")
    # what it says there of operations that C++ calls by a detour is nothing to a person who fits a model
    log = logging.getLogger("torch._inductor.ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with config.patch(trace_autograd_ops=True) if hasattr(config, "trace_autograd_ops") else nullcontext():
            yield
    finally:
        log.setLevel(level)


def _keep_memory(most: int) -> None:
    """Let the C library hold so many bytes of freed memory. By itself it gives a step's memory back to the system, and
    the next step takes it anew, page by page, which can take as long as the work on it."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, most)
        library.malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # another C library, with habits of its own


def usable_device(name: str) -> torch.device:
    """The device of this name. Raises `OptionError` where there is none."""
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device={name!r} cannot be used here ({str(error).splitlines()[0]})") from error


def seed_for(*parts: int) -> int:
    """A seed that depends on every part, such as (seed, epoch): splitmix64 over them."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & 0x7FFFFFFFFFFFFFFF
