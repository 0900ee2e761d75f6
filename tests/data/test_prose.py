"""Raw text: words, stop words, runs, and which words count."""

import json

import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from latentia.cli import main
from latentia.data import load, read
from latentia.data.prose import Prose
from latentia.errors import DataError, OptionError
from latentia.runs.directory import Run


def status_of(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


TEXTS = [
    "The cat sat on the mat, didn't it?",
    "A cat and a dog: the dog ran.",
    "Dogs run; cats sit. The mat is red.",
    "It rained on the red mat.",
]


def test_words_marks_and_spaces():
    text = "Didn't she say: \u201cNo!\u201d?"
    assert Prose().cut(text) == text.split()
    assert Prose(lower=True, words="punctuation").cut("Didn't she say: no?") == [
        "didn't",
        "she",
        "say",
        ":",
        "no",
        "?",
    ]
    assert Prose(words="letters").cut("I am a cat, no?") == ["am", "cat", "no"]
    assert Prose(words="letters", stop_words="english").cut("The cat sat on it") == ["cat", "sat"]
    assert Prose(ngrams=3).cut("a b c") == ["a", "b", "c", "a_b", "b_c", "a_b_c"]


@pytest.mark.parametrize(("least", "most"), [(1, 1.0), (2, 1.0), (2, 3), (0.5, 0.75)])
def test_the_vocabulary_and_the_counts_are_those_of_scikit_learn(least, most):
    peer = CountVectorizer(stop_words="english", ngram_range=(1, 2), min_df=least, max_df=most)
    counts = peer.fit_transform(TEXTS).toarray()
    prose = Prose(lower=True, words="letters", stop_words="english", ngrams=2)
    raw = read(pd.DataFrame({"text": TEXTS}), text_column="text", prose=prose)
    data = load(raw, min_documents=least, max_documents=most)
    words = {word.replace("_", " ") for word in data.schema.vocabulary[1:]}
    assert words == set(peer.get_feature_names_out())
    found = [
        sum(data.schema.vocabulary[i] != "<unk>" for i in row[:n]) for row, n in zip(data.x, data.lengths, strict=True)
    ]
    assert found == counts.sum(1).tolist()


def test_a_text_of_no_known_word_is_one_unknown_word():
    data = load(["a a b", "a b", "a c"], min_documents=2)
    other = load(["z y x", "a z"], schema=data.schema)
    assert other.decoded() == [["<unk>"], ["a"]]


def test_a_column_a_key_and_labels(tmp_path):
    (tmp_path / "d.csv").write_text('id,about,text\n1,pets,"A cat, a dog"\n2,rain,It rained\n')
    raw = read(tmp_path / "d.csv", text_column="text", labels="about", prose=Prose(lower=True, words="punctuation"))
    assert raw.values == [["a", "cat", ",", "a", "dog"], ["it", "rained"]]
    assert list(raw.labels) == ["pets", "rain"]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"body": text}) for text in TEXTS))
    assert read(tmp_path / "d.jsonl", text_column="body").values[3] == TEXTS[3].split()


def test_texts_without_a_word_are_left_out_and_told():
    with pytest.warns(UserWarning, match="1 texts without a word are left out, the first at row 2"):
        raw = read(["a cat", "the of", "a dog"], prose=Prose(stop_words="english"))
    assert raw.values == [["cat"], ["dog"]]
    assert raw.rows.tolist() == [1, 3]


def test_errors_name_the_place_and_print_no_article(tmp_path):
    article = "word " * 500
    (tmp_path / "d.csv").write_text(f"id,text\n1,{article}\n2,\n")
    with pytest.raises(DataError, match="line 3, column 'text' has no text"):
        read(tmp_path / "d.csv", text_column="text")
    (tmp_path / "d.csv").write_text("text\n" + "\n".join(f"{article} {i}" for i in range(40)))
    with pytest.raises(DataError) as caught:
        load(tmp_path / "d.csv")
    assert len(str(caught.value)) < 400
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": article}) + "\n" + json.dumps({"texts": article}))
    with pytest.raises(DataError, match=r"line 2: no field .text.; it has .texts.") as caught:
        read(tmp_path / "d.jsonl", text_column="text")
    assert len(str(caught.value)) < 200
    with pytest.raises(DataError, match="no columns"):
        read(["a b"], text_column="text")
    with pytest.raises(DataError, match="no text has a word left"):
        read(["the of"], prose=Prose(stop_words="english"))


@pytest.mark.parametrize("options", [{"words": "syllables"}, {"stop_words": "german"}, {"ngrams": 0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(OptionError):
        Prose(**options)


@pytest.mark.parametrize("options", [{"min_documents": 0.0}, {"max_documents": 1.5}, {"min_documents": 9.0}])
def test_document_frequencies_that_make_no_sense(options):
    with pytest.raises((OptionError, DataError)):
        load(TEXTS, **options)


def test_a_saved_run_reads_other_text_alike(tmp_path):
    (tmp_path / "d.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in TEXTS * 5))
    run = tmp_path / "run"
    words = [
        "fit",
        "--model",
        "LDA",
        "--model.topics",
        "2",
        "--learner.sweeps",
        "10",
        "--data",
        str(tmp_path / "d.csv"),
    ]
    raw = ["--text_column", "text", "--lower", "true", "--words", "letters", "--stop_words", "english"]
    assert status_of([*words, *raw, "--min_documents", "2", "--evaluation", "false", "--out", str(run)]) == 0
    (tmp_path / "e.csv").write_text('text\n"The CAT, the Dog and the zebra"\n')
    assert Run.open(run).other(str(tmp_path / "e.csv")).decoded() == [["cat", "dog"]]
