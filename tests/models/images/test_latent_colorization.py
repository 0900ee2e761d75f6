"""Colorization by latent segments: enumeration, no latent at all, hidden chroma, and that segments are found."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch.nn.functional import one_hot

from latentia.batch import Batch, Frame
from latentia.data import as_dataset
from latentia.errors import DataError, OptionError
from latentia.learners import Gradient
from latentia.models import LatentColorization
from latentia.objectives import exact, expected
from latentia.tasks import complete

DOUBLE = torch.float64


def small(coupling, segments=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = LatentColorization(3, segments, coupling, channels=(2, 2), hidden=3).double()
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator, dtype=DOUBLE)
    return model.requires_grad_(False)


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    grey = torch.rand(count, 3, 3, generator=generator, dtype=DOUBLE)
    return Batch(torch.randint(3, (count, 3, 3), generator=generator), context=Batch(grey))


@pytest.mark.parametrize("coupling", ["none", "rows"])
def test_three_by_three_images_are_as_enumeration_says(coupling):
    model, batch = small(coupling), images(2)
    every = torch.tensor(list(itertools.product(range(2), repeat=9))).view(-1, 1, 3, 3)
    z = one_hot(every, 2).to(DOUBLE).expand(-1, 2, -1, -1, -1)
    joint = model.prior(batch.frame).log_prob(z) + model.log_likelihood(batch, z)
    posterior = model.posterior(batch)
    torch.testing.assert_close(posterior.log_partition, joint.logsumexp(0))
    torch.testing.assert_close(posterior.log_prob(z), joint - joint.logsumexp(0))
    weight = joint.softmax(0)
    torch.testing.assert_close(posterior.marginals, torch.einsum("sb,sbhwk->bhwk", weight, z))
    assert torch.equal(posterior.mode, z[joint.argmax(0), torch.arange(2)])


@pytest.mark.parametrize("coupling", ["none", "rows"])
def test_all_chroma_of_an_image_sums_to_one(coupling):
    model, one = small(coupling), images(1)
    x = torch.tensor(list(itertools.product(range(3), repeat=9))).view(-1, 3, 3)
    every = Batch(x, context=one.context.select(torch.zeros(len(x), dtype=torch.long)))
    value = model.posterior(every).log_partition
    torch.testing.assert_close(value.logsumexp(0), torch.zeros((), dtype=DOUBLE))
    # and a pixel's own probabilities are the sums over all others
    expected = torch.einsum("n,nhwc->hwc", value.exp(), one_hot(x, 3).to(DOUBLE))
    torch.testing.assert_close(model.probabilities(one.frame)[0], expected)


def test_without_a_latent_pixels_are_a_softmax():
    model, batch = small("none", segments=1), images(3)
    p = model.probabilities(batch.frame)
    value = p.log().gather(-1, batch.x.unsqueeze(-1)).sum((-1, -2, -3))
    torch.testing.assert_close(model.posterior(batch).log_partition, value)
    assert model.segment is None


def test_rows_that_do_not_care_are_independent():
    model, batch = small("rows"), images(3)
    model.transition.zero_()
    free = small("none")
    free.load_state_dict({name: value for name, value in model.state_dict().items() if name != "transition"})
    torch.testing.assert_close(model.posterior(batch).log_partition, free.posterior(batch).log_partition)


def test_hidden_chroma_is_filled_in_and_what_is_shown_stays():
    model, batch = small("rows"), images(2)
    mask = torch.ones_like(batch.x, dtype=torch.bool)
    mask[:, 1:, 1:] = False
    hidden = batch._replace(mask=mask, x=torch.where(mask, batch.x, 99))
    done = complete(model, Batch.of(**hidden._asdict()), draws=5, seed=0)
    assert done.draws.shape == (5, 2, 3, 3)
    assert bool((done.draws[:, mask] == batch.x[mask]).all())
    assert 0 <= int(done.draws.min()) <= int(done.draws.max()) <= 2
    assert bool(model.posterior(hidden).log_partition.isfinite().all())


def test_a_palette_that_rules_out_what_the_features_want_does_not_underflow():
    model, batch = small("none").float(), images(2)
    model.palette[0], model.palette[1] = torch.tensor([200.0, 0.0, 0.0]), torch.tensor([0.0, 200.0, 0.0])
    model.tilt.bias[:] = torch.tensor([0.0, 0.0, 90.0])
    assert bool(model.posterior(batch).log_partition.isfinite().all())


def test_segments_are_learned_and_gain():
    """Left and right of an edge in the grey image two colours each, which of the two is a coin for the whole row."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(8) >= 4
    coin = torch.randint(2, (48, 3, 1), generator=generator).expand(-1, -1, 8)
    grey = torch.where(side, 0.8, 0.2) + 0.05 * torch.randn(48, 3, 8, generator=generator)
    data = as_dataset(Batch(coin + 2 * side.long(), context=Batch(grey)))
    found = {}
    for coupling, segments in (("none", 1), ("rows", 4)):
        torch.manual_seed(0)
        model = LatentColorization(4, segments, coupling, channels=(8, 8), hidden=8)
        Gradient(objective=exact, epochs=40, lr=0.02, batch_size=16, progress=False).fit(model, data, seed=0)
        found[coupling] = float(model.posterior(data.batch()).log_partition.detach().mean()) / 24
    # a coin for each pixel is log 2 nats, and no model of independent pixels has less; one for a row is an eighth of it
    assert found["none"] == pytest.approx(-0.693, abs=0.05)
    assert found["rows"] > -0.55


