"""What can be asked for, read from the source files: importing them costs seconds, for torch comes along.

Nothing is listed here. The models are those of `latentia.models.__all__`, the learners and objectives those of
`latentia.runs.build`, and their options are the parameters that Python would find.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BUILD = "runs/build.py"


def models() -> list[str]:
    return constant("models/__init__.py", "__all__")


def learners() -> list[str]:
    return _keys("LEARNERS")


def objectives() -> list[str]:
    return _keys("OBJECTIVES")


def constant(file: str, name: str) -> Any:
    """The literal that `name` stands for in a file below latentia."""
    return ast.literal_eval(_assigned(file, name))


def options(name: str) -> dict[str, str]:
    """The parameters of a model, a learner or an objective, each with its type as it is written."""
    return dict(_parameters(_definition(name)))


def derives(name: str, base: str) -> bool:
    """Whether the class `name` is, or derives from, the class `base`."""
    found = _definition(name)
    return name == base or (isinstance(found, ast.ClassDef) and any(derives(up, base) for up in _bases(found)))


def defines(name: str, method: str) -> bool:
    """Whether the class `name`, or one that it derives from, has a method of that name."""
    found = _definition(name)
    if not isinstance(found, ast.ClassDef):
        return False
    own = any(isinstance(node, ast.FunctionDef) and node.name == method for node in found.body)
    return own or any(defines(up, method) for up in _bases(found))


def _keys(name: str) -> list[str]:
    found = _assigned(BUILD, name)
    assert isinstance(found, ast.Dict), f"{name} of {BUILD} is written as a dict"
    return [ast.literal_eval(key) for key in found.keys if key is not None]


def _assigned(file: str, name: str) -> ast.expr:
    """The right-hand side of the assignment to `name`, at the top of a file."""
    for node in _tree(ROOT / file).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return value
    raise LookupError(f"{file} has no {name}")


def _parameters(found: ast.stmt | None) -> Iterator[tuple[str, str]]:
    """Of a function, or of what makes a class's instances: its own `__init__`, its fields, or those it inherits."""
    if isinstance(found, ast.FunctionDef):
        given = found.args
        every = (each for each in (*given.posonlyargs, *given.args, *given.kwonlyargs) if each.arg != "self")
        yield from ((each.arg, ast.unparse(each.annotation) if each.annotation else "") for each in every)
    if not isinstance(found, ast.ClassDef):
        return
    made = next((node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    if made is not None:
        yield from _parameters(made)
        return
    for base in _bases(found):
        yield from _parameters(_definition(base))
    if any("dataclass" in ast.unparse(decorator) for decorator in found.decorator_list):
        fields = (node for node in found.body if isinstance(node, ast.AnnAssign))
        yield from ((ast.unparse(node.target), ast.unparse(node.annotation)) for node in fields)


def _bases(found: ast.ClassDef) -> list[str]:
    return [base.id for base in found.bases if isinstance(base, ast.Name)]


@cache
def _definition(name: str) -> ast.stmt | None:
    """The class or function of that name, wherever it is written; None if it is not this library's."""
    marks = (f"\nclass {name}", f"\ndef {name}(")
    for path in _files():
        if any(mark in _text(path) for mark in marks):
            for node in _tree(path).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                    return node
    return None


@cache
def _files() -> list[Path]:
    """Where models, learners, objectives and what they derive from are written."""
    folders = ("models", "learners", "objectives", "inference")
    return [ROOT / "model.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]


@cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_text(path))
