"""Data files that would be misread in silence, fill the memory, hang, or end in a traceback."""

import gzip
import io
import json
import os
import struct
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet
import pytest
import scipy.io
import scipy.sparse
import torch

from latentia.data import Stream, load, read
from latentia.errors import DataError
from latentia.evaluate import evaluate
from latentia.models import HMM
from latentia.sklearn.topics import LDA

LARGE = 2**53


def jsonl(*lines):
    return "".join(f"{line}\n" for line in lines)


# --- whole numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["[2, null, 1]", "[2.0, 0, 1]", "[1.0, 2.0]", "[null, null]"])
def test_one_odd_line_leaves_symbols_symbols(write, odd):
    data = load(write("a.jsonl", jsonl("[0, 1, 2, 1]", odd, "[1, 0]")))
    assert data.schema.values == "symbols"
    assert data.schema.levels == 3
    assert data.x.dtype == torch.int64
    assert data.lengths.tolist() == [4, len(json.loads(odd)), 2]
    assert int(data.batch().hidden.sum()) == odd.count("null")


def test_numbers_with_a_fraction_are_real_and_one_among_symbols_is_warned_of(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(write("a.jsonl", jsonl("[1.5, 2, 3]", "[1, 2.25]"))).schema.values == "real"
        assert load(write("b.jsonl", jsonl("[1.0, 2.0]", "[3.0]"))).schema.values == "real"
    many = json.dumps([0, 1, 2] * 100)
    with pytest.warns(UserWarning, match=r"c\.jsonl, line 2, step 2: 0\.5 among whole numbers"):
        assert load(write("c.jsonl", jsonl(many, "[1, 0.5]"))).schema.values == "real"


def test_a_float_beyond_every_whole_number_is_no_symbol(write):
    many = json.dumps([0, 1, 2] * 100)
    with pytest.warns(UserWarning, match=r"a\.jsonl, line 2, step 2: 1e\+20 among whole numbers"):
        assert load(write("a.jsonl", jsonl(many, "[1, 1e20]"))).schema.values == "real"


@pytest.mark.parametrize(
    "line", [f"[1, {2**63}]", f"[{2**64}, null]", f"[{10**40}]", f"[-1, {2**63}]", "[1e3, 9007199254740993]"]
)
def test_whole_numbers_that_cannot_be_held_are_refused(refused, write, line):
    with refused("a.jsonl, line 2"):
        load(write("a.jsonl", jsonl("[1, 2]", line)))


def test_uint64_is_not_shown_as_negative(refused):
    with refused("18446744073709551615"):
        read([np.array([1, 2**64 - 1], dtype=np.uint64)])
    with refused("row 2", "18446744073709551615"):
        read(np.array([[1], [2**64 - 1]], dtype=np.uint64))
    assert np.asarray(read(np.array([[1], [2**63]], dtype=np.uint64)).values).tolist() == [[1], [2**63]]


def test_masked_whole_numbers_stay_symbols():
    values = np.ma.masked_equal(np.array([[0, 1, 9], [2, 1, 0]]), 9)
    assert load(values, kind="sequence").schema.values == "symbols"


def large_sources(write, tmp_path):
    numbers = [LARGE + 1, LARGE + 3, 5]
    frame = pd.DataFrame({"a": [1, 2, 3], "b": numbers})
    holes = pd.DataFrame({"a": [1, 2, 3, 4], "b": pd.array([*numbers, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "p.parquet")
    holes.to_parquet(tmp_path / "q.parquet")
    text = "a,b\n" + "".join(f"{i},{value}\n" for i, value in enumerate(numbers))
    return [write("t.csv", text), frame, holes, frame.to_numpy(), tmp_path / "p.parquet", tmp_path / "q.parquet"]


def test_whole_numbers_beyond_float64_do_not_collapse(refused, write, tmp_path):
    for source in large_sources(write, tmp_path):
        with refused(str(LARGE + 1), "2^53", "subtract"):
            read(source)
    for name in ("p.parquet", "q.parquet"):
        with refused(str(LARGE + 1), "2^53"):
            Stream.open(tmp_path / name)
    exact = [2**62, -(2**60), 3]
    assert np.asarray(read(pd.DataFrame({"b": exact})).values)[:, 0].tolist() == exact
    assert np.asarray(read(write("e.csv", "b\n" + "".join(f"{v}\n" for v in exact))).values)[:, 0].tolist() == exact


def test_labels_beyond_float64_stay_different(write):
    path = write("t.csv", f"x,y\n1,{LARGE + 1}\n2,{LARGE + 2}\n")
    assert np.asarray(load(path, labels="y").labels).tolist() == [str(LARGE + 1), str(LARGE + 2)]


# --- text in another vocabulary ----------------------------------------------------------------------------------


def test_words_that_the_run_does_not_know_are_said_and_warned_of(write):
    data = load(write("a.txt", "the cat sat\nthe dog sat\n" * 5))
    model = HMM(symbols=data.schema.levels, states=2)
    own = evaluate(model, data)
    assert data.unknown == 0
    assert "0.0% of the words are not in the vocabulary" in own.verdict
    with pytest.warns(UserWarning, match=r"b\.txt: 75% of the words are not in the vocabulary"):
        other = load(write("b.txt", "la chatte sat\nun\n"), schema=data.schema)
    assert other.unknown == 0.75
    assert "75.0% of the words are not in the vocabulary" in evaluate(model, other).verdict


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["5.1,3.5,setosa\n4.9,3.0,setosa\n6.0,2.2,other\n", "1,2,yes\n3,4,no\n", "1,,a\n2,3,b\n", "7;x\n8;y\n"],
)
def test_a_row_is_not_taken_for_names(refused, write, text):
    with refused("t.csv, line 1", "numbers", "row of data", "add a line of names above it"):
        read(write("t.csv", text))
    with refused("t.csv, line 1"):  # nor by those names
        read(write("t.csv", text), columns=text.split("\n")[0].replace(";", ",").split(",")[0])


def test_names_that_are_numbers_beside_words_are_names(write):
    assert read(write("t.csv", "id,1990,1991\n1,2,3\n")).names == ("id", "1990", "1991")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            'a,b\n"1,234",2\n',
            ["line 2, column 'a'", "1234 if the comma separates thousands", "1.234 if it is a decimal"],
        ),
        ("a;b\n1.234;0,5\n", ["decimals with a point", "'1.234' in column 'a'", "thousands"]),
        ("a;b\n1.234.567;2\n", ["without separators between thousands"]),
        ("a;b\n1.234,5;2\n", ["without separators between thousands"]),
        ("a;b\n9.876;1\n1.234.567;2\n", ["without separators between thousands", "'9.876' in column 'a'"]),
    ],
)
def test_thousands_are_not_advised_into_decimals(refused, write, text, parts):
    with refused("t.csv", *parts):
        read(write("t.csv", text))


