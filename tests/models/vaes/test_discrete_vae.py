"""The discrete VAE: a closed form, learning by each kind of estimator, what a fit keeps of one, and every verb."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from latentia import gradients, testing
from latentia.data import as_dataset, load
from latentia.errors import CapabilityError, OptionError
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.learners.checkpoint import Checkpoint
from latentia.model import Batch, Frame
from latentia.models import DiscreteVAE
from latentia.models.vaes import discrete_vae
from latentia.objectives import elbo, iwae
from latentia.tasks import encode, generate

TINY = {"bits": discrete_vae.tiny, "values": discrete_vae.tiny_values, "layers": discrete_vae.tiny_layers}


def patterns(count=200):
    """Four bits, each copied to three of twelve pixels, and a tenth of the pixels turned over."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (count, 4), generator=generator).float()
    noise = (torch.rand(count, 12, generator=generator) < 0.1).float()
    return as_dataset(Batch.of((bits.repeat_interleave(3, 1) - noise).abs()))


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("seed", [0, 1])
def test_checks(kind, seed):
    ran = testing.check_model(TINY[kind], seeds=(seed,))
    assert {"check_bounds", "check_gradients", "check_kl", "check_generate", "check_posterior"} <= set(ran)


@pytest.mark.parametrize("kind", TINY)
def test_the_estimators_of_its_elbo_are_unbiased(kind):
    model, batch = TINY[kind](0)
    names = {"bits": ("rloo", "disarm", "rebar"), "values": ("rloo", "rebar"), "layers": ("rloo", "disarm")}[kind]
    estimators = {name: gradients.ESTIMATORS[name]() for name in names}
    found = gradients.study(model, batch, estimators, 8000, samples=2, objective=elbo, repeat=200)
    for row in found.rows:
        assert row.farthest < 4.5, row


@pytest.mark.parametrize("kind", TINY)
def test_no_estimator_asked_for_is_leave_one_out(kind):
    model, batch = TINY[kind](0)
    q = model.posterior(batch)

    def value(estimator, samples):
        torch.manual_seed(3)
        f = gradients.OfDraw(q, lambda drawn: drawn.log_q)
        return estimator(q, f, samples)

    assert torch.equal(value(gradients.automatic, 1), value(gradients.rloo, 2))
    torch.manual_seed(0)
    bound = elbo(model, batch)
    assert all(s.abs().sum() > 0 for s in torch.autograd.grad(bound.value.sum(), list(model.parameters())))
    with pytest.raises(CapabilityError, match="vimco"):
        iwae(model, batch, samples=3)


def test_one_bit_has_the_bound_of_its_two_values():
    """Of one bit by hand: log p(x) = log sum_z p(z) p(x | z), and the ELBO at q."""
    model = DiscreteVAE((2,), latents=(1,), hidden=((),)).double()
    batch = Batch.of(torch.tensor([[0.0, 1.0]]).double())
    for parameter in model.parameters():
        parameter.data.fill_(0.3)
    q, p = torch.tensor(0.3 + 0.3).sigmoid().double(), torch.tensor(0.3).sigmoid().double()

    def fit(bit):
        logit = torch.tensor(0.3 * (2 * bit - 1) + 0.3).double()
        return torch.nn.functional.logsigmoid(-logit) + torch.nn.functional.logsigmoid(logit)

    kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    found = elbo(model, batch, estimator=gradients.enumerate)
    assert abs(float(found.value.detach()) - float((q * fit(1) + (1 - q) * fit(0) - kl).detach())) < 1e-6
    assert found.kl is not None
    assert abs(float(found.kl.detach()) - float(kl)) < 1e-6


