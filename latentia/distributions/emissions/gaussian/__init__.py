"""K Gaussians: their parameters, densities, missing coordinates, statistics, M-step and starting point."""

from latentia.distributions.emissions.gaussian.emissions import GaussianEmissions
from latentia.distributions.emissions.gaussian.parameters import Covariance

__all__ = ["Covariance", "GaussianEmissions"]
