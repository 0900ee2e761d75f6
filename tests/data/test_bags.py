"""Bags of words, and the vocabulary that names them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentia.cli import main
from latentia.data import load, read
from latentia.runs.directory import Run

LDAC = "2 0:2 3:1\n\n0\n1 1:3\n3 0:1 1:0 2:1\n"
LABELLED = "1 1:2 4:1\r\nspace 2:3\n1\n-1 3:1\n"
WORDS = "who 6494\nout 6114\nis 3\nit 1\n"


def test_ldac(write):
    raw = read(write("ap.dat", LDAC))
    assert raw.kind == "sequence"
    assert [value.tolist() for value in raw.values] == [[0, 0, 3], [1, 1, 1], [0, 2]]
    assert raw.lines.tolist() == [1, 4, 5]
    data = load(raw)
    assert data.schema.levels == 4
    assert data.x.tolist() == [[0, 0, 3], [1, 1, 1], [0, 2, 0]]


def test_labelled_rows_count_words_from_1(write):
    raw = read(write("train.feat", LABELLED))
    assert [value.tolist() for value in raw.values] == [[0, 0, 3], [1, 1, 1], [2]]
    assert raw.labels.tolist() == ["1", "space", "-1"]
    assert raw.lines.tolist() == [1, 2, 4]


@given(st.lists(st.dictionaries(st.integers(0, 50), st.integers(1, 9), min_size=1), min_size=1))
def test_bags_come_back(tmp_path_factory, bags):
    path = tmp_path_factory.mktemp("bags") / "some.ldac"
    path.write_text("".join(f"{len(bag)} {' '.join(f'{v}:{n}' for v, n in bag.items())}\n" for bag in bags))
    found = [dict(sorted((v, value.tolist().count(v)) for v in set(value.tolist()))) for value in read(path).values]
    assert found == [dict(sorted(bag.items())) for bag in bags]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.dat", "1 0:1\n2 0:1", ["a.dat, line 2", "begins with '2'", "1 id:count"]),
        ("a.dat", "x 0:1", ["a.dat, line 1", "begins with 'x'"]),
        ("a.dat", "1 0:1\n\n1 0:1.5", ["a.dat, line 3", "'0:1.5'", "whole numbers"]),
        ("a.dat", "1 -1:1", ["a.dat, line 1", "'-1:1'"]),
        ("a.dat", "1 0:1:1", ["'0:1:1'"]),
        ("a.dat", "1 0:99999999999", ["'0:99999999999'"]),
        ("a.dat", "0\n0\n", ["holds no word"]),
        ("a.dat", b"1 \xff:1", ["a.dat", "UTF-8"]),
        ("a.feat", "1 1:1\n1 0:1", ["a.feat, line 2", "word 0", "from 1"]),
        ("a.feat", "1 who:1", ["a.feat, line 1", "'who:1'"]),
    ],
)
def test_damaged_bags_are_refused(refused, write, name, content, parts):
    with refused(*parts):
        read(write(name, content))


def test_a_vocabulary_makes_bags_text(write):
    vocabulary = write("vocab.txt", WORDS)
    raw = read(write("ap.dat", LDAC), vocabulary=vocabulary)
    assert raw.kind == "text"
    assert raw.values == [["who", "who", "it"], ["out", "out", "out"], ["who", "is"]]
    data = load(write("ap.dat", LDAC), vocabulary=vocabulary)
    assert set(data.schema.vocabulary) == {"<unk>", "who", "out", "is", "it"}
    again = load(write("train.feat", LABELLED), schema=data.schema, vocabulary=vocabulary)
    assert again.decoded() == [["who", "who", "it"], ["out", "out", "out"], ["is"]]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("who\nout\nis\n", ["ap.dat, line 1", "symbol 3 has no word", "vocab.txt has 3"]),
        ("who\nout\nwho\nit\n", ["vocab.txt, line 3", "'who'", "line 1"]),
        ("who\n\nout\nis\nit", ["vocab.txt, line 2", "blank line"]),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(refused, write, words, parts):
    with refused(*parts):
        read(write("ap.dat", LDAC), vocabulary=write("vocab.txt", words))


def test_a_vocabulary_is_for_symbols_only(refused, write, tmp_path):
    vocabulary = write("vocab.txt", WORDS)
    for source in (write("t.csv", "a,b\n1,2\n"), "sentences", [[0.5, 1.5]]):
        with refused("neither"):
            read(source, vocabulary=vocabulary)
    with refused("does not exist", "a word a line"):
        read(write("ap.dat", LDAC), vocabulary=tmp_path / "none.txt")


def test_the_command_reads_bags_by_their_vocabulary(write, tmp_path, capsys):
    bags, vocabulary = write("ap.dat", "2 0:3 1:2\n2 2:3 3:2\n" * 20), write("vocab.txt", WORDS)
    out = tmp_path / "run"
    fit = f"fit --model LDA --data {bags} --vocabulary {vocabulary} --learner Gibbs --learner.sweeps 20"
    fit += f" --learner.burn_in 10 --model.topics 2 --importance_samples 10 --out {out}"
    for command in (fit, f"evaluate {out} --data {bags} --importance_samples 10 --json"):
        with pytest.raises(SystemExit) as ended:
            main(command.split())
        assert ended.value.code == 0, capsys.readouterr().err
    run = Run.open(out)
    assert "who" in run.schema.vocabulary
    text = (out / "report.html").read_text()
    assert "The words of each topic" in text
    assert "log p(x, z)" in text
