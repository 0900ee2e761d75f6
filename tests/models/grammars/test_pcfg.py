"""PCFG: strings of all lengths, what it generates, and what it refuses."""

import itertools
import math

import pytest
import torch

from latentia.distributions import yields
from latentia.errors import CapabilityError, DataError
from latentia.model import Batch, Frame
from latentia.models.grammars import pcfg, sentences
from latentia.models.grammars.pcfg import PCFG
from latentia.testing.expect import require_frequencies, seeded


def one_of_each(again):
    """A nonterminal whose parts are each the nonterminal again, with that probability, or a preterminal."""
    model = PCFG(symbols=1, nonterminals=1, preterminals=1, length=50).double()
    part = torch.tensor([again, 1 - again], dtype=torch.float64).log()
    model.rule_logits.data = (part.unsqueeze(1) + part).view(1, 4)
    return model


@pytest.mark.parametrize("again", [0.3, 0.7])
def test_strings_of_all_lengths_have_the_known_probabilities(again):
    # a tree of n words has n - 2 parts that are nonterminals and n that are words, and there are Catalan(n - 1)
    model, most = one_of_each(again), 60
    batch = Batch(torch.zeros(most - 1, most, dtype=torch.long), lengths=torch.arange(2, most + 1))
    found = model.posterior(batch).log_partition.exp().detach()
    sizes = range(2, most + 1)
    catalan = [math.comb(2 * (n - 1), n - 1) // n for n in sizes]
    known = [c * again ** (n - 2) * (1 - again) ** n for c, n in zip(catalan, sizes, strict=True)]
    assert found.allclose(torch.tensor(known, dtype=torch.float64), rtol=1e-9)
    # where branching wins, a derivation goes on for ever with the rest of the probability
    ends = min(1.0, ((1 - again) / again) ** 2)
    assert ends - 0.002 < float(found.sum()) < ends


def strings(symbols, most):
    return [x for n in range(2, most + 1) for x in itertools.product(range(symbols), repeat=n)]


def as_batch(found):
    lengths = torch.tensor([len(x) for x in found])
    x = torch.zeros(len(found), int(lengths.max()), dtype=torch.long)
    for i, symbols in enumerate(found):
        x[i, : len(symbols)] = torch.tensor(symbols)
    return Batch(x, lengths=lengths)


def test_generated_sentences_have_the_frequencies_of_strings_up_to_their_length():
    model, _ = pcfg.tiny(0)
    found = strings(3, model.length)
    probability = model.posterior(as_batch(found)).log_partition.exp().detach()
    assert float(probability.sum()) < 1
    with seeded(0):
        batch, z = model.generate(Frame(20_000))
    place = {x: i for i, x in enumerate(found)}
    rows = zip(batch.x.tolist(), batch.ends.tolist(), strict=True)
    which = torch.tensor([place[tuple(row[:end])] for row, end in rows])
    counts = torch.bincount(which, minlength=len(found))
    require_frequencies("sentences are drawn from p(x)", counts, probability / probability.sum())
    some = slice(0, 500)
    assert model.posterior(batch.select(some)).score(z[some].double()).isfinite().all()


def test_a_hidden_word_is_summed_out():
    model, _ = pcfg.tiny(1)
    x = torch.tensor([[0, 1, 2, 1]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 2] = False
    every = x.repeat(3, 1)
    every[:, 2] = torch.arange(3)
    summed = model.posterior(Batch(every)).log_partition.logsumexp(0)
    assert model.posterior(Batch(x, mask)).log_partition[0].allclose(summed)


def test_a_rule_that_the_grammar_has_not_got_stays_out_of_it():
    model, batch = pcfg.tiny(0)
    model.rule_logits.data[0, 5] = -torch.inf
    model.smoothing = 0.5
    sums, _ = model.expect(batch)
    model.update(sums)
    assert float(model.rules.flatten(1)[0, 5].detach()) == 0
    assert float(model.rules.flatten(1).detach()[0].sum()) == pytest.approx(1)


def test_the_expectation_in_blocks_is_that_of_all_at_once(monkeypatch):
    model, batch = pcfg.tiny(2)
    whole, value = model.expect(batch)
    monkeypatch.setattr(sentences, "BLOCK", 4 * 4 * 4 * 2)
    parts, found = model.expect(batch)
    assert found.allclose(value)
    assert all(parts[name].allclose(sums) for name, sums in whole.items())


def test_sentences_that_have_no_tree_or_too_large_a_chart_are_refused():
    model = PCFG(symbols=3)
    with pytest.raises(DataError, match="sentence 2 has 1 word: "):
        model.check(Batch(torch.zeros(3, 4, dtype=torch.long), lengths=torch.tensor([2, 1, 4])))
    with pytest.raises(DataError, match=r"sentence 1 has 500 words: .* 200 are the most"):
        model.check(Batch(torch.zeros(1, 500, dtype=torch.long)))
    with pytest.raises(DataError, match=r"symbol 3 is outside 0\.\.2"):
        model.check(Batch(torch.full((1, 2), 3)))
    with pytest.raises(DataError, match="not data of shape"):
        model.check(Batch(torch.zeros(2, 3, 4)))


def test_a_grammar_that_does_not_end_says_so(monkeypatch):
    monkeypatch.setattr(yields, "TRIES", 5)
    with pytest.raises(CapabilityError, match="had more than 50 words each time, 5 times"), seeded(0):
        one_of_each(1 - 1e-9).generate(Frame(2))