OBJECTIVES = {
    "rloo": partial(elbo, samples=4, estimator=gradients.rloo),
    "disarm": partial(elbo, samples=4, estimator=gradients.disarm),
    "gumbel": partial(elbo, estimator=gradients.gumbel_softmax(1.0)),
    "vimco": partial(iwae, samples=4, estimator=gradients.vimco),
    "rebar": partial(elbo, estimator=gradients.Rebar()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_finds_the_bits_of_patterns(name):
    data = patterns()
    model = DiscreteVAE((12,), latents=(6,), hidden=((),))
    cool = 0.3 if name == "gumbel" else None
    Gradient(OBJECTIVES[name], epochs=40, batch_size=20, lr=0.03, cool_to=cool, progress=False).fit(model, data)
    with torch.no_grad():
        torch.manual_seed(0)
        value = float(elbo(model, data.batch(), samples=20).value.mean())
    # without z a pixel costs log 2: -8.3 in all; with the bits known -4 log 2 - 12 H(0.1), about -6.7
    assert value > -7.7


def fitted(objective, epochs, checkpoint=None, **options):
    model = DiscreteVAE((12,), latents=(3,), hidden=((),))
    learner = Gradient(objective, epochs=epochs, batch_size=50, lr=0.01, progress=False, **options)
    learner.fit(model, patterns(), checkpoint=checkpoint)
    return model, learner


@pytest.mark.parametrize("make", [lambda: gradients.score_function("network"), gradients.Rebar])
def test_a_baseline_learns_and_is_kept_with_the_fit(make, tmp_path):
    """Cut off after two of four epochs, the fit goes on as if it had not been: baseline, its mean and Adam's memory."""
    objective = partial(elbo, estimator=make())
    model, learner = fitted(objective, 4)
    estimator: Any = objective.keywords["estimator"]
    before = {name: value.clone() for name, value in estimator.state_dict().items()}
    fresh: Any = make()
    for name, value in fresh.state_dict().items():
        assert not torch.equal(value, before[name]), name
    path = tmp_path / "state.safetensors"

    class CutOff(Exception):
        pass

    def cut(record):
        if record["epoch"] == 3:
            raise CutOff

    other, again = DiscreteVAE((12,), latents=(3,), hidden=((),)), partial(elbo, estimator=make())
    learner = Gradient(again, epochs=4, batch_size=50, lr=0.01, progress=False)
    with pytest.raises(CutOff):
        learner.fit(other, patterns(), checkpoint=Checkpoint(path), callbacks=[cut])
    resumed, last = DiscreteVAE((12,), latents=(3,), hidden=((),)), partial(elbo, estimator=make())
    Gradient(last, epochs=4, batch_size=50, lr=0.01, progress=False).fit(
        resumed, patterns(), checkpoint=Checkpoint(path)
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, value in before.items():
        assert torch.equal(value, last.keywords["estimator"].state_dict()[name]), name


def test_the_same_fit_twice_is_the_same():
    objective = partial(elbo, estimator=gradients.score_function("network"))
    first, second = (fitted(objective, 2)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_temperature_falls_to_where_it_is_asked_and_validation_is_hard():
    estimator, seen = gradients.gumbel_softmax(2.0), []

    def recorded(model, batch, estimator):
        if model.training:
            seen.append(float(estimator.temperature))
        else:
            corners = elbo(model, batch, estimator=lambda q, f, samples: hard(estimator, q, f, samples))
            return corners
        return elbo(model, batch, estimator=estimator)

    def hard(estimator, q, f, samples):
        z = estimator.draw(q, samples).z
        assert ((z == 0) | (z == 1)).all()
        return gradients.value(f, estimator.draw(q, samples)).mean(0)

    model = DiscreteVAE((12,), latents=(3,), hidden=((),))
    data = patterns()
    learner = Gradient(partial(recorded, estimator=estimator), epochs=4, batch_size=50, cool_to=0.5, progress=False)
    learner.fit(model, data, validation=data)
    assert seen == pytest.approx([2.0 * 0.25 ** (step / 16) for step in range(16)])
    with pytest.raises(OptionError, match="gumbel_softmax"):
        Gradient(partial(elbo, estimator=gradients.rloo), cool_to=0.5)
    with pytest.raises(OptionError, match="positive"):
        Gradient(partial(elbo, estimator=estimator), cool_to=-1.0)


def test_the_aggressive_learner_trains_the_baseline_too():
    estimator: Any = gradients.score_function("network")
    objective = partial(elbo, estimator=estimator)
    model = DiscreteVAE((12,), latents=(3,), hidden=((),))
    learner = Gradient(objective, epochs=1, batch_size=50, aggressive=True, progress=False)
    learner.fit(model, patterns(), validation=patterns(60))
    assert estimator.baseline.network[-1].weight.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"latents": (4, 2), "hidden": ((16,), (8,))}, {"values": 3, "latents": (3,)}])
def test_verbs(options: Any):
    data = load("digits", binarize="dynamic").subset(slice(0, 60))
    options = {"latents": (5,), "hidden": ((16,),)} | options
    model = DiscreteVAE((8, 8), **options)
    Gradient(epochs=1, progress=False).fit(model, data)
    found = evaluate(model, data.frozen(0), importance_samples=20)
    assert found.log_marginal >= found.elbo
    drawn, _ = generate(model, 4)
    assert drawn.x.shape == (4, 8, 8)
    codes = encode(model, data)
    assert len(codes if isinstance(codes, torch.Tensor) else codes["z1"]) == 60
    _, z = model.generate(Frame(3))
    corners = z if isinstance(z, torch.Tensor) else z["z1"]
    assert ((corners == 0) | (corners == 1)).all()


def test_convolutions_and_options():
    model = DiscreteVAE((8, 8), latents=(5,), network="residual", channels=(4,))
    batch = load("digits", binarize="dynamic").subset(slice(0, 7)).batch()
    assert elbo(model, batch).value.shape == (7,)
    wrong: Any
    for wrong in ({"values": 1}, {"latents": (3, 2)}, {"latents": (1, 1, 1), "hidden": ((), (), ())}):
        with pytest.raises(OptionError):
            DiscreteVAE((8, 8), **wrong)
