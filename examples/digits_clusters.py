"""Ten kinds of digit without a label: k-means and Gaussian mixtures, held against each other by held-out log p(x).

    python examples/digits_clusters.py

The labels are only used at the end, to say how often a cluster's commonest digit is right (on held-out digits).
"""

import numpy as np
import torch

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import GaussianMixture, KMeans


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    train, test = load("digits", scale="none", values="real").split(0.25, seed=0)
    assert train.labels is not None
    assert test.labels is not None
    features = train.x[0].numel()
    # pixels that are always dark have no variance: a floor of a hundredth of the others' keeps densities honest
    contenders = {
        "k-means": (KMeans(features, 10, floor=1e-2), True),
        "spherical mixture": (GaussianMixture(features, 10, "spherical", floor=1e-2), False),
        "diagonal mixture": (GaussianMixture(features, 10, "diagonal", floor=1e-2), False),
        "tied mixture": (GaussianMixture(features, 10, "tied", floor=1e-2), False),
    }
    for name, (model, hard) in contenders.items():
        model = model.double()
        EM(hard=hard, restarts=5, progress=False).fit(model, train)
        with torch.no_grad():
            learned, found = (
                model.posterior(part.batch(dtype=torch.float64)).mode.argmax(-1) for part in (train, test)
            )
        meaning = {k: np.bincount(train.labels[learned == k]).argmax() for k in learned.unique().tolist()}
        right = np.mean([meaning.get(k, -1) == digit for k, digit in zip(found.tolist(), test.labels, strict=True)])
        held_out = evaluate(model, test)
        print(f"{name:18} held-out log p(x) {held_out.log_marginal:8.2f} nats, cluster = digit for {right:.1%}")


if __name__ == "__main__":
    main()
