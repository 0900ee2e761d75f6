"""The file: what `latentia compress` writes.

    8 bytes    MAGIC
    2, 4, 4, 8 bytes, little-endian    version; length of the header, of the side information and of the payload
    32 bytes   sha256 of all of the file but itself and the payload
    header     JSON, compressed: the model's name and the sha256 of its parameters, the terms of the message, the probe,
               the sha256 of payload and data, the versions that made it
    side       where data end and what of them is hidden, compressed, where the model does not say it
    payload    the message

A file is read to the end, and all that can be compared is compared, before anything is decoded.
"""

from __future__ import annotations

import hashlib
import json
import platform
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import latentia
from latentia.errors import DataError

MAGIC = b"\x89LTZ\r\n\x1a\n"
VERSION = 1
FRONT = struct.Struct("<HIIQ")
LONGEST = 2**28
"""Bytes that a header may have once it is decompressed."""


@dataclass(frozen=True)
class Archive:
    """Attributes:
    header: what the JSON says. side, payload: see above.
    """

    header: dict[str, Any]
    side: bytes
    payload: bytes

    def to_bytes(self) -> bytes:
        """The file."""
        header = {**self.header, "payload": hashlib.sha256(self.payload).hexdigest()}
        packed = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
        front = MAGIC + FRONT.pack(VERSION, len(packed), len(self.side), len(self.payload))
        digest = hashlib.sha256(front + packed + self.side).digest()
        return front + digest + packed + self.side + self.payload

    @property
    def overhead(self) -> int:
        """Bytes of the file that are neither side information nor payload."""
        return len(self.to_bytes()) - len(self.side) - len(self.payload)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Archive:
        """The inverse of `to_bytes`.

        Raises:
            DataError: it is no such file, a newer one, cut off, or damaged: says which, naming `name`.
        """
        start = len(MAGIC)
        if data[:start] != MAGIC or len(data) < start + FRONT.size + 32:
            raise DataError(f"{name} is no file that `latentia compress` has written: there is nothing to decompress")
        version, *sizes = FRONT.unpack_from(data, start)
        if version > VERSION:
            raise DataError(
                f"{name} has format {version}, and this latentia reads up to format {VERSION}: upgrade latentia"
            )
        begun = start + FRONT.size + 32
        if len(data) != begun + sum(sizes):
            raise DataError(
                f"{name} has {len(data):,} bytes where {begun + sum(sizes):,} were written: it was cut off or added "
                "to; fetch it again"
            )
        parts = np.cumsum([begun, *sizes])
        packed, side, payload = (data[a:b] for a, b in pairwise(parts.tolist()))
        if hashlib.sha256(data[: begun - 32] + packed + side).digest() != data[begun - 32 : begun]:
            raise DataError(
                f"{name} is damaged: its header has not the sha256 that it was written with; fetch it again"
            )
        header = json.loads(zlib.decompressobj().decompress(packed, LONGEST))
        if hashlib.sha256(payload).hexdigest() != header.get("payload"):
            raise DataError(
                f"{name} is damaged: its payload has not the sha256 that it was written with; fetch it again"
            )
        return cls(header, side, payload)


def environment() -> dict[str, str]:
    """What rounding depends on."""
    return {
        "latentia": latentia.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
