"""Text at the command: sentences in and out, whatever is typed."""

import io
import json
import sys
from pathlib import Path

import pytest

from latentia import cli

WORDS = ["a man rides a horse", "a dog runs", "two men ride horses on a beach", "a dog sleeps on a beach"]


def run_main(*words):
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return left.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A small run of each model."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "x.txt").write_text("".join(f"{WORDS[i % 4]}\n" for i in range(80)))
    size = ("--model.embedding", 8, "--model.hidden", 8, "--learner.lr", 0.02, "--learner.epochs", 6)
    more = {
        "LanguageModel": (),
        "TextVAE": ("--model.latent", 2, "--model.route", "[initial,skip]", "--tokens", "bytes"),
        "MixtureOfLanguageModels": ("--model.components", 2, "--max_length", 6),
    }
    for name, options in more.items():
        words = ("fit", "--model", name, "--data", folder / "x.txt", "--out", folder / name, *size, *options)
        assert not run_main(*words, "--evaluation", "false")
    return {name: folder / name for name in more}


@pytest.fixture
def said(capsys):
    """What a command prints, and its last line of complaints."""

    def run(*words):
        capsys.readouterr()
        status = run_main(*words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out if not status else err.strip().splitlines()[-1]

    return run


def test_samples_are_sentences(said, runs):
    out = said("sample", runs["LanguageModel"], "--n", 5)
    assert len(out.splitlines()) == 5
    assert "</s>" not in out
    known = {word for text in WORDS for word in text.split()} | {"<unk>"}
    assert set(out.split()) <= known
    assert (runs["LanguageModel"] / "sample.txt").read_text() == out


@pytest.mark.parametrize(
    "how", ["--temperature 0.5", "--top_k 2", "--top_p 0.5", "--greedy", "--beam 3", "--beam 3 --length_penalty 0.7"]
)
def test_words_are_chosen_as_asked(said, runs, how):
    assert len(said("sample", runs["LanguageModel"], "--n", 2, *how.split()).splitlines()) == 2


def test_sentences_begin_as_asked(said, runs):
    for name in runs:
        out = said("sample", runs[name], "--n", 4, "--begin", "a dog")
        assert all(line.startswith("a dog") for line in out.splitlines()), name
        assert len(out.splitlines()) == 4


def test_sentences_of_the_command_line_are_measured_and_encoded(said, runs, monkeypatch):
    out = said("evaluate", runs["LanguageModel"], "--text", "a dog runs", "--text", "a man sleeps", "--json")
    found = json.loads(out)
    assert (found["n"], found["evaluated_on"]) == (2, "--text")
    assert found["units"] == "nats per sentence, end of sentence counted"
    # six words and two ends
    assert found["divided_by"] == "8 observed symbols; the end of a sequence is counted"
    codes = said("encode", runs["TextVAE"], "--text", "a dog runs").splitlines()
    assert len(codes) == 2
    # its number, the text, and two coordinates
    assert len(codes[1].split(",")) == 4
    assert "a dog runs" in codes[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog runs\n\na man\n")))
    assert json.loads(said("evaluate", runs["LanguageModel"], "--text", "-", "--json"))["n"] == 2


def test_the_way_from_one_sentence_to_another_is_printed(said, runs):
    out = said("interpolate", runs["TextVAE"], "--text", "a dog runs", "--text", "a man rides a horse", "--steps", 4)
    assert len(out.splitlines()) == 4


def test_a_run_keeps_how_its_texts_are_cut(runs):
    schema = json.loads((runs["MixtureOfLanguageModels"] / "schema.json").read_text())
    assert (schema["longest"], schema["ends"]) == (6, True)


def test_what_makes_no_sense_is_refused_in_words(said, runs, tmp_path, monkeypatch):
    run = runs["LanguageModel"]
    assert "leave one out" in said("evaluate", run, "--data", "x.txt", "--text", "a")
    assert "empty sequence" in said("encode", run, "--text", " ")
    assert "--greedy and --beam" in said("sample", run, "--greedy", "--beam", 2)
    assert "--beam WIDTH" in said("sample", run, "--length_penalty", 1)
    assert "above 0 and at most 1" in said("sample", run, "--top_p", 2)
    assert "no point on a line" in said("interpolate", run, "--text", "a dog", "--text", "a man")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog\na \xff\n")))
    assert "standard input, line 2: the byte 0xff" in said("encode", run, "--text", "-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert "standard input is empty" in said("encode", run, "--text", "-")
    # no text at all
    words = ("fit", "--model", "LanguageModel", "--data", "digits", "--out", tmp_path / "x")
    assert "text" in said(*words)


def test_a_vocabulary_that_was_tampered_with_is_refused(said, runs):
    path = runs["MixtureOfLanguageModels"] / "schema.json"
    before = path.read_text()
    path.write_text(before.replace('"dog"', '"cat"'))
    try:
        assert "schema.json has changed since the fit" in said("sample", runs["MixtureOfLanguageModels"])
    finally:
        path.write_text(before)


def test_a_sentence_of_unknown_words_is_measured_with_a_warning(capsys, runs):
    assert not run_main("evaluate", runs["LanguageModel"], "--text", "xylophones zoom", "--json")
    out, err = capsys.readouterr()
    assert "100% of the words are not in the vocabulary" in err
    assert json.loads(out)["n"] == 1


REVIEWS = [("the food was good", "positive"), ("the soup was bad", "negative")]


def test_sentences_of_a_class_that_some_labels_taught(said, tmp_path):
    lines = []
    for i in range(60):
        text, label = REVIEWS[i % 2]
        lines.append(json.dumps({"text": text, "sentiment": label} if i % 6 < 2 else {"text": text}))
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    words = ("fit", "--model", "SemiSupervisedTextVAE", "--data", tmp_path / "x.jsonl", "--key", "text")
    words += ("--labels", "sentiment", "--objective", "supervised", "--objective.alpha", 5, "--out", tmp_path / "run")
    words += ("--model.latent", 1, "--model.embedding", 8, "--model.hidden", 8, "--learner.lr", 0.05)
    assert not run_main(*words, "--learner.epochs", 20, "--learner.batch_size", 10, "--evaluation", "false")
    for how in ((), ("--temperature", 0.5), ("--greedy",), ("--begin", "the")):
        for text, label in REVIEWS:
            out = said("sample", tmp_path / "run", "--given", f"sentiment={label}", "--n", 20, *how).splitlines()
            assert sum(text.split()[-1] in line for line in out) > 13, (how, out)
    assert "is one of negative, positive" in said("sample", tmp_path / "run", "--given", "sentiment=mixed", "--greedy")
    # what has no label is not compared with
    labels = ("--data", tmp_path / "x.jsonl", "--key", "text", "--labels", "sentiment")
    found = said("cluster", tmp_path / "run", *labels)
    assert "20 data in 2 clusters, 2 classes" in found
    assert "accuracy 1.0000" in found
