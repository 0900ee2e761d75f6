"""A diffusion over the latents of another model: its bound where that is a formula, what it learns, what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MixtureSameFamily, Normal

from latentia import cli
from latentia.batch import Batch, Frame
from latentia.data import Stream, load
from latentia.data.blocks import Rows
from latentia.data.stream import survey
from latentia.errors import CapabilityError, LatentiaError, OptionError, RunError
from latentia.evaluate import evaluate
from latentia.inference.annealed import Annealing
from latentia.learners import Gradient
from latentia.measure import evaluation
from latentia.measure.marginal import log_marginal
from latentia.model import DirectedModel
from latentia.models import HMM, VAE, LanguageModel, LatentDiffusion
from latentia.models.diffusion.latent_diffusion import tiny
from latentia.objectives import elbo, iwae
from latentia.runs.config import Config, Source
from latentia.runs.directory import Run
from latentia.runs.saved import load_model
from latentia.tasks import complete, generate, interpolate
from latentia.testing import agrees

NOISE = 0.15
MEANS = torch.tensor([[-1.2, 0.4], [0.8, -0.9], [0.6, 1.1]])


class Noisy(DirectedModel):
    """z is x but for noise: what a prior over z has to be like is what the data are like."""

    def __init__(self):
        super().__init__()
        self.move = nn.Parameter(torch.zeros(2))

    def prior(self, frame):
        zero = self.anchor.new_zeros(frame.size, 2)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def likelihood(self, z, frame):
        return Normal(z - self.move, NOISE)

    def posterior(self, batch):
        return Independent(Normal(batch.x + self.move, NOISE), 1)


def clusters(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return MEANS[torch.randint(3, (size,), generator=generator)] + 0.1 * torch.randn(size, 2, generator=generator)


def test_before_it_has_learned_it_is_the_normal_of_the_codes():
    """v = 0 and learned ends: the bound is the density of a normal but for what the ends leave."""
    x = clusters(500).double()
    model = LatentDiffusion(Noisy().double())
    model.start(Batch(x), torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.loc, x.mean(0))
    torch.testing.assert_close(model.scale, (x.var(0, correction=0) + NOISE**2).sqrt())
    z = x[:50].unsqueeze(0)
    with torch.no_grad():
        found = model.prior(Frame(50)).log_prob_bound(z)
    truth = Independent(Normal(model.loc, model.scale), 1).log_prob(z)
    torch.testing.assert_close(found, truth, rtol=0, atol=5e-3)


def fitted(**options):
    torch.manual_seed(0)
    model = LatentDiffusion(Noisy(), hidden=64, layers=2, **options)
    learner = Gradient(elbo, epochs=60, batch_size=250, lr=3e-3, schedule="cosine", progress=False)
    return model, learner.fit(model, clusters(1000))


@pytest.fixture(scope="module")
def learned():
    return fitted()[0]


def test_it_learns_what_the_codes_are_like(learned):
    """The bound comes from below to what the best prior has, the distribution of the codes themselves: that bound
    is E_q[log p(x | z) + log q(z) - log q(z | x)], all of it known."""
    x = clusters(1000, 1)
    base = Noisy()
    before = evaluate(base, x, importance_samples=5)
    found = evaluate(learned, x, importance_samples=16)
    assert found.method == "bound"
    q = base.posterior(Batch(x))
    torch.manual_seed(0)
    z = q.sample((20,))
    parts = Independent(Normal(MEANS, math.hypot(0.1, NOISE)), 1)
    best = MixtureSameFamily(torch.distributions.Categorical(torch.ones(3)), parts)
    fit = base.likelihood(z, Frame(1000)).log_prob(x).sum(-1)
    limit = (fit + best.log_prob(z) - q.log_prob(z)).mean(0).detach()
    noise = math.hypot(found.log_marginal_mc_se, float(limit.std()) / math.sqrt(len(x)))
    assert found.log_marginal < float(limit.mean()) + 4 * noise
    assert found.log_marginal > float(limit.mean()) - 0.4
    assert found.log_marginal > before.elbo + 0.5


def test_draws_are_like_the_codes(learned):
    drawn, z = generate(learned, 1500, seed=1)
    assert drawn.x.shape == z.shape == (1500, 2)
    distance, cluster = torch.cdist(z, MEANS).min(1)
    share = torch.bincount(cluster, minlength=3) / 1500
    assert float((share - 1 / 3).abs().max()) < 0.1
    assert float((distance < 4 * math.hypot(0.1, NOISE)).double().mean()) > 0.9
    # of the normal prior before, a third is nowhere near
    assert float((torch.cdist(torch.randn(1500, 2), MEANS).min(1).values < 0.72).double().mean()) < 0.75


def test_the_base_is_a_copy_that_is_frozen_unless_it_learns_too():
    base = Noisy()
    model = LatentDiffusion(base)
    assert not any(parameter.requires_grad for parameter in model.base.parameters())
    assert not model.base.training
    assert base.move.requires_grad
    learner = Gradient(elbo, epochs=2, batch_size=100, progress=False)
    learner.fit(model, clusters(200))
    assert bool((model.base.move == 0).all())
    both = LatentDiffusion(base, joint=True)
    learner.fit(both, clusters(200))
    assert bool((both.base.move != 0).any())
    assert bool((base.move == 0).all())


def test_below_what_generating_shows():
    """Of three pixels each of the 8 pictures is drawn about as often as its probability, and the bound is below it."""
    model, _ = tiny(0)
    x = torch.cartesian_prod(*[torch.arange(2)] * 3).double()
    drawn, _ = generate(model, 20_000)
    counts = torch.bincount((drawn.x @ torch.tensor([4.0, 2.0, 1.0]).double()).long(), minlength=8)
    share = counts / counts.sum()
    with torch.no_grad():
        found = torch.stack([elbo(model, Batch(x), samples=20).value for _ in range(100)])
    slack = 5 * ((1 - share) / counts).sqrt() + 5 * found.std(0) / 10
    assert bool((found.mean(0) < share.log() + slack).all())


def test_between_two_data_the_way_goes_through_noise(learned):
    x = torch.stack([MEANS[0], MEANS[1]])
    way = interpolate(learned, x, steps=9)
    assert way.shape == (1, 9, 2)
    torch.testing.assert_close(way[0, [0, -1]], x, rtol=0, atol=0.12)
    # on the straight line half the points are far from all data
    straight = torch.lerp(x[0], x[1], torch.linspace(0, 1, 9).unsqueeze(-1))
    far = [float(torch.cdist(one, MEANS).min(1).values.max()) for one in (way[0], straight)]
    assert far[0] < far[1] + 0.05


def test_self_conditioning_and_all_schedules_learn():
    for options in ({"self_conditioned": True, "schedule": "sigmoid"}, {"learned_ends": False, "schedule": "linear"}):
        torch.manual_seed(0)
        model = LatentDiffusion(Noisy(), hidden=32, layers=1, **options)
        history = Gradient(elbo, epochs=12, batch_size=250, lr=3e-3, progress=False).fit(model, clusters(1000))
        assert history.records[-1]["bound"] > history.records[0]["bound"] + 0.3


def test_what_needs_a_density_is_refused():
    model, batch = tiny(0)
    data = batch._replace(mask=None)
    for ask in (
        lambda: iwae(model, batch),
        lambda: log_marginal(model, _as_dataset(data)),
        lambda: evaluate(model, data, naive=True, importance_samples=2),
        lambda: evaluate(model, data, annealing=Annealing(steps=2, chains=2, simulated=0), importance_samples=2),
        lambda: complete(model, batch),
        lambda: model.log_joint(batch, model.posterior(batch).sample((1,))),
    ):
        with pytest.raises(CapabilityError, match="only a bound on it"):
            ask()


def _as_dataset(batch):
    from latentia.data import as_dataset

    return as_dataset(batch)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda: HMM(symbols=3, states=2), "has to be one vector"),
        (lambda: LanguageModel(3, 2), "has to be one vector"),
        (lambda: LatentDiffusion(Noisy()), "a diffusion already"),
        (lambda: nn.Linear(2, 2), "no prior and likelihood"),
    ],
)
def test_a_base_that_is_none_is_refused(base, message):
    with pytest.raises(CapabilityError, match=message):
        LatentDiffusion(base())


def test_a_context_gives_draws_of_its_own():
    """Codes of two classes that lie apart: draws in a context are its class's, and guidance sends fewer astray."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(2, (1000, 1), generator=generator)
    x = (2.0 * classes - 1) * torch.tensor([[1.0, 0.5]]) + 0.6 * torch.randn(1000, 2, generator=generator)
    torch.manual_seed(0)
    model = LatentDiffusion(Noisy(), hidden=32, layers=2, context=(2,), drop_context=0.2)
    learner = Gradient(elbo, epochs=40, batch_size=250, lr=3e-3, schedule="cosine", progress=False)
    learner.fit(model, Batch(x, context=Batch(classes.float())))
    asked = Batch(torch.ones(1000, 1))
    plain = generate(model, 1000, context=asked)[1]
    assert agrees(plain.double(), torch.tensor([1.0, 0.5]).double(), slack=0.15)
    model.sampling = type(model.sampling)(100, guidance=3.0)
    assert float(generate(model, 1000, context=asked)[1][:, 0].mean()) > float(plain[:, 0].mean()) + 0.1
    # without a context both classes come
    free = generate(model, 1000)[1][:, 0]
    assert 0.3 < float((free > 0).double().mean()) < 0.7


