"""Learners: what they promise about steps, seeds, settings, checkpoints and failures."""

from __future__ import annotations

import math
import platform
import resource
import sys
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from latentia.data import Dataset, load
from latentia.errors import CapabilityError, DataError, LikelihoodFell, NonFiniteError, OptionError
from latentia.learners import EM, Checkpoint, Gradient
from latentia.learners.adam import Adam
from latentia.learners.ascent import climbed
from latentia.learners.schedules import SCHEDULES, learning_rate
from latentia.learners.settings import fitting, flushes_denormals, seed_for, whole_steps
from latentia.model import Batch
from latentia.models import HMM, VAE, GaussianMixture
from latentia.models.vaes import conv_ladder, missing_data_vae
from latentia.models.vaes import vae as vae_file
from latentia.objectives import elbo, exact, iwae


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", binarize="dynamic").subset(slice(0, 300))


@pytest.fixture(scope="module")
def cloud() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    x[:200] = 0.5 * x[:200] + torch.tensor([4.0, -2.0])
    return load(x)


def vae() -> VAE:
    return VAE((8, 8), latent=4, hidden=(16,))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    pass


def stop_after(count: int):
    seen = []

    def callback(record):
        seen.append(record)
        if len(seen) == count:
            raise Stop

    return callback


# ---------------------------------------------------------------------------------------------------------------- EM


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has habits of its own")
def test_a_fit_keeps_the_memory_that_a_step_frees():
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            [torch.ones(5_000_000) for _ in range(4)]  # 80 MB at once, which is given back to the system elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with fitting("highest", 0):
        faults()
        kept = faults()
    assert 4 * kept < faults()  # how many there are is for the size of a page to say: 400,000 small ones, 800 huge ones


def test_a_fit_does_without_the_c_library(monkeypatch, digits):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert Gradient(epochs=1, progress=False).fit(vae(), digits).records


def test_em_climbs_converges_and_ends_where_it_says(cloud):
    model = GaussianMixture(2, 3).double()
    history = EM(steps=500, tol=1e-9).fit(model, cloud)
    values = [record["log_marginal"] for record in history.records]
    assert history.stopped == "converged"
    assert all(b >= a - 1e-12 for a, b in pairwise(values))
    final = model.posterior(cloud.batch()).log_partition.mean().item()
    assert values[-1] == pytest.approx(final, abs=1e-10)


@pytest.mark.filterwarnings("ignore:EM stopped")
def test_em_counts_updates_not_measurements(cloud):
    history = EM(steps=3, tol=0).fit(model := GaussianMixture(2, 2).double(), cloud)
    assert [record["step"] for record in history.records] == [0, 1, 2, 3]
    by_hand = GaussianMixture(2, 2).double()
    by_hand.start(cloud.batch(), torch.Generator().manual_seed(seed_for(0, 0)))
    with torch.no_grad():
        for _ in range(3):
            by_hand.update(by_hand.statistics(cloud.batch(), by_hand.posterior(cloud.batch())))
    by_hand.canonical()
    assert torch.allclose(model.means, by_hand.means, atol=1e-10)


def test_em_says_when_it_has_not_converged(cloud):
    with pytest.warns(UserWarning, match="raise steps"):
        history = EM(steps=1, tol=0).fit(GaussianMixture(2, 2).double(), cloud)
    assert history.stopped == "steps"


def test_restarts_keep_the_best():
    data = load(torch.cat([torch.randn(50, 1, generator=torch.Generator().manual_seed(3)) * 0.1 + c for c in range(6)]))
    one = {seed: EM(restarts=1, tol=1e-4).fit(GaussianMixture(1, 6).double(), data, seed=seed) for seed in range(3)}
    model = GaussianMixture(1, 6).double()
    history = EM(restarts=6, tol=1e-4).fit(model, data)
    ends = {record["restart"]: record["log_marginal"] for record in history.records}
    assert len(ends) == 6
    assert model.posterior(data.batch(dtype=torch.float64)).log_partition.mean().item() == pytest.approx(
        max(ends.values()), abs=1e-9
    )
    assert len({round(h.records[-1]["log_marginal"], 6) for h in one.values()} | set(ends.values())) > 1


