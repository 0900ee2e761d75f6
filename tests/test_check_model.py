"""Every model passes the universal checks, and every check fails on a model that breaks its promise."""

import functools
import re

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence, register_kl

from latentia import testing
from latentia.distributions import OneHot
from latentia.model import Batch, ends
from latentia.models import HMM, VAE, GaussianMixture
from latentia.models.chains import hmm
from latentia.models.mixtures import gaussian_mixture as gmm
from latentia.models.vaes import vae


@pytest.fixture(autouse=True)
def _one_thread():
    with testing.one_thread():
        yield


# --------------------------------------------------------------------------- more toy models than the files have


def scattered(model, seed, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for parameter in model.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, generator


def tiny_mixture(seed, covariance, data=40):
    model, generator = scattered(GaussianMixture(2, 2, covariance=covariance), seed)
    x = torch.randn(data, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 1] = mask[5, 0] = False
    return model, Batch.of(x, mask)


def tiny_gaussian_hmm(seed, covariance="diagonal", data=30):
    model, generator = scattered(HMM(features=1, states=2, covariance=covariance, smoothing=0.0, length=2), seed)
    x = torch.randn(data, 2, 1, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[3, 1] = mask[4, 0] = False
    lengths = torch.full((data,), 2)
    lengths[5] = 1
    return model, Batch.of(x, mask, lengths=lengths)


def tiny_smoothed_hmm(seed):
    model, generator = scattered(HMM(symbols=3, states=2, smoothing=0.5, length=3), seed, 1.0)
    return model, Batch(torch.randint(3, (6, 4), generator=generator))


def tiny_categorical_vae(seed):
    model, generator = scattered(VAE((2,), symbols=3, latent=2, hidden=(4,), likelihood="categorical"), seed)
    x = torch.randint(3, (4, 2), generator=generator)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0] = False
    return model, Batch.of(x, mask)


def tiny_gaussian_vae(seed):
    model, generator = scattered(VAE((2,), latent=1, hidden=(4,), likelihood="gaussian"), seed)
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 0] = False
    return model, Batch.of(x, mask)


EXTRA = {
    "diagonal mixture": functools.partial(tiny_mixture, covariance="diagonal"),
    "tied mixture": functools.partial(tiny_mixture, covariance="tied"),
    "spherical mixture": functools.partial(tiny_mixture, covariance="spherical"),
    "full mixture": functools.partial(tiny_mixture, covariance="full"),
    "Gaussian HMM": tiny_gaussian_hmm,
    "full Gaussian HMM": functools.partial(tiny_gaussian_hmm, covariance="full"),
    "smoothed HMM": tiny_smoothed_hmm,
    "categorical VAE": tiny_categorical_vae,
    "Gaussian VAE": tiny_gaussian_vae,
}
TINY = testing.all_models() | EXTRA

ENDS = {"check_padding", "check_hidden"}
EXACT = {
    "check_log_partition",
    "check_weights",
    "check_additive",
    "check_expect",
    "check_canonical",
    "check_em_ascends",
    "check_em_fixed_point",
    "check_em_recovers",
}
EVERY = {check.__name__ for check in testing.CHECKS}


CASES = [pytest.param(name, check, id=f"{name}-{check.__name__}") for name in TINY for check in testing.CHECKS]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_every_model_passes(name, check):
    try:
        check(TINY[name], 0)
    except testing.NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("hmm", {"check_nan"}),
        ("vae", EXACT | ENDS),
        ("full mixture", ENDS),
        ("Gaussian HMM", set()),
        ("Gaussian VAE", EXACT | ENDS),
    ],
)
def test_no_check_is_left_out_unnoticed(name, left_out):
    ran = set()
    for check in testing.CHECKS:
        try:
            check(TINY[name], 1)
            ran.add(check.__name__)
        except testing.NotApplicable:
            pass
    assert ran == EVERY - left_out


def test_every_model_file_is_found():
    assert {"gaussian_mixture", "hmm", "vae"} <= set(testing.all_models())


# ------------------------------------------------------------------------------------------------ broken models


def broken(tiny, **methods):
    """The same toy model with methods replaced; each is given the sound class as `sound`, to call its own."""

    def make(seed):
        model, batch = tiny(seed)
        sound = type(model)
        bound = {name: functools.partialmethod(_call, method, sound) for name, method in methods.items()}
        model.__class__ = type("Broken", (sound,), bound)
        return model, batch

    return make


def _call(self, method, sound, *args):
    return method(self, sound, *args)


class Backward(Normal):
    """A normal whose KL has the wrong sign."""


register_kl(Backward, Normal)(lambda q, p: -kl_divergence(Normal(q.loc, q.scale), p))


class Offset(Normal):
    """A normal that does not integrate to one."""

    def log_prob(self, value):
        return super().log_prob(value) + 2


class Uniform(OneHot):
    """Draws that ignore the probabilities."""

    def sample(self, sample_shape=()):
        return OneHot({"node": torch.zeros_like(self.log_potentials["node"])}).sample(sample_shape)


