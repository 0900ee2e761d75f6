"""A grammar found again: sentences of a small grammar, learned from as strings alone, and the trees compared.

    python examples/toy_grammar.py [RESTARTS]

The grammar has noun phrases with adjectives and verbs with an object. Of the sentences the learner sees the words only;
which of the binary trees over them the grammar had meant is then asked of the one that EM has found.
"""

import random
import sys
import warnings

from latentia.data import load
from latentia.data.treebanks import parse_trees
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import PCFG
from latentia.tasks import parse
from latentia.tasks.parse import agreement, right_branching

WORDS = {"D": ["the", "a"], "A": ["old", "big", "new"], "N": ["dog", "cat", "board"], "V": ["saw", "left", "likes"]}


def word(tag: str, chance: random.Random) -> str:
    return f"({tag} {chance.choice(WORDS[tag])})"


def noun_phrase(chance: random.Random) -> str:
    noun = word("N", chance)
    if chance.random() < 0.4:
        noun = f"(NB {word('A', chance)} {noun})"
    return f"(NP {word('D', chance)} {noun})"


def sentence(chance: random.Random) -> str:
    return f"(S {noun_phrase(chance)} (VP {word('V', chance)} {noun_phrase(chance)}))"


def main() -> None:
    restarts = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    chance = random.Random(0)
    gold = [parse_trees(sentence(chance), "the grammar")[0][1] for _ in range(80)]
    data = load([tree.words for tree in gold], min_count=1)
    train, held_out = data.subset(slice(0, 60)), data.subset(slice(60, None))
    model = PCFG(symbols=len(data.schema.vocabulary), nonterminals=4, preterminals=4).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 20 steps are enough to see it
        EM(steps=20, restarts=restarts, progress=False).fit(model, train)
    found = evaluate(model, held_out)
    print(f"log p(x) = {found.log_marginal:.2f} ± {found.log_marginal_se:.2f} {found.units}")
    trees = parse(model, held_out)
    print(trees[0])
    for name, some in (("PCFG", trees), ("right-branching", [right_branching(tree.words) for tree in trees])):
        print(f"{name}: sentence F1 {100 * agreement(some, gold[60:]).sentence:.1f}")


if __name__ == "__main__":
    main()
