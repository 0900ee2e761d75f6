"""Images as small crisp grids: PNG inside the page, enlarged by the browser without smoothing."""

from __future__ import annotations

import base64

import numpy as np

from latentia.data import Schema
from latentia.data.grids import png, tiles

WIDEST = 900  # pixels on the page


def white(schema: Schema, x: np.ndarray) -> float:
    """The value of x, in the model's coordinates, that is shown as white."""
    if schema.values == "levels":
        return max((schema.levels or 2) - 1.0, 1.0)
    scaled = schema.values == "binary" or (schema.scale != (1.0,) and not any(schema.shift))
    return 1.0 if scaled else max(float(np.nanmax(np.abs(x), initial=0)), 1e-12)


def showable(schema: Schema) -> bool:
    """Whether x is an image of one, three or four channels: chroma is none without its grey image."""
    shape = schema.event_shape
    return (
        schema.kind == "image"
        and not schema.chroma
        and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4)))
    )


def grid(images: np.ndarray, top: float, gap: int = 1) -> dict[str, str | int]:
    """Images of `tiles` as a data URI, and the width at which to show it."""
    canvas = tiles(images, top, gap)
    # a whole number of screen pixels to each pixel, about 48 to an image
    enlarge = max(1, min(round(48 / images.shape[3]), WIDEST // canvas.shape[1]))
    uri = f"data:image/png;base64,{base64.b64encode(png(canvas)).decode()}"
    return {"uri": uri, "width": canvas.shape[1] * enlarge}
