"""Aggressive training and pretraining: which parameters guess z, and what the learner does with them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from latentia.data import Dataset, load
from latentia.errors import CapabilityError, OptionError
from latentia.evaluate import log_marginal
from latentia.learners import Checkpoint, Gradient, remedies
from latentia.learners.remedies import EVERY, MOST, catch_up, inference_parameters
from latentia.model import Batch, Frame
from latentia.models import VAE
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import vae
from latentia.objectives import elbo, exact, iwae


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", binarize="dynamic").subset(slice(0, 300))


def small() -> VAE:
    return VAE((8, 8), latent=4, hidden=(16,))


def parts(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of the encoder's parameters and of the others."""
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    encoder = {name: value for name, value in values.items() if name.startswith("encoder")}
    return encoder, {name: value for name, value in values.items() if name not in encoder}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class Shared(VAE):
    """A prior with a parameter of its own, and a scale that posterior and prior share."""

    def __init__(self):
        super().__init__((3,), latent=2, hidden=(4,))
        self.centre, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def prior(self, frame: Frame) -> Independent:
        return Independent(Normal(self.centre.expand(frame.size, 2), self.log_scale.exp()), 1)

    def posterior(self, batch: Batch) -> Independent:
        mean, _ = self.encoder(self._inputs(batch)).chunk(2, -1)
        return Independent(Normal(mean, self.log_scale.exp()), 1)


def test_the_inference_network_is_the_encoder():
    model, batch = vae.tiny(0)
    found = inference_parameters(model, batch)
    assert set(found) == {name for name, _ in model.named_parameters() if name.startswith("encoder")}
    assert found["encoder.0.weight"] is model.encoder[0].weight  # type: ignore[index]


def test_what_prior_and_posterior_share_generates():
    model = Shared()
    found = inference_parameters(model, Batch(torch.ones(2, 3)))
    assert set(found) == {name for name, _ in model.named_parameters() if name.startswith("encoder")}


def test_a_dead_encoder_is_still_found():
    """By the graph, not by the slope: a slope of zero at the start is no sign."""
    model = small()
    nn.init.zeros_(model.encoder[-1].weight)  # type: ignore[index, arg-type]
    found = inference_parameters(model, Batch(torch.ones(2, 8, 8)))
    assert "encoder.0.weight" in found


def test_frozen_parameters_are_left_out():
    model, batch = vae.tiny(0)
    model.encoder[0].requires_grad_(False)  # type: ignore[index]
    assert set(inference_parameters(model, batch)) == {"encoder.2.weight", "encoder.2.bias"}


def test_a_model_without_one_is_told_so():
    with pytest.raises(CapabilityError, match="GaussianMixture has no inference network"):
        inference_parameters(*gaussian_mixture.tiny(0))


def test_finding_it_draws_no_random_numbers():
    model, batch = vae.tiny(0)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    inference_parameters(model, batch)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("bounds", "steps"),
    [
        ([-float(i) for i in range(MOST)], 2 * EVERY),  # falling: seen at the second look
        ([float(i) for i in range(MOST)], MOST),  # rising: to the end
        ([0.0] * (2 * EVERY) + [-1.0] * MOST, 3 * EVERY),
    ],
)
def test_the_inner_loop_ends_when_it_no_longer_helps(bounds, steps):
    given = iter(bounds)
    assert catch_up(lambda: next(given)) == steps


def test_the_inner_loop_moves_the_encoder_alone_and_the_outer_step_the_rest(digits, monkeypatch):
    model, seen = small(), []

    def watched(ascend):
        before = parts(model)
        ascend()
        after = parts(model)
        seen.append((before, after))
        return 1

    monkeypatch.setattr("latentia.learners.gradient.catch_up", watched)
    learner = Gradient(epochs=1, batch_size=100, aggressive=True, progress=False)
    history = learner.fit(model, digits, validation=digits)
    assert history.records[0]["inference_steps"] == len(seen) == 3
    for before, after in seen:
        assert not same(before[0], after[0])
        assert same(before[1], after[1])
    for (_, end), (start, _) in pairwise(seen):
        assert same(end[0], start[0])
        assert not same(end[1], start[1])


