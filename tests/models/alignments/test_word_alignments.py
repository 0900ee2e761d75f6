"""IBM models 1 and 2 and the alignment HMM: their kernels against the distributions, their optima, what they find."""

import itertools
import math

import pytest
import torch

from latentia.batch import Batch
from latentia.data import as_dataset
from latentia.errors import DataError
from latentia.learners import EM
from latentia.model import ExactModel
from latentia.models.alignments import hmm_alignment, ibm1, ibm2

MODELS = {"ibm1": ibm1.tiny, "ibm2": ibm2.tiny, "hmm": hmm_alignment.tiny}


def pairs(count, seed, symbols=4, longest=5):
    """Random ragged pairs with weights, nothing hidden."""
    generator = torch.Generator().manual_seed(seed)

    def sentences(least):
        lengths = torch.randint(least, longest + 1, (count,), generator=generator)
        return torch.randint(symbols, (count, longest), generator=generator), lengths

    (x, lengths), (source, sources) = sentences(0), sentences(1)
    weight = torch.randint(3, (count,), generator=generator).double()
    return Batch.of(x, lengths=lengths, context=Batch(source, lengths=sources), weight=weight)


def made(name, seed, symbols=4, **options):
    kind = {"ibm1": ibm1.IBMModel1, "ibm2": ibm2.IBMModel2, "hmm": hmm_alignment.HMMAlignment}[name]
    options = options | ({} if name == "ibm1" else {"longest": 6})
    model = kind(symbols, symbols, **options).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_the_kernels_e_step_is_the_distributions(name, seed):
    model, batch = made(name, seed, **({"reach": 2} if name == "hmm" else {})), pairs(12, seed)
    sums, value = model.expect(batch)
    expected, wanted = ExactModel.expect(model, batch)
    torch.testing.assert_close(value, wanted)
    assert sums.keys() == expected.keys()
    for key, one in expected.items():
        torch.testing.assert_close(sums[key], one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ibm2", "hmm"])
def test_a_sentence_longer_than_the_statistics_is_refused(name):
    model, batch = made(name, 0), pairs(3, 0, longest=8)
    batch = batch._replace(context=batch.frame.given()._replace(lengths=torch.full((3,), 8)))
    with pytest.raises(DataError, match="longest=6"):
        model.check(batch)
    with pytest.raises(DataError, match="6"):
        model.expect(batch)


@torch.no_grad()
def climb(model, batch, steps):
    for _ in range(steps):
        model.update(model.expect(batch)[0])


def test_model_1_climbs_to_one_optimum_from_any_start():
    """Its log p(x) is concave in the table: starts as far apart as can be end at the same value."""
    batch, found = pairs(30, 0)._replace(weight=None), []
    for seed in range(3):
        model = made("ibm1", seed, smoothing=0.0)
        model.lexicon.logits.data *= 3
        climb(model, batch, 1000)
        found.append(model.posterior(batch).log_partition.sum().item())
    assert max(found) - min(found) < 1e-6 * abs(found[0])
    # models whose positions matter have several optima: the same test is no triviality
    others = []
    for seed in range(2):
        model = made("ibm2", seed, smoothing=0.0)
        model.lexicon.logits.data *= 3
        climb(model, batch, 100)
        others.append(model.posterior(batch).log_partition.sum().item())
    assert max(others) - min(others) > 1e-3


def test_model_1_is_brown_and_others_product():
    model, batch = made("ibm1", 0), pairs(6, 1)
    table = model.lexicon.probs
    for b, value in enumerate(model.posterior(batch).log_partition):
        source = batch.frame.given().x[b, : batch.frame.given().ends[b]].tolist()
        rows = [*source, 4]
        each = [
            sum(float(table[row, word]) for row in rows) / len(rows) for word in batch.x[b, : batch.ends[b]].tolist()
        ]
        torch.testing.assert_close(float(value), sum(map(math.log, each), 0.0))


def test_the_hmm_is_a_sum_over_jumps():
    """By loops over positions and over words from nowhere, jumps normalised by hand."""
    model, batch = made("hmm", 3, reach=2), pairs(6, 2, longest=3)
    jump, null, table = model.jumps.tolist(), float(model.null), model.lexicon.probs.tolist()

    def weight(width):
        return jump[max(min(width, 2), -2) + 2]

    for b, value in enumerate(model.posterior(batch).log_partition):
        source = batch.frame.given().x[b, : batch.frame.given().ends[b]].tolist()
        words, total = batch.x[b, : batch.ends[b]].tolist(), 0.0
        for path in itertools.product(range(len(source)), [False, True], repeat=len(words)):
            place, chance = -1, 1.0
            for t, word in enumerate(words):
                to, empty = path[2 * t], path[2 * t + 1]
                jumped = weight(to - place) / sum(weight(other - place) for other in range(len(source)))
                moved = jumped if not empty or t == 0 else float(to == place)
                chance *= moved * (null * table[4][word] if empty else (1 - null) * table[source[to]][word])
                place = to
            total += chance
        torch.testing.assert_close(float(value), math.log(total))


@pytest.mark.parametrize("name", MODELS)
def test_they_find_a_dictionary_and_the_words_places(name):
    """Twelve words on each side, word v meaning 11 - v, in the same order, one in ten left out."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(12, (400, 6), generator=generator)
    batch = Batch.of(11 - source, lengths=torch.full((400,), 6), context=Batch(source, lengths=torch.full((400,), 6)))
    model = made(name, 0, symbols=12)
    EM(steps=30, progress=False).fit(model, as_dataset(batch), seed=1)
    table = model.lexicon.probs[:12]
    assert table.argmax(-1).tolist() == list(range(11, -1, -1))
    few = batch.select(slice(20))
    best = model.posterior(few).mode.argmax(-1)
    place = best // 2 if name == "hmm" else best - 1
    came = few.frame.given().x.gather(1, place)
    assert bool((came == 11 - few.x).all())
    if name != "ibm1":
        # with positions the place itself is found, though words repeat
        assert float((place == torch.arange(6)).double().mean()) == 1.0


def test_a_jump_m_step_beats_every_neighbour():
    """best_jumps against what it maximises, by steps in every direction from where it stops."""
    generator = torch.Generator().manual_seed(0)
    left = torch.zeros(6, 6, dtype=torch.float64)
    left[1:4, 1:4] = 4 * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    left[0, 4] = 2.0
    truth, count = torch.tensor([0.1, 0.2, 0.15, 0.4, 0.15], dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for before, after in left.nonzero().tolist():
        widths = torch.tensor([max(min(d, 2), -2) + 2 for d in range(1 - before, after)])
        count.index_add_(0, widths, left[before, after] * truth[widths] / truth[widths].sum())

    def value(jumps):
        total = (count * jumps.log()).sum()
        for before, after in left.nonzero().tolist():
            widths = [max(min(d, 2), -2) + 2 for d in range(1 - before, after)]
            total = total - left[before, after] * jumps[widths].sum().log()
        return float(total)

    best = hmm_alignment.best_jumps(torch.full((5,), 0.2, dtype=torch.float64), count, left, 0.0, steps=5000)
    torch.testing.assert_close(best, truth, rtol=1e-6, atol=0)
    for i in range(5):
        for step in (0.98, 1.02):
            other = best.clone()
            other[i] *= step
            assert value(other) < value(best)


def test_the_tension_is_that_of_the_words_that_gave_it():
    """From exact expected counts of a known tension it comes back."""
    words = torch.zeros(6, 6, 6, dtype=torch.float64)
    words[5, 4, 1:6], words[3, 5, 1:4] = 10.0, 20.0
    distance = 0.0
    for target, source, place in words.nonzero().tolist():
        away = [abs(j / source - place / target) for j in range(1, source + 1)]
        share = torch.tensor([-3.7 * one for one in away], dtype=torch.float64).softmax(-1)
        distance += float(words[target, source, place] * (share * torch.tensor(away, dtype=torch.float64)).sum())
    found = ibm2.best_tension(words, torch.tensor(distance, dtype=torch.float64))
    assert abs(float(found) - 3.7) < 1e-9
