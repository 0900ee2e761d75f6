"""The unsupervised RNNG: its joint against one step after another, its sums over sentences and trees, its gradient
against enumeration, and what it generates."""

import itertools
from functools import partial

import pytest
import torch

from latentia import gradients
from latentia.data import as_dataset, load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.learners import Gradient
from latentia.measure.marginal import log_marginal
from latentia.model import Batch, Frame
from latentia.models import URNNG, LanguageModel
from latentia.models.grammars import urnng
from latentia.objectives import elbo, iwae
from latentia.tasks import parse
from latentia.testing import agrees, brute_force_log_marginal
from latentia.testing.answers import over_trees
from latentia.testing.brute_force import nodes
from latentia.testing.expect import require_frequencies, seeded

WORDS = 3
"""The longest sentence that is enumerated."""


def derivations(model, most, length=None):
    """Every (words, spans) of at most `most` words with its log-probability, and the probability of all that go on:
    by a stack in a list, one action after another. Of a `length` that is given, what must be has probability 1."""
    network = model.generator
    finished, going_on = {}, []

    def act(stack, words, spans, total):
        state = stack[-1][0] if stack else network.stack.bottom()
        feature = state[:, -1, 0]
        action = network.actions(feature)[0]
        over = len(words) == length
        if len(stack) == 1 and (over or length is None):
            chance = torch.zeros(()) if over else torch.nn.functional.logsigmoid(action[1])
            finished[(words, spans)] = total + chance
            if over:
                return
            total = total + torch.nn.functional.logsigmoid(-action[1])
        if len(stack) > 1:
            chance = torch.zeros(()) if over else torch.nn.functional.logsigmoid(action[0])
            (_, left, start), (_, right, _) = stack[-2:]
            below = stack[-3][0] if len(stack) > 2 else network.stack.bottom()
            part = network.composition.pair(left, right)
            top = (network.stack.push(part[:, 0], below), part, start)
            act([*stack[:-2], top], words, (*spans, (start, len(words) - 1)), total + chance)
            if over:
                return
            total = total + torch.nn.functional.logsigmoid(-action[0])
        if len(words) == most:
            going_on.append(total)
            return
        logits = network.narrow(feature) @ network.embedding.weight.T + network.bias
        logits = logits[0, [v for v in range(model.symbols) if v != model.end]].log_softmax(-1)
        for word, log_prob in enumerate(logits):
            part = network.composition.word(network.embedding.weight[word].unsqueeze(0))
            top = (network.stack.push(part[:, 0], state), part, len(words))
            act([*stack, top], (*words, word), (*spans, (len(words), len(words))), total + log_prob)

    with torch.no_grad():
        act([], (), (), torch.zeros((), dtype=torch.float64))
    return finished, torch.stack(going_on).exp().sum() if going_on else torch.zeros(())


def as_batch(model, words):
    """Sentences of all lengths, with their ends."""
    longest = max(map(len, words))
    tail = [] if model.end is None else [model.end]
    x = torch.tensor([[*row, *tail, *[0] * (longest - len(row))] for row in words])
    return Batch(x, lengths=torch.tensor([len(row) + len(tail) for row in words]))


def as_chart(spans, size):
    z = torch.zeros(size, size, dtype=torch.float64)
    z[tuple(torch.tensor(spans).T)] = 1
    return z


def values(model, found):
    """log p(x, z) by the model, for what `derivations` has found."""
    batch = as_batch(model, [words for words, _ in found])
    z = torch.stack([as_chart(spans, batch.x.shape[1]) for _, spans in found]).unsqueeze(0)
    with torch.no_grad():
        return model.log_joint(batch, z)[0]


