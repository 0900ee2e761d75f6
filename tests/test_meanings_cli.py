"""Logical forms at the command: sentences with forms for some, a form out, and what is refused in words."""

import re

import pytest

from latentia import cli

FIT = ("fit", "--model", "StructVAE", "--text_column", "sentence", "--labels", "form", "--min_count", 1)
SMALL = ("--objective", "semi_supervised", "--model.hidden", 4, "--learner.epochs", 1, "--importance_samples", 2)
ROWS = [("show ci0", "( show ci0 )"), ("show ci1", "( show ci1 )"), ("ci0 please", ""), ("show ci1 please", "")] * 5


def run_main(*words):
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return left.value.code or 0


def written(path, rows):
    path.write_text("sentence\tform\n" + "".join(f"{words}\t{form}\n" for words, form in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meanings")
    data = written(folder / "a.tsv", ROWS)
    assert not run_main(*FIT, "--data", data, "--out", folder / "run", *SMALL)
    return folder


def test_a_sentence_has_a_form_and_its_probability(folder, capsys):
    assert run_main("parse", folder / "run", "show ci0 please") == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert {form for _, form in lines} == {"( show ci0 )", "( show ci1 )"}
    assert sum(float(share) for share, _ in lines) == pytest.approx(1, abs=0.002)


def test_all_sentences_of_other_data(folder, capsys):
    assert run_main("parse", folder / "run", "--data", folder / "a.tsv", "--out", folder / "out.txt") == 0
    out, err = capsys.readouterr()
    assert "wrote" in err
    assert "10 sentences with a form: " in out
    lines = (folder / "out.txt").read_text().splitlines()
    assert len(lines) == len(ROWS)
    assert all(line.split("\t")[1].startswith("( show ci") for line in lines)


def test_the_report_shows_what_sentences_mean(folder):
    page = (folder / "run" / "report.html").read_text()
    assert "What sentences mean" in page
    assert "( show ci" in page


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([*ROWS, ("show", "( show ci0")], (), r"line 22.*position 1: the bracket that opens here is never closed"),
        ([(words, "") for words, _ in ROWS], (), "not one sentence has a logical form"),
        (ROWS, ("--model.length", 2), "the model's limit is 2"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, capsys, rows, options, said):
    data = written(tmp_path / "b.tsv", rows)
    assert run_main(*FIT, "--data", data, "--out", tmp_path / "run", *SMALL, *options) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert re.search(said, err), err


def test_a_form_outside_a_grammar_that_is_given(tmp_path, capsys):
    grammar = tmp_path / "g.txt"
    grammar.write_text("form = ( show city )\ncity = ci0\n")
    data = written(tmp_path / "b.tsv", ROWS)
    assert run_main(*FIT, "--data", data, "--grammar", grammar, "--out", tmp_path / "run", *SMALL) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "ci1 is outside the grammar: city is wanted, and it may be ci0" in err
    assert "b.tsv, line " in err


def test_labels_are_asked_for(tmp_path, capsys):
    data = written(tmp_path / "b.tsv", ROWS)
    words = ("fit", "--model", "StructVAE", "--data", data, "--text_column", "sentence", "--out", tmp_path / "run")
    assert run_main(*words, "--objective", "semi_supervised") == 2
    assert "learns from labels" in capsys.readouterr().err
    assert run_main(*words) == 2
    assert "--labels" in capsys.readouterr().err
