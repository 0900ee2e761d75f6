"""One file from which a fit goes on as if it had never stopped: safetensors, written whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latentia.data.files import atomic_write
from latentia.errors import RunError

FORMAT = 1
Tensors = dict[str, Tensor]


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
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise RunError(
                f"{self.path} is no state of this model and learner ({type(error).__name__}: {error}): remove it to "
                "begin again"
            ) from error

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """What was saved last, or None. Raises `RunError` for a damaged file."""
        return read_tensors(self.path) if self.path.exists() else None


def write_tensors(path: str | os.PathLike, tensors: Tensors, state: dict[str, Any]) -> None:
    """Tensors and JSON-able state in one safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomic_write(path, save(plain, metadata={"latentia": json.dumps({"format": FORMAT, **state})}))


def read_tensors(path: str | os.PathLike) -> tuple[Tensors, dict[str, Any]]:
    """The inverse of `write_tensors`. Raises `RunError` for a missing, damaged, foreign or newer file."""
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["latentia"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        version = state.pop("format")
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path} is damaged or not latentia's ({type(error).__name__}: {error}): fit again") from error
    if version != FORMAT:
        raise RunError(f"{path} has format {version}, this latentia reads format {FORMAT}: upgrade latentia to use it")
    return tensors, state


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose name begins with `prefix.`, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def snapshot(model: torch.nn.Module) -> Tensors:
    """A copy of the model's parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
