"""Spoken digit strings: the label error rate of CTC on the Free Spoken Digit Dataset.

    python benchmarks/digit_strings.py --data ../shared/data/fsdd/fsdd.npz --out runs/digit_strings

Single recordings (8 kHz) of one speaker are joined to strings of three to seven digits, with silences between 0 and 0.3
seconds of quiet noise. Trained on takes 5 and above of four speakers. The official test is takes 0 to 4 of these
speakers; a second test is all takes of two speakers that were never heard. The label error rate is the edit distance
over the number of digits; its error is that over strings. The last epochs are chosen by 200 strings of takes 5 to 9,
which are not trained on.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from latentia.batch import Batch
from latentia.data import as_dataset
from latentia.data.audio import log_mel
from latentia.distributions.prefixes import greedy, prefix_beam
from latentia.learners import Gradient
from latentia.models import CTC
from latentia.objectives import exact
from latentia.tasks.decode import edit_distance

RATE, HELD_OUT = 8000, ("nicolas", "theo")


class Recordings:
    """Single digits, and strings made of them."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self.samples, self.offsets = file["samples"], file["offsets"]
            self.digit, self.speaker, self.take = file["digit"], file["speaker"].astype(str), file["take"]

    def strings(self, chosen: np.ndarray, count: int, seed: int) -> list[tuple[np.ndarray, list[int], np.ndarray]]:
        """(frames, digits, where each digit ends in seconds) of strings of one speaker each."""
        random = np.random.default_rng(seed)
        speakers = np.unique(self.speaker[chosen])
        made = []
        for i in range(count):
            mine = np.flatnonzero(chosen & (self.speaker == speakers[i % len(speakers)]))
            picked = random.choice(mine, size=random.integers(3, 8))
            made.append(self._joined(picked, random))
        return made

    def _joined(self, picked: np.ndarray, random: np.random.Generator):
        parts, ends, length = [], [], 0
        for which in [None, *picked.tolist()]:
            if which is not None:
                sound = self.samples[self.offsets[which] : self.offsets[which + 1]].astype(np.float64) / 32768
                parts.append(sound / max(np.abs(sound).max(), 1e-3) * random.uniform(0.3, 0.9))
                length += len(sound)
                ends.append(length / RATE)
            silence = int(random.uniform(0, 0.3) * RATE)
            parts.append(np.zeros(silence))
            length += silence
        sound = np.concatenate(parts)
        sound = sound + random.normal(0, 10 ** random.uniform(-4, -2.5), len(sound))
        return log_mel(sound, RATE), [int(self.digit[which]) for which in picked], np.array(ends)


def batch_of(strings) -> Batch:
    lengths = torch.tensor([len(frames) for frames, _, _ in strings])
    frames = torch.zeros(len(strings), int(lengths.max()), strings[0][0].shape[1])
    ends = torch.tensor([len(digits) for _, digits, _ in strings])
    x = torch.zeros(len(strings), int(ends.max()), dtype=torch.long)
    for i, (sound, digits, _) in enumerate(strings):
        frames[i, : len(sound)] = torch.from_numpy(sound)
        x[i, : len(digits)] = torch.tensor(digits)
    return Batch(x, lengths=ends, context=Batch(frames / 3, lengths=lengths))


@torch.no_grad()
def error_rate(model, strings) -> dict[str, float]:
    """The label error rate of the likeliest alignment's string, and of prefix search, in per cent."""
    model.eval()
    found = {"greedy": [], "prefix_beam": []}
    wanted = np.array([len(digits) for _, digits, _ in strings])
    for start in range(0, len(strings), 50):
        part = strings[start : start + 50]
        logits, lengths = model.logits(batch_of(part).frame)
        for row, length, (_, digits, _) in zip(logits.log_softmax(-1), lengths, part, strict=True):
            found["greedy"].append(edit_distance(digits, greedy(row[:length])))
            found["prefix_beam"].append(edit_distance(digits, prefix_beam(row[:length], 8)[0].symbols))
    rates = {}
    for name, wrong in found.items():
        rate = np.sum(wrong) / wanted.sum()
        spread = (np.array(wrong) - rate * wanted).std() * len(wanted) ** 0.5 / wanted.sum()
        rates |= {f"{name}_%": round(100 * rate, 2), f"{name}_se": round(100 * spread, 2)}
    return rates


