"""The verbs, on the tiny instance of each model."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from latentia.data import as_dataset, load
from latentia.distributions import Joint
from latentia.distributions.observed import expected
from latentia.errors import CapabilityError, OptionError
from latentia.model import Batch, DirectedModel, LatentVariableModel
from latentia.models import HMM, VAE, GaussianMixture
from latentia.models.chains import hmm
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import vae
from latentia.tasks import cluster, complete, decode_path, encode, generate, interpolate

TINY = {"mixture": gaussian_mixture.tiny, "hmm": hmm.tiny, "vae": vae.tiny}


@pytest.fixture(params=TINY)
def tiny(request):
    return TINY[request.param](0)


class Bare(LatentVariableModel):
    """A posterior and a joint, nothing else."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1))

    def posterior(self, batch):
        return Independent(Normal(self.mean.expand(batch.size, 1), 1.0), 1)

    def log_joint(self, batch, z):
        return -(z**2).sum(-1)


class Layered(DirectedModel):
    """Two layers of z, as a Joint."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(2))

    def prior(self, frame):
        zero = torch.zeros(frame.size, 2)
        return Joint({"top": Independent(Normal(zero, 1.0), 1), "low": lambda z: Independent(Normal(z["top"], 1.0), 1)})

    def posterior(self, batch):
        top = Independent(Normal(batch.x / 2, 0.6), 1)
        return Joint({"top": top, "low": lambda z: Independent(Normal((batch.x + z["top"]) / 2, 0.7), 1)})

    def likelihood(self, z, frame):
        return Normal(z["low"] + self.shift, 1.0)


def test_generate_shapes_and_seed(tiny):
    model, batch = tiny
    x = generate(model, 3, seed=5)[0].x
    assert x.shape == (3, *(batch.x.shape[1:] if not isinstance(model, HMM) else (model.length,)))
    assert torch.equal(x, generate(model, 3, seed=5)[0].x)
    assert not torch.equal(generate(model, 50, seed=5)[0].x, generate(model, 50, seed=6)[0].x)


def test_generate_means_are_the_likelihoods():
    model, _ = vae.tiny(0)
    drawn, z = generate(model, 4, seed=1, mean=True)
    assert torch.allclose(drawn.x, torch.sigmoid(model.decoder(z)))


def test_generate_several_latents():
    model = Layered()
    drawn, z = generate(model, 4, seed=1, mean=True)
    assert torch.allclose(drawn.x, z["low"] + model.shift)


def test_randomness_gradients_and_mode_are_left_alone(tiny):
    model, batch = tiny
    torch.manual_seed(3)
    first = torch.get_rng_state()
    model.train()
    for result in (generate(model, 2)[0].x, complete(model, batch, draws=2, sweeps=2).mean):
        assert not result.requires_grad
    assert torch.equal(first, torch.get_rng_state())
    assert model.training


def test_what_a_model_lacks_is_named():
    with pytest.raises(CapabilityError, match=r"Bare\.generate"):
        generate(Bare(), 2)
    for verb in (interpolate, complete):
        with pytest.raises(CapabilityError, match=r"Bare\.prior and Bare\.likelihood"):
            verb(Bare(), Batch(torch.zeros(2, 1)))
    data = as_dataset(vae.tiny(0)[1])
    for verb in (cluster, decode_path):
        with pytest.raises(CapabilityError, match=r"VAE\.posterior would have to return a"):
            verb(vae.tiny(0)[0], data)


@pytest.mark.parametrize("make", [hmm.tiny, gaussian_mixture.tiny])
def test_no_line_between_discrete_latents(make):
    model, batch = make(0)
    with pytest.raises(CapabilityError, match="path of discrete states" if make is hmm.tiny else "one of K values"):
        interpolate(model, batch.select(slice(0, 2)))


def test_options_that_make_no_sense():
    model, batch = vae.tiny(0)
    with pytest.raises(OptionError, match="n=0"):
        generate(model, 0)
    with pytest.raises(OptionError, match="pairs"):
        interpolate(model, batch.select(slice(0, 3)))
    with pytest.raises(OptionError, match="steps=1"):
        interpolate(model, batch.select(slice(0, 2)), steps=1)
    with pytest.raises(OptionError, match="draws=0"):
        complete(model, batch, draws=0)


def test_encode_does_not_depend_on_the_batches(tiny):
    model, batch = tiny
    data = as_dataset(batch) if not isinstance(model, HMM) else _sentences()
    model = HMM(symbols=data.schema.levels, states=3).double() if isinstance(model, HMM) else model
    if isinstance(model, HMM):
        model.start(data.batch().to(model.anchor), torch.Generator().manual_seed(0))
    assert torch.allclose(encode(model, data, batch_size=2), encode(model, data, batch_size=100))


def _sentences():
    return load("sentences", min_count=2).subset(slice(0, 9))


def test_encode_means_and_marginals():
    model, batch = vae.tiny(0)
    assert torch.allclose(encode(model, as_dataset(batch)), model.posterior(batch).mean)
    model, batch = gaussian_mixture.tiny(0)
    marginals = encode(model, as_dataset(batch))
    assert torch.allclose(marginals.sum(-1), torch.ones(7, dtype=torch.float64))
    assert torch.equal(cluster(model, as_dataset(batch)), marginals.argmax(-1))


def test_encode_several_latents():
    z = encode(Layered(), as_dataset(Batch(torch.randn(5, 2))), batch_size=2)
    assert {name: part.shape for name, part in z.items()} == {"top": (5, 2), "low": (5, 2)}


def test_path_is_the_best_of_all():
    model, batch = hmm.tiny(1)
    q = model.posterior(batch)
    data = _sequences(batch)
    states, lengths = decode_path(model, data, batch_size=2)
    assert lengths.tolist() == q.lengths.tolist() == [4, 2, 3, 1, 4]
    for b, length in enumerate(lengths.tolist()):
        assert (states[b, length:] == -1).all()
        every = torch.tensor(list(itertools.product(range(2), repeat=length)))
        z = torch.zeros(len(every), 5, 4, 2, dtype=torch.float64)
        z[:, b, :length] = nn.functional.one_hot(every, 2).double()
        best = q.score(z)[:, b].argmax()
        assert states[b, :length].tolist() == every[best].tolist()


def _sequences(batch):
    x = torch.where(batch.mask, batch.x.double(), torch.nan)
    rows = [row[:length].numpy() for row, length in zip(x, batch.lengths, strict=True)]
    data = load(rows, kind="sequence", values="symbols")
    assert data.schema.levels == 3
    return data


def test_interpolation_starts_and_ends_at_the_data():
    model, batch = vae.tiny(0)
    lines = interpolate(model, batch.select(slice(0, 4)), steps=5)
    assert lines.shape == (2, 5, 3)
    rebuilt = model.likelihood(model.posterior(batch).mean.unsqueeze(0), batch.frame).mean[0]
    assert torch.allclose(lines[:, 0], rebuilt[[0, 2]])
    assert torch.allclose(lines[:, -1], rebuilt[[1, 3]])


def test_interpolation_of_several_latents():
    assert interpolate(Layered(), Batch(torch.randn(6, 2)), steps=4).shape == (3, 4, 2)


def test_observed_entries_are_returned_untouched(tiny):
    model, batch = tiny
    done = complete(model, batch, draws=3, sweeps=4)
    seen = batch.observed
    assert done.draws.dtype == batch.x.dtype
    assert torch.equal(done.mean[seen], batch.x[seen].to(done.mean))
    for draw in done.draws:
        assert torch.equal(draw[seen], batch.x[seen])


def test_steps_beyond_the_end_are_not_missing():
    model, batch = hmm.tiny(0)
    done = complete(model, batch, draws=30)
    beyond = torch.arange(4) >= torch.tensor([4, 2, 3, 1, 4]).unsqueeze(-1)
    assert (done.draws[:, beyond] == 0).all()
    assert len(done.draws[:, 0, 1].unique()) > 1


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_mixture_completes_by_the_closed_form(covariance):
    model = GaussianMixture(features=2, components=2, covariance=covariance).double()
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    seen = torch.tensor([0.3, -1.0], dtype=torch.float64)
    batch = Batch.of(torch.stack([seen, torch.full((2,), torch.nan, dtype=torch.float64)], 1))
    done = complete(model, batch, draws=20_000)
    mean, covariance_ = model.means.detach(), model.covariances.detach()
    deviation = covariance_[:, 0, 0].sqrt()
    log_r = model.weights.log() + Normal(mean[:, 0], deviation).log_prob(seen.unsqueeze(-1))
    gain = covariance_[:, 1, 0] / covariance_[:, 0, 0]
    each = mean[:, 1] + gain * (seen.unsqueeze(-1) - mean[:, 0])
    want = (log_r.softmax(-1) * each).sum(-1)
    assert torch.allclose(done.mean[:, 1], want)
    left = covariance_[:, 1, 1] - gain * covariance_[:, 1, 0]
    variance = (log_r.softmax(-1) * (each**2 + left)).sum(-1) - want**2
    error = 5 * (variance / 20_000).sqrt()
    assert ((done.draws[..., 1].mean(0) - want).abs() < error).all()
    assert torch.allclose(done.draws[..., 1].var(0), variance, rtol=0.1)


def test_chain_fills_in_a_symbol_by_its_posterior():
    model, batch = hmm.tiny(0)
    logs = []
    for symbol in range(3):
        mask = batch.mask.clone()
        mask[0, 1] = True
        x = batch.x.clone()
        x[0, 1] = symbol
        logs.append(model.posterior(batch._replace(x=x, mask=mask)).log_partition[0])
    want = torch.stack(logs).softmax(0)
    draws = complete(model, batch, draws=20_000).draws[:, 0, 1]
    frequency = torch.bincount(draws, minlength=3) / len(draws)
    assert torch.allclose(frequency.double(), want, atol=0.015)


def test_chains_reach_the_brute_force_conditional():
    """p(x_missing | x_observed) by quadrature over the one dimension of z; the untrained encoder proposes badly."""
    model, batch = vae.tiny(2)
    mask = torch.ones(1, 3, dtype=torch.bool)
    mask[0, 1:] = False
    batch = Batch.of(batch.x[:1], mask)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64).reshape(-1, 1, 1)
    logs = {}
    for pair in itertools.product((0.0, 1.0), repeat=2):
        x = torch.cat([batch.x[:, :1], torch.tensor([pair], dtype=torch.float64)], 1)
        logs[pair] = torch.logsumexp(model.log_joint(Batch(x), z), 0)
    want = torch.stack(list(logs.values())).squeeze(-1).softmax(0)
    done = complete(model, batch, draws=3000, sweeps=60)
    code = (2 * done.draws[:, 0, 1] + done.draws[:, 0, 2]).long()
    frequency = torch.bincount(code, minlength=4) / len(code)
    assert torch.allclose(frequency.double(), want, atol=0.03)
    assert float(done.mean[0, 1]) == pytest.approx(float((want[2] + want[3]).detach()), abs=0.01)
    assert float(done.mean[0, 2]) == pytest.approx(float((want[1] + want[3]).detach()), abs=0.01)


def test_several_latents_are_completed():
    """x ~ N(shift, 3 I) in all, and its columns are independent: a missing one keeps its prior mean and variance."""
    x = torch.tensor([[0.5, float("nan")]])
    done = complete(Layered(), Batch.of(x), draws=2000, sweeps=200)
    assert float(done.mean[0, 1]) == pytest.approx(1.0, abs=0.15)
    assert float(done.draws[:, 0, 1].var()) == pytest.approx(3.0, rel=0.15)


def test_levels_have_an_expected_level():
    probs = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    assert expected(Categorical(probs)).tolist() == [1.0, 1.0]
    model = VAE(event_shape=(2,), symbols=3, latent=1, hidden=(3,), likelihood="categorical")
    mask = torch.tensor([[True, False]])
    done = complete(model, Batch.of(torch.tensor([[2, 1]]), mask), draws=4, sweeps=4)
    assert done.draws.dtype == torch.int64
    assert 0 <= float(done.mean[0, 1]) <= 2
    assert np.isfinite(done.mean.numpy()).all()
