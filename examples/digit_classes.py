"""Digits with clusters that nobody named, then with a few labels, then with holes: three VAEs on scikit-learn's digits.

    python examples/digit_classes.py

A clustering VAE finds ten clusters without labels; a semi-supervised one learns from 50 labels and all other digits
without; a missing-data one learns from digits of which half the pixels are hidden, and fills in held-out ones.
"""

from dataclasses import replace
from functools import partial

import torch

from latentia.data import Dataset, load
from latentia.learners import Gradient
from latentia.models import ClusteringVAE, MissingDataVAE, SemiSupervisedVAE
from latentia.objectives import iwae, supervised
from latentia.tasks.agreement import one_to_one
from latentia.tasks.cluster import classes, cluster


def main() -> None:
    digits = load("digits", binarize="dynamic")
    train, test = digits.split(0.2, seed=1)
    named = classes(test)

    clusters = ClusteringVAE((8, 8), components=10, latent=6, hidden=(128,), pretrain=150)
    Gradient(epochs=30, batch_size=100, progress=False).fit(clusters, train, seed=0)
    print(f"clusters without labels: {100 * one_to_one(cluster(clusters, test), named):.1f}% of test digits")

    classifier = SemiSupervisedVAE((8, 8), latent=8, hidden=(64,))
    learner = Gradient(partial(supervised, alpha=30.0), epochs=35, batch_size=100, lr=3e-3, progress=False)
    learner.fit(classifier, labelled(train, each=5), seed=0)
    found = classifier.clusters(test.frozen(0).batch()).argmax(-1)
    print(f"classes from 50 labels: {100 * float((found == named).float().mean()):.1f}% of test digits")

    model = MissingDataVAE((8, 8), latent=8, hidden=(64,))
    learner = Gradient(partial(iwae, samples=5), epochs=60, batch_size=100, lr=3e-3, progress=False)
    learner.fit(model, holed(train, seed=0))
    hidden, truth = holed(test.frozen(0), seed=1).batch(), test.frozen(0).batch().x
    missing = ~hidden.observed
    with torch.no_grad():
        filled, average = model.impute(hidden, 200), train.batch().x.mean(0).expand_as(truth)
    for name, guess in (("the rest of the digit", filled), ("the average digit", average)):
        error = ((guess > 0.5).float() != truth)[missing].float().mean()
        print(f"hidden pixels guessed by {name}: {100 * float(error):.1f}% wrong")


def labelled(data: Dataset, each: int) -> Dataset:
    """The data without labels, and `each` of every class with theirs, ten times at a tenth of their weight."""
    named = classes(data)
    known = torch.cat([(named == k).nonzero().flatten()[:each] for k in range(10)]).repeat(10)
    z, weight = torch.zeros(len(data) + len(known), 10), torch.ones(len(data) + len(known), dtype=torch.float64)
    z[torch.arange(len(data), len(z)), named[known]] = 1
    weight[len(data) :] = 0.1
    return replace(data.subset(torch.cat([torch.arange(len(data)), known])), known={"y": z}, weight=weight)


def holed(data: Dataset, seed: int) -> Dataset:
    """The data with every other pixel hidden, at random."""
    mask = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return replace(data, x=torch.where(mask, data.x, 0.0), mask=mask)


if __name__ == "__main__":
    main()
