"""Missing-data VAE: a variational autoencoder learned from data with holes (MIWAE).

    z     ~ Normal(0, I)
    x | z ~ Bernoulli(decoder(z)), or another likelihood of the `VAE`, independent coordinates

    p(x_observed) = E_p(z) p(x_observed | z): a missing coordinate sums to one, so it is left out
    q(z | x_observed) = Normal(mean(x_observed), diag(variance(x_observed))), a full covariance, or a flow
    log p(x_observed) >= E log (1/K) sum_k p(x_observed | z_k) p(z_k) / q(z_k | x_observed),    z_k ~ q

Mattei and Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets", section 3; learn
it by the objective `iwae`. Values must be missing at random: whether one is missing may depend on what is observed, not
on the value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.columns import Column
from latentia.distributions.observed import moments, of_moments
from latentia.model import Batch
from latentia.models.vaes.vae import VAE


class MissingDataVAE(VAE):
    """p(x_observed, z) = Normal(z; 0, I) p(x_observed | decoder(z)), with an encoder for data with holes.

    What the encoder gets is x about its mean, and so zero where missing (the paper's imputation by a constant), scaled
    by how many coordinates are observed: it carries over to data with fewer or no holes.

    Args:
        event_shape: the shape of one x (comes from the data).
        symbols: number of levels of a categorical likelihood (comes from the data).
        latent: dimensions of z.
        hidden: widths of the hidden layers, from x to z; the decoder has them in reverse.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        likelihood: bernoulli, categorical, gaussian or columns, as for the VAE.
        encoder: your own module, (B, inputs) to (B, 2 * latent): means, then log standard deviations. For a posterior
            other than the diagonal one it gives more numbers: `model.posterior_head.inputs` (see `PosteriorHead`).
        decoder: your own module, (..., latent) to (..., outputs).
        posterior: diagonal or full covariance, or a flow: planar, iaf, maf or spline, as for the VAE. Latents that few
            observed coordinates do not tell apart depend on each other.
        columns: what each column holds, where they are of their own kinds, as for the VAE (comes from the data).
    """

    center: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        symbols: int | None = None,
        latent: int = 20,
        hidden: Sequence[int] = (200, 200),
        activation: Literal["tanh", "relu", "gelu", "silu", "softplus", "leaky_relu"] = "tanh",
        likelihood: Literal["bernoulli", "categorical", "gaussian", "columns"] = "bernoulli",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        posterior: Literal["diagonal", "full", "planar", "iaf", "maf", "spline"] = "diagonal",
        columns: Sequence[Column] = (),
    ):
        networks: dict[str, Any] = {"encoder": encoder, "decoder": decoder, "posterior": posterior}
        super().__init__(event_shape, symbols, latent, hidden, activation, likelihood, **networks, columns=columns)
        self.register_buffer("center", torch.zeros(self.inputs))

    def posterior(self, batch: Batch) -> Distribution:
        return self.posterior_head(self.encoder(self._seen(batch)))

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        super().start(batch, generator)
        inputs, there = self._inputs(batch), self._there(batch)
        count = (there * batch.weights.unsqueeze(-1).to(there)).sum(0).clamp(min=1e-12)
        self.center.copy_((inputs * there * batch.weights.unsqueeze(-1).to(there)).sum(0) / count)

    def impute(self, batch: Batch, samples: int = 1000) -> Tensor:
        """x with E[x_missing | x_observed] where it is missing, (B, *event): the decoder's mean at draws of
        q(z | x_observed), weighted by p(x_observed, z) / q(z | x_observed). Mattei and Frellsen (2019), section 4;
        of symbols it is the expected number, of a column of categories the most probable one.

        `latentia.tasks.complete` gives draws too, by a Markov chain.
        """
        q = self.posterior(batch)
        z = q.sample((samples,))
        weight = (self.log_joint(batch, z) - q.log_prob(z)).softmax(0)
        p = self.likelihood(z, batch.frame)
        mean = of_moments(p, torch.einsum("sb,sb...->b...", weight, moments(p)))
        return torch.where(batch.observed, batch.x.to(mean), mean)

    def _there(self, batch: Batch) -> Tensor:
        """The mask of `_inputs`, as 0 and 1: that of a level is its coordinate's."""
        mask = batch.observed.flatten(1).to(self.anchor.dtype)
        if self.encode_columns is not None:
            return self.encode_columns.spread(mask)
        return mask.repeat_interleave(self.symbols, 1) if self.symbols else mask

    def _seen(self, batch: Batch) -> Tensor:
        """What the encoder gets, (B, inputs)."""
        values, there = (self._inputs(batch) - self.center) * self._there(batch), batch.observed.flatten(1)
        # as much as there would be of a whole datum: else more coordinates would saturate the encoder
        return values * (there.shape[1] / there.sum(-1, keepdim=True).clamp(min=1)).sqrt().to(values)


def tiny_columns(seed: int) -> tuple[MissingDataVAE, Batch]:
    """Rows of a number, one of three categories, and yes or no, of which some are missing in three data of five."""
    generator = torch.Generator().manual_seed(seed)
    model = MissingDataVAE((3,), latent=1, hidden=(4,), columns=("real", 3, "binary")).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    model.center.fill_(0.4)
    number = torch.randn(5, 1, generator=generator)
    parts = [torch.randint(levels, (5, 1), generator=generator) for levels in (3, 2)]
    x = torch.cat([number, *parts], 1).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = mask[2, 0] = mask[2, 1] = mask[4, 0] = False
    return model, Batch.of(x, mask)


def tiny(seed: int) -> tuple[MissingDataVAE, Batch]:
    """One latent dimension, three binary pixels, of which some are missing in three data of five."""
    generator = torch.Generator().manual_seed(seed)
    model = MissingDataVAE((3,), latent=1, hidden=(4,)).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    model.center.fill_(0.4)
    x = torch.randint(2, (5, 3), generator=generator).double()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = mask[2, 0] = mask[2, 1] = mask[4, 0] = False
    return model, Batch.of(x, mask)
