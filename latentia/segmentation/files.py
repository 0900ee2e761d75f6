"""Label maps in files: PNG with a palette or of whole numbers, and arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from latentia.data import arrays
from latentia.data.files import readable
from latentia.data.images import listed
from latentia.errors import DataError

PLAIN = ("P", "L", "1", "I;16", "I;16B", "I;16L", "I")


def read_label_map(path: str | os.PathLike, key: str | None = None) -> np.ndarray:
    """The labels of a file, whole numbers: (H, W) of a .png, of which a palette's colours are not looked at; an array
    (H, W) or (N, H, W) of a .npy or .npz file.

    Args:
        key: which array of a .npz file; None: the only one.

    Raises:
        DataError: a file in colour without a palette, an array that is no label map, or several arrays and no key.
    """
    found = Path(path)
    if found.suffix.lower() == ".png":
        with readable(found, "a label map"), Image.open(found, formats=("PNG",)) as image:
            if image.mode not in PLAIN:
                raise DataError(
                    f"{found.name} is an image in colour ({image.mode}), which has no labels: save it with a palette, "
                    "or as an array of whole numbers"
                )
            return np.array(image).astype(np.int64)
    reader = arrays.read_npz if found.suffix.lower() == ".npz" else arrays.read_npy
    held = reader(found, key)
    if held.ndim not in (2, 3) or held.dtype.kind not in "iub":
        raise DataError(
            f"{found.name} is {held.shape} of {held.dtype}: label maps are (H, W) or (N, H, W), whole numbers"
        )
    return held.astype(np.int64)


def read_label_maps(path: str | os.PathLike, key: str | None = None) -> list[np.ndarray]:
    """All maps, each (H, W), of a folder of .png files in natural order, as images of a folder are, so that maps and
    images of like names are pairs; or of an array (N, H, W). Raises `DataError` as `read_label_map` does."""
    found = Path(path)
    if not found.is_dir():
        held = read_label_map(found, key)
        return [held] if held.ndim == 2 else list(held)
    maps = [read_label_map(file) for file in listed(found) if file.suffix.lower() == ".png"]
    if not maps:
        raise DataError(f"{found} holds no label maps: put .png files in it")
    return maps


def write_label_map(labels: np.ndarray, path: str | os.PathLike) -> None:
    """A map (H, W) of 0..255 as a PNG with a palette of well-told colours. Raises `DataError` for any other."""
    found = np.asarray(labels)
    if found.ndim != 2 or found.dtype.kind not in "iub" or found.min(initial=0) < 0 or found.max(initial=0) > 255:
        raise DataError(f"a label map is (H, W) of whole numbers 0..255, and this is {found.shape} of {found.dtype}")
    image = Image.fromarray(found.astype(np.uint8), mode="P")
    # no more colours than there are labels: 256 are more bytes than most maps
    image.putpalette(palette()[: int(found.max(initial=0)) + 1].tobytes())
    image.save(path, format="PNG", optimize=True)


def palette() -> np.ndarray:
    """256 colours, (256, 3) bytes: the bits of a label spread over the three channels, from the highest down, as the
    VOC challenge has them."""
    label = np.arange(256)
    bit = (label[:, None] >> np.arange(8)) & 1
    return np.stack(
        [sum(bit[:, 3 * n + c] << (7 - n) for n in range(3) if 3 * n + c < 8) for c in range(3)], -1
    ).astype(np.uint8)
