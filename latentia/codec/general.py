"""What general compressors make of the same data, headers and all: what a model has to beat."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from typing import Any

import numpy as np
import pyarrow
from PIL import Image

from latentia.data import Dataset
from latentia.data.writing import as_csv

SIDE = 16_000
"""Pixels that a picture is wide or high at most: WebP ends at 16,383."""
ZSTD = 22
"""The highest level that zstd has."""


def lengths(data: Dataset) -> dict[str, int]:
    """The length of all data together in bits, by each compressor at its highest level; PNG and WebP, both without
    loss, of images as sheets.

    Whole numbers take the fewest bytes that hold them, binary values are packed eight to a byte, and a sequence is
    ended by one number more; text is UTF-8, a line each; real numbers are those of float32. Columns of several kinds
    are compressed as .csv.
    """
    raw = _raw(data)
    found = {
        "uncompressed": len(raw),
        "gzip": len(gzip.compress(raw, 9, mtime=0)),
        "bz2": len(bz2.compress(raw, 9)),
        "xz": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        "zstd": _zstd(raw),
    }
    found |= _pictures(data) if data.schema.kind == "image" else {}
    return {name: 8 * size for name, size in found.items()}


def _raw(data: Dataset) -> bytes:
    if data.schema.kinds and data.schema.kind == "table":
        return as_csv(data.schema, data.decoded())
    values = data.schema.decode(data.x, data.mask, data.lengths, names=False)
    if data.schema.kind == "text":
        return "".join(" ".join(words) + "\n" for words in values).encode()
    if isinstance(values, list):
        rows = [_numbers(value) for value in values]
        most = max(int(np.nanmax(row)) for row in rows if row.size)
        whole = all(np.array_equal(row, np.round(row)) and row.min(initial=0) >= 0 for row in rows)
        kind: Any = np.min_scalar_type(most + 1) if whole else np.float32
        return b"".join(np.append(row.ravel(), most + 1 if whole else np.nan).astype(kind).tobytes() for row in rows)
    return _packed(_numbers(values))


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _packed(values: np.ndarray) -> bytes:
    hidden = np.isnan(values)
    whole = np.where(hidden, 0, np.round(values))
    if not np.array_equal(whole[~hidden], values[~hidden]) or whole.min(initial=0) < 0:
        return values.astype(np.float32).tobytes()
    most = int(whole.max(initial=0))
    if hidden.any():
        whole, most = np.where(hidden, most + 1, whole), most + 1
    return (
        np.packbits(whole.astype(np.uint8)).tobytes() if most <= 1 else whole.astype(np.min_scalar_type(most)).tobytes()
    )


def _zstd(raw: bytes) -> int:
    return len(pyarrow.Codec("zstd", compression_level=ZSTD).compress(raw))


def _pictures(data: Dataset) -> dict[str, int]:
    """As PNG and WebP: images side by side, in as few sheets as there need be."""
    values = _numbers(data.schema.decode(data.x, data.mask, None))
    images = values[..., 0] if values.ndim == 4 and values.shape[-1] == 1 else values
    whole = np.isfinite(images).all() and np.array_equal(images, np.round(images)) and 0 <= images.min() <= images.max()
    if not whole or images.max() > 255 or not (images.ndim == 3 or images.shape[-1] == 3):
        return {}
    return {"PNG": sum(map(_png, _sheets(images))), "WebP": sum(map(_webp, _sheets(images)))}


def _sheets(images: np.ndarray) -> list[np.ndarray]:
    height, width = images.shape[1:3]
    across = min(max(SIDE // width, 1), int(np.ceil(len(images) ** 0.5)))
    down = max(SIDE // height, 1)
    found = []
    for start in range(0, len(images), across * down):
        some = images[start : start + across * down]
        rows = -(-len(some) // across)
        sheet = np.zeros((rows * across, *images.shape[1:]), dtype=np.uint8)
        sheet[: len(some)] = some
        sheet = sheet.reshape(rows, across, *images.shape[1:]).swapaxes(1, 2)
        found.append(sheet.reshape(rows * height, across * width, *images.shape[3:]))
    return found


def _png(sheet: np.ndarray) -> int:
    image = Image.fromarray(255 * sheet).convert("1") if sheet.max(initial=0) <= 1 else Image.fromarray(sheet)
    return _saved(image, format="PNG", optimize=True)


def _webp(sheet: np.ndarray) -> int:
    shown = 255 * sheet if sheet.max(initial=0) <= 1 else sheet
    return _saved(Image.fromarray(shown).convert("RGB"), format="WEBP", lossless=True, quality=100, method=6)


def _saved(image: Image.Image, **options: Any) -> int:
    file = io.BytesIO()
    image.save(file, **options)
    return file.tell()
