"""Clustering VAE: a Gaussian mixture in the latent space of a variational autoencoder.

    c     ~ Categorical(weights)
    z | c ~ Normal(means[c], covariances[c])
    x | z ~ Bernoulli(decoder(z)), or another likelihood of the `VAE`

    p(z) = sum_c weights[c] Normal(z; means[c], covariances[c]): c is summed out exactly
    q(z | x) = Normal(mean(x), diag(variance(x)))
    log p(x) >= E_q(z|x) [log p(x | z) + log p(z) - log q(z | x)]

Jiang et al. (2017), "Variational deep embedding" (VaDE), section 3; Dilokthanakul et al. (2016) have an encoder for c
too. VaDE bounds log p(z) once more, by a q(c | x) of its own:

    log p(z) >= sum_c q(c | x) [log weights[c] + log Normal(z; means[c], ...) - log q(c | x)]

with equality where q(c | x) = p(c | z). So the bound here is never below VaDE's for the same q(z | x), and log weights
enters once, inside log p(z). The clusters are p(c | x), estimated by E_q(z|x) p(c | z).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from latentia.distributions.mixture import Mixture
from latentia.errors import NonFiniteError, OptionError
from latentia.model import Batch, Frame, held, minibatches
from latentia.models.mixtures.gaussian_mixture import GaussianMixture
from latentia.models.vaes.vae import VAE

RESTARTS, FINALISTS, FEW, STEPS, TOLERANCE = 40, 4, 10_000, 60, 1e-5
"""Of EM for the prior that a fit starts with: from so many starts on at most so many codes, and the best of them on
all, in so many steps each. Few starts find the likeliest mixture, and it has the best clusters."""
ROWS, RATE, BETA = 256, 1e-3, 0.1
"""Data a step, Adam's learning rate and the weight of the KL, of the epochs before that: at its full weight a standard
normal prior presses the clusters together."""


class ClusteringVAE(VAE):
    """p(x, z) = sum_c weights[c] Normal(z; means[c], covariances[c]) p(x | decoder(z)).

    A fit starts from a plain VAE, learned for `pretrain` passes over the data, and a Gaussian mixture fitted to its
    codes by EM: from random means all data soon share one cluster. Try several seeds, and choose by the bound.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        components: number of clusters.
        covariance: of z in a cluster: full, or diagonal as in VaDE.
        latent: dimensions of z.
        hidden: widths of the hidden layers, from x to z; the decoder has them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli, categorical or gaussian, as for the VAE.
        pretrain: passes over the data with a standard normal prior and a tenth of its KL, before the mixture is put in
            its place.
        encoder: your own module, (B, inputs) to (B, 2 * latent): means, then log standard deviations.
        decoder: your own module, (..., latent) to (..., outputs).

    Parameters: logits of the weights (K,), means (K, latent), and the covariances' Cholesky factors: the logarithms of
    their diagonals, log_scales (K, latent), and what is below.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        components: int = 10,
        covariance: Literal["full", "diagonal"] = "full",
        latent: int = 10,
        hidden: Sequence[int] = (500, 500),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "relu",
        likelihood: Literal["bernoulli", "categorical", "gaussian"] = "bernoulli",
        pretrain: int = 20,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        if components < 1:
            raise OptionError(f"components={components}: at least 1 cluster is needed")
        if covariance not in ("full", "diagonal"):
            raise OptionError(f"covariance={covariance!r}: choose one of full, diagonal")
        if pretrain < 0:
            raise OptionError(f"pretrain={pretrain}: it must be at least 0 passes")
        super().__init__(
            event_shape,
            symbols,
            latent=latent,
            hidden=hidden,
            activation=activation,
            likelihood=likelihood,
            encoder=encoder,
            decoder=decoder,
        )
        self.pretrain = pretrain
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, latent))
        self.log_scales = nn.Parameter(torch.zeros(components, latent))
        self.full = covariance == "full"
        self.below = nn.Parameter(torch.zeros(components, latent * (latent - 1) // 2 if self.full else 0))

    @property
    def weights(self) -> Tensor:
        return self.logits.softmax(-1)

    def prior(self, frame: Frame) -> Mixture:  # type: ignore[override]
        return Mixture(self._parts(), self.logits.log_softmax(-1), frame.size)

    def clusters(self, batch: Batch, samples: int = 64) -> Tensor:
        """p(c | x), estimated by E_q(z|x) p(c | z) from so many draws of z, (B, components)."""
        z = self.posterior(batch).sample((samples,))  # type: ignore[arg-type]
        return self.responsibilities(z).mean(0)

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(c | z) = weights[c] Normal(z; means[c], covariances[c]) / p(z), (..., components)."""
        return (self.logits.log_softmax(-1) + self._parts().log_prob(z.unsqueeze(-2))).softmax(-1)

    def _parts(self) -> Distribution:
        """Normal(means[c], covariances[c]) of each cluster, batch shape (components,)."""
        if not self.full:
            return Independent(Normal(self.means, self.log_scales.exp(), validate_args=False), 1, validate_args=False)
        factor = torch.diag_embed(self.log_scales.exp())
        row, column = torch.tril_indices(self.latent, self.latent, -1, device=factor.device)
        factor[:, row, column] = self.below
        return MultivariateNormal(self.means, scale_tril=factor, validate_args=False)

    def free_parameters(self) -> int:
        """Every entry of the networks, the means and the covariances, and K - 1 weights, which sum to one."""
        return super().free_parameters() - 1

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """A plain VAE of `pretrain` passes over the data, and a mixture fitted to its codes."""
        # what is frozen is what the rest has to fit
        with held(self):
            super().start(batch, generator)
        with torch.enable_grad():
            self._pretrain(batch, generator)
        with torch.no_grad():
            self._settle(batch, generator)

    def _pretrain(self, batch: Batch, generator: torch.Generator) -> None:
        networks = [p for p in (*self.encoder.parameters(), *self.decoder.parameters()) if p.requires_grad]
        if not networks:
            return
        optimizer = torch.optim.Adam(networks, lr=RATE)
        standard = Normal(0.0, 1.0)
        for _ in range(self.pretrain):
            for index in minibatches(torch.randperm(batch.size, generator=generator), ROWS):
                part = batch.select(index.to(batch.x.device))
                q = self._code(part)
                noise = torch.randn(q.loc.shape, generator=generator, dtype=q.loc.dtype).to(q.loc)
                fit = self.log_likelihood(part, (q.loc + q.scale * noise).unsqueeze(0)).squeeze(0)
                cost = kl_divergence(q, standard).sum(-1)
                optimizer.zero_grad(set_to_none=True)
                ((BETA * cost - fit) * part.weights).mean().backward()
                optimizer.step()

    def _settle(self, batch: Batch, generator: torch.Generator) -> None:
        """Set the prior to the best of several Gaussian mixtures of the codes, by EM."""
        q = [self._code(batch.select(part)) for part in torch.arange(batch.size).split(4096)]
        codes = Batch(torch.cat([part.loc for part in q]), weight=batch.weight)
        if not bool(codes.x.isfinite().all()):
            raise NonFiniteError(
                "the codes of the pretraining are not finite: bring the data to unit scale "
                "(load(..., scale='standard'), --scale standard), or set pretrain=0"
            )
        mixture = self._likeliest(codes, generator)
        # the aggregate posterior is wider than its means by the average variance of q
        noise = torch.cat([part.variance for part in q]).mean(0)
        factor = torch.linalg.cholesky(mixture.covariances + torch.diag_embed(noise))
        self.logits.copy_(mixture.logits)
        self.means.copy_(mixture.means)
        self.log_scales.copy_(factor.diagonal(dim1=-2, dim2=-1).log())
        if self.full:
            row, column = torch.tril_indices(self.latent, self.latent, -1)
            self.below.copy_(factor[:, row, column])

    def _code(self, batch: Batch) -> Normal:
        q: Any = self.posterior(batch)
        return q.base_dist

    def _likeliest(self, codes: Batch, generator: torch.Generator) -> GaussianMixture:
        chosen = torch.randperm(codes.size, generator=generator)[:FEW].to(codes.x.device)
        few, kind = codes.select(chosen), "full" if self.full else "diagonal"
        tried = [GaussianMixture(self.latent, len(self.logits), kind, floor=1e-3).to(codes.x) for _ in range(RESTARTS)]
        for mixture in tried:
            mixture.start(few, generator)
        best = sorted(tried, key=lambda mixture: _climbed(mixture, few), reverse=True)[:FINALISTS]
        return max(best, key=lambda mixture: _climbed(mixture, codes))


def _climbed(mixture: GaussianMixture, codes: Batch) -> float:
    """At most STEPS of EM, fewer once a step gains next to nothing; and the log-likelihood before the last of them, in
    nats over all data."""
    value = -torch.inf
    for _ in range(STEPS):
        total, climbed = mixture.expect(codes)
        mixture.update(total)
        gain, value = float(climbed) - value, float(climbed)
        if gain < TOLERANCE * codes.size:
            break
    return value


def tiny(seed: int) -> tuple[ClusteringVAE, Batch]:
    """Two clusters on a line, and three binary pixels of which one is missing once."""
    generator = torch.Generator().manual_seed(seed)
    model = ClusteringVAE(event_shape=(3,), components=2, latent=1, hidden=(4,), activation="tanh", pretrain=1).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    return model, Batch.of(x, mask)
