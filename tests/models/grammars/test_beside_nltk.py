"""A PCFG beside NLTK's parsers on the same grammar: the same best tree, of the same log-probability."""

import itertools
import math

import pytest
import torch

from latentia.model import Batch
from latentia.models import PCFG

nltk = pytest.importorskip("nltk", reason="a development dependency: pip install -e .[dev]")

TOLERANCE = 1e-9
VOCABULARY = ("dog", "the", "saw")
SHORT = [list(words) for size in (2, 3) for words in itertools.product(range(3), repeat=size)]
LONG = [[0, 1, 2, 0, 1, 1], [2, 2, 0, 1, 0], [1, 0, 2, 1, 0, 2, 0], [1, 1, 2, 0]]


@pytest.fixture(scope="module")
def model():
    """Two nonterminals and three preterminals; a third of the rules and a third of the words are impossible."""
    generator = torch.Generator().manual_seed(0)
    model = PCFG(symbols=3, nonterminals=2, preterminals=3, smoothing=0.0).double()
    for logits in (model.rule_logits, model.emissions.logits):
        impossible = torch.rand(logits.shape, generator=generator) < 1 / 3
        logits.data = torch.randn(logits.shape, generator=generator, dtype=torch.float64).masked_fill(
            impossible, -torch.inf
        )
    model.requires_grad_(False)
    model.root_logits.data = torch.randn(2, generator=generator, dtype=torch.float64)
    return model


@pytest.fixture(scope="module")
def grammar(model):
    """The same, as NLTK has it: a start symbol, and a production for each root, rule and word."""
    symbols = [nltk.Nonterminal(f"N{k}") for k in range(2)] + [nltk.Nonterminal(f"P{k}") for k in range(3)]
    start = nltk.Nonterminal("S")
    make = nltk.ProbabilisticProduction
    made = [make(start, [symbols[k]], prob=float(p)) for k, p in enumerate(model.root)]
    made += [
        make(symbols[a], [symbols[b], symbols[c]], prob=float(p))
        for (a, b, c), p in zip(itertools.product(range(2), range(5), range(5)), model.rules.flatten(), strict=True)
        if p > 0
    ]
    made += [
        make(symbols[2 + t], [VOCABULARY[v]], prob=float(p))
        for (t, v), p in zip(itertools.product(range(3), range(3)), model.words.flatten(), strict=True)
        if p > 0
    ]
    return nltk.PCFG(start, made)


def spans(tree, start=0):
    """(first word, last word, symbol) of every node below the start symbol."""
    found, end = [], start
    for child in tree:
        if isinstance(child, str):
            end += 1
        else:
            inner = spans(child, end)
            found += inner
            end = max(last for _, last, _ in inner) + 1
    label = str(tree.label())
    own = [] if label == "S" else [(start, end - 1, int(label[1:]) + 2 * label.startswith("P"))]
    return own + found


@pytest.mark.parametrize("parser", ["ViterbiParser", "InsideChartParser"])
def test_the_best_tree_is_nltks(model, grammar, parser):
    made = getattr(nltk.parse, parser)(grammar)
    parsed = 0
    for words in SHORT + (LONG if parser == "ViterbiParser" else LONG[-1:]):
        found = list(made.parse([VOCABULARY[v] for v in words]))
        posterior = model.posterior(Batch(torch.tensor([words])))
        if not found:
            assert posterior.log_partition[0] == -torch.inf
            continue
        parsed += 1
        best = max(found, key=lambda tree: tree.prob())
        ours = posterior.mode
        assert float(posterior.score(ours.unsqueeze(0))[0, 0]) == pytest.approx(math.log(best.prob()), abs=TOLERANCE)
        # of trees that use the same rules at other places neither is better: NLTK's has our score too
        theirs = torch.zeros_like(ours)
        theirs[0][tuple(torch.tensor(spans(best)).unbind(-1))] = 1
        assert posterior.score(theirs.unsqueeze(0)).allclose(posterior.score(ours.unsqueeze(0)), atol=TOLERANCE)
        if parser == "InsideChartParser":
            # it finds every tree, not the best alone
            assert len(found) == round(float(_trees(model, words)))
            total = math.log(math.fsum(tree.prob() for tree in found))
            assert float(posterior.log_partition[0]) == pytest.approx(total, abs=TOLERANCE)
    assert parsed > 5


def _trees(model, words):
    """How many trees are possible."""
    posterior = model.posterior(Batch(torch.tensor([words])))
    counted = {name: torch.where(phi > -1e3, 0.0, -1e9) for name, phi in posterior.log_potentials.items()}
    return type(posterior)(counted).log_partition.exp()[0]
