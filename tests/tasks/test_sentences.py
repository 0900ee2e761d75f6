"""Uses of models of text: decoding, going on, the way from one to another, neighbours."""

import itertools

import pytest
import torch

from latentia.batch import Batch
from latentia.distributions.decoding import Decoding
from latentia.errors import CapabilityError, OptionError
from latentia.models.mixtures import mixture_of_categoricals
from latentia.models.text import language_model, mixture_of_language_models, text_vae
from latentia.tasks import completed, encode, homotopy, neighbours, written
from latentia.testing import brute_force_log_marginal


def texts():
    """All texts of the tiny models: at most three of three symbols, of which 2 is the end."""
    found = []
    for x in itertools.product(range(3), repeat=3):
        length = x.index(2) + 1 if 2 in x else 3
        if not any(x[length:]):
            found.append((*x, length))
    whole = torch.tensor(found)
    return Batch.of(whole[:, :3], lengths=whole[:, 3])


def frequencies(batch, events):
    same = {tuple(x): i for i, x in enumerate(events.x.tolist())}
    return torch.bincount(torch.tensor([same[tuple(x)] for x in batch.x.tolist()]), minlength=len(same)) / batch.size


@pytest.mark.parametrize("tiny", [mixture_of_language_models.tiny, text_vae.tiny], ids=["exact", "by importance"])
def test_what_follows_the_first_words_has_its_probability(tiny):
    model, _ = tiny(0)
    events = texts()
    probability = brute_force_log_marginal(model, events).exp()
    begun = events.x[:, 0] == 1
    truth = torch.where(begun, probability, 0.0) / probability[begun].sum()
    count = 8000
    drawn = completed(model, Batch.of(torch.tensor([[1]]), lengths=torch.tensor([1])), draws=count, seed=1)
    found = frequencies(drawn, events)
    error = (truth * (1 - truth) / count).sqrt()
    # of a hundred proposals one is chosen: a bias of about their variance by a hundred is left
    slack = 0.0 if tiny is mixture_of_language_models.tiny else 0.01
    assert bool(((found - truth).abs() <= 5 * error + slack + 1e-12).all())
    # and what is not begun so is something else
    assert float((truth - probability).abs().max()) > 0.1


def test_the_most_probable_end_of_a_begun_sentence():
    model, _ = language_model.tiny(0)
    events = texts()
    probability = brute_force_log_marginal(model, events)
    begun = events.x[:, 0] == 0
    best = events.x[torch.where(begun, probability, -torch.inf).argmax()]
    first = Batch.of(torch.tensor([[0]]), lengths=torch.tensor([1]))
    assert completed(model, first, how=Decoding("beam", width=27)).x[0].tolist() == best.tolist()


def test_written_sentences_follow_how():
    model, _ = language_model.tiny(0)
    events = texts()
    best = events.x[brute_force_log_marginal(model, events).argmax()].tolist()
    found = written(model, 3, Decoding("beam", width=27))
    assert found.x.tolist() == [best] * 3
    assert written(model, 20, Decoding(temperature=1e-3), seed=1).x.unique(dim=0).shape[0] == 1
    with pytest.raises(OptionError, match="n=0"):
        written(model, 0, Decoding())


def test_a_way_from_one_sentence_to_another_has_both_ends():
    model, _ = text_vae.tiny(3)
    batch = texts()
    pair = batch.select(torch.tensor([0, -1]))
    found = homotopy(model, pair, steps=5)
    assert found.shape == (1, 5, 3)
    z = encode(model, pair).unsqueeze(0)
    for place, at in ((0, 0), (4, 1)):
        one = Batch(torch.zeros(1, 3, dtype=torch.long)).frame
        best = model.likelihood(z[:, at : at + 1], one).decode(Decoding("beam"))
        assert found[0, place].tolist() == best[0, 0].tolist()
    with pytest.raises(OptionError, match="pairs"):
        homotopy(model, batch.select(slice(0, 3)))


def test_the_nearest_to_a_sentence_of_the_data_is_itself():
    model, _ = text_vae.tiny(0)
    batch = texts()
    found = neighbours(model, batch.select(slice(2, 5)), batch, count=3)
    assert found.numbers[:, 0].tolist() == [2, 3, 4]
    assert torch.allclose(found.distance[:, 0], torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert bool((found.distance.diff(dim=1) >= 0).all())
    with pytest.raises(OptionError, match="there are 15 data"):
        neighbours(model, batch, batch, count=16)


def test_what_does_not_write_word_by_word_says_so():
    model, batch = mixture_of_categoricals.tiny(0)
    with pytest.raises(CapabilityError, match="one symbol after another"):
        written(model, 2, Decoding())
    with pytest.raises(CapabilityError, match="one symbol after another"):
        completed(model, batch)
    with pytest.raises(CapabilityError, match="one of K values"):
        homotopy(model, batch)
