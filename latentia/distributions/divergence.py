"""KL divergences, coordinate by coordinate where the distributions factorise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence


def kl_terms(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats, (B, D) with one column a latent dimension where q and p factorise, otherwise (B, 1).

    None where no closed form is known.
    """
    if isinstance(q, Independent) and isinstance(p, Independent) and q.event_shape == p.event_shape:
        q, p = q.base_dist, p.base_dist
    try:
        divergence = kl_divergence(q, p)
    except NotImplementedError:
        return None
    return divergence.reshape(divergence.shape[0], -1)


def sampled_kl(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """The Monte Carlo estimate of KL(q || p) from draws z (S, B, *latent) of q, (B,)."""
    return torch.mean(q.log_prob(z) - p.log_prob(z), 0)
