"""What the page says of a model that parses: trees with the right constituents in colour, agreement, rules, words."""

import re

import numpy as np
import pytest
import torch

from latentia.data import load
from latentia.data.treebanks import parse_trees
from latentia.models import PCFG, URNNG, CompoundPCFG
from latentia.report import build, figures
from latentia.report.latents import latents
from latentia.report.trees import _counted, drawn, trees
from latentia.tasks import parse
from latentia.tasks.parse import agreement, constituents, gold

SENTENCES = [
    f"( (S (NP (D the) (N {n})) (VP (V {v}) (NP (D a) (N {m})))))" for n in "pq" for v in "st" for m in "pq"
] + ["(S (NP <b>) (VP x))"]
WANTED = [
    "Trees", "Against people's trees", "What each label covers", "The commonest rules",
    "The words of each preterminal",
]  # fmt: skip


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    path = tmp_path_factory.mktemp("trees") / "a.mrg"
    path.write_text("\n".join(SENTENCES))
    return path


def made(kind, treebank):
    """A model that has just begun, and the data."""
    data = load(treebank, min_count=1, ends=kind is URNNG)
    symbols = data.schema.levels
    if kind is PCFG:
        model = PCFG(symbols, nonterminals=2, preterminals=3).double()
    elif kind is CompoundPCFG:
        model = CompoundPCFG(symbols, latent=2, nonterminals=2, preterminals=3, hidden=6, encoder=4)
    else:
        model = URNNG(symbols, data.schema.end, embedding=4, hidden=4, reader=4)
    model.start(data.batch().to(model.anchor), torch.Generator().manual_seed(0))
    return model, data


@pytest.mark.parametrize("kind", [PCFG, CompoundPCFG, URNNG])
def test_a_model_that_parses_has_its_panels(kind, treebank):
    model, data = made(kind, treebank)
    panels = latents(model, data, {}, 0)
    titles = [panel.title for panel in panels if panel.title]
    assert not [panel.content for panel in panels if panel.kind == "note"]
    wanted = WANTED[:2] if kind is URNNG else WANTED
    assert titles[: len(wanted)] == wanted
    # a point in space is told of beside
    assert ("Map" in titles) == (kind is CompoundPCFG)


def test_without_peoples_trees_nothing_is_compared():
    data = load(["a b c d", "b a d c e", "d c b a"], min_count=1)
    model = PCFG(data.schema.levels, nonterminals=2, preterminals=2).double()
    model.start(data.batch(), torch.Generator().manual_seed(0))
    titles = {panel.title for panel in trees(model, data, data, 0)}
    assert "Trees" in titles
    assert "Against people's trees" not in titles


def test_agreement_is_that_of_the_command(treebank):
    model, data = made(PCFG, treebank)
    (panel,) = (panel for panel in trees(model, data, data, 0) if panel.title == "Against people's trees")
    found = agreement(parse(model, data), gold(data))
    rows = {row[0]: row[1:] for row in panel.content["rows"]}
    figures_of = (found.sentence, found.corpus, found.precision, found.recall)
    assert rows["this model"] == [f"{100 * value:.1f}" for value in figures_of]
    # of the dog, of saw a cat and of a cat the last two
    assert rows["right-branching"][3] == "66.7"
    assert rows["best binary trees"] == ["100.0"] * 4
    assert rows["left-branching"][3] == "33.3"


def test_what_is_counted_is_all_that_there_is(treebank):
    model, data = made(PCFG, treebank)
    counts = _counted(model, data, 0)
    words = data.lengths.double()
    assert counts.root.sum() == pytest.approx(len(data))
    assert counts.rule.sum() == pytest.approx(float((words - 1).sum()))
    seen = torch.bincount(data.x[data.batch().observed], minlength=data.schema.levels)
    np.testing.assert_allclose(counts.word.sum(0), seen.numpy())
    # those of the EM step
    batch = data.batch()
    sums = model.statistics(batch, model.posterior(batch))
    np.testing.assert_allclose(counts.rule.reshape(2, -1), sums["rule"].detach().numpy())


def test_constituents_that_people_have_are_blue():
    tree = parse_trees("(N1 (N0 (P1 the) (P0 dog)) (N1 (P2 saw) (P0 <me>)))", "x")[0][1]
    svg = str(drawn(tree, {(0, 3), (2, 3)}))
    # three lines above two parts each: of the whole, of a constituent that people have, and of one that they have not
    assert (svg.count(figures.MAIN), svg.count(figures.MUTED)) == (4, 2)
    assert str(drawn(tree)).count(figures.MAIN) == 6
    written = re.sub(r"<!--.*?-->", "", svg)
    for word in ("the", "dog", "saw", "&lt;me&gt;", "N1", "P2"):
        assert f">{word}<" in written
    assert {*constituents(tree)} == {(0, 1), (2, 3)}


def test_the_page_of_a_grammar_stands(treebank):
    model, data = made(PCFG, treebank)
    html = build(
        title="runs/<i>", model=model, options={}, history=[], evaluation={}, train=data, test=data, environment={},
        command="latentia fit", on_training_data=True,
    )  # fmt: skip
    for words in WANTED:
        assert words in html.replace("&#39;", "'")
    assert "could not be made" not in html
    assert "<b>" not in html.split("What the latents do")[1].split("What each label")[0]
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
