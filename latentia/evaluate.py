"""The door to measuring: `evaluate` a model on data, and what goes with it. What is behind it is in
`latentia.measure`."""

from latentia.measure.criteria import Criteria, criteria
from latentia.measure.evaluation import Evaluation, evaluate
from latentia.measure.marginal import exact_log_marginals, log_marginal
from latentia.measure.means import standard_error

__all__ = [
    "Criteria",
    "Evaluation",
    "criteria",
    "evaluate",
    "exact_log_marginals",
    "log_marginal",
    "standard_error",
]
