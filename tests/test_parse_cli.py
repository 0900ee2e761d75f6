"""Trees at the command: a treebank in, a tree out, and what is refused in words."""

import pytest

from latentia import cli

SIZE = ("--model.length", 20, "--evaluation", "false")
MODELS = {
    "PCFG": ("--model.nonterminals", 2, "--model.preterminals", 3, "--learner.steps", 3, "--learner.restarts", 1),
    "NeuralPCFG": ("--model.nonterminals", 2, "--model.preterminals", 3, "--model.hidden", 8, "--learner.epochs", 1),
    "URNNG": ("--model.embedding", 4, "--model.hidden", 4, "--model.reader", 4, "--learner.epochs", 1),
}
TREES = [f"( (S (NP (D the) (N {n})) (VP (V {v}) (NP (D a) (N {m})))))" for n in "pq" for v in "st" for m in "pq"]


def run_main(*words):
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    return left.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A treebank, and a small run of each model on it."""
    folder = tmp_path_factory.mktemp("parse")
    (folder / "a.mrg").write_text("\n".join(TREES * 3))
    for name, options in MODELS.items():
        words = ("fit", "--model", name, "--data", folder / "a.mrg", "--out", folder / name, *options, *SIZE)
        assert not run_main(*words)
    return folder


@pytest.fixture
def said(capsys):
    """What a command prints, and all that it complains of."""

    def run(*words):
        capsys.readouterr()
        status = run_main(*words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status or 0, out, err

    return run


@pytest.mark.parametrize("name", MODELS)
def test_words_never_seen_have_their_place_in_the_tree(said, folder, name):
    status, out, err = said("parse", folder / name, "the zebra s a (quagga")
    assert status == 0
    assert out.count("(") == 9 + 1
    for word in ("zebra)", "(quagga)"):
        assert word in out
    assert "40% of the words are not in the vocabulary" in err


@pytest.mark.parametrize("name", MODELS)
def test_a_sentence_of_500_words_is_refused(said, folder, name):
    for words in (["the"] * 500, [" ".join(["the"] * 500)]):
        status, out, err = said("parse", folder / name, *words)
        assert (status, out) == (2, "")
        assert "sentence 1 has 500 words: the chart of its constituents would be too large: 200 are the most" in err
    (folder / "long.mrg").write_text("\n".join([*TREES, f"(S {' '.join(f'(N w{i % 7})' for i in range(500))})"]))
    words = ("fit", "--model", name, "--data", folder / "long.mrg", "--out", folder / "none", "--holdout", 0)
    status, _, err = said(*words, *MODELS[name], *SIZE)
    assert status == 2
    assert "has 500 words: the chart" in err
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("( (S (NP (D a) (N b)) (VP (V c))", "bad.mrg, line 2: the bracket that opens here is never closed"),
        ("(S (D a) (N b)))", "bad.mrg, line 2: a closing bracket without an opening one"),
        ("( )", "bad.mrg, line 2: a constituent of no words"),
        ("(S (NP ()) (V c))", "bad.mrg, line 2: a constituent of no words"),
    ],
)
def test_a_damaged_treebank_is_named_with_its_line(said, folder, text, message):
    (folder / "bad.mrg").write_text(f"{TREES[0]}\n{text}\n")
    words = (("fit", "--model", "PCFG", "--out", folder / "none"), ("parse", folder / "PCFG"))
    for command in words:
        status, out, err = said(*command, "--data", folder / "bad.mrg")
        assert (status, out) == (2, "")
        assert message in err.strip().splitlines()[-1]
    assert not (folder / "none").exists()


def test_a_sentence_of_one_word_or_none(said, folder):
    assert "sentence 1 has 1 word: a grammar's sentences have two or more" in said("parse", folder / "PCFG", "the")[2]
    # of one word a generator of words and trees has a tree
    assert said("parse", folder / "URNNG", "the")[:2] == (0, "(X the)\n")
    for name in MODELS:
        status, out, err = said("parse", folder / name, "")
        assert (status, out) == (2, "")
        assert "an empty sequence" in err


@pytest.mark.parametrize("name", MODELS)
def test_trees_of_a_treebank_are_written_and_compared(said, folder, name):
    status, out, _ = said("parse", folder / name, "--data", folder / "a.mrg", "--out", folder / "trees.txt")
    assert status == 0
    assert "24 sentences; unlabelled spans" in out
    assert "sentence F1" in out
    lines = (folder / "trees.txt").read_text().splitlines()
    assert len(lines) == 24
    assert all(line.count("(") == 9 for line in lines)
    status, out, _ = said("sample", folder / name, "--n", 2)
    assert status == 0
