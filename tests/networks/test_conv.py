"""Convolutional encoder and decoder: shapes, the order of values in an image, the bias of each pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentia.errors import OptionError
from latentia.networks import ConvDecoder, ConvEncoder
from latentia.networks.conv import Enlarged
from latentia.networks.mlp import glorot


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(8, 8), (28, 28), (1, 28, 28), (28, 28, 3), (3, 9, 7), (5, 1), (1, 1)]),
    block=st.sampled_from(["residual", "gated"]),
    stages=st.integers(1, 3),
    levels=st.integers(1, 3),
    numbers=st.integers(1, 2),
    lead=st.sampled_from([(4,), (2, 3), (1, 1)]),
)
def test_images_of_any_size_go_in_and_come_out(shape, block, stages, levels, numbers, lead):
    size = torch.Size(shape).numel() * levels
    channels = (3, 4, 5)[:stages]
    encoder = ConvEncoder(shape, 6, channels, block, levels=levels)
    decoder = ConvDecoder(6, shape, channels, block, levels=levels, numbers=numbers)
    assert encoder(torch.rand(*lead, size)).shape == (*lead, 6)
    assert decoder(torch.randn(*lead, 6)).shape == (*lead, numbers * size)


@pytest.mark.parametrize(("shape", "axes"), [((4, 5), None), ((4, 5, 3), (2, 0, 1)), ((3, 4, 5), (0, 1, 2))])
@pytest.mark.parametrize("levels", [1, 2])
def test_the_layout_is_that_of_the_data(shape, axes, levels):
    layout = ConvEncoder(shape, 1, (2,), levels=levels).layout
    x = torch.randn(6, *shape, levels)
    planes = x.unsqueeze(1) if axes is None else x.permute(0, *(axis + 1 for axis in axes), 4)
    images = layout.image(x.flatten(1))
    for channel in range(planes.shape[1]):
        for level in range(levels):
            assert torch.equal(images[:, channel * levels + level], planes[:, channel, ..., level])
    assert torch.equal(layout.flat(images), x.flatten(1))


@pytest.mark.parametrize("block", ["residual", "gated"])
def test_a_pixel_reaches_its_own_place(block):
    """Without weights in the decoder's last layer nothing but the bias comes out; with them, gradients stay local."""
    decoder = ConvDecoder(2, (6, 4, 3), (4,), block, numbers=2)
    decoder.output_bias.data = torch.arange(144.0)
    decoder.layers[-1].weight.data.zero_()
    assert torch.equal(decoder(torch.randn(3, 2)), torch.arange(144.0).expand(3, -1))
    encoder = ConvEncoder((16, 16), 1, (4,), block)
    stage = encoder.layers[0]
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    (reached,) = torch.autograd.grad(stage(x)[0, :, 0, 0].sum(), x)
    assert not reached[0, 0, 12:].any()
    assert not reached[0, 0, :, 12:].any()
    assert reached.any()


@given(
    small=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    times=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    lead=st.sampled_from([(2,), (2, 3)]),
)
@settings(max_examples=20, deadline=None)
def test_enlarged_repeats_pixels(small, times, lead):
    x = torch.randn(*lead, *small, dtype=torch.float64, requires_grad=True)
    size = (small[0] * times[0], small[1] * times[1])
    large = Enlarged(size)(x)
    assert torch.equal(large, x.repeat_interleave(times[0], -2).repeat_interleave(times[1], -1))
    (slope,) = torch.autograd.grad(large.sum(), x)
    assert torch.equal(slope, torch.full_like(x, times[0] * times[1]))
    assert torch.equal(Enlarged((size[0], size[1] - 1))(x), large[..., :-1])


def test_glorot_keeps_the_scale_and_follows_its_generator():
    one, other = (ConvEncoder((28, 28), 10, (32, 64)) for _ in range(2))
    for network in (one, other):
        glorot(network, torch.Generator().manual_seed(3))
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    for layer in one.modules():
        if isinstance(layer, torch.nn.Conv2d):
            bound = (6 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
            assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("options", "named"),
    [({"event_shape": (5,)}, "images"), ({"block": "dense"}, "residual, gated"), ({"channels": ()}, "channels")],
)
def test_options_without_sense(options, named):
    options = {"event_shape": (8, 8), "outputs": 2} | options
    with pytest.raises(OptionError, match=named):
        ConvEncoder(**options)


@pytest.fixture
def bf16_units(monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    yield monkeypatch
    torch.set_float32_matmul_precision(before)


def images_by(networks: list[torch.nn.Module], x: torch.Tensor, precision: str) -> torch.Tensor:
    torch.set_float32_matmul_precision(precision)
    for network in networks:
        x = network(x)
    return x


@pytest.mark.parametrize("block", ["residual", "gated"])
def test_medium_precision_rounds_the_convolutions_and_nothing_else(block, bf16_units):
    networks = [ConvEncoder((8, 8), 6, (8, 8), block), ConvDecoder(6, (8, 8), (8, 8), block)]
    for network in networks:
        glorot(network, torch.Generator().manual_seed(0))
    x = torch.rand(16, 64, generator=torch.Generator().manual_seed(1))
    exact, rounded = (images_by(networks, x, precision) for precision in ("highest", "medium"))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()
    rounded.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for network in networks for p in network.parameters())
    doubled = [network.double() for network in networks]
    assert torch.equal(*(images_by(doubled, x.double(), precision) for precision in ("highest", "medium")))
    bf16_units.setattr(torch.cpu, "get_capabilities", dict)
    plain = [network.float() for network in networks]
    torch.testing.assert_close(images_by(plain, x, "medium"), exact)


def test_a_context_and_a_device_of_the_callers_own_stay_as_they_are():
    encoder, x = ConvEncoder((8, 8), 6, (8,)), torch.rand(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.nn.Linear(64, 64)(x)).dtype == torch.bfloat16
    assert encoder.to("meta")(x.to("meta")).shape == (4, 6)
