"""Models in files, and runs, for those who work in Python: `latentia.load_model` and `latentia.open_run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from latentia.data import Schema
from latentia.errors import DataError, OptionError, RunError
from latentia.model import LatentVariableModel
from latentia.runs.build import MODELS
from latentia.runs.directory import Run
from latentia.runs.files import check_parameters
from latentia.tensors import Tensors, read_tensors

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_run(path: str | os.PathLike) -> Run:
    """The run in a directory that `latentia fit` has made: its `model()`, `schema`, `held_out` data, `evaluation`.

    Raises:
        RunError: there is no run, or one of a newer format.
    """
    return Run.open(path)


def load_model(
    path: str | os.PathLike, model: type[LatentVariableModel] | None = None, device: str = "cpu"
) -> LatentVariableModel:
    """The model that `model.save(path)` wrote, or that of a run directory, in evaluation mode; `model.schema` says what
    it was fitted to, so that tasks read new data as the fit did. Loading runs no code.

    Args:
        model: the class, where it is none of latentia's own.

    Raises:
        RunError: the file is missing, damaged, of a model that latentia does not have, or of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        return open_run(path).model(device)
    tensors, content = read_tensors(path)
    made = _maker(path, content, model)
    with torch.device("meta"):
        _check_sizes(path, _made(made, content, path), tensors)
    found = _made(made, content, path).to(DTYPES[content["dtype"]])
    try:
        found.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the model that it describes: {error}") from error
    check_parameters(found, path)
    if content["schema"] is not None:
        found.schema = _schema(path, content["schema"])
    return found.to(device).eval()


def _maker(path: Path, content: dict[str, Any], model: type[LatentVariableModel] | None) -> type[LatentVariableModel]:
    """The class of the model in the file, once it is sure that the file holds one."""
    name, options = content.get("model"), content.get("options")
    if not isinstance(name, str) or not isinstance(options, dict) or "schema" not in content:
        raise RunError(f"{path} holds no model that `model.save` wrote: fit and save again")
    if content.get("dtype") not in DTYPES:
        raise RunError(f"{path} is damaged: its dtype is {str(content.get('dtype'))[:80]!r}")
    if model is not None:
        return model
    if name not in MODELS:
        raise RunError(
            f"{path} holds a {name[:80]!r}, which is none of {', '.join(MODELS)}: give its class, "
            f"load_model({str(path)!r}, YourModel)"
        )
    return MODELS[name]


def _made(model: type[LatentVariableModel], content: dict[str, Any], path: Path) -> LatentVariableModel:
    try:
        return model(**{name: _option(value, path) for name, value in content["options"].items()})
    except (OptionError, TypeError, ValueError, OverflowError, RuntimeError, ArithmeticError) as error:
        raise RunError(f"{path}: no {model.__name__} can be made of its options ({error})") from error


def _option(value: Any, path: Path) -> Any:
    """An option as the model takes it: that of a model that is built upon another is that one, without parameters."""
    if not isinstance(value, dict):
        return value
    name, options = value.get("model"), value.get("options")
    if name not in MODELS or not isinstance(options, dict):
        raise RunError(f"{path} holds a model upon {str(name)[:80]!r}, which is none of {', '.join(MODELS)}")
    return _made(MODELS[name], {"options": options}, path)


def _check_sizes(path: Path, blank: LatentVariableModel, tensors: Tensors) -> None:
    """Raise `RunError` where the model has other sizes than the tensors of its file, before it asks for memory."""
    for name, value in blank.state_dict().items():
        if name not in tensors or tensors[name].shape != value.shape:
            raise RunError(f"{path} is damaged: {name} has not the shape {tuple(value.shape)} that its options ask for")


def _schema(path: Path, content: Any) -> Schema:
    try:
        return Schema.from_json(content)
    except (DataError, OverflowError) as error:
        raise RunError(f"{path}: {error}") from error
