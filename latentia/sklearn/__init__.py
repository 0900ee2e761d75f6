"""The classical models as scikit-learn estimators: they clone, pickle, search grids and stand in pipelines.

    from latentia.sklearn import GaussianMixture
    GaussianMixture(n_components=3, n_init=10, random_state=0).fit_predict(X)

The model and the learner do the work; `model_` is the fitted model, which the rest of the library takes.
"""

from latentia.sklearn.mixtures import GaussianMixture, KMeans, Mixture, MixtureOfBernoullis, MixtureOfCategoricals
from latentia.sklearn.sequences import HMM, FactorialHMM
from latentia.sklearn.topics import LDA

__all__ = [
    "HMM",
    "LDA",
    "FactorialHMM",
    "GaussianMixture",
    "KMeans",
    "Mixture",
    "MixtureOfBernoullis",
    "MixtureOfCategoricals",
]
