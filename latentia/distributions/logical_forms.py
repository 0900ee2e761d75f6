"""Distributions over the forms of a grammar: actions one after another, each among those that keep it a form."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from latentia.distributions.decoding import Decoding, State, beam, decode
from latentia.distributions.grammar import ANY, STOP, Grammar
from latentia.distributions.structured import Structured

BREADTH = 32
"""Forms that a mean is taken over, and that the search for the best one keeps."""


class Machine(nn.Module):
    """The stacks of the types that are wanted, of rows of forms of at most `most` actions.

    Which actions are admissible is read from a table (types, K + 1): the last action says that a form has ended, and is
    the only one once nothing is wanted. An action that leaves too few for what is wanted then is not admissible: a form
    always ends in time.
    """

    admits: Tensor
    arguments: Tensor
    arity: Tensor
    need: Tensor
    cost: Tensor
    listed: Tensor
    again: Tensor

    def __init__(self, grammar: Grammar, most: int):
        super().__init__()
        self.grammar, self.most, self.actions, none = grammar, most, len(grammar.actions), len(grammar.types)
        number = {name: i for i, name in enumerate(grammar.types)}
        self.width = max(1, *(len(action.types) for action in grammar.actions))
        admits = torch.zeros(none + 1, self.actions + 1, dtype=torch.bool)
        arguments = torch.full((self.actions + 1, self.width), none)
        for name, ways in grammar.admitted.items():
            admits[number[name], ways] = True
        admits[none, self.actions] = True
        for k, action in enumerate(grammar.actions):
            # the first is on top
            arguments[k, : len(action.types)] = torch.tensor([number[t] for t in reversed(action.types)]).long()
        # the end takes nothing from the stack
        arity = torch.tensor([len(action.types) for action in grammar.actions] + [1])
        need = torch.tensor([sum(grammar.costs[t] for t in a.types) for a in grammar.actions] + [0])
        cost = torch.tensor([grammar.costs[name] for name in grammar.types] + [0])
        listed = torch.tensor([name.endswith(ANY) for name in grammar.types] + [False])
        stop = [k for k, action in enumerate(grammar.actions) if action.head == STOP]
        again = torch.ones(self.actions + 1, dtype=torch.bool)
        again[[*stop, self.actions]] = False
        tables = {"admits": admits, "arguments": arguments, "arity": arity, "need": need, "cost": cost}
        for name, table in {**tables, "listed": listed, "again": again}.items():
            self.register_buffer(name, table, persistent=False)

    def begin(self, rows: int) -> State:
        device, none = self.cost.device, len(self.cost) - 1
        stack = torch.full((rows, self.most + self.width + 1), none, device=device)
        stack[:, 1] = 0
        depth = torch.ones(rows, dtype=torch.long, device=device)
        return {"stack": stack, "depth": depth, "owed": self.cost[0].expand(rows), "left": self.most * depth}

    def _top(self, state: State) -> Tensor:
        return state["stack"].gather(1, state["depth"].unsqueeze(1)).squeeze(1)

    def admissible(self, state: State) -> Tensor:
        """Which actions may come next, (N, K + 1)."""
        top = self._top(state)
        rest = (state["owed"] - self.cost[top]).unsqueeze(-1) + self.need
        rest = rest + (self.listed[top].unsqueeze(-1) & self.again) * self.cost[top].unsqueeze(-1)
        return self.admits[top] & ((rest < state["left"].unsqueeze(-1)) | ~self.admits[:-1].any(0))

    def step(self, action: Tensor, state: State) -> State:
        """The stacks after one more action each (N,), which must have been admissible."""
        top = self._top(state)
        kept = (self.listed[top] & self.again[action]).long()
        place = state["depth"] + kept
        new = place.unsqueeze(1) + torch.arange(self.width, device=place.device)
        return {
            "stack": state["stack"].scatter(1, new.clamp(max=state["stack"].shape[1] - 1), self.arguments[action]),
            "depth": (place + self.arity[action] - 1).clamp(0, state["stack"].shape[1] - 1),
            "owed": state["owed"] + self.need[action] + (kept - 1) * self.cost[top],
            "left": state["left"] - 1,
        }

    @torch.no_grad()
    def along(self, actions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Of sequences (R, T) of `lengths` (R,): which actions are admissible at each step, (R, T, K), all of them
        beyond the end; and which sequences are forms, (R,)."""
        state, allowed = self.begin(len(actions)), []
        good = torch.ones(len(actions), dtype=torch.bool, device=actions.device)
        for t, action in enumerate(actions.unbind(1)):
            inside = t < lengths
            now = self.admissible(state)
            right = now.gather(1, action.unsqueeze(1)).squeeze(1)
            good = good & (right | ~inside)
            allowed.append(now[:, :-1] | ~(inside & right).unsqueeze(-1))
            state = self.step(torch.where(inside & good, action, self.actions), state)
        ended = (state["depth"] == 0) & good & (lengths > 0)
        empty = torch.zeros(len(actions), 0, self.actions, dtype=torch.bool, device=actions.device)
        return torch.stack(allowed, 1) if allowed else empty, ended


