"""Masked diffusion with a transformer: against all orders of showing three symbols, and learning a toy language."""

import itertools
import math

import pytest
import torch

from latentia.batch import Batch, Frame
from latentia.data import load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import MaskedDiffusion
from latentia.models.diffusion.masked_diffusion import tiny
from latentia.objectives import elbo, exact, iwae
from latentia.runs.saved import load_model
from latentia.tasks import complete, generate
from latentia.testing import agrees
from latentia.testing.expect import require_frequencies

V, L, END = 3, 3, 2
TEXTS = torch.cartesian_prod(*[torch.arange(V)] * L)


@torch.no_grad()
def by_order(model, texts=TEXTS):
    """The probability of texts of L symbols in each order of showing them, (6, N), in nats."""
    one = model.prior(Frame(len(texts))).sample((1,))
    guess = model.likelihood(one, Frame(len(texts))).guess
    rows, inside, found = torch.arange(len(texts)), torch.ones_like(texts, dtype=torch.bool), []
    for order in itertools.permutations(range(L)):
        hidden, total = torch.ones_like(inside), torch.zeros(len(texts), dtype=torch.float64)
        for place in order:
            total = total + guess.log_prob(texts, hidden, inside, rows)[:, place]
            hidden = hidden.clone()
            hidden[:, place] = False
        found.append(total)
    return torch.stack(found)


def test_the_elbo_is_the_mean_over_orders_and_below_log_p():
    model, batch = tiny(0)
    filled = torch.where(batch.inside, batch.x, END)
    orders = by_order(model, filled)
    with torch.no_grad():
        torch.manual_seed(0)
        draws = torch.stack([elbo(model, batch).value for _ in range(500)])
    assert agrees(draws, orders.mean(0), slack=1e-9)
    everything = by_order(model).exp().mean(0)
    torch.testing.assert_close(everything.sum(), torch.ones((), dtype=torch.float64))
    ends = (TEXTS == END).float().argmax(-1) + 1
    ends = torch.where((TEXTS == END).any(-1), ends, L)
    for text, length, bound in zip(filled, batch.lengths, orders.mean(0), strict=True):
        same = (ends == length) & ((text == TEXTS) | (torch.arange(L) >= length)).all(-1)
        assert bound <= everything[same].sum().log()


def test_generated_texts_have_the_probabilities_of_a_symbol_at_a_time():
    model, _ = tiny(0)
    drawn, _ = generate(model, 20_000)
    expected = torch.zeros(27, dtype=torch.float64)
    places = torch.tensor([9, 3, 1])
    ended = (TEXTS == END).cumsum(-1) - (TEXTS == END).long() > 0
    expected.index_add_(0, TEXTS.masked_fill(ended, 0) @ places, by_order(model).exp().mean(0))
    # 0 behind the end is told from 0 before it by the length
    counts = torch.bincount(drawn.x @ places, minlength=27)
    require_frequencies("a symbol at a time", counts, expected)
    assert drawn.lengths.max() == 3


def test_completion_draws_what_is_hidden_and_keeps_the_rest():
    model, _ = tiny(1)
    x = torch.tensor([[0, 1, 2]])
    batch = Batch(x, torch.tensor([[True, False, True]]), torch.tensor([3]))
    done = complete(model, batch, draws=8000)
    assert done.draws.shape == (8000, 1, 3)
    assert bool((done.draws[:, 0, [0, 2]] == x[0, [0, 2]]).all())
    guess = model.likelihood(torch.ones(1, 1, 1, dtype=torch.float64), Frame(1)).guess
    hidden = torch.tensor([[False, True, False]])
    with torch.no_grad():
        logits = guess.logits(x, hidden, torch.ones_like(hidden), torch.tensor([0]), torch.tensor([1]))[0]
    logits[END] = -math.inf  # a text that goes on has not ended
    require_frequencies("infilling", torch.bincount(done.draws[:, 0, 1], minlength=V), logits.softmax(-1))


