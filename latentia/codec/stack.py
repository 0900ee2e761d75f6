"""A message as a stack: what is pushed last is popped first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from latentia.errors import DataError, OptionError
from latentia.kernels import entropy

WORD = 32
"""Bits of a word."""
ROOM = 1024


class Starved(OptionError):
    """Bits-back coding asked for more bits than the message holds."""


class Stack:
    """A message, of 32-bit words and a head of 64 bits.

    Args:
        bank: words (N,) uint32 that are there to begin with, for bits-back coding to draw its first latents from. Of
            them only those that were ever popped are part of the message.

    Attributes:
        bits: the length of the message in bits, a fraction among them, less than when it was empty: what a symbol of
            probability p adds is log2(1 / p).
    """

    def __init__(self, bank: np.ndarray | None = None):
        begun = np.zeros(0, dtype=np.uint32) if bank is None else bank
        self.words = np.concatenate([begun, np.zeros(ROOM, dtype=np.uint32)])
        self.head = np.array([entropy.HEAD], dtype=np.uint64)
        self.place = np.array([len(begun), len(begun)], dtype=np.int64)
        self.bank = len(begun)

    @property
    def bits(self) -> float:
        return WORD * int(self.place[0]) + math.log2(int(self.head[0])) - WORD

    @property
    def borrowed(self) -> int:
        """Bits of the bank that were popped."""
        return WORD * (self.bank - int(self.place[1]))

    def to_bytes(self) -> bytes:
        """The head, and the words from the lowest one that was ever popped."""
        words = self.words[self.place[1] : self.place[0]]
        return self.head.astype("<u8").tobytes() + words.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Stack:
        """The inverse of `to_bytes`. Raises `DataError` for bytes that are no message."""
        if len(data) < 8 or len(data) % 4:
            raise DataError(f"a message of {len(data)} bytes is none: it has a head of 8, and words of 4")
        stack = cls(np.frombuffer(data, dtype="<u4", offset=8).astype(np.uint32))
        stack.head[0] = np.frombuffer(data, dtype="<u8", count=1)[0]
        if stack.head[0] < entropy.HEAD:
            raise DataError("a message begins with a head of at least 2^32, and this one does not")
        return stack

    def emptied(self, borrowed: int) -> bool:
        """Whether all but the bank's own bits has been popped: what a message that was decoded rightly comes to."""
        return int(self.head[0]) == entropy.HEAD and WORD * int(self.place[0]) == borrowed

    def push(self, start: np.ndarray, size: np.ndarray, precision: int) -> None:
        """Push symbols with slots start..start+size-1 of 2^precision, (N,) uint32 each, the last one first."""
        free = len(self.words) - int(self.place[0])
        if free < len(start):
            more = np.zeros(max(len(start), len(self.words)), dtype=np.uint32)
            self.words = np.concatenate([self.words, more])
        entropy.push(self.words, self.head, self.place, start, size, precision)

    def pop(self, kernel: Callable[..., int], *arguments: Any) -> None:
        """Pop by one of the kernels `pop_*`.

        Raises:
            Starved: there are not enough words.
        """
        if kernel(self.words, self.head, self.place, *arguments) >= 0:
            raise Starved(
                f"bits-back coding draws its first latents from the message, and the {WORD * self.bank:,} bits that it "
                "began with are too few: raise initial_bits, or leave it out"
            )
