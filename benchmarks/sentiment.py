"""Sentiment of Yelp sentences from 500 labels: SemiSupervisedTextVAE beside its own classifier, and beside mixtures.

    python benchmarks/sentiment.py
    python benchmarks/sentiment.py --draws 3 --unlabelled 20000

Data: the development part of Shen et al. (2017), 63,483 sentences of 8 to 10 words, shuffled once (seed 0): 50,000 to
learn from, 3,483 by which options were chosen (with draws of the labels from 100 on, --validate), 10,000 to test on. A
draw is 500 labels of these, whatever they are; `--unlabelled` of the others are read without theirs. Test accuracy
of, by the same 500 labels:

- the model's classifier (the mean of the words' vectors) learned from the 500 alone; logistic regression on words;
- naive Bayes, and the mixture of bags that begins from it and is learned by EM (Nigam et al. 2000): labels fixed;
- the mixture of two language models, one network told which it is, its class summed out where it is not known;
- the semi-supervised VAE, its classifier and p(y | x) by importance sampling of the decoder.

Then sentences of each class are written, unselected, and judged by logistic regression on words and pairs of words that
was taught all 50,000 labels; its own test accuracy is told. What is written goes to benchmarks/results/sentiment.json:
accuracies, and the twenty sentences of each class of the first draw.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from torch import nn

from latentia.batch import Batch
from latentia.bound import Bound
from latentia.data import Dataset, load
from latentia.distributions.decoding import Decoding
from latentia.distributions.onehot import marked
from latentia.learners import Gradient
from latentia.models import MixtureOfLanguageModels, SemiSupervisedTextVAE
from latentia.objectives import supervised
from latentia.runs.directory import environment
from latentia.tasks import generate, responsibilities, written

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1].parent / "shared" / "data" / "yelp_sentiment"
TRAIN, CHOOSE, KNOWN = 50_000, 3_483, 500
CLASSES = ("negative", "positive")
REPEATS = 4
"""How often a pass meets each labelled sentence: at so much less weight each time."""
VALIDATION_DRAWS = 100


class Yelp:
    """The sentences and their classes: three parts of one shuffle."""

    def __init__(self, folder: Path):
        texts, classes = [], []
        for k in range(2):
            with gzip.open(folder / f"dev.{k}.gz", "rt", encoding="utf-8") as file:
                lines = [line.strip() for line in file if line.strip()]
            texts += lines
            classes += [k] * len(lines)
        order = np.random.default_rng(0).permutation(len(texts))
        self.texts, self.classes = [texts[i] for i in order], np.array(classes)[order]

    def part(self, which: slice) -> tuple[list[str], np.ndarray]:
        return self.texts[which], self.classes[which]


class Draw:
    """500 labelled sentences, and some without a label, in an order of their own."""

    def __init__(self, texts: list[str], classes: np.ndarray, seed: int, unlabelled: int):
        random = np.random.default_rng([1, seed])
        order = random.permutation(len(texts))
        self.texts, self.classes = [texts[i] for i in order[:KNOWN]], classes[order[:KNOWN]]
        self.others = [texts[i] for i in order[KNOWN : KNOWN + unlabelled]]


def accuracy(found: Any, classes: np.ndarray) -> float:
    return 100 * float((np.asarray(found) == classes).mean())


def by_words(draw: Draw, texts: list[str], classes: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    """Logistic regression, naive Bayes, and the mixture of bags by EM."""
    words = CountVectorizer(token_pattern=r"\S+", min_df=1).fit(draw.texts + draw.others)
    known, others, test = (csr_matrix(words.transform(part)) for part in (draw.texts, draw.others, texts))
    found = {"logistic regression": LogisticRegression(max_iter=1000).fit(known, draw.classes).predict(test)}
    bayes = MultinomialNB().fit(known, draw.classes)
    found["naive Bayes"] = bayes.predict(test)
    both = vstack([known, others, others])
    twice = np.concatenate([draw.classes, np.zeros(len(draw.others)), np.ones(len(draw.others))])
    for _ in range(20):
        share = bayes.predict_proba(others)
        weight = np.concatenate([np.ones(len(draw.classes)), options.share * share[:, 0], options.share * share[:, 1]])
        bayes = MultinomialNB().fit(both, twice, sample_weight=weight)
    found["mixture of bags"] = bayes.predict(test)
    return {name: accuracy(labels, classes) for name, labels in found.items()}


def judge_of(yelp: Yelp, test: tuple[list[str], np.ndarray]) -> tuple[Callable[[list[str]], np.ndarray], float]:
    """A classifier that was taught all labels, and its test accuracy."""
    texts, classes = yelp.part(slice(0, TRAIN))
    pairs = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2, binary=True)
    taught = LogisticRegression(max_iter=1000, C=0.5).fit(pairs.fit_transform(texts), classes)

    def judge(written: list[str]) -> np.ndarray:
        return taught.predict(pairs.transform(written))

    return judge, accuracy(judge(test[0]), test[1])


def data_of(draw: Draw, options: argparse.Namespace) -> Dataset:
    """The sentences without a label, and the labelled ones `REPEATS` times."""
    texts = draw.others + draw.texts * REPEATS
    data = load(texts, ends=True, min_count=options.min_count, prose=None)
    known, weight = torch.zeros(len(texts), 2), torch.ones(len(texts), dtype=torch.float64)
    labels = torch.as_tensor(draw.classes).repeat(REPEATS)
    known[torch.arange(len(draw.others), len(texts)), labels] = 1
    weight[len(draw.others) :] = 1 / REPEATS
    return replace(data, known={"y": known}, weight=weight)


def classifier_alone(model: SemiSupervisedTextVAE, data: Dataset, options: argparse.Namespace) -> nn.Module:
    """The model's own classifier, taught the labels and nothing else."""
    model.start(data.batch(), torch.Generator().manual_seed(options.seed))
    known = data.subset(slice(len(data) - KNOWN, None)).batch()
    assert isinstance(known.known, dict)
    labels = known.known["y"].argmax(-1)
    learner = torch.optim.Adam(model.classifier.parameters(), lr=options.lr)
    torch.manual_seed(options.seed)
    model.classifier.train()
    for _ in range(options.passes):
        for rows in torch.randperm(KNOWN).split(50):
            logits = model.classifier(known.x[rows].long(), known.observed[rows], known.ends[rows])
            learner.zero_grad()
            nn.functional.cross_entropy(logits, labels[rows]).backward()
            learner.step()
    return model.classifier.eval()


