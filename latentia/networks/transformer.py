"""Transformers with the normalisation before each part (Vaswani et al. 2017; Xiong et al. 2020), as what reads a
sequence and as what writes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from latentia.errors import DataError, OptionError
from latentia.networks.routes import Lookup, Slots, State, check_routes, join_heads, split_heads, within

BASE = 10_000.0
"""Of the rotary angles: theta_i = BASE^(-2 i / D)."""
Positions = Literal["rotary", "learned"]


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); between the two, where there is a memory, attention to it.

    Keys and values of steps before are given and returned, (N, heads, T, D) each, so that none is computed twice.
    """

    def __init__(self, width: int, heads: int, dropout: float, rotary: bool, memory: bool):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.lookup = Lookup(width, heads) if memory else None
        self.ask = nn.LayerNorm(width) if memory else None
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None, memory: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query, key, value = (split_heads(part, self.heads) for part in self.attend(self.before(x)).chunk(3, -1))
        if self.rotary:
            offset = 0 if past is None else past[0].shape[2]
            query, key = rotated(query, offset), rotated(key, offset)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.drop(self.out(join_heads(found)))
        if self.lookup is not None and self.ask is not None and memory is not None:
            x = x + self.lookup(self.ask(x), memory)
        return x + self.drop(self.narrow(nn.functional.gelu(self.wide(self.between(x))))), (key, value)


def rotated(x: Tensor, offset: int) -> Tensor:
    """Rotary positions (Su et al. 2021): pairs of coordinates turned by an angle that grows with the step, so that the
    product of a query and a key depends on how far apart they are. x (N, heads, T, D), whose first step is `offset`."""
    half = x.shape[-1] // 2
    rate = BASE ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = (torch.arange(x.shape[2], dtype=x.dtype, device=x.device) + offset).unsqueeze(-1) * rate
    first, second = x[..., :half], x[..., half:]
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


class Stack(nn.Module):
    """What both share: positions, blocks and the last normalisation."""

    def __init__(
        self, inputs: int, hidden: int, layers: int, heads: int, dropout: float, positions: Positions, length: int,
        memory: bool = False,
    ):  # fmt: skip
        super().__init__()
        if positions not in ("rotary", "learned"):
            raise OptionError(f"positions={positions!r}: choose rotary or learned")
        if hidden % heads or hidden // heads % 2:
            raise OptionError(f"hidden={hidden}: it must be an even number of columns for each of heads={heads}")
        self.outputs, self.heads = hidden, heads
        self.enter = nn.Linear(inputs, hidden, bias=False)
        self.places = nn.Parameter(torch.empty(length, hidden).normal_(std=0.02)) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(hidden, heads, dropout, positions == "rotary", memory) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    @torch.no_grad()
    def begin_own(self, generator: torch.Generator) -> None:
        """Small random vectors for the positions that are learned."""
        if self.places is not None:
            drawn = torch.empty(self.places.shape).normal_(std=0.02, generator=generator)
            self.places.copy_(drawn)

    def placed(self, inputs: Tensor, offset: int) -> Tensor:
        x = self.enter(inputs)
        if self.places is None:
            return x
        last = offset + inputs.shape[1]
        if last > len(self.places):
            raise DataError(
                f"a text of {last} symbols, and this transformer has learned {len(self.places)} positions: cut it "
                "(--max_length), or use --model.positions rotary"
            )
        return x + self.places[offset:last]