def config(model, **options):
    data = Source("digits", first=100)
    learner = {"epochs": 1, "batch_size": 50}
    return Config(model, data, options, "Gradient", learner, "elbo", importance_samples=2)


def test_a_run_is_built_upon_another(tmp_path):
    base = Run.create(tmp_path / "base", config("VAE", latent=2, hidden=[8]))
    base.fit(progress=False)
    run = Run.create(tmp_path / "prior", config("LatentDiffusion", base=str(tmp_path / "base"), hidden=8, layers=1))
    run.fit(progress=False)
    model = run.model()
    assert isinstance(model, LatentDiffusion)
    assert run.schema.to_json() == base.schema.to_json()
    for name, value in base.model().state_dict().items():
        assert torch.equal(model.base.state_dict()[name], value)
    assert generate(model, 2)[0].x.shape == (2, 8, 8)
    assert run.evaluate(2)["method"] == "bound"
    with pytest.raises(OptionError, match=r"--model\.base"):
        Run.create(tmp_path / "none", config("LatentDiffusion")).fit(progress=False)
    with pytest.raises(RunError, match="not a run directory"):
        Run.create(tmp_path / "other", config("LatentDiffusion", base=str(tmp_path / "nowhere"))).fit(progress=False)


def test_the_command_builds_upon_a_run_and_draws_as_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(*words):
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in words])
        return left.value.code, capsys.readouterr()

    fit = ("--data", "digits", "--first", 60, "--learner.epochs", 1, "--evaluation", "false")
    assert command("fit", "--model", "VAE", "--model.latent", 2, "--model.hidden", "[4]", *fit, "--out", "base")[0] == 0
    upon = ("fit", "--model", "LatentDiffusion", "--model.hidden", 4, "--model.layers", 1, *fit)
    assert command(*upon, "--model.base", "base", "--out", "prior")[0] == 0
    status, said = command("evaluate", "prior", "--importance_samples", 2)
    assert status == 0
    assert "log p(x), at least" in said.out
    assert "this model has a bound, and no density" in " ".join(said.out.split())
    assert command("sample", "prior", "--n", 2, "--steps", 3, "--method", "ddim")[0] == 0
    status, said = command("sample", "base", "--n", 2, "--steps", 3)
    assert status == 2
    assert "--steps: VAE draws without" in said.err
    status, said = command(*upon, "--out", "other")
    assert status == 2
    assert "model.base" in said.err
    status, said = command("detect", "prior")
    assert status == 2
    assert "only a bound on it" in said.err


