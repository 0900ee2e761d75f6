"""Lists by two writers, who wrote what is not said: a mixture of two language models, beside one of as many parameters.

    python examples/two_writers.py [STARTS]

One writes shopping lists, the other what was seen at the zoo. The fit ends in a local optimum, as one of any mixture
does, so there are several starts, and the one with the best log p(x) of the training lists is kept. One language model
knows the writer too, once it has read the first word: what z is worth is the difference in log p(x) of held-out lists.
"""

import random
import sys

import torch

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.models import LanguageModel, MixtureOfLanguageModels
from latentia.objectives import exact
from latentia.tasks import cluster, responsibilities
from latentia.tasks.agreement import one_to_one

WORDS = (
    "apples bread butter cheese coffee eggs flour honey milk onions rice salt sugar tea".split(),  # noqa: SIM905
    "bear camel crane eagle fox goat hippo lion monkey otter panda seal tiger zebra".split(),  # noqa: SIM905
)


def lists(count: int, seed: int) -> tuple[list[str], torch.Tensor]:
    """Lists of two to four words, and who wrote each."""
    chance = random.Random(seed)
    writers = [chance.randrange(2) for _ in range(count)]
    return [" , ".join(chance.sample(WORDS[k], chance.randint(2, 4))) for k in writers], torch.tensor(writers)


def main() -> None:
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    torch.set_num_threads(1)
    texts, _ = lists(600, seed=1)
    held_out, writers = lists(300, seed=2)
    train = load(texts, ends=True)
    test = load(held_out, schema=train.schema)
    symbols, end = len(train.schema.vocabulary), train.schema.end
    learner = Gradient(exact, epochs=15, lr=0.02, batch_size=32, schedule="cosine", progress=False)

    one = LanguageModel(symbols, end, embedding=13, hidden=13)
    learner.fit(one, train)
    found = []
    for seed in range(starts):
        model = MixtureOfLanguageModels(symbols, end, components=2, shared=False, embedding=8, hidden=8)
        learner.fit(model, train, seed=seed)
        found.append((evaluate(model, train).log_marginal, model))
    mixture = max(found, key=lambda pair: pair[0])[1]
    for model in (one, mixture):
        count = sum(parameter.numel() for parameter in model.parameters())
        value = evaluate(model, test).log_marginal
        print(f"{type(model).__name__}, {count:,} parameters: log p(x) = {value:.2f} nats, end counted")
    print(f"{100 * one_to_one(cluster(mixture, test), writers):.1f}% of held-out lists are given to their writer")
    share = responsibilities(mixture, test)
    for k in range(2):
        print(f"most likely by {k}:", *(held_out[i] for i in share[:, k].topk(3).indices), sep="\n    ")


if __name__ == "__main__":
    main()
