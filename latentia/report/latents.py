"""What the latents do: units, clusters and states, seen through the posterior alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution

from latentia.data import Dataset
from latentia.distributions import Chain, OneHot
from latentia.model import Batch, EMModel, LatentVariableModel
from latentia.report import figures, pictures
from latentia.report.panel import Panel, table
from latentia.report.words import finite, number, percent
from latentia.tasks import encode, responsibilities
from latentia.tasks.cluster import Clusters
from latentia.tasks.common import using

ACTIVE = 0.01  # variance of the posterior mean: Burda et al. (2016)
MOST_DATA, MOST_SEQUENCES = 4000, 2000
WORDS, MOST_STATES, MOST_COLUMNS, MOST_LABELS = 12, 40, 12, 12
BATCH = 128


def latents(model: LatentVariableModel, data: Dataset, evaluation: dict[str, Any], seed: int) -> list[Panel]:
    """The panels that suit the posterior's kind: one of K values, a chain of states, topics, or a point in space."""
    with using(model, seed):
        q = model.posterior(data.subset(slice(0, 2)).frozen(seed).batch().to(model.anchor))
    if isinstance(q, OneHot):
        return _clusters(model, _part(data, MOST_DATA), seed)
    if isinstance(q, Chain):
        return _states(model, _part(data, MOST_SEQUENCES), seed)
    if isinstance(q, Dirichlet) and isinstance(model, EMModel) and data.schema.values == "symbols":
        return [_topics(model, _part(data, MOST_SEQUENCES), seed)]
    units = _units(model, _part(data, MOST_DATA), evaluation, seed)
    return [*_clusters(model, _part(data, MOST_DATA), seed), *units] if isinstance(model, Clusters) else units


def _part(data: Dataset, most: int) -> Dataset:
    return data.subset(torch.from_numpy(figures.thinned(len(data), most)))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


# a point in space ---------------------------------------------------------------------------------------------------


def _units(model: LatentVariableModel, data: Dataset, evaluation: dict[str, Any], seed: int) -> list[Panel]:
    mean = encode(model, data, seed=seed)
    if isinstance(mean, dict):
        mean = torch.cat([part.flatten(1) for part in mean.values()], 1)
    points = _numpy(mean).reshape(len(data), -1)
    variance = points.var(0)
    kl = evaluation.get("kl_per_unit")
    rank = variance
    panels = []
    if isinstance(kl, list) and any(map(finite, kl)):
        values = np.array([v if finite(v) else 0.0 for v in kl])
        active = variance > ACTIVE if len(values) == len(variance) else values > ACTIVE
        rank = values if len(values) == len(variance) else variance
        panels.append(_unit_bars(values, active))
    if points.shape[1] >= 2 and np.isfinite(points).all():
        panels.append(_map(points, np.argsort(-rank, kind="stable")[:2], data.labels))
    return panels


def _unit_bars(kl: np.ndarray, active: np.ndarray) -> Panel:
    order = np.argsort(-kl, kind="stable")

    def paint(axes) -> None:
        colours = [figures.MAIN if active[unit] else figures.MUTED for unit in order]
        figures.bars(axes, kl[order], colours, [str(unit) for unit in order])
        axes.set_xlabel("latent unit")
        axes.set_ylabel("KL, nats per datum")

    caption = (
        f"What each latent unit costs, KL(q(z | x) ‖ p(z)) in nats per datum, the dearest first. Blue: "
        f"{int(active.sum())} active of {len(kl)}, the posterior mean changes with x; grey: the rest carry nothing."
    )
    return Panel("svg", figures.draw(paint, height=2.4), caption, "Units")


