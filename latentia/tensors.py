"""Tensors and plain values in one file: safetensors, written whole or not at all, and read without running code."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latentia.errors import RunError
from latentia.files import atomic_write, read_bytes

FORMAT = 1
DIGEST = "sha256"
Tensors = dict[str, Tensor]


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
