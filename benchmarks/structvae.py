"""ATIS with 500 labelled questions: exact match of logical forms, of parsers taught by the labels alone and by all
questions.

    python benchmarks/structvae.py --rows supervised StructVAE JSA      some of the rows; what is saved is kept

4,434 / 491 / 448 questions with their lambda-calculus forms, entities by number (Dong and Lapata's), of which a random
500 keep their form. Rows: supervised on those; self-training, on those and on the forms that the first parser's search
finds for all others; StructVAE, by the score function over the best trees, against the source language model's line;
`centred`, the same against the mean of the trees that the search found, so that a question of which all trees are poor
makes none of them less probable than the rest; JSA, by a Markov chain a sentence; supervised on all. `longer` is
supervised on the 500, for as many steps more as StructVAE has. The grammar is that which the labelled forms imply, with
the words of all questions: it has no form for some of the test's, which then count as wrong (`outside`). Each row keeps
the epoch with the best exact match on the development part. All but the first and the last begin at the supervised
parser, which the same seed has taught.

Reported: exact match on the test part, in the order that the forms are written in, of the best form of a beam search of
width 5, with its gain over the supervised row of the same call, question by question; and beside it with the arguments
of "and" and "or" in any order. Of StructVAE the learning signals of right and wrong trees of questions that have none,
before and after, and a picture of them, of the last seed. Published (Yin et al. 2018, table 2; memory): supervised
63.2, self-training 65.2, StructVAE 66.0, supervised on all 85.3. Result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia import gradients
from latentia.batch import Batch
from latentia.data import as_dataset
from latentia.distributions.forms import Form, read_form
from latentia.distributions.grammar import Grammar, induce
from latentia.errors import DataError
from latentia.learners import Gradient
from latentia.model import in_evaluation
from latentia.models import StructVAE
from latentia.objectives import Chains, joint_stochastic, semi_supervised
from latentia.runs.directory import environment

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "atis_structvae"
RESULTS = Path(__file__).parent / "results"
ROWS = ("supervised", "longer", "self-training", "StructVAE", "centred", "JSA", "all")
PUBLISHED = {"supervised": 63.2, "self-training": 65.2, "StructVAE": 66.0, "all": 85.3}
WIDTH = 5
EDGES = tuple(range(-60, 31, 3))
ACTIONS, LENGTH = 64, 50
Pair = tuple[str, Form]


def read(folder: Path, part: str) -> list[Pair]:
    path = folder / f"{part}.txt"
    lines = enumerate(path.read_text().splitlines(), 1)
    pairs = [(line.split("\t"), f"{path.name}, line {number}") for number, line in lines]
    return [(x, read_form(z, place)) for (x, z), place in pairs]


@dataclass
class Task:
    """What a row learns from."""

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]
    labelled: list[int]
    words: list[str]
    grammar: Grammar

    @classmethod
    def of(cls, folder: Path, count: int | None, seed: int) -> Task:
        train = read(folder, "train")
        order = random.Random(seed).sample(range(len(train)), len(train))
        counts = Counter(word for x, _ in train for word in x.split())
        words = ["<unk>", *sorted(word for word, count in counts.items() if count > 1), "</s>"]
        labelled = order[:count]
        grammar = induce([train[i][1] for i in labelled], words)
        return cls(train, read(folder, "dev"), read(folder, "test"), labelled, words, grammar)

    def model(self, options: argparse.Namespace) -> StructVAE:
        given = {"hidden": options.hidden, "dropout": options.dropout, "actions": ACTIONS, "length": LENGTH}
        end = len(self.words) - 1
        return StructVAE(end + 1, self.grammar.text, end, self.grammar.copies(self.words), **given)

    def sentences(self, pairs: Sequence[Pair]) -> Batch:
        number = {word: i for i, word in enumerate(self.words)}
        rows = [[*(number.get(word, 0) for word in x.split()), len(number) - 1] for x, _ in pairs]
        x = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, symbols in zip(x, rows, strict=True):
            row[: len(symbols)] = torch.tensor(symbols)
        return Batch(x, lengths=torch.tensor([len(row) for row in rows]))

    def known(self, forms: Sequence[Form | None]) -> Tensor:
        """Forms one-hot, zeros for None and for what the grammar does not have."""
        z = torch.zeros(len(forms), ACTIONS, len(self.grammar.actions), dtype=torch.bool)
        for row, form in zip(z, forms, strict=True):
            actions = [] if form is None else encoded(self.grammar, form)
            row[torch.arange(len(actions)), actions] = True
        return z


def encoded(grammar: Grammar, form: Form) -> list[int]:
    try:
        actions = grammar.encode(form)
    except DataError:
        return []
    return actions if len(actions) <= ACTIONS else []


def unordered(form: Form) -> Form:
    parts = [unordered(part) for part in form.parts]
    return Form(form.head, tuple(sorted(parts) if form.head in ("and", "or") else parts))


@in_evaluation
@torch.no_grad()
def parsed(model: StructVAE, sentences: Batch, width: int = WIDTH) -> list[Form]:
    found: list[Any] = [None] * sentences.size
    for index in sentences.ends.argsort().split(128):
        best = model.posterior(sentences.select(index).cut()).beam(width)[0][0]
        for i, z in zip(index.tolist(), best, strict=True):
            found[i] = model.form(z)
    return found


def match(found: Sequence[Form], pairs: Sequence[Pair]) -> list[bool]:
    return [form == truth for form, (_, truth) in zip(found, pairs, strict=True)]


class Done(Exception):
    """The minutes of a row are over."""


class Watch:
    """Exact match on the development part by a greedy search, every few epochs; the best parameters."""

    def __init__(self, model: StructVAE, task: Task, minutes: float, every: int):
        self.model, self.task, self.every = model, task, every
        self.until, self.epochs, self.best, self.state = time.process_time() + 60 * minutes, 0, -1.0, {}
        self.sentences = task.sentences(task.dev)
        self.course: list[tuple[int, float]] = []
        self.look()

    def __call__(self, record: Any) -> None:
        self.epochs += 1
        if self.epochs % self.every == 0:
            self.look()
        if time.process_time() > self.until:
            raise Done

    def look(self) -> None:
        right = match(parsed(self.model, self.sentences, 1), self.task.dev)
        value = 100 * sum(right) / len(right)
        self.course.append((self.epochs, value))
        if value >= self.best:
            self.best, self.state = value, deepcopy(self.model.state_dict())


def learned(
    task: Task, batch: Batch, objective: Any, options: argparse.Namespace, model: StructVAE | None = None, seed: int = 0
) -> tuple[StructVAE, dict[str, Any]]:
    fresh = model is None
    model = task.model(options) if model is None else deepcopy(model)
    began = time.process_time()
    epochs, lr = (options.epochs, options.lr) if fresh else (options.more, options.lr / 2)
    watch = Watch(model, task, options.minutes, options.every if fresh else 1)
    learner = Gradient(
        objective, epochs=epochs, batch_size=options.batch_size, lr=lr, fresh=fresh, clip=5.0, pool=8,
        progress=False,
    )  # fmt: skip
    try:
        learner.fit(model, as_dataset(batch), seed=seed, callbacks=[watch])
        watch.look()
    except Done:
        pass
    model.load_state_dict(watch.state)
    minutes = round((time.process_time() - began) / 60, 2)
    return model, {"dev": watch.best, "course": watch.course, "epochs": watch.epochs, "cpu_minutes": minutes}


def with_forms(task: Task, forms: dict[int, Form], repeats: int, alone: Sequence[int] = ()) -> Batch:
    """Questions with their forms, so often, and questions alone."""
    rows = [i for i in forms if encoded(task.grammar, forms[i])] * repeats
    batch = task.sentences([task.train[i] for i in [*rows, *alone]])
    return batch._replace(known=task.known([*(forms[i] for i in rows), *[None] * len(alone)]))


@in_evaluation
@torch.no_grad()
def signals(model: StructVAE, task: Task, rows: Sequence[int], beta: float, estimator: Any) -> dict[str, Any]:
    """Learning signals of the trees of a search that are right and that are wrong, their means and how many lie between
    `EDGES`, in nats: log p(x | z) + beta (log p(z) - log q(z | x)), and less the source language model's line; of
    questions for which both are found, how often the right one has the highest."""
    pairs = [task.train[i] for i in rows]
    truth = task.known([form for _, form in pairs]).float()
    sums: dict[str, list[float]] = {"right": [], "wrong": [], "right_less_line": [], "wrong_less_line": []}
    wins, both, pairwise = 0, 0, []
    for index in torch.arange(len(pairs)).split(128):
        batch = task.sentences(pairs).select(index).cut()
        q = model.posterior(batch)
        z, found = q.beam(WIDTH)
        fit, kl = model.log_likelihood(batch, z), found - model.prior(batch.frame).log_prob(z)
        columns = torch.stack([fit, kl], -1)
        line = torch.zeros_like(columns)
        if estimator.score is not None:
            line = estimator.score.baseline(gradients.OfDraw(q, lambda drawn: drawn.log_q, batch), columns)
        signal = fit - beta * kl
        less = signal - (line[..., 0] - beta * line[..., 1])
        right, there = (z == truth[index]).flatten(2).all(-1), found > -torch.inf
        for name, which in (("right", right & there), ("wrong", ~right & there)):
            sums[name] += signal[which].tolist()
            sums[f"{name}_less_line"] += less[which].tolist()
        for b in range(len(index)):
            if right[:, b].any() and (~right & there)[:, b].any():
                both += 1
                good, bad = float(signal[right[:, b], b][0]), signal[(~right & there)[:, b], b]
                wins += bool((good > bad).all())
                pairwise += [float(good > one) for one in bad.tolist()]
    means = {name: sum(values) / max(len(values), 1) for name, values in sums.items()}
    counts = {"right_trees": len(sums["right"]), "wrong_trees": len(sums["wrong"]), "questions_with_both": both}
    shares = {
        "right_has_the_highest": wins / max(both, 1),
        "right_above_a_wrong": sum(pairwise) / max(len(pairwise), 1),
    }
    histograms = {name: histogram(values) for name, values in sums.items()}
    return {**means, **counts, **shares, "histograms": histograms}


def histogram(values: Sequence[float]) -> list[int]:
    """How many values lie between two neighbours of `EDGES`; those beyond count with the outermost."""
    return np.histogram(np.clip(values, EDGES[0], EDGES[-1]), EDGES)[0].tolist()


def draw(told: dict[str, Any], path: Path) -> None:
    """The learning signals of a seed's right and wrong trees, before, and after as found and less the line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (("before", ""), ("after", ""), ("after", "_less_line"))  # before, there is no line yet
    figure, axes = pyplot.subplots(1, len(panels), figsize=(12, 3.4), constrained_layout=True)
    for axis, (when, line) in zip(axes, panels, strict=True):
        found = told[f"signals_{when}"]["histograms"]
        for name, colour in (("right", "tab:blue"), ("wrong", "tab:orange")):
            counts = found[name + line]
            shares = [count / max(sum(counts), 1) for count in counts]
            axis.stairs(shares, EDGES, fill=True, alpha=0.5, color=colour, label=f"{name} ({sum(counts)})")
        axis.set_title(f"{when} learning from sentences" + (", less the line" if line else ""), fontsize=10)
        axis.set_xlabel("learning signal, nats")
        axis.legend(frameon=False)
    axes[0].set_ylabel("share of the trees")
    figure.savefig(path, dpi=90)


