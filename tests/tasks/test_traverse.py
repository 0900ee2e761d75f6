"""Traversals: which dimensions, along which values, and what else moves."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from latentia.distributions import Joint
from latentia.errors import CapabilityError, OptionError
from latentia.model import Batch, DirectedModel
from latentia.models import VAE
from latentia.models.mixtures import gaussian_mixture
from latentia.models.vaes import semi_supervised_vae
from latentia.tasks import traverse


class Three(DirectedModel):
    """x = (z_1, z_2, z_3) and a little noise; q knows z_1 and z_2, and z_3 follows the prior."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 1.0, 0.0]))

    def prior(self, frame):
        return Independent(Normal(torch.zeros(frame.size, 3), 1.0), 1)

    def posterior(self, batch):
        return Independent(Normal(batch.x * self.scale, torch.tensor([0.1, 0.1, 1.0]).expand(batch.size, 3)), 1)

    def likelihood(self, z, frame):
        return Normal(z, 0.1)


class Layers(DirectedModel):
    """low | top ~ N(3 top, 1), and x is low."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def prior(self, frame):
        top = Independent(Normal(torch.zeros(frame.size, 1), 1.0), 1)
        return Joint({"top": top, "low": lambda z: Independent(Normal(3 * z["top"], 1.0), 1)})

    def posterior(self, batch):
        return Joint({"top": Independent(Normal(batch.x / 3, 0.3), 1), "low": Independent(Normal(batch.x, 0.1), 1)})

    def likelihood(self, z, frame):
        return Normal(z["low"], 0.1)


@pytest.fixture
def data():
    # not from the seed that `traverse` draws by: the two would be the same numbers
    return Batch(torch.randn(2000, 3, generator=torch.Generator().manual_seed(10)))


def test_active_dimensions_in_their_order_and_the_others_stay(data):
    found = traverse(Three(), data, start=4, steps=5)
    assert found.dimensions.tolist() == [0, 1]
    assert found.x.shape == (2, 5, 3)
    mean = data.x[4] * torch.tensor([2.0, 1.0, 0.0])
    for row, moved in enumerate((0, 1)):
        assert torch.allclose(found.x[row, :, moved], found.values[row])
        rest = [d for d in range(3) if d != moved]
        assert torch.allclose(found.x[row][:, rest], mean[rest].expand(5, 2))
    assert torch.equal(traverse(Three(), data, start=4, steps=5, dimensions=1).x, found.x[:1])


def test_quantiles_are_the_aggregate_posteriors_or_the_priors(data):
    levels = torch.linspace(0.02, 0.98, 9)
    normal = Normal(0.0, 1.0).icdf(levels)
    aggregate = traverse(Three(), data).values
    # a q of width 0.1 around means of deviation 2 and 1
    # the standard error of a quantile of 2,000 numbers; of 36 none is five off but once in 50,000 times
    error = (levels * (1 - levels) / 2000).sqrt() / Normal(0.0, 1.0).log_prob(normal).exp()
    for found, scale in zip([*aggregate, *traverse(Three(), data, through="prior").values], (4, 1, 1, 1), strict=True):
        width = (scale + 0.01) ** 0.5
        assert ((found - normal * width).abs() < 5 * width * error + 0.01).all()


def test_what_lies_below_follows():
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)) * 3
    found = traverse(Layers(), Batch(x), start=7, steps=3)
    low, top = found.dimensions.tolist()
    assert (low, top) == (1, 0)
    # moving low alone shows low; moving top takes low along with its prior mean
    assert torch.allclose(found.x[0, :, 0], found.values[0])
    assert torch.allclose(found.x[1, :, 0], x[7] + 3 * (found.values[1] - x[7] / 3), atol=1e-5)


def test_a_class_has_no_quantiles():
    model, batch = semi_supervised_vae.tiny(0)
    assert traverse(model, batch, steps=3).dimensions.tolist() == [2]


def test_the_same_seed_the_same_picture(data):
    assert torch.equal(traverse(Three(), data, seed=3).x, traverse(Three(), data, seed=3).x)


def test_what_cannot_be_traversed_is_said(data):
    model, batch = gaussian_mixture.tiny(0)
    with pytest.raises(CapabilityError, match="its z is discrete"):
        traverse(model, batch)
    collapsed = VAE(event_shape=(3,), latent=2, hidden=(4,), likelihood="gaussian")
    nn.init.zeros_(list(collapsed.encoder.parameters())[-2])
    with pytest.raises(CapabilityError, match="no active dimension"):
        traverse(collapsed, data)
    for options in ({"steps": 1}, {"start": 2000}, {"through": "middle"}, {"dimensions": 0}):
        with pytest.raises(OptionError, match=next(iter(options))):
            traverse(Three(), data, **options)
