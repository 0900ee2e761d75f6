"""What people think of a restaurant, from twenty labels: sentences that nobody labelled teach too, and new ones of a
chosen sentiment are written.

    python examples/sentiment.py

The reviews are made up by a small grammar. A word that no labelled sentence has is known by the company it keeps.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import torch

from latentia.data import Dataset, load
from latentia.distributions.decoding import Decoding
from latentia.learners import Gradient
from latentia.models import SemiSupervisedTextVAE
from latentia.objectives import supervised
from latentia.tasks import cluster, written

SENTIMENTS = ("negative", "positive")
WORDS = (
    ("awful", "bad", "bland", "burnt", "cold", "dirty", "greasy", "loud", "rude", "salty", "slow", "sour", "ugly"),
    ("crisp", "fresh", "friendly", "good", "great", "juicy", "lovely", "nice", "perfect", "quick", "tasty", "warm"),
)
THINGS = ("bread", "chef", "coffee", "dessert", "fish", "pizza", "place", "rice", "salad", "soup", "staff", "wine")
KNOWN, REPEATS = 20, 10


def review(of: int, chance: random.Random) -> str:
    first, second = chance.sample(WORDS[of], 2)
    one, other = chance.sample(THINGS, 2)
    return chance.choice(
        [f"the {one} was {first} and {second}", f"the {one} was {first} , the {other} {second}", f"{first} {one} !"]
    )


def reviews(count: int, seed: int) -> tuple[list[str], list[int]]:
    chance = random.Random(seed)
    classes = [chance.randrange(2) for _ in range(count)]
    return [review(of, chance) for of in classes], classes


def fitted(data: Dataset, epochs: int) -> SemiSupervisedTextVAE:
    torch.manual_seed(0)
    symbols = len(data.schema.vocabulary)
    model = SemiSupervisedTextVAE(symbols, data.schema.end, latent=1, embedding=24, hidden=24, length=12)
    learner = Gradient(partial(supervised, alpha=10.0, teacher="labels"), batch_size=50, lr=0.01, progress=False)
    replace(learner, epochs=3).fit(model, data, seed=0)
    objective = partial(supervised, alpha=10.0)
    replace(learner, objective=objective, epochs=epochs, fresh=False).fit(model, data, seed=0)
    return model


def main() -> None:
    torch.set_num_threads(1)
    texts, classes = reviews(1000, seed=1)
    held_out, truth = reviews(500, seed=2)
    # the labelled ones again and again, each time at a lower weight, so that every step meets some
    labels = [""] * len(texts) + [SENTIMENTS[of] for of in classes[:KNOWN]] * REPEATS
    weight = [1.0] * len(texts) + [1 / REPEATS] * KNOWN * REPEATS
    data = load(texts + texts[:KNOWN] * REPEATS, labels=labels, weight=weight, ends=True).labelled()
    test = load(held_out, schema=data.schema)

    alone = fitted(data.subset(slice(len(texts), None)), epochs=7)
    model = fitted(data, epochs=20)
    for name, one in (("by 20 labels alone", alone), ("with 1,000 sentences beside", model)):
        right = (cluster(one, test) == torch.tensor(truth)).double().mean()
        print(f"{name}: {100 * float(right):.1f}% of held-out reviews")
    for k, name in enumerate(SENTIMENTS):
        batch = written(model, 5, Decoding(temperature=0.7), known=torch.eye(2)[k : k + 1], seed=0)
        print(
            f"{name}:", *(" ".join(words) for words in data.schema.decode(batch.x, None, batch.lengths)), sep="\n    "
        )


if __name__ == "__main__":
    main()
