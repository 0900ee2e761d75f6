"""Colour as a grey image and what it leaves out: CIE Lab, its chroma on a grid, and pictures back again.

An sRGB image is L (how light, 0..100) and the chroma (a, b), 0 where it is grey. Here L is kept in 8 bits, as a grey
image, and the chroma as one of V symbols, the nearest point of a square grid. `load(..., values="colour")`, or `pairs`,
makes the data of p(chroma | grey) from images in colour, and `pictures` images from the two.

    IEC 61966-2-1 (sRGB); CIE 15:2004, section 8.2.1 (Lab), white point D65
    Zhang, Isola and Efros (2016), "Colorful image colorization", section 2.1: the chroma on a grid of width 10
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from latentia.data.raw import Raw
from latentia.errors import DataError, OptionError

if TYPE_CHECKING:
    from latentia.data.dataset import Dataset

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""Linear sRGB to XYZ; its rows sum to the white point D65."""
WHITE = TO_XYZ.sum(1)
KNEE = 6 / 29
GREY = "grey images"
GREY_LEVELS = 255
LIGHTEST = 100.0


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Lab (..., 3) of sRGB images (..., 3): bytes, or floats in [0, 1].

    Raises:
        DataError: no three channels, or floats outside of [0, 1].
    """
    if rgb.ndim < 1 or rgb.shape[-1] != 3:
        raise DataError(f"images in colour have three channels last, (..., 3), and these have shape {rgb.shape}")
    values = rgb / 255.0 if rgb.dtype.kind in "ui" else rgb.astype(np.float64)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise DataError("sRGB values are bytes of 0 to 255, or floats from 0 to 1")
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE
    root = np.where(xyz > KNEE**3, np.cbrt(xyz), xyz / (3 * KNEE**2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def to_rgb(lab: np.ndarray) -> np.ndarray:
    """sRGB floats (..., 3) in [0, 1] of Lab (..., 3); what no screen can show is cut off, channel by channel."""
    light, a, b = np.moveaxis(np.asarray(lab, np.float64), -1, 0)
    y = (light + 16) / 116
    root = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(root > KNEE, root**3, 3 * KNEE**2 * (root - 4 / 29)) * WHITE
    linear = np.clip(xyz @ np.linalg.inv(TO_XYZ).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


class ChromaGrid(NamedTuple):
    """The points (i * step, j * step) with i and j from -reach / step to reach / step, numbered a first: symbol
    (i + n)(2n + 1) + j + n, n = reach / step. A chroma beyond the grid goes to the nearest point of its edge.

    Attributes:
        step: between neighbouring points, in units of Lab.
        reach: the largest a and b there is, a whole multiple of `step`.
    """

    step: float = 10.0
    reach: float = 100.0

    @property
    def side(self) -> int:
        """How many points lie in a row.

        Raises:
            OptionError: a step that is not positive, or a reach that is no multiple of it.
        """
        each = round(self.reach / self.step) if self.step > 0 else 0
        if each < 1 or abs(each * self.step - self.reach) > 1e-9 * self.reach:
            raise OptionError(
                f"a grid of step {self.step} and reach {self.reach}: reach is a positive multiple of step"
            )
        return 2 * each + 1

    @property
    def symbols(self) -> int:
        """V, how many points there are."""
        return self.side**2

    @property
    def points(self) -> np.ndarray:
        """The (a, b) of each symbol, (V, 2)."""
        line = self.step * (np.arange(self.side) - self.side // 2)
        return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)

    def nearest(self, ab: np.ndarray) -> np.ndarray:
        """The symbols (...) of chroma (..., 2)."""
        each = np.clip(np.rint(ab / self.step), -(self.side // 2), self.side // 2).astype(np.int64) + self.side // 2
        return each[..., 0] * self.side + each[..., 1]

    def beyond(self, ab: np.ndarray) -> float:
        """The share of chroma (..., 2) that lies more than half a step beyond the grid, and is moved to its edge."""
        return float((np.abs(ab) > self.reach + self.step / 2).any(-1).mean())


def apart(images: np.ndarray, grid: ChromaGrid) -> tuple[np.ndarray, np.ndarray]:
    """The grey images, bytes of round(2.55 L), and the chroma symbols, both (N, H, W), of sRGB images (N, H, W, 3)."""
    lab = to_lab(images)
    grey = np.rint(lab[..., 0] * (GREY_LEVELS / LIGHTEST)).clip(0, GREY_LEVELS).astype(np.uint8)
    return grey, grid.nearest(lab[..., 1:])


def asked(values: str) -> ChromaGrid | None:
    """The grid that "colour" or "colour:STEP:REACH" asks for; None where `values` says something else.

    Raises:
        OptionError: no such grid.
    """
    name, *numbers = values.split(":")
    if name != "colour":
        return None
    try:
        step, reach = map(float, numbers) if numbers else ChromaGrid()
    except ValueError:
        raise OptionError(f"values={values!r}: write colour, or colour:STEP:REACH, such as colour:5:30") from None
    grid = ChromaGrid(step, reach)
    _ = grid.side  # which refuses what is no grid
    return grid


def check_colour(raw: Raw) -> None:
    """Raise `DataError` for what is no images in colour."""
    # of what has no images, values may be lists of different lengths, which have no shape
    shape = np.shape(raw.values) if raw.kind == "image" else None
    if shape is None or len(shape) != 4 or shape[-1] != 3:
        found = f"are of kind {raw.kind}" if shape is None else f"have shape {shape}"
        raise raw.error(f"images in colour have three channels last, (N, H, W, 3), and these {found}")
    if raw.context is not None:
        raise raw.error("the context of chroma is the grey image, which the images in colour have: leave out --context")


def split(raw: Raw, grid: ChromaGrid) -> Raw:
    """Images in colour as their chroma, with the grey images as its context. Raises `DataError` for others."""
    check_colour(raw)
    if np.isnan(raw.values).any():
        raise raw.error("a pixel in colour has no missing part: of one that is hidden the grey image would be too")
    grey, chroma = apart(np.asarray(raw.values), grid)
    return replace(raw, values=chroma, context=Raw("image", grey, source=GREY, rows=raw.rows))


def pairs(images: np.ndarray | str | os.PathLike, grid: ChromaGrid | None = None) -> Dataset:
    """Data of p(chroma | grey): x the chroma's symbols (N, H, W), the context grey images in [0, 1].

    Args:
        images: sRGB (N, H, W, 3), bytes or floats in [0, 1]; or a folder of images in colour, all of one size; or
            anything else that `load` reads as such.
        grid: of the chroma.

    Raises:
        DataError: images that are grey, or no images.
    """
    from latentia.data.dataset import load  # whose schema needs this module

    step, reach = grid or ChromaGrid()
    return load(images, values=f"colour:{step}:{reach}")


def pictures(grey: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """sRGB bytes (..., 3) of grey images in [0, 1] (...), as in the context of `pairs`, and chroma (..., 2)."""
    light = LIGHTEST * np.asarray(grey, np.float64)[..., None]
    return np.rint(255 * to_rgb(np.concatenate([light, ab], -1))).astype(np.uint8)


def coloured(grey: np.ndarray, chroma: np.ndarray, grid: ChromaGrid) -> np.ndarray:
    """sRGB bytes (..., 3) of grey images in [0, 1] (...) and symbols of the grid (...)."""
    return pictures(grey, grid.points[np.asarray(chroma, np.int64)])
