"""The log-density of all coordinates at once, where they are independent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from latentia.kernels import bernoulli


def log_prob_of_observed(likelihood: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
    """sum_d log p(x_d) over the observed coordinates, (S, B), in nats.

    Args:
        likelihood: batch shape (S, B, *event), a factor a coordinate.
        x, mask: (B, *event); what the mask leaves out counts nothing.
    """
    if isinstance(likelihood, Bernoulli) and "logits" in vars(likelihood):
        return bernoulli.log_likelihood(likelihood.logits, x, mask)
    log_prob = likelihood.log_prob(x)
    if mask is not None:
        log_prob = torch.where(mask, log_prob, torch.zeros_like(log_prob))
    return log_prob.flatten(2).sum(-1)
