"""The same numbers on both sides: one thread, one precision, no gradients, all as it was afterwards.

A matrix product adds up in another order where it is shared among other threads, or has other rows; and a probability
that is off by its last digit pops another symbol. So a codec asks its networks for blocks of one size, in one order, on
one thread of a CPU. Another processor, or another version of torch, may still round otherwise: that a message's probe
comes out the same tells it before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentia.errors import OptionError
from latentia.learners.settings import flushes_denormals
from latentia.model import LatentVariableModel, evaluating


@contextmanager
def steady(model: LatentVariableModel) -> Iterator[None]:
    """Use the model for coding.

    Raises:
        OptionError: it is not on a CPU.
    """
    if model.anchor.device.type != "cpu":
        raise OptionError("codes are made on a CPU, whose rounding can be relied on: move the model there, model.cpu()")
    import numba  # the coder is compiled by it in any case

    before = torch.get_num_threads(), numba.get_num_threads()
    precision, flushing = torch.get_float32_matmul_precision(), flushes_denormals()
    _threads(1, 1)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.random.fork_rng([]), torch.no_grad(), evaluating(model):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(flushing)
        _threads(*before)


def _threads(torch_has: int, numba_has: int) -> None:
    """numba first: when it starts its threads, it sets those of torch too, which may share a library of threads."""
    import numba

    numba.set_num_threads(numba_has)
    torch.set_num_threads(torch_has)
