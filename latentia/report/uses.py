"""What the model makes: samples, reconstructions, interpolations, traversals, completions, and what it finds odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentia.data import Dataset
from latentia.distributions.latents import each
from latentia.distributions.observed import expected
from latentia.model import Batch, LatentVariableModel, TractableModel
from latentia.report import colourings, columns, figures, pictures
from latentia.report.latents import column_names
from latentia.report.panel import Panel, gathered, table
from latentia.report.words import number
from latentia.tasks import anomaly_scores, complete, generate, homotopy, interpolate, traverse
from latentia.tasks.common import directed, using
from latentia.tasks.detect import advice, ranked

ACROSS, SHOWN, DRAWS, SWEEPS = 12, 8, 3, 100
SENTENCES, ROWS, MOST_HISTOGRAMS, MOST_NUMBERS, MANY = 10, 8, 12, 40, 2000
PAIRS, POINTS = 3, 6  # of homotopies
TOLD, IMPORTANCE = 500, 64  # data whose oddness is told, and draws for it

# The report is to cost a tenth of the fit. What costs is counted in passes of a datum through the model in learning, so
# that the page depends on no clock: a step of the chains is about so many passes, and an importance sample so many.
TENTH, SWEEP_COST, SAMPLE_COST = 0.1, 1.3, 0.25
COMPLETIONS, ODDEST = 0.6, 0.3  # of that
LEAST_SWEEPS, LEAST_IMPORTANCE = 10, 8
CHEAP = 2**24
"""Numbers of x, each level counted, that may always be passed through the model: a second or so."""
ECONOMY = "so that the report costs no more than a tenth of the fit"


def uses(model: LatentVariableModel, data: Dataset, seed: int, learned: int = 0) -> list[Panel]:
    """The panels that suit the kind of the data.

    Args:
        learned: how often a datum was passed through the model in learning. What would cost more than a tenth of that,
            and is not cheap, is done with fewer draws, or left out, and the page says so.
    """
    passes = affordable(data, learned)
    if data.schema.chroma:
        few = data.subset(torch.from_numpy(figures.thinned(len(data), SHOWN)))
        return gathered(lambda: [colourings.panel(model, few, seed)])
    if pictures.showable(data.schema):
        makers = (_samples, _reconstructions, _interpolations, _traversals)
        return gathered(
            *(lambda make=make: [make(model, data, seed)] for make in makers),
            lambda: [_completions(model, data, seed, passes)],
            lambda: [_oddest(model, data, seed, passes)],
        )
    if data.schema.kind == "table":
        return gathered(lambda: _table_samples(model, data, seed), lambda: [_oddest_rows(model, data, seed, passes)])
    return gathered(lambda: [_sequence_samples(model, data, seed)], lambda: _homotopies(model, data, seed))


def affordable(data: Dataset, learned: int) -> float:
    """How many passes of a datum through the model cost no more than a tenth of the fit, or are cheap."""
    levels = data.schema.levels or 1 if data.schema.values == "levels" else 1
    return max(TENTH * learned, CHEAP / (max(data.entries, 1) * levels))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _top(data: Dataset) -> float:
    return pictures.white(data.schema, _numpy(data.x[: figures.MOST_POINTS]))


def _shown(model: LatentVariableModel, data: Dataset, count: int, seed: int) -> Batch:
    """A few data, evenly spread over the set."""
    index = torch.from_numpy(figures.thinned(len(data), count))
    return data.subset(index).frozen(seed).batch().to(model.anchor)


def _given(data: Dataset, count: int) -> Batch | None:
    """What so many draws are given, where the model conditions on something: the contexts of the data, in turn."""
    return None if data.context is None else data.context.batch([i % len(data) for i in range(count)])


def _samples(model: LatentVariableModel, data: Dataset, seed: int) -> Panel:
    top, event, given = _top(data), data.schema.event_shape, _given(data, 3 * ACROSS)
    drawn, _ = generate(model, 3 * ACROSS, context=given, seed=seed)
    rows = [{"name": "draws of x", "picture": pictures.grid(_numpy(drawn.x).reshape(3, ACROSS, *event), top)}]
    caption = "New images: z from the prior, x from the likelihood."

    def means() -> list[Panel]:
        mean, _ = generate(model, 3 * ACROSS, context=given, seed=seed, mean=True)
        rows.append({"name": "means of x", "picture": pictures.grid(_numpy(mean.x).reshape(3, ACROSS, *event), top)})
        return []

    gathered(means)
    caption += " Below them the mean of x for the same z, without the noise of drawing." if len(rows) > 1 else ""
    return Panel("pictures", rows, caption, "Samples")


def _reconstructions(model: LatentVariableModel, data: Dataset, seed: int) -> Panel:
    batch = _shown(model, data, ACROSS, seed)
    likelihood = directed(model, "reconstruct").likelihood
    with using(model, seed):
        z: Any = each(lambda mean: mean.unsqueeze(0), model.posterior(batch).mean)
        mean = expected(likelihood(z, batch.frame)).reshape(batch.x.shape)
    pair = np.stack([_numpy(batch.x), _numpy(mean)])
    caption = "Data held against what is left of them in z: the mean of x given the posterior mean of z."
    picture = pictures.grid(pair, _top(data))
    return Panel("pictures", [{"name": "data\nrebuilt", "picture": picture}], caption, "Reconstructions")


def _interpolations(model: LatentVariableModel, data: Dataset, seed: int) -> Panel:
    batch = _shown(model, data, SHOWN, seed)
    batch = batch.select(slice(0, batch.size // 2 * 2))
    # evenly spread data may come in the order of their labels: pair the far apart
    batch = batch.select(torch.arange(batch.size).reshape(2, -1).T.flatten().to(batch.x.device))
    lines = _numpy(interpolate(model, batch, steps=ACROSS, seed=seed))
    caption = (
        "From one datum (left end, rebuilt) to another (right end): the straight line between their posterior means."
    )
    picture = pictures.grid(lines.reshape(len(lines), ACROSS, *data.schema.event_shape), _top(data))
    names = "\n".join(f"pair {i + 1}" for i in range(len(lines)))
    return Panel("pictures", [{"name": names, "picture": picture}], caption, "Interpolations")


def _traversals(model: LatentVariableModel, data: Dataset, seed: int) -> Panel:
    found = traverse(model, data, steps=ACROSS, most=TOLD, dimensions=SHOWN, seed=seed)
    rows = found.x.reshape(-1, ACROSS, *data.schema.event_shape)
    names = "\n".join(f"unit {d}" for d in found.dimensions.tolist())
    caption = (
        "What each unit does, the most active first: from its 2 % quantile over the data (left) to its 98 % (right), "
        "the other units at the posterior mean of the first datum. A row that does not change says that the unit does "
        "little to this datum."
    )
    return Panel(
        "pictures", [{"name": names, "picture": pictures.grid(_numpy(rows), _top(data))}], caption, "Traversals"
    )


def _completions(model: LatentVariableModel, data: Dataset, seed: int, passes: float) -> Panel:
    directed(model, "complete")
    is_exact, chains = isinstance(model, TractableModel), DRAWS * min(ACROSS, len(data))
    sweeps = SWEEPS if is_exact else min(SWEEPS, int(COMPLETIONS * passes / (SWEEP_COST * max(chains, 1))))
    if sweeps < LEAST_SWEEPS:
        return Panel("note", f"Completions are left out, {ECONOMY}: `latentia complete` makes them.")
    truth = _shown(model, data, ACROSS, seed)
    mask = truth.observed.clone()
    half = mask.shape[1] // 2
    mask[:, half:] = False
    seen = Batch.of(truth.x, mask, context=truth.context)
    filled = complete(model, seen, draws=DRAWS, sweeps=sweeps, seed=seed)
    given = np.where(_numpy(mask) > 0, _numpy(truth.x), 0.45 * _top(data))
    rows = np.stack([given, _numpy(filled.mean), *_numpy(filled.draws), _numpy(truth.x)])
    caption = (
        f"The lower half is hidden and filled in from the upper: what is given, the mean, {DRAWS} draws from "
        "p(hidden | given), and the truth."
    )
    if sweeps < SWEEPS:
        caption += f" By {sweeps} steps of the chains, and not {SWEEPS}, {ECONOMY}: they may not have settled."
    names = "\n".join(["given", "mean", *["a draw"] * DRAWS, "truth"])
    picture = pictures.grid(rows, _top(data))
    return Panel("pictures", [{"name": names, "picture": picture}], caption, "Completions")


def _odd(model: LatentVariableModel, data: Dataset, seed: int, passes: float) -> tuple[Dataset, Tensor, str]:
    """Some of the data, the oddest first, their scores, and what one should know of them; no data where they would cost
    too much."""
    told, draws = min(TOLD, len(data)), IMPORTANCE
    if not isinstance(model, TractableModel):
        affordable = int(ODDEST * passes / SAMPLE_COST)
        told = min(told, affordable // LEAST_IMPORTANCE)
        draws = min(IMPORTANCE, affordable // max(told, 1))
    if told < min(ACROSS, len(data)):
        return (
            data.subset([]),
            torch.empty(0),
            f"The oddest data are left out, {ECONOMY}: `latentia detect` ranks them.",
        )
    some = data.subset(torch.from_numpy(figures.thinned(len(data), told))).frozen(seed)
    scores = anomaly_scores(model, some, importance_samples=draws, seed=seed)
    order = ranked(scores)
    fewer = f" By {draws} importance samples, and not {IMPORTANCE}, {ECONOMY}." if draws < IMPORTANCE else ""
    among = "" if len(some) == len(data) else f" (of {len(some):,} that were looked at)"
    return some.subset(order), scores[order], f"The data with the least log p(x){among}.{fewer} {advice(model, data)}"


def _oddest(model: LatentVariableModel, data: Dataset, seed: int, passes: float) -> Panel:
    some, scores, caption = _odd(model, data, seed, passes)
    if not len(some):
        return Panel("note", caption)
    across = min(ACROSS, len(some))
    images = _numpy(some.x)
    rows = [
        {"name": name, "picture": pictures.grid(part.reshape(1, across, *data.schema.event_shape), _top(data))}
        for name, part in (("oddest", images[:across]), ("likeliest", images[len(images) - across :][::-1]))
    ]
    span = (
        f"From the left: −log p(x) = {number(float(scores[0]), 4)} nats for the oddest, {number(float(scores[-1]), 4)} "
    )
    return Panel("pictures", rows, f"{span}for the likeliest. {caption}", "Oddest and likeliest")


def _oddest_rows(model: LatentVariableModel, data: Dataset, seed: int, passes: float) -> Panel:
    some, scores, caption = _odd(model, data, seed, passes)
    if not len(some):
        return Panel("note", caption)
    values = np.asarray(some.subset(slice(0, ROWS)).decoded())
    names = column_names(data)[:MOST_HISTOGRAMS]
    where = some.rows.tolist() if some.rows is not None else range(1, len(some) + 1)
    rows = [
        [
            str(row),
            number(float(score)),
            *(columns.cell(value) for value in line[: len(names)]),
        ]
        for row, score, line in zip(where, scores, values, strict=False)
    ]
    return table(["row", "−log p(x)", *names], rows, caption, "Oddest rows")


def _table_samples(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    drawn, _ = generate(model, MANY, context=_given(data, MANY), seed=seed)
    schema, drawn_x = data.schema, drawn.x.reshape(MANY, -1)
    samples = np.asarray(schema.decode(drawn_x, names=False), dtype=np.float64)
    values = np.asarray(schema.decode(data.x, data.mask, names=False), dtype=np.float64)
    names = column_names(data)
    count = min(len(names), MOST_HISTOGRAMS)
    across = min(count, 3)

    def paint(*axes) -> None:
        for j, part in enumerate(axes):
            if j < count:
                figures.histograms(part, values[:, j], samples[:, j], names[j])
                if schema.kinds:
                    columns.name_ticks(part, schema.fields[j])
            else:
                part.set_axis_off()
        axes[0].legend(loc="best")

    caption = (
        f"Each column of the data (filled) against {MANY:,} rows from the model (line), in the units of the data: "
        "where they part, the model is wrong about that column."
    )
    figure = figures.draw(paint, columns=across, rows=-(-count // across), height=2.1 if across > 1 else 2.6)
    rows = [[columns.cell(v) for v in row[:count]] for row in schema.decode(drawn_x[:ROWS])]
    left = f" The first {count} of {len(names)} columns." if count < len(names) else ""
    sampled = table(names[:count], rows, f"Rows drawn from the model, in the units of the data.{left}", text=0)
    return [Panel("svg", figure, caption, "Samples against data"), sampled]


def _sequence_samples(model: LatentVariableModel, data: Dataset, seed: int) -> Panel:
    drawn, _ = generate(model, SENTENCES, context=_given(data, SENTENCES), seed=seed)
    lines = [_line(line) for line in data.schema.decode(drawn.x, None, drawn.lengths)]
    what = f"{data.schema.datum.capitalize()}s"
    return Panel("lines", lines, f"{what} drawn from the model.", "Samples")


def _homotopies(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    if len(data) < 2:
        return []
    batch = _shown(model, data, 2 * PAIRS, seed)
    batch = batch.select(slice(0, batch.size // 2 * 2))
    caption = (
        "From one of the data to another: the straight line between their posterior means, and at each point the most "
        "probable text that a beam search finds."
    )
    ways = homotopy(model, batch, steps=POINTS, seed=seed)
    return [Panel("lines", [*map(_line, data.schema.decode(way))], caption, "Homotopy") for way in ways]


def _line(values) -> str:
    """The words, or the first numbers, of a sequence."""
    if isinstance(values, list):
        return " ".join(values)
    most = MOST_NUMBERS if np.ndim(values) == 1 else -(-MOST_NUMBERS // np.shape(values)[1])
    shown = [number(v.item()) if np.ndim(v) == 0 else f"({number(v.tolist(), 3)})" for v in values[:most]]
    return ("  " if np.ndim(values) == 1 else ", ").join(shown)
