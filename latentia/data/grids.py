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


def exact(images: np.ndarray) -> bytes:
    """Images (N, H, W) or (N, H, W, C) in [0, 1] as a PNG file, as near to a square as may be: a pixel is a pixel, grey
    stays grey and transparency stays, so that the images can be read back."""
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    across = math.ceil(math.sqrt(len(images)))
    down = math.ceil(len(images) / across)
    height, width = images.shape[1:3]
    grid = np.full((down * (height + 1) + 1, across * (width + 1) + 1, *images.shape[3:]), 128, dtype=np.uint8)
    for i, image in enumerate((images.clip(0, 1) * 255).round().astype(np.uint8)):
        top, left = 1 + i // across * (height + 1), 1 + i % across * (width + 1)
        grid[top : top + height, left : left + width] = image
    return png(grid)
