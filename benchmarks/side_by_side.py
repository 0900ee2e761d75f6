"""What the benchmarks share: contenders timed in turn in one run, so that the ratio means something on any machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

SETS = {"AVX2": "avx2", "FMA": "fma", "AVX-512": "avx512f", "AVX-512 BF16": "avx512_bf16", "AMX BF16": "amx_bf16"}
SWITCHES = ("ATEN_CPU_CAPABILITY", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "MKL_ENABLE_INSTRUCTIONS")
RESULTS = Path(__file__).parent / "results"
Contender = Callable[[], float]  # does the work, and returns the figure by which the results can be compared


@contextmanager
def cores(count: int) -> Iterator[None]:
    """So many threads for torch, BLAS and OpenMP, and no warnings about fits that were told to stop early."""
    before = torch.get_num_threads()
    with threadpool_limits(count), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def race(work: str, contenders: dict[str, Contender], repeats: dict[str, int], threads: int) -> dict[str, Any]:
    """Time the contenders in turn, round after round; the first is the one that the others are measured against.

    Args:
        repeats: how often each runs, 1 where it is not named. The median counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    values: dict[str, float] = {}
    failed: dict[str, str] = {}
    with cores(threads):
        for turn in range(max(repeats.get(name, 1) for name in contenders)):
            for name, contender in contenders.items():
                if turn < repeats.get(name, 1) and name not in failed:
                    began = time.perf_counter()
                    try:
                        values[name] = contender()
                    except Exception as error:  # a peer that fails is a result too
                        failed[name] = f"{type(error).__name__}: {str(error)[:120]}"
                        continue
                    seconds[name].append(time.perf_counter() - began)
    ours = statistics.median(seconds[next(iter(contenders))])
    rows = {}
    for name in contenders:
        if name in failed:
            rows[name] = {"failed": failed[name]}
            continue
        median = statistics.median(seconds[name])
        rows[name] = {"seconds": seconds[name], "median": median, "ratio": median / ours, "value": values[name]}
    print(f"\n{work}, {threads} core{'s' if threads > 1 else ''}")
    for name, row in rows.items():
        told = f"{row['median']:9.3f} s  {row['ratio']:7.2f}x  {row['value']:.9g}" if "median" in row else row["failed"]
        print(f"  {name:42} {told}", flush=True)
    return {"work": work, "threads": threads, "contenders": rows}


def installed(package: str) -> bool:
    """Whether a peer is there; says so when it is not."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        print(f"{package} is not installed (pip install latentia[bench]): it is left out")
        return False
    return True


def slope(sizes: list[float], seconds: list[float]) -> float:
    """The exponent of growth: the slope of log seconds on log size, by least squares."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(seconds).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def growth(path: Path, curves: dict[str, tuple[list[float], list[float]]], title: str) -> dict[str, float]:
    """Plot seconds against size on log axes, with the slopes, and return them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    slopes = {}
    for name, (sizes, seconds) in curves.items():
        slopes[name] = slope(sizes, seconds)
        axes.loglog([size / sizes[0] for size in sizes], seconds, "o-", label=f"{name}: slope {slopes[name]:.2f}")
    axes.set(xlabel="size, relative to the smallest", ylabel="seconds a step", title=title)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return slopes


def processor(described: str | None = None) -> dict[str, Any]:
    """The name of the processor and its vector instruction sets, from what Linux says of it (/proc/cpuinfo), and what
    torch and numba were told to use of them: a ratio that holds on one kind need not hold on another.

    Args:
        described: the text; None: this machine's.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if described is None:
        described = cpuinfo.read_text() if cpuinfo.exists() else ""
    lines = dict(
        reversed([[part.strip() for part in line.split(":", 1)] for line in described.split("\n") if ":" in line])
    )
    flags = set(lines.get("flags", "").split())
    found = [name for name, flag in SETS.items() if flag in flags]
    told = {name: os.environ[name] for name in SWITCHES if name in os.environ}
    return {"name": lines.get("model name", platform.processor() or platform.machine()), "sets": found, "told": told}


def save(name: str, content: dict[str, Any], packages: tuple[str, ...]) -> None:
    """Write results/<name>.json with the command, the versions and the processor that made it."""
    versions = {}
    for package in ("latentia", "torch", "numpy", "numba", *packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    made = {
        "command": f"python {' '.join([f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])}",
        "versions": versions,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "busy": f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores when it ended",
    }
    if "AVX2" in made["processor"]["sets"] and "AVX-512" not in made["processor"]["sets"]:
        name += "_avx2"  # beside those of the other kind of processor, not in their place
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**made, **content}, indent=1) + "\n")
    print(f"\nwrote {RESULTS / f'{name}.json'}")
