"""The file: the same data in another process, and a sentence for whatever is no such file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from importlib import import_module

import numpy as np
import pytest
import torch

from latentia.batch import Batch
from latentia.codec import general
from latentia.codec.archive import FRONT, MAGIC, VERSION, Archive
from latentia.data import load
from latentia.errors import DataError, RunError
from latentia.models import VAE, LanguageModel, MixtureOfBernoullis
from latentia.models.mixtures import mixture_of_bernoullis
from latentia.models.vaes import vae
from latentia.tasks import compress, decompress
from latentia.tasks.compress import precision_of


@pytest.fixture(scope="module")
def made():
    model, batch = mixture_of_bernoullis.tiny(0)
    return model, batch, compress(model, batch).file


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of digits, and some of these in a file."""
    folder = tmp_path_factory.mktemp("runs")
    from latentia import cli

    digits = load("digits", binarize="fixed").x.numpy()
    np.save(folder / "digits.npy", digits)
    np.save(folder / "some.npy", digits[:100])
    for seed in (0, 1):
        words = f"fit --model MixtureOfBernoullis --data {folder / 'digits.npy'} --kind image --seed {seed}"
        with pytest.raises(SystemExit) as end:
            cli.main(
                [*words.split(), *["--learner.restarts", "1", "--learner.steps", "5", "--out"], str(folder / f"{seed}")]
            )
        assert not end.value.code
    return folder


def test_a_flipped_bit_is_noticed_wherever_it_is(made):
    model, _, file = made
    begun = len(MAGIC) + FRONT.size + 32
    for place in [*range(0, begun, 3), *range(begun, len(file), 29), len(file) - 1]:
        wrong = bytearray(file)
        wrong[place] ^= 1 << place % 8
        with pytest.raises(DataError, match=r"some\.ltz"):
            decompress(model, bytes(wrong), "some.ltz")


@pytest.mark.parametrize("length", [0, 5, 20, 60, -1, -20])
def test_a_cut_file_is_noticed(made, length):
    model, _, file = made
    with pytest.raises(DataError, match=r"cut off|no file"):
        decompress(model, file[:length])
    with pytest.raises(DataError, match="cut off or added to"):
        decompress(model, file + b"\0")


def test_zeros_and_a_newer_version_are_told_apart(made):
    model, _, file = made
    with pytest.raises(DataError, match="no file that"):
        decompress(model, bytes(1000))
    newer = MAGIC + FRONT.pack(VERSION + 1, *FRONT.unpack_from(file, len(MAGIC))[1:]) + file[len(MAGIC) + FRONT.size :]
    with pytest.raises(DataError, match=f"format {VERSION + 1}.*upgrade"):
        decompress(model, newer)


def test_another_model_is_refused(made):
    model, batch, file = made
    other, _ = mixture_of_bernoullis.tiny(1)
    with pytest.raises(RunError, match="another model"):
        decompress(other, file)
    with pytest.raises(RunError, match="a MixtureOfBernoullis whose parameters"):
        decompress(vae.tiny(0)[0], file)
    assert torch.equal(decompress(model, file).x, torch.where(batch.observed, batch.x, 0))


