"""A run directory: what was asked, what was learned, how well, from data to report.

    config.yaml         what was asked: model, learner, objective, data, seed
    schema.json         what x is
    environment.json    with what it was made
    metrics.jsonl       one line an epoch or a step
    learner.safetensors from where an interrupted fit goes on
    model.safetensors   the parameters; there once the fit is finished
    evaluation.json     what `evaluate` says of the held-out data; evaluation.safetensors, of each of them
    report.html         all of it, to look at

Nothing in it is code, and loading one runs none: YAML and JSON are plain values, tensors are safetensors, and a
model's name is looked up among latentia's own.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import operator
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np
import torch
import yaml

import latentia
from latentia import models, objectives
from latentia.annealed import Annealing
from latentia.data import BUILTIN, Dataset, Raw, Schema, Stream, load, read
from latentia.data.bags import BAGS
from latentia.data.blocks import SUFFIXES, Rows
from latentia.data.files import atomic_write
from latentia.data.stream import survey
from latentia.errors import DataError, LatentiaError, OptionError, ProcessLost, RunError
from latentia.evaluate import PLAIN, evaluate
from latentia.learners import EM, Checkpoint, Gibbs, Gradient, History, Learner, distributed
from latentia.learners.checkpoint import FORMAT, read_tensors, write_tensors
from latentia.learners.settings import seed_for, usable_device
from latentia.missing import mean_field_elbo
from latentia.model import EMModel, LatentVariableModel
from latentia.refinement import semi_amortized
from latentia.report import build

MODELS: dict[str, type[LatentVariableModel]] = {name: getattr(models, name) for name in models.__all__}
LEARNERS: dict[str, type] = {"EM": EM, "Gradient": Gradient, "Gibbs": Gibbs}
OBJECTIVES = {
    "elbo": objectives.elbo,
    "iwae": objectives.iwae,
    "supervised": objectives.supervised,
    "exact": objectives.exact,
    "semi_amortized": semi_amortized,
    "mean_field_elbo": mean_field_elbo,
}
COUNTS = ("poisson", "multinomial")
"""Emissions that are of whole numbers, which a scaling would make something else."""
VALUES = {"gaussian": "real", "mixture": "real", "poisson": "real", "multinomial": "real", "bernoulli": "binary"}
"""What x is for an emission that is asked for, even where whole numbers would be read as symbols."""
LARGE = 2**30
"""Bytes above which a file is read as a stream, unless the command says otherwise."""
IN_MEMORY = 2**22
"""Numbers in the part of a stream that is held in memory for pictures and tasks."""
SAMPLED = ", a stream: pictures are of a random sample"


@dataclass
class Source:
    """Where data come from, how to read them, and what is held out.

    Attributes:
        source: a built-in name or a path.
        key, columns, kind, vocabulary: how to read it, see `latentia.data.read`.
        values, scale, binarize, min_count, max_vocabulary: what x is, see `Schema.of`; binarize="auto" draws grey
            images dynamically for a Bernoulli likelihood.
        weight: the column of a table that says how often each row counts.
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
    weight: str | None = None
    first: int | None = None
    stream: bool = False
    holdout: float = 0.1
    validation: float = 0.1

    def __post_init__(self):
        for name in ("holdout", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: it must be at least 0 and below 1")
        if self.first is not None and self.first < 1:
            raise OptionError(f"first={self.first}: it must be at least 1")

    def read(self) -> Raw:
        options: dict[str, Any] = {"weight": self.weight, "vocabulary": self.vocabulary}
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
    """What was asked for: enough to do it again."""

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

    def to_yaml(self) -> str:
        content = {"format": FORMAT, "latentia": latentia.__version__, **_plain(self.__dict__)}
        content["data"] = _plain(self.data.__dict__)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, path: Path) -> Config:
        """Raises `RunError` for anything that is not a config of this format."""
        try:
            content = yaml.safe_load(text)
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
        return {**self.__dict__, "command": ""} == {**other.__dict__, "command": ""}


