"""Colorization by latent segments: held-out nats per pixel of CamVid's chroma, at equal parameters and time or steps.

    python benchmarks/colorization.py --rows 1 2 4 8 16 4-rows autoregressive --minutes 30 --data ../shared/data/camvid
    python benchmarks/colorization.py --table                            what there is

A row is K segments, independent given the grey image (4), or a chain along each row (4-rows); 1 has no latent variable,
and neither has autoregressive, in which a pixel's chroma sees that of the pixels before it.
All see the same U-Net, and the units behind it are as many as make the parameters equal. The chroma is on a grid of
step 5 from -30 to 30 in a and b of CIE Lab (169 symbols; 0.07 % of the pixels lie beyond, and are moved to its edge).
Images of 120 x 90 are cut in four, to which their mirror images are added for training.

- nats: -log p(chroma | grey) per pixel, on the test images, and its difference from row 1, paired image by image. The
  images are frames of a few drives, so that the standard errors are too small by an unknown factor.
- AMI: adjusted mutual information of the segments' modes with the true classes (void left out), which training never
  sees: of p(z | grey), and of p(z | chroma, grey).
- PSNR of the mean colour in sRGB, and RMSE of its (a, b) in units of Lab, beside those of the grey image and a draw's.
  The mean of the colours that a thing may have is next to grey, so that grey has nearly the PSNR of the best guess, and
  more than any draw: it is no measure of a colouring.
Results and a picture go to benchmarks/results/; figures by image stay in --runs, for pairing rows of several calls.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor, nn

from latentia.batch import Batch
from latentia.data import Dataset
from latentia.data.colour import ChromaGrid, pairs, pictures
from latentia.data.grids import sheet
from latentia.distributions.segments import Segments
from latentia.learners import Gradient
from latentia.model import TractableModel
from latentia.models import LatentColorization
from latentia.networks.frames import restarted
from latentia.networks.pixel_cnn import MaskedConv
from latentia.networks.unet import UNet
from latentia.objectives import exact
from latentia.report.colourings import colourings

RESULTS = Path(__file__).parent / "results"
GRID = ChromaGrid(step=5, reach=30)
CHANNELS, HIDDEN, BATCH, LR = (16, 32, 48), 48, 8, 3e-3
VOID = 11
LARGEST = 16
"""Segments of the row that has `HIDDEN` units: the others have more, for the same number of parameters."""
SHOWN = (120, 200)


SHOWN_BESIDE = ("psnr_mean", "psnr_draw", "psnr_grey", "rmse_mean", "rmse_grey")


class Over(Exception):
    """The minutes are over."""


def quarters(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, ...) cut in four, (4 N, H / 2, W / 2, ...), those of an image one after the other."""
    height, width = images.shape[1] // 2, images.shape[2] // 2
    return np.stack([images[:, i : i + height, j : j + width] for i in (0, height) for j in (0, width)], 1).reshape(
        -1, height, width, *images.shape[3:]
    )


