"""The models, one file each; `__all__` is what the command offers."""

from latentia.models.factorial_hmm import ExactFactorialHMM, FactorialHMM
from latentia.models.gaussian_mixture import GaussianMixture
from latentia.models.hmm import HMM
from latentia.models.kmeans import KMeans
from latentia.models.lda import LDA
from latentia.models.mixture_of_bernoullis import MixtureOfBernoullis
from latentia.models.mixture_of_categoricals import MixtureOfCategoricals
from latentia.models.neural_hmm import NeuralHMM
from latentia.models.vae import VAE

__all__ = [
    "HMM",
    "LDA",
    "VAE",
    "ExactFactorialHMM",
    "FactorialHMM",
    "GaussianMixture",
    "KMeans",
    "MixtureOfBernoullis",
    "MixtureOfCategoricals",
    "NeuralHMM",
]
