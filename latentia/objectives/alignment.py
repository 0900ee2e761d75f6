"""The evidence lower bound of a model whose z is a source position for each step."""

from __future__ import annotations

from typing import Any

import torch

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.errors import CapabilityError, OptionError
from latentia.model import LatentVariableModel


def alignment_elbo(model: LatentVariableModel, batch: Batch, *, samples: int = 0) -> Bound:
    """E_q[log p(x, z) - log q(z | x)] for alignments that are independent over steps, given x, in p and in q.

    Deng et al. (2018), "Latent alignment and variational attention", section 4. The model gives both by `both(batch)`:
    p(z | x) with its log-partition log p(x), and q(z | x), as `LatentAlignment`s.

    Args:
        samples: 0 sums every position of every step out, exactly. 2 or more draw alignments from q: the gradient is
            that of the score function, each step's own term being its signal and the mean of the other draws' its
            baseline (Kool, van Hoof and Welling 2019), which has no bias.

    Raises:
        CapabilityError: the model has no two such alignments.
        OptionError: one sample, which has no other to be compared with.
    """
    both: Any = getattr(model, "both", None)
    if not callable(both):
        name = type(model).__name__
        raise CapabilityError(f"{name} has no inference network over alignments: write {name}.both, or use exact")
    if samples < 0 or samples == 1:
        raise OptionError(f"samples={samples}: 0 sums all positions out, and 2 or more are draws")
    pair: Any = both(batch)
    p, q = pair
    if not samples:
        return Bound(q.expected_score(p.log_potentials) + q.entropy())
    inside = torch.arange(q.event_shape[0], device=q.lengths.device) < q.lengths.unsqueeze(-1)
    log_q = torch.where(inside.unsqueeze(-1), q.log_potentials["node"].log_softmax(-1), 0.0)
    with torch.no_grad():
        z = q.sample((samples,))
    chosen = torch.where(z > 0, log_q, 0.0).sum(-1)
    term = torch.where(z > 0, p.log_potentials["node"], 0.0).sum(-1) - chosen
    signal = term.detach()
    others = (signal.sum(0) - signal) / (samples - 1)
    score = ((signal - others) * (chosen - chosen.detach())).sum(-1)
    return Bound((term.sum(-1) + score).mean(0))