def test_a_machine_that_rounds_otherwise_is_refused_before_it_decodes(made, monkeypatch):
    model, _, file = made
    archive = Archive.from_bytes(file, "some.ltz")
    environment = {**archive.header["environment"], "torch": "1.0"}
    wrong = Archive({**archive.header, "probe": "0" * 32, "environment": environment}, archive.side, archive.payload)
    module = import_module("latentia.tasks.compress")  # which has a function of its name beside it
    monkeypatch.setattr(module, "decoded", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(RunError, match=r"rounds otherwise.*torch 1\.0 and not"):
        decompress(model, wrong.to_bytes())


def test_other_data_than_they_were_are_not_given_back(made):
    model, _, file = made
    archive = Archive.from_bytes(file, "some.ltz")
    wrong = Archive({**archive.header, "data": "0" * 64}, archive.side, archive.payload)
    with pytest.raises(DataError, match="other data"):
        decompress(model, wrong.to_bytes())


def test_a_header_of_nonsense_is_refused(made):
    model, _, file = made
    archive = Archive.from_bytes(file, "some.ltz")
    for terms in ({}, {**archive.header["terms"], "shape": 3}, {**archive.header["terms"], "new": 1}):
        wrong = Archive({**archive.header, "terms": terms}, archive.side, archive.payload)
        with pytest.raises(DataError, match="header is damaged"):
            decompress(model, wrong.to_bytes())


def test_a_header_has_what_the_docstring_says(made):
    _, _, file = made
    packed = file[len(MAGIC) + FRONT.size + 32 :][: FRONT.unpack_from(file, len(MAGIC))[1]]
    header = json.loads(zlib.decompress(packed))
    assert {"model", "parameters", "probe", "environment", "terms", "payload", "data"} <= set(header)
    assert precision_of(file) is None


OTHER = """
import sys, torch
torch.set_num_threads(2)
from latentia.runs.saved import load_model
from latentia.tasks import decompress
import numpy as np
for name in sys.argv[2:]:
    model = load_model(f"{sys.argv[1]}/{name}.safetensors")
    with open(f"{sys.argv[1]}/{name}.ltz", "rb") as file:
        found = decompress(model, file.read())
    np.save(f"{sys.argv[1]}/{name}.npy", found.x.numpy())
"""


def test_another_process_with_other_threads_has_the_same_data(tmp_path):
    generator = torch.Generator().manual_seed(0)
    digits = load("digits", binarize="fixed").x[:300]
    words = Batch(
        torch.randint(30, (40, 12), generator=generator), lengths=torch.randint(1, 13, (40,), generator=generator)
    )
    told = {
        "vae": (VAE((8, 8), latent=8, hidden=(64,)), Batch(digits)),
        "words": (LanguageModel(30, embedding=16, hidden=32), Batch.of(words.x, lengths=words.lengths)),
        "mixture": (MixtureOfBernoullis((8, 8), components=40), Batch(digits)),
    }
    for name, (model, batch) in told.items():
        for parameter in model.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        model.save(tmp_path / f"{name}.safetensors")
        torch.set_num_threads(1)
        (tmp_path / f"{name}.ltz").write_bytes(compress(model, batch).file)
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(tmp_path), *told],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert not done.returncode, done.stderr
    for name, (_, batch) in told.items():
        assert np.load(tmp_path / f"{name}.npy").tobytes() == batch.x.numpy().tobytes()


def test_the_command_compresses_and_decompresses(runs, answer, tmp_path):
    made, back = tmp_path / "some.ltz", tmp_path / "back.npy"
    status, said, wrong = answer("compress", runs / "0", "--data", runs / "some.npy", "--out", made)
    assert not status, wrong
    for word in ("message", "header", "gzip", "bz2", "xz", "zstd", "PNG", "WebP", "bits a pixel"):
        assert word in said
    assert not answer("decompress", made, "--run", runs / "0", "--out", back)[0]
    assert np.array_equal(np.load(back), np.load(runs / "some.npy"))
    where = tmp_path / "where.png"
    assert not answer("compress", runs / "0", "--first", 20, "--out", made, "--where", where)[0]
    assert where.read_bytes().startswith(b"\x89PNG")


def test_what_the_command_refuses_it_says_in_a_sentence_and_writes_nothing(runs, answer, tmp_path):
    made, back = tmp_path / "some.ltz", tmp_path / "back.npy"
    answer("compress", runs / "0", "--data", runs / "some.npy", "--out", made)
    zeros = tmp_path / "zeros.ltz"
    zeros.write_bytes(bytes(100))
    for file, run, words in (
        (made, "1", "another model"),
        (zeros, "0", "no file that"),
        (tmp_path / "nowhere.ltz", "0", "cannot read"),
    ):
        status, _, said = answer("decompress", file, "--run", runs / run, "--out", back)
        assert status == 2
        assert words in said
        assert said.count("\n") <= 2
        assert not back.exists()
    status, _, said = answer("compress", runs / "0", "--samples", 3, "--out", tmp_path / "other.ltz")
    assert status == 2
    assert "coded directly" in said
    assert not (tmp_path / "other.ltz").exists()


def test_general_compressors_have_all_of_the_data():
    digits = load("digits", binarize="fixed")
    found = general.lengths(digits)
    assert found["uncompressed"] == digits.x.numel()
    assert {"gzip", "bz2", "xz", "zstd", "PNG", "WebP"} <= set(found)
    # as measured once, of all digits above 7 in one sheet
    assert 0.5 < found["gzip"] / digits.x.numel() < 0.75
    words = load([["a", "b", "a"], ["b"]])
    assert general.lengths(words)["uncompressed"] == 8 * len("a b a\nb\n")
    steps = load([np.array([3, 1, 2]), np.array([0])], values="symbols")
    assert general.lengths(steps)["uncompressed"] == 8 * 6
