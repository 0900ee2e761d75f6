"""Images in few bytes, with errors: the rounded code of a model whose posterior is a uniform noise of one unit.

    write: z = E[z | x] rounded, as whole numbers, by integer frequencies
    read:  the same z on every machine, and x = E[x | z], which another processor may round otherwise

The frequencies are counted in the codes of other images, p(z) of the model counting as some more, and each context of
`latentia.kernels.coefficients` has its own. A file has

    3, 1 bytes    MAGIC and VERSION
    4 bytes       of the sha256 of the frequencies
    2, 2 bytes    h, w of z
    4 bytes       crc32 of what follows
    payload       z, by `latentia.kernels.range_coder`

Ballé, Laparra and Simoncelli (2017), section 3, where contexts are those of CABAC.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.data import Dataset, data_for
from latentia.distributions.observed import expected
from latentia.distributions.rounding import Dithered, Rounded
from latentia.errors import CapabilityError, DataError, RunError
from latentia.files import read_bytes
from latentia.kernels import coefficients as kernel
from latentia.kernels import range_coder
from latentia.model import DirectedModel, Frame, evaluating
from latentia.tensors import read_tensors, write_tensors

MAGIC, VERSION = b"LTQ", 1
FRONT = struct.Struct("<3sB4sHHI")
REACH = 40
"""The largest number with a frequency of its own."""
BOUNDS = np.array([1, 3, 6, 10, 16, 26, 44], np.int64)
"""Between contexts."""
SHARE = 2**16
"""The frequencies of a table add up to this, about."""
PRIOR = 12.0
"""As how many numbers of a context p(z) counts."""


class ImageCoder:
    """Images to bytes and back.

    Args:
        model: whose prior is a `Rounded` and whose posterior a `Dithered`, as of a `TransformCoder`.
        data: images, as the model was fitted to, in whose codes frequencies are counted.
        contexts: count apart by what comes before; else only channel by channel.

    Raises:
        CapabilityError: a model with another kind of z.
        DataError: data that the model cannot have.
    """

    def __init__(self, model: DirectedModel, data: Any, contexts: bool = True):
        prior, bounds = _prior(model), BOUNDS if contexts else BOUNDS[:0]
        counts = np.zeros((prior.event_shape[0], len(bounds) + 1, 2 * REACH + 1), np.int64)
        self._with(model, bounds, counts)
        found: Dataset = data_for(model, data, 0)
        for batch in found.batches(32, dtype=model.anchor.dtype):
            for z in self.codes(batch):
                kernel.count(z, bounds, counts)
        self._with(model, bounds, _below(counts, _chances(model, prior)))

    def _with(self, model: DirectedModel, bounds: np.ndarray, below: np.ndarray) -> None:
        self.model, self.bounds, self.below = model, bounds, below
        self.digest = hashlib.sha256(below.astype("<i8").tobytes() + bounds.astype("<i8").tobytes()).digest()[:4]

    def save(self, path: str | os.PathLike) -> None:
        """Write the frequencies to a file: with them another machine reads the same whole numbers, and counted there
        they may be others, as it rounds otherwise."""
        tensors = {"bounds": torch.from_numpy(self.bounds), "below": torch.from_numpy(self.below)}
        write_tensors(path, tensors, {"kind": "frequencies"})

    @classmethod
    def load(cls, model: DirectedModel, path: str | os.PathLike) -> ImageCoder:
        """The coder whose frequencies were saved. Raises `DataError` for a file that holds none of this model."""
        tensors, content = read_tensors(Path(path))
        coder, prior = cls.__new__(cls), _prior(model)
        if content.get("kind") != "frequencies" or len(tensors["below"]) != prior.event_shape[0]:
            raise DataError(f"{path} holds no frequencies of this model's code: save them with ImageCoder.save")
        coder._with(model, tensors["bounds"].numpy(), tensors["below"].numpy())
        return coder

    def codes(self, batch: Batch) -> np.ndarray:
        """z rounded, (B, C, h, w) int64."""
        with torch.no_grad(), evaluating(self.model):
            q = self.model.posterior(batch)
        if not isinstance(q, Dithered) or q.mean.ndim != 4:
            raise CapabilityError(
                f"{type(self.model).__name__} has no code of whole numbers: its posterior is a {type(q).__name__}, and "
                "that of a TransformCoder is a Dithered grid"
            )
        return q.mode.double().cpu().numpy().astype(np.int64)

    def encode(self, x: Tensor) -> bytes:
        """The file of an image x (*event), in the model's units. Raises `DataError` where the model cannot have it."""
        batch = Batch(x.unsqueeze(0).to(self.model.anchor))
        self.model.check(batch)
        z = self.codes(batch)[0]
        bits = np.zeros(8 * z.size + 64, np.uint8)
        size = kernel.write(z, self.bounds, self.below, range_coder.begin(), bits)
        payload = bits[:size].tobytes().rstrip(b"\0")
        return FRONT.pack(MAGIC, VERSION, self.digest, *z.shape[1:], zlib.crc32(payload)) + payload

    def numbers(self, data: bytes, name: str = "the file") -> np.ndarray:
        """z of a file, (C, h, w) int64: what was written, on every machine.

        Raises:
            DataError: no such file, a newer or a damaged one.
            RunError: one of another model.
        """
        if len(data) < FRONT.size or data[:3] != MAGIC:
            raise DataError(f"{name} is no image that an ImageCoder has written")
        _, version, digest, height, width, check = FRONT.unpack_from(data)
        if version > VERSION:
            raise DataError(f"{name} has format {version}, and this latentia reads up to {VERSION}: upgrade latentia")
        if digest != self.digest:
            raise RunError(f"{name} was written with other frequencies: by another model, or counted in other images")
        payload = data[FRONT.size :]
        prior = _prior(self.model)
        if zlib.crc32(payload) != check or (height, width) != tuple(prior.event_shape[1:]):
            raise DataError(f"{name} is damaged or cut off: its checksum is another one; fetch it again")
        z = np.zeros(tuple(prior.event_shape), np.int64)
        if not kernel.read(z, self.bounds, self.below, range_coder.begin(), np.frombuffer(payload, np.uint8)):
            raise DataError(f"{name} is damaged: its numbers do not end")
        return z

    def decode(self, data: bytes, name: str = "the file") -> Tensor:
        """The image of a file, E[x | z], (*event). Raises as `numbers` does."""
        z = torch.from_numpy(self.numbers(data, name)).to(self.model.anchor)
        with torch.no_grad(), evaluating(self.model):
            return expected(self.model.likelihood(z[None, None], Frame(1)))[0, 0]

    def write(self, x: Tensor, path: str | os.PathLike) -> None:
        Path(path).write_bytes(self.encode(x))

    def read(self, path: str | os.PathLike) -> Tensor:
        return self.decode(read_bytes(Path(path)), str(path))


