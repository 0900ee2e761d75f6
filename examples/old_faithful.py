"""How many kinds of eruption has Old Faithful? A Gaussian mixture on two columns of a table.

    python examples/old_faithful.py [geyser.csv [RESTARTS]]

The table has a row for each eruption and the columns `duration` and `waiting`, in minutes.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from latentia.data import Dataset, load
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import GaussianMixture

GEYSER = Path(__file__).resolve().parents[2] / "shared" / "data" / "tabular" / "geyser.csv"


def table(path: Path) -> Dataset:
    """The eruptions, or where the file is absent a synthetic table of the same size and shape."""
    if path.exists():
        return load(path, columns="duration,waiting")
    print(f"{path.name} is not here: a synthetic table takes its place, so the numbers are not those of the geyser")
    random = np.random.default_rng(0)
    short = random.multivariate_normal([2.0, 54.5], [[0.07, 0.4], [0.4, 34.0]], 97)
    long = random.multivariate_normal([4.3, 80.0], [[0.17, 0.9], [0.9, 36.0]], 175)
    return load(np.concatenate([short, long]))


def main() -> None:
    data = table(Path(sys.argv[1]) if len(sys.argv) > 1 else GEYSER)
    restarts = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    count, features = data.x.shape
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    print(f"{count} eruptions, log p(x) of the training data, maximum likelihood by EM with restarts")
    for components in range(1, 5):
        model = GaussianMixture(features=features, components=components).double()
        learner = EM(restarts=restarts if components < 4 else min(restarts, 5), tol=1e-10, steps=1000, progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # with too many components EM may creep on for more than 1000 steps
            history = learner.fit(model, data)
        total = evaluate(model, data).total_log_marginal
        # K - 1 weights, K means, K symmetric covariances
        free = components - 1 + components * (features + features * (features + 1) // 2)
        bic = free * np.log(count) - 2 * total
        print(f"K = {components}: sum of log p(x) = {total:.3f} nats, BIC = {bic:.1f}, {history.stopped}")
        for weight, mean in zip(model.weights.tolist(), model.means.tolist(), strict=True):
            print(f"    {weight:5.1%} around duration {mean[0]:.2f}, waiting {mean[1]:.1f}")


if __name__ == "__main__":
    main()
