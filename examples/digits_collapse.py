"""Posterior collapse on scikit-learn's digits, and what helps: a PixelVAE, whose decoder can do without its latents.

    python examples/digits_collapse.py

For each way of learning: the held-out NLL by importance sampling, the KL, and the mutual information of x and z. The
same on MNIST, with more remedies: benchmarks/collapse.py.
"""

from functools import partial

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import PixelVAE
from latentia.objectives import elbo

WAYS = {
    "plain ELBO": Gradient(),
    "free bits": Gradient(partial(elbo, free_bits=0.5)),
    "annealing": Gradient(anneal="linear", anneal_share=0.5),
    "pretraining, annealing, free bits": Gradient(
        partial(elbo, free_bits=0.5), pretrain=5, anneal="linear", anneal_share=0.5
    ),
}


def main() -> None:
    train, held_out = load("digits", binarize="dynamic").split(0.1)
    train, validation = train.split(0.1)
    print(f"{len(train)} digits to learn from, {len(held_out)} held out; nats per digit")
    for name, learner in WAYS.items():
        learner.epochs, learner.lr, learner.patience, learner.progress = 30, 3e-3, None, False
        model = PixelVAE((8, 8), latent=8, hidden=(64,), channels=8, layers=3, kernel=5)
        learner.fit(model, train, validation=validation)
        found = evaluate(model, held_out, importance_samples=100)
        print(
            f"  {name:34} NLL {-found.log_marginal:.2f} ± {found.log_marginal_se:.2f}   KL {found.kl:.2f}   "
            f"mutual information {found.mutual_information:.2f}   {found.active_units} of {found.latent_units} active"
        )


if __name__ == "__main__":
    main()