def test_many_columns_take_time_in_proportion(write, monkeypatch):
    names = [f"c{j}" for j in range(500)]

    class Counted(str):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    frame = pd.DataFrame(np.ones((2, len(names))), columns=names)
    monkeypatch.setattr("latentia.data.tables.str", Counted, raising=False)
    data = load(frame)
    load(frame, schema=data.schema)
    assert Counted.compared < 50 * len(names)


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.dat", "a.feat"])
def test_counts_are_not_expanded_without_limit(refused, write, name):
    first, second = ("1 0:1", "1 1:2147483647") if name == "a.dat" else ("1 1:1", "1 2:2147483647")
    with refused(f"{name}, line 2", "counts", "2,147,483,648 values"):
        read(write(name, f"{first}\n{second}\n"))


def test_counts_of_the_estimator_are_judged_too(refused):
    for X in ([[1, 0], [0, 10**9]], scipy.sparse.csr_array([[1, 0], [0, 10**9]])):
        with refused("row 2", "1,000,000,000 words"):
            LDA(2).fit(X)
    with refused("no document"):
        LDA(2).fit([[1.0, 1e18]])


def test_the_number_of_symbols_is_judged_by_the_observations(refused, write):
    with refused("a.jsonl, line 2, step 3", "symbol 1000000", "5 observations", "without gaps"):
        load(write("a.jsonl", jsonl("[0, 1]", "[2, 1, 1000000]")))
    assert load([np.arange(70_000)]).schema.levels == 70_000
    assert load([[65_535]]).schema.levels == 65_536
    with refused("row 1", "column 1", "symbol 1000000"):
        load(np.array([[10**6, 1], [2, 3]]), values="levels")


def test_padding_is_judged_by_what_is_padded(refused):
    with refused("row 4", "400,000 steps"):
        load([[0]] * 3 + [[0] * 400_000] + [[1]] * 200)


def idx(shape, payload):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + payload


