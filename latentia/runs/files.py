"""Files of a run, read back: damaged ones are refused, by name."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from latentia.data.files import NOFOLLOW, atomic_write, read_bytes
from latentia.errors import RunError
from latentia.model import LatentVariableModel

LIMITS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "unit": lambda value: value > 0,
    "least": lambda value: value >= 0,
    "visits": lambda value: value >= 0,
    "average": lambda value: value >= 0,
}
"""What a model keeps beside its parameters, and where that lies."""


def check_parameters(model: LatentVariableModel, path: Path) -> None:
    """Raise `RunError` for parameters that no fit ends with: NaN, infinity but for the logarithm of an impossible
    event, a scale that is no positive number."""
    learned = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        last = name.split(".")[-1]
        impossible = value == -math.inf if last.endswith("logits") else torch.zeros_like(value, dtype=torch.bool)
        if value.ndim and value.shape[-1]:
            impossible = impossible & ~impossible.all(-1, keepdim=True)  # something must be possible
        good = value.isfinite() | impossible
        if name not in learned:
            good = good | (value == math.inf)  # statistics of a fit that has none are infinite
        if last.startswith("log_"):
            good = good & value.exp().isfinite() & (value.exp() > 0)
        good = good & LIMITS.get(last, torch.ones_like)(value).bool()
        if not bool(good.all()):
            bad = float(value[~good].flatten()[0])
            raise RunError(f"{path} is damaged: the parameter {name} has a value of {bad:g}; fit again")


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. Raises `RunError` for a damaged one."""
    try:
        records = [json.loads(line) for line in read_bytes(Path(path)).decode().splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged: {error}") from error
    if not all(isinstance(record, dict) for record in records):
        raise RunError(f"{path} is damaged: a line of it is no record")
    for i, record in enumerate(records, 1):
        for name, value in record.items():
            if not is_plain(value, COUNTERS.get(name, "float | str")):
                raise RunError(f"{path}, line {i}, is damaged: {name} is {str(value)[:80]!r}")
    return records


COUNTERS = dict.fromkeys(("restart", "step", "epoch"), "int")


def is_plain(value: Any, form: str) -> bool:
    """Whether a value that was read from JSON is of a type whose annotation this is. What is no finite number was
    written as null."""
    forms = [part.strip() for part in form.split(" | ")]
    if value is None:
        return "None" in forms or "float" in forms
    if isinstance(value, str):
        return "str" in forms
    if isinstance(value, dict | list):
        name = type(value).__name__
        fits = any(part.startswith(name) for part in forms)
        return fits and (isinstance(value, dict) or all(is_plain(each, "float") for each in value))
    if isinstance(value, float):
        return "float" in forms
    return type(value) is int and abs(value) < 2**63 and ("int" in forms or "float" in forms)


@contextlib.contextmanager
def metrics_writer(path: Path, keep: int):
    """A callback that adds a line to the file, of which the first `keep` lines stay."""
    lines = read_bytes(path).decode(errors="replace").split("\n")[:keep] if keep and path.exists() else []
    if not 0 <= keep <= len(lines) or any(not _is_record(line) for line in lines):
        raise RunError(
            f"{path} is damaged: it has fewer records than learner.safetensors; fit again into another directory"
        )
    atomic_write(path, "".join(line + "\n" for line in lines).encode())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | NOFOLLOW), "a", encoding="utf-8") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write
        os.fsync(file.fileno())  # its checksum is about to be written


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_leftover(file: Path) -> bool:
    """Whether a write that was killed has left the file behind, or one that is at work here."""
    return file.name == ".lock" or (file.name.startswith(".") and file.name.endswith(".tmp"))


def read_json(path: Path, remedy: str = "fit again") -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no object; {remedy}")
    return content
