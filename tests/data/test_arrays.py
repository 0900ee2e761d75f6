"""Arrays in memory and in files: what each shape is taken for, and damage of every kind."""

import gzip
import io
import pickle
import struct

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch

from latentia.data import Raw, load, read
from latentia.errors import OptionError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, code):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def mat(**arrays):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(3.0), "table"),
        (np.ones((3, 2)), "table"),
        (np.ones((3, 2), dtype=np.int32), "table"),
        (IMAGES, "image"),
        (IMAGES.astype(np.int64), "image"),
        (IMAGES > 3, "image"),
        (IMAGES.astype(np.float32), "sequence"),
        (np.ones((2, 3, 4, 3)), "image"),
    ],
)
def test_the_kind_follows_from_shape_and_dtype(array, kind):
    assert read(array).kind == kind
    assert read(torch.from_numpy(array)).kind == kind
    assert len(read(array)) == len(array)


def test_kind_overrides():
    assert read(np.ones((2, 9)), kind="image").values.shape == (2, 3, 3)
    assert read(IMAGES, kind="table").values.shape == (2, 12)
    assert read(IMAGES.astype(float), kind="image").values.shape == (2, 3, 4)
    assert read(np.ones((2, 9)), kind="sequence").values.shape == (2, 9)
    assert read([[1, 2], [3, 4]], kind="table").values.tolist() == [[1, 2], [3, 4]]
    assert read([np.eye(2), np.eye(2)], kind="image").values.shape == (2, 2, 2)


def test_impossible_kinds_are_refused(refused):
    with refused("8 values", "square"):
        read(np.ones((2, 8)), kind="image")
    with refused("text"):
        read(np.ones((2, 8)), kind="text")
    with refused("1 to 2 steps"):
        read([[1], [1, 2]], kind="table")
    with refused("channels"):
        read(np.ones((2, 3, 4, 3)), kind="sequence")
    with refused("kind='tabel'", "table", error=OptionError):
        read(np.ones((2, 8)), kind="tabel")


def test_a_raw_is_returned_as_it_is():
    raw = Raw("table", np.eye(2))
    assert read(raw, kind="image") is raw


def test_impossible_arrays_are_refused(refused, write):
    with refused("complex", "real and imaginary parts"):
        read(np.ones((2, 2), dtype=complex))
    with refused("complex"):
        read(torch.ones(2, 2, dtype=torch.complex64))
    with refused("t.npy", "complex"):
        read(write("t.npy", npy(np.ones(2, dtype=complex))))
    with refused("<U1", "astype"):
        read(np.array([["a", "b"]]))
    with refused("empty", "(0, 3)"):
        read(np.ones((0, 3)))
    with refused("(1, 1, 1, 1, 1)"):
        read(np.ones((1, 1, 1, 1, 1)))
    with refused("32 channels", "(N, H, W, C)"):
        read(np.ones((2, 3, 32, 32)))


def test_bfloat16_and_float16_are_read():
    assert load(torch.tensor([[1.5], [2.0]], dtype=torch.bfloat16)).x.tolist() == [[1.5], [2.0]]
    assert load(np.array([[1.5], [2.0]], dtype=np.float16)).x.dtype == torch.float64


def test_reading_never_aliases_the_users_memory():
    array = np.array([[1.5, 2.0]])
    data = load(array)
    array[:] = 9.0
    assert data.x.tolist() == [[1.5, 2.0]]


def test_objects_and_pickles_are_refused(refused, write):
    array = np.array([{"a": 1}, None], dtype=object)
    with refused("t.npy", "pickle"):
        read(write("t.npy", npy(array, allow_pickle=True)))
    with refused("t.npz", "pickle"):
        read(write("t.npz", npz(a=array)))
    with refused("p.npy", "cannot be read"):
        read(write("p.npy", pickle.dumps([1, 2, 3])))
    with refused("p.npz", "cannot be read"):
        read(write("p.npz", pickle.dumps([1, 2, 3])))
    with refused("t.mat", "object"):
        read(write("t.mat", mat(a=array[:1])))


