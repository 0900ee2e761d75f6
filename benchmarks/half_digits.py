"""Uses of a VAE of MNIST, by the command alone: half digits completed, the two gaps of its bound, and odd digits found.

    python benchmarks/half_digits.py --data ../shared/data/mnist --epochs 150

The fit is that of mnist_cpu.py (dynamic binarization, 784-200-200-50 tanh). On test images:
- the lower, upper, left and right half hidden: log p(hidden | shown), and a picture of each;
- log p(x), the bound of the encoder's q and of q refined for each datum (Cremer et al. 2018);
- AUROC of each score for images that are no digits: inverted, all black, of one grey, with their pixels shuffled, and
  with their lower half blackened. By the raw likelihood the black ones are ranked as the most ordinary of all.
Results, commands and pictures go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
COMMANDS: list[str] = []


def run(command: str) -> str:
    """Run `latentia ...` and give its output."""
    print(f"$ {command}", flush=True)
    COMMANDS.append(command)
    return subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def odd_images(images: Path, folder: Path, count: int) -> dict[str, Path]:
    """Images that are no digits, one file a kind."""
    with gzip.open(images) as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    rng = np.random.default_rng(0)
    half = x.copy()
    half[:, 14:] = 0
    kinds = {
        "inverted": 255 - x,
        "black": np.zeros_like(x),
        "one grey": np.broadcast_to(rng.integers(0, 256, (len(x), 1, 1), dtype=np.uint8), x.shape),
        "shuffled": rng.permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape),
        "lower half black": half,
    }
    paths = {kind: folder / f"{kind.replace(' ', '-')}.npy" for kind in kinds}
    for kind, values in kinds.items():
        np.save(paths[kind], values)
    return paths


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of the idx files")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--first", type=int, default=300, help="test images")
    parser.add_argument("--out", default="runs/half_digits", help="the run; an existing one is used as it is")
    options = parser.parse_args()
    images = Path(options.data) / "t10k-images-idx3-ubyte.gz"
    if not images.exists():
        sys.exit(f"{images} is not here: name the folder of MNIST's idx files with --data")
    if not (Path(options.out) / "model.safetensors").exists():
        run(
            f"latentia fit --model VAE --data {options.data}/train-images-idx3-ubyte.gz --binarize dynamic "
            f"--model.latent 50 --model.hidden [200,200] --learner.epochs {options.epochs} --learner.batch_size 100 "
            f"--learner.lr 2e-3 --learner.schedule cosine --learner.precision medium "
            f"--holdout 0.02 --validation 0 --evaluation false --out {options.out}"
        )
    RESULTS.mkdir(exist_ok=True)
    few = f"{options.out} --data {images} --first {options.first}"
    fitted = re.search(r"^command: (.+(?:\n  .+)*)", (Path(options.out) / "config.yaml").read_text(), re.MULTILINE)
    assert fitted is not None
    result: dict = {"fit": " ".join(fitted[1].split()), "test_images": options.first, "hidden": {}, "auroc": {}}
    run(
        f"latentia complete {options.out} --data {images} --first 16 --hide bottom --importance_samples 0 "
        f"--sweeps 500 --out {RESULTS}/half_digits.png"
    )
    (RESULTS / "half_digits-sheet.png").replace(RESULTS / "half_digits.png")
    with tempfile.TemporaryDirectory() as folder:
        for half in ("bottom", "top", "left", "right"):
            said = run(
                f"latentia complete {few} --hide {half} --importance_samples 500 --sweeps 2 --out {folder}/x.npy"
            )
            result["hidden"][half] = number(r"\| shown\) = (-?[\d.]+)", said)
        result["gap"] = json.loads(run(f"latentia gap {few} --json"))
        for kind, path in odd_images(images, Path(folder), options.first).items():
            result["auroc"][kind] = {
                score: number(
                    r"AUROC ([\d.]+)",
                    run(f"latentia detect {few} --outliers {path} --score {score} --out {folder}/scores.csv"),
                )
                for score in ("likelihood", "regret", "complexity")
            }
        # where files lay for a while, and where the project lies, says nothing
        own = f"{RESULTS.parents[1]}/"
        result["commands"] = [command.replace(f"{folder}/", "").replace(own, "") for command in COMMANDS]
    (RESULTS / "half_digits.json").write_text(json.dumps(result, indent=1) + "\n")
    for kind, rates in result["auroc"].items():
        print(f"{kind:18}" + "".join(f"  {score} {rate:.3f}" for score, rate in rates.items()))
    print({half: round(value, 2) for half, value in result["hidden"].items()}, result["gap"]["means"])


if __name__ == "__main__":
    main()
