"""Text as data: words, bytes and subwords, with ends that are modelled or not, and what cannot be used."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from latentia.data import load
from latentia.data.schema import Schema
from latentia.data.tokens import BYTES, cut, join
from latentia.errors import DataError, OptionError

TEXTS = ["the cat sat", "the dog", "the cat ran and ran"]


def test_an_end_is_a_symbol_that_counts():
    plain, ended = load(TEXTS), load(TEXTS, ends=True)
    assert ended.schema.vocabulary == (*plain.schema.vocabulary, "</s>")
    assert (ended.schema.end, plain.schema.end) == (len(plain.schema.vocabulary), None)
    assert ended.lengths is not None
    assert plain.lengths is not None
    assert (ended.lengths == plain.lengths + 1).all()
    rows = torch.arange(3)
    assert (ended.x[rows, ended.lengths - 1] == ended.schema.end).all()
    assert ended.schema.unit == "nats per sentence, end of sentence counted"
    assert plain.schema.unit == "nats per sentence, end of sentence not counted"
    assert "one more that ends each" in ended.schema.describe()
    assert ended.decoded() == plain.decoded() == [text.split() for text in TEXTS]
    assert ended.schema.sizes()["end"] == ended.schema.end
    assert "end" not in plain.schema.sizes()
    assert ended.unknown == plain.unknown == 0.0


def test_sequences_of_symbols_end_too():
    data = load([[0, 1, 2], [2]], ends=True)
    assert data.schema.levels == 4
    assert data.x.tolist() == [[0, 1, 2, 3], [2, 3, 0, 0]]
    assert [row.tolist() for row in data.decoded()] == [[0, 1, 2], [2]]
    with pytest.raises(DataError, match="whole numbers from 0 to 2"):
        load([[0, 3]], schema=data.schema)


@pytest.mark.parametrize("source", [np.zeros((3, 2)), [[0.5, 1.5], [2.5]]])
def test_numbers_have_no_symbol_that_ends_them(source):
    with pytest.raises(OptionError, match="text and of sequences of symbols"):
        load(source, ends=True)


def test_a_schema_goes_through_json_and_an_old_one_is_read():
    schema = load(TEXTS, ends=True, max_length=4, tokens="bytes").schema
    content = json.loads(json.dumps(schema.to_json()))
    assert Schema.from_json(content) == schema
    old = load(TEXTS).schema.to_json()
    for name in ("ends", "tokens", "cutter", "longest"):
        del old[name]
    assert Schema.from_json(old) == load(TEXTS).schema
    with pytest.raises(DataError, match="tokens is 'letters'"):
        Schema.from_json({**content, "tokens": "letters"})
    with pytest.raises(DataError, match="ends is 'yes'"):
        Schema.from_json({**content, "ends": "yes"})
    with pytest.raises(DataError, match="cutter"):
        dataclasses.replace(schema, cutter="{}")


def test_long_texts_are_cut_and_that_is_told():
    with pytest.warns(UserWarning, match="1 of 3 have more than 4 symbols, and are cut off there: they have no end"):
        data = load(TEXTS, ends=True, max_length=4)
    assert data.lengths is not None
    assert data.lengths.tolist() == [4, 3, 4]
    assert data.x[2, 3] != data.schema.end
    assert data.decoded()[2] == ["the", "cat", "ran", "and"]
    with pytest.raises(OptionError, match="max_length=0"):
        load(TEXTS, max_length=0)


def test_bytes_write_any_text():
    data = load(["naïve café", "日本 !"], tokens="bytes", ends=True)
    assert data.schema.levels == 258
    assert data.decoded() == [["naïve", "café"], ["日本", "!"]]
    assert data.unknown == 0.0
    other = load(["ганц өөр"], schema=data.schema)
    assert other.decoded() == [["ганц", "өөр"]]
    assert "257 bytes" in data.schema.describe()
    with pytest.raises(OptionError, match="256 bytes"):
        load(["a"], tokens="bytes", max_vocabulary=10)


def test_bytes_that_are_no_text_show_as_such():
    assert join([BYTES[0xFF], BYTES[0x41]], "bytes", "") == ["\ufffdA"]
    assert cut(["é"], "bytes", "") == ["<0xC3>", "<0xA9>"]


def test_subwords_are_learned_from_the_training_texts_and_write_any_text():
    pytest.importorskip("tokenizers")
    texts = ["lower lowest newer newest wider widest"] * 20
    data = load(texts, tokens="subwords", max_vocabulary=300, ends=True)
    # 256 bytes, the unknown one, the end, and what is common
    assert 270 < (data.schema.levels or 0) <= 301
    assert data.decoded() == [text.split() for text in texts]
    assert data.x.shape[1] < len(texts[0])
    restored = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    other = load(["slowest ñandú"], schema=restored)
    assert other.decoded() == [["slowest", "ñandú"]]
    with pytest.raises(DataError, match="tokenizer of the schema is damaged"):
        load(["a"], schema=dataclasses.replace(restored, cutter='{"model": 1}'))


def test_subwords_without_their_package_are_refused_in_words(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(OptionError, match="pip install tokenizers"):
        load(TEXTS, tokens="subwords")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tokens": "letters"}, "words, bytes, subwords"), ({"max_vocabulary": 1}, "must be 2 or more")],
)
def test_options_of_text_that_make_no_sense_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        load(TEXTS, **options)


def test_tokens_are_of_text():
    with pytest.raises(OptionError, match="is for text"):
        load([[0, 1], [1]], tokens="bytes")


def test_the_word_that_ends_a_text_is_refused_inside_one(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a b\na </s> b\n")
    with pytest.raises(DataError, match=r"x\.txt, line 2: the word '</s>'"):
        load(path, ends=True)


def test_a_column_of_a_table_and_a_field_of_json_lines(tmp_path):
    frame = pd.DataFrame({"stars": [1, 2], "review": ["a fine film", "no 5 stars"]})
    assert load(frame, columns="review", kind="text").decoded() == [["a", "fine", "film"], ["no", "5", "stars"]]
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert load(tmp_path / "x.csv", columns="review", kind="text").decoded()[1] == ["no", "5", "stars"]
    with pytest.raises(DataError, match=r"stars, review: say which one holds the text"):
        load(frame, kind="text")
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1, "body": "a b"}\n{"id": 2, "body": "c"}\n')
    assert load(path, key="body").decoded() == [["a", "b"], ["c"]]
    path.write_text('{"id": 1, "body": "a b"}\n{"id": 2}\n')
    with pytest.raises(DataError, match=r"line 2: no field 'body'; it has 'id'"):
        load(path, key="body")


def test_empty_lines_are_left_out_and_empty_texts_refused(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a b\n\n \nb\n")
    data = load(path, ends=True)
    assert len(data) == 2
    with pytest.raises(DataError, match="row 2: an empty sequence: leave it out"):
        load(["a", " "], ends=True)


def test_a_line_of_a_hundred_thousand_words_is_refused_or_cut(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a b\n" * 20_000 + "a " * 100_000 + "\n")
    with pytest.raises(DataError, match=r"line 20001.*100,001 steps.*max_length"):
        load(path, ends=True)
    with pytest.warns(UserWarning, match="1 of 20,001"):
        assert load(path, ends=True, max_length=50).x.shape == (20_001, 50)


def test_bytes_that_are_no_utf8_name_the_line(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"a b\nc \xff d\n")
    with pytest.raises(DataError, match=r"x\.txt, line 2: the byte 0xff"):
        load(path)


def test_a_sentence_of_unknown_words_only_is_a_sentence():
    schema = load(TEXTS, ends=True).schema
    with pytest.warns(UserWarning, match="100% of the words"):
        data = load(["zebra yak"], schema=schema)
    assert data.x.tolist() == [[0, 0, schema.end]]
    assert data.unknown == 1.0
    assert data.decoded() == [["<unk>", "<unk>"]]
