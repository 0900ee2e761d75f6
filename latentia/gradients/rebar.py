"""The score function with a relaxed draw as its control variate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentia.distributions.discrete import Finite, inside
from latentia.distributions.joint import Draw, Joint
from latentia.errors import CapabilityError
from latentia.gradients.expectation import Function, value
from latentia.gradients.relaxed import found


class Rebar(nn.Module):
    """The gradient by q's logits

        (f(b) - eta f(s')) d log q(b) + eta d f(s) - eta d f(s'),

    where b is a draw, s = soft(noisy logits / temperature) is relaxed by the noise that b came from, and s' by noise
    drawn anew given b. The relaxed terms have mean zero together, whatever eta and the temperature; these follow the
    slope of the gradient's variance, beside the model.

    Tucker et al. (2017), "REBAR: low-variance, unbiased gradient estimates for discrete latent variable models",
    section 3; of one-hot values by the conditional noise of Grathwohl et al. (2018), appendix C. f is evaluated three
    times a draw.

    Args:
        temperature: where it begins. eta: where it begins.

    Raises:
        CapabilityError: several latents that depend on each other, or one that is neither bits nor one-hot values.
    """

    def __init__(self, temperature: float = 0.5, eta: float = 1.0):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        self.log_eta = nn.Parameter(torch.tensor(float(eta)).log())
        self.first = (temperature, eta)

    def start(self, batch: object, generator: torch.Generator) -> None:
        """Temperature and eta as they were given."""
        for parameter, first in zip((self.log_temperature, self.log_eta), self.first, strict=True):
            parameter.data.fill_(float(first)).log_()

    def forward(self, q: Distribution, f: Function, samples: int) -> Tensor:
        if isinstance(q, Joint):
            raise CapabilityError("rebar is for one layer of latents: use rloo or disarm for several")
        bits = found(q, "rebar")
        leaf = Finite(bits.logits.detach().requires_grad_(), bits.binary)
        noisy = leaf.logits + leaf.noise((samples,))
        hard = leaf.hard(noisy)
        values = value(f, Draw(hard, {"z": q}))
        if not torch.is_grad_enabled():
            return values.mean(0)
        if values.ndim > 2:
            raise CapabilityError("rebar estimates one column: its KL needs a closed form")
        slope = self._slope(q, f, leaf, noisy, hard, values.detach())
        moving = (slope.detach() * (bits.logits - bits.logits.detach())).flatten(1).sum(-1)
        return values.mean(0) + moving + self._calmer(slope)

    def _slope(self, q: Distribution, f: Function, leaf: Finite, noisy: Tensor, hard: Tensor, values: Tensor) -> Tensor:
        """The gradient by the logits, (B, *event), itself with a gradient by temperature and eta."""
        temperature, eta = self.log_temperature.exp().to(noisy), self.log_eta.exp().to(noisy)
        again = given_hard(leaf, hard)
        soft, soft_again = leaf.soft(noisy, temperature), leaf.soft(again, temperature)
        relaxed, relaxed_again = value(f, Draw(torch.cat([soft, soft_again]), {"z": q})).chunk(2)
        path = (eta * (relaxed - relaxed_again)).sum()
        (slope,) = torch.autograd.grad(path, leaf.logits, create_graph=True)
        weight = (values - eta * relaxed_again).reshape(*values.shape, *(1,) * (hard.ndim - 2))
        return (slope + (weight * (hard - leaf.mean.detach())).sum(0)) / len(hard)

    def _calmer(self, slope: Tensor) -> Tensor:
        """Zeros, (B,), whose gradient is that of minus the squared slope by temperature and eta."""
        own = [self.log_temperature, self.log_eta]
        slopes = torch.autograd.grad(slope.square().sum(), own, retain_graph=True)
        total = sum(((p - p.detach()) * s for p, s in zip(own, slopes, strict=True)), torch.zeros_like(own[0]))
        return -(total / len(slope)).to(slope).expand(len(slope))


def given_hard(p: Finite, hard: Tensor) -> Tensor:
    """Noisy logits drawn anew given the draw that they make, a differentiable function of the logits, (S, B, *event).

    Tucker et al. (2017), appendix C; Grathwohl et al. (2018), appendix C.
    """
    fresh = inside(torch.rand_like(hard))
    if p.binary:
        mean = p.logits.sigmoid()
        # of the noise below 1 - mean the bit is 0, above it 1
        uniform = torch.where(hard > 0, (1 - mean) + fresh * mean, fresh * (1 - mean))
        return p.logits + inside(uniform).logit()
    whole = p.logits.logsumexp(-1, keepdim=True)
    exponential = -fresh.log()
    first = (exponential * hard).sum(-1, keepdim=True)  # the clock that rang first
    return whole + torch.where(hard > 0, -first.log(), -(exponential / (p.logits - whole).exp() + first).log())
