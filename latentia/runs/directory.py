"""A run directory: what was asked, what was learned, how well, from data to report.

    config.yaml         what was asked: model, learner, objective, data, seed
    schema.json         what x is
    environment.json    with what it was made
    checksums.json      the sha256 of the files that say what a fitted model means
    metrics.jsonl       one line an epoch or a step
    learner.safetensors from where an interrupted fit goes on
    model.safetensors   the parameters; there once the fit is finished
    evaluation.json     what `evaluate` says of the held-out data; evaluation.safetensors, of each of them
    report.html         all of it, to look at

Nothing in it is code, and loading one runs none: YAML and JSON are plain values, tensors are safetensors, and a
model's name is looked up among latentia's own. Files that have changed since the fit are refused by their checksums,
and so are parameters that no fit ends with. A process that fits has a lock on the directory.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import platform
import secrets
import shutil
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import latentia
from latentia.data import BUILTIN, Dataset, Raw, Schema, Stream, load
from latentia.data.bags import BAGS
from latentia.data.blocks import Rows
from latentia.data.files import alone, atomic_write, checksum, read_bytes
from latentia.data.readers import TABLES
from latentia.data.sequences import from_items
from latentia.data.tables import suffix
from latentia.errors import DataError, OptionError, ProcessLost, RunError
from latentia.inference.annealed import Annealing
from latentia.learners import Checkpoint, History, distributed
from latentia.learners.settings import usable_device
from latentia.measure.evaluation import PLAIN, Evaluation, evaluate
from latentia.model import LatentVariableModel
from latentia.report import build
from latentia.report.summary import summary_of
from latentia.runs.build import (
    MODELS,
    better_reading,
    build_learner,
    build_model,
    check_count,
    check_options,
    schema_for,
    with_kinds,
)
from latentia.runs.chosen import of_learner, of_model, told
from latentia.runs.config import Config
from latentia.runs.files import (
    check_parameters,
    file_size,
    is_leftover,
    is_plain,
    metrics_writer,
    read_json,
    read_metrics,
)
from latentia.runs.parts import Parts, encode_part, in_memory, is_one_series, split_parts, with_labels
from latentia.summary import Summary
from latentia.tensors import packed, read_tensors, write_tensors

MODEL = "model.safetensors"
BEGUN = ("config.yaml", "environment.json", "schema.json")
BEFORE = (*BEGUN, "checksums.json", "metrics.jsonl", ".lock")
"""What is there before anything has been learned."""
SAMPLED = ", a stream: pictures are of a random sample"


class Run:
    """A run directory that exists. `Run.create` makes one, `Run.open` finds one."""

    def __init__(self, path: str | os.PathLike, config: Config):
        self.path, self.config = Path(path), config
        # what `undo` takes back: the folders that were made for it, and the run that it took the place of
        self.made: list[Path] = []
        self.fresh = False
        self.replaced: Path | None = None

    @classmethod
    def create(cls, path: str | os.PathLike, config: Config, overwrite: bool = False) -> Run:
        """Make the directory, or take up the interrupted run of the same config that is there.

        Args:
            overwrite: take the place of whatever run is there. It is kept aside until the new one has begun.

        Raises:
            RunError: the directory holds a finished run, another run, or something else.
        """
        path = Path(path)
        check_options(config)  # an option that makes no sense should leave no directory behind
        replaced = cls._aside(path) if overwrite else None
        try:
            cls._there(path, config)  # before a lock is written to a directory that is none of ours
            made = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot make {path}: {getattr(error, 'strerror', None) or error}") from error
        with alone(path):
            run = cls._there(path, config)
            if run is None:
                (path / "schema.json").unlink(missing_ok=True)
                atomic_write(path / "config.yaml", config.to_yaml().encode())
                run = cls(path, config)
                run.fresh, run.made, run.replaced = True, made, replaced
        return run

    @classmethod
    def _aside(cls, path: Path) -> Path | None:
        """Where the run at `path` has been moved to, to make room; None where there is none."""
        if not (path / "config.yaml").is_file():
            return None
        cls.open(path)  # nothing but a run is moved
        aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.old")
        with alone(path):
            try:
                path.rename(aside)
            except OSError as error:
                raise RunError(f"cannot move {path} aside: {error.strerror or error}") from error
        (aside / ".lock").unlink(missing_ok=True)
        return aside

    def undo(self) -> None:
        """Leave all as it was before `create`, where nothing has been learned: a fit that was refused."""
        if not self.fresh or self.begun:
            return
        for name in BEFORE:
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # one that is not empty stays
            for folder in self.made or ([self.path] if self.replaced else []):
                folder.rmdir()
        if self.replaced is not None and not self.path.exists():
            self.replaced.rename(self.path)

    @classmethod
    def _there(cls, path: Path, config: Config) -> Run | None:
        """The interrupted run of the same config that is there; None where there is none, or one that has learned
        nothing yet, such as after an option that the data do not allow. Raises `RunError` as `create`."""
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file: choose another --out")
        if not (path / "config.yaml").exists():
            if path.exists() and any(not is_leftover(file) for file in path.iterdir()):
                raise RunError(f"{path} is not empty and holds no run: choose another --out")
            return None
        run = cls.open(path)
        if run.finished:
            raise RunError(f"{path} holds a finished run: choose another --out, or give --overwrite to replace it")
        if run.config.same_as(config):
            return run
        if run.begun:
            raise RunError(
                f"{path} holds an interrupted run that was asked for otherwise (see its config.yaml): go on with "
                f"it by `latentia fit --resume {path}`, choose another --out, or give --overwrite to replace it"
            )
        return None

    @classmethod
    def open(cls, path: str | os.PathLike) -> Run:
        """Raises `RunError` where there is no run, or one of a newer format."""
        path = Path(path)
        config = path / "config.yaml"
        if not config.is_file():
            raise RunError(f"{path} is not a run directory: it has no config.yaml (make one with `latentia fit`)")
        try:
            return cls(path, Config.from_yaml(read_bytes(config).decode(), config))
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{config} cannot be read: {error}") from error

    @property
    def finished(self) -> bool:
        return (self.path / "model.safetensors").exists()

    @property
    def begun(self) -> bool:
        """Whether something has been learned."""
        metrics = self.path / "metrics.jsonl"
        return self.finished or (self.path / "learner.safetensors").exists() or bool(file_size(metrics))

    @cached_property
    def schema(self) -> Schema:
        path = self.path / "schema.json"
        try:
            schema = Schema.from_json(read_json(path))
        except (DataError, OverflowError) as error:
            raise RunError(f"{path}: {error}; fit again") from error
        self._unchanged("schema.json")
        return schema

    @cached_property
    def parts(self) -> Parts:
        """The run's own data, read again. Raises `RunError` when they have changed since."""
        self._known_model()
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
        if len(raw) < 2 and config.data.holdout and not is_one_series(raw):
            raise DataError(f"{raw.source} has {len(raw)} datum: too few to hold some out; set --holdout 0")
        raw = with_kinds(raw, config)
        train, validation, test = split_parts(raw, config.data, config.seed)
        known = "schema" in self.__dict__ or (self.path / "schema.json").exists()
        schema = self.schema if known else schema_for(train, raw, config)
        if distributed.rank() and isinstance(train, Raw):
            train = train.take(slice(*distributed.bounds(len(train))))
        return Parts(*(encode_part(part, schema) for part in (train, validation, test)))

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
        if options.get("columns") is None and schema.names and suffix(Path(source)) in TABLES:
            options["columns"] = list(schema.names)
        if Path(source).suffix.lower() in BAGS:
            options["vocabulary"] = self.config.data.vocabulary
        for name in ("group", "time", "text_column", "prose"):
            options.setdefault(name, getattr(self.config.data, name))
        if schema.context is not None and options.get("context") is None:
            options["context"] = self.config.data.context
        data = load(source, schema=schema, **options)
        return data if first is None else data.subset(slice(0, first))

    def sentence(self, text: str) -> Dataset:
        """One sentence, read as this run's text was. Raises `DataError` where that was no text."""
        if self.schema.kind != "text":
            raise DataError(f"{self.path} was fitted on {self.schema.describe()}, and not on sentences of words")
        known = set(self.schema.vocabulary)
        # a treebank is read in lower case
        words = [word if word in known else word.lower() for word in text.split()]
        return self.schema.encode(from_items([words], "the sentence"))

    def other_stream(self, source: str, columns: str | None = None, **options: Any) -> Stream:
        """Other data in a file that is larger than memory, read as this run's schema says."""
        schema = self.schema
        named = list(schema.names) if schema.names and source.lower().endswith(".parquet") else None
        return Stream(Rows.open(source, kind=schema.kind, columns=columns or named, **options), schema)

    def blank_model(self) -> LatentVariableModel:
        """The model as constructed, before any learning. Raises `RunError` for one that latentia does not have."""
        self._known_model()
        options = {**self._chosen, **self.config.model_options}
        if self.schema.classes and self.config.data.labels is not None:
            options = {**options, "classes": len(self.schema.classes)}
        return build_model(self.config.model, options, self.schema)

    def _known_model(self) -> None:
        name = self.config.model
        if name not in MODELS:
            raise RunError(f"{self.path} was fitted with {name[:80]!r}, which is not one of {', '.join(MODELS)}")

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
        self._known_model()
        for name in ("config.yaml", "schema.json"):
            self._unchanged(name)
        _check_sizes(self, tensors)
        model = self.blank_model()
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(f"{path} does not fit {self.config.model} as config.yaml describes it: {error}") from error
        self._unchanged(MODEL)
        check_parameters(model, path)
        if (self.path / "schema.json").exists():
            model.schema = self.schema
        return model.to(usable_device(device)).eval()

    def _unchanged(self, name: str) -> None:
        """Raise `RunError` where a file is not the one that the fit wrote, or began with. A run that was made before
        there were checksums is read with a warning."""
        path = self.path / "checksums.json"
        if not path.exists():
            if name == "model.safetensors":
                warnings.warn(
                    f"{self.path} was made before runs had checksums: whether its files are those of the fit cannot be "
                    "told; fit again to have them",
                    stacklevel=3,
                )
            return
        expected = read_json(path).get(name)
        if (self.finished or expected is not None) and checksum(self.path / name) != expected:
            raise RunError(
                f"{self.path / name} has changed since the fit: its sha256 is not that in checksums.json; put the file "
                "back that was there, or fit again"
            )

    def fit(self, progress: bool = True) -> History:
        """Fit from the start or from where it stopped, and write model.safetensors.

        Of several processes (see `latentia.learners.distributed`) each learns from its share of the training data, and
        process 0 alone reads and writes the run's directory.
        """
        if distributed.rank():
            with self._resumable():
                schema, chosen = json.loads(distributed.shared_text(str))
                self.schema, learner = Schema.from_json(schema), build_learner(self.config, progress, chosen)
                return learner.fit(self.blank_model(), self._share(), seed=self.config.seed)
        build_learner(self.config)  # an unknown one is refused before data are read
        with alone(self.path):
            self._still_mine()
            return self._fit(progress)

    def _still_mine(self) -> None:
        """Raise `RunError` where another process has finished the run meanwhile, or made another one of it."""
        if self.finished:
            raise RunError(f"{self.path} holds a finished run by now: choose another --out")
        if not Run.open(self.path).config.same_as(self.config):
            raise RunError(f"{self.path} holds another run by now: another process was given the same --out")

    def chosen(self) -> list[str]:
        """What is chosen from the data, a sentence each. It reads them."""
        self._known_model()
        schema = self.parts.train.schema
        return [*told("model", of_model(self.config, schema)), *told("learner", of_learner(self.config, self._numbers))]

    @property
    def _chosen(self) -> dict[str, Any]:
        return dict(choice[:2] for choice in of_model(self.config, self.schema))

    @property
    def _numbers(self) -> int:
        train = self.parts.train
        return len(train) * train.entries

    def _fit(self, progress: bool) -> History:
        model = self._begin()
        if self.replaced is not None:  # the new run has data and options that it can have
            shutil.rmtree(self.replaced, ignore_errors=True)
            self.replaced = None
        chosen = dict(choice[:2] for choice in of_learner(self.config, self._numbers))
        learner = build_learner(self.config, progress, chosen)
        checkpoint = Checkpoint(self.path / "learner.safetensors")
        saved = checkpoint.load()
        with checkpoint.fitting():  # before metrics.jsonl is cut to what the checkpoint knows of
            keep = operator.index(saved[1]["records"]) if saved else 0
        distributed.shared_text(lambda: json.dumps([self.parts.train.schema.to_json(), chosen]))
        with metrics_writer(self.path / "metrics.jsonl", keep) as write, self._resumable():
            rest: dict[str, Any] = {"callbacks": [write], "checkpoint": checkpoint}
            rest["validation"] = self._known(self.parts.validation, some=True)
            history = learner.fit(model, self._known(self._share()), seed=self.config.seed, **rest)
        learned = packed(model.state_dict(), {"stopped": history.stopped, "restarts": history.restarts})
        # before the model: where it is, its checksum is too
        self._write_checksums({"metrics.jsonl": checksum(self.path / "metrics.jsonl"), MODEL: checksum(learned)})
        atomic_write(self.path / MODEL, learned)
        return history

    def _write_checksums(self, found: dict[str, str]) -> None:
        """Those of what the fit began with, and others."""
        path = self.path / "checksums.json"
        known = read_json(path) if path.exists() and (self.path / "schema.json").exists() else {}
        begun = {name: known.get(name) or checksum(self.path / name) for name in BEGUN}
        atomic_write(path, json.dumps({**begun, **found}, indent=1).encode())

    def _begin(self) -> LatentVariableModel:
        """The blank model, once the directory says what it will be fitted to, and with what."""
        train = self.parts.train
        check_count(self.config, _steps(train))
        for file in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):  # a folder of that name is none of ours
                file.unlink()
        if not (self.path / "schema.json").exists():
            # the schema last: where it is, the others are too
            schema = json.dumps(train.schema.to_json()).encode()
            atomic_write(self.path / "environment.json", json.dumps(environment(), indent=1).encode())
            self._write_checksums({"schema.json": checksum(schema)})
            atomic_write(self.path / "schema.json", schema)
        self._known_model()
        for name in BEGUN:
            self._unchanged(name)
        return self._model_for(train)

    def _known(self, data: Any, some: bool = False) -> Any:
        """The data with their classes known, where labels are to be learned from."""
        return data if self.config.data.labels is None else with_labels(data, some)

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
        path = self.path / MODEL
        found = read_tensors(path)[1]
        for name, form in (("stopped", "str"), ("restarts", "list")):
            if not is_plain(found.get(name), form):
                raise RunError(f"{path} is damaged: {name} is {str(found.get(name))[:80]!r}; fit again")
        return found

    def _model_for(self, train: Dataset | Stream) -> LatentVariableModel:
        """The blank model. Where it cannot have data of this kind, and could as another kind, the error says so."""
        try:
            model = self.upon(self.blank_model())
            model.check(train.subset(slice(0, 2)).frozen(0).batch(dtype=model.anchor.dtype))
        except (DataError, OptionError) as error:
            better = better_reading(self.config, train.schema.kind)
            if better is None:
                raise
            raise type(error)(f"{error}; read otherwise they would do: say {better}") from error
        return model

    def upon(self, model: LatentVariableModel) -> LatentVariableModel:
        """The model with the parameters of the run that it is built upon, where there is one."""
        base, path = getattr(model, "base", None), self.config.model_options.get("base")
        if isinstance(base, LatentVariableModel) and path is not None:
            base.load_state_dict(Run.open(path).model().state_dict())
        return model

    @property
    def tested(self) -> Dataset | Stream:
        """What the run is evaluated on: its held-out data, or the training data where nothing was held out."""
        return self.parts.test if len(self.parts.test) else self.parts.train

    @property
    def held_out(self) -> Dataset:
        """`tested`, in memory: of a stream a random part."""
        return in_memory(self.tested)

    @property
    def evaluated_on(self) -> str:
        test, train = self.parts.test, self.parts.train
        if not len(test):
            return "the training data (nothing was held out)"
        one = isinstance(test, Dataset) and test.lengths is not None and len(test) == len(train) == 1
        return f"the last {test.entries:,} numbers of the series, held out" if one else "held-out data"

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
        text = json.dumps(content, indent=1).encode()
        write_tensors(self.path / "evaluation.safetensors", {"each": found.each}, {"evaluation.json": checksum(text)})
        atomic_write(self.path / "evaluation.json", text)
        return content

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What evaluation.json says; None where there is none.

        Raises `RunError` for one that is damaged, or not of evaluation.safetensors.
        """
        path, each = self.path / "evaluation.json", self.path / "evaluation.safetensors"
        if not path.exists():
            return None
        found = read_json(path, "evaluate again")
        if not set(PLAIN) <= set(found):
            raise RunError(f"{path} is incomplete: evaluate again")
        written = read_tensors(each)[1].get("evaluation.json") if each.exists() else None
        if written is not None and written != checksum(path):
            raise RunError(f"{path} has changed since it was written: evaluate again")
        for name in PLAIN:
            if not is_plain(found[name], str(Evaluation.__annotations__[name])):
                value = found[name]
                raise RunError(f"{path} is damaged: {name} is {str(value)[:80]!r}; evaluate again")
        return found

    def summary(self) -> Summary:
        """The tables of the fitted model; of topics with what the run's own data say of them, where they are there."""
        model = self.model()
        try:
            train, test = in_memory(self.parts.train), self.held_out if len(self.parts.test) else None
        except (DataError, RunError):
            train = test = None  # moved or changed since: the parameters are the same
        return summary_of(model, train, test)

    def report(self) -> Path:
        """Write report.html, evaluating first where that has not been done."""
        evaluation = self.evaluation or self.evaluate()
        model = self.model()
        for name in ("metrics.jsonl", "environment.json"):
            self._unchanged(name)
        learner = {"learner": self.config.learner, **self.config.learner_options}
        page = build(
            title=f"{self.config.model} on {self.config.data.source}{SAMPLED if self.config.data.stream else ''}",
            model=model,
            options={**self._chosen, **self.config.model_options, **learner},
            history=read_metrics(self.path / "metrics.jsonl"),
            learned=self.learned,
            evaluation=evaluation,
            train=in_memory(self.parts.train),
            test=self.held_out,
            environment={name: str(value) for name, value in read_json(self.path / "environment.json").items()},
            command=self.config.command,
            on_training_data=not len(self.parts.test),
        )
        atomic_write(self.path / "report.html", page.encode("utf-8", "backslashreplace"))
        return self.path / "report.html"


def _steps(data: Dataset | Stream) -> int:
    """How many things there are to be shared out among components: the steps of sequences, or the data."""
    lengths = data.lengths if isinstance(data, Dataset) else None
    return len(data) if lengths is None else int(lengths.sum())


def _check_sizes(run: Run, tensors: dict[str, torch.Tensor]) -> None:
    """Raise `RunError` where the model has other sizes than the tensors of its file, before it asks for memory."""
    try:
        with torch.device("meta"):
            sizes = {name: value.shape for name, value in run.blank_model().state_dict().items()}
    except (NotImplementedError, RuntimeError, OptionError):
        return  # one that computes with its parameters as it is made: loading tells
    for name, size in sizes.items():
        if name not in tensors or tensors[name].shape != size:
            raise RunError(
                f"{run.path / MODEL} does not fit {run.config.model} as config.yaml describes it: {name} has not the "
                f"shape {tuple(size)}"
            )


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
