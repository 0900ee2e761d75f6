"""Several processes, each with its share of the data: their sums are added, and process 0 speaks for all.

Every function here is collective: all processes call it, in the same order. Where `torch.distributed` has not been
set up there is one process, and they return what they were given. Messages are vectors of float64 between CPUs
(gloo), so that a sum over processes is as precise as one within a process.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from latentia.batch import Batch
from latentia.distributions.latents import named
from latentia.errors import OptionError, ProcessLost
from latentia.model import Statistics

LISTEN = 5.0
"""Seconds for which the others are waited for before it is asked whether they are alive."""
SILENT = 6
"""How often in a row nothing may have been heard of one."""
JOIN = timedelta(minutes=10)
"""For which the others are waited for at the start."""


def launched() -> bool:
    """Whether this is one of several processes that torchrun has started. Raises `OptionError` for a variable of
    torchrun's that is no number."""
    return "RANK" in os.environ and _number("WORLD_SIZE", 1) > 1 and _number("RANK", 0) >= 0


def _number(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise OptionError(
            f"the environment says {name}={os.environ[name]!r}, which is no whole number: unset it, or start the fit "
            "by torchrun, which sets it"
        ) from None


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def group() -> Iterator[None]:
    """The processes that torchrun has started as one group, for the duration; nothing where there is but one.

    torchrun ends all when one ends: it then sends SIGTERM, which is raised here as `ProcessLost`.
    """
    if not launched():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    with _reached("the others could not be reached"):
        store, rank, size = next(rendezvous("env://", timeout=JOIN))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        with _heard(store, rank):
            yield
    except BaseException:
        # ending already: the error that is on its way is the one to tell
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, before)


_pulse: list[Any] = []
"""Where each process says that it is alive; empty where nobody does."""


@contextmanager
def _heard(store: Any, rank: int) -> Iterator[None]:
    """Say every second that this process is alive, in a thread of its own: one at work on its share is heard, one that
    was stopped or whose machine is gone is not."""
    ended = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError, ValueError):  # the store has ended, and so has the fit
            for count in itertools.count():
                store.set(f"latentia/alive/{rank}", str(count))
                if ended.wait(LISTEN / 5):
                    return

    threading.Thread(target=beat, daemon=True).start()
    _pulse.append(store)
    try:
        yield
    finally:
        _pulse.clear()
        ended.set()


def _wait(work: Any) -> None:
    """Wait for what all processes do together, as long as all are alive."""
    if not _pulse:
        work.wait()
        return
    last, silent = [b""] * size(), [0] * size()
    while True:
        try:
            work.wait(timedelta(seconds=LISTEN))
            return
        except RuntimeError:
            if work.is_completed() or not _pulse:
                raise
        for other in range(size()):
            key = f"latentia/alive/{other}"
            heard = _pulse[0].get(key) if _pulse[0].check([key]) else b""
            silent[other] = silent[other] + 1 if heard == last[other] else 0
            last[other] = heard
            if other != rank() and silent[other] >= SILENT:
                raise ProcessLost(
                    f"nothing has been heard of process {other} for {SILENT * LISTEN:.0f} seconds: it was stopped, or "
                    "its machine cannot be reached"
                )


def _terminated(*_: object) -> None:
    raise ProcessLost("told to stop (SIGTERM), as torchrun does when another process of the fit has ended")


@contextmanager
def _reached(what: str = "another process of the fit has ended, or cannot be reached") -> Iterator[None]:
    try:
        yield
    except ProcessLost:
        raise
    except (
        RuntimeError,
        ValueError,
        TypeError,
        OverflowError,
        OSError,
    ) as error:  # torch raises either; gloo begins with a line of its source
        raise ProcessLost(f"{what} ({' '.join(str(error).split()).split('] ', 1)[-1][:120]})") from error


def bounds(count: int) -> tuple[int, int]:
    """From where to where, of so many data, this process's share goes: all shares together are all data, in order."""
    return rank() * count // size(), (rank() + 1) * count // size()


def added(tensors: Statistics) -> Statistics:
    """The sums over all processes, in each tensor's own dtype and on its own device."""
    if size() == 1:
        return tensors
    names = sorted(tensors)
    total = _packed(tensors[name] for name in names)
    with _reached():
        _wait(dist.all_reduce(total, async_op=True))
    return dict(zip(names, _unpacked(total, [tensors[name] for name in names]), strict=True))


def largest(*numbers: int) -> list[int]:
    """The largest of each number over all processes."""
    found = torch.tensor(numbers)
    if size() > 1:
        with _reached():
            _wait(dist.all_reduce(found, dist.ReduceOp.MAX, async_op=True))
    return found.tolist()


def counts(count: int) -> list[int]:
    """The count that each process has."""
    mine = torch.zeros(size(), dtype=torch.float64)
    mine[rank()] = count
    return [int(each) for each in added({"count": mine})["count"]]


def share(tensors: Statistics) -> None:
    """Fill every process's tensors with those of process 0, which have the same names and shapes."""
    if size() == 1 or not tensors:
        return
    mine = [tensors[name] for name in sorted(tensors)]
    packed = _packed(mine)
    with _reached():
        _wait(dist.broadcast(packed, 0, async_op=True))
    for tensor, value in zip(mine, _unpacked(packed, mine), strict=True):
        tensor.copy_(value)


def shared_text(make: Callable[[], str]) -> str:
    """What process 0 makes, on every process."""
    if size() == 1:
        return make()
    content = torch.frombuffer(bytearray(make().encode()), dtype=torch.uint8) if rank() == 0 else torch.empty(0)
    length = largest(len(content))[0]
    message = content if rank() == 0 else torch.empty(length, dtype=torch.uint8)
    with _reached():
        _wait(dist.broadcast(message, 0, async_op=True))
    return bytes(message.tolist()).decode()


def gathered(batch: Batch) -> Batch:
    """The data of every process one after the other, on every process."""
    if size() == 1:
        return batch
    sizes = counts(batch.size)
    before = sum(sizes[: rank()])
    # sequences are as long as the longest of any process; what is added is not observed
    steps = largest(*batch.x.shape[1:])
    mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
    ends = batch.ends if batch.x.ndim > 1 else None
    parts = {"x": batch.x, "mask": mask, "lengths": ends, "weight": batch.weights}
    parts |= {f"known.{name}": part for name, part in named(batch.known or {}).items()}
    whole = {}
    for name, part in parts.items():
        if part is None:
            continue
        shape = (sum(sizes), *(steps if name in ("x", "mask") else part.shape[1:]))
        whole[name] = part.new_zeros(shape)
        whole[name][(slice(before, before + len(part)), *map(slice, part.shape[1:]))] = part
    whole: dict = added(whole)
    known = {name.removeprefix("known."): whole.pop(name) for name in list(whole) if name.startswith("known.")}
    context = None if batch.context is None else gathered(batch.context)
    joined = Batch(**whole, context=context, known=known or None)
    alike = joined.lengths is None or bool((joined.lengths == joined.x.shape[1]).all())
    joined = joined._replace(lengths=None) if alike else joined
    return joined._replace(mask=None if not bool(joined.hidden.any()) else joined.mask)


def _packed(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(t.detach().double().cpu().flatten() for t in tensors)])


def _unpacked(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, like, strict=True)]
