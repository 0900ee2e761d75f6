"""The door to measuring: `evaluate` a model on data, and what goes with it. What is behind it is in
`latentia.measure`."""

from latentia.measure.criteria import Criteria, criteria
from latentia.measure.evaluation import evaluate
from latentia.measure.marginal import exact_log_marginals, log_marginal
from latentia.measure.means import standard_error
from latentia.measure.measures import Evaluation, Measure, measures

__all__ = [
    "Criteria",
    "Evaluation",
    "Measure",
    "criteria",
    "evaluate",
    "exact_log_marginals",
    "log_marginal",
    "measures",
    "standard_error",
]