@pytest.mark.parametrize("coupling", ["none", "rows"])
def test_the_gradient_of_the_m_step_is_that_of_log_p(coupling):
    """Fisher's identity at the parameters of the E-step, and a bound elsewhere."""
    model, batch = small(coupling).requires_grad_(), images(3)
    names, parameters = zip(*model.named_parameters(), strict=True)
    found, true = expected(model, batch).value, exact(model, batch).value
    torch.testing.assert_close(found, true)
    for name, one, other in zip(
        names, *(torch.autograd.grad(value.sum(), parameters) for value in (found, true)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)
    held = small(coupling, seed=5)
    # what is lost is the divergence of the posterior that is held from the model's own
    away = held.posterior(batch).divergence(model.posterior(batch))
    torch.testing.assert_close(expected(model, batch, held=held).value, true - away)
    assert bool((away > 1e-3).all())


def test_em_with_gradient_m_steps_climbs():
    model, batch = small("rows").requires_grad_(), images(24)
    data, values = as_dataset(batch), []
    for _ in range(6):
        values.append(float(exact(model, batch).value.detach().mean()))
        m_step = partial(expected, held=copy.deepcopy(model))
        # all data at once and a small rate: then no M-step overshoots
        Gradient(objective=m_step, epochs=10, lr=0.005, batch_size=24, fresh=False, progress=False).fit(model, data)
    assert all(after > before for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 0.3


def test_generation_keeps_the_context():
    model, batch = small("rows"), images(3)
    made, z = model.generate(Frame(3, context=batch.context))
    assert made.x.shape == (3, 3, 3)
    assert z.shape == (3, 3, 3, 2)
    assert torch.equal(made.context.x, batch.context.x)


def test_what_cannot_be_used_is_refused():
    model, batch = small("none"), images(2)
    model.check(batch)
    with pytest.raises(OptionError, match="segments=0"):
        LatentColorization(3, 0)
    with pytest.raises(OptionError, match="coupling"):
        LatentColorization(3, 2, "columns")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="whole numbers"):
        model.check(batch._replace(x=batch.x.double()))
    with pytest.raises(DataError, match="grey image"):
        model.check(batch._replace(context=None))
    with pytest.raises(DataError, match="grey image"):
        model.check(batch._replace(context=Batch(batch.context.x[:, :2])))
    with pytest.raises(DataError, match="below 3"):
        model.check(batch._replace(x=batch.x + 1))
    hidden = torch.zeros(2, 3, 3, dtype=torch.bool)
    with pytest.raises(DataError, match="hidden"):
        model.check(batch._replace(context=batch.context._replace(mask=hidden)))
