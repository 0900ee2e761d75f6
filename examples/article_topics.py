"""Topics of newspaper articles, or of the built-in sentences: latent Dirichlet allocation by Gibbs sampling.

    python examples/article_topics.py [AP.DAT VOCAB.TXT]

The articles are those of Blei, Ng and Jordan (2003), in the form of LDA-C. Without them the example takes paragraphs of
the Python manual, eight sentences each. A model is judged by the second halves of documents it has not seen.
"""

import sys
from collections import Counter

from latentia.data import Dataset, load, read
from latentia.learners import Gibbs
from latentia.models import LDA
from latentia.tasks import coherence, document_completion, top_words

# the commonest words of the manual say nothing of its subjects, and of the rarest nothing can be learned
COMMON, RARE = 40, 3


def paragraphs() -> Dataset:
    """Eight sentences that follow each other are one document, without common and rare words."""
    sentences = read("sentences").values
    counts = Counter(word for words in sentences for word in words)
    kept = {word for word, count in counts.most_common()[COMMON:] if count >= RARE}
    groups = [sentences[i : i + 8] for i in range(0, len(sentences), 8)]
    documents = [[word for words in group for word in words if word in kept] for group in groups]
    return load([words for words in documents if words])


def main() -> None:
    if len(sys.argv) > 2:
        data = load(sys.argv[1], vocabulary=sys.argv[2], min_count=5)
        topics, sweeps = 30, 200
    else:
        data, topics, sweeps = paragraphs(), 10, 400
    train, held_out = data.split(0.1)
    symbols = data.schema.levels
    assert symbols is not None
    print(f"{len(train)} documents to learn from, {len(held_out)} held out, {symbols} words")

    model = LDA(symbols, topics)
    Gibbs(sweeps=sweeps, burn_in=sweeps // 2, progress=False).fit(model, train)
    unigrams = LDA(symbols, topics=1)
    Gibbs(sweeps=10, burn_in=0, progress=False).fit(unigrams, train)

    found = coherence(model.topics, data)
    for k, words in enumerate(top_words(model.topics, data.schema.vocabulary, 8)):
        print(f"  {k:2d}  concentration {model.concentration[k]:.3f}  NPMI {found.npmi[k]:+.2f}  {' '.join(words)}")
    print(f"mean NPMI {found.mean:.3f} in all {found.documents} documents, the held-out ones among them")
    for name, some in (("topics", model), ("one topic", unigrams)):
        rest = document_completion(some, held_out)
        print(f"{name}: perplexity {rest.perplexity:.1f} over {rest.words} held-out words")


if __name__ == "__main__":
    main()
