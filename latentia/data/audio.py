"""Sounds as sequences of vectors: the log-energies of mel bands, a frame each few milliseconds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentia.data.files import read_text
from latentia.data.raw import Raw
from latentia.errors import DataError

WINDOW, HOP = 0.025, 0.010
"""Seconds of sound in a frame, and from one frame to the next."""
BANDS = 40
LOUDEST = 32768.0
"""The largest number of a 16-bit recording, as which all are taken."""


def log_mel(samples: np.ndarray, rate: int, bands: int = BANDS) -> np.ndarray:
    """(T, bands) float32: log(1 + energy) of each mel band and frame, less the band's mean over the recording, which is
    the microphone's.

    Args:
        samples: (n,) numbers between -1 and 1; rate: of them a second.

    Davis and Mermelstein (1980), without the cosine transform. A frame is 25 ms of a Hann window, one each 10 ms.
    """
    width, hop = round(WINDOW * rate), round(HOP * rate)
    padded = np.pad(samples.astype(np.float64), (0, max(width - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::hop] * np.hanning(width)
    size = 1 << (width - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * LOUDEST, size)) ** 2 / width
    energy = np.log1p(power @ mel_filters(rate, size, bands).T)
    return (energy - energy.mean(0)).astype(np.float32)


def mel_filters(rate: int, size: int, bands: int) -> np.ndarray:
    """(bands, size / 2 + 1): triangles that overlap by half, evenly on the mel scale m = 2595 log10(1 + f / 700)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequency = np.arange(size // 2 + 1) * rate / size
    up = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(np.minimum(up, down), 0)


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Samples between -1 and 1, of several channels their mean, and how many a second.

    Raises:
        DataError: no sound, or not in the form of .wav.
    """
    from scipy.io import wavfile  # takes a tenth of a second, and few data are sounds

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks of other programs
            rate, samples = wavfile.read(path)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path.name}: no .wav file that can be read ({error}): convert it to 16-bit PCM") from error
    if samples.dtype.kind == "u":
        samples = (samples.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float64) / (np.iinfo(samples.dtype).max + 1)
    samples = samples.mean(1) if samples.ndim == 2 else samples
    if not len(samples) or rate < 1000:
        raise DataError(f"{path.name} has {len(samples)} samples at {rate} Hz: it is no sound to learn from")
    return samples, rate


def read_sounds(folder: Path) -> Raw:
    """The .wav files of a folder in the order of their names, as frames; with what is said in each as text, where
    every NAME.wav has a NAME.txt, or a file transcripts.tsv has a line `NAME.wav <tab> words` for each.

    Text is x, and the frames are its context; without transcripts the frames are x.

    Raises:
        DataError: a file that cannot be read, recordings of several rates, or transcripts of some only.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    frames = sounds(paths, folder.name)
    said = _transcripts(folder, paths)
    return frames if said is None else Raw("text", said, source=f"{folder.name}'s transcripts", context=frames)


def sounds(paths: Sequence[Path], source: str) -> Raw:
    """The frames of .wav files. Raises `DataError` for one that cannot be read, and for several rates."""
    read = [read_wav(path) for path in paths]
    rates = sorted({rate for _, rate in read})
    if len(rates) > 1:
        raise DataError(f"{source}: recordings at {rates[0]} and {rates[-1]} Hz: resample them to one rate")
    return Raw("sequence", [log_mel(*one) for one in read], source=source)


def _transcripts(folder: Path, paths: list[Path]) -> list[list[str]] | None:
    """The words of each recording; None where nothing is said of any."""
    table = folder / "transcripts.tsv"
    if table.exists():
        rows = [line.split("\t", 1) for line in read_text(table).splitlines() if line.strip()]
        said = {row[0]: row[-1].split() for row in rows if len(row) == 2}
    else:
        texts = {path: path.with_suffix(".txt") for path in paths}
        said = {path.name: read_text(text).split() for path, text in texts.items() if text.exists()}
    if not said:
        return None
    missing = [path.name for path in paths if not said.get(path.name)]
    if missing:
        raise DataError(
            f"{folder.name}: {len(missing)} of {len(paths)} recordings have no transcript, {missing[0]} first: write "
            "it to a .txt file of the same name, or to transcripts.tsv, or take the recording out"
        )
    return [said[path.name] for path in paths]