def test_sentences_with_their_trees_and_what_goes_on_sum_to_one():
    model, _ = urnng.tiny(0)
    found, rest = derivations(model, WORDS)
    # 2 + 4 + 2 * 8 sentences with a tree: Catalan's numbers are 1, 1, 2
    assert len(found) == 2 + 4 + 2 * 8
    ours = values(model, found)
    assert ours.allclose(torch.stack(list(found.values())), atol=1e-12)
    assert float(ours.exp().sum() + rest) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_of_a_length_that_is_given_the_sentences_sum_to_one(length):
    model, _ = urnng.tiny_layers(0)
    found, _ = derivations(model, length, length)
    ours = values(model, found)
    assert ours.allclose(torch.stack(list(found.values())), atol=1e-12)
    assert float(ours.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_what_is_no_tree_has_no_probability():
    model, batch = urnng.tiny(0)
    z = model.posterior(batch).sample((1,))
    z[0, 0] = 0
    found = model.log_joint(batch, z)[0]
    assert found[0] == -torch.inf
    assert found[1:].isfinite().all()


def test_importance_samples_converge_to_the_sum_over_trees():
    model, _ = urnng.tiny(1)
    batch = as_batch(model, list(itertools.product(range(2), repeat=4)))
    found = log_marginal(model, as_dataset(batch), importance_samples=4000, seed=0)
    off = (found.value - brute_force_log_marginal(model, batch)).abs() / found.standard_error
    assert off.max() < 5
    # as its bound does, whose draws are of q
    with torch.no_grad(), seeded(0):
        assert (iwae(model, batch, samples=4000).value - found.value).abs().max() < 0.05


def gradient(model, batch, objective, only=""):
    chosen = [parameter for name, parameter in model.named_parameters() if name.startswith(only)]
    return torch.cat([part.flatten() for part in torch.autograd.grad(objective(model, batch).value.sum(), chosen)])


@pytest.mark.parametrize(
    ("estimator", "stl"),
    [(gradients.rloo, False), (gradients.automatic, True), (gradients.score_function(), False)],
    ids=["rloo", "stl", "score"],
)
def test_the_gradient_is_unbiased(estimator, stl):
    model, _ = urnng.tiny(0)
    batch = as_batch(model, [(0, 1, 0, 1), (1, 1, 0)])
    truth = gradient(model, batch, partial(elbo, estimator=over_trees))
    objective = partial(elbo, samples=4, estimator=estimator, stl=stl)
    with seeded(0):
        draws = torch.stack([gradient(model, batch, objective) for _ in range(150)])
    assert agrees(draws, truth, slack=1e-12)


def test_the_exact_entropy_leaves_less_to_chance():
    model, _ = urnng.tiny(0)
    batch = as_batch(model, [(0, 1, 0, 1), (1, 1, 0, 0)])

    def drawn(model, batch):
        q = model.posterior(batch)
        return elbo(model, batch, samples=2)._replace(
            value=gradients.rloo(q, lambda z: model.log_joint(batch, z) - q.log_prob(z), 2)
        )

    with seeded(0):
        spread = [
            torch.stack([gradient(model, batch, objective, "scores") for _ in range(60)]).std(0).norm()
            for objective in (partial(elbo, samples=2), drawn)
        ]
    assert 2 * spread[0] < spread[1]


def test_generated_sentences_and_trees_have_their_frequencies():
    model, _ = urnng.tiny(0)
    found, _ = derivations(model, WORDS)
    model.length = WORDS
    with seeded(0):
        made, z = model.generate(Frame(6000))
    assert (made.x.gather(1, made.ends.unsqueeze(1) - 1) == model.end).all()
    place = {(words, tuple(sorted(spans))): i for i, (words, spans) in enumerate(found)}
    counts = torch.zeros(len(found), dtype=torch.long)
    for row, end, chart in zip(made.x.tolist(), made.ends.tolist(), z, strict=True):
        counts[place[tuple(row[: end - 1]), tuple(sorted(map(tuple, chart.nonzero().tolist())))]] += 1
    # those that are longer are drawn again
    require_frequencies("words and trees are drawn from p(x, z)", counts, torch.stack(list(found.values())).softmax(0))


def test_lengths_that_are_given_are_kept():
    model, _ = urnng.tiny_layers(0)
    lengths = torch.tensor([1, 4, 2])
    made, z = model.generate(Frame(3, lengths))
    assert torch.equal(made.ends, lengths)
    assert z.sum((1, 2)).tolist() == [1, 7, 3]
    assert model.log_joint(made, z.unsqueeze(0)).isfinite().all()


def test_a_hidden_word_is_summed_out_for_every_tree():
    model, _ = urnng.tiny(1)
    batch = as_batch(model, [(0, word, 1) for word in range(2)])
    mask = torch.ones_like(batch.x[:1], dtype=torch.bool)
    mask[0, 1] = False
    z, _ = nodes(model.posterior(batch.select(slice(1))))
    whole = model.log_joint(batch, z.expand(-1, 2, -1, -1)).logsumexp(1)
    assert model.log_joint(batch.select(slice(1))._replace(mask=mask), z)[:, 0].allclose(whole)
    # and a hidden end is an end all the same
    mask = torch.ones_like(mask)
    mask[0, 3] = False
    hidden = model.log_joint(batch.select(slice(1))._replace(mask=mask), z)
    assert hidden.allclose(model.log_joint(batch.select(slice(1)), z))


def test_it_learns_and_parses_beside_a_language_model():
    """Brackets of balanced words: which closes is told by which was opened, as far back as one likes."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(2, (60, 1), generator=generator)
    second = torch.randint(2, (60, 1), generator=generator)
    x = torch.cat([first, second, 2 + second, 2 + first, torch.full_like(first, 4)], 1)
    sizes = {"embedding": 12, "hidden": 16}
    made = URNNG(5, 4, reader=8, **sizes)
    Gradient(partial(elbo, samples=4), epochs=25, batch_size=20, lr=0.03, progress=False).fit(made, Batch(x), seed=0)
    found = log_marginal(made, as_dataset(Batch(x)), importance_samples=50, seed=0).value.mean()
    # four sentences, log 4 nats; four words of one frequency each would have 5.5 and the end
    assert found > -1.6
    trees = made.trees(Batch(x))
    assert trees.mode.sum((1, 2)).eq(7).all()
    assert LanguageModel(5, 4, **sizes).free_parameters() < made.free_parameters()


def test_words_of_a_tree_are_the_sentences_own():
    data = load(["the dog saw a cat", "a cat left", "dogs"], min_count=1, ends=True)
    model = URNNG(data.schema.levels, data.schema.end, embedding=4, hidden=4, reader=4)
    assert [one.words for one in parse(model, data)] == [
        ["the", "dog", "saw", "a", "cat"],
        ["a", "cat", "left"],
        ["dogs"],
    ]


def test_what_it_cannot_have_is_refused():
    model = URNNG(4, 3, embedding=2, hidden=2, reader=2)
    with pytest.raises(DataError, match="sentence 2 does not end"):
        model.check(Batch(torch.tensor([[0, 1, 3], [0, 1, 2]])))
    with pytest.raises(DataError, match="sentence 1 has 0 words"):
        model.check(Batch(torch.tensor([[3, 0]]), lengths=torch.tensor([1])))
    with pytest.raises(DataError, match=r"sentence 1 has 500 words: the chart .* 200 are the most"):
        model.check(Batch(torch.cat([torch.zeros(1, 500).long(), torch.tensor([[3]])], 1)))
    with pytest.raises(DataError, match="goes on after symbol 3"):
        model.check(Batch(torch.tensor([[0, 3, 3]])))
    with pytest.raises(DataError, match=r"symbol 7 is outside 0\.\.3"):
        model.check(Batch(torch.tensor([[0, 7, 3]])))
    with pytest.raises(OptionError, match="must each be at least 1"):
        URNNG(4, 3, hidden=0)
    with pytest.raises(OptionError, match=r"dropout=1\.0"):
        URNNG(4, 3, dropout=1.0)


def test_a_model_that_never_ends_says_so(monkeypatch):
    model = URNNG(4, 3, embedding=2, hidden=2, reader=2)
    model.generator.actions.bias.data.fill_(-50.0)
    monkeypatch.setattr("latentia.models.grammars.shift_reduce.TRIES", 3)
    with pytest.raises(CapabilityError, match="hardly ever comes to an end"):
        model.generate(Frame(2))
