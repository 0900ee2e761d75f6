"""Bits-back coding: with a latent that nobody needs to know, in as many bits as -ELBO.

    encode: pop z from q(z | x), push x under p(x | z), push z under p(z):  log q(z | x) / (p(x | z) p(z)) bits more
    decode: pop z from p(z),     pop x from p(x | z),   push z under q(z | x)

The latent is drawn with the message's own bits as randomness, and the receiver, who by then knows x, gets them back
(Hinton and van Camp 1993; Frey 1998; with asymmetric numeral systems, Townsend, Bird and Barber 2019). Of the first
data it borrows bits that the message does not have yet.

Of several layers each part of x and z is pushed as soon as nothing that is drawn later asks for it: where
q(z_2 | z_1) does not look at x, x can be pushed before z_2 is drawn, and pays for it ("Bit-Swap", Kingma, Abbeel and Ho
2019, section 3.2). Which parts look at what is found out by asking the model once.

With K samples the message has -log (1/K) sum_k p(x, z_k) / q(z_k | x) bits more (Ruan et al. 2021, "Improving lossless
compression rates via Monte Carlo bits-back coding", section 3.1): K latents are drawn, one of them by its share of that
sum, and the others are given back as soon as x is told.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from latentia.batch import Batch
from latentia.codec import walks
from latentia.codec.factors import Choices
from latentia.codec.latents import Space, plain, space
from latentia.codec.lattice import Lattice
from latentia.codec.stack import ROOM, Stack
from latentia.codec.walks import Asked, Content
from latentia.distributions import latents, observed
from latentia.distributions.codes import Quantized
from latentia.distributions.joint import Joint
from latentia.distributions.mixture import Mixture
from latentia.errors import CapabilityError
from latentia.model import DirectedModel

X = ""
"""What x is called among the latents."""
DRAWS = 512
"""Of the prior, to find where its latents lie."""


class Rows(NamedTuple):
    """A block of data.

    Attributes:
        batch: of B data; x is zero where it is not known yet.
        lattice: the values of x.
        steps: T, of all data, where the model itself says where they end.
        numbers: x as whole numbers, (B, D) int64, where it is known; 0 where it is not coded.
    """

    batch: Batch
    lattice: Lattice
    steps: int | None = None
    numbers: Tensor | None = None

    @property
    def where(self) -> Tensor:
        """(B, D), what of x is coded."""
        # where the model tells the ends, what lies inside is not known before
        seen = self.batch.mask if self.steps is not None else self.batch.seen
        seen = torch.ones_like(self.batch.x, dtype=torch.bool) if seen is None else seen
        return seen.reshape(self.batch.size, -1)

    @property
    def complete(self) -> bool:
        """Whether all of x is coded."""
        return self.batch.mask is None and (self.steps is not None or self.batch.lengths is None)

    def of(self, numbers: Tensor) -> Rows:
        """The same block with an x, and zeros where nothing is coded."""
        numbers = numbers if self.complete else torch.where(self.where, numbers, 0)
        x = self.lattice.values(numbers, self.batch.x.dtype)
        x = x if self.complete else torch.where(self.where, x, torch.zeros_like(x))
        batch = self.batch._replace(x=x.reshape(self.batch.x.shape))
        return self._replace(batch=batch, numbers=numbers)

    def asked(self, known: bool) -> Asked:
        """What a walk is of; `known`: with x."""
        return Asked(self.where, self.lattice, self.numbers if known else None, self.complete)


class Step(NamedTuple):
    """Of encoding: draw a latent, or else push it, or x."""

    draws: bool
    name: str


class Plan(NamedTuple):
    """Attributes:
    steps: of encoding, in order; decoding undoes them from the last one to the first.
    spaces: the values of the latents, by name, but for those whose line is the prior given their ancestors.
    """

    steps: list[Step]
    spaces: dict[str, Space]

    @property
    def order(self) -> list[str]:
        """The latents as q draws them."""
        return [step.name for step in self.steps if step.draws]


class _Told(dict):
    """Latents that note which of them were asked for."""

    def __init__(self, values: dict[str, Tensor]):
        super().__init__(values)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return super().__getitem__(name)


def planned(model: DirectedModel, batch: Batch, samples: int) -> Plan:
    """In which order x and latents are coded.

    Raises:
        CapabilityError: a prior or posterior that has no code.
    """
    torch.manual_seed(0)  # `steady` gives the state back
    q, p = model.posterior(batch), model.prior(batch.frame)
    drawn = p.sample((1,))  # type: ignore[arg-type]
    parents = {name: _asked(p, name, drawn) for name in names(p)}
    if isinstance(drawn, dict):
        told = _Told(drawn)
        model.likelihood(told, batch.frame)
        parents[X] = told.asked
    else:
        parents[X] = set(names(p))
    for name in names(p):
        _check(plain(part(q, name, drawn)), plain(part(p, name, drawn)), name)
    needs = {name: _asked(q, name, drawn) | _looks_at_x(model, batch, name, drawn) for name in names(q)}
    steps = _in_order(needs, parents, interleaved=samples == 1)
    found: dict[str, Space] = {}
    many = latents.named(p.sample((max(DRAWS // batch.size, 1),)))  # type: ignore[arg-type]
    for place, name in enumerate(needs):
        one = part(p, name, drawn)
        if not isinstance(plain(one), Normal) or not parents[name] <= set(list(needs)[:place]):
            found[name] = space(one, model.anchor, many[name].flatten(0, 1))
    return Plan(steps, found)


def _in_order(needs: dict[str, set[str]], parents: dict[str, set[str]], interleaved: bool) -> list[Step]:
    """Each part is pushed once all that is drawn by it is drawn, and all whose parent it is are pushed."""
    steps, left, later = [], set(parents), list(needs)
    while left:
        if later and (not interleaved or not _ready(left, later, needs, parents)):
            steps.append(Step(True, later.pop(0)))
            continue
        name = _ready(left, later, needs, parents)[0]
        steps.append(Step(False, name))
        left.remove(name)
    return steps


def _ready(left: set[str], later: list[str], needs: dict[str, set[str]], parents: dict[str, set[str]]) -> list[str]:
    """What may be pushed now: x first, then the latents in q's order."""
    asked = set(later).union(*(needs[name] for name in later)) if later else set()
    wanted = set().union(*(parents[name] for name in left))
    order = [X, *needs]
    return [name for name in order if name in left and name not in asked | wanted and not parents[name] & set(later)]


