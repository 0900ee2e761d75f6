"""Four models of a bag of words on the built-in English text: the same sentences, shares of topics or points in space.

    python examples/bags_of_words.py [EPOCHS]

LDA and ProdLDA say what a sentence is about by shares of topics, continuous naive Bayes and the neural document model
by a point in space. The half of a held-out sentence is given, and the other half is foretold: that is fair to all of
them, whatever bounds they learn by. A topic is shown by the words that it has more often than the text as a whole.
"""

import sys
import warnings
from typing import Any

import torch

from latentia.data import load
from latentia.learners import Gibbs, Gradient
from latentia.models import LDA, NVDM, ContinuousNaiveBayes, ProdLDA
from latentia.tasks import document_completion

TOPICS = 6


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    train, test = load("sentences", min_count=3).split(0.1)
    symbols, words = train.schema.levels, train.schema.vocabulary
    assert symbols is not None  # it is text
    print(f"{len(train)} sentences to learn from, {len(test)} held out, {symbols} words")
    learner = Gradient(epochs=epochs, lr=5e-3, batch_size=64, schedule="cosine", progress=False)
    size: dict[str, Any] = {"symbols": symbols, "hidden": (32,)}
    models = {
        "LDA": (LDA(symbols, topics=TOPICS), Gibbs(sweeps=100, progress=False)),
        "continuous naive Bayes": (ContinuousNaiveBayes(**size, latent=4), learner),
        "NVDM": (NVDM(**size, latent=4, decoder_hidden=(32,)), learner),
        "ProdLDA": (ProdLDA(**size, topics=TOPICS), learner),
    }
    for name, (model, how) in models.items():
        how.fit(model, train)
        print(f"{name}: the other half of a sentence has perplexity {document_completion(model, test).perplexity:.0f}")

    lda: Any = models["LDA"][0]
    share = lda.topics.detach()
    typical = (share * (share / share.mean(0)).log()).topk(6, dim=1).indices
    for row in typical.tolist():
        print("  ", *(words[i] for i in row))


if __name__ == "__main__":
    main()
