"""Data to a message and back: block by block, with what both sides have to know beside the model."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.codec.bits_back import BitsBack, Rows
from latentia.codec.direct import Direct
from latentia.codec.lattice import Lattice
from latentia.codec.stack import Stack
from latentia.codec.walks import Content
from latentia.distributions import Chain, OneHot, observed
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.model import DirectedModel, LatentVariableModel, TractableModel

BLOCK = 256
"""Data that networks are asked about at once."""
GROWTH = 0.15
"""A block draws of each datum some six times what it adds to the message, for each sample: it may have this share of
the data before it, divided by the samples, and borrows nothing more."""
PROBED = 4
STEPS = 16
"""Data, and steps of each, by which two sides compare their rounding."""


@dataclass(frozen=True)
class Terms:
    """What a message says beside its bits: without it there is no decoding.

    Attributes:
        count: N. shape: of one x, (T, *event) where it has steps. floating: whether x is.
        lattice: the values of x.
        lengths: (N,), where data have steps and the model does not say itself where they end. mask: (N, *shape).
        tells: whether the model says where data end.
        samples: K of bits-back coding.
        block: data a block at most.
        borrowed: bits that bits-back coding began with.
    """

    count: int
    shape: tuple[int, ...]
    floating: bool
    lattice: Lattice
    lengths: Tensor | None = None
    mask: Tensor | None = None
    tells: bool = False
    samples: int = 1
    block: int = BLOCK
    borrowed: int = 0

    def blocks(self, growing: bool) -> Iterator[Tensor]:
        """Which data are in each block, in the order of encoding: those of like length together, where it is known. The
        first blocks of bits-back coding are small, so that they borrow little."""
        order = torch.arange(self.count) if self.lengths is None else self.lengths.argsort(stable=True)
        begun = 0
        while begun < self.count:
            size = min(max(int(GROWTH * begun / self.samples), 1), self.block) if growing else self.block
            yield order[begun : begun + size]
            begun += size

    def rows(self, index: Tensor, like: Tensor) -> Rows:
        """The block of these data, its x all zeros in the dtype of `like`."""
        lengths = None if self.lengths is None else self.lengths[index]
        shape = self.shape if lengths is None else (max(int(lengths.max()), 1), *self.shape[1:])
        x = torch.zeros(len(index), *shape, dtype=like.dtype if self.floating else torch.long)
        mask = None if self.mask is None else self.mask[index][:, : shape[0]]
        return Rows(Batch(x, mask, lengths), self.lattice, self.shape[0] if self.tells else None)

    def probe(self, like: Tensor) -> Rows:
        """A block that is nobody's data."""
        lengths, shape = None, self.shape
        if self.lengths is not None or self.tells:
            shape = (min(self.shape[0], STEPS), *self.shape[1:])
            lengths = None if self.tells else torch.full((PROBED,), shape[0])
        x = torch.zeros(PROBED, *shape, dtype=like.dtype if self.floating else torch.long)
        return Rows(Batch(x, None, lengths), self.lattice, shape[0] if self.tells else None)

    def side(self) -> bytes:
        """Lengths and mask, compressed."""
        parts = b"" if self.lengths is None else self.lengths.to(torch.int32).numpy().astype("<i4").tobytes()
        parts += b"" if self.mask is None else np.packbits(self.mask.numpy()).tobytes()
        return zlib.compress(parts, 9) if parts else b""


class Coder(Protocol):
    """What `BitsBack` and `Direct` do."""

    def bank(self, batch: Batch) -> int: ...
    def push(self, rows: Rows, stack: Stack, ledger: dict[str, float], content: Content | None) -> None: ...
    def pop(self, rows: Rows, stack: Stack) -> Rows: ...


@dataclass
class Message:
    """An encoded message.

    Attributes:
        payload: its bytes. terms: what goes with it.
        ledger: bits by part: of x given the latents, and of each latent what its prior costs less what its posterior
            gives back. Without `terms.borrowed`, they are the payload.
        content: of x, by column, and of symbols by value.
    """

    payload: bytes
    terms: Terms
    ledger: dict[str, float]
    content: Content


def coder(model: LatentVariableModel, terms: Terms) -> Coder:
    """How the model is coded: directly where p(x) can be had value by value, else by bits-back.

    Raises:
        CapabilityError: neither can be, saying why.
        OptionError: samples for a model that draws none.
    """
    name = type(model).__name__
    if terms.samples < 1:
        raise OptionError(f"samples={terms.samples}: at least 1")
    if not isinstance(model, DirectedModel):
        raise CapabilityError(
            f"{name} has no code: write {name}.prior and {name}.likelihood, as a DirectedModel has them"
        )
    rows = terms.probe(model.anchor)
    if isinstance(model, TractableModel) and isinstance(model.prior(rows.batch.frame), OneHot | Chain):
        if terms.samples > 1:
            raise OptionError(f"samples={terms.samples}: {name} is coded directly, and draws none; leave it out")
        return Direct(model, rows)
    return BitsBack(model, rows.batch, terms.samples)


def probed(model: LatentVariableModel, terms: Terms, found: Coder) -> str:
    """What this machine makes of a few data that the model itself draws: a digest of their message. Two machines that
    round alike have the same."""
    rows = terms.probe(model.anchor)
    torch.manual_seed(0)
    drawn = model.generate(rows.batch.frame)[0].x.reshape(PROBED, -1)
    rows = _ended(model, rows.of(terms.lattice.numbers(drawn).clamp(0, terms.lattice.levels - 1)))
    stack = Stack(_bank(found.bank(rows.batch)))
    found.push(rows, stack, {}, None)
    return hashlib.sha256(stack.to_bytes()).hexdigest()[:32]


