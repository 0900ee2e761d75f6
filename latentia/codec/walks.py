"""How x is coded given a distribution: question by question, each a factor and the places in x that it is of.

A walk is a generator that yields questions and is sent the answers, the numbers of the values at those places. It is
the same for both sides: who encodes knows the answers, who decodes pops them. `walk` is dispatched on the type of the
distribution, as `distributions.observed` is; a family of your own joins by `walk.register`.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

from latentia.codec.factors import Bits, Cells, Choices, Factor, Slots
from latentia.codec.lattice import Lattice
from latentia.codec.stack import Stack
from latentia.distributions.autoregressive import AutoregressiveBernoulli
from latentia.distributions.bag import Bag, MixedBag
from latentia.distributions.columns import ByColumn
from latentia.distributions.decoding import FULL
from latentia.distributions.emissions import Emitted
from latentia.distributions.sentence import AutoregressiveCategorical
from latentia.errors import CapabilityError


class Question(NamedTuple):
    """Attributes:
    factor: of N symbols.
    rows, columns: (N,), where they are in x (B, D); None for all of it, row by row.
    """

    factor: Factor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def answer(self, x: Tensor) -> Tensor:
        """Of x (B, D)."""
        return x.reshape(-1) if self.rows is None else x[self.rows, self.columns]


Walk = Generator[Question, Tensor, None]


class Asked(NamedTuple):
    """What a walk is of.

    Attributes:
        where: (B, D), which values are coded: those of the data that there are, observed and inside.
        lattice: the values that x may have.
        x: (B, D), their numbers, where they are known: some walks are faster then.
        complete: all values are coded.
    """

    where: Tensor
    lattice: Lattice
    x: Tensor | None = None
    complete: bool = False

    def of(self, parameters: Tensor, *behind: int) -> Tensor:
        """A distribution's parameters (B, D, *behind) of the values that are coded, (N, *behind), in their order."""
        if self.complete:
            return parameters.reshape(-1, *behind)
        return parameters.reshape(*self.where.shape, *behind)[self.where]

    def all(self, factor: Factor) -> Question:
        """All values at once."""
        return Question(factor) if self.complete else Question(factor, *self.where.nonzero(as_tuple=True))

    def part(self, columns: list[int]) -> Asked:
        """Of some columns alone."""
        shift, width = (part if len(part) == 1 else part[columns] for part in self.lattice[:2])
        lattice = Lattice(shift, width, self.lattice.levels)
        return Asked(self.where[:, columns], lattice, None if self.x is None else self.x[:, columns])


class Content(NamedTuple):
    """The information content of x in bits, summed over data: where the bits go.

    Attributes:
        columns: (D,), of each column; values: (V,), of each value.
    """

    columns: Tensor
    values: Tensor

    def add(self, asked: Question, answer: Tensor, slots: Slots, width: int) -> None:
        """Of an answer to a question about x (B, width)."""
        content = torch.from_numpy(slots.bits)
        if asked.columns is None:
            self.columns[:width] += content.view(-1, width).sum(0)
        else:
            self.columns.index_add_(0, asked.columns, content.double())
        if len(self.values):
            self.values.index_add_(0, answer, content.double())


def push(walk: Walk, x: Tensor, stack: Stack, content: Content | None = None) -> None:
    """Push x (B, D) int64, so that `pop` finds its first question's answer on top."""
    found, answer = [], None
    while (asked := _next(walk, answer)) is not None:
        answer = asked.answer(x)
        slots = asked.factor.slots(answer.numpy())
        found.append(slots)
        if content is not None:
            content.add(asked, answer, slots, x.shape[1])
    for slots in reversed(found):
        slots.push(stack)


def pop(walk: Walk, x: Tensor, stack: Stack) -> None:
    """Pop what `push` has pushed into x (B, D) int64."""
    answer = None
    while (asked := _next(walk, answer)) is not None:
        answer = torch.from_numpy(asked.factor.pop(stack))
        if asked.rows is None:
            x.view(-1)[:] = answer
        else:
            x[asked.rows, asked.columns] = answer


def _next(walk: Walk, answer: Tensor | None) -> Question | None:
    """The question after an answer; None where there is none left."""
    try:
        return next(walk) if answer is None else walk.send(answer)
    except StopIteration:
        return None


@singledispatch
def walk(p: Distribution, asked: Asked) -> Walk:
    """The questions of p(x), batch shape (1, B, *event) or (1, B).

    Raises:
        CapabilityError: a family of which it is not known how to code it.
    """
    raise CapabilityError(f"{type(p).__name__} has no code: register how it is walked with codec.walks.walk")


@walk.register
def _(p: Independent, asked: Asked) -> Walk:
    return walk(p.base_dist, asked)


@walk.register
def _(p: Emitted, asked: Asked) -> Walk:
    return walk(p.plain, asked)


@walk.register
def _(p: Bernoulli, asked: Asked) -> Walk:
    yield asked.all(Bits(asked.of(p.probs)))


