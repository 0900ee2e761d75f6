"""Images side by side in one picture, and pictures as PNG: for pages, and for files of their own."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

SHOWN_AT = 64  # pixels to the width of an image in a file of its own, about
BETWEEN = (128, 128, 128, 255)


def tiles(images: np.ndarray, top: float = 1.0, gap: int = 1) -> np.ndarray:
    """Images (rows, columns, H, W) or (rows, columns, H, W, C), 0 black and `top` white, as one of RGBA.

    What lies between the images is transparent.
    """
    images = images.reshape(*images.shape[:4], -1)
    rows, columns, height, width, channels = images.shape
    pixels = (np.nan_to_num(images / top).clip(0, 1) * 255).round().astype(np.uint8)
    colour = np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels[..., :3]
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            y, x = row * (height + gap), column * (width + gap)
            canvas[y : y + height, x : x + width, :3] = colour[row, column]
            canvas[y : y + height, x : x + width, 3] = 255
    return canvas


def png(canvas: np.ndarray) -> bytes:
    """A picture (H, W, C) of bytes as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, format="PNG", optimize=True)
    return file.getvalue()


def sheet(images: np.ndarray, top: float = 1.0) -> bytes:
    """The images of `tiles` as a PNG file that stands alone: enlarged, and grey between them."""
    canvas = tiles(images, top)
    canvas[canvas[..., 3] == 0] = BETWEEN
    enlarge = max(1, round(SHOWN_AT / images.shape[3]))
    return png(canvas[..., :3].repeat(enlarge, 0).repeat(enlarge, 1))


def near_square(images: np.ndarray) -> np.ndarray:
    """Images (N, ...) as (rows, columns, ...), as near to a square as may be; NaN in the places that are over."""
    across = math.ceil(math.sqrt(len(images)))
    down = math.ceil(len(images) / across)
    rest = np.full((down * across - len(images), *images.shape[1:]), np.nan)
    return np.concatenate([images, rest]).reshape(down, across, *images.shape[1:])
