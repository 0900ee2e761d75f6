"""Folders of images."""

import io

import numpy as np
from PIL import Image

from latentia.data import load, read

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_folder_of_grey_images_in_natural_order(write, tmp_path):
    for number in (10, 2, 1):
        write(f"im{number}.png", png(GREY + np.uint8(number)))
    write("README.md", "not an image")
    raw = read(tmp_path)
    assert raw.kind == "image"
    assert np.array_equal(raw.values, np.stack([GREY + np.uint8(n) for n in (1, 2, 10)]))
    assert load(str(tmp_path)).schema.event_shape == (3, 4)


def test_names_of_any_form_can_be_sorted(write, tmp_path):
    for name in ("a.png", "1.png", "a1b.png", "B2.png"):
        write(name, png(GREY))
    assert len(read(tmp_path)) == 4


def test_colour_images_have_three_channels(write, tmp_path):
    write("1.png", png(COLOUR))
    write("2.png", png(GREY))
    raw = read(tmp_path)
    assert np.array_equal(raw.values[0], COLOUR)
    assert np.array_equal(raw.values[1], np.stack([GREY] * 3, axis=-1))
    assert load(tmp_path).schema.sizes() == {"event_shape": (3, 4, 3), "features": 36, "symbols": None}


def test_jpeg_palette_alpha_and_16_bits(write, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 4), 100, dtype=np.uint8)).save(buffer, format="JPEG")
    folder = tmp_path / "jpeg"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(buffer.getvalue())
    assert abs(read(folder).values.astype(int) - 100).max() <= 1
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "a.png").write_bytes(png(GREY.astype(np.uint16) * 250))
    assert np.array_equal(read(deep).values[0], GREY.astype(int) * 250)
    rgba = tmp_path / "rgba"
    rgba.mkdir()
    (rgba / "a.png").write_bytes(png(np.concatenate([COLOUR, np.full((3, 4, 1), 255, np.uint8)], -1)))
    assert np.array_equal(read(rgba).values[0], COLOUR)


def test_ragged_images_are_refused(refused, write, tmp_path):
    write("a.png", png(GREY))
    write("b.png", png(GREY[:2]))
    with refused(tmp_path.name, "b.png", "2 x 4", "a.png", "3 x 4", "same size"):
        read(tmp_path)


def test_damaged_images_and_empty_folders_are_refused(refused, write, tmp_path):
    with refused(tmp_path.name, "no images", ".png"):
        read(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)
    content = png(noise)
    for size in (20, len(content) // 2):
        write("a.png", content[:size])
        with refused("a.png", "image", "truncated"):
            read(tmp_path)
