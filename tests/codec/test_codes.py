"""Codes of every model: the data come back, and the message is as long as the model's log-probability says."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.batch import Batch
from latentia.codec.bits_back import BitsBack
from latentia.codec.lattice import Lattice
from latentia.codec.message import coder, decoded, encoded
from latentia.codec.steady import steady
from latentia.data import as_dataset, load
from latentia.distributions.joint import draw
from latentia.errors import CapabilityError, DataError, LatentiaError, OptionError
from latentia.evaluate import exact_log_marginals
from latentia.gradients import straight_through
from latentia.learners import EM, Gradient
from latentia.model import TractableModel
from latentia.models import (
    HMM,
    VAE,
    DiscreteVAE,
    LadderVAE,
    LanguageModel,
    MixtureOfBernoullis,
    MixtureOfCategoricals,
    NeuralPCFG,
)
from latentia.models.text import language_model
from latentia.models.vaes import discrete_vae, vae
from latentia.objectives import elbo
from latentia.tasks import compress, decompress
from latentia.tasks.compress import _terms
from latentia.testing import all_models

# what has no code, and what is said of it
WITHOUT = {
    "compound_pcfg": "no code",
    "neural_pcfg": "no code",
    "pcfg": "no code",
    "struct_vae": "no code|bits-back coding is of",
    "urnng": "no code",
    "latent_colorization": "context",
    "latent_diffusion": "bits-back coding is of",
    "masked_diffusion": "no code|bits-back coding is of|bound",
    "lda": "bits-back coding is of",
    "factorial_hmm": "bits-back coding is of",
    "probabilistic_pca": "no code|MultivariateNormal|bits-back coding is of",
    "gaussian_mixture": "no code",
    "rate_distortion:bits": "no code",
    "rate_distortion:values": "no code",
    "transform_coder": "bits-back coding is of",
}
GIVEN = ("ctc", "hmm_alignment", "ibm1", "ibm2", "latent_attention", "vae:conditional")
WRITTEN = ("language_model", "text_vae", "mixture_of_language_models", "semi_supervised_text_vae", "struct_vae")


def repeated(batch: Batch, times: int) -> Batch:
    batch = batch._replace(weight=None, known=None)
    return batch.select(torch.arange(batch.size).repeat(times))


def same(found, batch: Batch, precision=None) -> bool:
    x = batch.x if batch.seen is None else torch.where(batch.seen, batch.x, torch.zeros_like(batch.x))
    if found.lengths is not None and not torch.equal(found.lengths, batch.ends):
        return False
    if precision is None or not x.is_floating_point():
        return found.x.dtype == x.dtype and torch.equal(found.x, x)
    return bool((found.x - x).abs().max() <= precision / 2 + 1e-9)


@pytest.mark.parametrize("name", all_models())
def test_every_model_gives_its_data_back_or_says_why_not(name):
    model, batch = all_models()[name](0)
    base = name.partition(":")[0]
    if base in WRITTEN:
        batch = batch._replace(mask=None)
    precision = 0.25 if batch.x.is_floating_point() and bool((batch.x != batch.x.round()).any()) else None
    batch = repeated(batch, 3)
    said = WITHOUT.get(name, WITHOUT.get(base))
    if said or name.startswith(GIVEN):
        with pytest.raises(CapabilityError, match=f"context|{said}"):
            compress(model, batch, precision=precision)
        return
    made = compress(model, batch, precision=precision)
    found = decompress(model, made.file)
    assert same(found, batch, precision)
    assert made.net <= made.parts["all"] + 64
    if not isinstance(model, TractableModel):
        made = compress(model, batch, precision=precision, samples=3)
        assert same(decompress(model, made.file), batch, precision)


def exact_bits(model, batch: Batch) -> float:
    return -float(exact_log_marginals(model, as_dataset(batch)).sum()) / math.log(2)


@pytest.mark.parametrize(
    "name",
    [
        "hmm",
        "neural_hmm",
        "mixture_of_bernoullis",
        "mixture_of_categoricals",
        "language_model",
        "mixture_of_language_models",
        "mixture_of_language_models:shared",
    ],
)
def test_a_direct_message_is_as_long_as_log_p(name):
    model, batch = all_models()[name](0)
    batch = repeated(batch._replace(mask=None), 100)
    made = compress(model, batch)
    bits = -float(exact_log_marginals(model, as_dataset(batch)).detach().sum()) / math.log(2)
    assert abs(made.parts["all"] - bits) <= 1e-3 * bits
    assert bits * 0.999 - 64 <= made.payload <= bits * 1.001 + 64
    assert made.borrowed == 0
    assert float(made.content.columns.sum()) == pytest.approx(made.parts["all"], rel=1e-3)


@cache
def fitted(kind):
    """A model of digits, and these. Bits that are popped are as random as a message is, which of a model that has not
    been fitted they are not: the latents of its data are not spread as its prior says."""
    data = load("digits", binarize="fixed")
    options = {"latent": 5, "hidden": (40,)}
    if kind is LadderVAE:
        options = {"latents": (5, 2), "hidden": ((40,), (10,))}
    elif kind is DiscreteVAE:
        options = {"latents": (12,), "hidden": ((40,),)}
    model = kind((8, 8), **options)
    estimator = partial(elbo, estimator=straight_through) if kind is DiscreteVAE else elbo
    Gradient(estimator, epochs=15, batch_size=64, lr=3e-3, progress=False).fit(model, data)
    return model, data.batch()


@pytest.mark.parametrize("kind", [VAE, LadderVAE, DiscreteVAE])
@pytest.mark.parametrize("samples", [1, 4])
def test_a_bits_back_message_is_as_long_as_the_bound(kind, samples):
    model, batch = fitted(kind)
    with torch.no_grad():
        torch.manual_seed(0)
        drawn = draw(model.posterior(batch), 30 * samples)
        weight = (model.log_joint(batch, drawn.z) - drawn.log_q).double().unflatten(0, (30, samples))
    bits = -(weight.logsumexp(1) - math.log(samples)) / math.log(2)
    made = compress(model, batch, samples=samples)
    total, error = float(bits.mean(0).sum()), float(bits.var(0).sum().sqrt())
    assert abs(made.parts["all"] - total) <= 1e-3 * total + 4 * error
    assert error < 4e-3 * total
    assert made.net <= made.parts["all"] + 64
    assert made.borrowed > 0


def test_more_samples_make_a_shorter_message_of_one_that_is_longer_than_log_p():
    model, batch = discrete_vae.tiny(0)
    batch = repeated(batch._replace(mask=None), 400)
    one, many = (compress(model, batch, samples=samples) for samples in (1, 20))
    every = model.prior(batch.frame).enumerate_support()
    marginal = -float(torch.logsumexp(model.log_joint(batch, every), 0).detach().sum()) / math.log(2)
    assert marginal - 4 * math.sqrt(batch.size) < many.parts["all"] < one.parts["all"]
    assert many.borrowed > one.borrowed


def test_layers_are_interleaved_where_the_posterior_allows_it():
    model = LadderVAE((64,), latents=(5, 5), hidden=((4,), (3,)))
    x = torch.randint(2, (30, 64), generator=torch.Generator().manual_seed(0)).float()
    with steady(model):
        terms, numbers = _terms(model, Batch(x), Lattice.of(Batch(x)), 1)
        swap, back = coder(model, terms), coder(model, terms)
        assert isinstance(swap, BitsBack)
        assert isinstance(back, BitsBack)
        told = [f"{'draw' if step.draws else 'push'} {step.name or 'x'}" for step in swap.plan.steps]
        assert told == ["draw z1", "push x", "draw z2", "push z1", "push z2"]
        back.plan = back.plan._replace(steps=sorted(swap.plan.steps, key=lambda step: not step.draws))
        messages = [encoded(model, terms, one, numbers) for one in (swap, back)]
        for one, message in zip((swap, back), messages, strict=True):
            assert torch.equal(decoded(model, message.terms, one, message.payload)[0], numbers)
        # x has as many bits as z_2 asks for
        assert messages[0].terms.borrowed <= messages[1].terms.borrowed - 32


def test_blocks_may_have_any_size():
    model, batch = vae.tiny(0)
    batch = repeated(batch._replace(mask=None), 30)
    with steady(model):
        terms, x = _terms(model, batch, Lattice.of(batch), 1)
        for block in (1, 7, 1000):
            terms = replace(terms, block=block)
            message = encoded(model, terms, coder(model, terms), x)
            assert torch.equal(decoded(model, message.terms, coder(model, terms), message.payload)[0], x)


def random_model(kind, seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    data, width, states, values = sizes
    if kind == "bernoullis":
        model, x = (
            MixtureOfBernoullis((width,), components=states),
            torch.randint(2, (data, width), generator=generator),
        )
    elif kind == "categoricals":
        model = MixtureOfCategoricals(values, width, components=states)
        x = torch.randint(values, (data, width), generator=generator)
    elif kind == "hmm":
        model, x = HMM(symbols=values, states=states), torch.randint(values, (data, width), generator=generator)
    elif kind == "language":
        model = LanguageModel(values + 1, embedding=3, hidden=states, length=width)
        x = torch.randint(values, (data, width), generator=generator)
    elif kind == "discrete":
        model = DiscreteVAE((width,), latents=(states, 1), values=min(values, 3), hidden=((3,), (2,)))
        x = torch.randint(2, (data, width), generator=generator)
    elif kind == "ladder":
        model = LadderVAE((width,), latents=(states, 1, 2), hidden=((3,), (2,), (2,)))
        x = torch.randint(2, (data, width), generator=generator)
    else:
        posterior = {"vae": "diagonal", "full": "full"}[kind]
        model = VAE((width,), values, latent=states, hidden=(4,), likelihood="categorical", posterior=posterior)
        x = torch.randint(values, (data, width), generator=generator)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model, x.float() if kind in ("bernoullis", "discrete", "ladder") else x


KINDS = ["bernoullis", "categoricals", "hmm", "language", "discrete", "ladder", "vae", "full"]
SIZES = st.tuples(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(2, 5))


def check_round_trip(kind, seed, sizes, samples):
    model, x = random_model(kind, seed, sizes)
    lengths = None
    if kind in ("hmm", "language"):
        lengths = torch.randint(1, sizes[1] + 1, (sizes[0],), generator=torch.Generator().manual_seed(seed))
    batch = Batch.of(x, lengths=lengths)
    samples = samples if kind in ("discrete", "ladder", "vae", "full") else 1
    made = compress(model, batch, samples=samples)
    found = decompress(model, made.file)
    assert same(found, batch)
    assert made.net <= made.parts["all"] * 1.001 + 64


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6), sizes=SIZES, samples=st.integers(1, 3))
@settings(max_examples=40)
def test_small_models_give_their_data_back(kind, seed, sizes, samples):
    check_round_trip(kind, seed, sizes, samples)


@pytest.mark.slow
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**9), sizes=SIZES, samples=st.integers(1, 5))
@settings(max_examples=2000)
def test_two_thousand_small_models_give_their_data_back(kind, seed, sizes, samples):
    check_round_trip(kind, seed, sizes, samples)


def test_real_values_are_refused_or_rounded_to_what_is_said():
    model, batch = vae.tiny_columns(0)
    with pytest.raises(DataError, match="--precision"):
        compress(model, batch)
    for precision in (0.5, 0.01):
        found = decompress(model, compress(model, batch, precision=precision).file)
        seen = batch.observed
        assert float((found.x - batch.x)[seen].abs().max()) <= precision / 2 + 1e-9
        numbers = found.x[:, 0] / precision
        assert torch.allclose(numbers, numbers.round(), atol=1e-6)
        assert torch.equal(found.x[:, 1:], batch.x[:, 1:])
    with pytest.raises(OptionError, match="at most"):
        compress(model, batch, precision=1e-12)


def test_rounded_gaussians_are_as_long_as_their_density():
    draw = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(4000, 2, generator=draw, dtype=torch.float64)
    data = load(x.numpy(), kind="table", scale="standard")
    from latentia.models import Mixture

    model = Mixture(("real", "real"), components=1).double()
    EM(progress=False).fit(model, data)
    made = compress(model, data, precision=0.01)
    entropy = 2 * (0.5 * math.log2(2 * math.pi * math.e * 4) - math.log2(0.01))
    assert made.parts["all"] / 4000 == pytest.approx(entropy, rel=0.01)
    found = decompress(model, made.file)
    assert float((torch.from_numpy(found.decoded()) - x).abs().max()) <= 0.005 + 1e-9


def test_what_cannot_be_coded_says_why():
    model, batch = language_model.tiny(0)
    with pytest.raises(DataError, match="hidden words"):
        compress(model, batch)
    with pytest.raises(OptionError, match="coded directly"):
        compress(model, batch._replace(mask=None), samples=2)
    flow = VAE((3,), latent=2, hidden=(3,), posterior="iaf")
    with pytest.raises(CapabilityError, match="diagonal posterior"):
        compress(flow, torch.zeros(2, 3))
    with pytest.raises(OptionError, match="samples=0"):
        compress(model, batch._replace(mask=None), samples=0)
    with pytest.raises(OptionError, match="samples=0"):
        compress(VAE((3,), latent=2, hidden=(3,)), torch.zeros(2, 3), samples=0)
    with pytest.raises(CapabilityError, match=r"NeuralPCFG\.prior"):
        compress(NeuralPCFG(symbols=4), Batch(torch.tensor([[1, 2, 3]])))


def test_a_starved_code_says_so():
    model, batch = vae.tiny(0)
    with pytest.raises(LatentiaError, match="too few: raise initial_bits"):
        compress(model, batch._replace(mask=None), initial_bits=0)
    made = compress(model, batch._replace(mask=None), initial_bits=320)
    assert 0 < made.borrowed <= 320


def test_a_codec_leaves_all_as_it_was():
    model, batch = vae.tiny(0)
    model.train()
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    compress(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    with steady(model):
        assert torch.get_num_threads() == 1
