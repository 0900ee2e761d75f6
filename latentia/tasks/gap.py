"""What an encoder gives away: the gap between log p(x) and the bound, in two parts."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from latentia.data import data_for
from latentia.inference.refinement import refined
from latentia.measure.marginal import log_marginal
from latentia.model import LatentVariableModel
from latentia.tasks.common import MEMORY, using


class Gaps(NamedTuple):
    """log p(x) - ELBO of each datum, taken apart; (N,) float64, nats, in the units of the data as given.

    Attributes:
        log_marginal: by importance samples from the refined q; standard_error: of it.
        refined: the ELBO at q refined for the datum.
        amortized: the ELBO at the encoder's q.
    """

    log_marginal: Tensor
    standard_error: Tensor
    refined: Tensor
    amortized: Tensor

    @property
    def approximation(self) -> Tensor:
        """log p(x) - ELBO(refined q): what the family of q costs, (N,)."""
        return self.log_marginal - self.refined

    @property
    def amortization(self) -> Tensor:
        """ELBO(refined q) - ELBO(encoder's q): what one encoder for all data costs, (N,)."""
        return self.refined - self.amortized


def gaps(
    model: LatentVariableModel,
    data: Any,
    *,
    steps: int = 200,
    lr: float = 0.05,
    samples: int = 8,
    importance_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Gaps:
    """The approximation gap and the amortization gap of Cremer, Li and Duvenaud (2018).

    Both bounds are means of importance_samples log-weights. The refined q is as good as `steps` make it: of a q that
    has not come to rest, the rest of the amortization gap counts as approximation gap.

    Args:
        data: anything that `as_dataset` takes; steps, lr, samples: those of `refine`.

    Raises:
        CapabilityError: the posterior cannot be refined.
        DataError: data that the model cannot have.
    """
    data = data_for(model, data, seed)
    shift = data.log_det().cpu()
    better = refined(model, steps=steps, lr=lr, samples=samples)
    options = {"importance_samples": importance_samples, "seed": seed, "memory": MEMORY, "progress": progress}
    with using(model, seed):
        plain, best = log_marginal(model, data, **options), log_marginal(better, data, **options)
    return Gaps(best.value + shift, best.standard_error, best.elbo + shift, plain.elbo + shift)