def summed_out(model: Any, batch: Batch) -> Bound:
    """log p(x, y) where the class is known and log p(x) where it is not, of a model whose posterior is exact."""
    terms = model.posterior(batch).log_potentials["node"]
    return Bound(terms.masked_fill(~marked(batch.known["y"]), -torch.inf).logsumexp(-1))  # type: ignore[index, call-overload]


def learn(model: Any, objective: Any, data: Dataset, epochs: int, options: argparse.Namespace, fresh: bool = True):
    how = {"batch_size": options.batch_size, "lr": options.lr, "schedule": "cosine", "clip": 5.0, "progress": False}
    Gradient(objective, epochs=epochs, fresh=fresh, **how).fit(model, data, seed=options.seed)


def sized(options: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    return {
        "symbols": data.schema.levels, "end": data.schema.end, "embedding": options.hidden, "hidden": options.hidden,
        "dropout": options.dropout, "length": 20,
    }  # fmt: skip


def deep(draw: Draw, test: Dataset, classes: np.ndarray, options: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """The semi-supervised VAE, and its classifier alone."""
    route = ("initial", "inputs", "skip")
    model = SemiSupervisedTextVAE(latent=options.latent, route=route, **sized(options, data))
    alone = classifier_alone(model, data, options)
    batch = test.batch()
    with torch.no_grad():
        first = alone(batch.x.long(), batch.observed, batch.ends).argmax(-1)
    found: dict[str, Any] = {"its classifier, 500 alone": accuracy(first, classes)}
    began = time.process_time()
    objective = partial(supervised, alpha=options.alpha)
    learn(model, partial(objective, teacher="labels"), data, options.first, options)
    learn(model, objective, data, options.epochs, options, fresh=False)
    found["seconds"] = time.process_time() - began
    found["semi-supervised VAE"] = accuracy(responsibilities(model, test).argmax(-1), classes)
    print(found, flush=True)
    with torch.no_grad():
        model.eval()
        few = test.subset(slice(0, 1000)).batch()
        by_decoder = model.class_probabilities(few, 20).argmax(-1)
    found["semi-supervised VAE, by its decoder"] = accuracy(by_decoder, classes[:1000])
    found["written"] = {str(t): sentences(model, data, t, options.written) for t in options.temperatures}
    return found


def sentences(model: Any, data: Dataset, temperature: float, count: int) -> list[list[str]]:
    """`count` sentences of each class, as the model draws them or colder: unselected, one seed."""
    found = []
    for k in range(2):
        known = torch.eye(2)[k : k + 1]
        if temperature == 1:
            batch, _ = generate(model, count, known=known, seed=0)
        else:
            batch = written(model, count, Decoding(temperature=temperature), known=known, seed=0)
        found.append([" ".join(text) for text in data.schema.decode(batch.x, None, batch.lengths)])
    return found


def of_language_models(test: Dataset, classes: np.ndarray, options: argparse.Namespace, data: Dataset) -> dict:
    model = MixtureOfLanguageModels(components=2, **sized(options, data))
    began = time.process_time()
    learn(model, summed_out, data, options.first + options.epochs, options)
    share = responsibilities(model, test)
    return {"mixture of language models": accuracy(share.argmax(-1), classes), "seconds": time.process_time() - began}


def judged(found: list[list[str]], judge: Callable[[list[str]], np.ndarray]) -> list[float]:
    """Of how many of the sentences of each class the judge says that they are of it, per cent."""
    return [100 * float((judge(texts) == k).mean()) for k, texts in enumerate(found)]


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--unlabelled", type=int, default=49_500)
    parser.add_argument("--first", type=int, default=2, help="passes in which the labels alone teach the classifier")
    parser.add_argument("--epochs", type=int, default=6, help="passes after these")
    parser.add_argument("--passes", type=int, default=60, help="of the classifier alone, over the 500")
    parser.add_argument("--alpha", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.02, help="weight of a sentence without a label among the bags")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--min_count", type=int, default=5)
    parser.add_argument("--written", type=int, default=500, help="sentences of each class; the first 20 are kept")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true", help="on the part to choose options by; writes nothing")
    parser.add_argument("--no_language_models", action="store_true", help="leave out their mixture")
    parser.add_argument("--out", type=Path, default=RESULTS / "sentiment.json")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(1)
    if not options.data.exists():
        sys.exit(f"{options.data} is not here: give the folder of dev.0.gz and dev.1.gz by --data")
    yelp = Yelp(options.data)
    train = yelp.part(slice(0, TRAIN))
    texts, classes = yelp.part(slice(TRAIN, TRAIN + CHOOSE) if options.validate else slice(TRAIN + CHOOSE, None))
    judge, own = judge_of(yelp, (texts, classes))
    print(f"the judge: {own:.2f} % of {len(texts):,} test sentences", flush=True)
    draws: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for number in range(options.draws):
        draw = Draw(*train, number + VALIDATION_DRAWS * options.validate, options.unlabelled)
        data = data_of(draw, options)
        test = load(texts, schema=data.schema)
        found: dict[str, Any] = by_words(draw, texts, classes, options)
        found |= deep(draw, test, classes, options, data)
        if not options.no_language_models:
            other = of_language_models(test, classes, options, data)
            found |= other | {"seconds": found["seconds"], "seconds of the mixture": other["seconds"]}
        new = found.pop("written")
        found["judged"] = {how: judged(each, judge) for how, each in new.items()}
        found["judged, the first 20"] = {how: judged([part[:20] for part in each], judge) for how, each in new.items()}
        kept = kept or {how: dict(zip(CLASSES, [part[:20] for part in each], strict=True)) for how, each in new.items()}
        print(number, found, flush=True)
        draws.append(found)
        if not options.validate:
            write(options, own, draws, kept, len(texts))
    if options.validate:
        print(json.dumps(kept, indent=1))
    print(table(draws))


def table(draws: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the draws, per cent."""
    lines = ["| | accuracy |", "|---|--:|"]
    for name, value in draws[0].items():
        if isinstance(value, float) and not name.startswith("seconds"):
            each = [draw[name] for draw in draws]
            spread = f" ± {statistics.stdev(each):.2f}" if len(each) > 1 else ""
            lines.append(f"| {name} | {statistics.mean(each):.2f}{spread} |")
    return "\n".join(lines)


def write(options: argparse.Namespace, own: float, draws: list[Any], kept: dict[str, Any], count: int) -> None:
    content = {
        "unit": f"per cent of {count:,} test sentences, or of those written; a figure for each draw of the 500 labels",
        "judge": own,
        "draws": draws,
        "written": kept,
        "options": {name: str(value) for name, value in vars(options).items() if name not in ("data", "out")},
        "environment": environment(),
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