@pytest.mark.filterwarnings("ignore:EM stopped")
def test_hard_em_on_a_tight_mixture_is_lloyd():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(60, 2, generator=generator).double() + 6 * torch.eye(2).double()[i] for i in range(2)])
    model = GaussianMixture(2, 2, covariance="diagonal").double()
    model.means.data = x[[0, 60]].clone()
    model.emissions.log_scale.data.fill_(0.0)
    EM(steps=1, tol=0, hard=True, fresh=False).fit(model, load(x))
    nearest = torch.cdist(x, x[[0, 60]]).argmin(1)
    lloyd = torch.stack([x[nearest == k].mean(0) for k in range(2)])
    assert torch.allclose(model.means, lloyd, atol=1e-12)


@pytest.mark.filterwarnings("ignore:EM stopped")
def test_stepwise_em_reaches_what_batch_em_reaches(cloud):
    batch, steps = GaussianMixture(2, 2).double(), GaussianMixture(2, 2).double()
    EM(tol=1e-10).fit(batch, cloud)
    EM(steps=30, tol=0, stepwise=0.7, batch_size=50).fit(steps, cloud)
    with torch.no_grad():
        a, b = (m.posterior(cloud.batch()).log_partition.mean().item() for m in (batch, steps))
    assert b == pytest.approx(a, abs=0.02)


def test_em_weights_are_repetitions(cloud):
    weight = torch.randint(0, 3, (len(cloud),), generator=torch.Generator().manual_seed(0))
    repeated = load(cloud.x.repeat_interleave(weight, 0))
    weighted = load(cloud.x, weight=weight.numpy())
    models = []
    for data in (repeated, weighted):
        model = GaussianMixture(2, 2).double()
        model.means.data = torch.tensor([[0.0, 0.0], [4.0, -2.0]], dtype=torch.float64)
        EM(steps=20, tol=0, fresh=False).fit(model, data)
        models.append(model)
    assert torch.allclose(models[0].covariances, models[1].covariances, atol=1e-10)


def test_em_stops_when_log_p_falls(cloud):
    class Wrong(GaussianMixture):
        def update(self, total):
            super().update(total)
            self.means.data += 0.3

    with pytest.raises(LikelihoodFell, match="M-step of Wrong"):
        EM().fit(Wrong(2, 2).double(), cloud)


def test_em_needs_an_m_step(digits):
    with pytest.raises(CapabilityError, match="make VAE an EMModel"):
        EM().fit(vae(), digits)


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"stepwise": 0.4}, {"fresh": False, "restarts": 2}])
def test_em_refuses_options_without_sense(options):
    with pytest.raises(OptionError):
        EM(**options)


# ---------------------------------------------------------------------------------------------------------- gradient


def test_gradient_climbs_and_keeps_the_best_epoch(digits):
    train, validation = digits.split(0.2)
    model = vae()
    history = Gradient(epochs=15, batch_size=32).fit(model, train, validation=validation)
    bounds = [record["validation_bound"] for record in history.records]
    assert bounds[-1] > bounds[0] + 1
    learner = Gradient(epochs=1, batch_size=32)
    assert max(bounds) == pytest.approx(_validation(learner, model, validation), abs=1e-4)


def _validation(learner, model, validation):
    from latentia.learners.gradient import _Fit

    with fitting("highest", 0):
        return _Fit(learner, model, validation, validation, 0, (), None)._validate()


def test_early_stopping_waits_patience_epochs(digits):
    train, validation = digits.split(0.2)
    history = Gradient(epochs=200, lr=0.05, patience=3, batch_size=32).fit(vae(), train, validation=validation)
    bounds = [record["validation_bound"] for record in history.records]
    assert history.stopped == "patience"
    assert len(bounds) - 1 - bounds.index(max(bounds)) == 3


