"""Decoding: what is drawn has the probabilities that it should, and what is searched for is found."""

import itertools
import math
from typing import Any

import pytest
import torch
from scipy.stats import chi2

from latentia.distributions.decoding import Decoding, beam, choice, narrowed
from latentia.distributions.sentence import AutoregressiveCategorical, Recomputed, Written, WrittenByOneOf
from latentia.errors import OptionError
from latentia.networks.decoder import decoder

STEPS, SYMBOLS, END = 4, 4, 3
ROUTE = ("initial", "inputs", "prefix", "attention", "skip")
NETWORKS = ("lstm", "transformer", "several", "function")


def randomised(one, generator):
    for parameter in one.double().parameters():
        parameter.data = 0.8 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return one


def words(network, rows=1, seed=0):
    """A random network with weights so large that its texts are far from equally probable."""
    generator = torch.Generator().manual_seed(seed)
    size: dict[str, Any] = {"embedding": 4, "hidden": 4, "layers": 2, "heads": 2}
    given = torch.randn(1, 1, 2, generator=generator, dtype=torch.float64).expand(1, rows, 2)
    if network == "several":
        several = [randomised(decoder("lstm", SYMBOLS, **size), generator) for _ in range(2)]
        which = torch.tensor([0.0, 1.0]).double().expand(1, rows, 2)
        return WrittenByOneOf(several, which)
    name = "lstm" if network == "function" else network
    one = randomised(decoder(name, SYMBOLS, given=2, route=ROUTE, tie=network == "lstm", **size), generator)
    written = Written(one, given, (1, rows))
    if network != "function":
        return written

    def logits(x):
        inputs = one.inputs(x.expand(1, rows, -1)).flatten(0, 1)
        features, _ = one.writer(inputs, one.writer.begin(given.flatten(0, 1), rows))
        return (one._narrowed(features) @ one.table.T + one.bias).unsqueeze(0)

    return Recomputed(logits, given[..., 0])


def every_text():
    """All texts of up to STEPS symbols, 0 beyond their ends."""
    texts = []
    for x in itertools.product(range(SYMBOLS), repeat=STEPS):
        length = x.index(END) + 1 if END in x else STEPS
        if not any(x[length:]):
            texts.append(x)
    return torch.tensor(texts)


def likelihood(network, rows=1):
    found = words(network, rows)
    return AutoregressiveCategorical(found, torch.zeros(1, rows).double(), STEPS, END)


def probabilities(network):
    texts = every_text()
    with torch.no_grad():
        return texts, likelihood(network, len(texts)).log_prob(texts)[0].exp()


def frequencies_agree(drawn, texts, probability):
    same = {tuple(text): i for i, text in enumerate(texts.tolist())}
    counts = torch.bincount(torch.tensor([same[tuple(x)] for x in drawn.tolist()]), minlength=len(texts)).double()
    expected = probability * len(drawn)
    assert not bool(counts[probability == 0].any()), "something impossible was drawn"
    often = expected >= 5
    observed = torch.cat([counts[often], counts[~often].sum().unsqueeze(0)])
    wanted = torch.cat([expected[often], expected[~often].sum().clamp(min=1e-9).unsqueeze(0)])
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    assert float(chi2.sf(statistic, len(wanted) - 1)) > 1e-5, statistic


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_of_all_texts_sum_to_one(network):
    _, probability = probabilities(network)
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_from_a_state_are_the_passes_over_the_whole_text(network):
    texts = every_text()
    found = words(network, len(texts))
    with torch.no_grad():
        whole = found.terms(texts, torch.ones_like(texts, dtype=torch.bool))[0]
        logits, state = found.begin()
        for t in range(STEPS):
            term = logits.log_softmax(-1).gather(1, texts[:, t : t + 1]).squeeze(1)
            torch.testing.assert_close(term, whole[:, t], rtol=1e-9, atol=1e-9)
            if t + 1 < STEPS:
                logits, state = found.step(texts[:, t], state)


@pytest.mark.parametrize("network", NETWORKS)
def test_draws_have_their_probabilities(network):
    torch.manual_seed(0)
    drawn = likelihood(network, 4000).sample()[0]
    frequencies_agree(drawn, *probabilities(network))


def changed(texts, how):
    """The probability of each text where every symbol is drawn from what `how` makes of the model's own logits."""
    total = torch.zeros(len(texts), dtype=torch.float64)
    found = words("lstm", len(texts))
    with torch.no_grad():
        logits, state = found.begin()
        over = torch.zeros(len(texts), dtype=torch.bool)
        for t in range(STEPS):
            share = reference(logits, how)
            term = share.gather(1, texts[:, t : t + 1]).squeeze(1).log()
            total += torch.where(over, 0.0, term)
            over |= texts[:, t] == END
            if t + 1 < STEPS:
                logits, state = found.step(texts[:, t], state)
    return total.exp()


