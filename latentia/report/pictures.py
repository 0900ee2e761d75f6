"""Images as small crisp grids: PNG inside the page, enlarged by the browser without smoothing."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from latentia.data import Schema

WIDEST = 900  # pixels on the page
SHOWN_AT = 64  # pixels to the width of an image in a file of its own, about


def white(schema: Schema, x: np.ndarray) -> float:
    """The value of x, in the model's coordinates, that is shown as white."""
    if schema.values == "levels":
        return max((schema.levels or 2) - 1.0, 1.0)
    scaled = schema.values == "binary" or (schema.scale != (1.0,) and not any(schema.shift))
    return 1.0 if scaled else max(float(np.nanmax(np.abs(x), initial=0)), 1e-12)


def showable(schema: Schema) -> bool:
    """Whether x is an image of one, three or four channels."""
    shape = schema.event_shape
    return schema.kind == "image" and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4)))


def grid(images: np.ndarray, top: float, gap: int = 1) -> dict[str, str | int]:
    """Images (rows, columns, H, W) or (rows, columns, H, W, C), 0 black and `top` white, as a data URI and its width.

    What lies between the images is transparent.
    """
    canvas = _canvas(images, top, gap)
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, format="PNG", optimize=True)
    # a whole number of screen pixels to each pixel, about 48 to an image
    enlarge = max(1, min(round(48 / images.shape[3]), WIDEST // canvas.shape[1]))
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"uri": uri, "width": canvas.shape[1] * enlarge}


def sheet(images: np.ndarray, top: float, gap: int = 1) -> bytes:
    """The same grid as a PNG file that stands alone: enlarged, and grey between the images."""
    canvas = _canvas(images, top, gap)
    canvas[canvas[..., 3] == 0] = (128, 128, 128, 255)
    enlarge = max(1, round(SHOWN_AT / images.shape[3]))
    file = io.BytesIO()
    canvas = canvas[..., :3].repeat(enlarge, 0).repeat(enlarge, 1)
    Image.fromarray(canvas).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _canvas(images: np.ndarray, top: float, gap: int) -> np.ndarray:
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
