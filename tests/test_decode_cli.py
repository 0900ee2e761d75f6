"""What a recording says and what a sentence is in the other language, at the command and in Python."""

import itertools
import re

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import latentia
from latentia.batch import Batch
from latentia.data import as_dataset
from latentia.errors import CapabilityError, OptionError
from latentia.evaluate import evaluate
from latentia.models.alignments import ctc, hmm_alignment, ibm1, ibm2
from latentia.models.mixtures import gaussian_mixture
from latentia.tasks import align, decode
from latentia.tasks.align import pharaoh
from latentia.tasks.decode import edit_distance, error_rate

WORDS = {"der": "the", "hund": "dog", "katze": "cat", "sieht": "sees", "hört": "hears"}


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    """A run of sentences that are translated word by word."""
    from latentia import cli

    folder = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    german = [random.choice(list(WORDS), random.integers(2, 5)).tolist() for _ in range(200)]
    lines = [f"{' '.join(source)}\t{' '.join(WORDS[word] for word in source)}" for source in german]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    words = f"fit --model LatentAttention --data {folder}/pairs.tsv --kind text --min_count 1 --model.hidden 16"
    words += f" --learner.epochs 25 --learner.lr 0.02 --learner.batch_size 20 --evaluation false --out {folder}/run"
    with pytest.raises(SystemExit) as left:
        cli.main(words.split())
    assert not left.value.code
    return folder / "run"


def test_a_sentence_is_translated(answer, translation):
    status, said, _ = answer("decode", translation, "katze sieht hund", "katze hört")
    assert status == 0
    assert said.splitlines() == ["cat sees dog", "cat hears"]


def test_held_out_sentences_are_compared_with_the_truth(answer, translation, tmp_path):
    status, said, told = answer("decode", translation, "--width", 2, "--out", tmp_path / "found.txt")
    assert status == 0
    assert "found.txt" in told
    wrong, symbols = map(int, re.findall(r"(\d+) of (\d+) symbols wrong", said)[0])
    run = latentia.open_run(translation)
    truth = run.schema.decode(run.held_out.x, None, run.held_out.lengths)
    found = [line.split() for line in (tmp_path / "found.txt").read_text().splitlines()]
    assert error_rate(truth, found) == (wrong, symbols)
    assert wrong <= 0.1 * symbols


def test_words_are_aligned(answer, translation, tmp_path):
    status, said, _ = answer("align", translation, "--out", tmp_path / "a.txt")
    assert status == 0
    run = latentia.open_run(translation)
    shares = align(run.model(), run.held_out)
    assert [tuple(share.shape) for share in shares] == [(int(n), int(n) + 1) for n in run.held_out.lengths]
    assert all(torch.allclose(share.sum(-1), torch.ones(len(share)), atol=1e-4) for share in shares)
    assert (tmp_path / "a.txt").read_text().splitlines() == [pharaoh(share) for share in shares]
    assert f"{int(run.held_out.lengths.sum())} symbols of {len(shares)} data aligned; 0 come from nowhere" in said
    assert pharaoh(torch.tensor([[0.0, 0.2, 0.8], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])) == "1-0 0-2"
    with pytest.raises(CapabilityError, match="aligns nothing"):
        align(*gaussian_mixture.tiny(0))
    # sources of several lengths in several batches, which z has as many values as
    assert "exact" in answer("evaluate", translation)[1]
    page = run.report().read_text()
    assert page.count("<h3>Alignment</h3>") == 3
    assert "could not be made" not in page