def _bank(words: int) -> np.ndarray:
    """Random bits, the same each time."""
    return np.random.default_rng(0).integers(0, 2**32, words, dtype=np.uint32)


def encoded(model: LatentVariableModel, terms: Terms, found: Coder, x: Tensor, bank: int | None = None) -> Message:
    """The message of x (N, D) int64, its numbers.

    Args:
        bank: bits that bits-back coding may borrow; as many as it needs, where it is None.

    Raises:
        Starved: they are too few.
    """
    growing = isinstance(found, BitsBack)
    blocks = list(terms.blocks(growing))
    like = model.anchor
    words = max((found.bank(terms.rows(i, like).batch) for i in blocks[-2:]), default=0)
    words = words if bank is None else bank // 32
    stack = Stack(_bank(words if growing else 0))
    start, ledger = stack.bits, {}
    size = 0 if terms.floating else terms.lattice.levels
    content = Content(*(torch.zeros(n, dtype=torch.float64) for n in (x.shape[1], size)))
    for index in blocks:
        rows = terms.rows(index, like)
        numbers = x[index][:, : rows.batch.x[0].numel()]
        found.push(_ended(model, rows.of(numbers)), stack, ledger, content)
    ledger["all"] = stack.bits - start
    return Message(stack.to_bytes(), replace(terms, borrowed=stack.borrowed), ledger, content)


def decoded(model: LatentVariableModel, terms: Terms, found: Coder, payload: bytes) -> tuple[Tensor, Tensor | None]:
    """x (N, D) int64, and lengths (N,) where data have steps.

    Raises:
        DataError: the message does not end where it began.
    """
    stack, like = Stack.from_bytes(payload), model.anchor
    x = torch.zeros(terms.count, math.prod(terms.shape), dtype=torch.long)
    lengths = torch.zeros(terms.count, dtype=torch.long) if terms.tells else terms.lengths
    for index in reversed(list(terms.blocks(isinstance(found, BitsBack)))):
        rows = found.pop(terms.rows(index, like), stack)
        numbers = rows.numbers
        assert numbers is not None  # as it has been popped
        x[index[:, None], torch.arange(numbers.shape[1])] = numbers
        if terms.tells and lengths is not None and rows.batch.lengths is not None:
            lengths[index] = rows.batch.lengths
    if not stack.emptied(terms.borrowed):
        raise DataError("the message does not end where it began: it was made with other numbers")
    return x, lengths


def likelihood_of(model: DirectedModel, rows: Rows) -> Any:
    """p(x | z) of a draw of z, to ask what kind it is of."""
    return model.likelihood(model.prior(rows.batch.frame).sample((1,)), rows.batch.frame)  # type: ignore[arg-type]


def _ended(model: LatentVariableModel, rows: Rows) -> Rows:
    if rows.steps is None or not isinstance(model, DirectedModel):
        return rows
    lengths = observed.ends(likelihood_of(model, rows), rows.batch.x)
    return rows._replace(batch=rows.batch._replace(lengths=lengths))


def terms_to_json(terms: Terms) -> dict[str, Any]:
    """All of the terms but what `side` has."""
    lattice = {"shift": terms.lattice.shift.tolist(), "width": terms.lattice.width.tolist()}
    plain = {name: value for name, value in terms.__dict__.items() if name not in ("lattice", "lengths", "mask")}
    has = {"lengths": terms.lengths is not None, "mask": terms.mask is not None}
    return json.loads(json.dumps({**plain, **has, "lattice": {**lattice, "levels": terms.lattice.levels}}))


def terms_from_json(found: dict[str, Any], side: bytes) -> Terms:
    """The inverse of `terms_to_json` and `Terms.side`. Raises `DataError` for what is none."""
    try:
        kept = dict(found)
        lattice, has_lengths, has_mask = kept.pop("lattice"), kept.pop("lengths"), kept.pop("mask")
        kept["shape"] = tuple(kept["shape"])
        shift, width = (np.array(lattice[name], dtype=np.float64) for name in ("shift", "width"))
        terms = Terms(**kept, lattice=Lattice(shift, width, lattice["levels"]))
        _check(terms)
        return replace(terms, **_beside(terms, side, has_lengths, has_mask))
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise DataError(f"the header is damaged ({type(error).__name__}: {error}): fetch the file again") from error


def _check(terms: Terms) -> None:
    """Raise `ValueError` for numbers that no message has."""
    whole = {"count": terms.count, "samples": terms.samples, "block": terms.block, "levels": terms.lattice.levels}
    whole |= {f"shape[{d}]": size for d, size in enumerate(terms.shape)}
    for name, value in whole.items():
        if type(value) is not int or not 1 <= value < 2**40:
            raise ValueError(f"{name} is {value!r}")
    if type(terms.borrowed) is not int or not {type(terms.floating), type(terms.tells)} <= {bool}:
        raise ValueError("of other types than it was written with")


def _beside(terms: Terms, side: bytes, has_lengths: bool, has_mask: bool) -> dict[str, Tensor]:
    """Lengths and mask."""
    cut, numbers = 4 * terms.count * bool(has_lengths), terms.count * math.prod(terms.shape) * bool(has_mask)
    size = cut + -(-numbers // 8)
    raw = zlib.decompressobj().decompress(side, size + 1) if size else b""  # and no more, whatever it holds
    if len(raw) != size:
        raise ValueError("the side information has another size")
    found = {}
    if has_lengths:
        found["lengths"] = torch.from_numpy(np.frombuffer(raw[:cut], dtype="<i4").astype(np.int64))
    if has_mask:
        bits = np.unpackbits(np.frombuffer(raw[cut:], dtype=np.uint8), count=numbers)
        found["mask"] = torch.from_numpy(bits.astype(bool)).reshape(terms.count, *terms.shape)
    return found