def test_it_is_saved_with_its_base(tmp_path):
    model = LatentDiffusion(VAE((2,), latent=2, hidden=(3,)), hidden=4, layers=1, steps=3)
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    torch.testing.assert_close(generate(again, 4)[1], generate(model, 4)[1])
    with pytest.raises(LatentiaError, match="no plain value"):
        LatentDiffusion(VAE((2,), latent=1, encoder=nn.Linear(2, 2))).save(tmp_path / "own")
    LatentDiffusion(Noisy()).save(tmp_path / "unknown")
    with pytest.raises(RunError, match="upon 'Noisy'"):
        load_model(tmp_path / "unknown")


def test_a_stream_is_evaluated_by_its_bound(tmp_path, monkeypatch):
    """A file that is read in chunks has the bound of all its data, within what both estimates are off by."""
    np.save(tmp_path / "x.npy", clusters(300).numpy())
    model = LatentDiffusion(Noisy(), hidden=8, layers=1)
    model.start(Batch(clusters(300)), torch.Generator().manual_seed(0))
    whole = evaluate(model, load(tmp_path / "x.npy"), importance_samples=4)
    monkeypatch.setattr(evaluation, "SAMPLE", 100)
    rows = Rows.open(str(tmp_path / "x.npy"))
    streamed = evaluate(model, Stream(rows, survey(rows)), importance_samples=4)
    assert streamed.method == "bound"
    assert streamed.n == 300
    assert "a random sample of 50 data" in streamed.verdict
    noise = math.hypot(whole.log_marginal_mc_se, streamed.log_marginal_mc_se)
    assert abs(whole.log_marginal - streamed.log_marginal) < 6 * noise
