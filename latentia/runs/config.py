"""What was asked of a run: enough to do it again."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np
import yaml

import latentia
from latentia.data import BUILTIN, Raw, read
from latentia.data.blocks import SUFFIXES, Rows
from latentia.data.prose import Prose
from latentia.errors import OptionError, RunError
from latentia.runs.files import file_size
from latentia.tensors import FORMAT

BESIDE = ("weight", "vocabulary", "context", "labels", "group", "time", "text_column", "exclude")
LARGE = 2**30
"""Bytes above which a file is read as a stream, unless the command says otherwise."""


@dataclass
class Source:
    """Where data come from, how to read them, and what is held out.

    Attributes:
        source: a built-in name or a path.
        key, columns, exclude, kind, vocabulary: how to read it, see `latentia.data.read`.
        tokens, max_length: of text, see `Schema.of`.
        values, scale, binarize, min_count, max_vocabulary: what x is, see `Schema.of`; binarize="auto" draws grey
            images dynamically for a Bernoulli likelihood.
        weight: the column of a table that says how often each row counts.
        context, labels: what the model conditions on, and the classes that it learns from, see `latentia.data.read`.
        grammar: a file with the signature of the logical forms that labels are.
        group, time: of a table whose rows are steps, which series each belongs to, and when it was.
        text_column, lower, words, stop_words, ngrams: where a text is, and how it becomes words, see
            `latentia.data.prose`; min_documents, max_documents: which words count, see `Schema.of`.
        first: only the first so many data.
        stream: read a .npy or Parquet file block by block at each pass, as it is larger than memory.
        holdout: the fraction kept for evaluation; validation: of the rest, the fraction for early stopping.
    """

    source: str
    key: str | None = None
    columns: str | None = None
    kind: str = "auto"
    vocabulary: str | None = None
    values: str = "auto"
    scale: str = "auto"
    binarize: str = "auto"
    min_count: int = 2
    max_vocabulary: int | None = None
    tokens: str = "words"
    max_length: int | None = None
    weight: str | None = None
    context: str | None = None
    labels: str | None = None
    grammar: str | None = None
    group: str | None = None
    time: str | None = None
    text_column: str | None = None
    lower: bool = False
    words: str = "spaces"
    stop_words: str = "none"
    ngrams: int = 1
    min_documents: float | None = None
    max_documents: float | None = None
    first: int | None = None
    stream: bool = False
    exclude: str | None = None
    holdout: float = 0.1
    validation: float = 0.1

    def __post_init__(self):
        for name in ("holdout", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: it must be at least 0 and below 1")
        if self.stream and (self.context or self.labels or self.group or self.time or self.exclude):
            raise OptionError(
                "a stream has neither context nor labels, group nor time, and its columns are those of --columns: read "
                "the file into memory with --stream false"
            )
        _ = self.prose  # which refuses options that make no sense
        if self.first is not None and self.first < 1:
            raise OptionError(f"first={self.first}: it must be at least 1")

    @property
    def prose(self) -> Prose:
        """How a text becomes words."""
        return Prose(self.lower, self.words, self.stop_words, self.ngrams)

    def read(self) -> Raw:
        options: dict[str, Any] = {name: getattr(self, name) for name in BESIDE}
        options["prose"] = self.prose
        raw = read(self.source, key=self.key, columns=self.columns, kind=self.kind, **options)
        return raw if self.first is None else raw.take(np.arange(min(self.first, len(raw))))

    def rows(self) -> Rows:
        """The rows of a file that is not read into memory."""
        return Rows.open(self.source, columns=self.columns, kind=self.kind, weight=self.weight, first=self.first)

    def fingerprint(self) -> str:
        """It changes when the data do."""
        return self.rows().fingerprint() if self.stream else self.read().fingerprint()


@dataclass
class Config:
    """What was asked for: enough to do it again.

    Attributes:
        importance_samples, evaluation: with how many to evaluate after the fit, and whether to, and write a report.
    """

    model: str
    data: Source
    model_options: dict[str, Any] = field(default_factory=dict)
    learner: str = "EM"
    learner_options: dict[str, Any] = field(default_factory=dict)
    objective: str | None = None
    objective_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    fingerprint: str = ""
    command: str = ""
    importance_samples: int = 1000
    evaluation: bool = True

    def __post_init__(self):
        """Raises `OptionError` for a number that no machine's arithmetic has: torch would say so later, otherwise."""
        parts = (self.model_options, self.learner_options, self.objective_options)
        options = {
            "seed": self.seed,
            **{name: value for part in parts if isinstance(part, dict) for name, value in part.items()},
        }
        for name, value in [*options.items(), *vars(self.data).items()]:
            if not _usable(value):
                text = f"{value:.80g}" if isinstance(value, float) else "a whole number beyond 64 bits"
                raise OptionError(f"{name} has a value that cannot be computed with ({text}): choose a smaller number")

    def to_yaml(self) -> str:
        content = {"format": FORMAT, "latentia": latentia.__version__, **_plain(self.__dict__)}
        content["data"] = _plain(self.data.__dict__)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, path: Path) -> Config:
        """Raises `RunError` for anything that is not a config of this format."""
        try:
            content = _PlainLoader(text).get_single_data()
            version = content.pop("format")
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged or no config of latentia's: fit again") from error
        if version != FORMAT:
            made = content.get("latentia", "a newer version")
            raise RunError(
                f"{path} was made by latentia {made} in format {version}; latentia {latentia.__version__} reads format "
                f"{FORMAT}: upgrade latentia to use it"
            )
        content.pop("latentia", None)
        try:
            return _typed(cls, {**content, "data": _typed(Source, content["data"])})
        except (TypeError, KeyError, AttributeError, OptionError) as error:
            raise RunError(f"{path} is damaged ({error}): fit again") from error

    def same_as(self, other: Config) -> bool:
        """Whether the two ask for the same fit."""
        after = dict.fromkeys(("command", "importance_samples", "evaluation"))
        return {**self.__dict__, **after} == {**other.__dict__, **after}


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of those stand for more values than memory can hold."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="it has an alias, which no config of latentia's has")
        return super().compose_node(parent, index)


def _typed(form: type, content: dict[str, Any]) -> Any:
    """The dataclass `form` of these values. Raises `TypeError` for one of another type than the field's."""
    hints = get_type_hints(form)
    for name, value in content.items():
        hint = hints.get(name, object)
        expected: Any = {float: int | float}.get(hint, get_origin(hint) if get_origin(hint) is dict else hint)
        if not isinstance(value, expected):
            raise TypeError(f"{name} is {str(value)[:80]!r}")
    return form(**content)


def _usable(value: Any) -> bool:
    """Whether all numbers in an option are finite, and whole ones fit in 64 bits."""
    if isinstance(value, list | tuple | dict):
        return all(map(_usable, value.values() if isinstance(value, dict) else value))
    return math.isfinite(value) if isinstance(value, float) else not isinstance(value, int) or abs(value) < 2**63


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not isinstance(item, Source)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def is_large(source: str) -> bool:
    """Whether a file is better read block by block: a file of rows that is larger than a gibibyte."""
    path = Path(source)
    return path.suffix.lower() in SUFFIXES and source not in BUILTIN and path.is_file() and file_size(path) > LARGE


def default_out(model: str, source: str) -> Path:
    """runs/<model>-<data>, for those who name no directory."""
    return Path("runs") / f"{model}-{Path(source).name.split('.')[0]}".lower()


def this_command() -> str:
    """The command line, as one would type it."""
    return " ".join(["latentia", *sys.argv[1:]])
