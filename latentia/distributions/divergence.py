"""KL divergences, coordinate by coordinate where the distributions factorise, latent by latent in a `Joint`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.distributions import kl_divergence as closed_form

from latentia.distributions.bounded import log_prob_or_bound
from latentia.distributions.discrete import kl_by_coordinate
from latentia.distributions.joint import Draw, Joint, at, draw
from latentia.distributions.latents import Latents, named


def kl_terms(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats, (B, D) with one column a latent dimension where q and p factorise, otherwise (B, 1).

    None where no closed form is known.
    """
    parts = kl_by_latent(q, p)
    return None if parts is None else torch.cat(list(parts.values()), -1)


def kl_by_latent(q: Distribution, p: Distribution) -> dict[str, Tensor] | None:
    """The same, for each latent of a `Joint` by its name, and for a latent that is alone as "z".

    None where no closed form of one of them is known, as mostly where a latent depends on another.
    """
    pairs = {"z": (q, p)}
    # latents that depend on each other have one divergence, if a closed form of theirs is registered
    if isinstance(q, Joint) and isinstance(p, Joint) and q.parts.keys() == p.parts.keys():
        apart = not any(map(callable, (*q.parts.values(), *p.parts.values())))
        if not apart and type(q) is type(p) is Joint:
            return None
        pairs = {name: (q.conditional(name, {}), p.conditional(name, {})) for name in q.parts} if apart else pairs
    parts = {}
    for name, (one, other) in pairs.items():
        terms = _closed_form(one, other)
        if terms is None:
            return None
        parts[name] = terms.reshape(len(terms), -1)
    return parts


def kl_given(q: Distribution, p: Distribution, z: Latents | Draw) -> dict[str, Tensor]:
    """Terms with E_q(z) of their sum = KL(q || p), in nats, (S, B, D) for each latent, from draws z ~ q.

    The divergence of a latent's conditionals, KL(q(z_l | its ancestors) || p(z_l | its ancestors)), where it has a
    closed form and p's ancestors are among q's, so that it is right for each z_l; log q(z_l | ...) - log p(z_l | ...)
    of the draw elsewhere, as for the lower layers where q goes from x up and p from the top down. Where p is `Bounded`
    its bound stands for log p, and E_q is no less than the divergence: an ELBO of these terms is a bound still.
    """
    if not (isinstance(q, Joint) and isinstance(p, Joint)):
        drawn = z if isinstance(z, Draw) else at(q, z)
        return {"z": (drawn.log_q - log_prob_or_bound(p, drawn.z)).unsqueeze(-1)}
    if q.parts.keys() != p.parts.keys():
        raise ValueError(f"q has the latents {', '.join(q.parts)}, and p has {', '.join(p.parts)}")
    drawn = z if isinstance(z, Draw) else at(q, z)
    parts = named(drawn.z)
    right = {name: p.ancestors(name) <= q.ancestors(name) for name in q.parts}
    return {
        name: _conditional(drawn.parts[name], p.conditional(name, parts), parts[name], right[name]) for name in q.parts
    }


def _conditional(ours: Distribution, theirs: Distribution, z: Tensor, right: bool) -> Tensor:
    terms = _closed_form(ours, theirs) if right else None
    if terms is None:
        return (ours.log_prob(z) - log_prob_or_bound(theirs, z)).unsqueeze(-1)
    events = ours.reinterpreted_batch_ndims if isinstance(ours, Independent) else 0
    terms = terms.flatten(-events) if events else terms.unsqueeze(-1)
    return terms.expand(*z.shape[:2], terms.shape[-1])


def _closed_form(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p), with the event's dimensions kept where q and p factorise."""
    terms = kl_by_coordinate(q, p)
    if terms is not None:
        return terms
    if isinstance(q, Independent) and isinstance(p, Independent) and q.event_shape == p.event_shape:
        q, p = q.base_dist, p.base_dist
    if type(q) is Normal and type(p) is Normal:  # torch.compile cannot follow torch's search for the formula
        ratio = q.scale / p.scale
        return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1) - ratio.log()
    try:
        return closed_form(q, p)
    except NotImplementedError:
        return None


def kl_divergence(q: Distribution, p: Distribution, samples: int = 64) -> Tensor:
    """KL(q || p) in nats, (B, D) by latent dimension where they factorise, else (B, 1), sampled if need be."""
    return torch.cat(list(kl_parts(q, p, samples).values()), -1)


def kl_parts(q: Distribution, p: Distribution, samples: int = 64) -> dict[str, Tensor]:
    """The same for each latent by its name, (B, D): in closed form where there is one for all of them, else E_q of the
    divergence of its conditionals (see `kl_given`) by so many draws."""
    found = kl_by_latent(q, p)
    if found is not None:
        return found
    if not isinstance(q, Joint):
        return {"z": sampled_kl(q, p, draw(q, samples, gradient=False)).unsqueeze(-1)}
    # several latents may be wide: one draw at a time
    drawn = [kl_given(q, p, draw(q, 1, gradient=False)) for _ in range(samples)]
    return {name: torch.cat([one[name] for one in drawn]).mean(0) for name in drawn[0]}


def sampled_kl(q: Distribution, p: Distribution, z: Latents | Draw) -> Tensor:
    """The Monte Carlo estimate of KL(q || p) from draws z (S, B, *latent) of q, (B,)."""
    return torch.cat(list(kl_given(q, p, z).values()), -1).sum(-1).mean(0)
