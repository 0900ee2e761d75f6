# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""Gaussian mixtures and k-means against scikit-learn, pomegranate and faiss: the same data, start and steps.

    python benchmarks/mixture.py            20 steps of every work, some ten minutes
    python benchmarks/mixture.py --quick    small sizes, seconds

Everyone starts from the same parameters and takes the same number of steps with tol=0. The value printed is the mean
log p(x) after them (for k-means the sum of squared distances), which shows that the same work was done.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from side_by_side import RESULTS, growth, installed, race, save
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.mixture import GaussianMixture as SklearnMixture

from latentia.data import load
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import GaussianMixture, KMeans

WORDS = {"full": "full", "diagonal": "diag"}


def clusters(rows: int, features: int, components: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping Gaussian clusters, float64, and as many rows of them to start from."""
    random = np.random.default_rng(seed)
    centers = 2 * random.standard_normal((components, features))
    x = centers[random.integers(components, size=rows)] + random.standard_normal((rows, features))
    return x, x[random.choice(rows, components, replace=False)].copy()


def ours(x: np.ndarray, start: np.ndarray, covariance: str, steps: int, dtype: torch.dtype):
    data = load(torch.from_numpy(x).to(dtype))

    def fit() -> float:
        model = GaussianMixture(x.shape[1], len(start), covariance=covariance).to(dtype)  # type: ignore[arg-type]
        model.means.data = torch.from_numpy(start).to(dtype)
        history = EM(steps=steps, tol=0, fresh=False, progress=False).fit(model, data)
        return history.records[-1]["log_marginal"]

    return fit


def scikit_learn(x: np.ndarray, start: np.ndarray, covariance: str, steps: int, dtype: type):
    kind = WORDS[covariance]
    count, features = start.shape
    eye = np.eye(features, dtype=dtype)
    precisions = np.stack([eye] * count) if kind == "full" else np.ones((count, features), dtype)
    x, start = x.astype(dtype), start.astype(dtype)

    def fit() -> float:
        model = SklearnMixture(
            count, covariance_type=kind, tol=0, reg_covar=1e-6, max_iter=steps, means_init=start,
            weights_init=np.full(count, 1 / count, dtype), precisions_init=precisions,
        ).fit(x)  # fmt: skip
        return float(model.lower_bound_)

    return fit


def pomegranate(x: np.ndarray, start: np.ndarray, covariance: str, steps: int):
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    rows, kind = torch.from_numpy(x).float(), WORDS[covariance]
    eye = torch.eye(x.shape[1]) if kind == "full" else torch.ones(x.shape[1])

    def fit() -> float:
        parts = [Normal(torch.from_numpy(mean).float(), eye.clone(), covariance_type=kind) for mean in start]
        model = GeneralMixtureModel(parts, max_iter=steps, tol=0)
        model.fit(rows)
        return float(model.log_probability(rows[:10_000]).mean())

    return fit


def mixtures(options: argparse.Namespace) -> list[dict[str, Any]]:
    small = options.quick
    works = [
        (20_000 if small else 200_000, 32, 50, "full"),
        (50_000 if small else 1_000_000, 8, 20, "full"),
        (20_000 if small else 200_000, 32, 50, "diagonal"),
    ]
    found = []
    for rows, features, components, covariance in works[-1:] if options.diagonal else works:
        x, start = clusters(rows, features, components)
        args = (x, start, covariance, options.steps)
        contenders = {
            "latentia float64": ours(*args, torch.float64),
            "latentia float32": ours(*args, torch.float32),
            "scikit-learn float64": scikit_learn(*args, np.float64),
        }
        if options.pomegranate and installed("pomegranate"):
            contenders["pomegranate float32"] = pomegranate(*args)
        work = f"{covariance} mixture, {rows:,} x {features}, K = {components}, {options.steps} EM steps"
        repeats = {"latentia float64": 3, "latentia float32": 3, "scikit-learn float64": 3 if options.diagonal else 1}
        found.append(race(work, contenders, repeats, options.threads))
    return found


def kmeans(options: argparse.Namespace) -> dict[str, Any]:
    rows, features, components = (50_000 if options.quick else 1_000_000), 16, 100
    x, start = (part.astype(np.float32) for part in clusters(rows, features, components))
    data = load(torch.from_numpy(x))

    def inertia(centers: torch.Tensor) -> float:
        parts = torch.from_numpy(x).split(100_000)
        return sum(float(torch.cdist(part, centers).amin(1).double().square().sum()) for part in parts)

    found: dict[str, torch.Tensor] = {}

    def latentia() -> float:
        model = KMeans(features, components)
        model.means.data = torch.from_numpy(start).clone()
        EM(steps=options.steps, tol=0, hard=True, fresh=False, progress=False).fit(model, data)
        found["latentia"] = model.means.detach()
        return 0.0

    def scikit() -> float:
        init: dict[str, Any] = {"init": start, "n_init": 1}
        model = SklearnKMeans(components, max_iter=options.steps, tol=0, algorithm="lloyd", **init).fit(x)
        found["scikit-learn"] = torch.from_numpy(model.cluster_centers_)
        return 0.0

    def faiss() -> float:
        import faiss

        faiss.omp_set_num_threads(options.threads)
        # by default faiss takes 256 points a cluster and says nothing
        model = faiss.Kmeans(features, components, niter=options.steps, max_points_per_centroid=rows)
        model.train(x, init_centroids=start)
        found["faiss"] = torch.from_numpy(model.centroids)
        return 0.0

    contenders = {"latentia": latentia, "scikit-learn": scikit}
    if installed("faiss-cpu"):
        contenders["faiss"] = faiss
    work = f"k-means, {rows:,} x {features}, K = {components}, {options.steps} Lloyd steps, float32"
    result = race(work, contenders, dict.fromkeys(contenders, 5), options.threads)
    for name, centers in found.items():
        result["contenders"][name]["value"] = inertia(centers)
        print(f"  {name:42} sum of squares {result['contenders'][name]['value']:.1f}")
    return result


def seconds_a_step(rows: int, features: int, components: int, repeats: int = 3) -> float:
    import time

    x, start = clusters(rows, features, components)
    model, batch = GaussianMixture(features, components).double(), Batch(torch.from_numpy(x))
    model.means.data = torch.from_numpy(start)
    taken = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            began = time.perf_counter()
            model.update(model.expect(batch)[0])
            taken.append(time.perf_counter() - began)
    return min(taken[1:])


def grown(options: argparse.Namespace) -> dict[str, float]:
    base = {"N": 20_000, "D": 16, "K": 16}
    factors = [1, 2, 4] if options.quick else [1, 2, 4, 8]
    curves = {}
    for name in base:
        sizes = [base[name] * factor for factor in factors]
        taken = [seconds_a_step(*{**base, name: size}.values()) for size in sizes]
        curves[name] = ([float(size) for size in sizes], taken)
    RESULTS.mkdir(exist_ok=True)
    slopes = growth(RESULTS / "mixture.svg", curves, "full Gaussian mixture, an EM step from N = 20,000, D = K = 16")
    print("\nslopes on log axes:", {name: round(value, 2) for name, value in slopes.items()})
    return slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2, help="cores for everyone")
    parser.add_argument("--pomegranate", action="store_true", help="time it too: minutes, and it may fail")
    parser.add_argument("--diagonal", action="store_true", help="the diagonal mixture alone, everyone three times")
    parser.add_argument("--kmeans", action="store_true", help="k-means alone, everyone five times")
    options = parser.parse_args()
    if options.kmeans:
        save("kmeans", {"races": [kmeans(options)]}, ("scikit-learn", "faiss-cpu"))
        return
    if options.diagonal:
        save("mixture_diagonal", {"races": mixtures(options)}, ("scikit-learn", "pomegranate"))
        return
    content = {"races": [*mixtures(options), kmeans(options)], "slopes": grown(options)}
    if not options.quick:
        save("mixture", content, ("scikit-learn", "pomegranate", "faiss-cpu"))


if __name__ == "__main__":
    main()
