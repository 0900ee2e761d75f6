"""The PixelVAE: missing pixels, decoding, your own networks, data it cannot take; that it learns, and collapses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latentia.data import load
from latentia.distributions.autoregressive import MOST_HIDDEN
from latentia.errors import DataError, OptionError
from latentia.learners import Gradient
from latentia.measure.diagnose import diagnose
from latentia.model import Batch, Frame
from latentia.models import PixelVAE
from latentia.models.vaes import pixel_vae
from latentia.tasks import complete, generate
from latentia.testing import brute_force_log_marginal, enumerate_events


@pytest.fixture(scope="module")
def model() -> PixelVAE:
    torch.manual_seed(0)
    return PixelVAE((4, 4), latent=2, hidden=(8,), channels=3, kernel=3).double().requires_grad_(False)


def holes(x: torch.Tensor, *missing: int) -> Batch:
    mask = torch.ones_like(x, dtype=torch.bool).flatten(1)
    mask[:, list(missing)] = False
    return Batch.of(x, mask.view_as(x))


def test_pixels_after_the_last_observed_one_cost_nothing(model):
    x, z = torch.bernoulli(torch.full((3, 4, 4), 0.5)).double(), torch.randn(2, 3, 2).double()
    lower = holes(x, *range(8, 16))
    expected = model.likelihood(z, lower.frame).terms(x)[..., :8].sum(-1)
    torch.testing.assert_close(model.log_likelihood(lower, z), expected)


def test_pixels_before_it_are_summed_out_each_datum_its_own(model):
    generator = torch.Generator().manual_seed(0)
    x, z = torch.bernoulli(torch.full((3, 4, 4), 0.5), generator=generator).double(), torch.randn(2, 3, 2).double()
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[0, [2, 5]], mask[1, 7] = False, False
    found = model.log_likelihood(Batch.of(x, mask.view_as(x)), z)
    for b, missing in enumerate(([2, 5], [7], [])):
        filled = x[b].flatten().repeat(2 ** len(missing), 1)
        for r, d in enumerate(missing):
            filled[:, d] = torch.arange(len(filled)) >> r & 1
        each = model.log_likelihood(Batch(filled.view(-1, 4, 4)), z[:, b : b + 1].expand(2, len(filled), 2))
        torch.testing.assert_close(found[:, b], torch.logsumexp(each, 1))


def test_too_many_are_refused_with_what_to_do(model):
    x = torch.zeros(1, 4, 4).double()
    with pytest.raises(DataError, match=r"9 missing pixels .* use VAE"):
        model.log_likelihood(holes(x, *range(MOST_HIDDEN + 1)), torch.zeros(1, 1, 2).double())
    with pytest.raises(DataError, match="row by row"):
        model.conditional(torch.zeros(1, 1, 2).double(), holes(x, 0))


def test_the_lower_half_is_completed_as_enumeration_says():
    model, _ = pixel_vae.tiny(0)
    seen = holes(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]).double(), 2, 3)
    events, _ = enumerate_events(model, seen)
    fits = (events.x[:, 0] == seen.x[0, 0]).all(-1)
    chance = brute_force_log_marginal(model, events).exp() * fits
    truth = (chance.view(-1, 1, 1) * events.x).sum(0) / chance.sum()
    found = complete(model, seen.select(torch.zeros(50, dtype=torch.long)), draws=20, sweeps=20)
    torch.testing.assert_close(found.mean.mean(0), truth, atol=0.05, rtol=0)
    assert bool((found.draws[:, :, 0] == seen.x[0, 0]).all())


def test_a_mean_picture_has_probabilities(model):
    x = generate(model, 3, mean=True)[0].x
    assert x.shape == (3, 4, 4)
    assert bool(((x >= 0) & (x <= 1)).all())


def test_your_own_networks_fit_in_one_line():
    class Rows(nn.Module):
        """Each row from the one above."""

        def __init__(self):
            super().__init__()
            self.above, self.z = nn.Linear(4, 4), nn.Linear(2, 16)

        def forward(self, x, z):
            rows = self.above(x.unflatten(-1, (4, 4))[..., :-1, :])
            return nn.functional.pad(rows, (0, 0, 1, 0)).flatten(-2) + self.z(z)

    model = PixelVAE((4, 4), latent=2, encoder=nn.Linear(16, 4), decoder=Rows())
    x = torch.bernoulli(torch.full((40, 4, 4), 0.3), generator=torch.Generator().manual_seed(0))
    records = Gradient(epochs=10, lr=0.03, progress=False).fit(model, Batch(x)).records
    assert records[-1]["bound"] > records[0]["bound"]
    assert model.generate(Frame(2))[0].x.shape == (2, 4, 4)


def test_it_models_digits_and_under_the_plain_bound_does_without_z():
    data = load("digits", binarize="dynamic")
    train, held_out = data.split(0.2)
    model = PixelVAE((8, 8), latent=4, hidden=(32,), channels=8, kernel=5, layers=2)
    records = Gradient(epochs=4, batch_size=64, lr=1e-2, progress=False).fit(model, train).records
    assert records[-1]["bound"] > records[0]["bound"] + 1
    found = diagnose(model, held_out)
    assert found.mutual_information < 0.3
    assert found.kl_per_unit is not None
    assert sum(found.kl_per_unit) < 0.5


def test_what_it_refuses():
    with pytest.raises(OptionError, match="activation"):
        PixelVAE((4, 4), activation="sine")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="event_shape"):
        PixelVAE((16,))
    model = PixelVAE((2, 2), kernel=3)
    with pytest.raises(DataError, match="shape"):
        model.check(Batch(torch.zeros(2, 4)))
    with pytest.raises(DataError, match="binarize"):
        model.check(Batch(torch.full((2, 2, 2), 0.5)))