def reference(logits, how):
    """Written again, a row at a time: the share of each symbol."""
    rows = []
    for row in (logits / how.temperature).softmax(-1):
        order = row.argsort(descending=True)
        most = how.top_k or len(row)
        kept, mass = [], 0.0
        # the two together: top_p is of what top_k leaves
        left = row[order[:most]].sum()
        for symbol in order[:most].tolist():
            if mass >= how.top_p:
                break
            kept.append(symbol)
            mass += float(row[symbol] / left)
        only = torch.zeros_like(row)
        only[kept] = row[kept]
        rows.append(only / only.sum())
    return torch.stack(rows)


HOW = [
    Decoding(temperature=0.5), Decoding(temperature=2.0), Decoding(top_k=2), Decoding(top_p=0.6),
    Decoding(temperature=1.5, top_k=3, top_p=0.8),
]  # fmt: skip


@pytest.mark.parametrize("how", HOW, ids=str)
def test_draws_that_are_narrowed_have_their_probabilities(how):
    texts = every_text()
    probability = changed(texts, how)
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-9)
    torch.manual_seed(1)
    frequencies_agree(likelihood("lstm", 4000).decode(how)[0], texts, probability)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_wide_beam_finds_the_most_probable_texts(network):
    texts, probability = probabilities(network)
    found = beam(words(network), STEPS, END, width=SYMBOLS**STEPS)
    best = probability.log().sort(descending=True)
    count = len(texts)
    torch.testing.assert_close(found.log_prob[0, :count], best.values, rtol=1e-9, atol=1e-9)
    assert found.symbols[0, 0].tolist() == texts[best.indices[0]].tolist()
    assert bool((found.log_prob[0, count:] == -torch.inf).all())


def test_a_narrow_beam_tells_true_log_probabilities_and_one_of_width_one_is_greedy():
    p = likelihood("transformer")
    found = beam(p.words, STEPS, END, width=3)
    for symbols, log_prob in zip(found.symbols[0], found.log_prob[0], strict=True):
        with torch.no_grad():
            assert float(p.log_prob(symbols.unsqueeze(0))) == pytest.approx(float(log_prob), abs=1e-9)
    greedy, narrow = p.decode(Decoding("greedy")), p.decode(Decoding("beam", width=1))
    assert torch.equal(greedy, narrow)


def test_a_length_penalty_prefers_longer_texts():
    plain = beam(words("several"), STEPS, END, SYMBOLS**STEPS).symbols[0, 0]
    texts, probability = probabilities("several")
    length = (texts == END).float().argmax(1) + 1
    length = torch.where((texts == END).any(1), length, STEPS)
    rank = probability.log() / length.double() ** 1.5
    found = beam(words("several"), STEPS, END, SYMBOLS**STEPS, penalty=1.5).symbols[0, 0]
    assert found.tolist() == texts[rank.argmax()].tolist()
    assert found.tolist() != plain.tolist()


@pytest.mark.parametrize("method", ["sample", "beam"])
def test_texts_that_begin_with_what_is_given(method):
    texts, probability = probabilities("lstm")
    begun = (texts[:, 0] == 1) & (texts[:, 1] == 0)
    given = torch.tensor([1, 0])
    if method == "beam":
        found = likelihood("lstm").decode(Decoding("beam", width=SYMBOLS**STEPS), given)[0, 0]
        assert found.tolist() == texts[torch.where(begun, probability, 0.0).argmax()].tolist()
        return
    torch.manual_seed(2)
    drawn = likelihood("lstm", 4000).decode(Decoding(), given)[0]
    frequencies_agree(drawn, texts, torch.where(begun, probability, 0.0) / probability[begun].sum())


def test_at_least_one_symbol_is_left():
    logits = torch.tensor([[0.0, 5.0, 1.0]])
    assert narrowed(logits, 1).tolist() == narrowed(logits, 0, 1e-9).tolist() == [[-math.inf, 5.0, -math.inf]]
    assert choice(Decoding("greedy"))(logits).tolist() == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "best"}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_k": -1}, {"width": 0},
        {"length_penalty": -1.0}, {"method": "beam", "temperature": 0.5},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong)) if len(wrong) == 1 else "temperature"):
        Decoding(**wrong)
