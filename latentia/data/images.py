"""Folders of images in, and grids of images out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from latentia.data.files import readable
from latentia.data.limits import judge
from latentia.data.raw import Raw
from latentia.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # by content, whatever the name says: PIL's other readers start programs (PostScript)
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I", "F")  # kept as they are: 8 bits would lose levels


def read_folder(path: Path) -> Raw:
    """All images of a folder in natural order (2 before 10): (N, H, W) where all are grey, else (N, H, W, 3).

    Where they lie in folders of that folder, the names of those are their labels.

    Raises:
        DataError: no image, a damaged one, images of different sizes or depths, and what would be lost: transparency,
            the frames of an animation, 16 bits of a colour.
    """
    files = listed(path)
    if not files:
        raise DataError(f"{path} holds no images: put {', '.join(SUFFIXES)} files in it, or in a folder for each class")
    images = _read_all(path, files)
    if len({image.ndim for image in images}) > 1:
        images = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{path.name}: {file.name} is {_size(image)} where {files[0].name} is {_size(images[0])} "
                "(height x width): make all images the same size, for instance with PIL.ImageOps.fit, which scales and "
                "crops"
            )
        if image.dtype != images[0].dtype:
            raise DataError(
                f"{path.name}: {file.name} has {_depth(image)} a value where {files[0].name} has {_depth(images[0])}: "
                "their levels do not compare; save all images with the same depth"
            )
    inside = all(file.parent != path for file in files)
    labels = np.array([file.parent.name for file in files]) if inside else None
    return Raw("image", np.stack(images), source=path.name, labels=labels)


def _images_of(path: Path) -> list[Path]:
    # files whose name begins with a point are hidden: macOS puts ._x.png beside x.png, which is no image
    named = (file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(named, key=_natural)


def listed(path: Path) -> list[Path]:
    """The images of a folder in natural order; where there are none, those of the folders in it."""
    with readable(path, "a folder of images"):
        files = _images_of(path)
        inside = (each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
        return files or [file for folder in sorted(inside, key=_natural) for file in _images_of(folder)]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _read_all(path: Path, files: list[Path]) -> list[np.ndarray]:
    """The files' images, as long as they are in proportion to the files."""
    images, values, size = [], 0, 0
    for file in files:
        images.append(_read(file))
        values, size = values + images[-1].size, size + file.stat().st_size
        judge(path.name, values, size)
    return images


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, of which only the header has been read."""
    if not path.is_file():  # a pipe would be waited for without end
        raise DataError(
            f"{path.parent.name}: {path.name} is a folder, a pipe or a device, not a file: move it elsewhere"
        )
    with readable(path, "an image"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `judge` knows better
        with Image.open(path, formats=FORMATS) as image:
            yield image


def _read(path: Path) -> np.ndarray:
    with _opened(path) as image:
        channels = 1 if image.mode in (*GREY_MODES, *DEEP_MODES) else 3
        judge(path.name, image.width * image.height * channels, path.stat().st_size)
        _refuse_loss(path, image)
        if image.mode in DEEP_MODES:
            return np.array(image)
        return np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))


def _refuse_loss(path: Path, image: Image.Image) -> None:
    """Raise `DataError` for what PIL would read a part of without a word."""
    frames = getattr(image, "n_frames", 1) if image.format == "PNG" else 1
    if frames > 1:
        raise DataError(f"{path.name} is an animation of {frames} frames: save each frame as an image of its own")
    raw = [tile[3] if isinstance(tile[3], str) else "" for tile in getattr(image, "tile", ())]
    if image.mode not in DEEP_MODES and any(mode.endswith(("16B", "16L")) for mode in raw):
        raise DataError(
            f"{path.name} has 16 bits a channel, of which only 8 could be read: save it with 8, or give arrays"
        )
    if _is_transparent(image):
        raise DataError(
            f"{path.name} has transparent pixels, whose colour depends on what is behind them: put the image on a "
            "background, or give arrays with four channels"
        )


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not wholly opaque; of 16 bits, whether the file says that some may be."""
    if not image.has_transparency_data or image.mode in DEEP_MODES:
        return image.has_transparency_data
    return image.convert("RGBA").getextrema()[3][0] < 255  # type: ignore[index]


def _depth(image: np.ndarray) -> str:
    return f"{8 * image.dtype.itemsize} bits"


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