class Generous(OneHot):
    """Probabilities that sum to more than one."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.1


def as_class(normal, family):
    return Independent(family(normal.base_dist.loc, normal.base_dist.scale, validate_args=False), 1)


def shifted(self, sound, batch):
    return OneHot({"node": sound.posterior(self, batch).log_potentials["node"] + 0.1})


def tempered(self, sound, batch):
    return OneHot({"node": 0.9 * sound.posterior(self, batch).log_potentials["node"]})


def unnormalised_prior(self, sound, batch):
    return OneHot({"node": self.logits + self._log_prob(batch)})


def detached(self, sound, batch):
    return OneHot({"node": self.logits.detach().log_softmax(-1) + self._log_prob(batch)})


def doubled_gradient(self, sound, batch):
    node = self.logits.log_softmax(-1) + self._log_prob(batch)
    return OneHot({"node": 2 * node - node.detach()})


def unmasked_likelihood(self, sound, batch, z):
    return self.likelihood(z, batch.frame).log_prob(batch.x).flatten(2).sum(-1)


def silent(self, sound, batch, z):
    return 0 * z.sum((-1, -2))


def flattened(self, sound, batch, z):
    return 0.9 * sound.log_likelihood(self, batch, z)


def lowered(self, sound, batch, z):
    return sound.log_likelihood(self, batch, z) - 0.1


def uniform(self, sound, batch):
    return Uniform(sound.posterior(self, batch).log_potentials)


def generous(self, sound, batch):
    return Generous(sound.posterior(self, batch).log_potentials)


def unmasked_inputs(self, sound, batch):
    return batch.x.flatten(1)


def centred_inputs(self, sound, batch):
    x = sound._inputs(self, batch)
    return x - x.mean(0)


def placed_inputs(self, sound, batch):
    return sound._inputs(self, batch) + torch.arange(batch.size).unsqueeze(-1)


def whole_lengths(self, sound, batch):
    chain = sound.posterior(self, batch)
    return type(chain)(chain.log_potentials, torch.full_like(chain.lengths, batch.x.shape[1]))


def over_when_hidden(self, sound, batch):
    return sound.posterior(self, batch._replace(lengths=ends(batch.observed)))


def unweighted(self, sound, batch, posterior):
    return sound.statistics(self, batch._replace(weight=None), posterior)


def averaged(self, sound, batch, posterior):
    return {name: value / batch.size for name, value in sound.statistics(self, batch, posterior).items()}


def uniform_statistics(self, sound, batch, posterior):
    return sound.statistics(self, batch, OneHot({"node": torch.zeros_like(posterior.log_potentials["node"])}))


def overshooting(self, sound, total):
    before = self.emissions.means.data.clone()
    sound.update(self, total)
    self.emissions.means.data = before + 3 * (self.emissions.means.data - before)


def frozen(self, sound, total):
    before = self.emissions.means.data.clone()
    sound.update(self, total)
    self.emissions.means.data = before


def frozen_transitions(self, sound, total):
    before = self.transition_logits.data.clone()
    sound.update(self, total)
    self.transition_logits.data = before


def hurried(self, sound, batch, hard=False):
    sums, value = sound.expect(self, batch, hard)
    return {**sums, "count": sums["count"].round()}, value


def soft_only(self, sound, batch, hard=False):
    return sound.expect(self, batch)


def half_ordered(self, sound):
    self.logits.data = self.logits.data.sort().values


def tossed(self, sound):
    for parameter in self.emissions.parameters():
        parameter.data = parameter.data.flip(0)
    self.logits.data = self.logits.data.flip(0)


def own_start(self, sound, batch, generator):
    sound.start(self, batch, torch.Generator().manual_seed(int(torch.randint(10**9, ()))))


def other_x(self, sound, frame):
    batch, z = sound.generate(self, frame)
    return batch._replace(x=1 - batch.x), z


def wide_x(self, sound, frame):
    batch, z = sound.generate(self, frame)
    return batch._replace(x=batch.x + 0.1 * (batch.x - batch.x.mean(0))), z


def in_double(self, sound, batch, z):
    return sound.log_joint(self, batch, z).double()


def forgetful(seed):
    """Its offset is no parameter and no buffer: nothing saves it."""
    model, batch = broken(gmm.tiny, _log_prob=lambda self, sound, b: sound._log_prob(self, b) + self.offset)(seed)
    model.offset = 0.1 * seed
    return model, batch


def separated(seed):
    model, batch = tiny_mixture(seed, "full")
    model.emissions.means.data = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).double()
    return model, batch


full = functools.partial(tiny_mixture, covariance="full")

BROKEN = [
    ("check_bounds", "ELBO <= IWAE", broken(vae.tiny, posterior=lambda m, s, b: as_class(s.posterior(m, b), Backward))),
    ("check_bounds", "IWAE <= log p", broken(vae.tiny, prior=lambda m, s, b: as_class(s.prior(m, b), Offset))),
    ("check_bounds", "one draw of an exact", broken(gmm.tiny, posterior=tempered)),
    ("check_log_partition", "log-partition = brute", broken(gmm.tiny, posterior=shifted)),
    ("check_log_partition", "log-partition = brute", broken(hmm.tiny, log_likelihood=silent)),
    ("check_log_partition", "log_joint", broken(gmm.tiny, log_joint=lambda m, s, b, z: s.log_joint(m, b, z) - 0.1)),
    ("check_normalised", "sum_x p", broken(vae.tiny, log_likelihood=flattened)),
    ("check_normalised", "log-partition", broken(gmm.tiny, posterior=unnormalised_prior)),
    ("check_kl", "KL >= 0", broken(vae.tiny, posterior=lambda m, s, b: as_class(s.posterior(m, b), Backward))),
    ("check_kl", "KL = E_q", broken(vae.tiny, prior=lambda m, s, b: as_class(s.prior(m, b), Offset))),
    ("check_gradients", "none reaches logits", broken(gmm.tiny, posterior=detached)),
    ("check_gradients", "finite differences", broken(gmm.tiny, posterior=doubled_gradient)),
    ("check_batching", "order of a batch", broken(vae.tiny, _inputs=placed_inputs)),
    ("check_batching", "splitting a batch", broken(vae.tiny, _inputs=centred_inputs)),
    ("check_batching", "under the mask", broken(vae.tiny, _inputs=unmasked_inputs)),
    ("check_batching", "under the mask", broken(vae.tiny, log_likelihood=unmasked_likelihood)),
    ("check_padding", "beyond the end", broken(hmm.tiny, posterior=whole_lengths)),
    ("check_hidden", "hidden step", broken(hmm.tiny, posterior=over_when_hidden)),
    ("check_weights", "weight 2 = repeated", broken(gmm.tiny, statistics=unweighted)),
    ("check_weights", "weight 2 = repeated", broken(hmm.tiny, statistics=unweighted)),
    ("check_additive", "adds across batches", broken(gmm.tiny, statistics=averaged)),
    ("check_expect", "statistic count, hard=False", broken(gmm.tiny, expect=hurried)),
    ("check_expect", "log p(x), hard=True", broken(gmm.tiny, expect=soft_only)),
    ("check_canonical", "changes no log p(x)", broken(gmm.tiny, canonical=half_ordered)),
    ("check_canonical", "stands still", broken(gmm.tiny, canonical=tossed)),
    ("check_missing", "summing it out", broken(vae.tiny, log_likelihood=unmasked_likelihood)),
    ("check_missing", "nothing is seen", broken(vae.tiny, log_likelihood=lowered)),
    ("check_em_ascends", "never lowers", broken(full, update=overshooting)),
    ("check_em_fixed_point", "that of emissions.means", broken(full, update=frozen)),
    ("check_em_fixed_point", "that of transition", broken(hmm.tiny, update=frozen_transitions)),
    ("check_em_recovers", "short of it", broken(separated, statistics=uniform_statistics)),
    ("check_seed", "same start", broken(full, start=own_start)),
    ("check_seed", "same start", broken(vae.tiny, start=own_start)),
    ("check_save", "saved and loaded", forgetful),
    ("check_moves", "moved to torch.float32: log-joint is", broken(gmm.tiny, log_joint=in_double)),
    ("check_generate", "generate agrees", broken(vae.tiny, generate=other_x)),
    ("check_generate", "the covariance", broken(full, generate=wide_x)),
    ("check_posterior", "frequencies", broken(gmm.tiny, posterior=uniform)),
    ("check_posterior", "sum to one", broken(gmm.tiny, posterior=generous)),
    ("check_posterior", "log q", broken(gmm.tiny, posterior=tempered)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "message", "tiny"), BROKEN, ids=[f"{check}-{i}" for i, (check, *_) in enumerate(BROKEN)]
)
def test_a_broken_model_is_noticed(check, message, tiny):
    with pytest.raises(AssertionError, match=re.escape(message)):
        getattr(testing, check)(tiny, 0)


def test_nan_that_passes_the_door_is_noticed(monkeypatch):
    monkeypatch.setattr(Batch, "of", classmethod(lambda cls, x, mask=None, **others: cls(x, mask, **others)))
    with pytest.raises(AssertionError, match="NaN at the door"):
        testing.check_nan(full, 0)


def test_every_check_has_a_model_that_fails_it():
    assert {check for check, *_ in BROKEN} | {"check_nan"} == EVERY


def test_check_model_names_the_model_the_check_and_the_gap():
    with pytest.raises(AssertionError, match=r"Broken, check_log_partition, seed 3: log_joint.*off by .* allowed"):
        testing.check_model(
            broken(hmm.tiny, log_joint=lambda m, s, b, z: s.log_joint(m, b, z) - 0.1, posterior=_plain), seeds=(3,)
        )


def _plain(self, sound, batch):
    return sound.posterior(self, batch)


def test_check_model_returns_what_it_ran():
    assert set(testing.check_model(vae.tiny, seeds=(2,))) == EVERY - EXACT - ENDS


def test_check_model_wants_float64():
    def single(seed):
        model, batch = vae.tiny(seed)
        return model.float(), batch

    with pytest.raises(AssertionError, match="float64"):
        testing.check_model(single)