def rows_of(options: argparse.Namespace, seed: int, save: Any) -> None:
    task = Task.of(options.data, options.labelled, seed)
    forms = {i: task.train[i][1] for i in task.labelled}
    alone = [i for i in range(len(task.train)) if i not in forms]
    alone = alone if options.unlabelled is None else alone[: options.unlabelled]
    known = partial(semi_supervised, samples=WIDTH)
    first, told = learned(task, with_forms(task, forms, 1), known, options, seed=seed)
    if "supervised" in options.rows:
        save("supervised", first, task, told)
    if "longer" in options.rows:
        steps = (len(alone) + options.repeats * len(forms)) / len(forms)
        batch = with_forms(task, forms, max(round(steps), 1))
        save("longer", *_swapped(task, learned(task, batch, known, options, first, seed)))
    for row in [row for row in ("StructVAE", "centred") if row in options.rows]:
        estimator = gradients.Searched(gradients.SourceLanguageModel() if row == "StructVAE" else None)
        objective = partial(
            semi_supervised, unlabelled=options.weight, samples=WIDTH, beta=options.beta, estimator=estimator
        )
        before = signals(first, task, alone[:500], options.beta, gradients.Searched())
        batch = with_forms(task, forms, options.repeats, alone)
        model, told = learned(task, batch, objective, options, first, seed)
        after = signals(model, task, alone[:500], options.beta, estimator)
        save(row, model, task, {**told, "signals_before": before, "signals_after": after})
    if "JSA" in options.rows:
        objective = partial(joint_stochastic, unlabelled=options.jsa_weight, samples=2, chains=Chains())
        batch = with_forms(task, forms, options.repeats, alone)
        save("JSA", *_swapped(task, learned(task, batch, objective, options, first, seed)))
    if "self-training" in options.rows:
        guessed = parsed(first, task.sentences([task.train[i] for i in alone]))
        batch = with_forms(task, {**forms, **dict(zip(alone, guessed, strict=True))}, 1)
        more = with_forms(task, forms, options.repeats - 1) if options.repeats > 1 else None
        batch = batch if more is None else _joined(batch, more)
        save("self-training", *_swapped(task, learned(task, batch, known, options, first, seed)))
    if "all" in options.rows:
        whole = Task.of(options.data, None, seed)
        batch = with_forms(whole, {i: form for i, (_, form) in enumerate(whole.train)}, 1)
        few = argparse.Namespace(**{**vars(options), "epochs": options.all_epochs, "every": 2})
        save("all", *_swapped(whole, learned(whole, batch, known, few, seed=seed)))