def npy_header(shape, dtype="|u1"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def packed(tmp_path, content, length):
    """A .npz with these bytes and so many zeros."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(content)
        for _ in range(length // 2**20):
            file.write(bytes(2**20))
    return tmp_path / "a.npz"


def test_headers_are_judged_before_memory_is_asked_for(refused, write, tmp_path):
    zeros = gzip.compress(idx((64, 2**20), b"") + bytes(64 * 2**20), 1)
    for content in (zeros, gzip.compress(idx((2**31, 2**31), b"0"))):
        with refused("a.idx.gz", "promises", "values"):
            read(write("a.idx.gz", content))
    with refused("a.npz", "67,108,864 values"):
        read(packed(tmp_path, npy_header((64, 2**20)), 64 * 2**20))
    for shape in ((10**12,), (2**62, 2**62)):
        with refused("a.npy", "promises", f"{np.prod([*map(int, shape)], dtype=object):,} bytes"):
            read(write("a.npy", npy_header(shape) + bytes(100)))
        with refused("a.npy", "promises"):
            Stream.open(tmp_path / "a.npy")
    scipy.io.savemat(
        tmp_path / "a.mat", {"x": scipy.sparse.csr_array(([1.0], ([0], [0])), shape=(10**6, 10**6)), "y": 1}
    )
    with refused("a.mat, array 'x'", "1,000,000,000,000 values"):
        read(tmp_path / "a.mat", key="x")
    assert np.asarray(read(tmp_path / "a.mat", key="y").values).tolist() == [[1]]


def test_a_parquet_file_is_judged_by_its_rows(refused, tmp_path):
    column = arrow.array(np.zeros(2**20, dtype=bool))
    pyarrow.parquet.write_table(arrow.table({f"c{j}": column for j in range(40)}), tmp_path / "a.parquet")
    for reader in (read, Stream.open):
        with refused("a.parquet", "41,943,040 values"):
            reader(tmp_path / "a.parquet")


def test_pipes_are_refused_and_not_waited_for(refused, tmp_path):
    for name in ("a.csv", "a.npy", "a"):
        os.mkfifo(tmp_path / name)
        for reader in (read, Stream.open):
            with refused(name, "pipe"):
                reader(tmp_path / name)


# --- what is no damage, and what is ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz", "a.mat", "a.txt", "a.dat", "a.idx", "a.parquet"])
@pytest.mark.parametrize(
    ("error", "words"), [(PermissionError(13, "Permission denied"), "permission denied"), (MemoryError(), "memory")]
)
def test_what_is_no_damage_is_not_called_so(write, monkeypatch, name, error, words):
    path = write(name, "1 0:1\n")

    def stopped(*_, **__):
        raise error

    for where, what in (
        ("pathlib.Path.open", stopped),
        ("pathlib.Path.read_bytes", stopped),
        ("scipy.io.whosmat", stopped),
        ("zipfile.ZipFile", stopped),
        ("pyarrow.parquet.ParquetFile", stopped),
    ):
        monkeypatch.setattr(where, what)
    with pytest.raises(ValueError, match=name) as caught:
        read(path)
    assert words in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.dat"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_called_by_its_name(refused, write, name, encoding):
    with refused(name, "UTF-16", "save it as UTF-8"):
        read(write(name, "a,b\n1,2\n".encode(encoding)))
    with refused(name, "line 2", "0xe9", "UTF-8"):
        read(write(name, b"1 0:1\nn\xe9\n"))


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "[" + "9" * 5000 + "]", '["\\ud800"]', '"a \\udfff b"', f"[{'[' * 500}1{']' * 500}]"]
)
def test_json_that_is_no_datum_is_refused_by_its_line(refused, write, line):
    with refused("a.jsonl, line 1"):
        read(write("a.jsonl", jsonl(line)))


@pytest.mark.parametrize("content", ["1 0:" + "9" * 5000, "9" * 5000 + " 0:1"])
def test_numbers_of_thousands_of_digits_are_no_counts(refused, write, content):
    with refused("a.dat, line 1"):
        read(write("a.dat", content))
    with refused("t.csv", "line 2"):
        read(write("t.csv", f"a,b\n{'9' * 5000},1\n"))


def test_lists_without_end_and_numbers_beyond_float64(refused):
    with refused("row 1"):
        read([[10**400, None]])
    with refused("row 1"):
        read(pd.DataFrame({"a": [10**400, 1]}))
    with refused("'\\ud800'"):
        read(pd.DataFrame([[1.0]], columns=pd.Index(["\ud800"], dtype=object)))


def test_a_file_name_of_any_bytes_can_be_reported(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.txt"))
    path.write_text("the cat\n")
    assert load(path).schema.source.encode()


@pytest.mark.parametrize("array", [np.array(5.0), np.array(None), np.zeros((0, 2))])
def test_arrays_without_rows(refused, tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=array, allow_pickle=True)
    with refused():
        read(array)
    for name in ("a.npy", "a.npz"):
        with refused(name):
            read(tmp_path / name, key="x")
    with refused("a.npy"):
        Stream.open(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b"3", b'{"index_columns": 3}', b'{"index_columns": [{"kind": 1}]}', b"\xff"]
)
def test_damaged_metadata_of_pandas(tmp_path, metadata):
    table = arrow.table({"a": [1.0, 2.0]}).replace_schema_metadata({b"pandas": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for reader in (read, Stream.open):
        with suppress(DataError):  # or it is read: the columns are none the worse
            assert len(reader(tmp_path / "a.parquet")) == 2


# --- grey levels -------------------------------------------------------------------------------------------------


def test_images_of_0_and_1_are_not_taken_for_all_but_black(refused):
    grey = np.arange(34, dtype=np.uint8).reshape(2, 17, 1) % 17
    bits = (grey > 8).astype(np.uint8)
    choices: list[dict[str, Any]] = [{"binarize": "dynamic"}, {"binarize": "fixed"}, {"values": "levels"}]
    for options in choices:
        schema = load(grey.astype(np.int64), kind="image", **options).schema
        for source in (bits, bits.astype(float), bits * 0.5):
            if source.dtype.kind == "f" and source.max() < 1:
                continue  # a fraction is no level
            with refused("above 1", "0 to 16", "multiply by 16"):
                load(source, kind="image", schema=schema)
        assert len(load(0 * bits, kind="image", schema=schema)) == 2
    real = load(15 * grey, kind="image", scale="auto").schema
    with refused("multiply by 255"):
        load(bits * 0.5, kind="image", schema=real)
