"""The weight of the KL during a fit, and free bits in total."""

from functools import partial

import pytest
import torch

from latentia.data import load
from latentia.errors import OptionError
from latentia.learners import Gradient
from latentia.learners.schedules import kl_weight
from latentia.models import VAE
from latentia.models.vaes import vae
from latentia.objectives import elbo, iwae


def test_weights_rise_from_nothing_to_one():
    assert [kl_weight("linear", p, share=0.2) for p in (0.0, 0.1, 0.2, 0.9)] == [0.0, 0.5, 1.0, 1.0]
    assert [kl_weight("cyclical", p, cycles=2) for p in (0.0, 0.125, 0.25, 0.49, 0.5, 0.625)] == [0, 0.5, 1, 1, 0, 0.5]
    assert kl_weight("none", 0.0) == 1.0


def test_the_learner_multiplies_beta_and_validates_by_the_bound_itself():
    weights = []

    def recorded(model, batch, beta=3.0):
        weights.append((model.training, beta))
        return elbo(model, batch, beta=beta)

    data = load("digits", binarize="dynamic").subset(slice(0, 60))
    learner = Gradient(recorded, epochs=4, batch_size=20, anneal="linear", anneal_share=0.5, progress=False)
    learner.fit(VAE((8, 8), latent=2, hidden=(8,)), data, validation=data)
    training = [beta for mode, beta in weights if mode]
    assert training == pytest.approx([3 * min(step / 6, 1) for step in range(12)])
    assert {beta for mode, beta in weights if not mode} == {3.0}


def test_annealing_needs_an_objective_with_a_beta():
    with pytest.raises(OptionError, match="use elbo"):
        Gradient(partial(iwae, samples=5), anneal="cyclical")
    for wrong in ({"anneal": "sometimes"}, {"anneal_share": 0.0}, {"cycles": 0}):
        with pytest.raises(OptionError):
            Gradient(**wrong)


def test_free_bits_in_total_floor_the_sum():
    model, batch = vae.tiny(0)
    torch.manual_seed(0)
    plain = elbo(model, batch)
    floor = float(plain.kl.detach().median())
    torch.manual_seed(0)
    freed = elbo(model, batch, free_bits=floor, free="total")
    torch.testing.assert_close(freed.value, plain.reconstruction - plain.kl.clamp(min=floor))
    torch.testing.assert_close(freed.kl, plain.kl)