def _check(q: Any, p: Any, name: str) -> None:
    if isinstance(p, Normal | Mixture) != isinstance(q, Normal | MultivariateNormal):
        raise CapabilityError(
            f"bits-back coding of {name} has no cells that both a {type(q).__name__} and a {type(p).__name__} fill"
        )


def _asked(p: Distribution, name: str, values: Any) -> set[str]:
    """Which latents p(z_name | ...) asks for."""
    if not isinstance(p, Joint):
        return set()
    told = _Told(values)
    p.conditional(name, told)
    return told.asked


def _looks_at_x(model: DirectedModel, batch: Batch, name: str, values: Any) -> set[str]:
    """{X} where q(z_name | z, x) depends on x, but for z, or where that cannot be told: a gradient tells."""
    if not batch.x.is_floating_point():
        return {X}
    with torch.enable_grad():
        x = batch.x.clone().requires_grad_()
        q = model.posterior(batch._replace(x=x))
        first, own = (_slope(part(q, one, values), x) for one in (names(q)[0], name))
    # a number that a network takes for a category has no gradient anywhere
    told = first is not None and bool((first != 0).flatten(1).any(0).all())
    return set() if told and own is None else {X}


def _slope(p: Distribution, x: Tensor) -> Tensor | None:
    base = plain(p)
    if isinstance(base, Quantized):
        return None
    found = base.loc if isinstance(base, Normal | MultivariateNormal) else base.logits
    return torch.autograd.grad(found.sum(), x, allow_unused=True, retain_graph=True)[0] if found.requires_grad else None


