"""Chains that share the work: factorial hidden Markov models on digits, read from the top row to the bottom row.

    python examples/digit_rows.py

Each image is a sequence of 8 rows of 8 pixels. Three chains of 4 states describe 64 kinds of row with only 12
contributions; an ordinary hidden Markov model of 12 states has as many. The last line says what the mean field loses
against the exact posterior, on held-out images.
"""

import warnings

import torch
from sklearn.datasets import load_digits

from latentia.data import load
from latentia.learners import EM
from latentia.models import HMM, ExactFactorialHMM, FactorialHMM


def main() -> None:
    pixels = torch.tensor(load_digits(return_X_y=True)[0]).unflatten(1, (8, 8))
    # whole numbers have no density: each is spread over the interval that it stands for
    noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=pixels.dtype)
    train, held_out = load(((pixels + noise) / 17).numpy(), kind="sequence").split(0.2)
    batch = held_out.batch(dtype=torch.float64)
    print(f"{len(train)} images to learn from, {len(held_out)} held out")

    ordinary = HMM(features=8, states=12, covariance="tied").double()
    factorial = FactorialHMM(features=8, chains=3, states=4).double()
    exact = ExactFactorialHMM(features=8, chains=3, states=4).double()
    models = {"HMM, 12 states": ordinary, "3 chains, mean field": factorial, "3 chains, exact": exact}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 30 steps show the difference, though they do not converge
            EM(steps=30, progress=False).fit(model, train)
        tractable = model.exact() if isinstance(model, FactorialHMM) else model
        with torch.no_grad():
            value = float(tractable.posterior(batch).log_partition.mean())
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name:21s} {parameters:4d} parameters   log p(x) of a held-out image {value:.2f} nats")

    bound, gap = float(factorial.bound(batch).mean()), float(factorial.gap(batch).mean())
    print(f"mean field: bound {bound:.2f} nats, {gap:.2f} below log p(x)")


if __name__ == "__main__":
    main()
