"""Parsing: trees with their words, agreement with people's trees by its stated conventions, and the baselines."""

import pytest
import torch

from latentia.data import load
from latentia.data.treebanks import parse_trees
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.learners import EM
from latentia.models import HMM, PCFG
from latentia.tasks import parse
from latentia.tasks.parse import (
    agreement,
    balanced,
    constituents,
    gold,
    left_branching,
    oracle,
    random_tree,
    right_branching,
)
from latentia.testing.brute_force import bracketings


def tree(text):
    return parse_trees(text, "x")[0][1]


WORDS = ["a", "b", "c", "d"]
GOLD = tree("(S (NP (D a) (N b)) (VP (V c) (N d)))")


def test_baselines_are_the_trees_that_they_are_called():
    assert constituents(right_branching(WORDS)) == {(1, 3), (2, 3)}
    assert constituents(left_branching(WORDS)) == {(0, 1), (0, 2)}
    assert constituents(balanced(WORDS)) == {(0, 1), (2, 3)}
    assert right_branching(WORDS).words == WORDS


def test_random_trees_are_all_alike():
    generator = torch.Generator().manual_seed(0)
    seen = [frozenset(constituents(random_tree(WORDS, generator))) for _ in range(1000)]
    every = {frozenset(span for span in spans if span[0] < span[1] and span != (0, 3)) for spans in bracketings(0, 3)}
    names = {one: str(sorted(one)) for one in every}
    counts = [str(sorted(one)) for one in seen]
    assert set(seen) == every
    # each of five in 1000: 200, give or take five standard errors of 12.6
    assert all(abs(counts.count(name) - 200) < 64 for name in names.values())


def test_the_oracle_is_the_best_of_all_binary_trees():
    flat = tree("(S (NP (D a) (A b) (N c)) (VP (V d) (NP (D e) (N f))))")
    found = agreement([oracle(flat)], [flat])
    assert found.recall == 1
    assert found.precision == pytest.approx(3 / 4)


def test_agreement_counts_as_it_says():
    half = tree("(X (X (X (P a) (P b)) (P c)) (P d))")  # of (0, 1), (0, 2) the first is right
    flat = tree("(S (A a) (B b) (C c) (D d))")  # no constituent but the sentence
    found = agreement([half, half], [GOLD, flat])
    # first: precision 1/2, recall 1/2; second: recall 1 by convention, precision 0
    assert found.sentence == pytest.approx((0.5 + 0.0) / 2)
    assert found.precision == pytest.approx(1 / 4)
    assert found.recall == pytest.approx(1 / 2)
    assert found.corpus == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert found.labels == {"NP": (1.0, 1), "VP": (0.0, 1)}
    two = tree("(S (A a) (B b))")
    assert agreement([two], [two]).sentence == 1  # nothing to find, nothing found
    with pytest.raises(DataError, match="sentence 1 has 2 words, and its gold tree 4"):
        agreement([two], [GOLD])


def test_a_unary_chain_is_one_span():
    assert constituents(tree("(S (NP (NP (D a) (N b))) (VP (V c)))")) == {(0, 1)}


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    path = tmp_path_factory.mktemp("trees") / "a.mrg"
    lines = [f"( (S (NP (D the) (N {n})) (VP (V {v}) (NP (D a) (N {m})))))" for n in "pq" for v in "st" for m in "pq"]
    path.write_text("\n".join(lines))
    return path


def test_sentences_of_a_treebank_are_parsed_with_their_words(treebank):
    data = load(treebank, min_count=1)
    model = PCFG(symbols=len(data.schema.vocabulary), nonterminals=2, preterminals=3).double()
    with pytest.warns(UserWarning, match="EM stopped"):
        EM(steps=3, restarts=1, progress=False).fit(model, data)
    for decode in ("risk", "best"):
        trees = parse(model, data, decode=decode)
        assert [one.words for one in trees] == data.decoded()
        assert all(len(constituents(one)) == 3 for one in trees)
        assert {one.label[0] for one in trees} == {"N"}
        assert agreement(trees, gold(data)).sentences == 8
    # the most probable tree is the recursion's
    best = model.trees(data.batch()).mode
    assert best[0].sum() == 9


def test_what_has_no_trees_says_so(treebank):
    data = load(treebank, min_count=1)
    with pytest.raises(CapabilityError, match=r"HMM has no trees: write HMM.trees\(batch\)"):
        parse(HMM(symbols=len(data.schema.vocabulary)), data)
    with pytest.raises(OptionError, match="decode='worst'"):
        parse(PCFG(symbols=len(data.schema.vocabulary)), data, decode="worst")
    with pytest.raises(DataError, match="have no trees to compare with"):
        gold(load(["a b", "c d"]))
    with pytest.raises(DataError, match="sentence 1 has 500 words"):
        parse(PCFG(symbols=len(data.schema.vocabulary)), [["the"] * 500])
