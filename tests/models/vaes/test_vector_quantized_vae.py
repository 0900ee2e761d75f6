"""The vector-quantized VAE: what its codes, its slope, its codebook and its prior have to be."""

from __future__ import annotations

import pytest
import torch

from latentia import testing
from latentia.data import as_dataset, load
from latentia.distributions.codes import Quantized
from latentia.errors import CapabilityError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.model import Batch, Frame
from latentia.models import VectorQuantizedVAE
from latentia.models.vaes import vector_quantized_vae
from latentia.networks.codebook import ScalarCodebook, VectorCodebook
from latentia.objectives import elbo
from latentia.report.codes import codes, perplexity
from latentia.tasks import generate, traverse

TINY = {"vq": vector_quantized_vae.tiny, "fsq": vector_quantized_vae.tiny_scalars}


@pytest.mark.parametrize("kind", TINY)
def test_checks(kind):
    ran = testing.check_model(TINY[kind])
    assert {"check_bounds", "check_normalised", "check_kl", "check_generate", "check_posterior"} <= set(ran)


@pytest.mark.parametrize("book", [VectorCodebook(7, 3).double(), ScalarCodebook((5, 4, 2)).double()])
def test_a_code_is_the_nearest_vector_and_its_number_leads_back(book):
    every = book.lookup(torch.arange(book.size)).double()
    assert len(every.unique(dim=0)) == book.size
    assert torch.equal(book.of(every), torch.arange(book.size))
    h = torch.randn(200, book.width, generator=torch.Generator().manual_seed(0)).double()
    nearest = torch.cdist(book.bounded(h), every).argmin(-1)
    assert torch.equal(book.index(h), nearest)


@pytest.mark.parametrize(("levels", "size"), [((8, 5, 5, 5), 1000), ((2, 2), 4), ((3,), 3)])
def test_all_levels_of_scalars_are_reached(levels, size):
    book = ScalarCodebook(levels)
    h = 5 * torch.rand(60_000, len(levels), generator=torch.Generator().manual_seed(0)) - 2.5
    assert book.size == size
    assert len(book.index(h).unique()) == size
    assert book.bounded(1e3 * h).abs().max() <= 1.01


def test_the_slope_of_a_code_goes_to_what_it_is_nearest_to():
    """By hand: d/dh [f(e) - beta |h - e|^2] with e held still, and none for the prior's part."""
    model, batch = vector_quantized_vae.tiny(0)
    h = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    q = Quantized(h, model.codebook, commitment=0.25)
    e = q.vectors.detach().requires_grad_()
    model._vectors = lambda _: h  # type: ignore[method-assign]
    found = torch.autograd.grad(elbo(model, batch).value.sum(), h)[0]
    by_hand = torch.autograd.grad(model.log_likelihood(batch, e.unsqueeze(0)).sum(), e)[0]
    torch.testing.assert_close(found, by_hand - 2 * 0.25 * (h - e).detach())


def test_the_bound_is_what_decoder_and_prior_say_of_the_codes():
    model, batch = vector_quantized_vae.tiny(0)
    codes = model.codes(batch)
    prior = model.prior(batch.frame)
    said = model.word_prior(codes).log_softmax(-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1).sum(-1)
    bound = elbo(model, batch)
    assert bound.kl is not None
    torch.testing.assert_close(bound.kl, -said)
    torch.testing.assert_close(prior.log_prob(model.posterior(batch).mean.unsqueeze(0))[0], said)
    # a code does not look at itself or at what comes after it
    other = codes.clone()
    other[:, 1] = (other[:, 1] + 1) % 3
    torch.testing.assert_close(model.word_prior(codes), model.word_prior(other))


def test_the_codebook_follows_the_running_means_and_dead_codes_begin_anew():
    torch.manual_seed(0)
    book = VectorCodebook(3, 2, decay=0.5)
    book.vectors.copy_(torch.tensor([[0.0, 0.0], [10.0, 10.0], [99.0, 99.0]]))
    book.total.copy_(book.vectors)
    h = torch.cat([torch.randn(50, 2), 10 + torch.randn(50, 2)])
    index = book.index(h)
    book.learn(h, index)
    for k in range(2):
        own = h[index == k]
        torch.testing.assert_close(book.vectors[k], (0.5 * k * 10 + 0.5 * own.sum(0)) / (0.5 + 0.5 * len(own)))
    # the third, with 0.5 vectors of the 100 where 3 % of a third would be 1, is now at a vector of the data
    assert (book.vectors[2] - h).abs().sum(-1).min() < 1e-5
    assert int(book.revived) == 1


