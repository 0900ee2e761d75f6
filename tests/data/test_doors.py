"""Tables and images as people have them: gzip, Excel, index columns, words for missing, decimal commas, folders."""

import gzip

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from latentia.data import load, read
from latentia.errors import DataError

ROWS = "a,b\n1,2.5\n3,\n"
VALUES = [[1, 2.5], [3, np.nan]]


def same(raw, values=VALUES, names=("a", "b")):
    assert raw.names == names
    assert np.array_equal(raw.values, values, equal_nan=True)


def test_gzipped_tables_and_lines(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    same(read(tmp_path / "t.csv.gz"))
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(ROWS.replace(",", "\t").encode()))
    same(read(tmp_path / "t.tsv.gz"))
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"a b\nc d\n"))
    assert read(tmp_path / "t.txt.gz").values == [["a", "b"], ["c", "d"]]


def test_what_unzips_to_too_much_or_is_cut_is_refused(tmp_path, monkeypatch):
    packed = gzip.compress(ROWS.encode() * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-12])
    with pytest.raises(DataError, match=r"cut.csv.gz is truncated"):
        read(tmp_path / "cut.csv.gz")
    monkeypatch.setattr("latentia.data.files.LARGEST_UNZIPPED", 1000)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10**5))
    with pytest.raises(DataError, match=r"bomb.csv.gz unzips to more than"):
        read(tmp_path / "bomb.csv.gz")


def test_excel(tmp_path):
    path = tmp_path / "t.xlsx"
    frame = pd.DataFrame({"a": [1, 3], "b": [2.5, None]})
    frame.to_excel(path, index=False)
    same(read(path))
    with pd.ExcelWriter(path) as writer:
        frame.to_excel(writer, sheet_name="one", index=False)
        frame.to_excel(writer, sheet_name="two", index=False)
    with pytest.warns(UserWarning, match="sheet 'one' is read, and not two"):
        same(read(path))
    frame["b"] = ["x", "y"]
    frame.to_excel(path, index=False)
    assert read(path).mixed
    path.write_bytes(b"PK no workbook")
    with pytest.raises(DataError, match=r"t.xlsx cannot be read as an Excel workbook"):
        read(path)
    pd.DataFrame().to_excel(path, index=False)
    with pytest.raises(DataError, match="is empty"):
        read(path)


@pytest.mark.parametrize("start", [0, 1])
def test_an_index_column_is_left_out_and_told(tmp_path, start):
    (tmp_path / "t.csv").write_text(f",a,b\n{start},1,2.5\n{start + 1},3,\n")
    with pytest.warns(UserWarning, match="first column has no name and counts the rows"):
        same(read(tmp_path / "t.csv"))


def test_a_nameless_column_of_other_numbers_stays(tmp_path):
    (tmp_path / "t.csv").write_text(",a\n5,1\n7,3\n")
    same(read(tmp_path / "t.csv"), [[5, 1], [7, 3]], ("column 1", "a"))


@pytest.mark.parametrize("word", ["?", ".", "-"])
def test_words_for_missing_are_told(tmp_path, word):
    (tmp_path / "t.csv").write_text(f"a,b\n1,2.5\n3,{word}\n")
    with pytest.warns(UserWarning, match="column 'b'.*is read as missing"):
        same(read(tmp_path / "t.csv"))


def test_semicolons_and_decimal_commas_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1;2,5\n3;\n")
    with pytest.warns(UserWarning, match="decimal commas"):
        same(read(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("a;b\n1,5;1,234\n3,25;2,000\n")
    with pytest.warns(UserWarning, match="decimal commas"):
        same(read(tmp_path / "t.csv"), [[1.5, 1.234], [3.25, 2.0]])


def test_a_comma_that_may_part_thousands_is_still_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1;1,234\n3;2,345\n")
    with pytest.raises(DataError, match="if the comma separates thousands"):
        read(tmp_path / "t.csv")


def image(path, level, size=(2, 2)):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def test_folders_in_a_folder_are_the_classes(tmp_path):
    for folder, level in (("cats", 10), ("dogs", 20)):
        for k in range(2):
            image(tmp_path / folder / f"{k}.png", level + k)
    raw = read(tmp_path)
    assert raw.values[:, 0, 0].tolist() == [10, 11, 20, 21]
    assert list(raw.labels) == ["cats", "cats", "dogs", "dogs"]
    assert load(tmp_path, labels="folders").labelled().known.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_images_of_other_sizes_are_told_what_to_do(tmp_path):
    image(tmp_path / "a.png", 1)
    image(tmp_path / "b.png", 1, (3, 2))
    with pytest.raises(DataError, match=r"b.png is 3 x 2 where a.png is 2 x 2.*ImageOps.fit"):
        read(tmp_path)
    image(tmp_path / "b.png", 1)
    with pytest.raises(DataError, match="a folder of images with a folder in it"):
        read(tmp_path, labels="folders")