def parameters(model: torch.nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


class Autoregressive(TractableModel):
    """p(chroma | grey) = prod_ij p(x_ij | the chroma before it in raster order, grey): no latent, or one segment.

    Masked convolutions over (a, b), and over whether there is a pixel at all, meet the features of the grey image
    (van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel recurrent neural networks", section 3).
    """

    points: Tensor

    def __init__(self, hidden: int):
        super().__init__()
        width = CHANNELS[0]
        self.features = nn.Sequential(UNet(1, CHANNELS), nn.GELU(), nn.Conv2d(width, hidden, 1))
        self.before = nn.Sequential(
            MaskedConv(3, width, 7, centre=False),
            nn.GELU(),
            MaskedConv(width, width, 3, centre=True),
            nn.GELU(),
            MaskedConv(width, hidden, 3, centre=True),
        )
        self.meet = nn.Sequential(nn.GELU(), nn.Conv2d(hidden, hidden, 1), nn.GELU())
        self.logits = nn.Conv2d(hidden, GRID.symbols, 1)
        self.register_buffer("points", torch.from_numpy(GRID.points).float() / GRID.reach, persistent=False)

    def posterior(self, batch: Batch) -> Segments:
        grey = batch.frame.given().x.to(self.anchor.dtype).unsqueeze(1)
        chroma = torch.cat([self.points[batch.x].permute(0, 3, 1, 2), torch.ones_like(grey)], 1)
        logits = self.logits(self.meet(self.features(grey) + self.before(chroma)))
        return Segments({"node": logits.log_softmax(1).gather(1, batch.x.unsqueeze(1)).permute(0, 2, 3, 1)})

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        restarted(self, generator)
        count = torch.bincount(batch.x.flatten(), minlength=GRID.symbols) + 0.1
        with torch.no_grad():
            self.logits.bias.copy_((count / count.sum()).log())  # type: ignore[union-attr]


def made(row: str) -> LatentColorization | Autoregressive:
    """The model of a row, with as many hidden units as make it as large as the largest."""
    most = parameters(LatentColorization(GRID.symbols, LARGEST, channels=CHANNELS, hidden=HIDDEN))
    segments, _, more = row.partition("-")

    def of(hidden: int) -> LatentColorization | Autoregressive:
        if row == "autoregressive":
            return Autoregressive(hidden)
        coupling = "rows" if more == "rows" else "none"
        return LatentColorization(GRID.symbols, int(segments), coupling, CHANNELS, hidden)

    sizes = {hidden: parameters(of(hidden)) for hidden in range(16, 96)}
    return of(min(sizes, key=lambda hidden: abs(sizes[hidden] - most)))


def fitted(model: TractableModel, train: Dataset, minutes: float, steps: int | None, seed: int) -> dict[str, Any]:
    """As many passes over the data as there is time for, or as make so many steps, with a rate that falls to 0 by a
    cosine; of less than one pass as much of the data as that is."""
    how: dict[str, Any] = {"objective": exact, "batch_size": BATCH, "lr": LR, "schedule": "cosine", "progress": False}
    few = train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: 8 * BATCH])
    began = time.process_time()
    for _ in range(2 if steps is None else 0):  # the first has kernels to compile
        began = time.process_time()
        Gradient(**how, epochs=1).fit(model, few, seed=seed)
    passes = steps * BATCH if steps else 60 * minutes * len(few) / (time.process_time() - began)
    share = passes / len(train)
    if share < 1:
        train = train.subset(
            torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: int(share * len(train))]
        )
    epochs, began, said = max(int(share), 1), time.process_time(), {}

    def over(record: Any) -> None:
        said.update(epochs=record["epoch"], steps=record["step"])
        if steps is None and time.process_time() - began > 72 * minutes:
            raise Over

    with suppress(Over):
        Gradient(**how, epochs=epochs).fit(model, train, seed=seed, callbacks=[over])
    return {"crops": len(train), **said, "seconds": round(time.process_time() - began, 1)}


