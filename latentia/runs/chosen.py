"""What is chosen from the data where nobody has said it: the model, its likelihood and latent size, restarts.

What was asked for is in the config, and nothing else is; what is chosen follows from the config and the data alone, so
that a run that goes on chooses the same. `told` says it in words.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

from latentia import models
from latentia.data import Raw, Schema
from latentia.runs.config import Config

LIKELIHOODS = {"binary": "bernoulli", "levels": "categorical", "symbols": "categorical", "real": "gaussian"}
"""The likelihood of values of each kind."""
RESTARTS = 5
CHEAP = 2**16
"""Numbers in the training data up to which a restart of EM costs little."""


class Choice(NamedTuple):
    """An option, the value that was chosen for it, and why."""

    option: str
    value: Any
    why: str


def of_model(config: Config, schema: Schema) -> list[Choice]:
    """The likelihood that the values ask for, and no more dimensions of z than a table can use."""
    parameters = inspect.signature(getattr(models, config.model)).parameters
    found = []
    if "likelihood" in parameters:
        found.append(Choice("likelihood", LIKELIHOODS[schema.values], f"the data are {schema.describe()}"))
    most = getattr(parameters.get("latent"), "default", None)
    columns = math.prod(schema.event_shape)
    if isinstance(most, int) and schema.kind == "table" and columns // 2 < most:
        found.append(Choice("latent", max(columns // 2, 1), f"half the number of columns, {columns}"))
    return [choice for choice in found if choice.option not in config.model_options]


def of_learner(config: Config, numbers: int) -> list[Choice]:
    """Hard EM where it is what the model's name means, and several restarts where they are cheap.

    Args:
        numbers: how many numbers the training data have, in all processes.
    """
    asked, found = config.learner_options, []
    if config.learner != "EM":
        return []
    if getattr(getattr(models, config.model), "hard", False):
        found.append(Choice("hard", True, f"it is what makes EM {config.model}"))
    if not config.data.stream and asked.get("fresh", True) and numbers <= CHEAP:
        found.append(Choice("restarts", RESTARTS, "they are cheap here, and the best is kept"))
    return [choice for choice in found if choice.option not in asked]


def told(group: str, choices: list[Choice]) -> list[str]:
    """A line for each choice, with the option that would have it otherwise."""
    return [f"{c.option} {c.value}: {c.why} (or say --{group}.{c.option})" for c in choices]


def proposed(raw: Raw) -> tuple[str, str]:
    """A model for data of which nothing but what they are is known, and why."""
    if raw.kind == "table":
        values = [float(value) for column in raw.values for value in column if value == value]
        if set(values) <= {0.0, 1.0}:
            return "MixtureOfBernoullis", "a table of 0 and 1: clusters of rows that agree"
        return "GaussianMixture", "a table of numbers: clusters, each with its means and deviations"
    if raw.kind == "image":
        return "VAE", "images: a few continuous causes behind many pixels"
    if raw.kind == "text":
        return "HMM", "sentences: hidden states with words of their own (for topics of documents say --model LDA)"
    return "HMM", "sequences: hidden states, and how they follow one another"
