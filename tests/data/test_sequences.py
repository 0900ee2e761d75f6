"""Ragged sequences, text and JSON lines."""

import numpy as np
import pytest
import torch

from latentia.data import load, read


def test_text_is_a_sentence_a_line(write):
    raw = read(write("t.txt", "the cat  sat\n\n a dog\tran \r\nend"))
    assert raw.kind == "text"
    assert raw.values == [["the", "cat", "sat"], ["a", "dog", "ran"], ["end"]]
    assert raw.lines.tolist() == [1, 3, 4]


def test_blank_text_is_refused(refused, write):
    with refused("t.txt", "empty"):
        read(write("t.txt", "\n \n"))
    with refused("t.txt", "UTF-8"):
        read(write("t.txt", b"caf\xe9\n"))


@pytest.mark.parametrize(
    ("line", "kind", "value"),
    [
        ("[1, 2, 3]", "sequence", [1, 2, 3]),
        ("[[1, 2.5], [3, 4]]", "sequence", [[1, 2.5], [3, 4]]),
        ('["a", "b c"]', "text", ["a", "b c"]),
        ('{"text": "a b", "id": 3}', "text", ["a", "b"]),
        ('{"tokens": ["a", "b"]}', "text", ["a", "b"]),
        ('{"x": [1.5, 2]}', "sequence", [1.5, 2]),
        ('"a b"', "text", ["a", "b"]),
    ],
)
def test_forms_of_json_lines(write, line, kind, value):
    raw = read(write("t.jsonl", f"{line}\n\n{line}\n"))
    assert raw.kind == kind
    assert [list(v) if isinstance(v, list) else v.tolist() for v in raw.values] == [value, value]
    assert raw.lines.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[1, 2]\n[1, 2", ["line 2", "not JSON", "truncated"]),
        ("[1, 2]\n3", ["line 2", '"tokens"']),
        ('[1, 2]\n{"y": [1]}', ["line 2", '"tokens"']),
        ("[1, 2]\n[]", ["line 2", "empty sequence"]),
        ('["a"]\n[]', ["line 2", "empty sequence"]),
        ('{"text": "a"}\n{"text": " "}', ["line 2", "empty sequence"]),
        ('[1]\n["a"]', ["line 2", "text", "line 1"]),
        ('["a"]\n[1]', ["line 2", "numbers", "line 1"]),
        ('[1, "a"]', ["line 1", "real numbers"]),
        ('["a", 1]', ["line 1", "string"]),
        ("[[1, 2], [3]]", ["line 1", "equally long"]),
        ("[[1, 2]]\n[[1, 2, 3]]", ["line 2", "(3,)", "line 1", "(2,)"]),
        ("[1]\n[[1]]", ["line 2", "same size"]),
        ("[1, 2]\n[0, Infinity]", ["line 2", "step 2", "infinite"]),
        ("[[1, 2]]\n[[0, 1], [2, -Infinity]]", ["line 2", "step 2", "column 2", "infinite"]),
    ],
)
def test_bad_json_lines_are_refused_by_line(refused, write, content, parts):
    with refused("t.jsonl", *parts):
        read(write("t.jsonl", content))


def test_null_is_a_missing_value(write):
    data = load(write("t.jsonl", "[1.5, null, 3]\n[4]\n"))
    assert data.x[..., 0].tolist() == [[1.5, 0, 3], [4, 0, 0]]
    assert data.seen[..., 0].tolist() == [[True, False, True], [True, False, False]]
    assert data.lengths.tolist() == [3, 1]


def test_ragged_lists_arrays_and_tensors_are_the_same():
    lists = [[[1.0, 2.0], [3.0, 4.5]], [[5.0, 6.0]]]
    expected = load(lists)
    assert expected.x.shape == expected.seen.shape == (2, 2, 2)
    assert expected.seen[1, 1].tolist() == [False, False]
    for convert in (np.array, torch.tensor):
        data = load([convert(part) for part in lists])
        assert torch.equal(data.x, expected.x)
        assert torch.equal(data.lengths, expected.lengths)
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.array(part) for part in lists]
    assert torch.equal(load(ragged).x, expected.x)


def test_a_padded_array_and_a_ragged_list_are_the_same():
    padded = np.array([[[1.5], [2.0]], [[3.0], [np.nan]]])
    data, expected = load(padded), load([[1.5, 2.0], [3.0]])
    assert torch.equal(data.x, expected.x)
    assert torch.equal(data.lengths, expected.lengths)
    assert data.mask is expected.mask is None
    hidden = load(np.array([[[1.5], [np.nan], [2.0]], [[3.0], [np.nan], [np.nan]]]))
    assert hidden.lengths.tolist() == [3, 1]
    assert hidden.batch().hidden[..., 0].tolist() == [[False, True, False], [False, False, False]]


def test_integers_are_symbols_and_floats_are_vectors():
    symbols = load([[0, 4, 1], [2]])
    assert (symbols.x.dtype, symbols.x.shape, symbols.schema.levels) == (torch.int64, (2, 3), 5)
    assert symbols.schema.sizes() == {"event_shape": (), "features": None, "symbols": 5}
    floats = load([[0.5, 4], [2]])
    assert (floats.x.dtype, floats.x.shape) == (torch.float64, (2, 2, 1))
    assert floats.schema.sizes() == {"event_shape": (1,), "features": 1, "symbols": None}
    mixed = load([[0, 1], [2.5]])
    assert mixed.schema.values == "real"
    assert load(np.array([[0, 1, 2]]), kind="sequence").schema.values == "symbols"


def test_symbols_may_have_gaps():
    data = load([[0.0, np.nan, 2.0]], values="symbols")
    assert data.x.tolist() == [[0, 0, 2]]
    assert data.mask.tolist() == [[True, False, True]]


def test_lists_of_strings_are_sentences():
    assert read(["a b", "c"]).values == [["a", "b"], ["c"]]
    assert read([["a", "b"], ["c"]]).values == [["a", "b"], ["c"]]
    assert read(np.array(["a b", "c"], dtype=object)).values == [["a", "b"], ["c"]]


def test_a_list_of_numbers_is_a_table_of_one_column():
    data = load([1.5, None, 2])
    assert data.schema.kind == "table"
    assert data.x.tolist() == [[1.5], [0], [2]]
    assert data.mask.tolist() == [[True], [False], [True]]


def test_bad_lists_are_refused(refused):
    with refused("empty"):
        read([])
    with refused("row 2", "empty sequence"):
        read([[1], []])
    with refused("row 1", "(1, 1, 1)"):
        read([np.ones((1, 1, 1)), np.ones((1, 1, 1))])
    with refused("row 1", "equally long"):
        read([[[1, 2], [3]]])
    with refused("row 2", "complex"):
        read([np.ones(2), np.ones(2, dtype=complex)])
