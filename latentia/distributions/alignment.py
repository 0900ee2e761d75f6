"""Where each piece of one sequence comes from in another: CTC's alignments, and a source position for each target step.

A source position for each step that depends on the one before is a `Chain`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, OneHotCategorical, constraints

from latentia.distributions import observed
from latentia.distributions.semiring import IMPOSSIBLE, Semiring, log_sum
from latentia.distributions.structured import Potentials, Structured, below_peak, doubled
from latentia.kernels import ctc as kernel


class Lattice(NamedTuple):
    """Which paths of states there are: at every frame a path emits the column of `node` that its state is labelled by.

    Attributes:
        label: (B, N), the column of each state.
        before: (B or 1, N, P), the states that a state may follow.
        allowed: (B or 1, N, P), whether it may.
        first, last: (B, N), where a path may begin and end.
        empty: (B,), whether the path of no frames is one.
        target: (B, L), ends (B,) and the blank: the strings of which this is CTC's lattice, for its kernel; None of
            other lattices.
    """

    label: Tensor
    before: Tensor
    allowed: Tensor
    first: Tensor
    last: Tensor
    empty: Tensor
    target: Tensor | None = None
    ends: Tensor | None = None
    blank: int = 0

    @classmethod
    def ctc(cls, target: Tensor, ends: Tensor, blank: int, seen: Tensor | None = None) -> Lattice:
        """Frames of symbols 0..blank - 1 and of blanks that collapse to the target: a repeated symbol counts once
        unless blanks come between, and blanks are left out (Graves et al. 2006, section 3.1).

        Args:
            target: (B, L) symbols; ends: (B,), how many each string has.
            blank: the number of symbols, and the column of the blank.
            seen: (B, L), False where a symbol is hidden: any may then stand there.
        """
        hidden = None if seen is None else ~seen & (torch.arange(target.shape[1], device=target.device) < ends[:, None])
        if hidden is not None and bool(hidden.any()):
            return cls._open(target, ends, blank, hidden)
        size, device = 2 * target.shape[1] + 1, target.device
        state = torch.arange(size, device=device)
        label = target.new_full((len(target), size), blank)
        label[:, 1::2] = target
        before = state.unsqueeze(-1) - torch.arange(3, device=device)
        skip = (label != blank) & (label != label.roll(2, 1))
        allowed = (before >= 0).unsqueeze(0).repeat(len(target), 1, 1)
        allowed[..., 2] &= skip
        last = (state == 2 * ends[:, None]) | (state == 2 * ends[:, None] - 1)
        first = (state < 2) & (state <= 2 * ends[:, None])
        return cls(label, before.clamp(min=0).unsqueeze(0), allowed, first, last, ends == 0, target, ends, blank)

    @classmethod
    def _open(cls, target: Tensor, ends: Tensor, blank: int, hidden: Tensor) -> Lattice:
        """A state for each symbol that may stand at a place, and one for the blank behind it."""
        count, places, device = len(target), target.shape[1], target.device
        block = blank + 1
        symbol, place = torch.arange(block, device=device), torch.arange(places, device=device)
        label = torch.cat([symbol.new_full((1,), blank), symbol.repeat(places)]).expand(count, -1)
        may = hidden.unsqueeze(-1) | (symbol[:-1] == target.unsqueeze(-1))
        may = torch.cat([may, torch.ones_like(may[..., :1])], -1).flatten(1)
        may = torch.cat([torch.ones_like(may[:, :1]), may], 1)
        own = (1 + place * block).unsqueeze(-1) + symbol
        # of a symbol: itself, symbols and blank of the place before; of a blank: itself, and its own place's symbols
        ahead = (own[:, :1] - block).unsqueeze(1) + symbol.expand(places, block, block)
        ahead[:, -1] = own[:, :1] + symbol
        before = torch.cat([own.unsqueeze(-1), ahead], -1).flatten(0, 1)
        other = symbol.unsqueeze(0) != symbol.unsqueeze(1)
        allowed = torch.cat([torch.ones_like(other[:, :1]), other], 1).repeat(places, 1)
        before = torch.cat([before.new_zeros(1, block + 1), before])
        allowed = torch.cat([torch.arange(block + 1, device=device).unsqueeze(0) == 0, allowed]) & (before >= 0)
        state = torch.arange(len(before), device=device)
        final = state.unsqueeze(0) > (ends[:, None] - 1) * block
        last = torch.where(ends[:, None] > 0, final & (state <= ends[:, None] * block), state == 0)
        first = (state <= blank) & may & (state <= ends[:, None] * block)
        both = allowed.unsqueeze(0) & may.unsqueeze(-1)
        return cls(label, before.clamp(min=0).unsqueeze(0), both, first, last & may, ends == 0)

    @classmethod
    def monotone(cls, places: int, ends: Tensor) -> Lattice:
        """Frames that go through places 0..ends - 1 in their order, at least one frame each: no blanks."""
        place = torch.arange(places, device=ends.device)
        before = place.unsqueeze(-1) - torch.arange(2, device=ends.device)
        first = (place == 0).expand(len(ends), -1) & (ends > 0)[:, None]
        allowed = (before >= 0).unsqueeze(0)
        last = place == ends[:, None] - 1
        return cls(place.expand(len(ends), -1), before.clamp(min=0).unsqueeze(0), allowed, first, last, ends == 0)

    def select(self, index: Tensor) -> Lattice:
        """Those of the data at `index`."""

        def rows(part: Tensor) -> Tensor:
            return part if len(part) == 1 else part[index]

        target, ends = (None if part is None else part[index] for part in (self.target, self.ends))
        shared = rows(self.before), rows(self.allowed)
        return Lattice(
            self.label[index], *shared, self.first[index], self.last[index], self.empty[index], target, ends, self.blank
        )


class MonotoneAlignment(Structured):
    """score(z) = sum_t node_t[z_t] over the paths of a lattice: the frames of `Lattice.ctc` that collapse to a string,
    or those of `Lattice.monotone` that go through places one after another.

    z is one-hot, (B, T, C), and zero from `lengths` on. With the log-probabilities of independent frames as node, the
    log-partition of CTC's lattice is log p(string | frames), -inf where the string needs more frames than there are,
    and `mode` is the forced alignment.

    Args:
        log_potentials: `node` (B, T, C).
        lattice: the paths.
        lengths: (B,), T where it is left out.
        logits: (B, T, C), where node is their log-softmax: the kernel is then fused with it.

    Reference: Graves, Fernandez, Gomez and Schmidhuber (2006), "Connectionist temporal classification", section 4.1.
    """

    dimensions: ClassVar = {"node": 2}

    def __init__(
        self,
        log_potentials: Potentials,
        lattice: Lattice,
        lengths: Tensor | None = None,
        sum: Semiring = log_sum,
        logits: Tensor | None = None,
    ):
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lattice, self.logits = lattice, logits
        self.lengths = (
            torch.full((len(lattice.label),), node.shape[-2], device=node.device) if lengths is None else lengths
        )

    @classmethod
    def of_logits(cls, logits: Tensor, lattice: Lattice, lengths: Tensor | None = None) -> Self:
        """Of frames whose symbols have the probabilities softmax(logits)."""
        return cls({"node": logits.log_softmax(-1)}, lattice, lengths, logits=logits)

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lattice, self.lengths, sum)

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        node, lattice = log_potentials["node"], self.lattice
        label = lattice.label.unsqueeze(-2).expand(*node.shape[:-1], -1)
        nodes = node.gather(-1, label).unbind(-2)
        shut = torch.where(lattice.allowed, 0.0, IMPOSSIBLE).to(node)
        forward = sum.start(nodes[0] + torch.where(lattice.first, 0.0, IMPOSSIBLE).to(node))
        before = lattice.before.flatten(-2)
        for t, emitted in enumerate(nodes[1:], start=1):
            behind = forward.gather(-1, before.expand(*forward.shape[:-1], -1)).unflatten(-1, lattice.before.shape[-2:])
            forward = torch.where((t < self.lengths).unsqueeze(-1), sum(behind + shut, -1) + emitted, forward)
        total = sum(forward + torch.where(lattice.last, 0.0, IMPOSSIBLE).to(node), -1)
        none = sum.start(torch.where(lattice.empty, 0.0, IMPOSSIBLE).to(node).expand(node.shape[:-2]))
        total = torch.where(self.lengths > 0, total, none)
        # no gradient where there is no path
        return torch.where(total.detach() < IMPOSSIBLE / 10, IMPOSSIBLE, total)

    def fused(self, log_potentials: Potentials) -> Tensor:
        node, target, ends = log_potentials["node"], self.lattice.target, self.lattice.ends
        if target is None or ends is None or node.ndim != 3 or node.device.type != "cpu":
            return self._summed(log_potentials)
        softmax = self.logits is not None and log_potentials is self.log_potentials
        given = self.logits if softmax and self.logits is not None else node
        value, safe = kernel.log_partition(given, self.lengths, target, ends, self.lattice.blank, softmax)
        value = value.to(node)
        lost = (~safe).nonzero().squeeze(-1)
        if len(lost) == 0:
            return value
        again = type(self)({"node": node[lost]}, self.lattice.select(lost), self.lengths[lost])
        return value.index_put((lost,), again._summed(again.log_potentials))

    def centred(self) -> Self:
        return self._with({"node": below_peak(self.log_potentials["node"].double())}, self.sum)

    def score(self, z: Tensor) -> Tensor:
        return torch.where(_ends_there(z, self.lengths), super().score(z), -torch.inf)

    @property
    def impossible(self) -> Tensor:
        """(B,), True where no path is possible: a string that needs more frames than there are."""
        zero = self._with({"node": torch.zeros_like(self.log_potentials["node"])})
        return zero.log_partition == -torch.inf


def _ends_there(z: Tensor, lengths: Tensor) -> Tensor:
    """Whether z (..., B, T, C) has a state at every step before its end, and none beyond."""
    inside = torch.arange(z.shape[-2], device=z.device) < lengths.unsqueeze(-1)
    return ((z > 0).any(-1) == inside).all(-1)


class LatentAlignment(Structured):
    """score(z) = sum_t node_t[z_t]: for each of T steps one of K source positions, independent of each other.

    z is one-hot, (B, T, K), and zero from `lengths` on. Its posterior under likelihoods that depend on z_t alone, or on
    z_t and what came before in x, is of the same form: attention that is summed out.

    Args:
        log_potentials: `node` (B, T, K).
        lengths: (B,), T where it is left out.

    Reference: Brown et al. (1993), "The mathematics of statistical machine translation", section 4.2; Deng et al.
    (2018), "Latent alignment and variational attention", section 3.
    """

    dimensions: ClassVar = {"node": 2}

    def __init__(self, log_potentials: Potentials, lengths: Tensor | None = None, sum: Semiring = log_sum):
        super().__init__(log_potentials, sum)
        node = self.log_potentials["node"]
        self.lengths = torch.full((1,), node.shape[-2], device=node.device) if lengths is None else lengths

    def _with(self, log_potentials: Potentials, sum: Semiring = log_sum) -> Self:
        return type(self)(log_potentials, self.lengths, sum)

    def _inside(self) -> Tensor:
        """(B or 1, T), True before the end."""
        steps = torch.arange(self.event_shape[0], device=self.lengths.device)
        return steps < self.lengths.unsqueeze(-1)

    def recursion(self, log_potentials: Potentials, sum: Semiring) -> Tensor:
        node = log_potentials["node"]
        value = sum.start(node.new_zeros(node.shape[:-2]))
        for t, emitted in enumerate(node.unbind(-2)):
            value = torch.where(t < self.lengths, sum(value.unsqueeze(-1) + emitted, -1), value)
        return value

    def fused(self, log_potentials: Potentials) -> Tensor:
        each = log_potentials["node"].logsumexp(-1)
        return torch.where(self._inside(), each, 0.0).double().sum(-1).to(each)

    def centred(self) -> Self:
        return self._with({"node": below_peak(self.log_potentials["node"].double())}, self.sum)

    def _marginals(self) -> Tensor:
        if self.sum is not log_sum:
            return super()._marginals()
        return self.log_potentials["node"].double().softmax(-1) * self._inside().unsqueeze(-1)

    def _expected_score(self, others: Potentials) -> Tensor:
        if self.sum is not log_sum:
            return super()._expected_score(others)
        return (self._marginals() * doubled(others)["node"]).sum((-1, -2))

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        if self.sum is not log_sum:
            return super().sample(sample_shape)
        node = self.log_potentials["node"].detach()
        drawn = OneHotCategorical(logits=node, validate_args=False).sample(torch.Size(sample_shape))
        return drawn * self._inside().unsqueeze(-1)

    def score(self, z: Tensor) -> Tensor:
        value = torch.where(z > 0, z * self.log_potentials["node"], 0.0).sum((-1, -2))
        wrong = ~_ends_there(z, self.lengths) | (value < IMPOSSIBLE / 10)
        return torch.where(wrong, -torch.inf, value)


def collapsed(z: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """The strings that frames collapse to: repeats once, then no blanks.

    Args:
        z: (..., T, blank + 1), one-hot, zero beyond the end.

    Returns:
        Symbols (..., T), zeros behind the end, and how many there are, (...).
    """
    symbol = torch.where(z.sum(-1) > 0, z.argmax(-1), blank)
    before = torch.cat([torch.full_like(symbol[..., :1], blank), symbol[..., :-1]], -1)
    kept = (symbol != blank) & (symbol != before)
    # a stable sort brings those that are kept to the front
    order = (~kept).long().argsort(dim=-1, stable=True)
    count = kept.sum(-1)
    symbols = symbol.gather(-1, order)
    return torch.where(torch.arange(z.shape[-2], device=z.device) < count.unsqueeze(-1), symbols, 0), count


class Collapsed(Distribution):
    """The string that frames collapse to, and no other: p(x | z) is 1 or 0. Batch shape (S, B), x (L,).

    How many symbols x has is part of the outcome, and no symbol says where it ends: x of a given number of symbols are
    those of a batch with lengths.

    Args:
        z: (S, B, T, C), one-hot, the last of the C columns the blank.
        steps: L, the room of x; a string with more symbols is no x.
        lengths: (B,), how many symbols each x has, where that is known.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict
    any_length = True

    def __init__(self, z: Tensor, steps: int, lengths: Tensor | None = None):
        self.z, self.known = z, lengths
        super().__init__(z.shape[:2], torch.Size([steps]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.z.shape[-1] - 2)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        if len(sample_shape):
            raise NotImplementedError("there is one string only: make samples part of the batch shape")
        symbols, _ = collapsed(self.z, self.z.shape[-1] - 1)
        return _fitted(symbols, self.event_shape[0])

    def log_prob(self, value: Tensor) -> Tensor:
        return self.matches(value, None)

    def matches(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """0 where the string is x (B, L) wherever that is observed, -inf elsewhere, (S, B)."""
        symbols, count = collapsed(self.z, self.z.shape[-1] - 1)
        lengths = torch.full_like(x[:, 0], x.shape[1]) if self.known is None else self.known
        inside = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)
        asked = inside if mask is None else inside & mask
        same = ((_fitted(symbols, x.shape[1]) == x) | ~asked).all(-1) & (count == lengths)
        return torch.where(same, 0.0, -torch.inf).to(self.z)


def _fitted(symbols: Tensor, steps: int) -> Tensor:
    """(..., T) cut or filled up with zeros to (..., steps)."""
    return torch.nn.functional.pad(symbols, (0, steps - symbols.shape[-1]))


@observed.log_prob.register
def _(p: Collapsed, x: Tensor, mask: Tensor | None) -> Tensor:
    return p.matches(x, mask)


@observed.given.register
def _(p: Collapsed, x: Tensor, mask: Tensor | None) -> Distribution:
    """The string itself, whatever is seen of it: frames that are drawn given that collapse to no other."""
    return p


@observed.expected.register
def _(p: Collapsed) -> Tensor:
    return p.sample().to(p.z)


@observed.ending.register
def _(p: Collapsed, lengths: Tensor | None) -> Collapsed:
    return Collapsed(p.z, p.event_shape[0], lengths)


@observed.ends.register
def _(p: Collapsed, x: Tensor) -> Any:
    return collapsed(p.z, p.z.shape[-1] - 1)[1]