def paired(right: list[bool], base: list[bool]) -> dict[str, float]:
    """By how much more is right, question by question, in per cent, and the standard error."""
    gains = [100.0 * (one - other) for one, other in zip(right, base, strict=True)]
    return {"gain": statistics.mean(gains), "gain_se": statistics.stdev(gains) / len(gains) ** 0.5}


def _swapped(task: Task, found: tuple[StructVAE, dict[str, Any]]) -> tuple[StructVAE, Task, dict[str, Any]]:
    return found[0], task, found[1]


def _joined(one: Batch, other: Batch) -> Batch:
    wide = max(one.x.shape[1], other.x.shape[1])
    x = torch.cat([torch.nn.functional.pad(part.x, (0, wide - part.x.shape[1])) for part in (one, other)])
    known: Any = torch.cat([one.known, other.known])  # type: ignore[list-item]  # tensors both
    return Batch(x, lengths=torch.cat([one.ends, other.ends]), known=known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--labelled", type=int, default=500)
    parser.add_argument("--unlabelled", type=int, default=None, help="questions alone, at most")
    parser.add_argument("--epochs", type=int, default=60, help="on the labelled ones")
    parser.add_argument("--more", type=int, default=10, help="on all, from the supervised parser")
    parser.add_argument("--all_epochs", type=int, default=20, help="of the row that has all labels")
    parser.add_argument("--every", type=int, default=5, help="epochs from one look at the development part to the next")
    parser.add_argument("--minutes", type=float, default=12.0, help="of one core, a row at most")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--repeats", type=int, default=3, help="how often a pass over all meets a labelled one")
    parser.add_argument("--weight", type=float, default=0.1, help="of the ELBO of a question alone")
    parser.add_argument("--jsa_weight", type=float, default=0.1)
    parser.add_argument("--beta", type=float, default=0.1, help="of the KL in the learning signal")
    parser.add_argument("--name", default="structvae", help="of the result")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not here: name the folder of ATIS with --data")
    path = RESULTS / f"{options.name}.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    rights: dict[tuple[str, int], list[bool]] = {}

    for seed in options.seeds:

        def save(row: str, model: StructVAE, task: Task, told: dict[str, Any], seed: int = seed) -> None:
            found = parsed(model, task.sentences(task.test))
            right = match(found, task.test)
            loose = [unordered(form) == unordered(truth) for form, (_, truth) in zip(found, task.test, strict=True)]
            outside = sum(not encoded(task.grammar, truth) for _, truth in task.test)
            told = {"test": 100 * sum(right) / len(right), "any_order": 100 * sum(loose) / len(loose), **told}
            told |= {"outside": outside}
            rights[row, seed] = right
            if (base := rights.get(("supervised", seed))) is not None and row != "supervised":
                told |= paired(right, base)
            results.setdefault(row, {})[str(seed)] = told
            figures = {name: value for name, value in told.items() if not isinstance(value, list | dict)}
            print(row, seed, figures, flush=True)
            settings = {name: value for name, value in vars(options).items() if name not in ("data", "rows", "seeds")}
            content = {
                "unit": "per cent of the 448 test questions whose form is found whole",
                "published": PUBLISHED,
                "settings": settings,
                "results": results,
                "environment": environment(),
            }
            path.write_text(json.dumps(content, indent=1) + "\n")
            if row == "StructVAE":
                draw(told, path.with_suffix(".png"))

        rows_of(options, seed, save)


if __name__ == "__main__":
    main()
