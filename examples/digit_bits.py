"""Handwritten digits as black and white dots: how many kinds of image are there, and what is the lower half?

    python examples/digit_bits.py

Mixtures of Bernoullis of growing size, held against each other by log p(x) of digits that nobody learned from. The one
that validation images choose then guesses the lower halves of the test images from the upper halves alone.
"""

import warnings

import torch

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.model import Batch
from latentia.models import MixtureOfBernoullis


def main() -> None:
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    data = load("digits", binarize="fixed")
    rest, test = data.split(0.2, seed=0)
    train, valid = rest.split(0.2, seed=1)
    fits = {}
    for components in (1, 10, 30, 60, 100):
        model = MixtureOfBernoullis((8, 8), components, smoothing=1.0).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # with many components a cluster may end up empty
            EM(restarts=3, tol=1e-5, progress=False).fit(model, train)
        found = evaluate(model, valid).log_marginal
        fits[found] = model
        print(f"K = {components:3d}: log p(x) of validation images {found:.2f} nats")
    best = fits[max(fits)]
    tested = evaluate(best, test)
    print(f"chosen: K = {len(best.weights)}, log p(x) of test images {tested.log_marginal:.2f} nats")

    x = test.x.double()
    upper = torch.arange(8).unsqueeze(-1).expand(8, 8) < 4
    with torch.no_grad():
        # p(x_lower = 1 | x_upper): the clusters' own probabilities, weighted by what the upper half says of the cluster
        cluster = best.posterior(Batch.of(x, upper.expand_as(x))).mean
        guess = torch.einsum("bk,khw->bhw", cluster, best.probs) > 0.5
        alone = train.x.mean(0) > 0.5
    for name, lower in (("given the upper half", guess), ("by each dot's own frequency", alone.expand_as(guess))):
        right = (lower == (x > 0.5))[:, ~upper].double().mean()
        print(f"dots of the lower half that are right, {name}: {float(right):.1%}")


if __name__ == "__main__":
    main()
