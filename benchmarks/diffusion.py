"""Diffusion priors and masked diffusion: bounds and draws beside a VAE's, a language model's and a text VAE's.

    python benchmarks/diffusion.py mnist                       a VAE's normal prior against a diffusion over its codes
    python benchmarks/diffusion.py text                        captions: bounds, and what draws are like
    python benchmarks/diffusion.py text --corpus stories       the same of five-sentence stories
    python benchmarks/diffusion.py sentiment                   classes of draws under guidance
    python benchmarks/diffusion.py speed                       draws a second by steps; a step beside a loop by hand

MNIST is in the fixed binarization of Larochelle and Murray. Bounds are of test images, by the same draws of the same
posterior for both priors, and their difference is paired, image by image; log p(x) of the base, by importance sampling,
is beside them, as no bound of a diffusion can be made tighter that way. A picture shows sixty unselected draws
of each prior, the normal one on top.

Text: all rows learn from the same sentences, and are measured on test sentences with the end counted: log p(x) exactly
(language model), by importance sampling (text VAE), or its lower bound. 500 draws of each row, and as many test
sentences: perplexity under a transformer that has learned from other sentences (the rows are an LSTM, one with z, a
masked transformer and diffusions over z), distinct n-grams (different / all, n = 1..4), self-BLEU, and the share of
their 4-grams that the training sentences have, which is memorisation. Fifty draws of each are in the JSON. There are
two bases for a diffusion: a text VAE of one vector with free bits, and one whose z is told by the queries of a
resampler, with so little weight on the KL (--beta) that sentences can be told again: an autoencoder, as Lovelace et al.
(2023) have, of which the normal prior knows little.

Sentiment: Yelp sentences of two classes; a logistic regression on words and pairs of them, fitted to other sentences,
says which class draws in a class's context have, and how often it is right itself. Every row is saved as soon as it is
done.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentia.batch import Batch
from latentia.data import Dataset, as_dataset, load
from latentia.data.grids import sheet
from latentia.distributions.diffusion import Sampling
from latentia.distributions.masked import Showing
from latentia.evaluate import evaluate
from latentia.learners import Gradient
from latentia.measure.marginal import bounded_marginal
from latentia.model import LatentVariableModel
from latentia.models import VAE, LanguageModel, LatentDiffusion, MaskedDiffusion, TextVAE
from latentia.objectives import elbo, exact
from latentia.tasks import generate

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1].parent / "shared" / "data"
WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")
DRAWS, SHOWN = 500, 50
AUTOENCODER = "text VAE, by vectors"


def learner(objective: Callable[..., Any], options: argparse.Namespace, epochs: int, **more: Any) -> Gradient:
    settings: dict[str, Any] = {"batch_size": options.batch_size, "lr": options.lr, "schedule": "cosine", "clip": 5.0}
    return Gradient(objective, epochs=epochs, progress=False, patience=None, **settings, **more)


def fitted(model: LatentVariableModel, one: Gradient, train: Any, validation: Any, seed: int) -> float:
    """Fit the model; CPU seconds."""
    began = time.process_time()
    one.fit(model, train, validation=validation, seed=seed)
    return time.process_time() - began


def save(options: argparse.Namespace, result: dict[str, Any]) -> None:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


# ----------------------------------------------------------------------------------------------------------- images


def images(options: argparse.Namespace) -> tuple[Dataset, Dataset, Dataset]:
    from scipy.io import loadmat

    folder = Path(options.data or DATA / "binarized_mnist")
    parts = [loadmat(folder / f"binarized_mnist_{part}.mat")["X"] for part in ("train", "valid", "test")]
    whole = [torch.from_numpy(part).float().reshape(-1, 28, 28) for part in parts]
    train, validation, test = whole[0][: options.train], whole[1][:1000], whole[2]
    some = torch.linspace(0, len(test) - 1, min(options.test, len(test))).long()  # like digits are together in the file
    return as_dataset(Batch(train)), as_dataset(Batch(validation)), as_dataset(Batch(test[some]))


@torch.no_grad()
def bound_of(model: LatentVariableModel, test: Dataset, options: argparse.Namespace) -> Tensor:
    """The bound of each test image, by draws that both priors share."""
    return bounded_marginal(model, test, draws=options.draws, seed=options.seed, progress=False).value


def mnist(options: argparse.Namespace) -> None:
    train, validation, test = images(options)
    base = VAE((28, 28), latent=options.latent, hidden=(400, 400), activation="relu")
    seconds = {"VAE": fitted(base, learner(elbo, options, options.epochs), train, validation, options.seed)}
    base.eval()
    before = bound_of(base, test, options)
    found = evaluate(base, test, importance_samples=options.importance_samples)
    rows: dict[str, Any] = {"normal prior": {"bound": float(before.mean()), "importance": found.log_marginal}}
    rows["normal prior"] |= {"kl": found.kl, "importance_se": found.log_marginal_se}
    pictures = [generate(base, 60, seed=1, mean=True)[0].x]
    for name, joint in (("diffusion prior", False), ("both together", True))[: 1 + options.joint]:
        torch.manual_seed(options.seed)
        model = LatentDiffusion(base, hidden=options.hidden, layers=3, steps=200, joint=joint)
        seconds[name] = fitted(model, learner(elbo, options, options.diffusion_epochs), train, validation, options.seed)
        model.eval()
        after = bound_of(model, test, options)
        gain = after - before
        rows[name] = {"bound": float(after.mean()), "gain": float(gain.mean())}
        rows[name]["gain_se"] = float(gain.std()) / math.sqrt(len(gain))
        pictures.append(generate(model, 60, seed=1, mean=True)[0].x)
        save(options, {"options": _plain(options), "rows": rows, "seconds": seconds})
        print(name, rows[name], flush=True)
    grid = torch.stack([part.view(5, 12, 28, 28) for part in pictures]).flatten(0, 1).clamp(0, 1)
    options.out.with_suffix(".png").write_bytes(sheet(grid.unsqueeze(-1).double().numpy()))
    print(f"nats per image, {len(test):,} test images; {rows}; CPU seconds {seconds}")


# ------------------------------------------------------------------------------------------------------------- text


def sentences(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [" ".join(WORD.findall(line.lower())) for line in file if line.strip()]


def corpus(options: argparse.Namespace) -> tuple[list[str], list[str], list[str], list[str]]:
    """What is learned from, the epoch is chosen by, is tested on, and what the judge learns from."""
    if options.corpus == "captions":
        folder = Path(options.data or DATA / "multi30k" / "captions")
        names = ("train.1", "val.1", "test_2016.1", "train.2")
        train, validation, test, other = (sentences(folder / f"{name}.en.gz") for name in names)
        return train[: options.train], validation, test[: options.test], other[: options.train]
    path = Path(options.data or DATA / "rocstories") / "roc_valid.json"
    lines = path.read_text("utf-8").splitlines()
    stories = [" ".join(WORD.findall(json.loads(line)[0].lower())) for line in lines]
    cut = [int(share * len(stories)) for share in (0.6, 0.65, 0.75)]
    return stories[: cut[0]][: options.train], stories[cut[0] : cut[1]], stories[cut[1] : cut[2]], stories[cut[2] :]


def grams(rows: list[tuple[int, ...]], n: int) -> Iterator[tuple[int, ...]]:
    return (row[i : i + n] for row in rows for i in range(len(row) - n + 1))


def self_bleu(rows: list[tuple[int, ...]]) -> float:
    """BLEU-4 of each text with all others as its references, on average, in percent; an n of which nothing matches
    counts half a match. There is a reference of nearly every length, so that there is no brevity penalty."""
    logs = torch.zeros(len(rows), dtype=torch.float64)
    for n in range(1, 5):
        counts = [Counter(grams([row], n)) for row in rows]
        most: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for i, counter in enumerate(counts):
            for gram, count in counter.items():
                most[gram] = sorted([*most.get(gram, []), (count, i)], reverse=True)[:2]
        for i, counter in enumerate(counts):
            others = {gram: next((c for c, j in most[gram] if j != i), 0) for gram in counter}
            found = sum(min(count, others[gram]) for gram, count in counter.items())
            logs[i] += math.log(max(found, 0.5) / max(counter.total(), 1)) / 4
    return 100 * float(logs.exp().mean())


def symbols(batch: Batch, end: int) -> list[tuple[int, ...]]:
    """The symbols of each text before its end."""
    return [
        tuple(v for v in row[:length].tolist() if v != end) for row, length in zip(batch.x, batch.ends, strict=True)
    ]


@torch.no_grad()
def perplexity(judge: LanguageModel, batch: Batch) -> float:
    judge.eval()
    total = sum(float(judge.posterior(part).log_partition.sum()) for part in _parts(batch))
    return math.exp(-total / float(batch.ends.sum()))


def _parts(batch: Batch) -> Iterator[Batch]:
    return (batch.select(slice(i, i + 100)).cut() for i in range(0, batch.size, 100))


def likeness(batch: Batch, judge: LanguageModel, known: set[tuple[int, ...]], end: int) -> dict[str, float]:
    """What texts are like."""
    rows = symbols(batch, end)
    distinct = [len(set(grams(rows, n))) / max(sum(1 for _ in grams(rows, n)), 1) for n in range(1, 5)]
    fours = list(grams(rows, 4))
    return {
        "judged": perplexity(judge, batch),
        **{f"distinct_{n + 1}": value for n, value in enumerate(distinct)},
        "self_bleu": self_bleu(rows),
        "memorised": sum(gram in known for gram in fours) / max(len(fours), 1),
        "words": sum(map(len, rows)) / len(rows),
    }


def models(options: argparse.Namespace, train: Dataset) -> dict[str, tuple[Callable[..., Any], Gradient]]:
    """The rows: how to make each (a diffusion from the text VAE before it), and how it learns."""
    size: dict[str, Any] = {"symbols": train.schema.levels, "end": train.schema.end, "length": options.max_length}
    lstm = {**size, "embedding": options.embedding, "hidden": options.hidden, "dropout": 0.3}
    masked = {**lstm, "dropout": 0.1, "layers": options.layers}
    route, free = ("initial", "inputs", "skip"), partial(elbo, free_bits=options.free_bits)
    told = {"latent": options.wide_latent, "vectors": options.vectors, "route": ("initial", "attention", "skip")}

    def upon(base: Any) -> LatentDiffusion:
        return LatentDiffusion(base, hidden=4 * options.hidden, layers=3, self_conditioned=True, steps=100)

    return {
        "language model": (lambda _: LanguageModel(**lstm), learner(exact, options, options.epochs)),
        "text VAE": (
            lambda _: TextVAE(latent=options.latent, route=route, **lstm),
            learner(free, options, options.epochs, anneal="linear", anneal_share=0.3),
        ),
        "latent diffusion": (upon, learner(elbo, options, options.diffusion_epochs)),
        AUTOENCODER: (
            lambda _: TextVAE(**told, **{**lstm, "dropout": 0.1}),
            learner(partial(elbo, beta=options.beta), options, options.epochs),
        ),
        "latent diffusion, by vectors": (upon, learner(elbo, options, options.diffusion_epochs)),
        "masked diffusion": (lambda _: MaskedDiffusion(**masked), learner(elbo, options, options.masked_epochs)),
    }


def measured(model: LatentVariableModel, test: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    found = evaluate(model, test, importance_samples=options.importance_samples, seed=options.seed)
    names = ("log_marginal", "log_marginal_se", "log_marginal_mc_se", "elbo", "kl", "perplexity", "method")
    return {name: getattr(found, name) for name in names}


def text(options: argparse.Namespace) -> None:
    texts = corpus(options)
    train = load(texts[0], ends=True, min_count=options.min_count, max_length=options.max_length)
    validation, test, other = (load(part, schema=train.schema) for part in texts[1:])
    end = int(train.schema.end)  # type: ignore[arg-type]  # of `ends=True` there is one
    size: dict[str, Any] = {"symbols": train.schema.levels, "end": end, "network": "transformer", "layers": 2}
    judge = LanguageModel(**size, embedding=options.embedding, hidden=options.hidden, dropout=0.1)
    fitted(judge, learner(exact, options, options.epochs), other, validation, options.seed + 1)
    known = set(grams(symbols(train.batch(), end), 4))
    real = test.batch().select(slice(0, options.samples))
    rows: dict[str, Any] = {"data": likeness(real, judge, known, end)}
    base: Any = None
    for name, (make, one) in models(options, train).items():
        torch.manual_seed(options.seed)
        model = make(base)
        seconds = fitted(model, one, train, validation, options.seed)
        model.eval()
        base = model if name in ("text VAE", AUTOENCODER) else base
        drawn = generate(model, options.samples, seed=options.seed)[0]
        rows[name] = {**measured(model, test, options), **likeness(drawn, judge, known, end), "seconds": seconds}
        rows[name]["texts"] = _shown(train, drawn)
        save(options, {"options": _plain(options), "rows": rows})
        print(name, {key: value for key, value in rows[name].items() if key != "texts"}, flush=True)
    print(table(rows))


def _shown(train: Dataset, batch: Batch) -> list[str]:
    some = batch.select(slice(0, SHOWN))
    return [" ".join(words) for words in train.schema.decode(some.x, None, some.ends)]


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| | log p(x) | how | perplexity | judged | distinct 1-4 | self-BLEU | 4-grams of training | words | CPU s |",
        "|---|--:|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        value = f"{row['log_marginal']:.2f} ± {row['log_marginal_se']:.2f}" if "method" in row else ""
        least = "≥ " if row.get("method") == "bound" else ""
        each = f"{row['perplexity']:.1f}" if row.get("perplexity") else ""
        distinct = " ".join(f"{row[f'distinct_{n}']:.2f}" for n in range(1, 5))
        lines.append(
            f"| {name} | {least}{value} | {row.get('method', '')} | {each} | {row['judged']:.1f} | {distinct} | "
            f"{row['self_bleu']:.1f} | {row['memorised']:.1%} | {row['words']:.1f} | {row.get('seconds', 0):.0f} |"
        )
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------------- sentiment


def sentiment(options: argparse.Namespace) -> None:
    folder = Path(options.data or DATA / "yelp_sentiment")
    whole = [sentences(folder / f"dev.{label}.gz") for label in (0, 1)]
    halves = [[part[: options.train][i::2] for part in whole] for i in (0, 1)]
    said = classifier(*halves[1])
    others = [part[options.train :][: options.train] for part in whole]
    rows: dict[str, Any] = {"the judge, of other sentences": share([said(part) == i for i, part in enumerate(others)])}
    texts = [one for part in halves[0] for one in part]
    data = load(texts, ends=True, min_count=options.min_count, max_length=options.max_length)
    classes = torch.cat([torch.full((len(part), 1), float(label)) for label, part in enumerate(halves[0])])
    batch = data.batch()._replace(context=Batch(classes))
    size: dict[str, Any] = {"symbols": data.schema.levels, "end": data.schema.end, "length": options.max_length}
    wide = {"embedding": options.embedding, "hidden": options.hidden}
    base = TextVAE(latent=options.latent, route=("initial", "inputs", "skip"), **wide, **size)
    free = partial(elbo, free_bits=options.free_bits)
    fitted(base, learner(free, options, options.epochs), batch._replace(context=None), None, options.seed)
    upon = LatentDiffusion(base, 2 * options.hidden, 3, context=(2,), drop_context=0.15)
    one = MaskedDiffusion(**size, **wide, layers=options.layers, context=(2,), drop_context=0.15)
    model: Any
    for name, model, epochs in (("latent", upon, options.diffusion_epochs), ("masked", one, options.masked_epochs)):
        fitted(model, learner(elbo, options, epochs), batch, None, options.seed)
        model.eval()
        for guidance in (0.0, 1.0, 2.0, 4.0):
            model.sampling = Sampling(100, guidance=guidance) if model is upon else Showing(guidance=guidance)
            rows[f"{name}, guidance {guidance:g}"] = accuracy(model, data, said, options)
            save(options, {"options": _plain(options), "rows": rows})
            print(f"{name}, guidance {guidance:g}", rows[f"{name}, guidance {guidance:g}"], flush=True)


def classifier(negative: list[str], positive: list[str]) -> Callable[[list[str]], Tensor]:
    """Which class a text is of."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    count = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, token_pattern=r"\S+")
    found = make_pipeline(count, LogisticRegression(max_iter=500))
    found.fit([*negative, *positive], [0] * len(negative) + [1] * len(positive))
    return lambda texts: torch.from_numpy(found.predict(texts))


