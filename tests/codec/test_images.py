"""Images in few bytes: the same whole numbers again, in another process too, sizes, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from latentia import testing
from latentia.batch import Batch
from latentia.codec.images import FRONT, REACH, ImageCoder
from latentia.data import as_dataset
from latentia.distributions.rounding import Dithered, Rounded
from latentia.errors import CapabilityError, DataError, OptionError, RunError
from latentia.learners import Gradient
from latentia.model import Frame
from latentia.models import VAE, TransformCoder
from latentia.models.images import transform_coder
from latentia.objectives import elbo


def smooth(count=40, size=(10, 12), seed=0):
    """Images in colour, of a few waves."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]] / 6
    waves = [np.sin(a * rows + b * columns + c) for a, b, c in draw.uniform(0, 3, (3 * count, 3))]
    return torch.from_numpy((0.5 + 0.4 * np.stack(waves)).reshape(count, 3, *size).transpose(0, 2, 3, 1)).float()


@pytest.fixture(scope="module")
def coder():
    images = smooth()
    model = TransformCoder(images.shape[1:], slope=200.0, channels=12, block=4, hidden=8)
    model.start(Batch(images), torch.Generator().manual_seed(0))
    return ImageCoder(model, as_dataset(Batch(images)))


def test_checks():
    ran = testing.check_model(transform_coder.tiny, seeds=(0,))
    assert {"check_gradients", "check_batching"} <= set(ran)


def test_rounding_has_the_probabilities_of_whole_numbers():
    """p at whole numbers sums to 1, and is the density of a draw and a noise."""
    log_weights = torch.tensor([[0.3, 0.7]]).double().log()
    p = Rounded(log_weights, torch.tensor([[0.2, -1.0]]).double(), torch.tensor([[0.5, 2.0]]).double(), 1, (1, 1, 1))
    every = torch.arange(-60.0, 61.0).double().view(-1, 1, 1, 1, 1)
    assert p.log_prob(every).exp().sum() == pytest.approx(1, abs=1e-9)
    torch.manual_seed(0)
    drawn = p.sample((20_000,))
    share = (drawn.round() == 0).double().mean()
    assert share == pytest.approx(float(_rounds_to_zero(p)), abs=4 * (0.25 / 20_000) ** 0.5)
    assert drawn.var() == pytest.approx(float(p.variance), rel=0.1)
    # far out too the logarithm is finite
    assert torch.isfinite(p.log_prob(torch.full((1, 1, 1, 1, 1), 5e3).double())).all()


def _rounds_to_zero(p):
    """P(a draw is nearest to 0): its density over half a unit around, by the middle of many cells."""
    z = (torch.arange(2000.0).double() + 0.5) / 2000 - 0.5
    return p.log_prob(z.view(-1, 1, 1, 1, 1)).exp().mean()


def test_the_noise_is_uniform_around_what_is_rounded():
    q = Dithered(torch.tensor([[0.3, -7.2]]))
    assert q.mode.tolist() == [[0.0, -7.0]]
    z = q.rsample((500,))
    assert bool((q.log_prob(z) == 0).all())
    assert torch.isneginf(q.log_prob(z + 0.51)).any()
    assert float((z - q.mean).abs().max()) <= 0.5 + 1e-6


def test_whole_numbers_come_back(coder):
    for x in smooth(6, seed=1):
        file = coder.encode(x)
        z = coder.codes(Batch(x.unsqueeze(0)))[0]
        assert np.array_equal(coder.numbers(file), z)
        expected = coder.model.likelihood(torch.from_numpy(z).float()[None, None], Frame(1)).mean[0, 0]
        assert torch.equal(coder.decode(file), expected)