@pytest.mark.parametrize("module", [ibm1, ibm2, hmm_alignment])
def test_batches_of_contexts_of_several_lengths_are_evaluated_together(module):
    model, _ = module.tiny(0)
    random = torch.Generator().manual_seed(0)
    lengths = torch.arange(700) % 4 + 1
    words = [torch.randint(2, (700, 4), generator=random) for _ in range(2)]
    data = as_dataset(Batch(words[0], lengths=lengths, context=Batch(words[1], lengths=lengths)))
    found = evaluate(model, data)
    assert found.latent_units in (5, 8)
    shares = align(model, data)
    assert [tuple(share.shape) for share in shares] == [(int(n), int(n) + 1) for n in lengths]
    q = model.posterior(data.batch([11]))
    assert torch.allclose(shares[11].sum(-1), torch.ones(4, dtype=torch.float64))
    assert found.log_marginal == pytest.approx(
        float(torch.cat([model.posterior(data.batch([i])).log_partition for i in range(700)]).mean())
    )
    assert q.log_partition.shape == (1,)


def test_what_cannot_be_decoded_is_refused(answer, translation, tmp_path):
    assert "give one or the other" in answer("decode", translation, "hund", "--data", "x.tsv")[2]
    model, batch = ctc.tiny(0)
    with pytest.raises(OptionError, match="width=0"):
        decode(model, batch.context, width=0)
    with pytest.raises(CapabilityError, match="GaussianMixture does not decode"):
        decode(*gaussian_mixture.tiny(0))
    mixture = tmp_path / "mixture"
    np.savetxt(tmp_path / "x.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",", header="a,b")
    words = ("fit", "--model", "GaussianMixture", "--data", tmp_path / "x.csv", "--model.components", 1)
    assert answer(*words, "--evaluation", "false", "--out", mixture)[0] == 0
    assert "was fitted without a context" in answer("decode", mixture)[2]


def test_recordings_are_heard(answer, tmp_path):
    random = np.random.default_rng(0)
    time = np.arange(1200) / 8000
    tones = {"low": np.sin(2 * np.pi * 400 * time), "high": np.sin(2 * np.pi * 1600 * time)}
    said = []
    for i in range(60):
        words = random.choice(list(tones), random.integers(1, 4)).tolist()
        sound = np.concatenate([np.r_[np.zeros(400), 0.5 * np.hanning(1200) * tones[word]] for word in words])
        sound = sound + random.normal(0, 0.003, len(sound))
        wavfile.write(tmp_path / f"{i:02}.wav", 8000, (sound * 32767).astype(np.int16))
        said.append(f"{i:02}.wav\t{' '.join(words)}")
    (tmp_path / "transcripts.tsv").write_text("\n".join(said) + "\n")
    words = f"fit --model CTC --data {tmp_path} --min_count 1 --model.hidden 16 --model.layers 1 --model.stride 2"
    words += f" --learner.epochs 25 --learner.lr 0.02 --learner.batch_size 10 --evaluation false --out {tmp_path}/run"
    assert answer(*words.split())[0] == 0
    status, heard, _ = answer("decode", tmp_path / "run", *(tmp_path / f"{i:02}.wav" for i in range(10)))
    assert status == 0
    truth = [line.split("\t")[1].split() for line in said[:10]]
    assert error_rate(truth, [line.split() for line in heard.splitlines()]).rate < 0.2
    page = latentia.open_run(tmp_path / "run").report().read_text()
    assert page.count("<h3>Heard</h3>") == 3
    assert "could not be made" not in page
    assert "nothing.wav" in answer("decode", tmp_path / "run", tmp_path / "nothing.wav")[2]


def test_strings_are_the_same_in_batches_of_any_size():
    model, batch = ctc.tiny(1)
    whole, parts = (decode(model, batch.context, width=4, batch_size=size) for size in (32, 1))
    assert torch.equal(whole[1], parts[1])
    assert torch.equal(whole[0], parts[0])
    assert isinstance(batch.context, Batch)


@pytest.mark.parametrize("words", [*itertools.product(["", "a", "ab", "ba", "abc"], repeat=2)])
def test_the_edit_distance_is_a_distance(words):
    one, other = words

    # by its definition, recursively
    def distance(left, right):
        if not left or not right:
            return len(left) + len(right)
        change = distance(left[1:], right[1:]) + (left[0] != right[0])
        return min(change, distance(left[1:], right) + 1, distance(left, right[1:]) + 1)

    assert edit_distance(one, other) == distance(one, other) == edit_distance(other, one)
