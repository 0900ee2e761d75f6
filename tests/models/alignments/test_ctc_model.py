"""CTC as a model: strings sum to one, hidden symbols, what does not fit, and the search for the best string."""

import itertools
import math

import pytest
import torch

from latentia.batch import Batch
from latentia.data import as_dataset
from latentia.distributions.prefixes import greedy, prefix_beam
from latentia.errors import DataError, OptionError
from latentia.learners import Gradient
from latentia.models.alignments.ctc import CTC, tiny
from latentia.objectives import exact


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def probabilities(log_probs):
    """p(string) of every string, by every path."""
    steps, columns = log_probs.shape
    total = {}
    for path in itertools.product(range(columns), repeat=steps):
        string = tuple(s for s, _ in itertools.groupby(path) if s != columns - 1)
        total[string] = total.get(string, 0.0) + math.exp(sum(float(log_probs[t, s]) for t, s in enumerate(path)))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_likeliest_string(seed):
    log_probs = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)
    truth = probabilities(log_probs)
    assert abs(sum(truth.values()) - 1) < 1e-12
    found = prefix_beam(log_probs, beam=2000, least=-1e9)
    best = max(truth, key=truth.__getitem__)
    assert found[0].symbols == best
    for one in found[:10]:
        assert abs(one.score - math.log(truth[one.symbols])) < 1e-9
    assert len(found) == len(truth)


def test_the_best_path_need_not_be_the_best_string():
    """Graves's example: each of two steps has blank .6 and a .4, so that no symbol has .36, and a has .64."""
    log_probs = torch.tensor([[0.4, 0.6], [0.4, 0.6]]).log()
    assert greedy(log_probs) == ()
    assert prefix_beam(log_probs, beam=4)[0].symbols == (0,)
    assert greedy(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]).log()) == (0, 0)


def test_a_language_model_counts_as_it_is_weighted():
    log_probs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    truth = probabilities(log_probs)

    def model(prefix):
        """Two symbols and the end: each symbol is unlike the one before."""
        last = prefix[-1] if prefix else None
        return [math.log(0.1 if last == 0 else 0.5), math.log(0.1 if last == 1 else 0.5), math.log(0.4)]

    for ends in (True, False):
        told = model if ends else lambda prefix: model(prefix)[:2]
        found = prefix_beam(log_probs, beam=500, language_model=told, weight=0.7, bonus=0.2, least=-1e9)
        for one in found:
            extra = sum(0.7 * model(one.symbols[:i])[s] + 0.2 for i, s in enumerate(one.symbols))
            extra += 0.7 * model(one.symbols)[2] if ends else 0.0
            assert abs(one.score - math.log(truth[one.symbols]) - extra) < 1e-9
    with pytest.raises(OptionError, match="beam=0"):
        prefix_beam(log_probs, beam=0)


def test_padding_and_the_other_data_change_nothing():
    model, batch = tiny(0)
    frames = batch.frame.given()
    longer = torch.cat([frames.x, torch.full((5, 4, 1), 9.0)], 1).double()
    padded = batch._replace(context=frames._replace(x=longer))
    close(model.posterior(padded).log_partition, model.posterior(batch).log_partition)
    strided = CTC(2, 1, hidden=2, layers=1, stride=2).double()
    whole = strided.posterior(padded).log_partition
    for b in range(5):
        one = batch.select(slice(b, b + 1))
        one = one._replace(context=one.frame.given().cut())
        value = strided.posterior(one).log_partition[0]
        assert bool(value == whole[b]) or abs(float(value - whole[b])) < 1e-9


def test_strings_that_do_not_fit_are_counted():
    model, batch = tiny(0)
    model.check(batch)
    with pytest.raises(DataError, match=r"2 of 5 strings .*rows 2, 4"):
        model.check(batch._replace(x=torch.ones_like(batch.x), mask=None, lengths=torch.tensor([1, 3, 0, 2, 1])))
    value = model.posterior(batch._replace(x=torch.ones_like(batch.x), lengths=torch.tensor([3, 3, 3, 2, 2])))
    assert value.log_partition[1:4].isinf().all()
    with pytest.raises(DataError, match="there is none"):
        model.check(batch._replace(context=None))


def tones(count, seed, symbols=3):
    """Strings of pitches, each held for three to six frames in noise, with silence between."""
    generator = torch.Generator().manual_seed(seed)
    strings, sounds = [], []
    for _ in range(count):
        string = torch.randint(symbols, (int(torch.randint(2, 5, (), generator=generator)),), generator=generator)
        steps = []
        for symbol in string.tolist():
            held, still = torch.randint(3, 7, (2,), generator=generator).tolist()
            steps += [symbol] * held + [symbols] * (still - 2)
        strings.append(string)
        sounds.append(torch.eye(symbols + 1)[steps] + 0.3 * torch.randn(len(steps), symbols + 1, generator=generator))
    lengths, frames = torch.tensor([len(s) for s in strings]), torch.tensor([len(s) for s in sounds])
    x = torch.nn.utils.rnn.pad_sequence(strings, batch_first=True)
    return Batch(x, lengths=lengths, context=Batch(torch.nn.utils.rnn.pad_sequence(sounds, True), lengths=frames))


def test_it_learns_tones_and_where_they_are():
    train, test = tones(300, 0), tones(60, 1)
    model = CTC(3, 4, hidden=16, layers=1)
    Gradient(objective=exact, epochs=12, batch_size=20, lr=0.02, progress=False).fit(model, as_dataset(train))
    logits, steps = model.logits(test.frame)
    wrong = 0
    for row, length, string, symbols in zip(logits, steps, test.x, test.ends, strict=True):
        found = prefix_beam(row[:length].log_softmax(-1), 4)[0].symbols
        wrong += found != tuple(string[:symbols].tolist())
    assert wrong <= 3
    # where the alignment has a symbol, that tone sounds, but for a few frames at the edges
    mode = model.posterior(test).mode.argmax(-1)
    said, frames = mode < 3, test.frame.given().x.argmax(-1)
    inside = torch.arange(mode.shape[1]) < steps.unsqueeze(1)
    near = torch.stack([frames.roll(shift, 1) == mode for shift in (-2, -1, 0, 1, 2)]).any(0)
    assert float(near[said & inside].double().mean()) > 0.9