def test_aggressive_training_ends_with_the_rise_of_the_information(digits, monkeypatch):
    told = iter([1.0, 2.0, 1.5])
    monkeypatch.setattr("latentia.learners.gradient.mutual_information", lambda *_, **__: (next(told), 9.0))
    monkeypatch.setattr(remedies, "MOST", 2)
    learner = Gradient(epochs=5, batch_size=100, aggressive=True, progress=False)
    records = learner.fit(small(), digits, validation=digits).records
    assert [record.get("mutual_information") for record in records] == [1.0, 2.0, 1.5, None, None]


def test_aggressive_training_says_what_it_needs(digits):
    with pytest.raises(OptionError, match="validation"):
        Gradient(aggressive=True, progress=False).fit(small(), digits)
    data = load(torch.randn(20, 2))
    model = gaussian_mixture.GaussianMixture(2, 2)
    with pytest.raises(CapabilityError, match="inference network"):
        Gradient(exact, aggressive=True, progress=False).fit(model, data, validation=data)


def test_aggressive_training_leaves_the_encoder_less_behind(digits):
    """KL(q(z | x) || p(z | x)), the gap between log p(x) and its bound, is what the inner loop closes."""
    gaps = []
    for aggressive in (True, False):
        model = small()
        learner = Gradient(epochs=4, batch_size=100, aggressive=aggressive, lr=1e-2, progress=False)
        learner.fit(model, digits, validation=digits)
        found = log_marginal(model, digits, importance_samples=100)
        gaps.append(float((found.value - found.elbo).mean()))
    assert 0 < gaps[0] < 0.7 * gaps[1]


def test_pretraining_charges_no_kl_and_then_puts_the_decoder_back(digits):
    model, seen = small(), []

    def recorded(model, batch, beta=2.0):
        if model.training:
            seen.append((beta, parts(model)))
        return elbo(model, batch, beta=beta)

    learner = Gradient(
        recorded, epochs=4, pretrain=2, batch_size=100, anneal="linear", anneal_share=1.0, patience=1, progress=False
    )
    records = learner.fit(model, digits, validation=digits).records
    assert [beta for beta, _ in seen] == pytest.approx([0.0] * 6 + [2 * step / 6 for step in range(6)])
    assert len(records) == 4
    (encoder, decoder), (later_encoder, later_decoder) = seen[0][1], seen[6][1]
    assert same(decoder, later_decoder)
    assert not same(encoder, later_encoder)
    assert not same(seen[5][1][1], later_decoder)


def test_the_schedule_of_the_rate_begins_after_the_pretraining(digits):
    learner = Gradient(epochs=4, pretrain=2, batch_size=300, schedule="linear", lr=1e-3, progress=False)
    rates = [record["lr"] for record in learner.fit(small(), digits).records]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])


@pytest.mark.parametrize(
    "options", [{"pretrain": 3, "epochs": 3}, {"pretrain": -1}, {"pretrain": 1, "objective": iwae}]
)
def test_pretraining_without_sense(options):
    with pytest.raises(OptionError, match="pretrain"):
        Gradient(**options)


class Stop(Exception):
    pass


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_fit_goes_on_at_any_epoch_as_if_it_had_never_stopped(digits, tmp_path, monkeypatch, cut):
    monkeypatch.setattr(remedies, "MOST", 3)
    objective = partial(elbo, free_bits=0.05)
    learner = Gradient(
        objective,
        epochs=6,
        pretrain=2,
        aggressive=True,
        anneal="linear",
        batch_size=100,
        schedule="cosine",
        progress=False,
    )
    whole, broken = small(), small()
    history = learner.fit(whole, digits, validation=digits)

    def stop(record):
        if record["epoch"] == cut + 1:
            raise Stop

    file = Checkpoint(tmp_path / "learner.safetensors")
    with pytest.raises(Stop):
        learner.fit(broken, digits, validation=digits, callbacks=[stop], checkpoint=file)
    again = small()
    later = learner.fit(again, digits, validation=digits, checkpoint=file)
    assert same(dict(whole.state_dict()), dict(again.state_dict()))
    assert later.records[-1]["validation_bound"] == history.records[-1]["validation_bound"]


def test_wrong_data_are_refused_before_the_network_is_looked_for(digits):
    with pytest.raises(ValueError, match="shape"):
        Gradient(epochs=3, pretrain=1, progress=False).fit(VAE((5,)), digits)
    with pytest.raises(OptionError, match="beta"):
        Gradient(exact, epochs=3, pretrain=1)
