"""Folders of images in, and grids of images out."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
from PIL import Image

from latentia.data.files import readable
from latentia.data.raw import Raw
from latentia.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")  # kept as they are: 8 bits would lose levels


def read_folder(path: Path) -> Raw:
    """All images of a folder in natural order (2 before 10): (N, H, W) where all are grey, else (N, H, W, 3).

    Raises:
        DataError: no image, a damaged one, or images of different sizes.
    """
    files = sorted((file for file in path.iterdir() if file.suffix.lower() in SUFFIXES), key=_natural)
    if not files:
        raise DataError(f"{path} holds no images: put {', '.join(SUFFIXES)} files in it")
    images = [_read(file) for file in files]
    if len({image.ndim for image in images}) > 1:
        images = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{path.name}: {file.name} is {_size(image)} where {files[0].name} is {_size(images[0])} "
                "(height x width): make all images the same size"
            )
    return Raw("image", np.stack(images), source=path.name)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _read(path: Path) -> np.ndarray:
    with readable(path, "an image"), Image.open(path) as image:
        if image.mode in DEEP_MODES:
            return np.array(image)
        return np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def grid_png(images: np.ndarray) -> bytes:
    """The PNG file of a grid of images, (N, H, W) or (N, H, W, C), in [0, 1], as near to a square as may be."""
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    across = math.ceil(math.sqrt(len(images)))
    down = math.ceil(len(images) / across)
    height, width = images.shape[1:3]
    grid = np.full((down * (height + 1) + 1, across * (width + 1) + 1, *images.shape[3:]), 128, dtype=np.uint8)
    for i, image in enumerate((images.clip(0, 1) * 255).round().astype(np.uint8)):
        top, left = 1 + i // across * (height + 1), 1 + i % across * (width + 1)
        grid[top : top + height, left : left + width] = image
    file = io.BytesIO()
    Image.fromarray(grid).save(file, format="PNG")
    return file.getvalue()
