"""What are the sentences of the Python manual about? A mixture of unigrams on the built-in English text.

    python examples/sentence_topics.py [TOPICS]

Every sentence is a bag of words from one topic. A topic is shown by the words that it has much more often than the
text as a whole: the commonest words are common everywhere.
"""

import sys
import warnings

import torch

from latentia.data import load
from latentia.evaluate import evaluate
from latentia.learners import EM
from latentia.models import MixtureOfCategoricals


def main() -> None:
    topics = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    torch.set_num_threads(1)  # for so few data a second thread costs more than it brings
    train, test = load("sentences", min_count=3).split(0.1)
    words, symbols = train.schema.vocabulary, train.schema.levels
    assert symbols is not None
    print(f"{len(train)} sentences to learn from, {len(test)} held out, {symbols} words")
    for components in (1, topics):
        model = MixtureOfCategoricals(symbols, components=components, smoothing=0.1).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 100 steps are enough to see the topics, though not to converge
            EM(steps=100, restarts=5, progress=False).fit(model, train)
        found = evaluate(model, test)
        print(f"topics: {components}, held-out perplexity {found.perplexity:.1f} over {found.divided_by}")

    whole = model.weights @ model.probs
    # a weighted log-ratio: rare words alone would be the first by the ratio itself
    typical = (model.probs * (model.probs / whole).log()).topk(8, dim=1).indices
    for weight, best in zip(model.weights.tolist(), typical.tolist(), strict=True):
        print(f"  {weight:5.1%}  {' '.join(words[i] for i in best)}")


if __name__ == "__main__":
    main()