def names(p: Distribution) -> list[str]:
    """The latents in p's order."""
    return list(p.parts) if isinstance(p, Joint) else ["z"]


def part(p: Distribution, name: str, z: Any) -> Distribution:
    """p(z_name | its ancestors)."""
    return p.conditional(name, z) if isinstance(p, Joint) else p


class Latents:
    """The latents of a block while it is coded: their numbers and values, by name."""

    def __init__(self, prior: Distribution, plan: Plan, like: Tensor, samples: int, rows: int):
        self.prior, self.plan, self.like = prior, plan, like
        self.shape = torch.Size([samples, rows])
        self.numbers: dict[str, Tensor] = {}
        self.z: dict[str, Tensor] = {}
        self._priors: dict[str, Distribution] = {}
        self._spaces: dict[str, Space] = {}

    @property
    def values(self) -> Any:
        """z as the model has it."""
        return self.z if isinstance(self.prior, Joint) else self.z["z"]

    def prior_of(self, name: str) -> Distribution:
        """p(z_name | its ancestors), which are known. The same each time: they do not change any more."""
        if name not in self._priors:
            self._priors[name] = part(self.prior, name, self.z)
        return self._priors[name]

    def space(self, name: str) -> Space:
        """The values of a latent, whose ancestors are known where the prior is its line."""
        if name not in self._spaces:
            known = self.plan.spaces.get(name)
            self._spaces[name] = space(self.prior_of(name), self.like, None) if known is None else known
        return self._spaces[name]

    def put(self, name: str, numbers: Tensor) -> None:
        self.numbers[name] = numbers
        self.z[name] = self.space(name).values(numbers)

    def fresh(self, name: str) -> Tensor:
        return torch.zeros(*self.shape, *self.space(name).places, dtype=torch.long)


