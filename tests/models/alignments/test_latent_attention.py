"""Attention as a latent variable: what is summed out, what the next word is, bounds, and equal networks."""

import itertools

import pytest
import torch

from latentia.batch import Batch, Frame
from latentia.data import as_dataset
from latentia.errors import CapabilityError, OptionError
from latentia.learners import Gradient
from latentia.models.alignments.latent_attention import (
    LatentAttention,
    VariationalAttention,
    Words,
    tiny,
    tiny_monotonic,
    tiny_soft,
    tiny_variational,
)
from latentia.objectives import alignment_elbo, exact


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [tiny, tiny_soft, tiny_monotonic])
def test_a_sentence_is_its_words_one_after_another(make):
    """log p(x) = sum_t log p(x_t | x_1..t-1), the end counted, each a distribution that sums to one."""
    model, batch = make(0)
    with torch.no_grad():
        value = model.posterior(batch).log_partition
        for b in range(batch.size):
            one, total = batch.select(slice(b, b + 1)), 0.0
            steps = Words(model, one.frame)
            follows, state = steps.begin()
            for word in [*one.x[0, : int(one.ends[0])].tolist(), model.symbols]:
                close(follows.exp().sum(-1), torch.ones(1, dtype=torch.float64))
                total += float(follows[0, word])
                follows, state = steps.step(torch.tensor([word]), state)
            close(value[b], torch.tensor(total, dtype=torch.float64))


@pytest.mark.parametrize("make", [tiny, tiny_soft, tiny_monotonic, tiny_variational])
def test_a_wide_beam_finds_the_most_probable_sentence(make):
    model, batch = make(3)
    exactly = getattr(model, "generative", model)
    with torch.no_grad():
        found = model.decode(batch.frame, 20)
        for b in range(batch.size):
            context, best = batch.context.select(slice(b, b + 1)), (-float("inf"), [])
            for length in (0, 1, 2):  # the longest that end within the model's three
                for words in itertools.product(range(2), repeat=length):
                    if length:
                        one = Batch.of(torch.tensor([words]), lengths=torch.tensor([length]), context=context)
                        value = float(exactly.posterior(one).log_partition)
                    else:
                        value = float(Words(exactly, Frame(1, None, context)).begin()[0][0, -1])
                    best = max(best, (value, list(words)))
            assert found.x[b, : int(found.ends[b])].tolist() == best[1] or int(found.ends[b]) == 3


def test_monotonic_attention_is_a_sum_over_paths_that_never_go_back():
    model, batch = tiny_monotonic(1)
    with torch.no_grad():
        memory, there = model.memory(batch.frame)
        words, _ = model.with_end(batch)
        states = model.writer(words, (memory * there.unsqueeze(-1)).sum(1) / there.sum(1, keepdim=True))
        attention = model.attend(states, memory, there).exp()
        every = torch.ones(*words.shape, there.shape[1], dtype=torch.bool)
        terms = model.emissions(states, memory, words, every).exp()
        for b, value in enumerate(model.posterior(batch).log_partition):
            steps, total = int(batch.ends[b]) + 1, 0.0
            for path in itertools.combinations_with_replacement(range(int(there[b].sum())), steps):
                chance, before = 1.0, 0
                for t, j in enumerate(path):
                    chance *= float(attention[b, t, j] / attention[b, t, before:].sum() * terms[b, t, j])
                    before = j
                total += chance
            close(value.exp(), torch.tensor(total, dtype=torch.float64))


def test_the_enumerated_bound_is_log_p_less_the_divergence():
    model, batch = tiny_variational(0)
    p, q = model.both(batch)
    value = alignment_elbo(model, batch).value
    close(value, p.log_partition - torch.distributions.kl_divergence(q, p))
    # of a source of one word, as the second is, there is one alignment
    assert (value < p.log_partition - 1e-9).tolist() == [True, False, True, True]
    close(model.log_joint(batch, q.mode.unsqueeze(0)), p.score(q.mode.unsqueeze(0)))


def test_the_sampled_gradient_has_no_bias():
    """Against the enumerated one, in every parameter, at five standard errors of the repetitions' mean."""
    model, batch = tiny_variational(0)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def slope(**options):
        value = alignment_elbo(model, batch, **options).value.sum()
        parts = torch.autograd.grad(value, parameters, materialize_grads=True, allow_unused=True)
        return torch.cat([part.flatten() for part in parts])

    torch.manual_seed(0)
    truth = slope()
    draws = torch.stack([slope(samples=2) for _ in range(200)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - truth).abs() <= 5 * error + 1e-9).all())
    assert float(truth.abs().max()) > 5 * float(error.max())


def test_what_the_bound_cannot_have_is_refused():
    with pytest.raises(CapabilityError, match=r"write LatentAttention\.both"):
        alignment_elbo(*tiny(0))
    with pytest.raises(OptionError, match="samples=1"):
        alignment_elbo(*tiny_variational(0), samples=1)
    with pytest.raises(OptionError, match="attention='hard'"):
        LatentAttention(2, 2, "hard")  # type: ignore[arg-type]


def test_all_kinds_share_every_network():
    names = [set(dict(LatentAttention(5, 5, kind, hidden=4).named_parameters())) for kind in ("soft", "exact")]
    assert names[0] == names[1]
    inner = {name.removeprefix("generative.") for name, _ in VariationalAttention(5, 5, hidden=4).named_parameters()}
    assert names[0] < inner


def reversed_pairs(count, seed, symbols=6, steps=4):
    """Sentences that are their source backwards, by another alphabet."""
    source = torch.randint(symbols, (count, steps), generator=torch.Generator().manual_seed(seed))
    lengths = torch.full((count,), steps)
    return Batch(symbols - 1 - source.flip(1), lengths=lengths, context=Batch(source, lengths=lengths))


def test_attention_that_is_summed_out_finds_the_places():
    train, test = reversed_pairs(400, 0), reversed_pairs(50, 1)
    model = LatentAttention(6, 6, "exact", hidden=24)
    Gradient(objective=exact, epochs=30, batch_size=40, lr=0.02, progress=False).fit(model, as_dataset(train))
    with torch.no_grad():
        place = model.posterior(test).mode.argmax(-1)
        came = test.frame.given().x.gather(1, place)
    assert float((came == 5 - test.x).double().mean()) > 0.9
