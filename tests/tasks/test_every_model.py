"""The uses, on every model's tiny instance: an answer that holds, or a `CapabilityError` that says what is missing."""

from contextlib import nullcontext

import pytest
import torch

from latentia.data import as_dataset
from latentia.errors import CapabilityError, DataError
from latentia.model import TractableModel
from latentia.refinement import refinable, refine
from latentia.tasks import anomaly_scores, complete, conditional_log_likelihood, gaps, responsibilities, traverse
from latentia.testing import all_models


@pytest.fixture(params=all_models())
def tiny(request):
    model, batch = all_models()[request.param](0)
    return model, batch._replace(weight=None)


def test_oddness(tiny):
    model, batch = tiny
    found = anomaly_scores(model, batch, importance_samples=30)
    assert found.shape == (batch.size,)
    assert torch.isfinite(found).all()


def test_what_is_hidden(tiny):
    """By the chain rule: what is hidden in two parts has the probability of both."""
    model, batch = tiny
    batch = batch._replace(z=None)
    observed = batch.observed
    first = torch.zeros_like(observed)
    first.flatten(1)[:, 0] = True
    rest = batch._replace(mask=observed & ~first, x=torch.where(first, torch.zeros_like(batch.x), batch.x))
    second = torch.zeros_like(observed)
    second.flatten(1)[:, 1] = True
    options = {"importance_samples": 4000, "steps": 0}
    both = conditional_log_likelihood(model, batch, first | second, **options)
    parts = conditional_log_likelihood(model, batch, first, **options)
    there = (observed & second & ~first).any()
    others = conditional_log_likelihood(model, rest, second, **options).value if there else 0.0
    assert torch.allclose(both.value, parts.value + others, atol=0.1)
    try:
        done = complete(model, rest, draws=2, sweeps=4)
    except DataError:
        pytest.skip("an autoregressive decoder fills in only what comes last")
    assert torch.equal(done.draws[0][rest.observed], rest.x[rest.observed])
    assert done.expected.shape == done.draws.shape


def test_refinement_and_gaps(tiny):
    model, batch = tiny
    batch = batch._replace(z=None)
    if not isinstance(model, TractableModel) and not refinable(model, batch):
        with pytest.raises(CapabilityError, match=r"cannot be (reparameterised|refined)"):
            refine(model, batch)
        return
    q = refine(model, batch, steps=3)
    assert q.batch_shape[-1:] == (batch.size,)
    found = gaps(model, batch, steps=60, importance_samples=2000)
    assert (found.amortization > -0.1).all()  # per-datum inference finds nothing worse
    assert (found.approximation > -0.1).all()  # and stays below log p(x)


CLUSTERS = {
    "clustering_vae", "gaussian_mixture", "kmeans", "mixture_of_bernoullis", "mixture_of_categoricals",
    "semi_supervised_vae",
}  # fmt: skip
# the posteriors of the tiny ConvLadder and MissingDataVAE hardly move, and that is said
ACTIVE = {"clustering_vae", "ladder_vae", "pixel_vae", "probabilistic_pca", "semi_supervised_vae", "vae", "vamp_vae"}


@pytest.mark.parametrize("name", all_models())
def test_clusters_and_traversals(name):
    model, batch = all_models()[name](0)
    data = as_dataset(batch._replace(weight=None, z=None))
    with nullcontext() if name in CLUSTERS else pytest.raises(CapabilityError):
        assert torch.allclose(responsibilities(model, data).sum(-1), torch.ones(len(data), dtype=torch.float64))
    with nullcontext() if name in ACTIVE else pytest.raises(CapabilityError):
        assert torch.isfinite(traverse(model, data, steps=3).x).all()
