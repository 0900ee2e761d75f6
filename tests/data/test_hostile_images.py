"""Folders of images that would start a program, fill the memory, hang, or lose a part of what they hold."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from latentia.data import read

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def saved(array, form="PNG", **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_postscript_is_not_interpreted_whatever_its_name(refused, write, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(1) or Image.new("L", (4, 3)))
    write("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 3\n%%EndComments\nshowpage\n%%EOF\n")
    with refused("a.png", "image"):
        read(tmp_path)
    assert not started


@pytest.mark.parametrize("form", ["BMP", "TIFF", "GIF", "PPM"])
def test_only_the_formats_that_are_offered_are_read(refused, write, tmp_path, form):
    write("a.png", saved(GREY, form))
    with refused("a.png", "image"):
        read(tmp_path)


def test_8_and_16_bits_in_one_folder_do_not_compare(refused, write, tmp_path):
    write("a.png", saved(GREY))
    write("b.png", saved(GREY.astype(np.uint16) * 250))
    with refused("b.png has 16 bits", "a.png has 8 bits", "same depth"):
        read(tmp_path)


def test_16_bits_of_colour_are_not_cut_to_8(refused, write, tmp_path):
    write("a.png", png(2, 1, 16, 2, b"\0" + bytes(range(12))))
    with refused("a.png", "16 bits", "8"):
        read(tmp_path)


def transparent(mode):
    if mode == "P":
        return saved(Image.fromarray(GREY).convert("P"), transparency=0)
    if mode == "I;16":
        return saved(GREY.astype(np.uint16) * 250, transparency=250)
    image = Image.new(mode, (4, 3), 90 if mode == "L" else None)
    if mode == "L":
        return saved(image, transparency=90)
    image.putalpha(Image.fromarray(np.full((3, 4), 254, np.uint8)))
    return saved(image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16"])
def test_transparency_is_not_dropped(refused, write, tmp_path, mode):
    write("a.png", transparent(mode))
    with refused("a.png", "transparent", "background"):
        read(tmp_path)


def test_an_animation_is_not_cut_to_a_frame(refused, write, tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    write("a.png", saved(frames[0], save_all=True, append_images=frames[1:]))
    with refused("a.png", "animation of 2 frames"):
        read(tmp_path)


def test_a_small_file_of_very_many_pixels_is_refused_before_they_are_read(refused, write, tmp_path, monkeypatch):
    side = 13_000  # 169 million pixels, each a bit
    row = b"\0" + bytes((side + 7) // 8)
    content = png(side, side, 1, 0, row * side)
    assert len(content) < 30_000
    write("a.png", content)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were read"))
    with refused("a.png", "169,000,000 values", f"{len(content):,} bytes"):
        read(tmp_path)


def test_many_small_files_are_judged_together(refused, write, tmp_path, monkeypatch):
    monkeypatch.setattr("latentia.data.limits.ALWAYS", 10_000)
    content = png(80, 80, 1, 0, (b"\0" + bytes(10)) * 80)
    assert 64 * len(content) < 80 * 80 < 10_000
    write("a.png", content)
    assert np.shape(read(tmp_path).values) == (1, 80, 80)
    write("b.png", content)
    with refused(tmp_path.name, "12,800 values"):
        read(tmp_path)


def test_hidden_files_are_no_images(write, tmp_path):
    write("a.png", saved(GREY))
    write("._a.png", b"\0\5\26\7\0\2\0\0Mac OS X")
    assert np.shape(read(tmp_path).values) == (1, 3, 4)


def test_what_is_no_file_is_refused_and_not_waited_for(refused, write, tmp_path):
    write("a.png", saved(GREY))
    os.mkfifo(tmp_path / "b.png")
    with refused("b.png", "pipe"):
        read(tmp_path)
    os.remove(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    with refused("c.png", "folder"):
        read(tmp_path)
