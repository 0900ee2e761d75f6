"""K mixtures of Gaussians: each state has several Gaussians of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import one_hot

from latentia.distributions.emissions.base import Emissions, Statistics, log_probabilities, smoothed
from latentia.distributions.emissions.gaussian import Covariance, GaussianEmissions
from latentia.distributions.emissions.rows import normalised_or_kept

INNER = "component."
"""What the Gaussians' own statistics are called by, before their names."""


class MixtureEmissions(Emissions):
    """p(x | z = k) = sum_c shares[k, c] N(x; means[k, c], covariances[k, c]), x in R^D.

    Which Gaussian a datum comes from is a second latent, that `log_prob` sums out and `statistics` shares out by its
    posterior.

    Args:
        states: K.
        features: D.
        components: C, Gaussians a state.
        covariance, floor: as of `GaussianEmissions`, whose K C Gaussians these are.
    """

    def __init__(
        self, states: int, features: int, components: int = 2, covariance: Covariance = "full", floor: float = 1e-6
    ):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(states, components))
        self.gaussians = GaussianEmissions(states * components, features, covariance, floor)

    @property
    def shares(self) -> Tensor:
        """p(component | z = k), (K, C), rows sum to one."""
        return self.logits.softmax(-1)

    @property
    def means(self) -> Tensor:
        """(K, C, D)."""
        return self.gaussians.means.unflatten(0, self.logits.shape)

    @property
    def covariances(self) -> Tensor:
        """(K, C, D, D)."""
        return self.gaussians.covariances.unflatten(0, self.logits.shape)

    def log_prob(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._log_joint(x, mask).logsumexp(-1)

    def _log_joint(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """log p(x, component | z), (M, K, C)."""
        return self.gaussians.log_prob(x, mask).unflatten(1, self.logits.shape) + log_probabilities(self.logits)

    def given(self, z: Tensor) -> Distribution:
        shares = (z.unsqueeze(-1) * self.shares).flatten(-2)
        each = self.gaussians.given(torch.eye(shares.shape[-1], dtype=z.dtype, device=z.device))
        return _mixture(shares, each if each.event_shape else Independent(each, 1))

    def conditional(self, x: Tensor, mask: Tensor, z: Tensor) -> Distribution:
        rows, seen = x.reshape(-1, x.shape[-1]), mask.reshape(-1, x.shape[-1])
        after = self._log_joint(rows, seen).softmax(-1).unflatten(0, x.shape[:-1])
        mean, left = self.gaussians.filled(rows, seen)
        # an observed coordinate has no variance left; a normal wants some
        tiny = 1e-12 * torch.diag_embed(self.gaussians.covariances.diagonal(dim1=-2, dim2=-1).amin(0))
        mean, left = mean.unflatten(0, x.shape[:-1]), (left + tiny).unflatten(0, x.shape[:-1])
        return _mixture((z.unsqueeze(-1) * after).flatten(-2), MultivariateNormal(mean, left, validate_args=False))

    def start(self, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator) -> None:
        """A cluster of the data for each state, and clusters of that cluster for its Gaussians."""
        states, components = self.logits.shape
        self.gaussians.start(x, mask, weight, generator)
        cluster = self._clusters(states, x, mask, weight, generator)
        inner = torch.zeros_like(cluster)
        for k in range(states):
            own = weight * (cluster == k)
            # a cluster without data leaves its Gaussians where they are
            if bool((own > 0).any()):
                inner = torch.where(cluster == k, self._clusters(components, x, mask, own, generator), inner)
        self.logits.data.zero_()
        member = one_hot(cluster * components + inner, states * components).to(x)
        self.update(self._sums(x, mask, member * weight.unsqueeze(-1).to(x)))

    def _clusters(
        self, count: int, x: Tensor, mask: Tensor | None, weight: Tensor, generator: torch.Generator
    ) -> Tensor:
        """In which of so many clusters each datum lies, (M,), by the start of Gaussians with diagonal covariances."""
        clusters = GaussianEmissions(count, x.shape[1], "diagonal").to(x)
        clusters.start(x, mask, weight, generator)
        return clusters.log_prob(x, mask).detach().argmax(1)

    def statistics(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        """The Gaussians' statistics, each datum shared out among those of its state."""
        inner = self._log_joint(x, mask).softmax(-1).to(responsibility)
        return self._sums(x, mask, (responsibility.unsqueeze(-1) * inner).flatten(1))

    def _sums(self, x: Tensor, mask: Tensor | None, responsibility: Tensor) -> Statistics:
        sums = self.gaussians.statistics(x, mask, responsibility)
        return {INNER + name: value for name, value in sums.items()}

    def update(self, total: Statistics) -> None:
        sums = {name.removeprefix(INNER): value for name, value in total.items() if name.startswith(INNER)}
        counts = smoothed(sums["count"].view(self.logits.shape), 0.0, self.logits.log_softmax(-1), strict=True)
        self.logits.data = normalised_or_kept(counts, self.logits)
        self.gaussians.update(sums)

    def free_parameters(self) -> int:
        """K (C - 1) shares, and the Gaussians' own."""
        return self.logits.numel() - len(self.logits) + self.gaussians.free_parameters()

    def concerns(self, count: Tensor) -> list[str]:
        return self.gaussians.concerns((count.unsqueeze(-1) * self.shares.detach().to(count)).flatten())

    def reorder(self, order: Tensor) -> None:
        """Besides, a state's Gaussians by falling share."""
        components = self.logits.shape[1]
        inner = self.logits.data[order].sort(dim=1, descending=True, stable=True).indices
        self.logits.data = self.logits.data[order].gather(1, inner)
        self.gaussians.reorder((order.unsqueeze(-1) * components + inner).flatten())

    def check(self, x: Tensor, mask: Tensor | None) -> None:
        self.gaussians.check(x, mask)


def _mixture(shares: Tensor, each: Distribution) -> MixtureSameFamily:
    """The mixture of `each` (..., K C) by shares (*batch, K C), of any sum; of all alike where there are none."""
    # beyond the end of a sequence z is zero, and any value as good as another
    outside = (shares.sum(-1, keepdim=True) == 0).to(shares)
    shares = shares + outside
    # as logits: torch raises probabilities of 0 to 1e-16, and far from its own Gaussians a datum would see others'
    logits = shares.where(shares > 0, 1.0).log().where(shares > 0, -torch.inf)
    weights = Categorical(logits=logits, validate_args=False)
    return MixtureSameFamily(weights, each.expand(shares.shape), validate_args=False)
