"""Neural and compound PCFG: what their tables are, learning, and sentences that they generate."""

import itertools

import pytest
import torch

from latentia.errors import OptionError
from latentia.learners import Gradient
from latentia.model import Batch, Frame
from latentia.models.grammars import compound_pcfg, neural_pcfg
from latentia.models.grammars.compound_pcfg import CompoundPCFG
from latentia.models.grammars.neural_pcfg import NeuralPCFG
from latentia.objectives import elbo, exact
from latentia.testing import brute_force_log_marginal
from latentia.testing.expect import require_frequencies, seeded


@pytest.mark.parametrize("tiny", [neural_pcfg.tiny, compound_pcfg.tiny])
def test_tables_sum_to_one(tiny):
    model, _ = tiny(0)
    z = torch.randn(5, 1, dtype=torch.float64) if isinstance(model, CompoundPCFG) else None
    grammar = model.grammar(z)
    for table, shape in zip(grammar, ((2,), (2, 4, 4), (2, 3)), strict=True):
        assert table.shape == ((5,) if z is not None else ()) + shape
    for total in (grammar.root.exp().sum(-1), grammar.rule.exp().sum((-2, -1)), grammar.word.exp().sum(-1)):
        assert total.allclose(torch.ones_like(total))


@pytest.mark.parametrize("tiny", [neural_pcfg.tiny, compound_pcfg.tiny])
def test_generated_sentences_have_the_frequencies_of_p(tiny):
    model, _ = tiny(0)
    found = [x for n in range(2, model.length + 1) for x in itertools.product(range(3), repeat=n)]
    lengths = torch.tensor([len(x) for x in found])
    x = torch.tensor([[*symbols, *[0] * (model.length - len(symbols))] for symbols in found])
    batch = Batch(x, lengths=lengths)
    with seeded(0), torch.no_grad():
        made, _ = model.generate(Frame(5_000))
        if isinstance(model, CompoundPCFG):
            # a long derivation is drawn again with the same z: p(x | z) given that it ends in time
            z = torch.linspace(-6, 6, 61, dtype=torch.float64).view(-1, 1, 1).expand(-1, len(found), 1)
            share = model.log_likelihood(batch, z).softmax(1)
            probability = torch.softmax(-0.5 * z[:, 0, 0].square(), 0) @ share
        else:
            probability = model.posterior(batch).log_partition.softmax(0)
    place = {row: i for i, row in enumerate(found)}
    rows = zip(made.x.tolist(), made.ends.tolist(), strict=True)
    which = torch.tensor([place[tuple(row[:end])] for row, end in rows])
    require_frequencies("sentences are drawn from p(x)", torch.bincount(which, minlength=len(found)), probability)


def test_a_hidden_word_is_summed_out_under_every_z():
    model, _ = compound_pcfg.tiny(1)
    x = torch.tensor([[0, 1, 2, 1]])
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 2] = False
    every = x.repeat(3, 1)
    every[:, 2] = torch.arange(3)
    summed = brute_force_log_marginal(model, Batch(every)).logsumexp(0)
    assert brute_force_log_marginal(model, Batch(x, mask))[0].allclose(summed)


def test_likelihoods_in_blocks_are_those_of_all_at_once(monkeypatch):
    model, batch = compound_pcfg.tiny(0)
    z = torch.randn(3, batch.size, 1, dtype=torch.float64)
    whole = model.log_likelihood(batch, z)
    monkeypatch.setattr("latentia.distributions.yields.BLOCK", 80)
    with torch.no_grad():
        assert model.log_likelihood(batch, z).allclose(whole)


@pytest.mark.parametrize(("model", "objective"), [(NeuralPCFG, exact), (CompoundPCFG, elbo)])
def test_a_gradient_learns_them(model, objective):
    first = torch.randint(2, (40, 1), generator=torch.Generator().manual_seed(0))
    x = torch.cat([first, 1 - first, first, torch.full_like(first, 2)], 1)
    options = {"latent": 2, "encoder": 8} if model is CompoundPCFG else {}
    made = model(symbols=3, nonterminals=3, preterminals=4, hidden=16, **options)
    Gradient(objective=objective, epochs=30, batch_size=20, lr=0.02).fit(made, Batch(x), seed=0)
    # there are two sentences, log 2 nats; four independent words would have 4 log 3
    with torch.no_grad(), seeded(0):
        assert objective(made, Batch(x)).value.mean() > -2.5
    best = made.trees(Batch(x)).mode
    assert best.sum((1, 2, 3)).eq(7).all()


def test_options_that_make_no_grammar_are_refused():
    with pytest.raises(OptionError, match="must each be at least 1"):
        NeuralPCFG(symbols=3, nonterminals=0)
    with pytest.raises(OptionError, match="length at least 2"):
        CompoundPCFG(symbols=3, length=1)
