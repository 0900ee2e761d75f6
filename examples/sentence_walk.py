"""From one sentence to another: a language model, and a text VAE with the same decoder, on the built-in English text.

    python examples/sentence_walk.py [EPOCHS]

The two are compared by what they say of held-out sentences, the end of each counted: what z is worth is the
difference. The encoder is pretrained, so that z is used at all; then sentences on the line between two of them are
written, each the most probable text that a beam search finds.
"""

import sys
import warnings
from functools import partial
from typing import Any

import torch

from latentia.data import Dataset, load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import LanguageModel, TextVAE
from latentia.objectives import elbo, exact
from latentia.tasks import completed, homotopy, neighbours

LONGEST = 12


def short_sentences() -> tuple[Dataset, Dataset]:
    """Those of at most eleven words, to learn from and held out."""
    data = load("sentences", ends=True, max_vocabulary=300)
    return data.subset(data.batch().ends <= LONGEST).split(0.1)


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of rare words there are many
    train, test = short_sentences()
    words = train.schema.vocabulary
    print(f"{len(train)} sentences to learn from, {len(test)} held out, {len(words)} symbols")
    torch.manual_seed(0)
    size: dict[str, Any] = {"symbols": len(words), "end": train.schema.end, "embedding": 32, "hidden": 32}
    how: dict[str, Any] = {"epochs": epochs, "lr": 0.01, "batch_size": 32, "schedule": "cosine", "progress": False}

    plain = LanguageModel(**size, length=LONGEST)
    Gradient(exact, **how).fit(plain, train)
    print(f"language model: log p(x) = {evaluate(plain, test).log_marginal:.2f} nats a sentence, end counted")

    model = TextVAE(**size, latent=4, length=LONGEST)
    free = partial(elbo, free_bits=0.5)
    Gradient(free, pretrain=epochs // 4, anneal="linear", anneal_share=0.5, **how).fit(model, train)
    found = evaluate(model, test, importance_samples=50)
    print(f"text VAE:       log p(x) = {found.log_marginal:.2f}, KL {found.kl:.2f}, {found.active_units} units active")

    pair = test.batch([0, 1])
    print("on the way:")
    for line in train.schema.decode(homotopy(model, pair, steps=5)[0]):
        print("   ", *line)
    near = neighbours(model, test.batch([0]), train, count=2)
    print("near the first:", *(" ".join(text) for text in train.subset(near.numbers[0]).decoded()), sep="\n    ")
    first = pair.select(slice(0, 1))._replace(x=pair.x[:1, :2], mask=None, lengths=torch.tensor([2]))
    print("begun:", *train.schema.decode(completed(plain, first, seed=1).x)[0])


if __name__ == "__main__":
    main()
