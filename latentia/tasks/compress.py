"""Compress data with a model, without loss, and have them back.

    bits >= -log2 p(x), or -log2 of a bound on it: the better the model, the shorter the file

What the file says is how to get the data from the same model: the model itself is not in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.codec.archive import Archive, environment
from latentia.codec.lattice import Lattice, multiples
from latentia.codec.message import (
    Message,
    Terms,
    coder,
    decoded,
    encoded,
    likelihood_of,
    probed,
    terms_from_json,
    terms_to_json,
)
from latentia.codec.stack import Starved
from latentia.codec.steady import steady
from latentia.codec.walks import Content
from latentia.data import Dataset, Schema, as_dataset, data_for
from latentia.distributions import observed
from latentia.errors import CapabilityError, DataError, RunError
from latentia.files import checksum
from latentia.model import DirectedModel, LatentVariableModel
from latentia.tensors import packed

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
KEYS = {"model", "parameters", "probe", "environment", "terms", "data", "payload"}


@dataclass(frozen=True)
class Compressed:
    """Data as bytes, and where the bits go.

    Attributes:
        file: what `decompress` takes.
        data: how many there are. values: how many numbers of them are coded.
        payload: bits of the message; borrowed: those of them that bits-back coding began with, and that are there again
            after decoding.
        side: bits that say where data end and what of them is hidden. header: bits of all else.
        parts: bits of x given the latents, and of each latent what its prior costs less what its posterior gives back;
            "all" is their sum, with its fraction: what the payload is but for the borrowed bits and at most 64 others.
        content: bits of x by column, (D,), and of symbols by value, (V,); given the latents, where there are some.
    """

    file: bytes
    data: int
    values: int
    payload: int
    borrowed: int
    side: int
    header: int
    parts: dict[str, float]
    content: Content

    @property
    def net(self) -> int:
        """Bits of the message without those that were borrowed."""
        return self.payload - self.borrowed

    @property
    def bits_per_dim(self) -> float:
        """`net` divided by the number of values that are coded."""
        return self.net / max(self.values, 1)


def compress(
    model: LatentVariableModel,
    data: Any,
    *,
    samples: int = 1,
    precision: float | None = None,
    initial_bits: int | None = None,
    seed: int = 0,
) -> Compressed:
    """The data as bytes that `decompress` makes the same data of, with the same model, on the same kind of machine.

    A model whose p(x) is had value by value (mixtures, hidden Markov models, language models) codes x directly, in
    -log2 p(x) bits; another one by bits-back, in -ELBO / log 2 bits, see `latentia.codec.bits_back`. Weights and labels
    are not compressed.

    Args:
        data: anything that `as_dataset` takes.
        samples: K of bits-back coding by importance samples, whose bits are those of the bound of K samples.
        precision: real values are rounded to multiples of it, in the units of the data; the rounded ones come back.
        initial_bits: that bits-back coding may borrow; None: as many as it needs.
        seed: draws what is binarized dynamically.

    Raises:
        CapabilityError: a model that has no code, saying what it lacks.
        DataError: real values without a precision, data with a context, or that the model cannot have.
        OptionError: options that make no sense.
        Starved: `initial_bits` are too few.
    """
    data = data_for(model, data, seed).frozen(seed)
    if data.context is not None:
        raise CapabilityError(
            f"{type(model).__name__} is given a context, which is not in the file: compress by a model without one"
        )
    with steady(model):
        lattice = _lattice(model, data, precision)
        batch = Batch(data.x, data.mask, data.lengths)
        terms, x = _terms(model, batch, lattice, samples)
        found = coder(model, terms)
        probe = probed(model, terms, found)
        message = encoded(model, terms, found, x, initial_bits)
    return _compressed(model, data, message, x, probe, precision)


def decompress(model: LatentVariableModel, data: bytes, name: str = "the file") -> Dataset:
    """The data of `Compressed.file`.

    Args:
        name: of the file, for errors.

    Raises:
        DataError: no such file, a damaged or a newer one, or one that this machine decodes to other data.
        RunError: it was made with another model, or on a machine that rounds otherwise.
    """
    archive = Archive.from_bytes(data, name)
    header = archive.header
    if not isinstance(header, dict) or header.get("dtype") not in DTYPES or not set(header) >= KEYS:
        raise DataError(f"{name} is damaged: its header lacks what every file has; fetch it again")
    _same_model(model, header, name)
    terms = terms_from_json(header["terms"], archive.side)
    with steady(model):
        found = coder(model, terms)
        if probed(model, terms, found) != header["probe"]:
            raise RunError(_otherwise(name, header))
        try:
            numbers, lengths = decoded(model, terms, found, archive.payload)
        except Starved as error:
            raise DataError(f"{name} cannot be decoded: {_otherwise(name, header)}") from error
    dtype: torch.dtype = getattr(torch, header["dtype"])
    x = terms.lattice.values(numbers, dtype) if terms.floating else numbers.to(dtype)
    x = x.reshape(terms.count, *terms.shape)
    batch = Batch(x, terms.mask, lengths)
    x = x if batch.seen is None else torch.where(batch.seen, x, torch.zeros_like(x))
    if _digest(x, terms.mask, lengths) != header["data"]:
        raise DataError(f"{name} was decoded to other data than it was made of: {_otherwise(name, header)}")
    if model.schema is None:
        return as_dataset(Batch(x, terms.mask, lengths))
    return Dataset(x, terms.mask, model.schema, lengths=lengths, rows=torch.arange(1, len(x) + 1), drawn=True)


def precision_of(data: bytes, name: str = "the file") -> float | None:
    """What real values were rounded to multiples of. Raises `DataError` as `decompress` does."""
    return Archive.from_bytes(data, name).header.get("precision")


def unit(schema: Schema) -> str:
    """What a value that is coded is called."""
    kinds = {"text": "symbol", "image": "pixel", "sequence": "symbol" if schema.values == "symbols" else "value"}
    return kinds.get(schema.kind, "value")


def dearest(found: Compressed, schema: Schema, count: int) -> list[tuple[str, float]]:
    """The columns of a table, or words of a text, that take the most bits of x, with their shares; of others none."""
    if schema.kind == "table":
        names, bits = schema.names or tuple(f"x{j + 1}" for j in range(schema.event_shape[0])), found.content.columns
    elif schema.kind == "text":
        names, bits = schema.vocabulary, found.content.values
    else:
        return []
    if len(names) != len(bits):
        return []
    total = max(float(bits.sum()), 1e-9)
    return [(names[j], float(bits[j]) / total) for j in bits.argsort(descending=True)[:count].tolist()]


def fingerprint(model: LatentVariableModel) -> str:
    """The sha256 of a model's parameters, in hex."""
    return checksum(packed(model.state_dict(), {"model": type(model).__name__}))


