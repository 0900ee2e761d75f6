"""Models, learners and objectives by their names, and the schema that a model asks for."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentia import models, objectives
from latentia.data import Raw, Schema
from latentia.data.blocks import Rows
from latentia.data.columns import settled
from latentia.data.files import read_text
from latentia.data.meanings import grammar_of
from latentia.data.stream import survey
from latentia.errors import LatentiaError, OptionError
from latentia.gradients import ESTIMATORS
from latentia.inference.missing import mean_field_elbo
from latentia.inference.refinement import semi_amortized
from latentia.learners import EM, Gibbs, Gradient, Learner, distributed
from latentia.model import EMModel, LatentVariableModel
from latentia.runs.chosen import of_model
from latentia.runs.config import Config

MODELS: dict[str, type[LatentVariableModel]] = {name: getattr(models, name) for name in models.__all__}
LEARNERS: dict[str, type] = {"EM": EM, "Gradient": Gradient, "Gibbs": Gibbs}
OBJECTIVES = {
    "elbo": objectives.elbo,
    "iwae": objectives.iwae,
    "supervised": objectives.supervised,
    "semi_supervised": objectives.semi_supervised,
    "joint_stochastic": objectives.joint_stochastic,
    "exact": objectives.exact,
    "expected": objectives.expected,
    "alignment_elbo": objectives.alignment_elbo,
    "semi_amortized": semi_amortized,
    "mean_field_elbo": mean_field_elbo,
}
TAUGHT = ("supervised", "semi_supervised", "joint_stochastic")
"""Objectives that make nothing of data without labels that elbo would not."""
COUNTS = ("poisson", "multinomial")
"""Emissions that are of whole numbers, which a scaling would make something else."""
VALUES = {
    "columns": "mixed",
    "gaussian": "real",
    "mixture": "real",
    "poisson": "real",
    "multinomial": "real",
    "bernoulli": "binary",
}
"""What x is for an emission that is asked for, even where whole numbers would be read as symbols."""
DOCUMENTS = ("min_documents", "max_documents")


def build_model(name: str, options: dict[str, Any], schema: Schema) -> LatentVariableModel:
    """A model with its options, and the sizes that come from the data; exact models compute in float64.

    Raises:
        OptionError: data of a kind that the model cannot have, or an option that makes no sense.
    """
    parameters = inspect.signature(MODELS[name]).parameters
    if "base" in parameters:
        base = _run_of(name, options)
        # its parameters come with those of the whole model, or from `Run.upon`
        options = {**options, "base": base.blank_model()}
        _check_same_data(name, base.schema, schema)
    sizes = {size: value for size, value in _sizes_for(name, schema).items() if size in parameters}
    given = {"context", "source_symbols", "source_features"} & set(schema.sizes())
    colours = schema.chroma and getattr(MODELS[name], "colour", False)  # whose context is always a grey image
    if given - set(parameters) and not colours:
        raise _does_nothing(name, "context", *given)
    required = [p.name for p in parameters.values() if p.default is p.empty and p.name not in options]
    _check_there(name, schema, [missing for missing in required if sizes.get(missing) is None])
    try:
        model = MODELS[name](**{**options, **sizes})
    except LatentiaError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{name}: {error}") from error
    except RuntimeError as error:
        if "memory" in str(error):
            raise
        raise OptionError(f"{name}: options of sizes that no tensor has ({str(error).splitlines()[0]})") from error
    return model.double() if isinstance(model, EMModel) else model


def _check_there(name: str, schema: Schema, missing: list[str]) -> None:
    """Raise `OptionError` where the data do not say what a model must know."""
    for size in missing:
        if size == "grammar":
            raise OptionError(f"{name} needs sentences with logical forms: name the column of the forms with --labels")
        if size in ("source_symbols", "source_features"):
            asked = "sentences or symbols" if size == "source_symbols" else "sequences of vectors, such as sounds"
            raise OptionError(f"{name} needs a source of {asked} for each datum: name it with --context")
        raise OptionError(
            f"{name} needs {size}, and {schema.describe()} have none: choose another model, --kind or --values"
        )


def _run_of(name: str, options: dict[str, Any]) -> Any:
    """The run that a model is built upon."""
    from latentia.runs.directory import Run

    path = options.get("base")
    if not isinstance(path, str):
        raise OptionError(f"{name} is built upon a fitted model: name its run directory with --model.base")
    return Run.open(path)


def _check_same_data(name: str, base: Schema, schema: Schema) -> None:
    """Raise `OptionError` for data that are read in another way than those of the run that the model is built upon."""
    if base.to_json() != schema.to_json():
        raise OptionError(
            f"{name} is built upon a run of {base.describe()}, and these are {schema.describe()}, or are read in "
            "another way: leave out options of how to read them"
        )


def _sizes_for(name: str, schema: Schema) -> dict[str, Any]:
    """The sizes that come from the data. Raises `OptionError` for mixed columns and a model that takes one kind."""
    sizes, parameters = schema.sizes(), inspect.signature(MODELS[name]).parameters
    if not schema.kinds:
        return sizes
    if "columns" in parameters:
        return {**sizes, "symbols": None, "features": None}
    if set(schema.kinds) == {"real"}:
        return {**sizes, "features": len(schema.kinds)}
    # all are categories, each of its own number
    if sizes["symbols"] is not None and getattr(MODELS[name], "by_column", False):
        return sizes
    column = next(column for column in schema.fields if column.kind != "real")
    numbers = ",".join(column.name for column in schema.fields if column.kind == "real")
    able = [other for other, model in MODELS.items() if "columns" in inspect.signature(model).parameters]
    advice = f", or the columns of numbers alone with --columns {numbers}" if numbers else ""
    raise OptionError(
        f"{name} takes numbers, and {schema.source} has the column {column}: choose a model of mixed columns "
        f"({', '.join(able)}){advice}"
    )


def _does_nothing(name: str, option: str, parameter: str) -> OptionError:
    able = [other for other, model in MODELS.items() if parameter in inspect.signature(model).parameters]
    return OptionError(f"{name} does nothing with --{option}: leave it out, or choose {', '.join(able)}")


def check_options(config: Config) -> None:
    """Raise for options that make no sense whatever the data are."""
    _at_least(config.model_options)
    build_learner(config)
    parameters = inspect.signature(MODELS[config.model]).parameters
    if config.data.labels is not None and not {"classes", "grammar"} & set(parameters):
        raise _does_nothing(config.model, "labels", "classes")
    if config.data.grammar is not None and "grammar" not in parameters:
        raise _does_nothing(config.model, "grammar", "grammar")
    if config.objective in TAUGHT and config.data.labels is None:
        raise OptionError(
            f"--objective {config.objective} learns from labels: name their column with --labels, or use elbo"
        )


def _at_least(options: dict[str, Any]) -> None:
    """Raise `OptionError` for a size or count below 1, a weight or floor below 0, of a model or an objective."""
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, bool) or not isinstance(one, int | float):
                continue
            least = 1 if isinstance(one, int) else 0
            if not least <= one < math.inf:
                raise OptionError(f"{name}={value!s:.80}: it must be at least {least}")


def check_count(config: Config, count: int) -> None:
    components = config.model_options.get("components", 1)
    if components > count:
        raise OptionError(f"components={components}, and {count} data to learn from: it must be at most {count}")


def build_learner(config: Config, progress: bool = True, chosen: dict[str, Any] | None = None) -> Learner:
    """The learner with its options and its objective, and what was `chosen` beside those."""
    for what, name, known in (("learner", config.learner, LEARNERS), ("objective", config.objective, OBJECTIVES)):
        if name is not None and name not in known:
            raise OptionError(f"unknown {what} {name!r}: the {what}s are {', '.join(known)}")
    options = {**(chosen or {}), **config.learner_options, "progress": progress}
    if config.learner == "Gradient" and config.objective:
        _at_least(config.objective_options)
        objective, parameters = OBJECTIVES[config.objective], inspect.signature(OBJECTIVES[config.objective]).parameters
        memory = {"chains": objectives.Chains()} if "chains" in parameters else {}
        options["objective"] = partial(objective, **_estimating(config.objective_options), **memory)
    if config.learner != "EM" and (distributed.size() > 1 or config.data.stream):
        asked = "a stream" if config.data.stream else f"{distributed.size()} processes"
        raise OptionError(f"--learner {config.learner} learns from data in memory in one process, not from {asked}")
    try:
        return LEARNERS[config.learner](**options)
    except TypeError as error:
        raise OptionError(f"{config.learner}: {error}") from error


def _estimating(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an objective with its estimator in the place of the estimator's name."""
    if options.get("estimator") is None:
        return {name: value for name, value in options.items() if name != "estimator"}
    name = options["estimator"]
    if name not in ESTIMATORS:
        raise OptionError(f"estimator={name!r}: choose one of {', '.join(ESTIMATORS)}")
    return {**options, "estimator": ESTIMATORS[name]()}


