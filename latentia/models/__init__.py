"""The models, one file each; `__all__` is what the command offers."""

from latentia.models.clustering_vae import ClusteringVAE
from latentia.models.conv_ladder import ConvLadder
from latentia.models.factorial_hmm import ExactFactorialHMM, FactorialHMM
from latentia.models.gaussian_mixture import GaussianMixture
from latentia.models.hmm import HMM
from latentia.models.kmeans import KMeans
from latentia.models.ladder_vae import LadderVAE
from latentia.models.lda import LDA
from latentia.models.missing_data_vae import MissingDataVAE
from latentia.models.mixture_of_bernoullis import MixtureOfBernoullis
from latentia.models.mixture_of_categoricals import MixtureOfCategoricals
from latentia.models.neural_hmm import NeuralHMM
from latentia.models.pixel_vae import PixelVAE
from latentia.models.probabilistic_pca import ProbabilisticPCA
from latentia.models.semi_supervised_vae import SemiSupervisedVAE
from latentia.models.vae import VAE
from latentia.models.vamp_vae import VampVAE

__all__ = [
    "HMM",
    "LDA",
    "VAE",
    "ClusteringVAE",
    "ConvLadder",
    "ExactFactorialHMM",
    "FactorialHMM",
    "GaussianMixture",
    "KMeans",
    "LadderVAE",
    "MissingDataVAE",
    "MixtureOfBernoullis",
    "MixtureOfCategoricals",
    "NeuralHMM",
    "PixelVAE",
    "ProbabilisticPCA",
    "SemiSupervisedVAE",
    "VampVAE",
]
