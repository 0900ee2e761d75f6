"""Lab against known values and back, the grid of the chroma, pairs from images and folders, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from latentia.data.colour import ChromaGrid, apart, pairs, pictures, to_lab, to_rgb
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