def psnr(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each image (N, H, W, 3) of bytes, in dB."""
    error = ((one.astype(float) - other) ** 2).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Root of the mean squared difference of a or b, in units of Lab."""
    return float(((one - other) ** 2).mean() ** 0.5)


@torch.no_grad()
def nats(model: TractableModel, test: Dataset) -> np.ndarray:
    """-log p(chroma | grey) per pixel of each test image, of its quarters together."""
    values = [-model.posterior(batch).log_partition.double() / batch.x[0].numel() for batch in test.batches(4)]
    return torch.cat(values).view(-1, 4).mean(1).numpy()


@torch.no_grad()
def looked(model: LatentColorization, test: Dataset, images: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """How means, draws and segments of test quarters stand beside the truth."""
    mean, drawn, seen, before = [], [], [], []
    torch.manual_seed(0)
    points = torch.from_numpy(GRID.points).float()
    for batch in test.batches(4):
        mean.append((model.probabilities(batch.frame) @ points).numpy())
        drawn.append(GRID.points[model.generate(batch.frame)[0].x.numpy()])
        seen.append(model.posterior(batch).mode.argmax(-1).numpy())
        before.append(model.prior(batch.frame).mode.argmax(-1).numpy())
    ab = np.concatenate(mean)
    assert test.context is not None
    grey, there = test.context.x.numpy(), masks != VOID
    truth = GRID.points[test.x.numpy()]
    figures = {
        "psnr_mean": float(psnr(pictures(grey, ab), images).mean()),
        "psnr_draw": float(psnr(pictures(grey, np.concatenate(drawn)), images).mean()),
        "psnr_grey": float(psnr(pictures(grey, np.zeros_like(ab)), images).mean()),
        "psnr_quantised_truth": float(psnr(pictures(grey, truth), images).mean()),
        "rmse_mean": distance(ab, truth),
        "rmse_grey": distance(np.zeros_like(truth), truth),
    }
    if model.segments > 1:
        found = {"ami_given_grey": np.concatenate(before), "ami_given_chroma": np.concatenate(seen)}
        figures |= {name: adjusted_mutual_info_score(masks[there], z[there]) for name, z in found.items()}
        figures["segments_used"] = int((np.bincount(found["ami_given_chroma"].ravel()) > 0.01 * there.size).sum())
    return figures


def picture(model: LatentColorization, data: Dataset) -> bytes:
    """A line for each image: grey, the segments given the chroma, two draws, the mean, the truth."""
    return sheet(np.stack(list(colourings(model, data, seed=0, draws=2).values()), 1))


def measured(row: str, data: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(options.seed)
    model = made(row)
    how = fitted(model, data["train"], options.minutes, options.steps, options.seed)
    by_image = nats(model.eval(), data["test"])
    figures = {"nats_per_pixel": float(by_image.mean()), "se": float(by_image.std(ddof=1) / len(by_image) ** 0.5)}
    if isinstance(model, LatentColorization):  # the other draws pixel after pixel: half a day of draws
        figures |= looked(model, data["test"], data["images"], data["masks"])
    options.runs.mkdir(parents=True, exist_ok=True)
    np.save(options.runs / f"{row}.npy", by_image)
    if options.picture == row and isinstance(model, LatentColorization):
        name = f"colorization_{row}.png"
        (options.out.parent / name).write_bytes(picture(model, data["shown"]))
    size = {
        "parameters": parameters(model),
        "minutes": None if options.steps else options.minutes,
        "threads": torch.get_num_threads(),
    }
    return {**size, **how, **{name: round(value, 5) for name, value in figures.items()}}


def paired(rows: dict[str, Any], runs: Path) -> None:
    """Add to each row its difference from row 1 on the same images, where both were measured with this much time."""
    for row, found in rows.items():
        files = [runs / f"{each}.npy" for each in ("1", row)]
        if (
            row == "1"
            or "1" not in rows
            or not all(map(Path.exists, files))
            or found["minutes"] != rows["1"]["minutes"]
        ):
            continue
        base, own = (np.load(path, allow_pickle=False) for path in files)
        if base.shape == own.shape:
            gain = base - own
            found["gain"] = [round(float(gain.mean()), 5), round(float(gain.std(ddof=1) / len(gain) ** 0.5), 5)]


def told(rows: dict[str, Any]) -> str:
    head = f"{'row':<15}{'parameters':>11}{'steps':>7}{'nats/pixel':>18}{'gain on 1':>19}{'AMI z|grey':>11}{'z|x':>7}"
    lines = [head + f"{'PSNR':>7}{'draw':>7}{'grey':>7}{'RMSE':>7}{'grey':>7}"]
    for row, it in rows.items():
        gain = "{:.4f} ± {:.4f}".format(*it["gain"]) if "gain" in it else ""
        ami = [f"{it[name]:.3f}" if name in it else "" for name in ("ami_given_grey", "ami_given_chroma")]
        value = f"{it['nats_per_pixel']:.4f} ± {it['se']:.4f}"
        lines.append(
            f"{row:<15}{it['parameters']:>11,}{it['steps']:>7}{value:>18}{gain:>19}{ami[0]:>11}{ami[1]:>7}"
            + "".join(f"{it[name]:>7.2f}" if name in it else "" for name in SHOWN_BESIDE)
        )
    return "\n".join(lines)


def saved(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/camvid", help="folder of the npz files")
    parser.add_argument("--rows", nargs="+", default=["1", "2", "4", "8", "16", "4-rows", "autoregressive"])
    parser.add_argument("--minutes", type=float, default=30.0, help="of the processor for fitting, for each row")
    parser.add_argument("--steps", type=int, help="in the place of minutes: as many for each row, whatever they take")
    parser.add_argument("--picture", help="the row to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/colorization"))
    parser.add_argument("--out", type=Path, default=RESULTS / "colorization.json")
    parser.add_argument("--table", action="store_true", help="print what the results hold, and fit nothing")
    options = parser.parse_args()
    if options.table:
        print(told(saved(options.out)))
        return
    files = {part: Path(options.data) / f"camvid_{part}_120x90.npz" for part in ("train", "test")}
    if not all(path.exists() for path in files.values()):
        sys.exit(f"{options.data} does not hold {', '.join(path.name for path in files.values())}: name it with --data")
    train, test = (np.load(path, allow_pickle=False) for path in files.values())
    images, crops = quarters(test["images"]), quarters(train["images"])
    data = {
        "train": pairs(np.concatenate([crops, crops[:, :, ::-1]]), GRID),
        "test": pairs(images, GRID),
        "images": images,
        "masks": quarters(test["masks"]),
        "shown": pairs(test["images"][list(SHOWN)], GRID),
    }
    warnings.filterwarnings("ignore", message=".*stopped.*")
    for row in options.rows:
        new = measured(row, data, options)
        rows = {**saved(options.out), row: new}  # another call may have saved rows meanwhile
        paired(rows, options.runs)
        found = {"grid": GRID._asdict(), "test_images": len(test["images"]), "rows": rows}
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(told({row: rows[row]}), flush=True)
    print(told(saved(options.out)))


if __name__ == "__main__":
    main()