@torch.no_grad()
def draw(model, string, path: Path) -> None:
    """The log-mel frames of a string, and under them p(z_t = k | x, frames): when each digit is heard; where the digits
    really end as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    frames, digits, ends = string
    model.eval()
    share = model.posterior(batch_of([string])).marginals[0]
    stride, seconds = model.encoder.stride, len(frames) * 0.01
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(10, 6), sharex=True)
    above.imshow(frames.T, origin="lower", aspect="auto", extent=(0, seconds, 0, frames.shape[1]), cmap="magma")
    above.set_ylabel("mel band")
    above.set_title(f"x = {' '.join(map(str, digits))}; white: where each digit's recording ends")
    times = (np.arange(len(share)) + 0.5) * stride * 0.01
    for digit in sorted(set(digits)):
        below.plot(times, share[:, digit], label=str(digit))
    below.plot(times, share[:, -1], color="lightgrey", label="blank", zorder=0)
    for axis, colour in ((above, "white"), (below, "black")):
        for end in ends:
            axis.axvline(end, color=colour, linewidth=0.8, linestyle=":")
    below.set_xlabel("seconds")
    below.set_ylabel("p(z_t = k | x, frames)")
    below.legend(loc="upper right", ncol=6)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fsdd/fsdd.npz"))
    parser.add_argument("--out", type=Path, default=Path("runs/digit_strings"))
    for name, value in {"strings": 2500, "epochs": 14, "hidden": 64, "layers": 2, "stride": 4, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--picture", action="store_true", help="draw a string by the model in --out, and train none")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    recordings = Recordings(asked.data)
    heard = ~np.isin(recordings.speaker, HELD_OUT)
    parts = {
        "train": (heard & (recordings.take >= 10), asked.strings),
        "validation": (heard & (recordings.take >= 5) & (recordings.take < 10), 200),
        "official_test": (heard & (recordings.take < 5), asked.test),
        "unheard_speakers": (~heard, asked.test),
    }
    if asked.picture:
        model = CTC(10, 40, asked.hidden, asked.layers, asked.stride, asked.dropout)
        model.load_state_dict(safetensors.torch.load_file(asked.out / "model.safetensors"))
        draw(model, recordings.strings(*parts["official_test"], seed=2)[0], asked.out / "digit_strings.png")
        return
    data = {name: recordings.strings(*part, seed=i) for i, (name, part) in enumerate(parts.items())}
    model = CTC(10, 40, asked.hidden, asked.layers, asked.stride, asked.dropout)
    learner = Gradient(
        objective=exact,
        epochs=asked.epochs,
        batch_size=asked.batch,
        lr=asked.lr,
        schedule="cosine",
        warmup=100,
        clip=5.0,
    )
    start, processor = time.perf_counter(), time.process_time()

    def told(record) -> None:
        print(
            json.dumps({name: record[name] for name in ("epoch", "bound", "validation_bound", "seconds")}), flush=True
        )

    learner.fit(
        model,
        as_dataset(batch_of(data["train"])),
        validation=as_dataset(batch_of(data["validation"])),
        callbacks=[told],
    )
    settings = {name: value for name, value in vars(asked).items() if name not in ("data", "out")}
    found = {"settings": settings, "threads": torch.get_num_threads()}
    found["minutes_of_training"] = round((time.perf_counter() - start) / 60, 1)
    found["processor_minutes_of_training"] = round((time.process_time() - processor) / 60, 1)
    found["parameters"] = sum(p.numel() for p in model.parameters())
    for name in ("official_test", "unheard_speakers"):
        found[name] = error_rate(model, data[name])
    safetensors.torch.save_file(model.state_dict(), asked.out / "model.safetensors")
    (asked.out / "result.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