def _prior(model: DirectedModel) -> Rounded:
    prior = model.prior(Frame(1))
    if not isinstance(prior, Rounded):
        raise CapabilityError(
            f"{type(model).__name__} has no code of whole numbers: its prior is a {type(prior).__name__}, and that of "
            "a TransformCoder is a Rounded"
        )
    return prior


def _chances(model: DirectedModel, prior: Rounded) -> np.ndarray:
    """p_c of every number that has a frequency of its own, (C, V)."""
    every = torch.arange(-REACH, REACH + 1).to(model.anchor)
    every = every.view(-1, 1, *(1,) * len(prior.event_shape)).expand(-1, 1, *prior.event_shape)
    with torch.no_grad():
        return prior.terms(every).double().flatten(3)[:, 0, :, 0].exp().T.cpu().numpy()


def _below(counts: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Frequencies of at least 1, added up, (C, K, V + 1): of the counts, and of the chances of each channel as so many
    numbers more."""
    blended = counts + PRIOR * (chances / chances.sum(1, keepdims=True))[:, None]
    share = blended / blended.sum(-1, keepdims=True)
    found = np.zeros((*counts.shape[:2], counts.shape[2] + 1), np.int64)
    np.cumsum(1 + np.floor(SHARE * share).astype(np.int64), -1, out=found[..., 1:])
    return found
