"""The masked convolutions: what an output sees, for any shape and size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.errors import OptionError
from latentia.networks.pixel_cnn import MaskedConv, PixelCNN

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=25, deadline=None)
@given(shape=SIZES, layers=st.integers(1, 3), kernel=st.sampled_from([3, 5, 7]))
def test_a_pixel_sees_those_before_it_and_all_of_z(shape, layers, kernel):
    torch.manual_seed(0)
    network = PixelCNN(shape, 2, (4,), channels=3, layers=layers, kernel=kernel, activation="tanh").double()
    size = shape[0] * shape[1]
    x, z = torch.rand(size, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    by_x, by_z = torch.autograd.functional.jacobian(lambda a, b: network(a[None], b[None])[0], (x, z))
    assert bool((by_x.triu() == 0).all())
    assert bool((by_z != 0).all())


def test_deep_enough_a_pixel_sees_all_of_the_row_before_it():
    torch.manual_seed(0)
    network = PixelCNN((3, 4), 2, (4,), channels=4, layers=4, kernel=7, activation="tanh").double()
    x, z = torch.rand(12, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    seen = torch.autograd.functional.jacobian(lambda a: network(a[None], z)[0], x) != 0
    assert bool(seen[3, :3].all())
    assert bool(seen[11, :11].all())


def test_the_first_layer_leaves_out_its_own_pixel():
    assert MaskedConv(1, 1, 3, centre=False).mask.flatten().tolist() == [True] * 4 + [False] * 5
    assert MaskedConv(1, 1, 3, centre=True).mask.flatten().tolist() == [True] * 5 + [False] * 4


def test_draws_of_z_share_the_convolutions():
    torch.manual_seed(0)
    network = PixelCNN((3, 3), 2, (4,), channels=3, kernel=3)
    x, z = torch.rand(5, 9), torch.randn(7, 5, 2)
    torch.testing.assert_close(network(x, z), network(x.expand(7, 5, 9), z), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"kernel": 4}, {"kernel": 1}, {"layers": 0}])
def test_options_without_sense(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        PixelCNN((3, 3), 2, **options)
