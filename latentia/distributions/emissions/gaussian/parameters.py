"""The parameters of K Gaussians, for four kinds of covariance."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from latentia.distributions.emissions.base import Emissions
from latentia.errors import OptionError, check_not_negative

Covariance = Literal["full", "tied", "diagonal", "spherical", "common"]
KINDS = ("full", "tied", "diagonal", "spherical", "common")
LEAST = 1e-13
"""The floor where none is asked for: below it a float64 covariance has no Cholesky factor."""
COARSE = 0.25
"""Standard deviations by which rounding to a dtype may move what a model holds before it says so."""


class Gaussians(Emissions):
    """The parameters of K Gaussians, and the coordinates y = (x - center) / unit in which we compute.

    What they are used for stands beside this, each theme in a file of its own; `GaussianEmissions` joins it all.
    """

    def __init__(self, states: int, features: int, covariance: Covariance = "full", floor: float = 1e-6):
        super().__init__()
        check_not_negative(floor=floor)
        if covariance not in KINDS:
            raise OptionError(f"covariance={covariance!r}: choose one of {', '.join(KINDS)}")
        if states < 1 or features < 1:
            raise OptionError(f"{states} components of {features} features: there must be at least one of each")
        self.covariance, self.floor = covariance, floor
        # what messages call the columns
        self.numbers = tuple(range(1, features + 1))
        matrices = 1 if covariance in ("tied", "common") else states
        self.means = nn.Parameter(torch.zeros(states, features))
        self.log_scale = nn.Parameter(torch.zeros(matrices, 1 if self.round else features))
        if self.dense:
            self.below = nn.Parameter(torch.zeros(matrices, features * (features - 1) // 2))
        # statistics are those of (x - center) / unit, so that data far away, huge or tiny lose no digits
        self.center: Tensor
        self.unit: Tensor
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("unit", torch.ones(features))
        # which components the floor holds up
        self.floored: Tensor
        self.register_buffer("floored", torch.zeros(states, dtype=torch.bool))
        # which columns do not vary: of the data, so that it is not kept with the parameters
        self.constant: Tensor
        self.register_buffer("constant", torch.zeros(features, dtype=torch.bool), persistent=False)

    @property
    def round(self) -> bool:
        """Whether a component's variance is the same in all directions."""
        return self.covariance in ("spherical", "common")

    @property
    def dense(self) -> bool:
        """Whether coordinates are correlated given z."""
        return self.covariance in ("full", "tied")

    @property
    def scale_tril(self) -> Tensor:
        """The Cholesky factors of the covariances, (K, D, D)."""
        return (self.unit.unsqueeze(-1) * self.standard_tril()).expand(len(self.means), -1, -1)

    @property
    def covariances(self) -> Tensor:
        """(K, D, D)."""
        tril = self.scale_tril
        return tril @ tril.mT

    def set(self, means: Tensor, covariances: Tensor) -> None:
        """Take these means (K, D) and full covariances (K, D, D), with the features around the means' mean."""
        tril = torch.linalg.cholesky(covariances)
        rows, columns = torch.tril_indices(*tril.shape[1:], offset=-1, device=tril.device)
        self.means.data, self.log_scale.data = means.clone(), tril.diagonal(dim1=-2, dim2=-1).log()
        self.below.data = tril[:, rows, columns]
        self.center.copy_(means.mean(0))
        self.unit.copy_(covariances.diagonal(dim1=-2, dim2=-1).amax(0).sqrt())

    def free_parameters(self) -> int:
        """K D means, and the covariances' own entries."""
        return sum(parameter.numel() for parameter in self.parameters())

    # What follows is in the coordinates y = (x - center) / unit.

    def standard_mean(self) -> Tensor:
        """(K, D)."""
        return (self.means - self.center) / self.unit

    def standard_log_scale(self) -> Tensor:
        """Logarithms of standard deviations, or of the Cholesky factors' diagonals, (K or 1, D)."""
        return self.log_scale - self.unit.log()

    def standard_variance(self) -> Tensor:
        """Of coordinates that are independent given z, (K, D)."""
        return (2 * self.standard_log_scale()).exp().expand_as(self.means)

    def standard_tril(self) -> Tensor:
        """The distinct Cholesky factors: (K, D, D), or (1, D, D) where they are tied."""
        scale = self.standard_log_scale().exp()
        if not self.dense:
            return torch.diag_embed(scale.expand_as(self.means))
        diagonal = torch.diag_embed(scale)
        rows, columns = torch.tril_indices(*diagonal.shape[1:], offset=-1, device=diagonal.device)
        lower = torch.zeros_like(diagonal)
        lower[:, rows, columns] = self.below / self.unit[rows]
        return diagonal + lower

    def standard(self, x: Tensor) -> Tensor:
        """y of x, (M, D)."""
        return (x - self.center) / self.unit

    def numbers_of(self, which: Tensor) -> str:
        """Columns, counted from 1, for a message."""
        return ", ".join(str(self.numbers[column]) for column in which.nonzero().flatten().tolist())

    # What follows keeps what is not a parameter in step with them.

    def reorder(self, order: Tensor) -> None:
        super().reorder(order)
        self.floored.copy_(self.floored[order])

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # as torch has it
        before, means = self.means.dtype, self.means.detach()
        spread = None if before != torch.float64 else self.covariances.detach().diagonal(dim1=-2, dim2=-1).sqrt()
        super()._apply(fn, recurse)
        if spread is not None and self.means.dtype != before and self.means.device == means.device:
            moved = ((self.means.detach().double() - means).abs() > COARSE * spread).any(0)
            if bool(moved.any()):
                warnings.warn(
                    f"{dtype_name(self.means.dtype)} moves the means of column {self.numbers_of(moved)} by more than "
                    f"{COARSE:g} standard deviations, so far from 0 do they lie: keep the model in float64, or "
                    "subtract an origin",
                    stacklevel=3,
                )
        return self


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype, for a message."""
    return str(dtype).removeprefix("torch.")