@pytest.mark.parametrize("contexts", [True, False])
def test_any_whole_numbers_come_back(coder, contexts, monkeypatch):
    """Those beyond the table too, and files are about as long as the frequencies say."""
    other = ImageCoder(coder.model, as_dataset(Batch(smooth())), contexts=contexts)
    draw = np.random.default_rng(0)
    for spread in (1, REACH, 5000):
        z = draw.integers(-spread, spread + 1, (1, *coder.model.prior(Frame(1)).event_shape))
        monkeypatch.setattr(other, "codes", lambda batch, z=z: z)
        assert np.array_equal(other.numbers(other.encode(smooth(1)[0])), z[0])


def test_a_larger_slope_is_a_longer_file_and_a_better_image(coder):
    images, found = smooth(), []
    for model in (coder.model, coder.model.at(2000.0)):
        one = ImageCoder(model, as_dataset(Batch(images)))
        files = [one.encode(x) for x in images[:10]]
        error = sum(float(((one.decode(file) - x) ** 2).mean()) for file, x in zip(files, images, strict=False))
        found.append((sum(map(len, files)), error))
    assert found[1][0] > found[0][0]
    assert found[1][1] < found[0][1]


def test_learning_makes_rate_and_distortion_less():
    images = smooth(64)
    model = TransformCoder(images.shape[1:], slope=200.0, channels=12, block=4, hidden=8)
    model.start(Batch(images), torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        before = float(elbo(model, Batch(images), samples=4).value.mean())
    Gradient(epochs=6, batch_size=8, lr=2e-3, patience=None, progress=False).fit(model, as_dataset(Batch(images)))
    with torch.no_grad():
        assert float(elbo(model, Batch(images), samples=4).value.mean()) > before


def test_another_process_reads_the_same(coder, tmp_path):
    x = smooth(1, seed=3)[0]
    coder.write(x, tmp_path / "x.ltq")
    coder.model.save(tmp_path / "model.safetensors")
    coder.save(tmp_path / "frequencies.safetensors")
    code = (
        "import sys, torch\n"
        "from latentia import load_model\n"
        "from latentia.codec.images import ImageCoder\n"
        "torch.set_num_threads(2)\n"
        "model = load_model(sys.argv[1] + '/model.safetensors')\n"
        "coder = ImageCoder.load(model, sys.argv[1] + '/frequencies.safetensors')\n"
        "print(coder.numbers(open(sys.argv[1] + '/x.ltq', 'rb').read()).tolist())\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == coder.codes(Batch(x.unsqueeze(0)))[0].tolist()


def test_what_is_no_such_file_is_refused(coder, tmp_path):
    file = coder.encode(smooth(1)[0])
    assert file[: FRONT.size] != file[FRONT.size :]
    for place in range(FRONT.size, len(file), 7):
        flipped = bytearray(file)
        flipped[place] ^= 16
        with pytest.raises(DataError, match="damaged"):
            coder.numbers(bytes(flipped))
    for bad in (b"", bytes(200), file[:10], file[:-3]):
        with pytest.raises(DataError):
            coder.numbers(bad)
    with pytest.raises(DataError, match="upgrade"):
        coder.numbers(file[:3] + b"\x09" + file[4:])
    coder.model.save(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="frequencies"):
        ImageCoder.load(coder.model, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="other frequencies"):
        ImageCoder(coder.model, as_dataset(Batch(smooth(seed=5)))).numbers(file)


def test_what_makes_no_sense_is_refused(coder):
    with pytest.raises(CapabilityError, match="Rounded"):
        ImageCoder(VAE((3, 4)), as_dataset(Batch(torch.zeros(2, 3, 4))))
    refused: list[dict[str, Any]] = [{"slope": 0.0}, {"mixture": 0}, {"block": 3}, {"channels": 100, "block": 4}]
    for options in refused:
        with pytest.raises(OptionError):
            TransformCoder((8, 8), **options)
    with pytest.raises(OptionError):
        TransformCoder((8,))
    for x in (torch.full((10, 12, 3), 3.0), torch.zeros(4, 4, 3)):
        with pytest.raises(DataError):
            coder.encode(x)