class Boom:
    """Unpickling one of these makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_opened(refused, write, tmp_path):
    bomb = np.array([Boom(tmp_path / "fired")], dtype=object)
    for name, content in {"b.npy": npy(bomb, allow_pickle=True), "b.npz": npz(b=bomb)}.items():
        with refused(name):
            read(write(name, content))
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize("make", [npz, mat])
def test_a_sole_array_needs_no_key_and_others_are_listed(refused, write, make):
    name = f"t.{make.__name__}"
    sole = write(name, make(x=np.eye(2)))
    assert read(sole).values.tolist() == read(sole, key="x").values.tolist() == [[1, 0], [0, 1]]
    with refused(name, "'y'", "among x"):
        read(sole, key="y")
    path = write(name, make(x=np.eye(2), y=np.ones((1, 3))))
    assert read(path, key="y").values.tolist() == [[1, 1, 1]]
    with refused(name, "several", "x, y"):
        read(path)
    with refused(name, "'z'", "x, y"):
        read(path, key="z")


def test_a_sparse_mat_is_read_dense(write):
    assert read(write("t.mat", mat(x=scipy.sparse.csc_matrix(np.eye(3))))).values.tolist() == np.eye(3).tolist()


NOISE = np.random.default_rng(0).normal(size=(40, 5))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.npy", npy(NOISE)),
        ("t.npz", npz(x=NOISE)),
        ("t.mat", mat(x=NOISE)),
        ("t.idx", idx(IMAGES, 0x08)),
        ("t-idx3-ubyte", idx(IMAGES, 0x08)),
        ("t-idx3-ubyte.gz", gzip.compress(idx(IMAGES, 0x08), mtime=0)),
        ("t.idx.gz", gzip.compress(idx(IMAGES, 0x08), mtime=0)),
    ],
    ids=lambda part: part if isinstance(part, str) else "",  # the bytes hold the time: workers would disagree
)
def test_truncated_files_are_refused_and_named(refused, write, name, content):
    read(write(name, content))  # the whole file is good
    for size in (3, 10, len(content) // 2, len(content) - 1):
        with refused(name):
            read(write(name, content[:size]))


def test_a_truncated_idx_says_how_much_is_missing(refused, write):
    with refused("t.idx", "truncated", "24 bytes", "23"):
        read(write("t.idx", idx(IMAGES, 0x08)[:-1]))
    with refused("t.idx", "damaged", "24 bytes", "25"):
        read(write("t.idx", idx(IMAGES, 0x08) + b"x"))
    with refused("t.idx", "magic"):
        read(write("t.idx", b"\x01\x02\x03\x04\x05"))


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "a.idx", "b.IDX", "c.dat", "noname"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_round_trip(write, name, pack):
    raw = read(write(name + (".gz" if pack is gzip.compress else ""), pack(idx(IMAGES, 0x08))))
    assert raw.kind == "image"
    assert np.array_equal(raw.values, IMAGES)
    assert raw.values.dtype == np.uint8


@pytest.mark.parametrize(("code", "dtype"), [(0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")])
def test_idx_of_every_type(write, code, dtype):
    raw = read(write("t.idx", idx(IMAGES.astype(dtype), code)))
    assert raw.kind == "image"  # floats too: this is a file of images
    assert np.array_equal(raw.values, IMAGES)
    assert raw.values.dtype.isnative


def test_labels_from_a_file_of_their_own(refused, write):
    images = write("x-idx3-ubyte", idx(IMAGES, 0x08))
    labels = write("y-idx1-ubyte", idx(np.array([7, 3], dtype=np.uint8), 0x08))
    assert load(images, labels=str(labels)).labels.tolist() == [7, 3]
    with refused("no file of labels"):
        load(images, labels=str(images))


def test_the_fingerprint_sees_values_names_and_shape():
    def mark(values, names=()):
        return Raw("table", values, names).fingerprint()

    base = mark(np.zeros((2, 3)))
    assert base == mark(np.zeros((2, 3)))
    changed = np.zeros((2, 3))
    changed[1, 2] = 1e-12
    others = {
        mark(changed),
        mark(np.zeros((3, 2))),
        mark(np.zeros((2, 3)), ("a", "b", "c")),
        mark(np.zeros((2, 3), np.int64)),
    }
    assert len(others | {base}) == 5
    first = Raw("text", [["a", "b"], ["c"]]).fingerprint()
    assert first != Raw("text", [["a"], ["b", "c"]]).fingerprint()
    assert first != Raw("sequence", [np.array([1, 2]), np.array([3])]).fingerprint()


def test_take_keeps_the_numbers_of_the_source():
    raw = Raw("sequence", [np.array([i]) for i in range(4)], labels=np.arange(4), lines=np.array([2, 5, 6, 9]))
    part = raw.take(np.array([3, 1]))
    assert [value.tolist() for value in part.values] == [[3], [1]]
    assert (part.rows.tolist(), part.lines.tolist(), part.labels.tolist()) == ([4, 2], [9, 5], [3, 1])
    assert len(raw.take(slice(1, 3))) == 2
    assert raw.take(np.array([True, False, False, True])).rows.tolist() == [1, 4]