class BitsBack:
    """The codec of a directed model.

    Args:
        samples: K, of the importance-sampled form; 1 is the plain one.
        batch: a block of data as they will be, to ask the model by.

    Raises:
        CapabilityError: a prior, posterior or likelihood that has no code.
    """

    def __init__(self, model: DirectedModel, batch: Batch, samples: int = 1):
        self.model, self.samples = model, samples
        self.plan = planned(model, batch, samples)

    def bank(self, batch: Batch) -> int:
        """Words that a block may borrow at most."""
        drawn = self.model.prior(batch.frame).sample((1,))  # type: ignore[arg-type]
        return self.samples * latents.numel(drawn) + ROOM

    def push(self, rows: Rows, stack: Stack, ledger: dict[str, float], content: Content | None) -> None:
        """Push a block; what each part of it adds, in bits, is added to `ledger`, and that of x also to `content`."""
        if self.samples > 1:
            self._push_sampled(rows, stack, ledger, content)
            return
        q, known = self.model.posterior(rows.batch.cut()), self._latents(rows)
        for step in self.plan.steps:
            before = stack.bits
            if step.draws:
                self._draw(q, step.name, known, self._all(rows), stack)
            elif step.name == X:
                self._push_x(rows, known, stack, content)
            else:
                self._push_latent(step.name, known, self._all(rows), stack)
            ledger[step.name or "x"] = ledger.get(step.name or "x", 0.0) + stack.bits - before

    def pop(self, rows: Rows, stack: Stack) -> Rows:
        """The block whose x was pushed."""
        if self.samples > 1:
            return self._pop_sampled(rows, stack)
        known, q = self._latents(rows), None
        for step in reversed(self.plan.steps):
            if step.draws:
                # a posterior that does not look at x may be asked for before x is known
                q = q or self.model.posterior(rows.batch.cut())
                self._undraw(q, step.name, known, self._all(rows), stack)
            elif step.name == X:
                rows, q = self._pop_x(rows, known, stack), None
            else:
                self._pop_latent(step.name, known, self._all(rows), stack)
        return rows

    def _latents(self, rows: Rows, samples: int = 1) -> Latents:
        prior = self.model.prior(self._frame(rows))
        return Latents(prior, self.plan, self.model.anchor, samples, rows.batch.size)

    def _frame(self, rows: Rows) -> Any:
        frame = rows.batch.frame
        return frame if rows.steps is None else frame._replace(lengths=None, steps=rows.steps)

    def _all(self, rows: Rows, samples: int = 1) -> Tensor:
        return torch.ones(samples * rows.batch.size, dtype=torch.bool)

    def _walk(self, p: Distribution, of: Space, here: Tensor, drawn: bool) -> walks.Walk:
        where = here.unsqueeze(-1).expand(-1, of.places.numel())
        return of.walk(plain(p), where, drawn)

    def _draw(self, q: Distribution, name: str, known: Latents, here: Tensor, stack: Stack) -> None:
        numbers, p = known.fresh(name), part(q, name, known.z)
        base = plain(p)
        if isinstance(base, Quantized):
            numbers = base.codes.expand(numbers.shape).contiguous()
        walks.pop(self._walk(p, known.space(name), here, True), numbers.view(len(here), -1), stack)
        known.put(name, numbers)

    def _undraw(self, q: Distribution, name: str, known: Latents, here: Tensor, stack: Stack) -> None:
        walk = self._walk(part(q, name, known.z), known.space(name), here, True)
        walks.push(walk, known.numbers[name].view(len(here), -1), stack)

    def _push_latent(self, name: str, known: Latents, here: Tensor, stack: Stack) -> None:
        p, of, numbers = known.prior_of(name), known.space(name), known.numbers[name].view(len(here), -1)
        mixture = plain(p)
        if not isinstance(mixture, Mixture):
            walks.push(self._walk(p, of, here, False), numbers, stack)
            return
        # which component it is of is a latent too, whose posterior is exact
        which = Choices(_shares(mixture, known.z[name])).pop(stack)
        walks.push(self._walk(_component(mixture, which), of, here, False), numbers, stack)
        self._weights(mixture, len(here)).slots(which).push(stack)

    def _pop_latent(self, name: str, known: Latents, here: Tensor, stack: Stack) -> None:
        p, of, numbers = known.prior_of(name), known.space(name), known.fresh(name)
        flat, mixture = numbers.view(len(here), -1), plain(p)
        if not isinstance(mixture, Mixture):
            walks.pop(self._walk(p, of, here, False), flat, stack)
            known.put(name, numbers)
            return
        which = self._weights(mixture, len(here)).pop(stack)
        walks.pop(self._walk(_component(mixture, which), of, here, False), flat, stack)
        known.put(name, numbers)
        Choices(_shares(mixture, known.z[name])).slots(which).push(stack)

    @staticmethod
    def _weights(mixture: Mixture, count: int) -> Choices:
        return Choices(mixture.log_weights.exp().unsqueeze(0), np.zeros(count, dtype=np.int64))

    def _push_x(self, rows: Rows, known: Latents, stack: Stack, content: Content | None) -> None:
        assert rows.numbers is not None  # who encodes knows x
        p = self.model.likelihood(known.values, self._frame(rows))
        walks.push(walks.walk(p, rows.asked(True)), rows.numbers, stack, content)

    def _pop_x(self, rows: Rows, known: Latents, stack: Stack) -> Rows:
        p = self.model.likelihood(known.values, self._frame(rows))
        x = torch.zeros(rows.batch.size, rows.batch.x[0].numel(), dtype=torch.long)
        walks.pop(walks.walk(p, rows.asked(False)), x, stack)
        return ended(rows.of(x), p)

    # ------------------------------------------------------------------------------------ the importance-sampled form

    def _push_sampled(self, rows: Rows, stack: Stack, ledger: dict[str, float], content: Content | None) -> None:
        start = stack.bits
        many, every = self._latents(rows, self.samples), self._all(rows, self.samples)
        q = self.model.posterior(rows.batch.cut())
        for name in self.plan.order:
            self._draw(q, name, many, every, stack)
        chosen = torch.from_numpy(self._shares(rows, q, many).pop(stack))
        others = every & (torch.arange(self.samples).unsqueeze(-1) != chosen).flatten()
        for name in reversed(self.plan.order):
            self._undraw(q, name, many, others, stack)
        place = torch.arange(len(chosen))
        one = self._one(rows, {name: found[chosen, place] for name, found in many.numbers.items()})
        before = stack.bits
        self._push_x(rows, one, stack, content)
        told = stack.bits - before
        for step in self.plan.steps:
            if not step.draws and step.name != X:
                self._push_latent(step.name, one, self._all(rows), stack)
        self._even(rows).slots(chosen.numpy()).push(stack)
        ledger["x"] = ledger.get("x", 0.0) + told
        ledger["z"] = ledger.get("z", 0.0) + stack.bits - start - told

    def _pop_sampled(self, rows: Rows, stack: Stack) -> Rows:
        chosen = torch.from_numpy(self._even(rows).pop(stack))
        one = self._latents(rows)
        for step in reversed(self.plan.steps):
            if not step.draws and step.name != X:
                self._pop_latent(step.name, one, self._all(rows), stack)
        rows = self._pop_x(rows, one, stack)
        many, every = self._latents(rows, self.samples), self._all(rows, self.samples)
        others = every & (torch.arange(self.samples).unsqueeze(-1) != chosen).flatten()
        q, place = self.model.posterior(rows.batch.cut()), torch.arange(len(chosen))
        for name in self.plan.order:
            self._draw(q, name, many, others, stack)
            numbers = many.numbers[name]
            numbers[chosen, place] = one.numbers[name][0]
            many.put(name, numbers)
        self._shares(rows, q, many).slots(chosen.numpy()).push(stack)
        for name in reversed(self.plan.order):
            self._undraw(q, name, many, every, stack)
        return rows

    def _one(self, rows: Rows, numbers: dict[str, Tensor]) -> Latents:
        """Latents of these numbers (B, *places): values are found from the top down, as the receiver does."""
        known = self._latents(rows)
        for name in names(known.prior):
            known.put(name, numbers[name].unsqueeze(0))
        return known

    def _shares(self, rows: Rows, q: Distribution, many: Latents) -> Choices:
        """p(x, z_k) / q(z_k | x) of the K samples of each datum."""
        batch = rows.batch.cut()
        log_q = sum(part(q, name, many.z).log_prob(many.z[name]) for name in self.plan.order)
        log_weight = self.model.log_joint(batch, many.values) - log_q
        return Choices(log_weight.double().softmax(0).T)

    def _even(self, rows: Rows) -> Choices:
        return Choices(torch.ones(1, self.samples), np.zeros(rows.batch.size, dtype=np.int64))


def ended(rows: Rows, p: Distribution) -> Rows:
    """The block with the lengths that p itself says, where they were not known before."""
    if rows.steps is None:
        return rows
    lengths = observed.ends(p, rows.batch.x)
    assert lengths is not None  # as the model tells the ends
    return rows._replace(batch=rows.batch._replace(lengths=lengths.reshape(-1)))


def _shares(mixture: Mixture, z: Tensor) -> Tensor:
    """p(component | z), (S * B, K)."""
    flat = z.flatten(0, 1).unsqueeze(1)
    return (mixture.log_weights + mixture.parts.log_prob(flat)).double().softmax(-1)


def _component(mixture: Mixture, which: np.ndarray) -> Distribution:
    """The component that each z is of, batch shape (S * B,)."""
    base, k = plain(mixture.parts), torch.from_numpy(which)
    if isinstance(base, MultivariateNormal):
        return MultivariateNormal(base.loc[k], scale_tril=base.scale_tril[k], validate_args=False)
    return Independent(Normal(base.loc[k], base.scale[k], validate_args=False), 1, validate_args=False)