def data(count=300):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (count, 3), generator=generator).float()
    noise = (torch.rand(count, 12, generator=generator) < 0.05).float()
    return as_dataset(Batch.of((bits.repeat_interleave(4, 1) - noise).abs()))


@pytest.mark.parametrize("options", [{"codes": 16, "width": 4}, {"quantizer": "fsq", "levels": (4, 4)}])
def test_it_learns_codes_of_patterns_and_a_prior_of_them_afterwards(options):
    model = VectorQuantizedVAE((12,), places=2, hidden=(16,), prior_hidden=8, **options)
    Gradient(epochs=40, batch_size=30, lr=0.01, progress=False).fit(model, data())
    with torch.no_grad():
        first = elbo(model, data().batch())
    # eight kinds at 3 log 2, and 12 pixels at H(0.05) = 0.2 each: -4.5; without z a pixel costs log 2, -8.3
    assert float(first.value.mean()) > -6.5
    model.freeze_codes()
    kept = model.codes(data().batch())
    vectors = model.codebook.lookup(torch.arange(16)).clone()
    Gradient(epochs=10, batch_size=30, lr=0.01, fresh=False, progress=False).fit(model, data())
    assert torch.equal(model.codes(data().batch()), kept)
    assert torch.equal(model.codebook.lookup(torch.arange(16)), vectors)
    with torch.no_grad():
        second = elbo(model, data().batch())
    assert second.kl is not None
    assert first.kl is not None
    assert float(second.kl.mean()) < float(first.kl.mean()) + 0.05


def test_the_report_tells_the_use_of_the_codes():
    """By counting: shares, the number that are used, and the perplexity of the shares."""
    assert perplexity(torch.tensor([5, 5, 5, 5, 0])) == pytest.approx(4.0)
    assert perplexity(torch.tensor([7, 0])) == pytest.approx(1.0)
    model = VectorQuantizedVAE((8, 8), codes=6, width=2, places=3, hidden=(8,), prior_hidden=4)
    images = load("digits", binarize="fixed").subset(slice(0, 50))
    model.start(images.batch(), torch.Generator().manual_seed(0))
    model.eval()
    shares, users = codes(model, images, 0)
    count = torch.bincount(model.codes(images.batch()).flatten(), minlength=6)
    assert f"{int((count > 0).sum())} of 6 codes are used" in shares.caption
    assert f"{perplexity(count):.1f} codes" in shares.caption
    first = users.content["rows"][0]
    assert int(first[0]) in torch.nonzero(count == count.max()).flatten().tolist()
    assert first[1] == f"{int(count.max()) / 150:.1%}"


def test_verbs_and_convolutions():
    images = load("digits", binarize="dynamic").subset(slice(0, 40))
    model = VectorQuantizedVAE((8, 8), codes=8, width=3, network="residual", channels=(4, 6), prior_hidden=8)
    assert model.places == 4
    Gradient(epochs=1, progress=False).fit(model, images)
    found = evaluate(model, images.frozen(0), importance_samples=3)
    assert found.log_marginal == pytest.approx(found.elbo, abs=1e-5)
    assert generate(model, 4)[0].x.shape == (4, 8, 8)
    _, z = model.generate(Frame(3))
    assert isinstance(z, torch.Tensor)
    assert torch.equal(model.codebook.lookup(model.codebook.of(z)), z)
    with pytest.raises(CapabilityError, match="codes"):
        traverse(model, images)
    for wrong in ({"quantizer": "other"}, {"places": 0}, {"codes": 1}, {"quantizer": "fsq", "levels": (1,)}):
        with pytest.raises(OptionError):
            VectorQuantizedVAE((8, 8), **wrong)  # type: ignore[arg-type]
