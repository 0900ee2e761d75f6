"""Antithetic pairs of bits, of which the gradient is had in closed form where the pair agrees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.distributions.discrete import Finite
from latentia.distributions.joint import Draw, Joint, at
from latentia.distributions.latents import Latents
from latentia.errors import CapabilityError, OptionError
from latentia.gradients.expectation import Function, value
from latentia.gradients.relaxed import found
from latentia.gradients.score import credited


def disarm(q: Distribution, f: Function, samples: int) -> Tensor:
    """From u uniform a pair of draws, b = 1[u < p] and b' = 1[1 - u < p]; the gradient by the logits is

        (f(b) - f(b')) / 2 * (b - b') sigmoid(|logits|),

    zero where a bit of the pair is the same: ARM (Yin and Zhou 2019), with what u says beyond the pair integrated out.

    Dong, Mnih and Tucker (2020), "DisARM: an antithetic gradient estimator for binary latent variables", equation 8. Of
    several latents, one after the other, each in turn has its pair, those before it are shared, and those after it are
    drawn for each of the two (section 3.2): `samples` is then the evaluations of f for each latent.

    Raises:
        OptionError: `samples`, the evaluations of f, is no even number.
        CapabilityError: a latent is not made of bits.
    """
    if samples < 2 or samples % 2:
        raise OptionError(f"samples={samples}: disarm draws in pairs; give an even number")
    names = list(q.parts) if isinstance(q, Joint) else ["z"]
    terms = [_by_pairs(q, f, samples // 2, name) for name in names]
    # each latent's walk has draws of the whole, and the gradient of its own logits alone
    values = torch.stack([values for values, _ in terms]).mean(0)
    return values + torch.stack([credit for _, credit in terms]).sum(0)


def _by_pairs(q: Distribution, f: Function, pairs: int, name: str) -> tuple[Tensor, Tensor]:
    drawn, bits, both = _paired(q, name, pairs)
    values = value(f, drawn)
    one, other = values.chunk(2)
    slope = (both[0] - both[1]) * bits.logits.detach().abs().sigmoid()
    score = (slope * bits.logits).flatten(2).sum(-1)
    return values.mean(0), credited((one - other) / 2, score).mean(0)


def _paired(q: Distribution, name: str, pairs: int) -> tuple[Draw, Finite, Tensor]:
    """Draws (2 P, B, *latent), the first half with one of each pair of the latent `name` and the second with the
    other; the latent's bits, and its pairs (2, P, B, D)."""
    if not isinstance(q, Joint):
        bits, both = _antithetic(q, (pairs,))
        return Draw(both.flatten(0, 1), {"z": q}), bits, both
    drawn: dict[str, Tensor] = {}
    pair: tuple[Finite, Tensor] | None = None
    for each, part in q.parts.items():
        p = part if isinstance(part, Distribution) else part(drawn)
        alone = p.batch_shape == q.batch_shape
        if each == name:
            pair = _antithetic(p, (pairs,) if alone else ())
            drawn = {other: z.repeat(2, *(1,) * (z.ndim - 1)) for other, z in drawn.items()}
            drawn[each] = pair[1].flatten(0, 1)
        else:
            rows = pairs if pair is None else 2 * pairs
            drawn[each] = p.sample((rows,) if alone else ())
    assert pair is not None  # the latent is one of them
    z: Latents = drawn
    return at(q, z), *pair


def _antithetic(p: Distribution, shape: tuple[int, ...]) -> tuple[Finite, Tensor]:
    bits = found(p, "disarm")
    if not bits.binary:
        raise CapabilityError("disarm is for bits: use rloo for one-hot values")
    with torch.no_grad():
        mean = bits.mean
        uniform = torch.rand((*shape, *mean.shape), dtype=mean.dtype, device=mean.device)
        return bits, torch.stack([uniform < mean, 1 - uniform < mean]).to(mean.dtype)
