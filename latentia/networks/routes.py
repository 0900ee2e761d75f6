"""How what a text is written from, a vector, reaches the network that writes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentia.errors import OptionError

ROUTES = ("initial", "inputs", "prefix", "attention", "skip")
SLOTS = 4
"""Vectors that a prefix or a memory has."""

State = dict[str, Tensor]
"""What a network that writes remembers, (N, ...) each: all that the next step needs of those before."""


def check_routes(route: Sequence[str]) -> tuple[str, ...]:
    """Raises `OptionError` for a route that is none, or none at all."""
    for one in route:
        if one not in ROUTES:
            raise OptionError(f"route={one!r}: choose some of {', '.join(ROUTES)}")
    if not route:
        raise OptionError(f"route has nothing in it, and z would reach no word: choose some of {', '.join(ROUTES)}")
    return tuple(dict.fromkeys(route))


class Slots(nn.Linear):
    """A vector as several: (N, inputs) to (N, SLOTS, width)."""

    def __init__(self, inputs: int, width: int):
        super().__init__(inputs, SLOTS * width)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).unflatten(-1, (SLOTS, -1))


class Lookup(nn.Module):
    """Scaled dot-product attention of features (N, T, H) to a memory (N, M, H): (N, T, H). With `there` (N, M), to what
    there is of it."""

    def __init__(self, width: int, heads: int = 1):
        super().__init__()
        self.heads = heads
        self.ask, self.tell = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor, memory: Tensor, there: Tensor | None = None) -> Tensor:
        mask = None if there is None else there[:, None, None, :]
        query = split_heads(self.ask(features), self.heads)
        key, value = (split_heads(part, self.heads) for part in self.tell(memory).chunk(2, -1))
        return self.out(join_heads(nn.functional.scaled_dot_product_attention(query, key, value, mask)))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, H) to (N, heads, T, H / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(N, heads, T, D) to (N, T, heads D)."""
    return x.transpose(1, 2).flatten(2)


def with_each(inputs: Tensor, given: Tensor) -> Tensor:
    """Inputs (N, T, E) with the same vector (N, C) beside each: (N, T, E + C)."""
    return torch.cat([inputs, given.unsqueeze(1).expand(-1, inputs.shape[1], -1)], -1)


def within(inputs: Tensor, lengths: Tensor) -> Tensor:
    """Which steps of inputs (N, T, ...) there are, the first of each always, (N, T)."""
    return torch.arange(inputs.shape[1], device=inputs.device) < lengths.clamp(min=1).unsqueeze(-1)