LANGUAGE = ["the cat sees the dog", "the dog sees the cat", "a cat sleeps", "a dog sleeps", "the cat sleeps"]


def fitted(steps=None, epochs=80):
    torch.manual_seed(0)
    data = load([LANGUAGE[i % 5] for i in range(500)], ends=True, min_count=1)
    size = {"symbols": data.schema.levels, "end": data.schema.end}
    model = MaskedDiffusion(**size, embedding=24, hidden=32, layers=1, heads=2, length=6, bound_steps=steps)
    Gradient(elbo, epochs=epochs, batch_size=50, lr=5e-3, schedule="cosine", progress=False).fit(model, data)
    return model, data


def test_it_learns_a_language_of_five_sentences(tmp_path):
    model, data = fitted()
    found = evaluate(model, data, importance_samples=16)
    assert found.method == "bound"
    assert found.kl == 0
    assert "has a bound, and no density" in found.verdict
    assert found.measures[0].name == "log p(x), at least"
    # no model of these data has more than minus their entropy, nor a bound on it
    assert -math.log(5) - 0.35 < found.log_marginal < -math.log(5) + 3 * found.log_marginal_se
    drawn, _ = generate(model, 200)
    texts = [" ".join(words) for words in data.schema.decode(drawn.x, None, drawn.lengths)]
    assert sum(text in LANGUAGE for text in texts) > 150
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    torch.testing.assert_close(generate(again, 5)[0].x, generate(model, 5)[0].x)


def test_a_context_is_learned_and_guidance_makes_it_count_for_more():
    """Of two classes that agree three times of four with the first symbol, guidance agrees more often."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(2, (600, 1), generator=generator)
    agree = torch.rand(600, 1, generator=generator) < 0.75
    x = torch.cat([torch.where(agree, classes, 1 - classes), torch.randint(2, (600, 1), generator=generator)], 1)
    batch = Batch(x, context=Batch(classes.float()))
    torch.manual_seed(0)
    model = MaskedDiffusion(2, embedding=8, hidden=16, layers=1, heads=2, length=2, context=(2,), drop_context=0.2)
    Gradient(elbo, epochs=60, batch_size=100, lr=5e-3, progress=False).fit(model, batch)
    asked = Batch(torch.ones(2000, 1))

    def share(guidance):
        model.sampling = type(model.sampling)(guidance=guidance)
        return float((generate(model, 2000, context=asked)[0].x[:, 0] == 1).double().mean())

    assert 0.66 < share(1.0) < 0.84
    assert share(3.0) > share(1.0) + 0.08
    # asked for nothing, both are as frequent as they are
    model.sampling = type(model.sampling)()
    assert 0.4 < float(generate(model, 2000)[0].x[:, 0].double().mean()) < 0.6


def test_what_needs_a_density_is_refused():
    model, batch = tiny(0)
    with pytest.raises(CapabilityError, match="only a bound on it"):
        iwae(model, batch)
    with pytest.raises(CapabilityError, match="has no exact log p"):
        exact(model, batch)
    hidden = batch._replace(mask=torch.ones_like(batch.x, dtype=torch.bool).index_fill(1, torch.tensor([0]), False))
    with pytest.raises(CapabilityError, match="complete fills them in"):
        elbo(model, hidden)


def test_texts_that_are_too_long_and_contexts_that_are_missing_are_refused():
    model, _ = tiny(0)
    with pytest.raises(DataError, match=r"--model\.length 4"):
        model.check(Batch(torch.tensor([[0, 1, 0, 2]]), lengths=torch.tensor([4])))
    given = MaskedDiffusion(3, 2, 4, 4, 1, 2, length=3, context=(2,))
    with pytest.raises(DataError, match="the data have none"):
        given.check(Batch(torch.tensor([[0, 1, 2]])))
    for wrong in ({"steps": 0}, {"guidance": -1.0}, {"context": (2,), "drop_context": 1.0}):
        with pytest.raises(OptionError):
            MaskedDiffusion(3, 2, **wrong)
