"""Melodies read by CTC: which notes were played, and when, learned from sounds and scores that say only in which order.

Synthesized tones of three pitches with pauses and noise; log-mel frames are the context, the notes are x, and which
frame says which note is z. Nothing says in the data where a note begins.
"""

import numpy as np
import torch

from latentia.batch import Batch
from latentia.data import as_dataset
from latentia.data.audio import log_mel
from latentia.distributions.prefixes import prefix_beam
from latentia.learners import Gradient
from latentia.models import CTC
from latentia.objectives import exact

RATE, NOTES, BANDS = 8000, {"do": 523.3, "mi": 659.3, "so": 784.0}, 20


def melody(random: np.random.Generator) -> tuple[np.ndarray, list[int], list[float]]:
    """Frames, notes, and the second at which each begins."""
    notes = random.integers(len(NOTES), size=random.integers(2, 5)).tolist()
    parts, begins, length = [], [], 0
    for note in notes:
        pause, held = (int(RATE * random.uniform(*span)) for span in ((0.03, 0.1), (0.08, 0.2)))
        time = np.arange(held) / RATE
        parts += [np.zeros(pause), np.sin(2 * np.pi * list(NOTES.values())[note] * time) * np.hanning(held)]
        begins.append((length + pause) / RATE)
        length += pause + held
    sound = 0.5 * np.concatenate(parts)
    return log_mel(sound + random.normal(0, 0.01, len(sound)), RATE, BANDS) / 3, notes, begins


def batch_of(melodies) -> Batch:
    frames = [torch.from_numpy(one[0]) for one in melodies]
    notes = [torch.tensor(one[1]) for one in melodies]
    lengths, ends = (torch.tensor([len(part) for part in parts]) for parts in (frames, notes))
    context = Batch(torch.nn.utils.rnn.pad_sequence(frames, batch_first=True), lengths=lengths)
    return Batch(torch.nn.utils.rnn.pad_sequence(notes, batch_first=True), lengths=ends, context=context)


def main() -> None:
    random, names = np.random.default_rng(0), list(NOTES)
    train, test = ([melody(random) for _ in range(count)] for count in (240, 40))
    model = CTC(symbols=len(NOTES), source_features=BANDS, hidden=16, layers=1, stride=2)
    Gradient(objective=exact, epochs=12, batch_size=20, lr=0.02, progress=False).fit(model, as_dataset(batch_of(train)))
    batch = batch_of(test)
    with torch.no_grad():
        logits, steps = model.logits(batch.frame)
        posterior = model.posterior(batch)
        found = [prefix_beam(row[:n].log_softmax(-1), 4)[0].symbols for row, n in zip(logits, steps, strict=True)]
        right = sum(list(one) == notes for one, (_, notes, _) in zip(found, test, strict=True))
        print(f"log p(notes | sound) = {float(posterior.log_partition.mean()):.2f} nats a melody")
        print(f"{right} of {len(test)} melodies are read without a mistake")
        path = posterior.mode[0].argmax(-1)
        heard = [int(i) for i in range(len(path)) if path[i] < len(names) and (i == 0 or path[i] != path[i - 1])]
        for note, begin, step in zip(test[0][1], test[0][2], heard, strict=True):
            print(f"  {names[note]}: played from {begin:.2f} s, heard at {step * 0.02:.2f} s")


if __name__ == "__main__":
    main()
