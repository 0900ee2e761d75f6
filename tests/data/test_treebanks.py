"""Treebanks: trees in brackets, archives of them and CoNLL-U, and where they are damaged."""

import zipfile

import pytest

from latentia.data import load, read
from latentia.data.treebanks import cleaned, parse_trees
from latentia.errors import DataError

PIERRE = """
( (S
    (NP-SBJ-1 (NNP Pierre) (NNP Vinken) (, ,))
    (VP (MD will) (VP (VB join) (NP (-NONE- *T*-1)) (NP (CD 61.5) (NNS boards))))
    (. .)))
( (S (NP (DT The) (NN board)) (VP (VBD left) (NP (-NONE- *)))))
"""


def test_a_tree_is_read_without_traces_and_punctuation(tmp_path):
    path = tmp_path / "a.mrg"
    path.write_text(PIERRE)
    raw = read(path)
    assert raw.values[0] == ["pierre", "vinken", "will", "join", "N", "boards"]
    assert raw.trees is not None
    assert raw.lines is not None
    assert raw.trees[0] == "(S (NP (NNP pierre) (NNP vinken)) (VP (MD will) (VP (VB join) (NP (CD N) (NNS boards)))))"
    assert raw.trees[1] == "(S (NP (DT the) (NN board)) (VP (VBD left)))"
    assert raw.lines.tolist() == [2, 6]
    ((_, tree),) = parse_trees(raw.trees[0], "x")
    assert list(tree.spans()) == [(0, 5, "S"), (0, 1, "NP"), (2, 5, "VP"), (3, 5, "VP"), (4, 5, "NP")]


def test_the_same_trees_come_from_text_and_archives(tmp_path):
    text, archive = tmp_path / "a.txt", tmp_path / "a.zip"
    text.write_text(PIERRE)
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("wsj/b.mrg", PIERRE.strip().splitlines()[-1])
        zipped.writestr("wsj/a.mrg", "\n".join(PIERRE.splitlines()[:-1]))
        zipped.writestr("wsj/README", "no tree")
    assert list(read(text).trees) == list(read(archive).trees)  # type: ignore[call-overload]
    data = load(text)
    assert data.schema.kind == "text"
    assert data.trees is not None
    assert data.subset([1]).trees.tolist() == [data.trees[1]]  # type: ignore[union-attr]
    plain = tmp_path / "plain.txt"
    plain.write_text("(no tree) but a sentence\nanother one\n")
    assert read(plain).trees is None


def test_sentences_that_are_too_short_are_left_out_aloud(tmp_path):
    path = tmp_path / "a.mrg"
    path.write_text(PIERRE + "( (INTJ (UH Yes) (. .)))\n")
    with pytest.warns(UserWarning, match="1 of 3 sentences have fewer than two words"):
        assert len(read(path)) == 2


CONLLU = """# text = The dog barks .
1\tThe\tthe\tDET\t_\t_\t2\tdet\t_\t_
2\tdog\tdog\tNOUN\t_\t_\t3\tnsubj\t_\t_
3\tbarks\tbark\tVERB\t_\t_\t0\troot\t_\t_
4\t.\t.\tPUNCT\t_\t_\t3\tpunct\t_\t_

1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_
"""


def test_constituents_of_dependencies_are_what_hangs_from_a_word(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(CONLLU)
    raw = read(path)
    assert raw.values == [["the", "dog", "barks"], ["do", "n't", "go"]]
    assert list(raw.trees) == [  # type: ignore[call-overload]
        "(VERB (NOUN (DET the) (NOUN dog)) (VERB barks))",
        "(VERB (AUX do) (PART n't) (VERB go))",
    ]


def test_constituents_that_are_not_one_behind_the_other_are_none(tmp_path):
    path = tmp_path / "a.conllu"
    heads = [("a", 3), ("b", 4), ("c", 0), ("d", 3)]  # b hangs from d across c
    path.write_text("\n".join(f"{i}\t{w}\t_\tX\t_\t_\t{h}\t_\t_\t_" for i, (w, h) in enumerate(heads, 1)) + "\n")
    assert list(read(path).trees) == ["(X (X a) (X b) (X c) (X d))"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.mrg", "( (S (NP (NN a)) (VP b))\n( (S (NP c) (VP d)))\n", "a.mrg, line 1: the bracket that opens here"),
        ("a.mrg", "(S (A a) (B b))\n(S (A a) (B b)))\n", "a.mrg, line 2: a closing bracket without"),
        ("a.mrg", "(S (A a)\n ( ))\n", "a.mrg, line 2: a constituent of no words"),
        ("a.mrg", "(S (A a) (B b))\nword\n", "a.mrg, line 2: 'word' outside of any tree"),
        ("a.mrg", "(S (A a) (, ,))\n", "a.mrg holds no sentence of two words or more"),
        ("a.mrg", "  \n", "a.mrg is empty"),
        ("a.txt", "(S (A a) (B b)\n", "a.txt, line 1: the bracket that opens here"),
        ("a.zip", "no archive", "a.zip cannot be read as a zip archive"),
        ("a.conllu", "1\ta\tb\n", "a.conllu, line 1: 3 columns where CoNLL-U has 10"),
        ("a.conllu", "1\ta\t_\tX\t_\t_\t_\t_\t_\t_\n", "a.conllu, line 1: the head '_' is no number"),
        (
            "a.conllu",
            "1\ta\t_\tX\t_\t_\t2\t_\t_\t_\n2\tb\t_\tX\t_\t_\t1\t_\t_\t_\n",
            "line 1: the heads .* are no tree",
        ),
        ("a.conllu", "# nothing\n", "a.conllu is empty"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read(path)


def test_an_archive_without_trees_or_out_of_proportion_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("a.csv", "1,2")
    with pytest.raises(DataError, match=r"a.zip holds no .mrg file"):
        read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.mrg", " " * 2**26)
    with pytest.raises(DataError, match="promises 67,108,864 values"):
        read(path)


def test_what_has_no_words_left_is_gone():
    ((_, tree),) = parse_trees("(S (NP (-NONE- *)) (. .))", "x")
    assert cleaned(tree) is None
    ((_, tree),) = parse_trees("(S (A 3,000.5))", "x")
    assert str(cleaned(tree)) == "(S (A N))"
