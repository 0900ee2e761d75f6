"""Lab against known values and back, the grid of the chroma, pairs from images and folders, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from latentia.data import Schema, load
from latentia.data.colour import ChromaGrid, apart, coloured, pairs, pictures, to_lab, to_rgb
from latentia.errors import DataError, OptionError

# of sRGB's corners, to the second decimal (Lindbloom's calculator, D65)
KNOWN = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (128, 128, 128): (53.59, 0.0, 0.0),
}


@pytest.mark.parametrize(("rgb", "lab"), KNOWN.items())
def test_lab_of_known_colours(rgb, lab):
    np.testing.assert_allclose(to_lab(np.array(rgb, np.uint8)), lab, atol=0.01)


def test_every_colour_comes_back():
    line = np.arange(0, 256, 15, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(line, line, line), -1)
    np.testing.assert_array_equal(np.rint(255 * to_rgb(to_lab(rgb))), rgb)
    np.testing.assert_allclose(to_lab(rgb / 255), to_lab(rgb))


def test_a_grid_has_its_points_and_what_is_beyond_goes_to_the_edge():
    grid = ChromaGrid(5, 30)
    assert grid.symbols == 169
    np.testing.assert_array_equal(grid.nearest(grid.points), np.arange(169))
    np.testing.assert_array_equal(grid.points[84], (0, 0))
    found = grid.points[grid.nearest(np.array([[2.4, -2.6], [99.0, 12.0], [-31.0, 0.0]]))]
    np.testing.assert_array_equal(found, [[0, -5], [30, 10], [-30, 0]])
    assert grid.beyond(np.array([[0.0, 0.0], [99.0, 0.0], [32.0, 0.0], [0.0, -33.0]])) == 0.5
    for wrong in (ChromaGrid(5, 32), ChromaGrid(-5, 30), ChromaGrid(0, 30)):
        with pytest.raises(OptionError, match="multiple of step"):
            _ = wrong.symbols


def test_pairs_are_the_images_to_half_a_step():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    grid = ChromaGrid()
    data = pairs(images, grid)
    assert data.schema.sizes()["symbols"] == grid.symbols == 441
    assert data.schema.unit == "nats per image"
    assert data.x.shape == data.context.x.shape == (3, 4, 5)
    grey, chroma = apart(images, grid)
    np.testing.assert_array_equal(data.x, chroma)
    np.testing.assert_allclose(data.context.x, grey / 255, rtol=1e-6)
    lab, ab = to_lab(images), grid.points[data.x.numpy()]
    inside = (np.abs(lab[..., 1:]) <= grid.reach).all(-1)
    assert np.abs(lab[..., 1:] - ab)[inside].max() <= grid.step / 2
    exact = pictures(data.context.x.numpy(), lab[..., 1:])
    assert np.abs(exact.astype(int) - images).max() <= 4  # L has 8 bits, and most of it shows in the darkest channel
    one = data.batch(slice(0, 1))
    assert torch.equal(one.x, data.x[:1])


def test_a_folder_in_colour_is_read_and_one_in_grey_refused(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    for folder, mode in (("colour", "RGB"), ("grey", "L")):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).convert(mode).save(tmp_path / folder / f"{i}.png")
    assert torch.equal(pairs(tmp_path / "colour").x, pairs(images).x)
    with pytest.raises(DataError, match="three channels"):
        pairs(tmp_path / "grey")
    with pytest.raises(DataError, match="three channels"):
        pairs(images[0])
    with pytest.raises(DataError, match="0 to 1"):
        pairs(images.astype(float))


def test_images_in_colour_are_loaded_as_chroma_given_grey(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", seen=images, other=images[:, :, :3])
    data = load(tmp_path / "images.npz", key="seen", values="colour:5:30")
    assert torch.equal(data.x, pairs(images, ChromaGrid(5, 30)).x)
    assert data.schema.describe() == (
        "images of 4 x 6, their chroma given grey, 169 points of step 5 and reach 30 in Lab"
    )
    assert data.schema.grid == ChromaGrid(5, 30)
    again = Schema.from_json(data.schema.to_json())
    assert again == data.schema
    # other images by that schema, of which each keeps its own grey image
    some = load(images[1:3], schema=again)
    assert torch.equal(some.x, data.x[1:3])
    assert torch.equal(some.context.x, data.context.x[1:3])
    back = coloured(data.context.x.numpy(), data.x.numpy(), data.schema.grid)
    assert back.shape == images.shape
    np.testing.assert_allclose(load(images, values="colour").x, pairs(images).x)


def test_what_is_no_image_in_colour_is_refused_as_such(tmp_path):
    images = np.random.default_rng(3).random((2, 4, 4, 3))
    data = load(images, values="colour")
    with pytest.raises(OptionError, match="colour:STEP:REACH"):
        load(images, values="colour:5")
    with pytest.raises(OptionError, match="multiple of step"):
        load(images, values="colour:7:30")
    with pytest.raises(DataError, match="three channels"):
        load(images[..., 0], values="colour", kind="image")
    with pytest.raises(DataError, match="shape"):
        load(images[:, :3], schema=data.schema)
    with pytest.raises(OptionError, match="leave out scale"):
        load(images, values="colour", binarize="fixed")
    with pytest.raises(DataError, match="leave out --context"):
        load(images, values="colour", context=images)
    hole = images.copy()
    hole[0, 1, 2, 0] = np.nan
    with pytest.raises(DataError, match="missing"):
        load(hole, values="colour")
    with pytest.raises(DataError, match="damaged: chroma"):
        Schema.from_json({**data.schema.to_json(), "levels": 440})
    with pytest.raises(DataError, match="not as chroma"):
        _ = load(images).schema.grid
    with pytest.raises(DataError, match="grey image"):
        data.schema.write(data.x, tmp_path / "chroma.png")
