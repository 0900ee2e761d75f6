"""The models, one file each. `NAMES` lists them; importing one imports only its own file."""

from latentia.models.gaussian_mixture import GaussianMixture
from latentia.models.hmm import HMM
from latentia.models.kmeans import KMeans
from latentia.models.vae import VAE

__all__ = ["HMM", "VAE", "GaussianMixture", "KMeans"]
