"""Global settings of torch that make fitting fast: set for the duration, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentia.errors import OptionError

PRECISIONS = ("highest", "high", "medium")


def flushes_denormals() -> bool:
    """Whether torch rounds denormal float32 numbers to zero at present: it has no getter, so try."""
    return bool((torch.full((1,), 1e-38) * 1e-3 == 0).all())


@contextmanager
def fitting(precision: str, seed: int) -> Iterator[None]:
    """Flush denormals (they slow a CPU 2-4x), multiply matrices in `precision`, and own the random numbers.

    Everything is as before afterwards: the precision, the flushing, torch's random generators.
    """
    before, flushing = torch.get_float32_matmul_precision(), flushes_denormals()
    with torch.random.fork_rng():
        try:
            torch.set_flush_denormal(True)
            torch.set_float32_matmul_precision(precision)
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_float32_matmul_precision(before)
            torch.set_flush_denormal(flushing)


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
