"""Direct coding: x itself, value by value, where p(x_d | x_1, ..., x_{d-1}) is had in closed form.

    z one of K values, x_d independent given z:   p(x_d | x_<d) = sum_k p(k | x_<d) p(x_d | k)
    z a chain of states:                          the same, with p(z_t | x_<t) by the filter
    x symbols that a network writes, z one of K:  the same, with p(x_t | k, x_<t) by what network k remembers

The length is -log2 p(x), and nothing is borrowed.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

from latentia.batch import Frame
from latentia.codec import walks
from latentia.codec.bits_back import Rows, ended
from latentia.codec.factors import Choices
from latentia.codec.lattice import Lattice
from latentia.codec.stack import Stack
from latentia.codec.walks import Asked, Content, Question, Walk, after, counts_up_to
from latentia.distributions import Chain, OneHot
from latentia.distributions.chain import shared_steps
from latentia.distributions.columns import ByColumn
from latentia.distributions.observed import plain
from latentia.distributions.sentence import AutoregressiveCategorical
from latentia.errors import CapabilityError
from latentia.model import DirectedModel


class Tables:
    """p(x_d | k) of all values of each column. Args: found: (K, V) for each of D columns; or one for all."""

    def __init__(self, found: list[Tensor] | Tensor):
        self.found = found

    def __getitem__(self, column: int) -> Tensor:
        return self.found if isinstance(self.found, Tensor) else self.found[column]


@singledispatch
def tables(p: Distribution, lattice: Lattice) -> list[Tensor]:
    """p(x_d = v | k) of p with batch shape (K, 1, D), (K, V) float64 for each of its D columns.

    Raises:
        CapabilityError: a family whose values cannot be gone through.
    """
    raise CapabilityError(f"{type(p).__name__} has no code: register its probabilities with codec.direct.tables")


@tables.register
def _(p: Independent, lattice: Lattice) -> list[Tensor]:
    return tables(p.base_dist, lattice)


@tables.register
def _(p: Bernoulli, lattice: Lattice) -> list[Tensor]:
    ones = p.probs.flatten(1).double()
    return list(torch.stack([1 - ones, ones], -1).unbind(1))


@tables.register
def _(p: Categorical, lattice: Lattice) -> list[Tensor]:
    return [part.double() for part in p.probs.flatten(1, -2).unbind(1)]


@tables.register
def _(p: Poisson, lattice: Lattice) -> list[Tensor]:
    return list(counts_up_to(p.rate.flatten(1), lattice.levels).unbind(1))


@tables.register
def _(p: Normal, lattice: Lattice) -> list[Tensor]:
    loc, scale = (part.flatten(1).double() for part in (p.loc, p.scale))
    shift, width = (torch.from_numpy(part).expand(loc.shape[1]) for part in lattice[:2])
    edges = torch.from_numpy(lattice.edges())
    below = [
        torch.special.ndtr((shift[d] + width[d] * edges - loc[:, d : d + 1]) / scale[:, d : d + 1])
        for d in range(loc.shape[1])
    ]
    return [part.diff(dim=-1).clamp(min=0) for part in below]


@tables.register
def _(p: ByColumn, lattice: Lattice) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for part, columns in p.parts:
        own = Asked(torch.ones(1, len(p.columns), dtype=torch.bool), lattice).part(columns).lattice
        found.update(zip(columns, tables(part, own), strict=True))
    return [found[d] for d in sorted(found)]


class Direct:
    """The codec of a model whose z is finite or a chain, and summed out as x goes on.

    Raises:
        CapabilityError: the prior is neither, or the likelihood is no such.
    """

    def __init__(self, model: DirectedModel, rows: Rows):
        self.model = model
        prior = model.prior(rows.batch.frame)
        if not isinstance(prior, OneHot | Chain):
            raise CapabilityError(
                f"{type(model).__name__} has no direct code: its z is neither one of K values nor a chain of states"
            )
        if isinstance(prior, Chain) and shared_steps(prior) is None:
            raise CapabilityError(f"{type(model).__name__} has no direct code: its chain has steps of several kinds")
        self.walk(rows, False)

    def push(self, rows: Rows, stack: Stack, ledger: dict[str, float], content: Content | None) -> None:
        """Push a block; what it adds, in bits, is added to `ledger` as "x", and value by value to `content`."""
        assert rows.numbers is not None  # who encodes knows x
        before = stack.bits
        walks.push(self.walk(rows, True), rows.numbers, stack, content)
        ledger["x"] = ledger.get("x", 0.0) + stack.bits - before

    def pop(self, rows: Rows, stack: Stack) -> Rows:
        """The block whose x was pushed."""
        x = torch.zeros(rows.batch.size, rows.batch.x[0].numel(), dtype=torch.long)
        walks.pop(self.walk(rows, False), x, stack)
        return rows.of(x) if rows.steps is None else ended(rows.of(x), self._likelihood(rows))

    def bank(self, batch: Any) -> int:
        """Words that are borrowed: none."""
        return 0

    def walk(self, rows: Rows, known: bool) -> Walk:
        """The questions of a block."""
        prior: Any = self.model.prior(rows.batch.frame)
        asked = rows.asked(known)
        if isinstance(prior, Chain):
            return self._chain(prior, rows, asked)
        share = prior.log_potentials["node"][0].double().softmax(-1)
        p = self._likelihood(rows)
        if isinstance(p, AutoregressiveCategorical):
            return walks.sentences(p, asked, share)
        share = share.unsqueeze(-1).expand(-1, rows.batch.size)
        return _columns(share, self._tables(rows, p), asked, range(asked.where.shape[1]))

    def _likelihood(self, rows: Rows) -> Distribution:
        """p(x | k) of each k, (K, B): of one datum where x is no sentence."""
        frame = rows.batch.frame
        prior: Any = self.model.prior(frame)
        if isinstance(prior, OneHot):
            every = torch.eye(prior.event_shape[-1]).to(self.model.anchor)
            z = every.unsqueeze(1).expand(-1, frame.size, -1)
            p = self.model.likelihood(z, frame)
            if isinstance(p, AutoregressiveCategorical):
                return p
            one = Frame(1, None if frame.lengths is None else frame.lengths[:1], None, frame.steps)
            return self.model.likelihood(every.unsqueeze(1), one)
        every = torch.eye(prior.event_shape[-1]).to(self.model.anchor)
        return self.model.likelihood(every[:, None, None], Frame(1, torch.ones(1, dtype=torch.long), None, 1))

    def _tables(self, rows: Rows, p: Distribution) -> Tables:
        inner: Any = plain(p)
        if isinstance(inner, Categorical) and inner.batch_shape.numel() > len(inner.probs) and _alike(inner.probs):
            # a bag of words has the same table for each
            return Tables(inner.probs.flatten(1, -2)[:, 0].double())
        return Tables(tables(inner, rows.lattice))

    def _chain(self, prior: Chain, rows: Rows, asked: Asked) -> Walk:
        steps = shared_steps(prior)
        assert steps is not None  # __init__ has checked it
        initial, transition = (part.double() for part in steps)
        found, count = self._tables(rows, self._likelihood(rows)), rows.batch.x.shape[1]
        width = asked.where.shape[1] // max(count, 1)
        share = initial.unsqueeze(-1).expand(-1, rows.batch.size)
        for t in range(count):
            share = yield from _columns(share, found, asked, range(t * width, (t + 1) * width))
            share = transition.T @ share


def _columns(share: Tensor, found: Tables, asked: Asked, columns: range) -> Any:
    """Column after column, given p(k), (K, B); returns p(k | these columns)."""
    for place, d in enumerate(columns):
        rows = torch.arange(len(asked.where)) if asked.complete else asked.where[:, d].nonzero().squeeze(-1)
        if not len(rows):
            continue
        table = found[place]
        # of all rows, so that the product has one shape on both sides
        chance = (table.T @ share).T
        every = len(rows) == len(chance)
        answer = yield Question(Choices(chance if every else chance[rows]), rows, torch.full_like(rows, d))
        likelihood = table[:, answer]
        share = (
            after(share, likelihood, 0) if every else share.index_copy(1, rows, after(share[:, rows], likelihood, 0))
        )
    return share


def _alike(probs: Tensor) -> bool:
    """Whether all columns (K, 1, D, V) are one in memory."""
    return probs.ndim > 2 and probs.stride(-2) == 0