def accuracy(model: Any, data: Dataset, said: Callable, options: argparse.Namespace) -> dict[str, float]:
    right = []
    for label in (0, 1):
        asked = Batch(torch.full((1, 1), float(label)))
        drawn = generate(model, options.samples // 2, context=asked, seed=options.seed)[0]
        texts = [" ".join(words) for words in data.schema.decode(drawn.x, None, drawn.ends)]
        right.append(said(texts) == label)
    return share(right)


def share(right: list[Tensor]) -> dict[str, float]:
    every = torch.cat(right).double()
    return {"accuracy": float(every.mean()), "se": float(every.std()) / math.sqrt(len(every))}


# ------------------------------------------------------------------------------------------------------------ speed


def speed(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    base = VAE((28, 28), latent=20, hidden=(400, 400))
    priors, masked = LatentDiffusion(base, hidden=512), MaskedDiffusion(5000, 4999, length=32, hidden=128)
    rates: dict[str, float] = {}
    for steps in (10, 50, 100, 250):
        priors.sampling, masked.sampling = Sampling(steps), Showing(steps)
        for name, model, count in (("latent", priors, 500), ("masked", masked, 32)):
            began = time.perf_counter()
            generate(model, count)
            rates[f"{name}, {steps} steps"] = count / (time.perf_counter() - began)
    x = torch.randint(4999, (20 * options.batch_size, 31), generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, torch.full((len(x), 1), 4999)], 1)
    ours, by_hand = [], []
    for _ in range(options.repeats):  # in turn, so that what else the machine does is shared
        by_hand.append(loop_by_hand(MaskedDiffusion(5000, 4999, length=32), x, options))
        began, model = time.perf_counter(), MaskedDiffusion(5000, 4999, length=32)
        learner(elbo, options, 1).fit(model, as_dataset(Batch(x, lengths=torch.full((len(x),), 32))))
        ours.append(time.perf_counter() - began)
    result = {"draws_a_second": rates, "fit": min(ours), "loop": min(by_hand), "ratio": min(by_hand) / min(ours)}
    save(options, {"options": _plain(options), **result})
    print(json.dumps(result, indent=1))


def loop_by_hand(model: MaskedDiffusion, x: Tensor, options: argparse.Namespace) -> float:
    """An epoch of the same network by the formula of MDLM as it is usually written: a time for each text, symbols
    hidden with that probability, cross-entropy of all steps, divided by the time."""
    optimizer = torch.optim.Adam(model.parameters(), options.lr)
    network, began = model.network, time.perf_counter()
    inside = torch.ones(options.batch_size, x.shape[1], dtype=torch.bool)
    every = torch.arange(inside.numel())
    for part in x[torch.randperm(len(x))].split(options.batch_size):
        t = torch.rand(len(part), 1).clamp(min=1e-3)
        hidden = torch.rand(part.shape) < t
        features = network(part, hidden, inside, None, every)
        logits = features @ network.embedding.weight.T + network.bias
        terms = torch.nn.functional.cross_entropy(logits, part.flatten(), reduction="none").view(part.shape)
        loss = (terms * hidden / t).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return time.perf_counter() - began


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if isinstance(value, int | float | str)}


