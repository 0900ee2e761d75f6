"""Estimators of E_q f(z), and of its gradient.

Each is an `Estimator`: called with q, a function f and a number of draws, it gives (B,), or (B, C) where f has several
columns, in the units of f. f takes z (S, B, *latent) to (S, B) or (S, B, C); one that asks what z was drawn from is an
`OfDraw`. Those with a `log_mean_exp` serve a bound by importance weights too.

| estimator                               | of                       | bias | f a draw |
|-----------------------------------------|--------------------------|------|----------|
| `pathwise`                              | what is reparameterised  | none | 1        |
| `enumerate`                             | few values               | none | all      |
| `score_function`, `rloo`, `vimco`       | anything                 | none | 1        |
| `Searched`                              | what has a `beam`        | some | 1        |
| `disarm`                                | bits                     | none | 1        |
| `Rebar`                                 | bits, one-hot values     | none | 3        |
| `straight_through`, `reinmax`           | bits, one-hot values     | some | 1        |
| `gumbel_softmax`, `binary_concrete`     | bits, one-hot values     | some | 1        |
"""

from __future__ import annotations

from collections.abc import Callable

from latentia.gradients.automatic import automatic
from latentia.gradients.disarm import disarm
from latentia.gradients.expectation import Estimator, Function, OfDraw, enumerate, pathwise, value
from latentia.gradients.rebar import Rebar
from latentia.gradients.relaxed import Relaxation, binary_concrete, gumbel_softmax, reinmax, straight_through
from latentia.gradients.score import ScoreFunction, rloo, score_function
from latentia.gradients.searched import Searched, SourceLanguageModel
from latentia.gradients.still import fixed, scaled
from latentia.gradients.study import Row, Study, study
from latentia.gradients.vimco import vimco

ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "automatic": lambda: automatic,
    "pathwise": lambda: pathwise,
    "enumerate": lambda: enumerate,
    "straight_through": lambda: straight_through,
    "reinmax": lambda: reinmax,
    "gumbel_softmax": lambda: gumbel_softmax(),
    "hard_gumbel_softmax": lambda: gumbel_softmax(hard=True),
    "score": lambda: score_function(),
    "running_mean": lambda: score_function("mean"),
    "nvil": lambda: score_function("network"),
    "rloo": lambda: rloo,
    "source_lm": lambda: ScoreFunction(SourceLanguageModel()),
    "searched": lambda: Searched(SourceLanguageModel()),
    "searched_mean": lambda: Searched(),
    "disarm": lambda: disarm,
    "rebar": lambda: Rebar(),
    "vimco": lambda: vimco,
}
"""What the command offers, each by its name and with its defaults; what it makes is of one fit."""

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Function",
    "OfDraw",
    "Rebar",
    "Relaxation",
    "Row",
    "ScoreFunction",
    "Searched",
    "SourceLanguageModel",
    "Study",
    "automatic",
    "binary_concrete",
    "disarm",
    "enumerate",
    "fixed",
    "gumbel_softmax",
    "pathwise",
    "reinmax",
    "rloo",
    "scaled",
    "score_function",
    "straight_through",
    "study",
    "value",
    "vimco",
]
