"""What is particular to models of sentences."""

import itertools

import pytest
import torch

from latentia.batch import Batch, Frame
from latentia.data import as_dataset
from latentia.errors import DataError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.model import by_length
from latentia.models import InferredMixtureOfLanguageModels, LanguageModel, MixtureOfLanguageModels, TextVAE
from latentia.models.text import language_model, mixture_of_language_models, text_vae
from latentia.networks.decoder import decoder, encoder
from latentia.objectives import elbo, exact

ROUTES = ("initial", "inputs", "prefix", "attention", "skip")


def sentences(longest, symbols, end):
    """All sentences of at most `longest` symbols, each with its end."""
    found = []
    for length in range(longest):
        found += [[*words, end] for words in itertools.product(range(symbols), repeat=length) if end not in words]
    lengths = torch.tensor([len(x) for x in found])
    x = torch.tensor([x + [0] * (longest - len(x)) for x in found])
    return Batch.of(x, lengths=lengths)


@pytest.mark.parametrize("tiny", [language_model.tiny, mixture_of_language_models.tiny_shared], ids=["one", "two"])
def test_all_sentences_up_to_a_length_and_those_that_go_on_sum_to_one(tiny):
    model, _ = tiny(0)
    over = sentences(4, 3, 2)
    open_ended = torch.tensor(list(itertools.product(range(2), repeat=4)))
    with torch.no_grad():
        ended = model.posterior(over).log_partition.exp().sum()
        going = model.posterior(Batch.of(open_ended, lengths=torch.full((16,), 4))).log_partition.exp().sum()
    assert float(ended + going) == pytest.approx(1.0, abs=1e-12)
    assert 0.05 < float(ended) < 0.999


@pytest.mark.parametrize("tiny", [mixture_of_language_models.tiny, mixture_of_language_models.tiny_shared])
def test_the_marginal_of_a_mixture_is_the_sum_over_its_components(tiny):
    model, batch = tiny(1)
    with torch.no_grad():
        parts = []
        for k in range(2):
            z = torch.zeros(1, batch.size, 2, dtype=torch.float64)
            z[..., k] = 1.0
            parts.append(model.weights[k] * model.log_likelihood(batch, z)[0].exp())
        torch.testing.assert_close(
            model.posterior(batch).log_partition, torch.stack(parts).sum(0).log(), rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(
            model.posterior(batch).marginals[:, 0], parts[0] / (parts[0] + parts[1]), rtol=1e-9, atol=1e-9
        )


def test_components_with_networks_of_their_own_are_language_models():
    model, batch = mixture_of_language_models.tiny(2)
    one = LanguageModel(3, 2, embedding=2, hidden=2, length=3).double()
    one.decoder.load_state_dict(model.decoders[1].state_dict())
    z = torch.tensor([0.0, 1.0]).double().expand(1, batch.size, 2)
    torch.testing.assert_close(model.log_likelihood(batch, z)[0], one.posterior(batch).log_partition)


@pytest.mark.parametrize("network", ["lstm", "transformer"])
@pytest.mark.parametrize("route", ROUTES)
def test_z_reaches_every_word_by_every_way(network, route):
    torch.manual_seed(0)
    model = TextVAE(5, 4, latent=2, network=network, embedding=4, hidden=8, route=(route,), heads=2).double()
    model.start(sentences(3, 5, 4), torch.Generator().manual_seed(0))
    x = torch.tensor([[1, 2, 3, 4]])
    z = torch.randn(1, 1, 2, dtype=torch.float64, requires_grad=True)
    terms = model.likelihood(z, Frame(1)).words.terms(x, torch.ones_like(x, dtype=torch.bool))
    for t in range(4):
        (slope,) = torch.autograd.grad(terms[0, 0, t], z, retain_graph=True)
        assert bool((slope != 0).all()), (route, t)


def test_a_decoder_does_not_see_the_word_that_it_tells_nor_those_after_it():
    for network in ("lstm", "transformer"):
        one = decoder(network, 6, embedding=4, hidden=8, layers=2, heads=2).double()
        x = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 0]])
        with torch.no_grad():
            features, _ = one.writer(one.inputs(x), one.writer.begin(None, 2))
        torch.testing.assert_close(features[0, :3], features[1, :3])
        assert not torch.allclose(features[0, 3], features[1, 3])


@pytest.mark.parametrize("network", ["lstm", "transformer"])
def test_an_encoder_reads_to_the_end_and_no_further(network):
    one = encoder(network, 6, 3, embedding=4, hidden=8, layers=1, heads=2).double()
    x, lengths = torch.tensor([[1, 2, 3, 0], [1, 2, 3, 5]]), torch.tensor([3, 3])
    with torch.no_grad():
        found = one(x, torch.arange(4) < lengths.unsqueeze(-1), lengths)
        other = one(x[:, :3], torch.ones(2, 3, dtype=torch.bool), lengths)
        shorter = one(x, torch.arange(4) < torch.tensor([[2], [2]]), torch.tensor([2, 2]))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found, other)
    assert not torch.allclose(found, shorter)