def better_reading(config: Config, kind: str) -> str | None:
    """The options with which the model could take the data, which it cannot have as they were read."""
    other = {"table": "sequence", "sequence": "table"}.get(kind)
    offers: list[dict[str, str]] = [{"kind": other}] if other and config.data.kind == "auto" else []
    if config.data.values == "auto":
        offers += [{"values": "levels"}, {"values": "symbols"}, {"values": "real"}, {"values": "colour"}]
    offers += [{"scale": "none"}] if config.data.scale != "none" else []
    if config.data.stream:
        return None
    found = (offer for offer in offers if _takes(replace(config, data=replace(config.data, **offer))))
    return next((f"--{name} {value}" for offer in found for name, value in offer.items()), None)


def _takes(config: Config) -> bool:
    try:
        raw = with_kinds(config.data.read(), config)
        assert isinstance(raw, Raw)  # a stream is not read again
        schema = schema_for(raw, raw, config)
        chosen = dict(choice[:2] for choice in of_model(config, schema))
        model = build_model(config.model, {**chosen, **config.model_options}, schema)
        model.check(schema.encode(raw).batch(dtype=model.anchor.dtype))
    except LatentiaError:
        return False
    return True


def values_for(data: Raw | Rows, config: Config) -> str:
    """What the values are as far as the options and the model say, see `Schema.of`."""
    if config.data.values != "auto":
        return config.data.values
    if getattr(MODELS[config.model], "colour", False):
        return "colour"
    likelihood, emission = (config.model_options.get(name, "auto") for name in ("likelihood", "emission"))
    if "columns" in (likelihood, emission) or (data.kind == "table" and _needs_columns(config.model)):
        return "mixed"
    return "levels" if likelihood == "categorical" else VALUES.get(emission, "auto")


