"""K distributions over one observation, one for each value of a discrete z: one file a family."""

from latentia.distributions.emissions.base import (
    Emissions,
    check_scale,
    check_whole,
    log_normalised,
    log_probabilities,
    possible,
    smoothed,
)
from latentia.distributions.emissions.bernoulli import BernoulliEmissions
from latentia.distributions.emissions.categorical import CategoricalEmissions, CategoricalVectorEmissions
from latentia.distributions.emissions.columns import ColumnEmissions
from latentia.distributions.emissions.emitted import Emitted
from latentia.distributions.emissions.gaussian import GaussianEmissions
from latentia.distributions.emissions.mixture import MixtureEmissions
from latentia.distributions.emissions.multinomial import MultinomialEmissions
from latentia.distributions.emissions.poisson import PoissonEmissions

__all__ = [
    "BernoulliEmissions",
    "CategoricalEmissions",
    "CategoricalVectorEmissions",
    "ColumnEmissions",
    "Emissions",
    "Emitted",
    "GaussianEmissions",
    "MixtureEmissions",
    "MultinomialEmissions",
    "PoissonEmissions",
    "check_scale",
    "check_whole",
    "log_normalised",
    "log_probabilities",
    "possible",
    "smoothed",
]
