"""Joint stochastic approximation: p and q learn from draws of p(z | x), by a Markov chain for each datum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.distributions.joint import draw
from latentia.distributions.latents import each, like, named
from latentia.model import DirectedModel, LatentVariableModel
from latentia.objectives.semi_supervised import directed, is_known, labelled


class Chains(nn.Module):
    """Where the chain of each x stands: the same x has the same posterior, and one chain. A fit that is resumed begins
    them again, with a draw of q."""

    def __init__(self):
        super().__init__()
        self.places: dict[bytes, dict[str, Tensor]] = {}

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.places = {}

    def at(self, batch: Batch, first: Any) -> Any:
        """z of each datum, (1, B, *latent), and `first` where there is none yet."""
        parts = named(first)
        rows = [self.places.get(key) for key in _keys(batch)]
        found = {
            name: torch.stack([part[0, b] if row is None else row[name].to(part) for b, row in enumerate(rows)])
            for name, part in parts.items()
        }
        return like(first, {name: part.unsqueeze(0) for name, part in found.items()})

    def move(self, batch: Batch, z: Any) -> None:
        """Keep z (1, B, *latent)."""
        # one-hot values fit a byte
        for b, key in enumerate(_keys(batch)):
            self.places[key] = {
                name: part[0, b].to(torch.uint8) if bool(((part == 0) | (part == 1)).all()) else part[0, b].clone()
                for name, part in named(z).items()
            }


def _keys(batch: Batch) -> list[bytes]:
    x, observed = batch.x.cpu(), batch.observed.cpu()
    # what lies beyond the end or under the mask is no part of x
    shown = torch.where(observed, x, torch.zeros_like(x))
    rows = zip(shown.numpy(), observed.numpy(), batch.ends.tolist() if x.ndim > 1 else [0] * len(x), strict=True)
    return [row[:end].tobytes() + there[:end].tobytes() for row, there, end in rows]


def joint_stochastic(
    model: LatentVariableModel,
    batch: Batch,
    *,
    chains: Chains,
    alpha: float = 1.0,
    unlabelled: float = 0.1,
    samples: int = 2,
) -> Bound:
    """log p(x, z) + alpha log q(z | x), where z is known by `batch.known`, or else is the state of a Markov chain whose
    stationary distribution is p(z | x); that counts `unlabelled` times.

    Ou and Song (2020), "Joint stochastic approximation and its application to learning discrete latent variable
    models", algorithm 1: a Metropolis chain for each datum with q(z | x) as its proposal, so that z' takes the place of
    z with probability min(1, w(z') / w(z)), w = p(x, z) / q(z | x). It climbs log p(x) itself, in expectation, and q
    goes to the posterior by KL(p || q): there is no score function, and no baseline. The value is no bound on log p(x).

    Args:
        chains: where they stand.
        samples: steps of each chain at each visit.

    Raises:
        CapabilityError: the model has no prior and likelihood.
    """
    model = directed(model, "joint_stochastic")
    known = is_known(batch)
    value = torch.zeros(batch.size, dtype=model.anchor.dtype, device=batch.x.device)
    for rows, hidden in ((known, False), (~known, True)):
        index = rows.nonzero().squeeze(-1)
        if not len(index):
            continue
        some, weight = batch.select(index), unlabelled if hidden else 1.0
        if hidden:
            z = walked(model, some._replace(known=None), chains, samples)
            some = some._replace(known=each(lambda part: part[0], z))
        value = value.index_add(0, index, weight * labelled(model, some, alpha).value)
    return Bound(value)


@torch.no_grad()
def walked(model: DirectedModel, batch: Batch, chains: Chains, steps: int) -> Any:
    """The chains after so many steps, z (1, B, *latent)."""
    q = model.posterior(batch)
    proposed = draw(q, steps, gradient=False).z
    now = chains.at(batch, each(lambda part: part[:1], proposed))
    every: Any = each(lambda one, other: torch.cat([one, other]), now, proposed)
    log_weight = model.log_joint(batch, every) - q.log_prob(every)
    place = torch.zeros(batch.size, dtype=torch.long, device=log_weight.device)
    for step in range(1, steps + 1):
        rise = log_weight[step] - log_weight.gather(0, place.unsqueeze(0))[0]
        # what has no probability gives way, and to what has none nothing does
        taken = torch.rand_like(rise).log() < rise.nan_to_num(nan=-torch.inf)
        place = torch.where(taken, step, place)
    z: Any = each(lambda part: part[place, torch.arange(batch.size, device=place.device)].unsqueeze(0), every)
    chains.move(batch, z)
    return z
