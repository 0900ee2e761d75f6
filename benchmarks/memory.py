"""Memory of a fit as the data grow tenfold: a stream holds a block of rows, whatever the file's size.

    python benchmarks/memory.py                                50 and 500 MB, a minute
    python benchmarks/memory.py --megabytes 5 50 --out x.json

Each fit is a process of its own, `latentia fit` with evaluation left out; its figure is the peak of its resident
memory (VmHWM, Linux), of which Python, torch and the rest are some 400 MB before any data are read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet

COLUMNS = 16
BLOCK = 65_536
RESULTS = Path(__file__).parent / "results" / "memory.json"
CHILD = """
import sys
from latentia.cli import main
try:
    main(sys.argv[1:])
finally:
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def blocks(rows: int) -> Iterator[np.ndarray]:
    """Three Gaussian clusters, float64, with a hundredth of the values missing."""
    random = np.random.default_rng(0)
    centers = 3 * random.standard_normal((3, COLUMNS))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        x = centers[random.integers(3, size=count)] + random.standard_normal((count, COLUMNS))
        x[random.random(x.shape) < 0.01] = np.nan
        yield x


def write_npy(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (rows, COLUMNS)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks(rows):
            block.tofile(file)


def write_parquet(path: Path, rows: int) -> None:
    names = [f"x{j}" for j in range(COLUMNS)]
    with pyarrow.parquet.ParquetWriter(path, arrow.schema([(name, arrow.float64()) for name in names])) as writer:
        for block in blocks(rows):
            writer.write_table(arrow.table(dict(zip(names, block.T, strict=True))))


def peak(data: Path, stream: bool, out: Path) -> tuple[float, float]:
    """(peak of the resident memory in MB, seconds) of a fit."""
    words = ["fit", "--model", "GaussianMixture", "--data", str(data), "--out", str(out), "--evaluation", "false"]
    words += ["--stream", str(stream).lower(), "--model.components", "3", "--model.covariance", "diagonal"]
    began = time.perf_counter()
    command = [sys.executable, "-c", CHILD, *words, "--learner.steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1000, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in asked.megabytes:
            rows = size * 1_000_000 // (8 * COLUMNS)
            for suffix, write in ((".npy", write_npy), (".parquet", write_parquet)):
                data = Path(folder) / f"{size}{suffix}"
                write(data, rows)
                for stream in (True, False):
                    resident, seconds = peak(data, stream, Path(folder) / f"{size}{suffix}-{stream}")
                    found.append(
                        {"file": suffix, "megabytes": size, "rows": rows, "stream": stream, "peak_megabytes": resident,
                         "seconds": round(seconds, 1)}
                    )  # fmt: skip
                    print(f"{suffix:9} {size:5} MB  {'stream' if stream else 'memory'}  peak {resident:7.0f} MB")
                data.unlink()
    asked.out.write_text(json.dumps({"model": "GaussianMixture", "columns": COLUMNS, "fits": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
