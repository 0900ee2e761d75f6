"""Label maps without loss: files and back, bits against the table's own, fills and their ties, and refusals."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from latentia.errors import DataError, OptionError, RunError
from latentia.kernels import label_maps as kernel
from latentia.kernels import label_network
from latentia.segmentation import (
    ContextCoder,
    ConvolutionCoder,
    SparseCoder,
    read_label_map,
    read_label_maps,
    write_label_map,
)
from latentia.segmentation.convolution import LARGEST, Network, _rounded, contexts, falling, template
from latentia.segmentation.sparse import FREE, filled, log2_choose
from latentia.tensors import read_tensors, write_tensors


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
    assert [each.shape for each in read_label_maps(tmp_path / "many.npz", "masks")] == [(17, 23)] * 3
    (tmp_path / "folder").mkdir()
    for i in (10, 9, 2):
        write_label_map(many[i % 3], tmp_path / "folder" / f"{i}.png")
    np.testing.assert_array_equal(read_label_maps(tmp_path / "folder"), many[[2, 0, 1]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no label maps"):
        read_label_maps(tmp_path / "empty")
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


@pytest.fixture(scope="module")
def network_coder():
    return ConvolutionCoder(maps(40), 4, hidden=(12, 8), epochs=30)


def test_every_map_comes_back_from_the_network(network_coder, tmp_path):
    path = tmp_path / "map"
    for one in [*maps(5, seed=1), *ODD.values()]:
        network_coder.write(one, path)
        np.testing.assert_array_equal(network_coder.read(path), one)


def test_it_has_learned_what_comes_next(network_coder):
    held = maps(20, seed=9)
    own, table = (sum(len(each.encode(one)) for one in held) for each in (network_coder, ContextCoder(maps(40), 4)))
    assert own < 1.2 * table
    noise = np.random.default_rng(0).integers(0, 4, held[0].shape)
    assert len(network_coder.encode(held[0])) < 0.5 * len(network_coder.encode(noise))


def test_whole_numbers_are_those_of_the_network():
    """Log-probabilities of rounded weights beside those of the network, at every pixel."""
    torch.manual_seed(0)
    offsets, one = np.array(template(2, 4)), maps(1)[0].astype(np.uint8)
    network = Network(len(offsets), 4, (6, 5))
    with torch.no_grad():
        network.look.weight[:, 6:].normal_(std=0.3)
    seen = contexts(one, offsets, 4, np.arange(one.size))
    true = network(torch.from_numpy(seen).long()).log_softmax(-1).detach().double().numpy()
    parts = {"offsets": offsets, **_rounded(network)}
    plain = tuple(np.ascontiguousarray(parts[name], np.int64) for name in ("offsets", *list(parts)[1:]))
    room = (np.empty(10, np.int64), np.empty(5, np.int64))
    for place in range(one.size):
        i, j = divmod(place, one.shape[1])
        frequency = np.empty(4, np.int64)
        total = label_network.predict(one, i, j, plain, falling(), *room, frequency)
        assert total == frequency.sum()
        np.testing.assert_allclose(np.log(frequency / total), true[place], atol=0.03)


def test_only_what_comes_before_is_seen(network_coder):
    one = maps(1, seed=4)[0].astype(np.uint8)
    units = np.empty(network_coder.network[1].shape[2], np.int64)
    changed = units.copy()
    for place in np.random.default_rng(0).integers(one.size, size=40):
        i, j = divmod(int(place), one.shape[1])
        other = one.copy().ravel()
        other[place:] = 3 - other[place:]
        label_network.look(one, i, j, *network_coder.network[:4], units)
        label_network.look(other.reshape(one.shape), i, j, *network_coder.network[:4], changed)
        np.testing.assert_array_equal(units, changed)


def test_the_exponential_is_a_table_of_whole_numbers():
    table = falling()
    assert table[0] == 2**20 + 1
    assert table[-1] == 1
    np.testing.assert_allclose(table - 1, 2**20 * np.exp(-np.arange(len(table)) / 64), atol=1)


def test_another_process_with_the_weights_reads_the_file(network_coder, tmp_path):
    one = maps(1, seed=6)[0]
    network_coder.save(tmp_path / "weights.safetensors")
    network_coder.write(one, tmp_path / "map")
    np.save(tmp_path / "one.npy", one)
    again = ConvolutionCoder.load(tmp_path / "weights.safetensors")
    assert again.encode(one) == (tmp_path / "map").read_bytes()
    read = (
        "import sys, numpy as np; from latentia.segmentation import ConvolutionCoder, read_label_map;"
        "a, b, c = sys.argv[1:]; assert np.array_equal(ConvolutionCoder.load(a).read(b), read_label_map(c))"
    )
    files = [str(tmp_path / name) for name in ("weights.safetensors", "map", "one.npy")]
    subprocess.run([sys.executable, "-c", read, *files], check=True, timeout=300)


def test_what_no_network_can_have_is_refused(network_coder, tmp_path):
    for wrong in (np.array([[4]]), np.array([[-1]]), np.zeros((2, 2)), np.zeros((0, 3), int)):
        with pytest.raises(DataError):
            network_coder.encode(wrong)
    with pytest.raises(DataError, match="no size"):
        network_coder.decode(b"\x01")
    with pytest.raises(DataError, match="no map"):
        ConvolutionCoder([], 4)
    for options in ({"neighbours": [(0, 1)]}, {"neighbours": []}, {"labels": 1}, {"hidden": (0, 3)}, {"epochs": 0}):
        with pytest.raises(OptionError):
            ConvolutionCoder(maps(1), **{"labels": 4, **options})
    path = tmp_path / "weights.safetensors"
    network_coder.save(path)
    tensors, _ = read_tensors(path)
    offsets = tensors["offsets"].clone()
    offsets[0] = torch.tensor([0, 1])
    for name, value in {
        "offsets": offsets,
        "near": tensors["near"][:, :2],
        "third": tensors["third"] + 2 * LARGEST,
        "down": tensors["down"][:0],
    }.items():
        write_tensors(path, {**tensors, name: value.contiguous()}, {})
        with pytest.raises(DataError, match="no weights"):
            ConvolutionCoder.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError):
        ConvolutionCoder.load(path)
