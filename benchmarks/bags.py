"""Topic models of 20 Newsgroups: perplexity by document completion, and the coherence of the topics.

    python benchmarks/bags.py                    all rows
    python benchmarks/bags.py --rows LDA NVDM    some of them; what is saved is kept

Data: the bags of 2,000 words of Miao et al.'s NVDM (11,268 documents to learn from, a tenth of them to choose the epoch
by; 7,505 to test on), in the form `label id:count ...`. LDA is learned by collapsed Gibbs sampling with a learned
concentration; the others by the gradient of their bounds. The perplexity is of the second half of each test document's
words given the first, E[z | first half] in the place of z, for all alike. NPMI is of the ten top words of each topic,
by the training documents. The "topics" of NVDM and ContinuousNaiveBayes are the two directions of each dimension.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latentia.data import Dataset, load
from latentia.learners import Gibbs, Gradient
from latentia.models import LDA, NVDM, ContinuousNaiveBayes, ProdLDA
from latentia.objectives import elbo
from latentia.tasks import coherence, document_completion, top_words

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1].parent / "shared" / "data" / "20news_nvdm"


def neural(options: argparse.Namespace, **changed: Any) -> Gradient:
    how: dict[str, Any] = {"epochs": options.epochs, "batch_size": 200, "lr": 2e-3, "patience": 20, "progress": False}
    return Gradient(elbo, **{**how, **changed})


def fit(name: str, train: Dataset, options: argparse.Namespace) -> Any:
    """The fitted model of a row."""
    symbols, topics = train.schema.levels or 0, options.topics
    if name == "LDA":
        model = LDA(symbols, topics).double()
        Gibbs(sweeps=options.sweeps, progress=False).fit(model, train, seed=options.seed)
        return model
    rest, validation = train.split(0.1, options.seed)
    makers = {
        "ContinuousNaiveBayes": partial(ContinuousNaiveBayes, latent=topics),
        "NVDM": partial(NVDM, latent=topics),
        "ProdLDA": partial(ProdLDA, topics=topics),
    }
    model = makers[name](symbols)
    neural(options).fit(model, rest, validation=validation, seed=options.seed)
    return model


def measure(name: str, train: Dataset, test: Dataset, words: tuple[str, ...], options: argparse.Namespace) -> Any:
    began = time.process_time()
    model = fit(name, train, options).eval()
    seconds = time.process_time() - began
    halves = document_completion(model, test, seed=options.seed)
    found = coherence(model.topics.detach(), train)
    best = sorted(range(len(found.npmi)), key=lambda k: -found.npmi[k])[:5]
    return {
        "perplexity": halves.perplexity,
        "npmi": found.mean,
        "topics": len(found.npmi),
        "seconds": seconds,
        "best": [" ".join(top_words(model.topics[k : k + 1], words, 10)[0]) for k in best],
    }


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("LDA", "ContinuousNaiveBayes", "NVDM", "ProdLDA")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", nargs="+", choices=names, default=names)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--sweeps", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--first", type=int, help="so many documents only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "bags.json")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    vocabulary = str(options.data / "vocab.new")
    train = load(options.data / "train.feat", vocabulary=vocabulary).subset(slice(0, options.first))
    test = load(options.data / "test.feat", vocabulary=vocabulary, schema=train.schema).subset(slice(0, options.first))
    saved = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.rows:
        if name not in saved:
            saved[name] = measure(name, train, test, train.schema.vocabulary, options)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(saved, indent=1) + "\n")
            print(name, saved[name], flush=True)
    print("| | perplexity, document completion | NPMI | topics | CPU s |\n|---|--:|--:|--:|--:|")
    for name, row in saved.items():
        print(f"| {name} | {row['perplexity']:.0f} | {row['npmi']:.3f} | {row['topics']} | {row['seconds']:.0f} |")


if __name__ == "__main__":
    main()
