"""The mixture of Bernoullis: closed forms, brute force, the digits, and MNIST's published figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat

from latentia.data import load
from latentia.errors import DataError
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.model import Batch, Frame
from latentia.models import MixtureOfBernoullis
from latentia.models.mixtures.mixture_of_bernoullis import tiny
from latentia.runs.build import build_model
from latentia.testing import one_thread

MNIST = Path(__file__).parents[3] / ".." / "shared" / "data" / "binarized_mnist"


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def test_log_likelihood_is_the_sum_over_clusters():
    model, batch = tiny(0)
    with torch.no_grad():
        found = model.posterior(batch).log_partition.numpy()
        probs, weights = model.probs.numpy(), model.weights.numpy()
    for x, seen, value in zip(batch.x.numpy(), batch.observed.numpy(), found, strict=True):
        factors = np.where(seen, np.where(x > 0, probs, 1 - probs), 1.0)
        assert value == pytest.approx(np.log(weights @ factors.prod((1, 2))), abs=1e-12)


def test_one_component_is_independent_columns():
    """Its maximum likelihood is minus the columns' entropies."""
    x = load("digits", binarize="fixed").x.double()
    model = MixtureOfBernoullis((8, 8), 1, smoothing=0.0).double()
    EM(progress=False).fit(model, Batch(x))
    f = x.mean(0)
    assert torch.allclose(model.probs[0], f, atol=1e-12)
    entropy = -(torch.xlogy(f, f) + torch.xlogy(1 - f, 1 - f)).sum()
    with torch.no_grad():
        assert float(model.posterior(Batch(x)).log_partition.mean()) == pytest.approx(-float(entropy), abs=1e-9)


def test_classes_that_were_put_in_are_found():
    generator = torch.Generator().manual_seed(0)
    probs = torch.where(torch.rand(4, 30, generator=generator) < 0.5, 0.1, 0.9).double()
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
    z = torch.multinomial(weights, 3000, replacement=True, generator=generator)
    x = torch.bernoulli(probs[z], generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.2] = torch.nan
    model = MixtureOfBernoullis((30,), 4, smoothing=0.1).double()
    EM(restarts=5, progress=False).fit(model, Batch.of(x))
    # the canonical order is that of the weights
    assert torch.allclose(model.weights, weights, atol=0.03)
    assert torch.allclose(model.probs, probs, atol=0.1)
    assert (model.probs - probs).abs().mean() < 0.02


def test_images_keep_their_shape():
    data = load("digits", binarize="fixed")
    model = build_model("MixtureOfBernoullis", {"components": 5}, data.schema)
    assert isinstance(model, MixtureOfBernoullis)
    model.start(data.batch(dtype=torch.float64), torch.Generator().manual_seed(0))
    assert model.probs.shape == (5, 8, 8)
    (x, *_), z = model.generate(Frame(7))
    assert x.shape == (7, 8, 8)
    assert z.shape == (7, 5)


def test_held_out_digits_are_likelier_than_by_independent_columns():
    train, test = load("digits", binarize="fixed").split(0.25, seed=0)
    values = []
    for components in (1, 25):
        model = MixtureOfBernoullis((8, 8), components, smoothing=0.5).double()
        EM(restarts=2, tol=1e-4, progress=False).fit(model, train)
        values.append(evaluate(model, test).log_marginal)
    assert values[1] - values[0] > 3


def test_without_smoothing_nothing_is_infinite():
    """A value that no datum of a cluster has is impossible there, and its log-probability is still a number."""
    x = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]).double()
    model = MixtureOfBernoullis((3,), 2, smoothing=0.0).double()
    EM(restarts=3, progress=False).fit(model, Batch(x))
    new = torch.tensor([[0.0, 1.0, 0.0]]).double()
    value = model.posterior(Batch(new)).log_partition
    assert value.isfinite()
    assert value < -500
    value.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_empty_component_is_told_of():
    model, _ = tiny(0)
    assert not model.concerns()
    model.logits.data[1] = -100
    assert model.concerns() == ["component 1 is empty: use fewer components or more restarts"]


def test_free_parameters_are_weights_and_probabilities():
    assert MixtureOfBernoullis((2, 3), 5).free_parameters() == 4 + 5 * 6


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(2, 5), r"takes x of shape \(4,\)"), (torch.full((2, 4), 0.5), "neither 0 nor 1: binarize")],
)
def test_other_data_are_refused(x, message):
    with pytest.raises(DataError, match=message):
        EM(progress=False).fit(MixtureOfBernoullis((4,), 2).double(), Batch(x.double()))


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="binarized MNIST is not beside the project")
def test_binarized_mnist_with_50_components():
    """At most 144.6 nats on the test images; 10 components of the literature have 168.95."""
    parts = [load(loadmat(MNIST / f"binarized_mnist_{name}.mat")["X"]) for name in ("train", "test")]
    model = MixtureOfBernoullis((784,), 50, smoothing=1.0)
    with pytest.warns(UserWarning, match="raise steps"):
        EM(steps=60, tol=0, progress=False).fit(model, parts[0])
    assert -evaluate(model.double(), parts[1]).log_marginal <= 144.6