def _needs_columns(name: str) -> bool:
    columns = inspect.signature(MODELS[name]).parameters.get("columns")
    return columns is not None and columns.default is columns.empty


def with_kinds(raw: Raw | Rows, config: Config) -> Raw | Rows:
    """The data with the kinds of their columns told, where they are mixed: by all data, as how many categories there
    can be is part of what the data are."""
    if not isinstance(raw, Raw) or raw.kind not in ("table", "sequence"):
        return raw
    values = values_for(raw, config)
    return settled(raw) if values == "mixed" or (values == "auto" and raw.mixed) else raw


def schema_for(train: Raw | Rows, whole: Raw | Rows, config: Config) -> Schema:
    """The schema of the training data, but for the number of symbols or levels: how many there can be is part of what
    the data are, so it is counted over all of them."""
    if "base" in inspect.signature(MODELS[config.model]).parameters:
        return _run_of(config.model, config.model_options).schema
    likelihood, source = config.model_options.get("likelihood"), config.data
    binarize = source.binarize
    if binarize == "auto":
        binarize = "dynamic" if train.kind == "image" and _is_binarized(train, likelihood, config.model) else "none"
    values, scale = values_for(train, config), source.scale
    emission = config.model_options.get("emission", "auto")
    if values == "mixed" and not isinstance(train, Raw):
        raise OptionError("the kinds of columns are told from data in memory: --stream false")
    if values.startswith("colour") and not isinstance(train, Raw):
        raise OptionError("images in colour are read as chroma in memory: --stream false")
    if scale == "auto" and emission in COUNTS:
        scale = "none"
    options: dict[str, Any] = {
        "scale": scale,
        "binarize": binarize,
        "min_count": source.min_count,
        "max_vocabulary": source.max_vocabulary,
        **{name: value for name in DOCUMENTS if (value := getattr(source, name)) is not None},
        "seed": config.seed,
    }
    # asked for alone, so that what takes rows of numbers need know nothing of text
    if "end" in inspect.signature(MODELS[config.model]).parameters:
        options["ends"] = True
    if "grammar" in inspect.signature(MODELS[config.model]).parameters and train.kind == "text":
        options["forms"] = "" if source.grammar is None else read_text(Path(source.grammar))
    options |= {"tokens": source.tokens} if source.tokens != "words" else {}
    options |= {"longest": source.max_length} if source.max_length is not None else {}
    schema = _schema_of(train, values=values, **options)
    if schema.grammar and not options["forms"]:
        # which forms there can be is part of what the data are
        assert isinstance(whole, Raw)  # text is in memory
        grammar, actions = grammar_of(whole, "", schema.vocabulary)
        return replace(schema, grammar=grammar, actions=actions)
    if schema.levels is None or schema.kind == "text" or schema.chroma:
        return schema
    return replace(schema, levels=_schema_of(whole, values=schema.values, **options).levels)


def _is_binarized(images: Raw | Rows, likelihood: str | None, model: str) -> bool:
    """Whether a Bernoulli likelihood is asked for, or is all that the model has; else whether the images are grey."""
    if likelihood is not None or getattr(MODELS[model], "binary", False):
        return likelihood in (None, "bernoulli")
    if "likelihood" not in inspect.signature(MODELS[model]).parameters:
        return False
    values = images.values if isinstance(images, Raw) else images.read(images.start, images.start + 1).values
    return np.ndim(values) < 4 or np.shape(values)[3] == 1


def _schema_of(data: Raw | Rows, **options: Any) -> Schema:
    return Schema.of(data, **options) if isinstance(data, Raw) else survey(data, **options)
