"""Images in colour by a quantised code beside JPEG and WebP: bytes of files, and the error of what comes back.

    python benchmarks/rate_distortion.py

The 120 x 90 frames of CamVid (Brostow, Fauqueur and Cipolla 2009): a `TransformCoder` is fitted on those of training at
one slope, and goes on from there at the others; the test frames are written to files, one each, and read again. JPEG
and WebP are Pillow's at several qualities, JPEG with `optimize`, WebP with `method=6`. Bytes are told with headers, as
they lie in files, and without: of JPEG all that is not the scan (its tables of quantisation and of Huffman codes are in
the header of every file, and half of a small one), of WebP the RIFF frame, of ours the first bytes.

PSNR is 10 log10(255^2 / mean squared error) over the three channels, the mean over images, as is that of bits a pixel.
Equal PSNR is read between the points of a curve by a straight line in the logarithm of the bytes. Times are of the
processor. The result goes to benchmarks/results/rate_distortion.json and .png.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nll import RESULTS, written
from PIL import Image

from latentia import load_model
from latentia.batch import Batch
from latentia.codec.images import FRONT, ImageCoder
from latentia.data import load
from latentia.learners import Gradient
from latentia.models import TransformCoder
from latentia.objectives import elbo

SIDE = 48
PIXELS = 120 * 90
JPEG, WEBP = (1, 5, 10, 15, 20, 30, 40, 50, 60, 75), (0, 2, 5, 10, 20, 30, 40, 50, 60, 75)
BASE = 100.0
AFTER = {200.0: BASE, 50.0: BASE, 25.0: 50.0, 12.0: 25.0}
"""At which slope a fit goes on from which."""


def fits(options: argparse.Namespace, frames: np.ndarray) -> None:
    """A model at every slope in `options.models`: those that are not there yet are fitted, on squares of the frames,
    which are cheaper than frames and no two alike."""
    train = load(squares(frames, options.squares), kind="image", values="real")
    for slope, before in [(BASE, None), *AFTER.items()]:
        path = options.models / f"{slope:g}.safetensors"
        if path.exists():
            continue
        model = TransformCoder(frames.shape[1:], slope=slope)
        if before is None:
            whole = Batch(torch.from_numpy(frames))
            model.start(whole, torch.Generator().manual_seed(0))
        else:
            model = opened(options, before).at(slope)
        small = TransformCoder(train.x.shape[1:], slope=slope)
        small.load_state_dict(model.state_dict())
        learner = Gradient(
            epochs=options.epochs if before is None else options.more,
            batch_size=4,
            lr=7e-4,
            schedule="cosine",
            warmup=50,
            clip=1e5,
            patience=None,
            fresh=False,
            progress=False,
        )
        begun = time.process_time()
        learner.fit(small, train, callbacks=[partial(_say, slope)])
        model.load_state_dict(small.state_dict())
        options.models.mkdir(parents=True, exist_ok=True)
        model.save(path)
        seconds = time.process_time() - begun
        path.with_suffix(".json").write_text(json.dumps({"seconds": seconds}))
        print(f"slope {slope:g}: {seconds:.0f} s of the processor", flush=True)


def opened(options: argparse.Namespace, slope: float) -> TransformCoder:
    model = load_model(options.models / f"{slope:g}.safetensors")
    assert isinstance(model, TransformCoder)
    return model


def squares(frames: np.ndarray, each: int) -> np.ndarray:
    """Squares of SIDE pixels at random places of every frame, every other one mirrored."""
    draw, found = np.random.default_rng(0), []
    for number in range(each * len(frames)):
        frame = frames[number % len(frames)]
        top, left = (int(draw.integers(0, size - SIDE + 1)) for size in frame.shape[:2])
        square = frame[top : top + SIDE, left : left + SIDE]
        found.append(square[:, ::-1] if number % 2 else square)
    return np.stack(found)


def _say(slope: float, record: dict) -> None:
    print(f"  slope {slope:g} {record}", flush=True)


def ours(options: argparse.Namespace, train: np.ndarray, test: np.ndarray) -> list[dict[str, float]]:
    """A point of the plane for every slope: files are written, read again and compared with what was rounded."""
    points = []
    data = load(train, kind="image", values="real")
    for slope in sorted([BASE, *AFTER]):
        path = options.models / f"{slope:g}.safetensors"
        if not path.exists():
            continue
        model = opened(options, slope).eval()
        plain, coder = ImageCoder(model, data, contexts=False), ImageCoder(model, data)
        sizes, ends, alone, spent = [], [], [], [0.0, 0.0]
        for x in torch.from_numpy(test):
            begun = time.process_time()
            file = coder.encode(x)
            (options.models / "frame.ltq").write_bytes(file)
            spent[0] += time.process_time() - begun
            begun = time.process_time()
            shown = coder.read(options.models / "frame.ltq").clamp(0, 1).mul(255).round()
            spent[1] += time.process_time() - begun
            if not np.array_equal(coder.numbers(file), coder.codes(Batch(x.unsqueeze(0)))[0]):
                sys.exit("a file did not give its whole numbers back")
            sizes.append(len(file))
            alone.append(len(plain.encode(x)))
            ends.append(psnr(shown.numpy(), 255 * x.numpy()))
        point = told("ours", slope, sizes, FRONT.size, ends)
        noise = Batch(torch.from_numpy(test))
        with torch.no_grad():
            rate = float(elbo(model, noise).kl.mean()) / math.log(2)  # type: ignore[union-attr]
        points.append(
            point
            | {
                "bits_a_pixel_by_noise": round(rate / PIXELS, 4),
                "bits_a_pixel_without_contexts": round(8 * float(np.mean(alone)) / PIXELS, 4),
                "encoding_seconds": round(spent[0] / len(test), 4),
                "decoding_seconds": round(spent[1] / len(test), 4),
                "fit_seconds": round(json.loads(path.with_suffix(".json").read_text())["seconds"], 1),
            }
        )
    return points


def theirs(kind: str, qualities: Sequence[int], test: np.ndarray, **how: Any) -> list[dict[str, float]]:
    """JPEG or WebP of the same frames."""
    points = []
    for quality in qualities:
        sizes, heads, ends = [], [], []
        for x in np.rint(255 * test).astype(np.uint8):
            file = io.BytesIO()
            Image.fromarray(x).save(file, format=kind, quality=quality, **how)
            shown = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
            sizes.append(file.tell())
            heads.append(header(kind, file.getvalue()))
            ends.append(psnr(shown, x))
        points.append(told(kind, quality, sizes, float(np.mean(heads)), ends))
    return points


def header(kind: str, file: bytes) -> int:
    """Bytes that are not the scan of a JPEG (start of scan to end of image), or the chunk of a WebP."""
    return file.index(b"\xff\xda") + 2 + 12 if kind == "JPEG" else 20


def told(name: str, setting: float, sizes: list[int], head: float, ends: list[float]) -> dict[str, float]:
    size = float(np.mean(sizes))
    point = {
        "setting": setting,
        "bytes": round(size, 1),
        "header_bytes": round(head, 1),
        "bits_a_pixel": round(8 * size / PIXELS, 4),
        "bits_a_pixel_without_header": round(8 * (size - head) / PIXELS, 4),
        "psnr": round(float(np.mean(ends)), 3),
    }
    print(f"  {name:5}", point, flush=True)
    return point


def psnr(shown: np.ndarray, x: np.ndarray) -> float:
    return 10 * math.log10(255**2 / float(((shown.astype(float) - x.astype(float)) ** 2).mean()))


def at(points: list[dict[str, float]], quality: float, key: str) -> float | None:
    """The bits of a curve at a PSNR; None beyond its ends."""
    ends = sorted((point["psnr"], math.log(point[key])) for point in points)
    if not ends or not ends[0][0] <= quality <= ends[-1][0]:
        return None
    return round(math.exp(float(np.interp(quality, [end[0] for end in ends], [end[1] for end in ends]))), 4)


def picture(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, points), colour in zip(curves.items(), ("#c2703d", "#3d6f94", "#5b8c5a"), strict=True):
        for key, style in (("bits_a_pixel", "-"), ("bits_a_pixel_without_header", ":")):
            label = name if style == "-" else f"{name}, without header"
            x, y = zip(*((point[key], point["psnr"]) for point in points), strict=True)
            axes.plot(x, y, style, color=colour, marker="o", markersize=3, label=label)
    axes.set_xlabel("bits a pixel")
    axes.set_ylabel("PSNR, dB")
    axes.set_xlim(0, 1.4)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def images(options: argparse.Namespace, part: str) -> np.ndarray:
    path = Path(options.data) / "camvid" / f"camvid_{part}_120x90.npz"
    if not path.is_file():
        sys.exit(f"{path} is not here: name the folder that camvid is in with --data")
    with np.load(path) as found:
        return found["images"]


def main() -> None:
    options = _options()
    train, test = (images(options, part).astype(np.float32) / 255 for part in ("train", "test"))
    test = test[:: options.every]
    torch.set_flush_denormal(True)
    fits(options, train)
    curves = {
        "ours": ours(options, train, test),
        "JPEG": theirs("JPEG", JPEG, test, optimize=True),
        "WebP": theirs("WEBP", WEBP, test, method=6),
    }
    equal = []
    for point in curves["ours"]:
        row: dict[str, float | None] = {"psnr": point["psnr"]}
        for name, points in curves.items():
            for key in ("bits_a_pixel", "bits_a_pixel_without_header"):
                row[f"{name}_{key}"] = point[key] if name == "ours" else at(points, point["psnr"], key)
        print(" ", row, flush=True)
        equal.append(row)
    result = {"frames": len(test), "pixels": PIXELS, "curves": curves, "at_equal_psnr": equal}
    out = Path(options.out)
    print(written("rate_distortion", result, out))
    picture(curves, out / "rate_distortion.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of camvid")
    parser.add_argument("--models", type=Path, default=Path("runs/rate_distortion"), help="folder of fitted models")
    parser.add_argument("--squares", type=int, default=8, help="of each frame, that are learned from")
    parser.add_argument("--epochs", type=int, default=3, help="over the squares, of the first fit")
    parser.add_argument("--more", type=int, default=1, help="of those that go on from another")
    parser.add_argument("--every", type=int, default=1, help="of the test frames, only each so many")
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
