"""Digits: which do not belong, and what the encoder gives away.

    python examples/odd_digits.py

A VAE of scikit-learn's digits meets images that are none: digits with black and white exchanged, black images, and
digits whose lower half has been blackened. Three scores rank them, and none of them sees everything: a blackened half
is nearly as probable as a digit, and to the encoder nothing new, but it is short. Then the bound's two gaps, and how
probable the lower half of each held-out digit is given the upper.
"""

from __future__ import annotations

import torch

from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.model import Batch
from latentia.models import VAE
from latentia.tasks import anomaly_scores, auroc, conditional_log_likelihood, gaps


def odd(digits: Dataset) -> dict[str, Batch]:
    """Images that are no digits."""
    half = digits.x.clone()
    half[:, 4:] = 0
    return {
        "inverted": Batch(1 - digits.x),
        "black": Batch(torch.zeros_like(digits.x)),
        "lower half black": Batch(half),
    }


def main() -> None:
    rest, test = load("digits", binarize="fixed").split(0.2)
    test = test.subset(slice(0, 150))
    model = VAE(event_shape=(8, 8), latent=8, hidden=(100,))
    Gradient(epochs=60, batch_size=64, lr=2e-3).fit(model, rest, seed=0)

    print("AUROC: the chance that an odd image is ranked above a held-out digit")
    for name in ("likelihood", "regret", "complexity"):
        options = {"score": name, "importance_samples": 100, "steps": 60}
        inside = anomaly_scores(model, test, **options)
        rates = {kind: auroc(inside, anomaly_scores(model, images, **options)) for kind, images in odd(test).items()}
        print(f"  {name:12}" + "".join(f"  {kind} {rate:.3f}" for kind, rate in rates.items()))

    found = gaps(model, test, steps=100, importance_samples=500)
    print(
        f"log p(x) {found.log_marginal.mean():.2f} nats; the bound is below it by {found.approximation.mean():.2f} for "
        f"the family of q, and by {found.amortization.mean():.2f} more for the encoder"
    )
    hidden = torch.zeros(8, 8, dtype=torch.bool)
    hidden[4:] = True
    half = conditional_log_likelihood(model, test, hidden, importance_samples=500)
    print(f"log p(lower half | upper half) = {half.value.mean():.2f} nats; of any 32 binary pixels {-32 * 0.6931:.2f}")


if __name__ == "__main__":
    main()
