"""latentia: latent-variable models on PyTorch, from mixtures to latent diffusion.

A latent-variable model is a joint log p(x, z) together with a way to guess z. Learning, evaluation
and every use of a model are functions of those two.

    from latentia.models import GaussianMixture, HMM, VAE
"""

__version__ = "0.1.0"