def _lattice(model: LatentVariableModel, data: Dataset, precision: float | None) -> Lattice:
    """The values that the data may have."""
    schema = data.schema
    if precision is None or schema.values not in ("real", "mixed"):
        return Lattice.of(Batch(data.x, data.mask, data.lengths))
    columns = schema.kinds or tuple(getattr(model, "columns", ()))
    size = max(len(columns), len(schema.shift))
    shift, scale = (np.broadcast_to(np.array(part), size) for part in (schema.shift, schema.scale))
    values = data.x.reshape(-1, size).double()
    if data.seen is not None:
        # what is hidden lies nowhere beyond the rest
        values = torch.where(data.seen.reshape(values.shape), values, torch.nan)
        least = torch.nan_to_num(values, nan=torch.inf).amin(0)
        values = torch.where(values.isnan(), least.where(least.isfinite(), 0.0), values)
    found = multiples(values, precision, shift, scale)
    real = np.array([column == "real" for column in columns] or [True] * size)
    if real.all():
        return found
    most = int(values[:, torch.from_numpy(~real)].max()) + 1
    return Lattice(np.where(real, found.shift, 0.0), np.where(real, found.width, 1.0), max(found.levels, most))


def _terms(model: LatentVariableModel, batch: Batch, lattice: Lattice, samples: int) -> tuple[Terms, Tensor]:
    """What goes with the message, and x (N, D) as whole numbers."""
    x = lattice.numbers(batch.x.reshape(batch.size, -1))
    x = x if batch.seen is None else torch.where(batch.seen.reshape(x.shape), x, 0)
    mask = None if batch.mask is None or bool(batch.mask.all()) else batch.mask
    terms = Terms(
        batch.size,
        tuple(batch.x.shape[1:]),
        batch.x.is_floating_point(),
        lattice,
        batch.lengths,
        mask,
        samples=samples,
    )
    if batch.lengths is None or not isinstance(model, DirectedModel):
        return terms, x
    ends = observed.ends(likelihood_of(model, terms.probe(model.anchor)), x.reshape(batch.x.shape))
    if ends is None:
        return terms, x
    if mask is not None:
        raise DataError("a sentence with hidden words has no code under a model that writes word after word")
    if bool((ends.reshape(-1) == batch.lengths).all()):
        terms = replace(terms, tells=True, lengths=None)
    return terms, x


def _compressed(
    model: LatentVariableModel, data: Dataset, message: Message, x: Tensor, probe: str, precision: float | None
) -> Compressed:
    terms = message.terms
    rounded = terms.floating and not terms.lattice.whole
    values = terms.lattice.values(x, data.x.dtype).reshape(data.x.shape) if rounded else data.x
    values = values if data.seen is None else torch.where(data.seen, values, torch.zeros_like(values))
    header = {
        "model": type(model).__name__,
        "parameters": fingerprint(model),
        "probe": probe,
        "environment": environment(),
        "terms": terms_to_json(terms),
        "dtype": str(data.x.dtype).removeprefix("torch."),
        "precision": precision,
        "data": _digest(values.to(data.x.dtype), terms.mask, data.lengths),
    }
    archive = Archive(header, terms.side(), message.payload)
    count = data.x.numel() if data.seen is None else int(data.seen.sum())
    return Compressed(
        file=archive.to_bytes(),
        data=terms.count,
        values=count,
        payload=8 * len(message.payload),
        borrowed=terms.borrowed,
        side=8 * len(archive.side),
        header=8 * archive.overhead,
        parts=message.ledger,
        content=message.content,
    )


def _digest(x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> str:
    """The sha256 of data: their values, what is hidden, and where they end."""
    found = hashlib.sha256(f"{x.dtype} {list(x.shape)}".encode())
    for part in (x, mask, lengths):
        found.update(b"" if part is None else part.contiguous().numpy().tobytes())
    return found.hexdigest()


def _same_model(model: LatentVariableModel, header: dict[str, Any], name: str) -> None:
    if header["model"] != type(model).__name__ or header["parameters"] != fingerprint(model):
        raise RunError(
            f"{name} was compressed with another model: a {header['model']} whose parameters have the sha256 "
            f"{header['parameters'][:16]}..., and this {type(model).__name__} has {fingerprint(model)[:16]}...; name "
            "the run that it was compressed with"
        )


def _otherwise(name: str, header: dict[str, Any]) -> str:
    made, here = header["environment"], environment()
    other = [f"{key} {made.get(key)} and not {here[key]}" for key in here if made.get(key) != here[key]]
    return (
        f"this machine rounds otherwise than the one that wrote {name}, so its probabilities are not the same"
        f"{': it had ' + ', '.join(other) if other else ''}; decompress it where it was made, or with the same versions"
    )
