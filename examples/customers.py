"""A table of customers whose groups are known: words, numbers, counts and holes; and how well they are found again.

    python examples/customers.py [customers.csv]

Four groups, in which every column overlaps with other groups'. With a path, the table is only written there, for the
commands of docs/customers.md; without, a `Mixture` is fitted and held against the truth, beside what a Gaussian
mixture with diagonal covariances finds in the same columns as one-hot numbers.
"""

import sys
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score

from latentia.data import load
from latentia.learners import EM
from latentia.models import GaussianMixture, Mixture
from latentia.tasks import cluster

ROWS = 1200
PLANS, CITIES = ("basic", "family", "plus", "pro"), ("Bergen", "Oslo", "Tromso")


def customers(seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """The table, and the group of each row."""
    rng = np.random.default_rng(seed)
    group = rng.choice(4, size=ROWS, p=[0.4, 0.3, 0.2, 0.1])

    def words(names: tuple[str, ...], shares: list[list[float]]) -> np.ndarray:
        edges = np.array(shares).cumsum(1)[group]
        return np.array(names)[(rng.random((ROWS, 1)) > edges).sum(1).clip(max=len(names) - 1)]

    table = pd.DataFrame(
        {
            "customer": [f"C{i:05d}" for i in range(ROWS)],
            "age": rng.normal(np.array([24, 38, 55, 41])[group], 6).round(1),
            "spend": rng.normal(np.array([20, 65, 38, 240])[group], np.array([5, 15, 9, 60])[group]).round(2),
            "plan": words(
                PLANS,
                [[0.85, 0.05, 0.08, 0.02], [0.06, 0.82, 0.1, 0.02], [0.5, 0.05, 0.42, 0.03], [0.02, 0.03, 0.1, 0.85]],
            ),
            "city": words(CITIES, [[0.2, 0.7, 0.1], [0.45, 0.45, 0.1], [0.2, 0.2, 0.6], [0.15, 0.8, 0.05]]),
            "newsletter": np.where(rng.random(ROWS) < np.array([0.1, 0.6, 0.8, 0.3])[group], "yes", "no"),
            "visits": rng.poisson(np.array([2.0, 6.0, 1.0, 14.0])[group]),
            "returns": rng.poisson(np.array([0.2, 1.5, 0.3, 0.8])[group]),
        }
    )
    for name in table.columns[1:]:
        table.loc[rng.random(ROWS) < 0.08, name] = None
    return table, group


def one_hot_gaussians(table: pd.DataFrame) -> np.ndarray:
    """The clusters of a Gaussian mixture with diagonal covariances, to which every column is a number."""
    numbers = pd.get_dummies(table.drop(columns="customer"), dtype=float)
    model = GaussianMixture(numbers.shape[1], 4, "diagonal").double()
    data = load(numbers, scale="standard", values="real")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns of 0 and 1 that it takes for points
        EM(restarts=10, progress=False).fit(model, data)
    return cluster(model, data).numpy()


def main() -> None:
    table, group = customers()
    if len(sys.argv) > 1:
        table.to_csv(sys.argv[1], index=False)
        print(f"{ROWS} customers in {sys.argv[1]}")
        return
    torch.set_num_threads(1)
    data = load(table, exclude="customer", scale="standard")
    model = Mixture(data.schema.sizes()["columns"], components=4).double()
    EM(restarts=10, progress=False).fit(model, data)
    print(data.schema.describe())
    print(f"Mixture              adjusted Rand index {adjusted_rand_score(group, cluster(model, data).numpy()):.2f}")
    print(f"one-hot Gaussians    adjusted Rand index {adjusted_rand_score(group, one_hot_gaussians(table)):.2f}")


if __name__ == "__main__":
    main()
