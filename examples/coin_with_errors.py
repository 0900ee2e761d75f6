"""How many nats does it take to tell a coin's tosses, or a normal number, with errors?

    python examples/coin_with_errors.py

R(D) of both is known: of the coin H(p) - H(D), which Blahut and Arimoto's turns find too, of the normal number
log(variance / D) / 2. A rate-distortion autoencoder is fitted to each at several slopes, with bits as z for the one and
a number for the other. Its rate is held against R(D) at its own distortion, and is at least what the channel's own
densities say.
"""

import math
from functools import partial
from typing import Any

import torch

from latentia import gradients
from latentia.data import as_dataset
from latentia.distributions.distortion import hamming
from latentia.learners import Gradient
from latentia.measure.rate_distortion import blahut_arimoto, rated
from latentia.model import Batch
from latentia.models import RateDistortion
from latentia.objectives import elbo

HEADS = 0.3


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    print("a coin             slope  wrong   rate   R(D)  at least")
    tosses = as_dataset(Batch.of((torch.arange(200) < 200 * HEADS).float().unsqueeze(-1)))
    for slope in (1.5, 2.5, 4.0):
        model = RateDistortion((1,), slope=slope, distortion="hamming", channel="bits", latent=1, hidden=())
        objective = partial(elbo, estimator=gradients.enumerate)
        Gradient(objective, epochs=300, batch_size=200, lr=0.1, schedule="cosine", patience=None).fit(model, tosses)
        found = rated(model, tosses, distortion=hamming, samples=500)
        told("coin", slope, found, entropy(HEADS) - entropy(found.distortion))
    best = blahut_arimoto(torch.tensor([1 - HEADS, HEADS]), 1 - torch.eye(2), 2.5)
    print(
        f"Blahut and Arimoto, 2.5 {best.distortion:.4f} {best.rate:.4f} {entropy(HEADS) - entropy(best.distortion):.4f}"
    )
    print("a normal number    slope  error   rate   R(D)  at least")
    x = torch.special.ndtri((torch.arange(256) + 0.5) / 256).unsqueeze(-1)
    numbers = as_dataset(Batch.of(x / x.std(unbiased=False)))
    for slope in (1.0, 4.0):
        model = RateDistortion((1,), slope=slope, latent=1, hidden=())
        options: dict[str, Any] = {"epochs": 300, "batch_size": 256, "lr": 0.1, "schedule": "cosine", "clip": 1.0}
        Gradient(partial(elbo, samples=4), patience=None, **options).fit(model, numbers)
        found = rated(model, numbers, samples=50)
        told("normal", slope, found, 0.5 * math.log(1 / found.distortion))


def entropy(p: float) -> float:
    """Of a coin, in nats."""
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def told(name: str, slope: float, found, least: float) -> None:
    sure = f"{found.lower:.4f} ± {found.lower_se:.4f}"
    print(f"  {name:15} {slope:6.1f} {found.distortion:.4f} {found.rate:.4f} {least:.4f} {sure}")


if __name__ == "__main__":
    main()