def _typed(form: type, content: dict[str, Any]) -> Any:
    """The dataclass `form` of these values. Raises `TypeError` for one of another type than the field's."""
    hints = get_type_hints(form)
    for name, value in content.items():
        hint = hints.get(name, object)
        expected: Any = {float: int | float}.get(hint, get_origin(hint) if get_origin(hint) is dict else hint)
        if not isinstance(value, expected):
            raise TypeError(f"{name} is {value!r}")
    return form(**content)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not isinstance(item, Source)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass
class Parts:
    """The data of a run, encoded by one schema that only the training part has shaped."""

    train: Dataset | Stream
    validation: Dataset | Stream
    test: Dataset | Stream


class Run:
    """A run directory that exists. `Run.create` makes one, `Run.open` finds one."""

    def __init__(self, path: str | os.PathLike, config: Config):
        self.path, self.config = Path(path), config

    @classmethod
    def create(cls, path: str | os.PathLike, config: Config) -> Run:
        """Make the directory, or take up the interrupted run of the same config that is there.

        Raises:
            RunError: the directory holds a finished run, another run, or something else.
        """
        path = Path(path)
        check_options(config)  # an option that makes no sense should leave no directory behind
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file: choose another --out")
        if (path / "config.yaml").exists():
            run = cls.open(path)
            if run.finished:
                raise RunError(f"{path} holds a finished run, and nothing overwrites one: choose another --out")
            if not run.config.same_as(config) and not run.begun:
                # nothing learned yet, such as after an option that the data do not allow: nothing to lose
                (path / "schema.json").unlink(missing_ok=True)
                atomic_write(path / "config.yaml", config.to_yaml().encode())
                return cls(path, config)
            if not run.config.same_as(config):
                raise RunError(
                    f"{path} holds an interrupted run that was asked for otherwise (see its config.yaml): go on with "
                    f"it by `latentia fit --resume {path}`, or choose another --out"
                )
            return run
        if path.exists() and any(not _is_leftover(file) for file in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no run: choose another --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {path}: {error.strerror or error}") from error
        atomic_write(path / "config.yaml", config.to_yaml().encode())
        return cls(path, config)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Run:
        """Raises `RunError` where there is no run, or one of a newer format."""
        path = Path(path)
        config = path / "config.yaml"
        if not config.is_file():
            raise RunError(f"{path} is not a run directory: it has no config.yaml (make one with `latentia fit`)")
        try:
            return cls(path, Config.from_yaml(config.read_text("utf-8"), config))
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{config} cannot be read: {error}") from error

    @property
    def finished(self) -> bool:
        return (self.path / "model.safetensors").exists()

    @property
    def begun(self) -> bool:
        """Whether something has been learned."""
        metrics = self.path / "metrics.jsonl"
        return self.finished or (self.path / "learner.safetensors").exists() or bool(_size(metrics))

    @cached_property
    def schema(self) -> Schema:
        path = self.path / "schema.json"
        try:
            return Schema.from_json(_read_json(path))
        except DataError as error:
            raise RunError(f"{path}: {error}; fit again") from error

    @cached_property
    def parts(self) -> Parts:
        """The run's own data, read again. Raises `RunError` when they have changed since."""
        config = self.config
        if config.data.source not in BUILTIN and not os.path.exists(config.data.source):
            raise RunError(
                f"{config.data.source}, the data of {self.path}, is not there (a relative path counts from where the "
                "run was fitted: go there), or name data with --data"
            )
        raw = config.data.rows() if config.data.stream else config.data.read()
        # of processes that fit together the first checks it for all
        if config.fingerprint and not distributed.rank() and raw.fingerprint() != config.fingerprint:
            raise RunError(f"{config.data.source} has changed since {self.path} was fitted: name data with --data")
        if len(raw) < 2 and config.data.holdout:
            raise DataError(f"{raw.source} has {len(raw)} datum: too few to hold some out; set --holdout 0")
        train, validation, test = _split(raw, config.data, config.seed)
        known = "schema" in self.__dict__ or (self.path / "schema.json").exists()
        schema = self.schema if known else _schema(train, raw, config)
        if distributed.rank() and isinstance(train, Raw):
            train = train.take(slice(*distributed.bounds(len(train))))
        return Parts(*(_encoded(part, schema) for part in (train, validation, test)))

    @classmethod
    def shared(cls, find: Callable[[], Run]) -> Run:
        """The run that process 0 finds or makes, on every process that fits it; only process 0 sees its directory."""
        if distributed.rank():
            path, config = json.loads(distributed.shared_text(str))
            return cls(Path(path), Config.from_yaml(config, Path(path)))
        run = find()
        distributed.shared_text(lambda: json.dumps([str(run.path), run.config.to_yaml()]))
        return run

    def other(self, source: str, **options: Any) -> Dataset:
        """Other data, read as this run's schema says."""
        schema = self.schema
        first = options.pop("first", None)
        if (
            options.get("columns") is None
            and schema.names
            and Path(source).suffix.lower() in (".csv", ".tsv", ".parquet")
        ):
            options["columns"] = list(schema.names)
        if Path(source).suffix.lower() in BAGS:
            options["vocabulary"] = self.config.data.vocabulary
        data = load(source, schema=schema, **options)
        return data if first is None else data.subset(slice(0, first))

    def other_stream(self, source: str, columns: str | None = None, **options: Any) -> Stream:
        """Other data in a file that is larger than memory, read as this run's schema says."""
        schema = self.schema
        named = list(schema.names) if schema.names and source.lower().endswith(".parquet") else None
        return Stream(Rows.open(source, kind=schema.kind, columns=columns or named, **options), schema)

    def blank_model(self) -> LatentVariableModel:
        """The model as constructed, before any learning. Raises `RunError` for one that latentia does not have."""
        name = self.config.model
        if name not in MODELS:
            raise RunError(f"{self.path} was fitted with {name!r}, which is not one of {', '.join(MODELS)}")
        return build_model(name, self.config.model_options, self.schema)

    @property
    def device(self) -> str:
        """Where it was fitted, if there is a GPU here too."""
        return self.config.learner_options.get("device", "cpu") if torch.cuda.is_available() else "cpu"

    def model(self, device: str = "cpu") -> LatentVariableModel:
        """The fitted model, on this device.

        Raises `RunError` when the fit is not finished, or the file damaged or of another model.
        """
        path = self.path / "model.safetensors"
        if not self.finished:
            raise RunError(f"{self.path} is not finished: go on with `latentia fit --resume {self.path}`")
        tensors, _ = read_tensors(path)
        model = self.blank_model()
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(f"{path} does not fit {self.config.model} as config.yaml describes it: {error}") from error
        return model.to(usable_device(device)).eval()

    def fit(self, progress: bool = True) -> History:
        """Fit from the start or from where it stopped, and write model.safetensors.

        Of several processes (see `latentia.learners.distributed`) each learns from its share of the training data, and
        process 0 alone reads and writes the run's directory.
        """
        learner = build_learner(self.config, progress)
        if distributed.rank():
            with self._resumable():
                self.schema = Schema.from_json(json.loads(distributed.shared_text(str)))
                return learner.fit(self.blank_model(), self._share(), seed=self.config.seed)
        model = self._begin()
        checkpoint = Checkpoint(self.path / "learner.safetensors")
        saved = checkpoint.load()
        with checkpoint.fitting():  # before metrics.jsonl is cut to what the checkpoint knows of
            keep = operator.index(saved[1]["records"]) if saved else 0
        distributed.shared_text(lambda: json.dumps(self.parts.train.schema.to_json()))
        with _metrics(self.path / "metrics.jsonl", keep) as write, self._resumable():
            rest: dict[str, Any] = {"validation": self.parts.validation, "callbacks": [write], "checkpoint": checkpoint}
            history = learner.fit(model, self._share(), seed=self.config.seed, **rest)
        learned = {"stopped": history.stopped, "restarts": history.restarts}
        write_tensors(self.path / "model.safetensors", model.state_dict(), learned)
        return history

    def _begin(self) -> LatentVariableModel:
        """The blank model, once the directory says what it will be fitted to, and with what."""
        train = self.parts.train
        _check_count(self.config, len(train))
        for file in self.path.glob(".*.tmp"):
            if _is_leftover(file):
                file.unlink(missing_ok=True)
        if not (self.path / "schema.json").exists():
            # the schema last: where it is, the environment is too
            atomic_write(self.path / "environment.json", json.dumps(environment(), indent=1).encode())
            atomic_write(self.path / "schema.json", json.dumps(train.schema.to_json()).encode())
        return self._model_for(train)

    def _share(self) -> Any:
        """The training data that this process learns from: all, where there is but one."""
        train = self.parts.train
        if distributed.size() == 1:
            return train
        if isinstance(train, Stream):
            rows = train.rows
            start, stop = distributed.bounds(rows.stop - rows.start)
            return train.part(rows.start + start, rows.start + stop)
        # the others have encoded no more than their share
        return train if distributed.rank() else train.subset(slice(*distributed.bounds(len(train))))

    @contextlib.contextmanager
    def _resumable(self):
        try:
            yield
        except ProcessLost as error:
            count = os.environ.get("LOCAL_WORLD_SIZE", distributed.size())
            raise ProcessLost(
                f"{error}; what was learned is kept: go on with "
                f"`torchrun --nproc-per-node {count} -m latentia fit --resume {self.path}`"
            ) from error

    @property
    def learned(self) -> dict[str, Any]:
        """How the fit ended: "stopped", and the value of each of EM's "restarts"."""
        return read_tensors(self.path / "model.safetensors")[1]

    def _model_for(self, train: Dataset | Stream) -> LatentVariableModel:
        """The blank model. Where it cannot have data of this kind, and could as another kind, the error says so."""
        try:
            model = self.blank_model()
            model.check(train.subset(slice(0, 2)).frozen(0).batch(dtype=model.anchor.dtype))
        except (DataError, OptionError) as error:
            better = _better_reading(self.config, train.schema.kind)
            if better is None:
                raise
            raise type(error)(f"{error}; read otherwise they would do: say {better}") from error
        return model

    @property
    def tested(self) -> Dataset | Stream:
        """What the run is evaluated on: its held-out data, or the training data where nothing was held out."""
        return self.parts.test if len(self.parts.test) else self.parts.train

    @property
    def held_out(self) -> Dataset:
        """`tested`, in memory: of a stream a random part."""
        return _in_memory(self.tested)

    @property
    def evaluated_on(self) -> str:
        return "held-out data" if len(self.parts.test) else "the training data (nothing was held out)"

    def evaluate(
        self,
        importance_samples: int = 1000,
        naive: bool = False,
        seed: int = 0,
        progress: bool = True,
        annealing: Annealing | None = None,
        device: str | None = None,
    ) -> dict:
        """Measure on the held-out data, and write evaluation.json. Where no device is named, on that of the fit."""
        options: dict[str, Any] = {"importance_samples": importance_samples, "naive": naive, "seed": seed}
        options["annealing"] = annealing
        model = self.model(device or self.device)
        found = evaluate(model, self.tested, training=self.parts.train, progress=progress, **options)
        found.evaluated_on = self.evaluated_on
        content = found.to_json()
        assert found.each is not None
        write_tensors(self.path / "evaluation.safetensors", {"each": found.each}, {})
        atomic_write(self.path / "evaluation.json", json.dumps(content, indent=1).encode())
        return content

    def report(self) -> Path:
        """Write report.html, evaluating first where that has not been done."""
        path = self.path / "evaluation.json"
        evaluation = _read_json(path, "evaluate again") if path.exists() else self.evaluate()
        if not set(PLAIN) <= set(evaluation):
            raise RunError(f"{path} is incomplete: evaluate again")
        model = self.model()
        page = build(
            title=f"{self.config.model} on {self.config.data.source}{SAMPLED if self.config.data.stream else ''}",
            model=model,
            options={**self.config.model_options, "learner": self.config.learner, **self.config.learner_options},
            history=read_metrics(self.path / "metrics.jsonl"),
            learned=self.learned,
            evaluation=evaluation,
            train=_in_memory(self.parts.train),
            test=self.held_out,
            environment=_read_json(self.path / "environment.json"),
            command=self.config.command,
            on_training_data=not len(self.parts.test),
        )
        atomic_write(self.path / "report.html", page.encode())
        return self.path / "report.html"


def build_model(name: str, options: dict[str, Any], schema: Schema) -> LatentVariableModel:
    """A model with its options, and the sizes that come from the data; exact models compute in float64.

    Raises:
        OptionError: data of a kind that the model cannot have, or an option that makes no sense.
    """
    sizes = {
        size: value for size, value in schema.sizes().items() if size in inspect.signature(MODELS[name]).parameters
    }
    required = [p.name for p in inspect.signature(MODELS[name]).parameters.values() if p.default is p.empty]
    for missing in required:
        if sizes.get(missing) is None:
            raise OptionError(
                f"{name} needs {missing}, and {schema.describe()} have none: choose another model, --kind or --values"
            )
    try:
        model = MODELS[name](**sizes, **options)
    except TypeError as error:
        raise OptionError(f"{name}: {error}") from error
    return model.double() if isinstance(model, EMModel) else model


def check_options(config: Config) -> None:
    """Raise for options that make no sense whatever the data are."""
    _at_least(config.model_options)
    build_learner(config)
    if config.objective == "supervised":
        raise OptionError(
            "--objective supervised learns from labels, and the command has none to give it: use --objective elbo, or "
            "in Python Gradient(supervised) on a Dataset whose z holds the classes that are known"
        )


def _at_least(options: dict[str, Any]) -> None:
    """Raise `OptionError` for a size or count below 1, a weight or floor below 0, of a model or an objective."""
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, bool) or not isinstance(one, int | float):
                continue
            least = 1 if isinstance(one, int) else 0
            if not least <= one < math.inf:
                raise OptionError(f"{name}={value}: it must be at least {least}")