class TransformerReader(Stack):
    """A sequence of vectors as one: the mean of what the blocks make of its steps, which see each other both ways.
    (N, T, inputs) and lengths (N,) to (N, outputs)."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 2,
        dropout: float = 0.0,
        heads: int = 4,
        positions: Positions = "rotary",
        length: int = 128,
    ):
        super().__init__(inputs, hidden, layers, heads, dropout, positions, length)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        inside = within(inputs, lengths).unsqueeze(-1)
        return (self.steps(inputs, lengths) * inside).sum(1) / inside.sum(1)

    def steps(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """What the blocks make of each step, (N, T, outputs); of those beyond the end, nothing that counts."""
        inside = within(inputs, lengths)
        x = self.placed(inputs, 0)
        for block in self.blocks:
            x, _ = block(x, None, inside[:, None, None, :])
        return self.norm(x)


class Infiller(Stack):
    """A text with holes: what the output layer turns into logits of each symbol that is hidden, from all that are not,
    before and after. The output layer's weights are the symbols' own vectors (`embedding`), its bias is `bias`.

    Args:
        symbols: V; width: of a symbol's vector; given: C, numbers that every step is told beside.
    """

    def __init__(
        self,
        symbols: int,
        width: int,
        hidden: int,
        layers: int = 2,
        dropout: float = 0.0,
        heads: int = 4,
        positions: Positions = "rotary",
        length: int = 128,
        given: int = 0,
    ):
        super().__init__(width, hidden, layers, heads, dropout, positions, length)
        self.symbols = symbols
        self.embedding = nn.Embedding(symbols, width)
        self.hole = nn.Parameter(torch.zeros(width))
        self.told = nn.Linear(given, hidden, bias=False) if given else None
        self.narrow = nn.Linear(hidden, width, bias=False) if hidden != width else None
        self.bias = nn.Parameter(torch.zeros(symbols))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, hidden: Tensor, inside: Tensor, given: Tensor | None, where: Tensor) -> Tensor:
        """Features (M, width) at `where` (M,) of the N x T steps.

        Args:
            x: (N, T); hidden: (N, T), the holes, whose x is not read; inside: (N, T), False beyond the end.
            given: (N, C), or None.
        """
        words = torch.where(hidden.unsqueeze(-1), self.hole, self.embedding(torch.where(hidden | ~inside, 0, x)))
        states = self.placed(self.drop(words), 0)
        if self.told is not None and given is not None:
            states = states + self.told(given).unsqueeze(1)
        for block in self.blocks:
            states, _ = block(states, None, inside[:, None, None, :])
        # the last parts are for what is asked alone
        found = self.drop(self.norm(states.flatten(0, 1).index_select(0, where)))
        return found if self.narrow is None else self.narrow(found)


class TransformerWriter(Stack):
    """As `LSTMWriter`, with blocks in which a step sees itself and those before it. Its state holds their keys and
    values. Of the routes, initial adds what is given to the first input alone, inputs to every one; attention is a
    memory that every block looks at."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 2,
        dropout: float = 0.0,
        given: int = 0,
        route: Sequence[str] = ("prefix",),
        heads: int = 4,
        positions: Positions = "rotary",
        length: int = 128,
    ):
        route = check_routes(route) if given else ()
        super().__init__(inputs, hidden, layers, heads, dropout, positions, length, "attention" in route)
        self.first = nn.Linear(given, hidden, bias=False) if "initial" in route else None
        self.every = nn.Linear(given, hidden, bias=False) if "inputs" in route else None
        self.prefix = Slots(given, inputs) if "prefix" in route else None
        self.memory = Slots(given, hidden) if "attention" in route else None
        self.skip = nn.Linear(given, hidden, bias=False) if "skip" in route else None

    def begin(self, given: Tensor | None, size: int) -> State:
        none = self.norm.weight.new_zeros(size, self.heads, 0, self.outputs // self.heads)
        state = {f"{part}{i}": none for i in range(len(self.blocks)) for part in ("key", "value")}
        if given is None:
            return state
        if self.memory is not None:
            state["memory"] = self.memory(given)
        if self.prefix is not None:
            state = self(self.prefix(given), state)[1]
        parts = {"first": self.first, "every": self.every, "skip": self.skip}
        return state | {name: part(given) for name, part in parts.items() if part is not None}

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        offset, steps = state["key0"].shape[2], inputs.shape[1]
        x = self.placed(inputs, offset)
        if "every" in state:
            x = x + state["every"].unsqueeze(1)
        if "first" in state:
            # once it has been added it is nothing more than the first step's own
            x = torch.cat([x[:, :1] + state["first"].unsqueeze(1), x[:, 1:]], 1)
            state = {name: part for name, part in state.items() if name != "first"}
        mask = None if steps == 1 else torch.ones(steps, offset + steps, dtype=torch.bool, device=x.device).tril(offset)
        for i, block in enumerate(self.blocks):
            past = (state[f"key{i}"], state[f"value{i}"])
            x, (key, value) = block(x, past, mask, state.get("memory"))
            state = state | {f"key{i}": key, f"value{i}": value}
        x = self.norm(x)
        return (x + state["skip"].unsqueeze(1) if "skip" in state else x), state
