"""Label maps without loss: files and back, bits against the table's own, fills and their ties, and refusals."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from latentia.errors import DataError, OptionError
from latentia.kernels import label_maps as kernel
from latentia.segmentation import ContextCoder, SparseCoder, read_label_map, write_label_map
from latentia.segmentation.sparse import FREE, filled, log2_choose


def maps(count, size=(17, 23), seed=0, labels=4):
    """Regions with the nearest of a few centres, so that they have edges in every direction."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    found = []
    for _ in range(count):
        centres = rng.uniform(0, size, (7, 2))
        nearest = ((grid[:, :, None] - centres) ** 2).sum(-1).argmin(-1)
        found.append(rng.integers(labels, size=7)[nearest])
    return np.array(found)


@pytest.fixture(scope="module")
def coder():
    return ContextCoder(maps(30), 4)


def coders(coder):
    return {
        "context": coder,
        "nearest": SparseCoder(coder, "nearest", maps(3)),
        "predicted": SparseCoder(coder, "predicted"),
    }


ODD = {
    "one pixel": np.array([[3]]),
    "one label": np.full((5, 9), 2),
    "a column": np.array([[0], [1], [1], [3]]),
    "noise": np.random.default_rng(0).integers(0, 4, (12, 11)),
    "checkers": np.indices((8, 8)).sum(0) % 2,
}


@pytest.mark.parametrize("kind", ["context", "nearest", "predicted"])
def test_every_map_comes_back_from_its_file(coder, kind, tmp_path):
    codec, path = coders(coder)[kind], tmp_path / "map"
    for one in [*maps(5, seed=1), *ODD.values()]:
        codec.write(one, path)
        np.testing.assert_array_equal(codec.read(path), one)
        assert codec.encode(one) == path.read_bytes()


def test_bits_are_those_of_the_table(coder):
    """log2 p(y), pixel by pixel from the counts, in floating point and by dictionaries."""
    still = ContextCoder(maps(30), 4, gain=0)
    seen: dict = {}

    def context(y, i, j, depth):
        steps = still.offsets[:depth].tolist()
        inside = [(i + a, j + b) for a, b in steps]
        return tuple(y[p] if p[0] >= 0 and 0 <= p[1] < y.shape[1] else 4 for p in inside)

    for y in maps(30):
        for (i, j), label in np.ndenumerate(y):
            for depth in still.depths:
                seen.setdefault((depth, context(y, i, j, depth)), np.zeros(4))[label] += 1
    one, bits = maps(1, seed=5)[0], 0.0
    for (i, j), label in np.ndenumerate(one):
        p = np.full(4, 0.25)
        for depth in still.depths:
            counts = seen.get((depth, context(one, i, j, depth)))
            if counts is None:
                break
            back = kernel.BACKING * (counts > 0).sum()
            p = (counts + back * p) / (counts.sum() + back)
        bits -= math.log2(p[label])
    payload = 8 * (len(still.encode(one)) - 4)
    assert bits - 8 <= payload <= bits + 16


def test_regions_cost_less_than_noise_and_counting_on_helps(coder):
    region, noise = maps(1, (60, 60), seed=3)[0], np.random.default_rng(0).integers(0, 4, (60, 60))
    assert len(coder.encode(region)) < 0.15 * len(coder.encode(noise))
    stripes = np.tile(np.array([0, 2]), (60, 30))
    assert len(coder.encode(stripes)) < len(ContextCoder(maps(30), 4, gain=0).encode(stripes))


@pytest.mark.parametrize("seed", range(3))
def test_a_fill_is_the_nearest_label(seed):
    rng = np.random.default_rng(seed)
    z = np.where(rng.random((9, 11)) < 0.08, rng.integers(0, 4, (9, 11)), FREE).astype(np.uint8)
    z[4, 4] = 1
    given = np.argwhere(z != FREE)
    y = filled(z)
    for (i, j), label in np.ndenumerate(y):
        steps = np.abs(given - (i, j)).sum(-1)
        assert label in z[tuple(given[steps == steps.min()].T)]


def test_ties_are_always_broken_alike():
    z = np.full((3, 3), FREE, np.uint8)
    z[0, 0], z[2, 2], z[0, 2] = 1, 2, 3
    # the first in raster order wins where two floods meet
    np.testing.assert_array_equal(filled(z), [[1, 1, 3], [1, 1, 3], [1, 2, 2]])


