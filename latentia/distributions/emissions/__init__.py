"""K distributions over one observation, one for each value of a discrete z: one file a family."""

from latentia.distributions.emissions.base import Emissions, log_normalised
from latentia.distributions.emissions.categorical import CategoricalEmissions
from latentia.distributions.emissions.gaussian import GaussianEmissions

__all__ = ["CategoricalEmissions", "Emissions", "GaussianEmissions", "log_normalised"]
