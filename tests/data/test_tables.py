"""Tables: the same numbers from every source, missing values, and what is refused, with line and column."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

from latentia.data import load, read
from latentia.errors import DataError

NAMES = ["a", "b", "c"]
VALUES = np.array([[0.1, 3.0, 1e-300], [2.0 / 3.0, np.nan, -5.0], [1e22, 7.0, 0.30000000000000004]])


def frame():
    return pd.DataFrame(VALUES, columns=NAMES)


def csv(separator=","):
    rows = [[("" if np.isnan(value) else repr(float(value))) for value in row] for row in VALUES]
    return "".join(separator.join(row) + "\n" for row in [NAMES, *rows])


def sources(folder):
    """The same table in every form that is read."""
    np.save(folder / "t.npy", VALUES)
    np.save(folder / "swapped.npy", VALUES.astype(">f8"))
    np.savez_compressed(folder / "t.npz", table=VALUES, other=np.zeros(3))
    scipy.io.savemat(folder / "t.mat", {"table": VALUES, "other": np.zeros(3)})
    frame().to_parquet(folder / "t.parquet")
    (folder / "t.csv").write_text(csv())
    (folder / "t.tsv").write_text(csv("\t"))
    (folder / "semicolons.csv").write_text(csv(";"))
    (folder / "tabs.csv").write_text(csv("\t"))
    return {
        "numpy": (VALUES, {}),
        "fortran": (np.asfortranarray(VALUES), {}),
        "torch": (torch.from_numpy(VALUES.copy()).requires_grad_(), {}),
        "pandas": (frame(), {}),
        "semicolons": (folder / "semicolons.csv", {}),
        "tabs": (folder / "tabs.csv", {}),
        "nullable": (frame().convert_dtypes(), {}),
        "objects": (frame().astype(object).where(frame().notna(), None), {}),
        "npy": (folder / "t.npy", {}),
        "swapped": (folder / "swapped.npy", {}),
        "npz": (folder / "t.npz", {"key": "table"}),
        "mat": (folder / "t.mat", {"key": "table"}),
        "parquet": (folder / "t.parquet", {}),
        "csv": (folder / "t.csv", {}),
        "csv as str": (str(folder / "t.csv"), {}),
        "tsv": (folder / "t.tsv", {}),
        "masked": (np.ma.masked_invalid(VALUES), {}),
    }


@pytest.mark.parametrize("scale", ["none", "standard"])
def test_the_same_table_from_every_source_is_bit_identical(tmp_path, scale):
    expected = load(VALUES, scale=scale)
    for name, (source, options) in sources(tmp_path).items():
        data = load(source, scale=scale, **options)
        assert data.x.dtype == torch.float64
        assert data.x.numpy().tobytes() == expected.x.numpy().tobytes(), name
        assert torch.equal(data.mask, expected.mask), name
        assert torch.equal(data.rows, expected.rows), name


def test_missing_cells_become_mask_and_zero(write):
    data = load(write("t.csv", "a,b\n1,\nNA,2\n nan ,null\n4,5\n"))
    assert data.mask.tolist() == [[True, False], [False, True], [False, False], [True, True]]
    assert data.x.tolist() == [[1, 0], [0, 2], [0, 0], [4, 5]]


def test_a_complete_table_has_no_mask():
    assert load(np.eye(3) * 2.5).mask is None


def test_booleans_are_0_and_1(write):
    expected = [[1.0, 3.0], [0.0, 4.0]]
    assert load(write("t.csv", "a,b\nTrue,3\nfalse,4\n")).x.tolist() == expected
    assert load(pd.DataFrame({"a": [True, False], "b": [3, 4]})).x.tolist() == expected
    assert load(np.array([[True], [False]])).schema.values == "binary"


def test_integers_of_a_csv_are_float64_and_columns_are_chosen_in_order(write):
    path = write("t.csv", "a,word,b\n1,x,3\n2,y,4\n")
    data = load(path, columns=["b", "a"])
    assert data.x.dtype == torch.float64
    assert data.x.tolist() == [[3, 1], [4, 2]]
    assert data.schema.names == ("b", "a")
    assert torch.equal(load(path, columns="b, a").x, data.x)


def test_numbered_columns_of_pandas_are_unnamed():
    assert load(pd.DataFrame(VALUES)).schema == load(VALUES).schema
    assert load(pd.DataFrame(VALUES, columns=[3, 1, 2])).schema.names == ("3", "1", "2")


def test_weights_and_labels_may_be_columns(write):
    path = write("t.csv", "a,kind,w\n1.5,x,2\n2.5,y,0\n")
    data = load(path, weight="w", labels="kind")
    assert data.schema.names == ("a",)
    assert data.weight.tolist() == [2, 0]
    assert data.labels.tolist() == ["x", "y"]
    assert load(pd.read_csv(path), weight="w", columns=["a"], labels="kind").labels.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("weight", "part"),
    [([1.0, -2.0], "weight is -2"), ([1.0, np.nan], "weight is nan"), ([1.0, np.inf], "weight is inf")],
)
def test_bad_weights_are_refused(refused, weight, part):
    with refused("row 2", part):
        load(np.ones((2, 1)) * 2.5, weight=np.array(weight))


def test_weights_of_another_length_are_refused(refused):
    with refused("weights", "(3,)", "2 data"):
        load(np.array([[2.5], [1.0]]), weight=np.ones(3))
    with refused("labels", "(3,)"):
        load(np.array([[2.5], [1.0]]), labels=torch.ones(3))
    with refused("the ndarray", "'w'"):
        load(np.array([[2.5], [1.0]]), weight="w")


def test_text_in_a_table_names_line_column_and_the_way_out(refused, write):
    path = write("t.csv", "a,kind,b\n1,,3\n\n2,long,4\n5,short,6\n")
    with refused("t.csv", "line 4", "'kind'", "text", "'long'", "--columns a,b"):
        read(path)
    with refused("row 2", "'kind'", "'long'", "--columns a,b"):
        read(pd.read_csv(path))
    with refused("line 4", "'kind'"):
        read(path, columns=["a", "kind"])
    with refused("row 1", "'when'", "Timestamp"):
        read(pd.DataFrame({"when": pd.to_datetime(["2020-01-01"])}))
    with refused("row 1", "'z'", "complex"):
        read(pd.DataFrame({"z": [1 + 2j]}))


def test_a_number_with_an_underscore_is_text(refused, write):
    with refused("line 2", "'1_000'"):
        read(write("t.csv", "a\n1_000\n"))


def test_a_quoted_line_break_does_not_shift_line_numbers(refused, write):
    with refused("t.csv", "line 4", "'oops'"):
        read(write("t.csv", '"a\nb",c\n1,2\n3,oops\n'))


def test_short_and_long_lines_are_refused(refused, write):
    with refused("short.csv", "line 3", "1 fields", "line 1 has 2", "truncated"):
        read(write("short.csv", "a,b\n1,2\n3"))
    with refused("long.csv", "line 2", "3 fields", "line 1 has 2"):
        read(write("long.csv", "a,b\n1,2,3\n"))


def test_an_open_quote_is_refused(refused, write):
    with refused("t.csv", "line 3", "quote", "truncated"):
        read(write("t.csv", 'a,b\n1,2\n3,"4\n5,6\n'))


def test_a_csv_without_names_is_refused_and_no_row_is_lost(refused, write):
    with refused("t.csv", "line 1", "names of the columns"):
        read(write("t.csv", "1,2\n3,4\n"))


def test_duplicate_names_are_refused(refused, write):
    with refused("t.csv", "'a'", "rename"):
        read(write("t.csv", "a,b,a\n1,2,3\n"))
    with refused("'a'", "rename"):
        read(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_unknown_columns_are_refused(refused, write):
    with refused("t.csv", "'z'", "a, b"):
        read(write("t.csv", "a,b\n1,2\n"), columns=["a", "z"])
    with refused("columns"):
        read(VALUES, columns=["a"])
    with refused("'z'"):
        load(write("u.csv", "a,b\n1,2\n"), weight="z")


@pytest.mark.parametrize("value", ["inf", "-inf", "1e999"])
def test_infinity_names_line_and_column(refused, write, value):
    with refused("t.csv", "line 3", "'b'", "infinite", "missing"):
        read(write("t.csv", f"a,b\n1,2\n3,{value}\n"))


def test_infinity_in_an_array_names_row_and_column(refused):
    with refused("row 2", "column 1", "infinite"):
        read(np.array([[1.0, 2.0], [np.inf, 3.0]]))


def test_a_column_without_a_value_is_refused_when_a_schema_is_made_but_may_be_encoded(refused, write):
    path = write("t.csv", "a,b\n1,\n2,\n")
    with refused("t.csv", "'b'", "no observed value"):
        load(path)
    schema = load(write("full.csv", "a,b\n1,2\n3,4.5\n")).schema
    assert load(path, schema=schema).mask.tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("content", ["", "\n\n", "a,b\n"])
def test_an_empty_csv_is_refused(refused, write, content):
    with refused("t.csv", "empty"):
        read(write("t.csv", content))


def test_empty_frames_are_refused(refused):
    with refused("empty"):
        read(pd.DataFrame({"a": []}))
    with refused("empty"):
        read(pd.DataFrame())


def test_bytes_that_are_no_text_are_refused(refused, write):
    with refused("t.csv", "UTF-8"):
        read(write("t.csv", b"a,b\n\xff\xfe,2\n"))


def test_a_byte_order_mark_is_no_part_of_the_first_name(write):
    assert read(write("t.csv", b"\xef\xbb\xbfa,b\n1,2\n")).names == ("a", "b")


def test_a_truncated_parquet_is_refused(refused, write):
    buffer = io.BytesIO()
    frame().to_parquet(buffer)
    for size in (10, len(buffer.getvalue()) // 2, len(buffer.getvalue()) - 1):
        with refused("t.parquet", "Parquet", "truncated"):
            read(write("t.parquet", buffer.getvalue()[:size]))


def test_missing_empty_and_unknown_files_are_refused(refused, write, tmp_path):
    with refused("nowhere.csv", "does not exist"):
        read(tmp_path / "nowhere.csv")
    with refused("no_such_data", "does not exist", "digits", "sentences"):
        read("no_such_data")
    with refused("does not exist"):
        read("word " * 1000)
    with refused("void.npy", "empty"):
        read(write("void.npy", b""))
    with refused("notes.docx", ".csv", ".parquet", ".npy", ".jsonl", "idx"):
        read(write("notes.docx", b"hello"))
    with refused("t.docx.gz", "not read"):
        read(write("t.docx.gz", gzip.compress(b"a\n1\n")))
    with refused("type dict"):
        read({"a": 1})


def test_a_separator_inside_a_quoted_name_separates_nothing(tmp_path):
    (tmp_path / "t.csv").write_text('"length, cm";width\n1;2\n3;4\n')
    assert read(tmp_path / "t.csv").names == ("length, cm", "width")
    (tmp_path / "t.csv").write_text('"length; cm",width\n1,2\n3,4\n')
    assert read(tmp_path / "t.csv").names == ("length; cm", "width")


def test_a_decimal_comma_is_told_from_text(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1,5;2.125\n3,25;4\n")
    with pytest.raises(
        DataError, match=r"line 2, column 'a' holds text, '1,5', not a number: write decimals with a point"
    ):
        read(tmp_path / "t.csv")
