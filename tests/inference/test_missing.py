"""Mean-field Bernoulli posteriors over missing values: bounds, closed forms, gradients."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from latentia.data import as_dataset, load
from latentia.errors import CapabilityError, DataError, OptionError
from latentia.inference.missing import _bound, filled, mean_field, mean_field_elbo
from latentia.learners import Gradient
from latentia.model import Batch, LatentVariableModel
from latentia.models import VAE
from latentia.models.vaes import pixel_vae, vae
from latentia.testing import brute_force_log_marginal, nodes


def holed(tiny, *missing: int) -> tuple[LatentVariableModel, Batch]:
    """A tiny model and its data with the same few values missing in every datum."""
    model, batch = tiny(0)
    mask = torch.ones_like(batch.x, dtype=torch.bool).flatten(1)
    mask[:, list(missing)] = False
    model.requires_grad_(False)
    return model, Batch.of(batch.x, mask.view_as(batch.x))


@pytest.mark.parametrize("tiny", [vae.tiny, pixel_vae.tiny])
@pytest.mark.parametrize("missing", [(1,), (0, 2)])
def test_it_is_a_bound_and_ascent_brings_it_near(tiny, missing):
    model, batch = holed(tiny, *missing)
    truth = brute_force_log_marginal(model, batch)
    torch.manual_seed(0)
    before = mean_field(model, batch, steps=0, draws=4000).bound.value
    found = mean_field(model, batch, steps=150, draws=4000)
    assert bool((found.bound.value < truth + 0.02).all())
    assert float((truth - found.bound.value).mean()) < 0.5 * float((truth - before).mean())


@pytest.mark.parametrize("tiny", [vae.tiny, pixel_vae.tiny])
def test_the_bound_is_what_quadrature_says_for_any_r_and_q(tiny):
    model, batch = holed(tiny, 0, 2)
    logit = torch.randn(batch.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = model.posterior(filled(batch, logit))
    z, log_weight = nodes(q)
    expected = torch.zeros(batch.size, dtype=torch.float64)
    for first in (0.0, 1.0):
        for third in (0.0, 1.0):
            x = batch.x.flatten(1).clone()
            x[:, 0], x[:, 2] = first, third
            values = Bernoulli(logits=logit.flatten(1)[:, [0, 2]]).log_prob(x[:, [0, 2]]).sum(-1)
            full = Batch(x.view_as(batch.x))
            inside = model.log_joint(full, z) - q.log_prob(z) - values
            expected += values.exp() * (log_weight.exp() * inside).sum(0)
    torch.manual_seed(0)
    found = torch.stack([_bound(model, batch, logit, q, 2000).value for _ in range(10)])
    error = found.std(0) / 10**0.5
    assert bool(((found.mean(0) - expected).abs() < 6 * error + 1e-9).all())
    assert bool((expected < brute_force_log_marginal(model, batch)).all())


def test_r_ends_where_coordinate_ascent_stands_still():
    """logit r_j = E_q(z) of the decoder's logit, where pixels are independent given z and q(z) does not see r."""
    model, batch = holed(vae.tiny, 1)
    model.encoder[0].weight[:, 1] = 0  # type: ignore[index]
    torch.manual_seed(0)
    found = mean_field(model, batch, steps=400, samples=32)
    z, log_weight = nodes(found.posterior)
    logits = model.likelihood(z, batch.frame).logits
    expected = (log_weight.exp().unsqueeze(-1) * logits).sum(0)[:, 1]
    torch.testing.assert_close(found.probability[:, 1], expected.sigmoid(), atol=0.02, rtol=0)


def test_the_score_functions_gradient_is_the_exact_one():
    """The same factorised decoder, once by its closed form and once as if it were autoregressive."""
    model, batch = holed(vae.tiny, 0, 2)

    class Opaque(VAE):
        def likelihood(self, z, frame):
            return Independent(super().likelihood(z, frame), 1)

        def log_likelihood(self, batch, z):
            return self.likelihood(z, batch.frame).log_prob(batch.x)

    opaque = Opaque(event_shape=(3,), latent=1, hidden=(4,)).double()
    opaque.load_state_dict(model.state_dict())
    opaque.requires_grad_(False)
    slopes = []
    for some in (model, opaque):
        logit = torch.tensor([0.3, 0.0, -0.8], dtype=torch.float64).expand(5, 3).clone().requires_grad_()
        torch.manual_seed(0)
        rows = []
        for _ in range(20):
            q = some.posterior(filled(batch, logit))
            rows.append(torch.autograd.grad(_bound(some, batch, logit, q, 2000, climb=True).value.sum(), logit)[0])
        slopes.append(torch.stack(rows))
    error = (slopes[1].std(0) ** 2 + slopes[0].std(0) ** 2).div(20).sqrt()
    assert bool(((slopes[0].mean(0) - slopes[1].mean(0)).abs() < 6 * error + 1e-12).all())
    assert bool((slopes[1].mean(0)[:, [0, 2]].abs() > 1e-3).all())


def test_where_z_says_nothing_it_is_exact():
    model, batch = holed(vae.tiny, 1)
    model.decoder[-1].weight.zero_()  # type: ignore[index]
    torch.manual_seed(0)
    found = mean_field(model, batch, steps=1000)
    torch.testing.assert_close(found.bound.value, brute_force_log_marginal(model, batch), atol=2e-3, rtol=0)
    p = model.decoder[-1].bias.sigmoid()[1].expand(batch.size)  # type: ignore[index]
    torch.testing.assert_close(found.probability[:, 1], p, atol=1e-2, rtol=0)


def test_observed_values_stay_and_data_do_not_meet():
    model, batch = holed(vae.tiny, 1)
    torch.manual_seed(0)
    found = mean_field(model, batch, steps=5)
    assert torch.equal(found.probability[batch.observed], batch.x[batch.observed])
    assert found.bound.value.shape == (batch.size,)
    garbage = batch._replace(x=torch.where(batch.observed, batch.x, 1000.0))
    torch.manual_seed(0)
    assert torch.equal(mean_field(model, garbage, steps=5).bound.value, found.bound.value)


def test_the_model_is_held_still():
    model, batch = vae.tiny(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mean_field(model, batch, steps=3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_learns_from_data_with_holes():
    data = load("digits", binarize="dynamic").subset(slice(0, 200)).frozen(0)
    mask = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    holes = as_dataset(Batch.of(data.batch().x, mask))
    model = VAE((8, 8), latent=4, hidden=(32,))
    records = (
        Gradient(mean_field_elbo, epochs=8, batch_size=50, lr=1e-2, progress=False)
        .fit(model, holes, validation=holes)
        .records
    )
    assert records[-1]["bound"] > records[0]["bound"] + 2
    assert records[-1]["bound"] == pytest.approx(records[-1]["reconstruction"] - records[-1]["kl"], abs=1e-4)


class Undirected(LatentVariableModel):
    def posterior(self, batch):
        raise AssertionError

    log_joint = posterior


def test_what_it_refuses():
    model, batch = vae.tiny(0)
    with pytest.raises(DataError, match="binary"):
        mean_field(model, Batch(batch.x + 0.5))
    with pytest.raises(CapabilityError, match="likelihood"):
        mean_field(Undirected(), batch)
    for wrong in ({"samples": 1}, {"steps": -1}, {"lr": 0.0}, {"draws": 0}):
        with pytest.raises(OptionError):
            mean_field(model, batch, **wrong)