def test_word_dropout_shows_the_unknown_word_while_learning_alone():
    one = decoder("lstm", 6, embedding=4, hidden=4, layers=1, word_dropout=0.5)
    torch.manual_seed(0)
    x = torch.full((200, 51), 3)
    dropped = (one.inputs(x)[:, 1:] == one.embedding.weight[0]).all(-1)
    kept = (one.inputs(x)[:, 1:] == one.embedding.weight[3]).all(-1)
    assert bool((one.inputs(x)[:, 0] == one.before).all())
    # 10,000 coins: five standard errors are 0.025
    assert abs(float(dropped.float().mean()) - 0.5) < 0.025
    one.eval()
    assert bool((one.inputs(x)[:, 1:] == one.embedding.weight[3]).all())
    assert kept.shape == dropped.shape


def test_tied_weights_are_the_words_own_vectors():
    tied = decoder("lstm", 50, embedding=4, hidden=4, layers=1)
    free = decoder("lstm", 50, embedding=4, hidden=4, layers=1, tie=False)
    count = [sum(parameter.numel() for parameter in one.parameters()) for one in (tied, free)]
    assert count[1] - count[0] == 50 * 4


def test_a_learned_position_for_each_symbol_and_no_more():
    model = LanguageModel(5, 4, "transformer", 4, 8, heads=2, positions="learned", length=6)
    x = torch.zeros(1, 20, dtype=torch.long)
    with pytest.raises(DataError, match=r"20 symbols.*max_length"):
        model.posterior(Batch(x, lengths=torch.tensor([20])))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "gru"}, "lstm, transformer"), ({"route": ("first",)}, "route='first'"),
        ({"word_dropout": 1.0}, "word_dropout"), ({"network": "transformer", "hidden": 6}, "heads=4"),
        ({"network": "transformer", "positions": "sine"}, "rotary or learned"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        TextVAE(5, 4, **options)


def test_data_that_are_no_sentences_are_refused():
    model = LanguageModel(5, 4)
    with pytest.raises(DataError, match=r"symbol 7 is outside 0\.\.4"):
        model.check(Batch(torch.tensor([[7, 4]])))
    with pytest.raises(DataError, match="datum 2 goes on after symbol 4"):
        model.check(Batch(torch.tensor([[1, 4], [4, 1]])))
    with pytest.raises(DataError, match="x \\(B, T\\)"):
        model.check(Batch(torch.zeros(2, 3, 4)))


def grammar(count, seed):
    """Sentences of two kinds, 0 1 0 1 ... or 1 0 1 0 ..., which end with probability 1/4 after each word: their entropy
    is log 2 and that of the length."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(2, (count,), generator=generator)
    length = 1 + torch.empty(count).exponential_(generator=generator).div(-torch.tensor(0.75).log()).long()
    length = length.clamp(max=11)
    steps = torch.arange(12)
    x = torch.where(steps < length.unsqueeze(-1), (first.unsqueeze(-1) + steps) % 2, 2)
    return Batch.of(torch.where(steps <= length.unsqueeze(-1), x, 0), lengths=length + 1)


def entropy():
    share = torch.tensor([0.25 * 0.75**k for k in range(10)] + [0.75**10]).double()
    return float(-(share * share.log()).sum() + torch.tensor(2.0).double().log())


@pytest.mark.parametrize("network", ["lstm", "transformer"])
def test_a_language_model_learns_a_language_up_to_its_entropy(network):
    model = LanguageModel(3, 2, network, embedding=8, hidden=16, heads=2, length=12)
    options = {"lr": 0.01, "batch_size": 64, "schedule": "cosine", "progress": False}
    Gradient(objective=exact, epochs=16, **options).fit(model, as_dataset(grammar(1000, 0)))
    found = evaluate(model, as_dataset(grammar(2000, 1)))
    assert found.method == "exact"
    assert found.log_marginal == pytest.approx(-entropy(), abs=5 * found.log_marginal_se + 0.02)


def test_the_bound_of_an_inferred_mixture_is_below_its_marginal():
    model, batch = mixture_of_language_models.tiny_inferred(0)
    assert isinstance(model, InferredMixtureOfLanguageModels)
    with torch.no_grad():
        bound = elbo(model, batch).value
    same = MixtureOfLanguageModels(3, 2, components=2, embedding=2, hidden=2, length=3).double()
    same.load_state_dict({name: part for name, part in model.state_dict().items() if not name.startswith("encoder")})
    truth = same.posterior(batch).log_partition
    assert bool((bound < truth).all())


def test_generated_sentences_end_and_are_as_long_as_the_model_says():
    model, _ = text_vae.tiny(0)
    torch.manual_seed(0)
    drawn, _ = model.generate(Frame(200))
    ends = (drawn.x == 2).any(-1)
    assert drawn.lengths is not None
    assert drawn.x.shape == (200, 3)
    assert bool((drawn.lengths[~ends] == 3).all())
    assert bool((drawn.x[torch.arange(200), drawn.lengths - 1] == 2)[ends].all())


def test_minibatches_by_length_have_every_datum_once_and_little_padding():
    lengths = torch.randint(1, 50, (1003,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    parts = by_length(torch.randperm(1003), lengths, 32, 8)
    assert torch.cat(parts).sort().values.tolist() == list(range(1003))
    padded = sum(int(lengths[part].max()) * len(part) for part in parts)
    plain = sum(int(lengths[part].max()) * len(part) for part in torch.arange(1003).split(32))
    assert padded < 1.25 * int(lengths.sum()) < 1.5 * int(lengths.sum()) < plain
    # short ones do not all come first
    first = torch.tensor([float(lengths[part].float().mean()) for part in parts])
    assert not bool((first.diff() >= 0).all())