def test_same_seed_same_parameters_another_seed_others(digits):
    models = []
    for seed, noise in ((0, 1), (0, 2), (1, 3)):
        torch.manual_seed(noise)  # construction and the caller's generator have no say
        model = vae()
        Gradient(epochs=2).fit(model, digits, seed=seed)
        models.append(parameters(model))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_global_settings_are_put_back(digits):
    model = vae()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert not flushes_denormals()
    inside = []
    Gradient(epochs=1, precision="medium").fit(
        model, digits, callbacks=[lambda _: inside.append((flushes_denormals(), torch.get_float32_matmul_precision()))]
    )
    assert inside == [(True, "medium")]
    assert not flushes_denormals()
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(Stop):
        Gradient(epochs=1, precision="medium").fit(vae(), digits, callbacks=[stop_after(1)])
    assert torch.get_float32_matmul_precision() == "highest"
    assert not flushes_denormals()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch's threads are another library's")
def test_denormals_are_flushed_in_threads_that_were_there_before_the_fit():
    denormal = torch.full((400_000,), 1e-38)

    def flushed() -> float:
        return float((denormal * 1e-3 == 0).double().mean())

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        before = flushed()  # starts the second thread
        with fitting("highest", 0):
            inside = flushed()
            torch.set_num_threads(1)  # whoever does so finds the other thread as it was, too
        torch.set_num_threads(2)
        assert (before, inside, flushed()) == (0, 1, 0)
    finally:
        torch.set_num_threads(threads)


def test_exact_objective_climbs_log_p_by_gradient(cloud):
    model, by_em = GaussianMixture(2, 2).double(), GaussianMixture(2, 2).double()
    EM(tol=1e-10).fit(by_em, cloud)
    Gradient(objective=exact, epochs=150, lr=0.05, batch_size=400, schedule="cosine").fit(model, cloud)
    with torch.no_grad():
        a, b = (m.posterior(cloud.batch()).log_partition.mean().item() for m in (by_em, model))
    assert b == pytest.approx(a, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"anneal": "linear"}, {"objective": partial(iwae, samples=4)}], ids=str)
def test_a_compiled_objective_learns_what_the_plain_one_does(digits, options):
    fits = []
    for compiled in (False, True):
        model = VAE(event_shape=(8, 8), latent=3, hidden=(16,))
        learner = Gradient(epochs=2, batch_size=300, compile=compiled, progress=False, **options)
        fits.append(learner.fit(model, digits).records[-1]["bound"])
    # inductor draws other random numbers
    assert fits[1] == pytest.approx(fits[0], abs=1.0)


def test_a_weight_of_the_kl_stays_a_fraction_where_x_is_whole_numbers(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    data = load(torch.arange(60).reshape(20, 3) % 4, values="levels")
    bounds = []
    for compiled in (False, True):
        learner = Gradient(partial(elbo, beta=0.5), epochs=3, batch_size=5, compile=compiled, progress=False)
        model = VAE((3,), latent=2, hidden=(4,), likelihood="categorical", symbols=4)
        bounds.append(learner.fit(model, data).records[-1]["bound"])
    assert bounds[0] == bounds[1]


COMPILED = {
    "elbo": elbo,
    "stl": partial(elbo, stl=True),
    "iwae": partial(iwae, samples=3),
    "dreg": partial(iwae, samples=3, gradient="dreg"),
}


COMPILED_MODELS = [vae_file, missing_data_vae, pytest.param(conv_ladder, marks=pytest.mark.slow)]


@pytest.mark.parametrize("module", COMPILED_MODELS, ids=["vae", "missing_data_vae", "conv_ladder"])
@pytest.mark.parametrize("objective", COMPILED.values(), ids=COMPILED)
def test_a_bound_and_its_gradient_compile_to_one_graph(module, objective):
    model, batch = module.tiny(0)
    model = model.float()
    batch = Batch.of(batch.x.float(), batch.mask)
    found = []
    torch.compiler.reset()  # torch keeps but a few
    with whole_steps():
        for function in (climbed, torch.compile(climbed, backend="aot_eager", fullgraph=True)):
            torch.manual_seed(0)
            found.append(function(objective, model, batch, list(model.parameters())))
    torch.testing.assert_close(*(tuple(ascent.slopes) for ascent in found))
    torch.testing.assert_close(*(ascent.mean for ascent in found))


def test_clip_limits_the_step(digits, monkeypatch):
    norms, step = [], Adam.step

    def seen(self, slopes, rate):
        norms.append(nn.utils.get_total_norm(slopes).item())
        step(self, slopes, rate)

    monkeypatch.setattr(Adam, "step", seen)
    history = Gradient(epochs=1, clip=1e-3).fit(vae(), digits)
    assert len(norms) > 1
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)
    assert history.records[0]["gradient_norm"] > 1e-3


