"""k-means: K clusters of equal weight, and one variance for all of them in all directions.

    z ~ Categorical(1/K, ..., 1/K)
    x | z = k ~ Normal(means[k], variance I)

    log p(x) = log (1/K) sum_k N(x; means[k], variance I)
    the best z is the nearest mean, whatever the variance

Hard EM on this model is Lloyd's algorithm (1982): every datum to its nearest mean, every mean to the average of
its data (Bishop 2006, section 9.3.2). The variance that it ends with makes a density of the result, so that
k-means can be compared with any other model by log p(x).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from latentia.kernels.blocks import sum_blocks
from latentia.kernels.lloyd import nearest
from latentia.model import Batch, Statistics
from latentia.models.mixtures.gaussian_mixture import GaussianMixture


class KMeans(GaussianMixture):
    """p(x) = (1/K) sum_k N(x; means[k], variance I). Learn it by `EM(hard=True)`: that is k-means.

    Args:
        features: D, the number of columns (comes from the data).
        components: K, the number of clusters.
        floor: least variance, as a fraction of the data's own.

    Parameters: means (K, D), and the variance.
    """

    hard: ClassVar = True
    """What EM is to be unless it is asked otherwise."""

    def __init__(self, features: int, components: int = 8, floor: float = 1e-6):
        super().__init__(features, components, "common", floor)
        logits = self.logits.data
        del self.logits
        self.register_buffer("logits", logits)
        # the weight of each cluster's data at the last step
        self.sizes: Tensor
        self.register_buffer("sizes", torch.full((components,), torch.inf))
        self.register_load_state_dict_pre_hook(_without_sizes)
        self._far: tuple[Tensor, Tensor] | None = None

    def expect(self, batch: Batch, hard: bool = False) -> tuple[Statistics, Tensor]:
        x = batch.x.flatten(1)
        plain = batch.mask is None and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        if not (hard and plain):
            return super().expect(batch, hard)
        center, unit = self.emissions.center, self.emissions.unit[0]
        centers, inverse = ((self.means.detach() - center) / unit).numpy(), (1 / unit).numpy()[()]
        log_scale = self.emissions.log_scale.detach().double().squeeze()
        rows, weight, shape = x.contiguous().numpy(), batch.weights.contiguous().numpy(), self.means.shape

        def block(part: slice) -> tuple[Tensor, ...]:
            sums, counts, squares = (torch.zeros(*size, dtype=torch.float64) for size in (shape, shape[:1], shape[1:]))
            inertia = nearest(
                rows[part],
                center.numpy(),
                inverse,
                centers,
                weight[part],
                sums.numpy(),
                counts.numpy(),
                squares.numpy(),
            )
            return sums, counts, squares, torch.tensor(inertia, dtype=torch.float64)

        sums, counts, squares, inertia = sum_blocks(block, len(x), 16_384)
        if bool((counts == 0).any()):
            self._remember(batch)
        spread = torch.stack([counts.sum().expand_as(squares), sums.sum(0), squares])
        statistics = {"spread": spread, "count": counts, "sum": sums, "square": squares.sum().reshape(1, 1)}
        # of standardised data, whose variance neither under- nor overflows
        variance = (2 * (log_scale - unit.double().log())).exp()
        return statistics, counts.sum() * self._at_a_mean(log_scale) - 0.5 * inertia / variance

    def update(self, total: Statistics) -> None:
        """Means and variance; a cluster without data moves to the datum that is farthest from its mean.

        That changes nothing for the data as they are divided now, so that the distances still never grow.
        """
        far, self._far = self._far_rows(), None
        self.emissions.update(total)
        self.sizes.copy_(total["count"])
        if not bool((self.sizes > 0).any()) or not self.means.requires_grad:
            return
        largest, aside = self.sizes.argmax(), 1e-3 * self.emissions.log_scale.detach().exp().squeeze()
        for i, k in enumerate((self.sizes <= 0).nonzero().flatten().tolist()):
            if i < len(far):
                self.means.data[k] = far[i]
            else:  # where data have holes: beside the largest cluster's mean, whose data it then shares
                noise = torch.randn(self.means.shape[1], generator=torch.Generator().manual_seed(k))
                self.means.data[k] = self.means.data[largest] + aside * noise.to(self.means)

    def _remember(self, batch: Batch) -> None:
        """Keep the rows that are farthest from the means, as many as there are clusters, for the M-step."""
        x, means = batch.x.flatten(1), self.means.detach()
        distance = torch.where(batch.weights > 0, torch.cdist(x, means).amin(1), -1.0)
        distance, x = torch.cat([distance, x.new_zeros(len(far := self._far_rows()))]), torch.cat([x, far])
        distance[len(distance) - len(far) :] = torch.cdist(far, means).amin(1)
        self._far = means.clone(), x[distance.topk(min(len(means), int((distance > 0).sum()))).indices]

    def _far_rows(self) -> Tensor:
        """The rows kept for the means as they are, the farthest first."""
        if self._far is None or not torch.equal(self._far[0], self.means.detach()):
            return self.means.detach()[:0]
        return self._far[1]

    def concerns(self) -> list[str]:
        empty = (self.sizes <= 0).nonzero().flatten().tolist()
        found = [f"cluster {k} is empty: there are fewer different data than clusters; ask for fewer" for k in empty]
        return found + self.emissions.concerns((self.sizes > 0).double())

    def free_parameters(self) -> int:
        """K D means and the variance: the weights are given."""
        return self.emissions.free_parameters()

    def canonical(self) -> None:
        """Clusters by their first coordinate, then the next."""
        order = sorted(range(len(self.means)), key=lambda k: self.means[k].tolist())
        self.emissions.reorder(torch.tensor(order, device=self.means.device))
        self.sizes.copy_(self.sizes[order])

    def _at_a_mean(self, log_scale: Tensor) -> Tensor:
        """log p(x, z) of a datum that lies on its mean."""
        states, features = self.means.shape
        return -math.log(states) - features * (0.5 * math.log(2 * math.pi) + log_scale)


def _without_sizes(module: KMeans, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A state saved before there were `sizes` tells nothing of them."""
    state.setdefault(f"{prefix}sizes", torch.full_like(module.sizes, torch.inf))


def tiny(seed: int) -> tuple[KMeans, Batch]:
    """Two clusters in the plane, and six points of which one is seen by half."""
    generator = torch.Generator().manual_seed(seed)
    model = KMeans(features=2, components=2).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[3, 0] = False
    return model, Batch.of(x, mask)