def test_sparse_labels_are_few_and_none_can_be_left_out(coder):
    one = maps(1, seed=2)[0].astype(np.uint8)
    z = SparseCoder(coder).select(one)
    np.testing.assert_array_equal(filled(z), one)
    assert np.array_equal(z[z != FREE], one[z != FREE])
    for place in np.argwhere(z != FREE):
        fewer = z.copy()
        fewer[tuple(place)] = FREE
        assert not np.array_equal(filled(fewer), one)
    predicted = SparseCoder(coder, "predicted").select(one)
    assert (predicted != FREE).sum() < (z != FREE).sum()


def test_the_greedy_choice_is_near_the_smallest(coder):
    """Every map of 2 x 2 pixels and two labels: at most one label more than the fewest."""
    codec = SparseCoder(coder)
    choices = [np.array(each, np.uint8).reshape(2, 2) for each in itertools.product((0, 1, FREE), repeat=4)]
    for values in itertools.product((0, 1), repeat=4):
        y = np.array(values, np.uint8).reshape(2, 2)
        right = [z for z in choices if (z != FREE).any() and np.array_equal(filled(z), y)]
        least = min(int((z != FREE).sum()) for z in right)
        assert int((codec.select(y) != FREE).sum()) <= least + 1


@pytest.mark.parametrize("fill", ["nearest", "predicted"])
def test_real_bits_are_positions_and_labels(coder, fill):
    codec = SparseCoder(coder, fill)
    for one in maps(4, seed=7):
        found, data = codec.measured(one)
        assert found.positions == pytest.approx(math.log2(math.comb(one.size, found.given)))
        assert found.labels <= found.given * math.log2(4) + 40
        payload = 8 * (len(data) - 8)
        assert found.positions + found.labels - 24 <= payload <= found.positions + found.labels + 24
    assert log2_choose(5, 2) == pytest.approx(math.log2(10))


def test_label_maps_are_read_from_files(tmp_path):
    one, many = maps(1)[0], maps(3)
    write_label_map(one, tmp_path / "palette.png")
    Image.fromarray(one.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "colour.png")
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "many.npz", masks=many, images=np.zeros((3, 2, 2, 3)))
    for name in ("palette.png", "grey.png", "one.npy"):
        np.testing.assert_array_equal(read_label_map(tmp_path / name), one)
    assert len(np.unique(np.array(Image.open(tmp_path / "palette.png").convert("RGB")).reshape(-1, 3), axis=0)) > 1
    np.testing.assert_array_equal(read_label_map(tmp_path / "many.npz", "masks"), many)
    for name, key, said in (
        ("colour.png", None, "in colour"),
        ("many.npz", None, "choose one with key"),
        ("many.npz", "nope", "choose one with key"),
        ("many.npz", "images", "whole numbers"),
    ):
        with pytest.raises(DataError, match=said):
            read_label_map(tmp_path / name, key)


def test_what_cannot_be_coded_is_refused(coder):
    for wrong in (np.array([[4]]), np.array([[-1]]), np.zeros((2, 2)), np.zeros((2, 2, 2), int), np.zeros((0, 3), int)):
        with pytest.raises(DataError):
            coder.encode(wrong)
    for codec in coders(coder).values():
        with pytest.raises(DataError, match="no size"):
            codec.decode(b"\x01")
    with pytest.raises(DataError, match="no sparse labelling"):
        SparseCoder(coder).decode(bytes([1, 0, 1, 0, 9, 0, 0, 0]))
    with pytest.raises(DataError, match="no pixel has a label"):
        filled(np.full((2, 2), FREE, np.uint8))
    with pytest.raises(DataError, match="no map"):
        ContextCoder([], 4)
    for options in ({"neighbours": [(0, 1)]}, {"depths": (0, 9)}, {"depths": (2, 0)}, {"labels": 1}, {"labels": 256}):
        with pytest.raises(OptionError):
            ContextCoder(maps(1), **{"labels": 4, **options})
    with pytest.raises(OptionError, match="fill"):
        SparseCoder(coder, "flood")  # type: ignore[arg-type]
