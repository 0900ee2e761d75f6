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

import torch
from torch import Tensor

from latentia.kernels.blocks import sum_blocks
from latentia.kernels.lloyd import nearest
from latentia.model import Batch, Statistics
from latentia.models.gaussian_mixture import GaussianMixture


class KMeans(GaussianMixture):
    """p(x) = (1/K) sum_k N(x; means[k], variance I). Learn it by `EM(hard=True)`: that is k-means.

    Args:
        features: D, the number of columns (comes from the data).
        components: K, the number of clusters.
        floor: least variance, as a fraction of the data's own.

    Parameters: means (K, D), and the variance.
    """

    def __init__(self, features: int, components: int = 8, floor: float = 1e-6):
        super().__init__(features, components, "common", floor)
        logits = self.logits.data
        del self.logits
        self.register_buffer("logits", logits)

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
        spread = torch.stack([counts.sum().expand_as(squares), sums.sum(0), squares])
        statistics = {"spread": spread, "count": counts, "sum": sums, "square": squares.sum().reshape(1, 1)}
        # of standardised data, whose variance neither under- nor overflows
        variance = (2 * (log_scale - unit.double().log())).exp()
        return statistics, counts.sum() * self._at_a_mean(log_scale) - 0.5 * inertia / variance

    def update(self, total: Statistics) -> None:
        self.emissions.update(total)

    def free_parameters(self) -> int:
        """K D means and the variance: the weights are given."""
        return self.emissions.free_parameters()

    def canonical(self) -> None:
        """Clusters by their first coordinate, then the next."""
        order = sorted(range(len(self.means)), key=lambda k: self.means[k].tolist())
        self.emissions.reorder(torch.tensor(order, device=self.means.device))

    def _at_a_mean(self, log_scale: Tensor) -> Tensor:
        """log p(x, z) of a datum that lies on its mean."""
        states, features = self.means.shape
        return -math.log(states) - features * (0.5 * math.log(2 * math.pi) + log_scale)


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
