"""Label maps without loss, in bits per pixel of files that are written and read back: CamVid's segmentations.

    python benchmarks/label_maps.py --data ../shared/data/camvid         some minutes on one core

Tables are counted on the training maps alone, and are not part of a file. Every map is a file of its own, whose whole
length counts, header and all. Rows:
- context: a table of the labels at W, N, NW, NE, WW, NN, blended over depths 0, 2, 4, 6; without counting within the
  map that is coded; and of 14 neighbours;
- convolution: a masked convolution over 38 pixels before each, in whole numbers, of the training maps and their mirror
  images; --weights keeps what was learned, as learning takes some minutes;
- sparse: labels at few pixels from which a local search gives the rest, by the nearest one or by what the table
  predicts; bits of positions, log2 (n over k), and of labels apart;
- png (palette, optimised), webp (lossless), xz (of a byte a pixel), each its own file too.
Every file is read again and compared. Bits per pixel depend on the size of the maps: edges are a larger share of small
ones. These are 120 x 90, and figures of CamVid's maps at 480 x 360 do not compare.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latentia.segmentation import ContextCoder, ConvolutionCoder, SparseCoder, write_label_map
from latentia.segmentation.context import NEIGHBOURS

RESULTS = Path(__file__).parent / "results" / "label_maps.json"
LABELS = 12
WIDE = (*NEIGHBOURS, (-1, 2), (-2, 1), (-2, -1), (-1, -2), (-1, 3), (0, -3), (-3, 0), (-2, 2))


class Codec(NamedTuple):
    """How a map becomes a file, and a file a map."""

    write: Callable[[np.ndarray, Path], object]
    read: Callable[[Path], np.ndarray]


def write_webp(labels: np.ndarray, path: Path) -> None:
    # spread over the greys: lossless webp then finds its palette by itself
    Image.fromarray(np.stack([labels] * 3, -1).astype(np.uint8)).save(
        path, "WEBP", lossless=True, quality=100, method=6
    )


def read_webp(path: Path) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(path.read_bytes())))[..., 0]


def write_xz(labels: np.ndarray, path: Path) -> None:
    path.write_bytes(lzma.compress(labels.astype(np.uint8).tobytes(), preset=9 | lzma.PRESET_EXTREME))


def convolution(train: np.ndarray, weights: Path) -> ConvolutionCoder:
    """What was learned before, or is learned now and kept."""
    if weights.exists():
        return ConvolutionCoder.load(weights)
    coder = ConvolutionCoder(np.concatenate([train, train[:, :, ::-1]]), LABELS, epochs=3)
    weights.parent.mkdir(parents=True, exist_ok=True)
    coder.save(weights)
    return coder


def codecs(train: np.ndarray, shape: tuple[int, ...], weights: Path) -> dict[str, Codec]:
    table = ContextCoder(train, LABELS)
    still = ContextCoder(train, LABELS, gain=0)
    wide = ContextCoder(train, LABELS, WIDE, range(0, 15, 2))
    nearest = SparseCoder(table, "nearest", train[::6])
    coders = {
        "context": table,
        "context, no counting within the map": still,
        "context of 14": wide,
        "convolution": convolution(train, weights),
        "sparse, nearest": nearest,
        "sparse, predicted by the table": SparseCoder(table, "predicted"),
        "sparse, predicted by the table of 14": SparseCoder(wide, "predicted"),
    }
    return {name: Codec(each.write, each.read) for name, each in coders.items()} | {
        "png": Codec(write_label_map, lambda path: np.array(Image.open(io.BytesIO(path.read_bytes())))),
        "webp": Codec(write_webp, read_webp),
        "xz": Codec(write_xz, lambda path: np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8).reshape(shape)),
    }


def measured(codec: Codec, maps: np.ndarray, folder: Path) -> dict[str, float]:
    """Bits per pixel with their standard error over maps, and milliseconds a map, of files that came back the same."""
    bits, spent = [], [0.0, 0.0]
    for i, one in enumerate(maps):
        path, began = folder / str(i), time.process_time()
        codec.write(one, path)
        written = time.process_time()
        back = codec.read(path)
        if not np.array_equal(back, one):
            raise AssertionError(f"map {i} did not come back")
        spent = [spent[0] + written - began, spent[1] + time.process_time() - written]
        bits.append(8 * path.stat().st_size / one.size)
    return {
        "bits_per_pixel": round(float(np.mean(bits)), 5),
        "se": round(float(np.std(bits, ddof=1) / len(bits) ** 0.5), 5),
        "write_ms": round(1000 * spent[0] / len(maps), 2),
        "read_ms": round(1000 * spent[1] / len(maps), 2),
    }


def parts(coder: SparseCoder, maps: np.ndarray) -> dict[str, float]:
    """What a sparse labelling's bits are spent on, per pixel of the map."""
    found = [coder.measured(one)[0] for one in maps]
    return {
        "given": round(float(np.mean([each.given for each in found]) / maps[0].size), 5),
        "positions": round(float(np.mean([each.positions for each in found]) / maps[0].size), 5),
        "labels": round(float(np.mean([each.labels for each in found]) / maps[0].size), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/camvid", help="folder of the npz files")
    parser.add_argument("--first", type=int, default=None, help="test maps; all where it is left out")
    parser.add_argument("--only", nargs="*", help="rows to measure again, the others as they are in the results")
    parser.add_argument("--weights", type=Path, default=Path("runs/label_maps.safetensors"), help="of the convolution")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    files = {part: Path(options.data) / f"camvid_{part}_120x90.npz" for part in ("train", "test")}
    if not all(path.exists() for path in files.values()):
        sys.exit(f"{options.data} does not hold {', '.join(path.name for path in files.values())}: name it with --data")
    train, test = (np.load(path, allow_pickle=False)["masks"] for path in files.values())
    test = test[: options.first]
    rows = {} if options.only is None else json.loads(options.out.read_text())["rows"]
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in codecs(train, test.shape[1:], options.weights).items():
            if options.only is not None and name not in options.only:
                continue
            codec.write(test[0], Path(folder) / "first")
            codec.read(Path(folder) / "first")  # kernels are compiled at the first map
            rows[name] = measured(codec, test, Path(folder))
            coder = getattr(codec.write, "__self__", None)
            rows[name] |= parts(coder, test) if isinstance(coder, SparseCoder) else {}
            line = "".join(f"  {key} {value:g}" for key, value in rows[name].items() if key != "bits_per_pixel")
            print(f"{name:38}{rows[name]['bits_per_pixel']:.4f} bits/pixel{line}", flush=True)
    found = {
        "train_maps": len(train),
        "test_maps": len(test),
        "size": list(test.shape[1:]),
        "labels": LABELS,
        "rows": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