@walk.register
def _(p: Categorical, asked: Asked) -> Walk:
    yield asked.all(Choices(asked.of(p.probs, p.probs.shape[-1])))


@walk.register
def _(p: Poisson, asked: Asked) -> Walk:
    yield asked.all(Choices(counts_up_to(asked.of(p.rate), asked.lattice.levels)))


@walk.register
def _(p: Normal, asked: Asked) -> Walk:
    lattice, columns = asked.lattice, asked.where.nonzero()[:, 1].numpy()
    shift, width = (part[columns % len(part)] for part in lattice[:2])
    loc, scale = (asked.of(part).double().numpy() for part in (p.loc, p.scale))
    yield asked.all(Cells(lattice.edges(), shift, width, loc, scale, floor=True, normal=False))


@walk.register(Bag)
@walk.register(MixedBag)
def _(p: Any, asked: Asked) -> Walk:
    probs = p.log_probs.exp() if isinstance(p, Bag) else p.share @ p.probs
    rows, _ = asked.where.nonzero(as_tuple=True)
    yield asked.all(Choices(probs[0], rows.numpy()))


@walk.register
def _(p: ByColumn, asked: Asked) -> Walk:
    for part, columns in p.parts:
        inner, answer, whole = walk(part, asked.part(columns)), None, torch.tensor(columns)
        while (question := _next(inner, answer)) is not None:
            assert question.columns is not None  # as a part is never complete
            answer = yield question._replace(columns=whole[question.columns])


@walk.register
def _(p: AutoregressiveBernoulli, asked: Asked) -> Walk:
    """Column by column. Logits do not depend on what comes later, which is multiplied by zeros, so that those of a
    single pass over an x that is known are the very same numbers."""
    x = torch.zeros(asked.where.shape, dtype=p.like.dtype) if asked.x is None else asked.x.to(p.like.dtype)
    columns, rows = asked.where.T.nonzero(as_tuple=True)

    def chances() -> Tensor:
        return p.logits(x).reshape(asked.where.shape).sigmoid()

    if asked.x is not None:
        yield Question(Bits(chances()[rows, columns]), rows, columns)
        return
    for d in range(x.shape[1]):
        mine = rows[columns == d]
        if len(mine):
            x[mine, d] = (yield Question(Bits(chances()[mine, d]), mine, torch.full_like(mine, d))).to(x)


@walk.register
def _(p: AutoregressiveCategorical, asked: Asked) -> Walk:
    return sentences(p, asked, p.like.new_ones(1))


def sentences(p: AutoregressiveCategorical, asked: Asked, weights: Tensor) -> Walk:
    """Symbol after symbol of sum_k weights[k] p_k(x), p having the batch shape (K, B): the state of each network is
    remembered, and so is how probable each of them has become, p(k | x_1, ..., x_t).

    Both sides leave rows out, once they have ended, at the same steps.
    """
    count, steps = p.batch_shape[0], p.event_shape[0]
    logits, state = p.words.begin()
    rows, where = torch.arange(p.batch_shape[1]), asked.where.clone()
    share = weights.double().expand(len(rows), -1)
    for t in range(steps):
        going = where[rows, t]
        if not bool(going.any()):
            return
        probs = logits.softmax(-1).unflatten(0, (count, -1))
        mixed = probs[0] if count == 1 else torch.einsum("rk,krv->rv", share, probs.double())
        here = going.nonzero().squeeze(-1)
        answer = yield Question(Choices(mixed, here.numpy()), rows[here], torch.full_like(here, t))
        if t + 1 == steps:
            return
        symbol = torch.zeros_like(rows).index_copy(0, here, answer)
        if count > 1:
            share = after(share, probs.gather(-1, symbol.expand(count, -1).unsqueeze(-1)).squeeze(-1).T)
        if p.end is not None:
            going = going & (symbol != p.end)
            where[rows[~going]] = False
        if int(going.sum()) <= FULL * len(rows):
            kept = going.nonzero().squeeze(-1)
            if not len(kept):
                return
            at = (torch.arange(count).unsqueeze(-1) * len(rows) + kept).flatten()
            state, rows = {name: part[at] for name, part in state.items()}, rows[kept]
            share, symbol = share[kept], symbol[kept]
        logits, state = p.words.step(symbol.repeat(count), state)


def after(share: Tensor, chance: Tensor, dim: int = -1) -> Tensor:
    """p(k | x) from p(k) and p(x | k), k along `dim`: p(k) still where no k could have given x."""
    found = share * chance.double()
    total = found.sum(dim, keepdim=True)
    if bool((total > 0).all()):
        return found.div_(total)
    return torch.where(total > 0, found / total.where(total > 0, 1.0), share)


def counts_up_to(rate: Tensor, count: int) -> Tensor:
    """Poisson probabilities of 0, ..., count - 1, (..., count), up to a factor."""
    number = torch.arange(count, dtype=torch.float64)
    rate = rate.double().unsqueeze(-1)
    return (torch.special.xlogy(number, rate) - rate - torch.lgamma(number + 1)).softmax(-1)