class Shifted(nn.Module):
    """An encoder with a shift in two parts, whose gradients are one tensor."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.parts = nn.ParameterList([torch.zeros(64), torch.zeros(64)])

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x + self.parts[0] + self.parts[1])


def test_clip_counts_a_shared_gradient_for_each(digits):
    model = VAE(event_shape=(8, 8), latent=3, encoder=Shifted(nn.Linear(64, 6)))
    # a large eps: Adam does not see what all gradients are divided by otherwise
    Gradient(epochs=1, clip=1e-3, eps=1e-3).fit(model, digits)
    a, b = model.encoder.parts  # type: ignore[misc]
    assert a.abs().sum() > 0
    torch.testing.assert_close(a, b)


def test_what_is_frozen_stays_where_it_is_until_a_callback_frees_it(digits):
    model = vae()
    parameters = dict(model.named_parameters())
    name = next(iter(parameters))
    parameters[name].requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    resting = []

    def free(record):
        resting.append([name for name, parameter in parameters.items() if torch.equal(parameter, before[name])])
        parameters[name].requires_grad_(True)

    Gradient(epochs=2, fresh=False).fit(model, digits, callbacks=[free])
    assert resting == [[name], []]
    with pytest.raises(OptionError, match="frozen"):
        Gradient(epochs=1).fit(model.requires_grad_(False), digits)


def test_adam_is_torchs_also_where_some_parameters_rest():
    torch.manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(n)) for n in ((3, 2), (1,), (4,))] for _ in range(2))
    adam, peer = Adam(ours, 1e-8), torch.optim.Adam(theirs, lr=0.1)
    for step in range(6):
        # some in another layout: transposed, or one number for all
        slopes = [torch.randn(2, 3).t(), torch.randn(1), torch.randn(()).expand(4)]
        slopes = [None if (step + i) % 3 == 0 and step > 1 else slope for i, slope in enumerate(slopes)]
        adam.step(slopes, 0.1)
        for parameter, slope in zip(theirs, slopes, strict=True):
            parameter.grad = None if slope is None else slope.contiguous()
        peer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_weights_count_in_the_objective(digits):
    x = digits.x.round()
    x[100:] = 1 - x[100:]
    data = Dataset(x, None, digits.schema, drawn=True)
    weight = torch.zeros(len(data), dtype=torch.float64)
    weight[:100] = 1
    weighted = Dataset(data.x, None, data.schema, weight=weight, drawn=True)
    a = Gradient(epochs=1, lr=1e-12, batch_size=300, objective=partial(iwae, samples=200)).fit(vae(), weighted)
    b = Gradient(epochs=1, lr=1e-12, batch_size=300, objective=partial(iwae, samples=200)).fit(
        vae(), data.subset(slice(0, 100))
    )
    # the output bias starts at the weighted mean, so only the draws differ
    assert a.records[0]["bound"] == pytest.approx(b.records[0]["bound"], abs=0.2)
    whole = Gradient(epochs=1, lr=1e-12, batch_size=300, objective=partial(iwae, samples=200)).fit(vae(), data)
    assert abs(whole.records[0]["bound"] - b.records[0]["bound"]) > 2


class TestNonFinite:
    def test_names_the_kl(self, digits):
        def broken(model, batch):
            bound = elbo(model, batch)
            return bound._replace(value=bound.value * math.nan, kl=bound.kl * math.nan)

        with pytest.raises(NonFiniteError, match=r"kl is not finite .* epoch 1, step 1"):
            Gradient(objective=broken).fit(vae(), digits)

    def test_names_the_parameter(self, digits):
        model = vae()
        with torch.no_grad():
            model.decoder[0].weight[0, 0] = math.inf
        with pytest.raises(NonFiniteError, match=r"parameter decoder\.0\.weight"):
            Gradient(fresh=False).fit(model, digits)

    def test_names_the_posterior(self, digits):
        model = vae()
        with torch.no_grad():
            model.encoder[-1].bias[4:] = 200.0
        with pytest.raises(NonFiniteError, match="posterior's standard deviation"):
            Gradient(fresh=False).fit(model, digits)

    def test_names_the_gradient(self, digits):
        class Poison(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, *grad):
                return grad[0] * math.inf

        class Decoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.last = nn.Linear(4, 64)

            def forward(self, z):
                return Poison.apply(self.last(z))

        with pytest.raises(NonFiniteError, match=r"gradient of (decoder\.last\.weight|encoder\.0\.weight)"):
            Gradient().fit(VAE((8, 8), latent=4, hidden=(16,), decoder=Decoder()), digits)


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"lr": 0.0}, {"lr": math.nan}, {"clip": -1.0}, {"schedule": "steps"}, {"precision": "low"}],
)
def test_gradient_refuses_options_without_sense(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Gradient(**options)


def test_an_unknown_device_is_an_option_error(digits):
    with pytest.raises(OptionError, match="device"):
        Gradient(device="toaster").fit(vae(), digits)


def test_grey_values_under_a_bernoulli_are_refused():
    with pytest.raises(DataError, match="binarize"):
        Gradient(epochs=1).fit(vae(), load("digits"))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_at_the_peak_and_do_not_rise(name):
    rates = [learning_rate(name, 0.1, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert all(b <= a for a, b in pairwise(rates))
    warm = [learning_rate(name, 0.1, step, 100, warmup=10) for step in range(11)]
    assert warm[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert warm[10] == pytest.approx(0.1)


# ---------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("interrupted_after", [1, 2, 5])
def test_gradient_resumes_bit_for_bit(digits, tmp_path, interrupted_after):
    train, validation = digits.split(0.2)
    learner = Gradient(epochs=6, batch_size=64, schedule="cosine")
    through = vae()
    whole = learner.fit(through, train, validation=validation)
    with pytest.raises(Stop):
        learner.fit(
            vae(),
            train,
            validation=validation,
            checkpoint=Checkpoint(tmp_path / "c.safetensors"),
            callbacks=[stop_after(interrupted_after + 1)],
        )
    model = vae()
    rest = learner.fit(model, train, validation=validation, checkpoint=Checkpoint(tmp_path / "c.safetensors"))
    assert same(parameters(through), parameters(model))
    assert [r["bound"] for r in rest.records] == [r["bound"] for r in whole.records][interrupted_after:]


@pytest.mark.parametrize("interrupted_after", [1, 7, 12])
def test_em_resumes_bit_for_bit(tmp_path, interrupted_after):
    data = load("sentences", min_count=5).subset(slice(0, 100))
    learner = EM(steps=5, tol=0, restarts=3)

    def model():
        return HMM(symbols=data.schema.levels, states=4).double()

    through = model()
    with pytest.warns(UserWarning, match="raise steps"):
        learner.fit(through, data)
    checkpoint = Checkpoint(tmp_path / "c.safetensors", every=0)
    with pytest.raises(Stop):
        learner.fit(model(), data, checkpoint=checkpoint, callbacks=[stop_after(interrupted_after + 1)])
    again = model()
    with pytest.warns(UserWarning, match="raise steps"):
        learner.fit(again, data, checkpoint=Checkpoint(tmp_path / "c.safetensors"))
    assert same(parameters(through), parameters(again))
