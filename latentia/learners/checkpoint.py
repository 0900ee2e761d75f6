"""One file from which a fit goes on as if it had never stopped: safetensors, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latentia.data.files import atomic_write, read_bytes
from latentia.errors import RunError

FORMAT = 1
DIGEST = "sha256"
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
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
            raise RunError(
                f"{self.path} is no state of this model and learner ({type(error).__name__}: {error}): remove it to "
                "begin again"
            ) from error

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """What was saved last, or None. Raises `RunError` for a damaged file."""
        return read_tensors(self.path) if self.path.exists() else None


def write_tensors(path: str | os.PathLike, tensors: Tensors, state: dict[str, Any]) -> None:
    """Tensors and JSON-able state in one safetensors file, atomically."""
    atomic_write(path, packed(tensors, state))


def packed(tensors: Tensors, state: dict[str, Any]) -> bytes:
    """What `write_tensors` writes: the same tensors and state are the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    state = {"format": FORMAT, **state}
    return save(plain, metadata={"latentia": json.dumps({**state, DIGEST: _digest(plain, state)})})


def _digest(tensors: Tensors, state: dict[str, Any]) -> str:
    """The sha256 of state and tensors: their names, types, shapes and bytes."""
    # through JSON and back: what is read has lists where tuples were, and names of numbers as text
    found = hashlib.sha256(json.dumps(json.loads(json.dumps(state)), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()


def read_tensors(path: str | os.PathLike) -> tuple[Tensors, dict[str, Any]]:
    """The inverse of `write_tensors`. Raises `RunError` for a missing, damaged, foreign or newer file."""
    try:
        data = read_bytes(Path(path))
        tensors = load(data)  # which has checked the header that is read again below
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        state = json.loads(header["__metadata__"]["latentia"])
        version = state["format"]
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged or not latentia's ({type(error).__name__}: {error}): fit again") from error
    if version != FORMAT:
        raise RunError(f"{path} has format {version}, this latentia reads format {FORMAT}: upgrade latentia to use it")
    digest = state.pop(DIGEST, None)  # of a file that was made before there were any, there is none
    if digest is not None and digest != _digest(tensors, state):
        raise RunError(f"{path} is damaged: its content has not the sha256 that it was written with; fit again")
    del state["format"]
    return tensors, state


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
