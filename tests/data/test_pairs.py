"""Pairs as data: parallel files, pairs a line, sounds with what is said in them; sizes, batches and refusals."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from latentia.batch import Batch
from latentia.data import as_dataset, load
from latentia.data.audio import log_mel, mel_filters
from latentia.data.prose import Prose
from latentia.errors import DataError

ENGLISH = ["the house", "the red book", "a house"]
GERMAN = ["das Haus", "das rote Buch", "ein Haus"]


def context_of(data):
    assert data.context is not None
    return data.context


def lengths_of(data):
    assert data.lengths is not None
    return data.lengths


def parallel(folder) -> dict[str, Any]:
    (folder / "train.en").write_text("\n".join(ENGLISH) + "\n")
    (folder / "train.de").write_text("\n".join(GERMAN) + "\n")
    return {"source": str(folder / "train.de"), "context": str(folder / "train.en"), "kind": "text"}


def in_lines(folder) -> dict[str, Any]:
    rows = [{"text": x, "context": c} for x, c in zip(GERMAN, ENGLISH, strict=True)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": str(folder / "pairs.jsonl")}


def in_columns(folder) -> dict[str, Any]:
    (folder / "pairs.tsv").write_text("\n".join(f"{c}\t{x}" for x, c in zip(GERMAN, ENGLISH, strict=True)))
    return {"source": str(folder / "pairs.tsv"), "kind": "text"}


@pytest.mark.parametrize("form", [parallel, in_lines, in_columns])
def test_pairs_in_every_form_are_the_same(tmp_path, form):
    data = load(**form(tmp_path))
    assert [" ".join(words) for words in data.decoded()] == GERMAN
    assert [" ".join(words) for words in context_of(data).decoded()] == ENGLISH
    assert data.schema.sizes()["symbols"] == 6  # five words, and the unknown one
    assert data.schema.sizes()["source_symbols"] == 6
    batch = data.batch([1, 0])
    assert batch.frame.given().ends.tolist() == [3, 2]
    again = type(data.schema).from_json(json.loads(json.dumps(data.schema.to_json())))
    assert again == data.schema


def test_rare_words_are_rare_on_both_sides(tmp_path):
    data = load(**parallel(tmp_path), min_count=2)
    assert data.schema.vocabulary == ("<unk>", "Haus", "das")
    assert context_of(data).schema.vocabulary == ("<unk>", "house", "the")


def test_blank_lines_at_different_places_are_no_pairs(tmp_path):
    asked = parallel(tmp_path)
    (tmp_path / "train.en").write_text("the house\n\na house\nthe book\n")
    (tmp_path / "train.de").write_text("das Haus\nein Haus\n\ndas Buch\n")
    with pytest.raises(DataError, match=r"line 2 is blank in one of them only"):
        load(**asked)
    (tmp_path / "train.en").write_text("the house\n")
    with pytest.raises(DataError, match="1 data for the 3"):
        load(**asked)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"text": "a", "context": "b"}', '{"text": "a"}'], 'line 2: no "context"'),
        (['{"text": "a", "context": "b"}', '{"text": "a", "context": 3}'], 'line 2: no "context"'),
    ],
)
def test_half_of_the_lines_with_a_source_are_refused(tmp_path, lines, said):
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=re.escape(said)):
        load(str(tmp_path / "pairs.jsonl"))


@pytest.mark.parametrize("line", ["one", "a\tb\tc", "a\t", "\tb"])
def test_a_line_of_another_number_of_texts_is_refused(tmp_path, line):
    (tmp_path / "pairs.tsv").write_text(f"the\tdas\n{line}\n")
    with pytest.raises(DataError, match=r"pairs.tsv, line 2: . texts? between tabs"):
        load(str(tmp_path / "pairs.tsv"), kind="text")


# ------------------------------------------------------------------------------------------------------------- sounds


def tone(frequency, seconds, rate=8000):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def write(path, sound, rate=8000):
    wavfile.write(path, rate, (sound * 32767).astype(np.int16))


def test_a_tone_is_loudest_in_the_band_that_it_lies_in():
    filters = mel_filters(8000, 256, 40)
    peaks = filters.argmax(1) * 8000 / 256
    assert bool((np.diff(peaks) >= 0).all())
    for frequency in (400, 1000, 2500):
        sound = np.concatenate([tone(frequency, 0.5), np.zeros(4000)])
        frames = log_mel(sound, 8000)
        assert frames.shape == (98, 40)  # 1 second, 25 ms wide, each 10 ms
        assert abs(peaks[frames[:40].mean(0).argmax()] - frequency) < 100
        assert np.abs(frames.mean(0)).max() < 1e-5
        # twice as loud is the same but for the noise floor of log(1 + energy)
        assert np.abs(log_mel(0.5 * tone(frequency, 1), 8000) - log_mel(tone(frequency, 1), 8000)).max() < 0.1


def test_sounds_with_what_is_said(tmp_path):
    for name, frequency in (("b", 400), ("a", 800)):
        write(tmp_path / f"{name}.wav", tone(frequency, 0.1 if name == "a" else 0.3))
    frames = load(str(tmp_path))
    assert frames.schema.kind == "sequence"
    assert lengths_of(frames).tolist() == [8, 28]
    (tmp_path / "transcripts.tsv").write_text("a.wav\thigh high\nb.wav\tlow\n")
    data = load(str(tmp_path), min_count=1)
    assert data.decoded() == [["high", "high"], ["low"]]
    assert data.schema.sizes()["source_features"] == 40
    assert lengths_of(context_of(data)).tolist() == [8, 28]
    (tmp_path / "transcripts.tsv").unlink()
    (tmp_path / "a.txt").write_text("high")
    with pytest.raises(DataError, match=r"1 of 2 recordings have no transcript, b.wav"):
        load(str(tmp_path))
    (tmp_path / "b.txt").write_text("low")
    assert load(str(tmp_path), min_count=1).decoded() == [["high"], ["low"]]
    write(tmp_path / "c.wav", tone(400, 0.1, 16000), 16000)
    with pytest.raises(DataError, match="at 8000 and 16000 Hz"):
        load(str(tmp_path))
    (tmp_path / "c.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(DataError, match=r"c.wav: no .wav file"):
        load(str(tmp_path))


def test_channels_and_widths_are_one_scale(tmp_path):
    sound = tone(500, 0.2)
    forms = {
        "short": (sound * 32767).astype(np.int16),
        "byte": (sound * 127 + 128).astype(np.uint8),
        "real": sound.astype(np.float32),
        "both": np.stack([sound, sound], 1).astype(np.float32),
    }
    found = {}
    for name, samples in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        wavfile.write(folder / "a.wav", 8000, samples)
        found[name] = load(str(folder)).x
    for name in ("byte", "real", "both"):
        loud = found["short"].abs() > 2
        assert float((found[name] - found["short"])[loud].abs().max() if loud.any() else 0) < 1


# ------------------------------------------------------------------------------------------------------------ batches


def ragged(count):
    generator = torch.Generator().manual_seed(0)
    own, given = (torch.randint(1, 40, (count,), generator=generator) for _ in range(2))
    context = Batch(torch.zeros(count, 40, 3), lengths=given)
    return as_dataset(Batch(torch.zeros(count, 40, dtype=torch.long), lengths=own, context=context))


def test_pairs_of_like_sizes_are_learned_from_together():
    data = ragged(640)
    order = torch.randperm(640, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    parts = data.minibatches(order, 16)
    assert [len(part) for part in parts] == [16] * 40
    assert sorted(torch.cat(parts).tolist()) == list(range(640))
    sizes = lengths_of(data) + 3 * lengths_of(context_of(data))

    def padding(parts):
        return sum(float(sizes[part].max()) * len(part) for part in parts) / float(sizes.sum())

    assert padding(parts) < 1.1 < padding(order.split(16))
    assert not torch.equal(torch.cat(parts), torch.cat(data.minibatches(order, 16)))
    assert padding(part for _, part in ((None, p) for p, _ in data.by_length(16))) < 1.1


def test_both_sides_of_a_pair_are_cut_alike(tmp_path):
    (tmp_path / "x.de").write_text("Der Hund bellt.\nDie Katze, sie schläft!\n")
    (tmp_path / "x.en").write_text("The dog barks.\nThe cat, it sleeps!\n")
    options = {"context": str(tmp_path / "x.en"), "kind": "text", "min_count": 1}
    prose = Prose(lower=True, words="letters")
    data = load(str(tmp_path / "x.de"), prose=prose, **options)
    assert data.decoded() == [["der", "hund", "bellt"], ["die", "katze", "sie", "schläft"]]
    assert data.context.decoded() == [["the", "dog", "barks"], ["the", "cat", "it", "sleeps"]]
    (tmp_path / "x.en").write_text("The dog barks.\n!!!\n")
    with pytest.warns(UserWarning, match="1 texts without a word are left out"):
        data = load(str(tmp_path / "x.de"), prose=prose, **options)
    assert data.context.decoded() == [["the", "dog", "barks"]]
