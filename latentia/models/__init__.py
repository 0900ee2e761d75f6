"""The models, one file each, in a folder for each kind; `__all__` is what the command offers.

A model is imported when it is first asked for, so that one does not cost the time of all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentia.models.alignments.ctc import CTC
    from latentia.models.alignments.hmm_alignment import HMMAlignment
    from latentia.models.alignments.ibm1 import IBMModel1
    from latentia.models.alignments.ibm2 import IBMModel2
    from latentia.models.alignments.latent_attention import LatentAttention, VariationalAttention
    from latentia.models.chains.factorial_hmm import ExactFactorialHMM, FactorialHMM
    from latentia.models.chains.hmm import HMM
    from latentia.models.chains.neural_hmm import NeuralHMM
    from latentia.models.linear.probabilistic_pca import ProbabilisticPCA
    from latentia.models.mixtures.gaussian_mixture import GaussianMixture
    from latentia.models.mixtures.kmeans import KMeans
    from latentia.models.mixtures.mixture_of_bernoullis import MixtureOfBernoullis
    from latentia.models.mixtures.mixture_of_categoricals import MixtureOfCategoricals
    from latentia.models.topics.lda import LDA
    from latentia.models.vaes.clustering_vae import ClusteringVAE
    from latentia.models.vaes.conv_ladder import ConvLadder
    from latentia.models.vaes.ladder_vae import LadderVAE
    from latentia.models.vaes.missing_data_vae import MissingDataVAE
    from latentia.models.vaes.pixel_vae import PixelVAE
    from latentia.models.vaes.semi_supervised_vae import SemiSupervisedVAE
    from latentia.models.vaes.vae import VAE
    from latentia.models.vaes.vamp_vae import VampVAE

__all__ = [
    "CTC",
    "HMM",
    "LDA",
    "VAE",
    "ClusteringVAE",
    "ConvLadder",
    "ExactFactorialHMM",
    "FactorialHMM",
    "GaussianMixture",
    "HMMAlignment",
    "IBMModel1",
    "IBMModel2",
    "KMeans",
    "LadderVAE",
    "LatentAttention",
    "MissingDataVAE",
    "MixtureOfBernoullis",
    "MixtureOfCategoricals",
    "NeuralHMM",
    "PixelVAE",
    "ProbabilisticPCA",
    "SemiSupervisedVAE",
    "VampVAE",
    "VariationalAttention",
]

_FILES = {
    "CTC": "alignments.ctc",
    "HMM": "chains.hmm",
    "LDA": "topics.lda",
    "VAE": "vaes.vae",
    "ClusteringVAE": "vaes.clustering_vae",
    "ConvLadder": "vaes.conv_ladder",
    "ExactFactorialHMM": "chains.factorial_hmm",
    "FactorialHMM": "chains.factorial_hmm",
    "GaussianMixture": "mixtures.gaussian_mixture",
    "HMMAlignment": "alignments.hmm_alignment",
    "IBMModel1": "alignments.ibm1",
    "IBMModel2": "alignments.ibm2",
    "KMeans": "mixtures.kmeans",
    "LadderVAE": "vaes.ladder_vae",
    "LatentAttention": "alignments.latent_attention",
    "MissingDataVAE": "vaes.missing_data_vae",
    "MixtureOfBernoullis": "mixtures.mixture_of_bernoullis",
    "MixtureOfCategoricals": "mixtures.mixture_of_categoricals",
    "NeuralHMM": "chains.neural_hmm",
    "PixelVAE": "vaes.pixel_vae",
    "ProbabilisticPCA": "linear.probabilistic_pca",
    "SemiSupervisedVAE": "vaes.semi_supervised_vae",
    "VampVAE": "vaes.vamp_vae",
    "VariationalAttention": "alignments.latent_attention",
}
"""The file of each model."""


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
