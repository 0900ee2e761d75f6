"""A VAE on MNIST by the command alone: the importance-sampled NLL after so many minutes on this machine's CPU.

    python benchmarks/mnist_cpu.py --data ../shared/data/mnist

Protocol: dynamic binarization; 784-200-200-50 tanh encoder and its mirror image (the one-layer network of Burda,
Grosse and Salakhutdinov 2016); the first 2,000 test images, 5,000 importance samples. The fit is one process, timed
from its start to its end, reading and compiling included: ten minutes on two cores. Result and commands go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def run(command: str, capture: bool = False) -> tuple[str, float]:
    """Run `latentia ...` and give its output and its seconds."""
    print(f"$ {command}", flush=True)
    began = time.perf_counter()
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or "", time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of the four idx files")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--precision", default="medium")
    parser.add_argument("--first", type=int, default=2000, help="test images")
    parser.add_argument("--importance_samples", type=int, default=5000)
    parser.add_argument("--out", default="runs/mnist_cpu")
    options = parser.parse_args()
    if not Path(options.data).is_dir():
        sys.exit(f"{options.data} is not here: name the folder of MNIST's idx files with --data")
    shutil.rmtree(options.out, ignore_errors=True)
    fit = (
        f"latentia fit --model VAE --data {options.data}/train-images-idx3-ubyte.gz --binarize dynamic "
        f"--model.latent 50 --model.hidden [200,200] --learner.epochs {options.epochs} --learner.batch_size 100 "
        f"--learner.lr {options.lr} --learner.schedule cosine --learner.precision {options.precision} "
        f"--holdout 0 --validation 0 --evaluation false --out {options.out}"
    )
    evaluate = (
        f"latentia evaluate {options.out} --data {options.data}/t10k-images-idx3-ubyte.gz --first {options.first} "
        f"--importance_samples {options.importance_samples} --json"
    )
    _, fitted = run(fit)
    printed, evaluated = run(evaluate, capture=True)
    found = json.loads(printed)
    environment = json.loads((Path(options.out) / "environment.json").read_text())
    result = {
        "commands": [fit, evaluate],
        "fit_seconds": round(fitted, 1),
        "evaluation_seconds": round(evaluated, 1),
        "nll": -found["log_marginal"],
        "nll_se": found["log_marginal_se"],
        "evaluation": found,
        "environment": environment,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mnist_cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"NLL {result['nll']:.2f} ± {result['nll_se']:.2f} nats after {fitted:.0f} s of fitting")


if __name__ == "__main__":
    main()
