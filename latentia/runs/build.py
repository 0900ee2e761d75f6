"""Models, learners and objectives by their names, and the schema that a model asks for."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from typing import Any

from latentia import models, objectives
from latentia.data import Raw, Schema
from latentia.data.blocks import Rows
from latentia.data.stream import survey
from latentia.errors import LatentiaError, OptionError
from latentia.inference.missing import mean_field_elbo
from latentia.inference.refinement import semi_amortized
from latentia.learners import EM, Gibbs, Gradient, Learner, distributed
from latentia.model import EMModel, LatentVariableModel
from latentia.runs.config import Config

MODELS: dict[str, type[LatentVariableModel]] = {name: getattr(models, name) for name in models.__all__}
LEARNERS: dict[str, type] = {"EM": EM, "Gradient": Gradient, "Gibbs": Gibbs}
OBJECTIVES = {
    "elbo": objectives.elbo,
    "iwae": objectives.iwae,
    "supervised": objectives.supervised,
    "exact": objectives.exact,
    "alignment_elbo": objectives.alignment_elbo,
    "semi_amortized": semi_amortized,
    "mean_field_elbo": mean_field_elbo,
}
COUNTS = ("poisson", "multinomial")
"""Emissions that are of whole numbers, which a scaling would make something else."""
VALUES = {"gaussian": "real", "mixture": "real", "poisson": "real", "multinomial": "real", "bernoulli": "binary"}
"""What x is for an emission that is asked for, even where whole numbers would be read as symbols."""


def build_model(name: str, options: dict[str, Any], schema: Schema) -> LatentVariableModel:
    """A model with its options, and the sizes that come from the data; exact models compute in float64.

    Raises:
        OptionError: data of a kind that the model cannot have, or an option that makes no sense.
    """
    parameters = inspect.signature(MODELS[name]).parameters
    sizes = {size: value for size, value in schema.sizes().items() if size in parameters}
    given = {"context", "source_symbols", "source_features"} & set(schema.sizes())
    if given - set(parameters):
        raise _does_nothing(name, "context", *given)
    required = [p.name for p in parameters.values() if p.default is p.empty]
    for missing in required:
        if sizes.get(missing) is None and missing in ("source_symbols", "source_features"):
            asked = "sentences or symbols" if missing == "source_symbols" else "sequences of vectors, such as sounds"
            raise OptionError(f"{name} needs a source of {asked} for each datum: name it with --context")
        if sizes.get(missing) is None:
            raise OptionError(
                f"{name} needs {missing}, and {schema.describe()} have none: choose another model, --kind or --values"
            )
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


def _does_nothing(name: str, option: str, parameter: str) -> OptionError:
    able = [other for other, model in MODELS.items() if parameter in inspect.signature(model).parameters]
    return OptionError(f"{name} does nothing with --{option}: leave it out, or choose {', '.join(able)}")


def check_options(config: Config) -> None:
    """Raise for options that make no sense whatever the data are."""
    _at_least(config.model_options)
    build_learner(config)
    if config.data.labels is not None and "classes" not in inspect.signature(MODELS[config.model]).parameters:
        raise _does_nothing(config.model, "labels", "classes")
    if config.objective == "supervised" and config.data.labels is None:
        raise OptionError("--objective supervised learns from labels: name their column with --labels, or use elbo")


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


def better_reading(config: Config, kind: str) -> str | None:
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
        schema = schema_for(raw, raw, config)
        model = build_model(config.model, config.model_options, schema)
        model.check(schema.encode(raw).batch(dtype=model.anchor.dtype))
    except LatentiaError:
        return False
    return True


def schema_for(train: Raw | Rows, whole: Raw | Rows, config: Config) -> Schema:
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
