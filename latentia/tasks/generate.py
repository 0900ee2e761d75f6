"""Draw new data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentia.errors import OptionError
from latentia.model import Batch, LatentVariableModel
from latentia.tasks.common import Latent, directed, each, expected, using


def generate(model: LatentVariableModel, n: int, *, seed: int = 0, mean: bool = False) -> tuple[Tensor, Latent]:
    """n draws z ~ p(z), x ~ p(x | z): x (n, *event) in the model's coordinates, and z (n, *latent).

    Args:
        mean: E[x | z] in the place of x, as pictures are usually shown.

    Raises:
        CapabilityError: the model has no `generate`, or with `mean` no `likelihood`.
        OptionError: n below 1.
    """
    if n < 1:
        raise OptionError(f"n={n}: generate at least one")
    with using(model, seed):
        x, z = model.generate(n)
        if mean:
            one: Any = each(lambda part: part.unsqueeze(0), z)
            batch = Batch(torch.zeros_like(x))
            x = expected(directed(model, "show means").likelihood(one, batch)).squeeze(0)
    return x, z
