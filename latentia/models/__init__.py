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
    from latentia.models.diffusion.latent_diffusion import LatentDiffusion
    from latentia.models.diffusion.masked_diffusion import MaskedDiffusion
    from latentia.models.grammars.compound_pcfg import CompoundPCFG
    from latentia.models.grammars.neural_pcfg import NeuralPCFG
    from latentia.models.grammars.pcfg import PCFG
    from latentia.models.grammars.struct_vae import StructVAE
    from latentia.models.grammars.urnng import URNNG
    from latentia.models.images.latent_colorization import LatentColorization
    from latentia.models.images.transform_coder import TransformCoder
    from latentia.models.linear.probabilistic_pca import ProbabilisticPCA
    from latentia.models.mixtures.gaussian_mixture import GaussianMixture
    from latentia.models.mixtures.kmeans import KMeans
    from latentia.models.mixtures.mixture import Mixture
    from latentia.models.mixtures.mixture_of_bernoullis import MixtureOfBernoullis
    from latentia.models.mixtures.mixture_of_categoricals import MixtureOfCategoricals
    from latentia.models.text.language_model import LanguageModel
    from latentia.models.text.mixture_of_language_models import (
        InferredMixtureOfLanguageModels,
        MixtureOfLanguageModels,
    )
    from latentia.models.text.semi_supervised_text_vae import SemiSupervisedTextVAE
    from latentia.models.text.text_vae import TextVAE
    from latentia.models.topics.continuous_naive_bayes import ContinuousNaiveBayes
    from latentia.models.topics.lda import LDA
    from latentia.models.topics.nvdm import NVDM
    from latentia.models.topics.prodlda import ProdLDA
    from latentia.models.vaes.clustering_vae import ClusteringVAE
    from latentia.models.vaes.conv_ladder import ConvLadder
    from latentia.models.vaes.discrete_vae import DiscreteVAE
    from latentia.models.vaes.ladder_vae import LadderVAE
    from latentia.models.vaes.missing_data_vae import MissingDataVAE
    from latentia.models.vaes.pixel_vae import PixelVAE
    from latentia.models.vaes.rate_distortion import RateDistortion
    from latentia.models.vaes.semi_supervised_vae import SemiSupervisedVAE
    from latentia.models.vaes.vae import VAE
    from latentia.models.vaes.vamp_vae import VampVAE
    from latentia.models.vaes.vector_quantized_vae import VectorQuantizedVAE

__all__ = [
    "CTC",
    "HMM",
    "LDA",
    "NVDM",
    "PCFG",
    "URNNG",
    "VAE",
    "ClusteringVAE",
    "CompoundPCFG",
    "ContinuousNaiveBayes",
    "ConvLadder",
    "DiscreteVAE",
    "ExactFactorialHMM",
    "FactorialHMM",
    "GaussianMixture",
    "HMMAlignment",
    "IBMModel1",
    "IBMModel2",
    "InferredMixtureOfLanguageModels",
    "KMeans",
    "LadderVAE",
    "LanguageModel",
    "LatentAttention",
    "LatentColorization",
    "LatentDiffusion",
    "MaskedDiffusion",
    "MissingDataVAE",
    "Mixture",
    "MixtureOfBernoullis",
    "MixtureOfCategoricals",
    "MixtureOfLanguageModels",
    "NeuralHMM",
    "NeuralPCFG",
    "PixelVAE",
    "ProbabilisticPCA",
    "ProdLDA",
    "RateDistortion",
    "SemiSupervisedTextVAE",
    "SemiSupervisedVAE",
    "StructVAE",
    "TextVAE",
    "TransformCoder",
    "VampVAE",
    "VariationalAttention",
    "VectorQuantizedVAE",
]

_FILES = {
    "CTC": "alignments.ctc",
    "HMM": "chains.hmm",
    "LDA": "topics.lda",
    "PCFG": "grammars.pcfg",
    "NVDM": "topics.nvdm",
    "VAE": "vaes.vae",
    "ContinuousNaiveBayes": "topics.continuous_naive_bayes",
    "ClusteringVAE": "vaes.clustering_vae",
    "CompoundPCFG": "grammars.compound_pcfg",
    "ConvLadder": "vaes.conv_ladder",
    "DiscreteVAE": "vaes.discrete_vae",
    "ExactFactorialHMM": "chains.factorial_hmm",
    "FactorialHMM": "chains.factorial_hmm",
    "GaussianMixture": "mixtures.gaussian_mixture",
    "InferredMixtureOfLanguageModels": "text.mixture_of_language_models",
    "HMMAlignment": "alignments.hmm_alignment",
    "IBMModel1": "alignments.ibm1",
    "IBMModel2": "alignments.ibm2",
    "KMeans": "mixtures.kmeans",
    "LadderVAE": "vaes.ladder_vae",
    "LanguageModel": "text.language_model",
    "LatentDiffusion": "diffusion.latent_diffusion",
    "MaskedDiffusion": "diffusion.masked_diffusion",
    "LatentAttention": "alignments.latent_attention",
    "LatentColorization": "images.latent_colorization",
    "MissingDataVAE": "vaes.missing_data_vae",
    "Mixture": "mixtures.mixture",
    "MixtureOfBernoullis": "mixtures.mixture_of_bernoullis",
    "MixtureOfCategoricals": "mixtures.mixture_of_categoricals",
    "MixtureOfLanguageModels": "text.mixture_of_language_models",
    "NeuralHMM": "chains.neural_hmm",
    "NeuralPCFG": "grammars.neural_pcfg",
    "PixelVAE": "vaes.pixel_vae",
    "ProdLDA": "topics.prodlda",
    "ProbabilisticPCA": "linear.probabilistic_pca",
    "RateDistortion": "vaes.rate_distortion",
    "SemiSupervisedTextVAE": "text.semi_supervised_text_vae",
    "SemiSupervisedVAE": "vaes.semi_supervised_vae",
    "TextVAE": "text.text_vae",
    "StructVAE": "grammars.struct_vae",
    "TransformCoder": "images.transform_coder",
    "URNNG": "grammars.urnng",
    "VampVAE": "vaes.vamp_vae",
    "VectorQuantizedVAE": "vaes.vector_quantized_vae",
    "VariationalAttention": "alignments.latent_attention",
}
"""The file of each model."""


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