def _map(points: np.ndarray, pair: np.ndarray, labels: np.ndarray | None) -> Panel:
    names, groups = _groups(labels)

    def paint(axes) -> None:
        figures.scatter(axes, points[:, pair], groups, names)
        axes.set_xlabel(f"unit {pair[0]}")
        axes.set_ylabel(f"unit {pair[1]}")
        axes.set_aspect("equal", adjustable="datalim")

    coloured = " The colours are the data's labels, which the model never saw." if names else ""
    caption = f"The posterior means of the two units that carry most, a point for each datum.{coloured}"
    return Panel("svg", figures.draw(paint, height=4.6, width=6.6), caption, "Map")


def _groups(labels: np.ndarray | None) -> tuple[list[str], np.ndarray | None]:
    """The names of the labels and each datum's own, where there are few different ones."""
    if labels is None:
        return [], None
    names, groups = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    return ([str(name)[:40] for name in names], groups) if len(names) <= MOST_LABELS else ([], None)


# one of K values ----------------------------------------------------------------------------------------------------


def _clusters(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    r = _numpy(responsibilities(model, data, seed=seed)) * _numpy(data.batch().weights)[:, None]
    size = r.sum(0)
    order = np.argsort(-size, kind="stable")
    panels = [_sizes(size, order)]
    names, groups = _groups(data.labels)
    if data.schema.kind == "table":
        panels += _table_panels(data, r, order)
    elif pictures.showable(data.schema):
        panels.append(_mean_images(data, r, order))
    if groups is not None:
        panels.append(_against_labels(r, order, names, groups))
    return panels


def _sizes(size: np.ndarray, order: np.ndarray) -> Panel:
    def paint(axes) -> None:
        colours = [figures.colour(rank) for rank in range(len(order))]
        figures.bars(axes, 100 * size[order] / size.sum(), colours, [str(k) for k in order])
        axes.set_xlabel("cluster")
        axes.set_ylabel("% of the data")

    caption = "The expected share of the data in each cluster, sum of p(z = k | x), largest first."
    return Panel("svg", figures.draw(paint, height=2.1), caption, "Clusters")


def _against_labels(r: np.ndarray, order: np.ndarray, names: list[str], groups: np.ndarray) -> Panel:
    """How many data of each label every cluster is expected to hold."""
    counts = r.T @ np.eye(len(names))[groups]
    rows = [[str(k), *(f"{count:.1f}" for count in counts[k])] for k in order[:MOST_STATES]]
    caption = "Expected number of data of each label in each cluster. The model never saw the labels."
    return table(["cluster", *names], rows, caption)


def _table_panels(data: Dataset, r: np.ndarray, order: np.ndarray) -> list[Panel]:
    values = np.asarray(data.schema.decode(data.x, data.mask), dtype=np.float64)
    panels = [group_table(values, r, order, column_names(data), "cluster")]
    if values.shape[1] >= 2 and data.schema.values == "real":
        panels.insert(0, _cluster_map(values, r, order, column_names(data)))
    return panels


def column_names(data: Dataset) -> list[str]:
    """The names of x's columns, x1, x2, ... where they have none."""
    return list(data.schema.names) or [f"x{j + 1}" for j in range(data.schema.event_shape[0])]


def moments(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of every column by group, over what is observed: (K, D) each.

    values (M, D), NaN where missing; weight (M, K).
    """
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0.0)
    center = filled.sum(0) / np.maximum(seen.sum(0), 1)  # so that far-away columns lose no digits
    away = np.where(seen, values - center, 0.0)
    mass = weight.T @ seen
    safe = np.where(mass > 0, mass, np.nan)
    mean = weight.T @ away / safe
    variance = weight.T @ away**2 / safe - mean**2
    return mean + center, np.sqrt(variance.clip(min=0))


def group_table(values: np.ndarray, weight: np.ndarray, order: np.ndarray, names: list[str], group: str) -> Panel:
    """Mean and standard deviation of each column in each cluster or state, in the units of the data."""
    mean, deviation = moments(values, weight)
    share = weight.sum(0) / weight.sum()
    columns = range(min(len(names), MOST_COLUMNS))
    rows = []
    for k in order[:MOST_STATES]:
        cells = [_mean_cell(mean[k, j], deviation[k, j]) for j in columns]
        rows.append([str(k), percent(share[k]), *cells])
    head = [group, "share", *(names[j] for j in columns)]
    left = f" The first {len(columns)} of {len(names)} columns." if len(columns) < len(names) else ""
    caption = f"Mean ± standard deviation of each column in each {group}, in the units of the data.{left}"
    return table(head, rows, caption)


def _mean_cell(mean: float, deviation: float) -> str:
    return f"{number(float(mean), 3)} ± {number(float(deviation), 2)}" if np.isfinite(mean) else number(None)


def _cluster_map(values: np.ndarray, r: np.ndarray, order: np.ndarray, names: list[str]) -> Panel:
    x, y = _telling(values, r)
    whole = np.isfinite(values[:, [x, y]]).all(1)
    points, r = values[whole][:, [x, y]], r[whole]
    rank = np.argsort(order)

    def paint(axes) -> None:
        figures.scatter(axes, points, rank[r.argmax(1)])
        for place, k in enumerate(order):
            if r[:, k].sum() > 0:
                figures.ellipse(axes, *_gaussian(points, r[:, k]), figures.colour(place))
        axes.set_xlabel(names[x])
        axes.set_ylabel(names[y])

    chosen = " (the two columns in which the clusters differ most)" if values.shape[1] > 2 else ""
    caption = (
        f"The data{chosen}, each point in the colour of its most probable cluster, in the units of the data. The "
        "ellipses lie one and two standard deviations around each cluster's mean, both as p(z = k | x) weighs the data."
    )
    return Panel("svg", figures.draw(paint, height=4.2, width=6.8), caption)


def _telling(values: np.ndarray, r: np.ndarray) -> tuple[int, int]:
    """The two columns of which the clusters explain the largest share of the variance, in the data's order."""
    mean, deviation = moments(values, r)
    share = r.sum(0) / r.sum()
    within = np.nansum(share[:, None] * deviation**2, 0)
    between = np.nansum(share[:, None] * (mean - np.nansum(share[:, None] * mean, 0)) ** 2, 0)
    best = np.sort(np.argsort(-between / np.maximum(within + between, 1e-300), kind="stable")[:2])
    return int(best[0]), int(best[1])


def _gaussian(points: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = weight @ points / weight.sum()
    away = points - mean
    return mean, (away * weight[:, None]).T @ away / weight.sum()


def _mean_images(data: Dataset, r: np.ndarray, order: np.ndarray) -> Panel:
    x = _numpy(data.x)
    mean = np.einsum("nk,n...->k...", r, x) / r.sum(0).clip(min=1e-12).reshape(-1, *(1,) * (x.ndim - 1))
    shown = order[: len(order) // 10 * 10 or len(order)][:60]
    images = mean[shown].reshape(-1, min(10, len(shown)), *x.shape[1:])
    picture = pictures.grid(images, pictures.white(data.schema, x))
    return Panel("pictures", [{"name": "", "picture": picture}], "The mean image of each cluster, largest first.")


# shares of topics ---------------------------------------------------------------------------------------------------


def _topics(model: EMModel, data: Dataset, seed: int) -> Panel:
    with using(model, seed):
        counts = sum(_numpy(model.expect(batch.to(model.anchor))[0]["symbol"]) for batch in data.batches(BATCH))
    return _words_of_states(np.asarray(counts), np.argsort(-np.asarray(counts).sum(1), kind="stable"), data, "topic")


# a chain of states --------------------------------------------------------------------------------------------------


def _states(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    with using(model, seed):
        posteriors = list(_posteriors(model, data.frozen(seed)))
        transition = sum(_transitions(q) for _, q in posteriors)
        node = [_numpy(q.marginals) for _, q in posteriors]
    share = sum(part.sum((0, 1)) for part in node)
    order = np.argsort(-np.asarray(share), kind="stable")
    panels = []
    if data.schema.values == "symbols":
        counts = sum(_symbol_counts(b, m, data) for (b, _), m in zip(posteriors, node, strict=True))
        panels.append(_words_of_states(np.asarray(counts), order, data))
    elif len(data.schema.event_shape) == 1:
        steps = [np.where(_numpy(b.observed) > 0, _numpy(b.x), np.nan) for b, _ in posteriors]
        values = np.concatenate([s.reshape(-1, s.shape[-1]) for s in steps])
        values = values * np.array(data.schema.scale or 1.0) + np.array(data.schema.shift or 0.0)
        weight = np.concatenate([m.reshape(-1, m.shape[-1]) for m in node])
        panels.append(group_table(values, weight, order, column_names(data), "state"))
    return [*panels, _transition_map(np.asarray(transition), order)]


def _posteriors(model: LatentVariableModel, data: Dataset) -> Iterator[tuple[Batch, Any]]:
    for batch in data.batches(BATCH, sort=True):
        on = batch.to(model.anchor)
        yield on, model.posterior(on)


def _transitions(q: Distribution) -> np.ndarray:
    assert isinstance(q, Chain)  # the model's posterior is one
    expected = _numpy(q.expectations()["transition"])
    return expected.reshape(-1, *expected.shape[-2:]).sum(0)


def _symbol_counts(batch: Batch, marginals: np.ndarray, data: Dataset) -> np.ndarray:
    """Expected number of times that each state shows each symbol, (K, V)."""
    seen = _numpy(batch.observed) > 0
    symbols = batch.x.cpu().numpy()[seen]
    counts = np.zeros((data.schema.levels or 1, marginals.shape[-1]))
    np.add.at(counts, symbols, marginals[seen])
    return counts.T


def _words_of_states(counts: np.ndarray, order: np.ndarray, data: Dataset, noun: str = "state") -> Panel:
    names = data.schema.vocabulary or tuple(map(str, range(counts.shape[1])))
    share = counts.sum(1) / counts.sum()
    frequency = counts.sum(0) / counts.sum()
    states = []
    for k in order[:MOST_STATES]:
        if counts[k].sum() < 1e-6:
            continue
        given = counts[k] / counts[k].sum()
        lift = np.where(counts[k] >= 2, given / np.maximum(frequency, 1e-300), 0.0)
        states.append(
            {
                "name": str(k),
                "share": percent(share[k]),
                "width": f"{100 * share[k] / share.max():.1f}",
                "common": [(names[v], percent(given[v])) for v in _top(given)],
                "telling": [(names[v], f"{lift[v]:.3g} times") for v in _top(lift)],
            }
        )
    caption = (
        f"For each {noun}, the commonest first: the share of all words that it accounts for; the words it most often "
        "stands behind; and the words it favours most, by how much likelier they are in it than anywhere (of words "
        "expected in it at least twice). Expected counts under the posterior."
    )
    return Panel("states", states, caption, f"The words of each {noun}")


def _top(values: np.ndarray) -> np.ndarray:
    best = np.argsort(-values, kind="stable")[:WORDS]
    return best[values[best] > 0]


def _transition_map(counts: np.ndarray, order: np.ndarray) -> Panel:
    order = order[:MOST_STATES]
    total = counts.sum(1, keepdims=True)
    matrix = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)[np.ix_(order, order)]

    def paint(axes) -> None:
        figures.heat(axes, matrix, [str(k) for k in order])
        axes.set_xlabel("to state")
        axes.set_ylabel("from state")

    caption = "How often each state (row) is followed by each other (column): a row sums to 1. The order is by share."
    side = 4.8 if len(order) > 8 else 3.4
    return Panel("svg", figures.draw(paint, height=side, width=side + 0.9), caption, "Transitions")
