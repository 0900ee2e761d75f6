"""How many kinds of wine are in a table with gaps? A pipeline and a grid search of scikit-learn's.

    python examples/sklearn_pipeline.py

The table is scikit-learn's own: 13 measurements of 178 Italian wines from three cultivars. A tenth of its cells are
taken out. The number of clusters and the kind of covariance are chosen by log p(x) of held-out wines, in nats per wine
and in units of each column's standard deviation; the cultivars are looked at afterwards only.
"""

import warnings
from typing import cast

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from latentia.sklearn import GaussianMixture


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    wines, cultivar = cast(tuple[pd.DataFrame, pd.Series], load_wine(as_frame=True, return_X_y=True))
    gaps = np.random.default_rng(0).random(wines.shape) < 0.1
    table = wines.mask(gaps)
    print(f"{len(table)} wines, {table.shape[1]} columns, {gaps.mean():.0%} of the cells missing")

    # a floor of a hundredth of the data's variance: a cluster of few wines must not collapse onto them
    mixture = GaussianMixture(n_init=2, floor=0.01, tol=1e-3, random_state=0)
    pipeline = Pipeline([("scale", StandardScaler()), ("mixture", mixture)])
    grid = {"mixture__n_components": [1, 2, 3, 4], "mixture__covariance_type": ["full", "diag", "spherical"]}
    search = GridSearchCV(pipeline, grid, cv=KFold(5, shuffle=True, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters at the floor, which lose the search anyway
        search.fit(table)

    results = search.cv_results_
    for kind in grid["mixture__covariance_type"]:
        chosen = results["param_mixture__covariance_type"] == kind
        scores = "  ".join(f"{score:7.3f}" for score in results["mean_test_score"][chosen])
        print(f"{kind:>10}  {scores}   held-out log p(x), 1 to 4 clusters")
    best = search.best_params_
    print(f"best: {best['mixture__n_components']} clusters, {best['mixture__covariance_type']}")

    clusters = search.predict(table)
    print(f"adjusted Rand index with the cultivars: {adjusted_rand_score(cultivar, clusters):.2f}")
    for k in np.unique(clusters):
        mean = table[clusters == k].mean()
        count = np.sum(clusters == k)
        print(f"cluster {k}: {count:3d} wines, alcohol {mean['alcohol']:.1f}%, proline {mean['proline']:.0f}")


if __name__ == "__main__":
    main()
