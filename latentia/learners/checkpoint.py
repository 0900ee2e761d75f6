"""One file from which a fit goes on as if it had never stopped: safetensors, written whole or not at all."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from latentia.errors import RunError
from latentia.tensors import Tensors, read_tensors, write_tensors


class Checkpoint:
    """The learner's state in a file.

    Args:
        path: of the safetensors file.
        every: least number of seconds between two saves (`due`), for learners whose steps are quick.
    """

    def __init__(self, path: str | os.PathLike, every: float = 2.0):
        self.path, self.every = Path(path), every
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved >= self.every

    def save(self, tensors: Tensors, state: dict[str, Any]) -> None:
        """Replace the file. Raises `DataError` when it cannot be written: the previous one survives."""
        write_tensors(self.path, tensors, state)
        self._saved = time.monotonic()

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Turn what goes wrong on taking up the state into a `RunError`: it is that of another model or learner."""
        try:
            yield
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
            raise RunError(
                f"{self.path} is no state of this model and learner ({type(error).__name__}: {error}): remove it to "
                "begin again"
            ) from error

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """What was saved last, or None. Raises `RunError` for a damaged file."""
        return read_tensors(self.path) if self.path.exists() else None


def take_up(holder: object, names: Sequence[str], state: dict[str, Any]) -> None:
    """Set the attributes `names` of a fit to what a checkpoint says.

    Raises `KeyError` for one that is not there, `TypeError` for a value of another type than the attribute has.
    """
    for name in names:
        if not _is_like(state[name], getattr(holder, name)):
            raise TypeError(f"{name} is {str(state[name])[:80]!r}")
    for name in names:
        setattr(holder, name, state[name])


def _is_like(value: Any, present: Any) -> bool:
    """Whether a value is one that an attribute can have which is this at present: None, before a value is known."""
    if isinstance(present, bool | str):
        return type(value) is type(present)
    if isinstance(present, int):
        return type(value) is int and 0 <= value < 2**63
    if isinstance(present, list):
        return isinstance(value, list) and all(_is_like(each, 0.0) for each in value)
    number = type(value) in (int, float) and math.isfinite(value)
    return number or (value is None and present is None)


def the_same_shapes(tensors: Tensors, model: torch.nn.Module) -> Tensors:
    """The tensors, where there are any. Raises `ValueError` unless they are all of the model's, and shaped alike."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if tensors and {name: tensor.shape for name, tensor in tensors.items()} != own:
        raise ValueError("its best parameters are those of another model")
    return tensors


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose name begins with `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def snapshot(model: torch.nn.Module) -> Tensors:
    """A copy of the model's parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