PARTS = {"mnist": mnist, "text": text, "sentiment": sentiment, "speed": speed}
DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": {"epochs": 60, "diffusion_epochs": 60, "hidden": 512, "latent": 20, "test": 10_000, "batch_size": 200},
    "text": {"epochs": 10, "diffusion_epochs": 30, "masked_epochs": 30, "hidden": 128, "latent": 32, "test": 1000},
    "sentiment": {"epochs": 6, "diffusion_epochs": 20, "masked_epochs": 15, "max_length": 24},
    "speed": {},
}


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--data", help="folder of the data; ../shared/data/... if left out")
    parser.add_argument("--corpus", choices=("captions", "stories"), default="captions")
    parser.add_argument("--train", type=int, help="data to learn from; all if left out")
    for name, value in (
        ("test", 1000), ("epochs", 10), ("diffusion_epochs", 30), ("masked_epochs", 30), ("batch_size", 64),
        ("latent", 32), ("embedding", 128), ("hidden", 128), ("layers", 3), ("min_count", 3), ("max_length", 0),
        ("importance_samples", 200), ("draws", 20), ("samples", DRAWS), ("seed", 0), ("repeats", 3), ("joint", 1),
        ("wide_latent", 128), ("vectors", 8),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--free_bits", type=float, default=0.5)
    parser.add_argument("--beta", type=float, default=0.1, help="weight of the KL of the text VAE by vectors")
    parser.add_argument("--out", type=Path, help="JSON file; benchmarks/results/diffusion_PART.json if left out")
    first, _ = parser.parse_known_args(given)
    parser.set_defaults(**DEFAULTS[first.part])
    options = parser.parse_args(given)
    options.max_length = options.max_length or (72 if options.corpus == "stories" else 32)
    of = f"text_{options.corpus}" if options.part == "text" else options.part
    options.out = options.out or RESULTS / f"diffusion_{of}.json"
    return options


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(1)
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