def _check_count(config: Config, count: int) -> None:
    components = config.model_options.get("components", 1)
    if components > count:
        raise OptionError(f"components={components}, and {count} data to learn from: it must be at most {count}")


def build_learner(config: Config, progress: bool = True) -> Learner:
    """The learner with its options and its objective."""
    for what, name, known in (("learner", config.learner, LEARNERS), ("objective", config.objective, OBJECTIVES)):
        if name is not None and name not in known:
            raise OptionError(f"unknown {what} {name!r}: the {what}s are {', '.join(known)}")
    options = {**config.learner_options, "progress": progress}
    if config.learner == "Gradient" and config.objective:
        _at_least(config.objective_options)
        options["objective"] = partial(OBJECTIVES[config.objective], **config.objective_options)
    if config.learner != "EM" and (distributed.size() > 1 or config.data.stream):
        asked = "a stream" if config.data.stream else f"{distributed.size()} processes"
        raise OptionError(f"--learner {config.learner} learns from data in memory in one process, not from {asked}")
    try:
        return LEARNERS[config.learner](**options)
    except TypeError as error:
        raise OptionError(f"{config.learner}: {error}") from error


def environment() -> dict[str, Any]:
    """With what a run is made: versions, machine, threads."""
    return {
        "latentia": latentia.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. Raises `RunError` for a damaged one."""
    try:
        records = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged: {error}") from error
    if not all(isinstance(record, dict) for record in records):
        raise RunError(f"{path} is damaged: a line of it is no record")
    return records


@contextlib.contextmanager
def _metrics(path: Path, keep: int):
    """A callback that adds a line to the file, of which the first `keep` lines stay."""
    lines = path.read_text("utf-8", errors="replace").splitlines()[:keep] if keep and path.exists() else []
    if not 0 <= keep <= len(lines) or any(not _is_record(line) for line in lines):
        raise RunError(
            f"{path} is damaged: it has fewer records than learner.safetensors; fit again into another directory"
        )
    atomic_write(path, "".join(line + "\n" for line in lines).encode())
    with path.open("a", encoding="utf-8") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_leftover(file: Path) -> bool:
    """Whether a write that was killed has left the file behind."""
    return file.name.startswith(".") and file.name.endswith(".tmp")


def _read_json(path: Path, remedy: str = "fit again") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged ({error}): {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no object; {remedy}")
    return content


def _encoded(part: Raw | Rows, schema: Schema) -> Dataset | Stream:
    return schema.encode(part) if isinstance(part, Raw) else Stream(part, schema)


def _in_memory(data: Dataset | Stream) -> Dataset:
    return data if isinstance(data, Dataset) else data.sample(max(IN_MEMORY // data.entries, 1))


def _split(raw: Raw | Rows, source: Source, seed: int) -> tuple[Raw | Rows, Raw | Rows, Raw | Rows]:
    """Train, validation and test parts, every datum in one of them."""
    if isinstance(raw, Rows):
        rest, held_out = raw.split(source.holdout, seed_for(seed, 7))
        return *rest.split(source.validation, seed_for(seed, 7)), held_out
    order = np.random.default_rng(seed_for(seed, 7)).permutation(len(raw))
    test = _share(len(raw), source.holdout)
    rest = len(raw) - test
    validation = _share(rest, source.validation)
    cuts = (order[test + validation :], order[test : test + validation], order[:test])
    return tuple(raw.take(np.sort(cut)) for cut in cuts)  # type: ignore[return-value]


def _share(count: int, fraction: float) -> int:
    return min(max(round(count * fraction), 1), count - 1) if fraction and count > 1 else 0


def _better_reading(config: Config, kind: str) -> str | None:
    """The options with which the model could take the data, which it cannot have as they were read."""
    other = {"table": "sequence", "sequence": "table"}.get(kind)
    offers: list[dict[str, str]] = [{"kind": other}] if other and config.data.kind == "auto" else []
    if config.data.values == "auto":
        offers += [{"values": "levels"}, {"values": "symbols"}, {"values": "real"}]
    offers += [{"scale": "none"}] if config.data.scale != "none" else []
    if config.data.stream:
        return None
    found = (offer for offer in offers if _takes(replace(config, data=replace(config.data, **offer))))
    return next((f"--{name} {value}" for offer in found for name, value in offer.items()), None)


def _takes(config: Config) -> bool:
    try:
        raw = config.data.read()
        schema = _schema(raw, raw, config)
        model = build_model(config.model, config.model_options, schema)
        model.check(schema.encode(raw).batch(dtype=model.anchor.dtype))
    except LatentiaError:
        return False
    return True


def _schema(train: Raw | Rows, whole: Raw | Rows, config: Config) -> Schema:
    """The schema of the training data, but for the number of symbols or levels: how many there can be is part of what
    the data are, so it is counted over all of them."""
    likelihood, source = config.model_options.get("likelihood"), config.data
    binarize = source.binarize
    if binarize == "auto":
        # a model that has no other likelihood says so itself
        binary = likelihood == "bernoulli" or getattr(MODELS[config.model], "binary", False)
        binarize = "dynamic" if train.kind == "image" and binary else "none"
    values, scale = source.values, source.scale
    emission = config.model_options.get("emission", "auto")
    if values == "auto":
        values = "levels" if likelihood == "categorical" else VALUES.get(emission, "auto")
    if scale == "auto" and emission in COUNTS:
        scale = "none"
    options: dict[str, Any] = {
        "scale": scale,
        "binarize": binarize,
        "min_count": source.min_count,
        "max_vocabulary": source.max_vocabulary,
        "seed": config.seed,
    }
    schema = _schema_of(train, values=values, **options)
    if schema.levels is None or schema.kind == "text":
        return schema
    return replace(schema, levels=_schema_of(whole, values=schema.values, **options).levels)


def _schema_of(data: Raw | Rows, **options: Any) -> Schema:
    return Schema.of(data, **options) if isinstance(data, Raw) else survey(data, **options)


def is_large(source: str) -> bool:
    """Whether a file is better read block by block: a file of rows that is larger than a gibibyte."""
    path = Path(source)
    return path.suffix.lower() in SUFFIXES and source not in BUILTIN and path.is_file() and _size(path) > LARGE


def default_out(model: str, source: str) -> Path:
    """runs/<model>-<data>, for those who name no directory."""
    return Path("runs") / f"{model}-{Path(source).name.split('.')[0]}".lower()


def this_command() -> str:
    """The command line, as one would type it."""
    return " ".join(["latentia", *sys.argv[1:]])