class Actions(Protocol):
    """What says how probable each action is after those before, of B data; which ones are admissible it need not
    know."""

    def logits(self, actions: Tensor) -> Tensor:
        """Of actions (S, B, T), each before it is seen, (S, B, T, K)."""
        ...

    def begin(self, samples: int) -> tuple[Tensor, State]:
        """Logits of the first action, (S * B, K), and the state."""
        ...

    def step(self, action: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits of the action after `action`, and the state after it."""
        ...


class _Guided:
    """The steps of S x B forms among admissible actions, the end being one more."""

    def __init__(self, actions: Actions, machine: Machine, samples: int):
        self.actions, self.machine, self.samples = actions, machine, samples

    def begin(self) -> tuple[Tensor, State]:
        logits, state = self.actions.begin(self.samples)
        return self._among(logits, state, self.machine.begin(len(logits)))

    def step(self, symbol: Tensor, state: State) -> tuple[Tensor, State]:
        own = {name.removeprefix("machine."): part for name, part in state.items() if name.startswith("machine.")}
        others = {name: part for name, part in state.items() if not name.startswith("machine.")}
        # of a form that has ended nothing is asked any more
        logits, others = self.actions.step(symbol.clamp(max=self.machine.actions - 1), others)
        return self._among(logits, others, self.machine.step(symbol, own))

    def _among(self, logits: Tensor, state: State, own: State) -> tuple[Tensor, State]:
        allowed = self.machine.admissible(own)
        # what a search has no use for any more may be no form, and ends here
        allowed[:, -1] |= ~allowed.any(-1)
        logits = nn.functional.pad(logits, (0, 1)).masked_fill(~allowed, -torch.inf)
        return logits, {**state, **{f"machine.{name}": part for name, part in own.items()}}


class LogicalForms(Distribution):
    """p(z) = prod_t p(action_t | actions before it), among admissible ones: z is one-hot, (A, K), zeros behind the end.

    All forms of the grammar with at most A actions, and nothing else, have a probability above 0; where one is known it
    has all of it.

    Args:
        actions: the network that says how probable each action is.
        machine: the grammar's; it knows A.
        like: a tensor of the batch shape (B,), dtype and device.
        known: (B, A, K), forms that are known; zeros where none is.
    """

    arg_constraints: ClassVar = {}  # type: ignore[assignment]  # torch declares a property and means a dict

    def __init__(self, actions: Actions, machine: Machine, like: Tensor, known: Tensor | None = None):
        self.actions, self.machine, self.like = actions, machine, like
        self.known = None if known is None else known.to(like)
        super().__init__(like.shape, torch.Size([machine.most, machine.actions]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 2)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) in nats, (S, B), for z (S, B, A, K); -inf for what is no form of the grammar."""
        # the same z may be asked about for all data
        actions, lengths = in_order(value.expand(len(value), *self.batch_shape, *self.event_shape))
        allowed, good = self.machine.along(actions.flatten(0, 1), lengths.flatten())
        logits = self.actions.logits(actions).masked_fill(~allowed.unflatten(0, actions.shape[:2]), -torch.inf)
        terms = logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        inside = torch.arange(actions.shape[-1], device=actions.device) < lengths.unsqueeze(-1)
        good = good.view_as(lengths)
        found = torch.where(inside & good.unsqueeze(-1), terms, 0.0).sum(-1).where(good, -torch.inf)
        if self.known is None:
            return found
        same = (value > 0) == (self.known > 0)
        sure = torch.where(same.flatten(2).all(-1), 0.0, -torch.inf).to(found)
        return torch.where(self.is_known, sure, found)

    @property
    def is_known(self) -> Tensor:
        """Of which data the form is known, (B,)."""
        none = torch.zeros(self.batch_shape, dtype=torch.bool, device=self.like.device)
        return none if self.known is None else (self.known > 0).flatten(1).any(1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = torch.Size(sample_shape)
        steps = _Guided(self.actions, self.machine, shape.numel())
        found = decode(steps, self.machine.most + 1, self.machine.actions, Decoding())
        z = self._one_hot(found.unflatten(0, (shape.numel(), *self.batch_shape)))
        return z.unflatten(0, shape) if shape else z[0]

    @torch.no_grad()
    def beam(self, width: int) -> tuple[Tensor, Tensor]:
        """The most probable forms that a search of this width finds, best first: z (W, B, A, K) and log p(z) (W, B).
        Where there are fewer the last ones are the best one again, with -inf."""
        steps = _Guided(self.actions, self.machine, 1)
        found = beam(steps, self.machine.most + 1, self.machine.actions, width)
        there = (found.log_prob > -torch.inf).mT
        symbols = torch.where(there.unsqueeze(-1), found.symbols.transpose(0, 1), found.symbols[:, 0])
        z, log_prob = self._one_hot(symbols), found.log_prob.mT
        first = torch.arange(width, device=z.device).unsqueeze(-1) == 0
        sure = torch.where(first, 0.0, -torch.inf).to(log_prob)
        return z, torch.where(self.is_known, sure, log_prob)

    def _one_hot(self, symbols: Tensor) -> Tensor:
        """Actions (S, B, A + 1) with the end as one-hot rows, and the known ones in the place of others."""
        before = (symbols == self.machine.actions).cumsum(-1) == 0
        rows = nn.functional.one_hot(torch.where(before, symbols, 0), self.machine.actions)
        z = (rows * before.unsqueeze(-1))[..., :-1, :].to(self.like)
        return z if self.known is None else torch.where(self.is_known.view(-1, 1, 1), self.known, z)

    @property
    def mode(self) -> Tensor:
        """The most probable form that a beam search finds, (B, A, K)."""
        return self.beam(BREADTH)[0][0]

    @property
    def mean(self) -> Tensor:
        """How probable each action is at each place, (B, A, K), over the forms that a beam search finds alone: exact
        where these are all there are, and else of the most probable ones."""
        z, log_prob = self.beam(BREADTH)
        return torch.einsum("sb,sbak->bak", log_prob.softmax(0), z)


def is_structure(q: object) -> bool:
    """Whether z is made of one-hot choices that belong together: a recursion's structure, or a form."""
    return isinstance(q, Structured | LogicalForms)


def in_order(z: Tensor) -> tuple[Tensor, Tensor]:
    """One-hot forms (S, B, A, K) as actions (S, B, T), 0 behind the end, up to the longest one's; and how many there
    are of each, (S, B)."""
    lengths = (z > 0).any(-1).sum(-1)
    longest = max(int(lengths.max()) if lengths.numel() else 1, 1)
    return z[..., :longest, :].argmax(-1), lengths
