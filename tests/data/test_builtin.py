"""The data that need no download."""

import numpy as np
from sklearn.datasets import load_digits

from latentia.data import BUILTIN, load, read


def test_digits():
    raw = read("digits")
    assert np.array_equal(raw.values, load_digits().images)
    assert np.array_equal(raw.labels, load_digits().target)
    assert raw.values.min() == 0
    assert raw.values.max() == 16
    data = load("digits")
    assert len(data) == 1797
    assert data.x.max() == 16  # a Python user gets what was given
    assert data.labels[:3].tolist() == [0, 1, 2]


def test_sentences_are_english_without_repeats():
    raw = read("sentences")
    assert raw.kind == "text"
    assert 1500 < len(raw) < 6000
    lengths = [len(words) for words in raw.values]
    assert (min(lengths), max(lengths)) == (3, 40)
    assert len({tuple(words) for words in raw.values}) == len(raw)
    assert all(word == word.lower() and not set(word) & set('=<>{}[]()"*_') for words in raw.values for word in words)


def test_sentences_hold_prose_and_no_code():
    sentences = {" ".join(words) for words in read("sentences").values}
    assert "assignment of an object to a single target is recursively defined as follows" in sentences
    assert not any("traceback most recent call last" in sentence for sentence in sentences)
    assert not any("equivalent to x x iadd y" in sentence for sentence in sentences)
    common = sum(" the " in f" {sentence} " for sentence in sentences)
    assert common > len(sentences) / 2


def test_builtin_names_what_read_knows():
    assert set(BUILTIN) == {"digits", "sentences"}
    assert read("digits").fingerprint() == BUILTIN["digits"]().fingerprint()
