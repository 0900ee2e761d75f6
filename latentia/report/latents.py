"""What the latents do: units, clusters and states, seen through the posterior alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Dirichlet, Distribution, Independent, MultivariateNormal

from latentia.data import Dataset
from latentia.distributions import Brackets, Chain, OneHot, Tree
from latentia.distributions.codes import Quantized
from latentia.distributions.logical_forms import LogicalForms
from latentia.distributions.mixture import Mixture
from latentia.distributions.observed import expected, plain
from latentia.errors import CapabilityError
from latentia.model import DirectedModel, Frame, LatentVariableModel
from latentia.report import columns, figures, pictures
from latentia.report.alignments import aligned
from latentia.report.codes import codes
from latentia.report.meanings import meant
from latentia.report.panel import Panel, gathered, table
from latentia.report.paths import decoded
from latentia.report.trees import trees
from latentia.report.vocabulary import MOST_STATES, words_of
from latentia.report.words import finite, number, percent
from latentia.tasks import encode, responsibilities
from latentia.tasks.cluster import Clusters
from latentia.tasks.common import using
from latentia.tasks.parse import Parser

ACTIVE = 0.01  # variance of the posterior mean: Burda et al. (2016)
MOST_DATA, MOST_SEQUENCES = 4000, 2000
MOST_COLUMNS, MOST_LABELS, MOST_NUMBERS = 12, 12, 12
BATCH = 128


def latents(
    model: LatentVariableModel, data: Dataset, evaluation: dict[str, Any], seed: int, train: Dataset | None = None
) -> list[Panel]:
    """The panels that suit the posterior's kind: one of K values, states, topics, trees, or a point in space.

    Shares, means and the order of clusters, states and topics are those of the fitted parameters, read off the prior
    and the likelihood, not of the few data shown; `train` (`data` where
    there are no others) gives the lengths of sequences, which are not modelled, and how many words there were.
    """
    if data.schema.chroma:
        return []  # a segment for each pixel is seen in the pictures of what the model makes
    train = data if train is None else train
    with using(model, seed):
        q = model.posterior(data.subset(slice(0, 2)).frozen(seed).batch().to(model.anchor))
    placed = aligned(model, data, q, seed)
    if placed:
        return placed
    if isinstance(q, LogicalForms):
        return meant(model, data, seed)
    if isinstance(q, Quantized):
        return codes(model, _part(data, MOST_DATA), seed)
    if isinstance(q, OneHot):
        return _clusters(model, _part(data, MOST_DATA), seed)
    if isinstance(q, Chain):
        return _states(model, _part(train, MOST_SEQUENCES), len(train), data, seed)
    found = trees(model, data, train, seed) if isinstance(model, Parser) else []
    if isinstance(q, Tree | Brackets):
        return found
    if isinstance(q, Dirichlet) and isinstance(model, DirectedModel) and data.schema.values == "symbols":
        return [_topics(model, train, seed)]
    units = [*found, *_units(model, _part(data, MOST_DATA), evaluation, seed)]
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
    caption = f"The posterior means of the two units that carry most, a point for each datum shown.{coloured}"
    return Panel("svg", figures.draw(paint, height=4.6, width=6.6), caption, "Map")


def _groups(labels: np.ndarray | None) -> tuple[list[str], np.ndarray | None]:
    """The names of the labels and each datum's own, where there are few different ones."""
    if labels is None:
        return [], None
    names, groups = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    return ([str(name)[:40] for name in names], groups) if len(names) <= MOST_LABELS else ([], None)


# one of K values ----------------------------------------------------------------------------------------------------


class _Fitted(NamedTuple):
    """What the parameters say of K clusters, in the units of the data: their shares (K,), and of every column the means
    (K, D) and covariances (K, D, D); None where the likelihood does not tell. Of mixed columns p(x | z = k) itself."""

    share: np.ndarray
    mean: np.ndarray | None
    covariance: np.ndarray | None
    likelihood: Distribution | None = None


def _fitted(model: LatentVariableModel, data: Dataset, seed: int) -> _Fitted | None:
    """None where the prior is not over K values: what is shown is then of the data, and is called so."""
    if not isinstance(model, DirectedModel):
        return None
    with using(model, seed):
        one = data.subset(slice(0, 1)).frozen(seed).batch(dtype=model.anchor.dtype).to(model.anchor)
        prior: Any = model.prior(one.frame)
        if isinstance(prior, Mixture):
            return _Fitted(_numpy(prior.log_weights.exp()), None, None)
        if not isinstance(prior, OneHot):
            return None
        share = prior.marginals[0]
        every = one.select(torch.zeros(len(share), dtype=torch.long, device=share.device)).frame
        likelihood = plain(model.likelihood(torch.eye(len(share)).to(share).unsqueeze(0), every))
        if data.schema.kinds:
            return _Fitted(_numpy(share), None, None, likelihood)
        return _Fitted(_numpy(share), *_moments(likelihood, len(share), data))


def _moments(likelihood: Distribution, count: int, data: Dataset) -> tuple[np.ndarray | None, np.ndarray | None]:
    mean = expected(likelihood).reshape(count, -1)
    if mean.shape[1] != data.entries:
        return None, None
    if data.schema.kind != "table":  # of images no one looks at the covariance, which would be large
        covariance = torch.empty(0)
    elif isinstance(likelihood, MultivariateNormal):
        covariance = likelihood.covariance_matrix.reshape(count, data.entries, data.entries)
    else:
        covariance = torch.diag_embed(_variance(likelihood).reshape(count, -1))
    scale = np.broadcast_to(np.asarray(data.schema.scale or 1.0), (data.entries,))
    shift = np.broadcast_to(np.asarray(data.schema.shift or 0.0), (data.entries,))
    fitted = _numpy(mean) * scale + shift
    return fitted, None if not covariance.numel() else _numpy(covariance) * np.outer(scale, scale)


def _variance(likelihood: Distribution) -> Tensor:
    """Of each coordinate; of the levels of a categorical that of the level, for which torch has NaN."""
    inner = likelihood.base_dist if isinstance(likelihood, Independent) else likelihood
    if not isinstance(inner, Categorical):
        return inner.variance
    levels = torch.arange(inner.probs.shape[-1], device=inner.probs.device).to(inner.probs)
    return inner.probs @ levels**2 - (inner.probs @ levels) ** 2


def _clusters(model: LatentVariableModel, data: Dataset, seed: int) -> list[Panel]:
    r = _numpy(responsibilities(model, data, seed=seed)) * _numpy(data.batch().weights)[:, None]
    fitted = _fitted(model, data, seed)
    size = r.sum(0) / r.sum() if fitted is None else fitted.share
    order = np.argsort(-size, kind="stable")
    panels = [_sizes(size, order, fitted is not None)]
    names, groups = _groups(data.labels)
    if data.schema.kinds:
        likelihood = None if fitted is None else fitted.likelihood
        if likelihood is not None:
            panels += columns.groups(likelihood, data.schema, size, order, "cluster")
    elif data.schema.kind == "table":
        panels += _table_panels(data, r, order, fitted)
    elif pictures.showable(data.schema):
        panels.append(_mean_images(data, r, order, fitted))
    if groups is not None:
        panels.append(_against_labels(r, order, names, groups))
    return panels


def _sizes(size: np.ndarray, order: np.ndarray, fitted: bool) -> Panel:
    def paint(axes) -> None:
        colours = [figures.colour(rank) for rank in range(len(order))]
        figures.bars(axes, 100 * size[order], colours, [str(k) for k in order])
        axes.set_xlabel("cluster")
        axes.set_ylabel("% of the model" if fitted else "% of the data shown")

    caption = (
        "The share of each cluster in the fitted model, p(z = k), largest first."
        if fitted
        else "The expected share of the data shown in each cluster, mean of p(z = k | x), largest first."
    )
    return Panel("svg", figures.draw(paint, height=2.1), caption, "Clusters")


def _against_labels(r: np.ndarray, order: np.ndarray, names: list[str], groups: np.ndarray) -> Panel:
    """How many data of each label every cluster is expected to hold."""
    counts = r.T @ np.eye(len(names))[groups]
    rows = [[str(k), *(f"{count:.1f}" for count in counts[k])] for k in order[:MOST_STATES]]
    caption = f"Expected number of the {len(r):,} data shown of each label in each cluster. The model never saw them."
    return table(["cluster", *names], rows, caption)


def _table_panels(data: Dataset, r: np.ndarray, order: np.ndarray, fitted: _Fitted | None) -> list[Panel]:
    values = np.asarray(data.decoded(), dtype=np.float64)
    mean, deviation = moments(values, r)
    covariance = np.stack([np.diag(row**2) for row in deviation])
    share, known = r.sum(0) / r.sum() if fitted is None else fitted.share, False
    if fitted is not None and fitted.mean is not None and fitted.covariance is not None:
        mean, covariance, known = fitted.mean, fitted.covariance, True
    spread = np.sqrt(np.einsum("kdd->kd", covariance))
    panels = [group_table((share, mean, spread), order, column_names(data), "cluster", known)]
    if values.shape[1] >= 2 and data.schema.values == "real":
        panels.insert(0, _cluster_map(values, r, order, column_names(data), (share, mean, covariance), known))
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


def group_table(
    groups: tuple[np.ndarray, np.ndarray, np.ndarray], order: np.ndarray, names: list[str], group: str, fitted: bool
) -> Panel:
    """Shares (K,), and mean and standard deviation of each column (K, D), of clusters or states."""
    share, mean, deviation = groups
    columns = range(min(len(names), MOST_COLUMNS))
    rows = []
    for k in order[:MOST_STATES]:
        cells = [_mean_cell(mean[k, j], deviation[k, j]) for j in columns]
        rows.append([str(k), percent(float(share[k])), *cells])
    head = [group, "share", *(names[j] for j in columns)]
    left = f" The first {len(columns)} of {len(names)} columns." if len(columns) < len(names) else ""
    of = "in the fitted model" if fitted else "over the data shown, as p(z = k | x) weighs them"
    caption = f"Mean ± standard deviation of each column in each {group} {of}, in the units of the data.{left}"
    return table(head, rows, caption)


def _mean_cell(mean: float, deviation: float) -> str:
    return f"{number(float(mean), 3)} ± {number(float(deviation), 2)}" if np.isfinite(mean) else number(None)


def _cluster_map(
    values: np.ndarray,
    r: np.ndarray,
    order: np.ndarray,
    names: list[str],
    groups: tuple[np.ndarray, np.ndarray, np.ndarray],
    fitted: bool,
) -> Panel:
    share, mean, covariance = groups
    pair = _telling(share, mean, covariance)
    whole = np.isfinite(values[:, pair]).all(1)
    points, r, rank = values[whole][:, pair], r[whole], np.argsort(order)

    def paint(axes) -> None:
        figures.scatter(axes, points, rank[r.argmax(1)])
        for place, k in enumerate(order):
            if np.isfinite(mean[k, pair]).all() and share[k] > 0:
                figures.ellipse(axes, mean[k, pair], covariance[k][np.ix_(pair, pair)], figures.colour(place))
        axes.set_xlabel(names[pair[0]])
        axes.set_ylabel(names[pair[1]])

    chosen = " (the two columns in which the clusters differ most)" if values.shape[1] > 2 else ""
    of = "both of the fitted model" if fitted else "of the data shown, as p(z = k | x) weighs them"
    caption = (
        f"The {len(points):,} data shown{chosen}, each point in the colour of its most probable cluster, in the units "
        f"of the data. The ellipses lie one and two standard deviations around each cluster's mean, {of}."
    )
    return Panel("svg", figures.draw(paint, height=4.2, width=6.8), caption)


def _telling(share: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> list[int]:
    """The two columns of which the clusters explain the largest share of the variance, in the data's order."""
    within = np.nansum(share[:, None] * np.einsum("kdd->kd", covariance), 0)
    between = np.nansum(share[:, None] * (mean - np.nansum(share[:, None] * mean, 0)) ** 2, 0)
    best = np.sort(np.argsort(-between / np.maximum(within + between, 1e-300), kind="stable")[:2])
    return best.tolist()


def _mean_images(data: Dataset, r: np.ndarray, order: np.ndarray, fitted: _Fitted | None) -> Panel:
    x = _numpy(data.x)
    known = False
    if fitted is not None and fitted.mean is not None:
        known = True
        scale, shift = (np.asarray(part or one) for part, one in ((data.schema.scale, 1.0), (data.schema.shift, 0.0)))
        mean = ((fitted.mean - shift) / scale).reshape(-1, *x.shape[1:])
    else:
        mean = np.einsum("nk,n...->k...", r, x) / r.sum(0).clip(min=1e-12).reshape(-1, *(1,) * (x.ndim - 1))
    shown = order[: len(order) // 10 * 10 or len(order)][:60]
    images = mean[shown].reshape(-1, min(10, len(shown)), *x.shape[1:])
    picture = pictures.grid(images, pictures.white(data.schema, x))
    of = "in the fitted model" if known else f"over the {len(x):,} data shown"
    names = "\n".join(
        f"{row[0]} … {row[-1]}" if len(row) > 1 else str(row[0]) for row in shown.reshape(len(images), -1)
    )
    told = ", ".join(map(str, shown))
    caption = f"The mean image of each cluster {of}, largest first: {told}."
    return Panel("pictures", [{"name": names, "picture": picture}], caption)


# shares of topics ---------------------------------------------------------------------------------------------------


def _topics(model: DirectedModel, train: Dataset, seed: int) -> Panel:
    with using(model, seed):
        one = train.subset(slice(0, 1)).frozen(seed).batch().to(model.anchor)
        share = model.prior(one.frame).mean[0]
        every = one.select(torch.zeros(len(share), dtype=torch.long, device=share.device)).frame
        likelihood: Any = plain(model.likelihood(torch.eye(len(share)).to(share).unsqueeze(0), every))
        given = _numpy(likelihood.probs[0, :, 0])
    counts = _numpy(share)[:, None] * given * _observed_steps(train)
    return words_of(counts, np.argsort(-_numpy(share), kind="stable"), train, "topic")


def _observed_steps(train: Dataset) -> float:
    """How many steps the model has learned from, by weight."""
    batch = train.batch()
    return float((batch.weights.double() * batch.observed.unsqueeze(-1).flatten(2).any(-1).sum(1)).sum())


# a chain of states --------------------------------------------------------------------------------------------------


def _states(model: LatentVariableModel, train: Dataset, count: int, data: Dataset, seed: int) -> list[Panel]:
    """Of the model's own chain, run for sequences as long as those that it was fitted to; and some data decoded."""
    if not isinstance(model, DirectedModel):
        raise CapabilityError(f"{type(model).__name__} has no prior: its states cannot be told from its parameters")
    with using(model, seed):
        transition, share = np.zeros(()), np.zeros(())
        for batch in train.frozen(seed).batches(BATCH, sort=True):
            prior, weight = model.prior(batch.to(model.anchor).frame), _numpy(batch.weights)
            assert isinstance(prior, Chain)  # the posterior is one
            share = share + np.einsum("b,btk->k", weight, _numpy(prior.marginals))
            transition = transition + _transitions(prior)
        likelihood: Any = _given_states(model, train, len(share), seed)
    order, steps = np.argsort(-share, kind="stable"), share.sum()
    share = share / steps
    panels = []
    if train.schema.values == "symbols":
        counts = share[:, None] * _numpy(likelihood.probs[0, 0]) * steps * count / max(len(train), 1)
        panels.append(words_of(counts, order, train))
    elif train.schema.kinds:
        panels += columns.groups(likelihood, train.schema, share, order, "state")
    elif len(train.schema.event_shape) == 1:
        scale, shift = np.array(train.schema.scale or 1.0), np.array(train.schema.shift or 0.0)
        width = len(share), -1
        mean = _numpy(expected(likelihood)).reshape(width) * scale + shift
        deviation = np.sqrt(_numpy(_variance(likelihood)).reshape(width)) * scale
        panels.append(group_table((share, mean, deviation), order, column_names(train), "state", True))
    return [*panels, _transition_map(transition, order), *gathered(lambda: decoded(model, data, order, seed))]


def _given_states(model: DirectedModel, train: Dataset, states: int, seed: int) -> Distribution:
    """p(x_t | z_t = k) of every state, as of one sequence that visits each of them once."""
    one = train.subset(slice(0, 1)).frozen(seed).batch(dtype=model.anchor.dtype).to(model.anchor)
    every = torch.eye(states, dtype=model.anchor.dtype, device=model.anchor.device)
    return plain(model.likelihood(every[None, None], Frame(1, torch.full((1,), states), one.context)))


def _transitions(chain: Chain) -> np.ndarray:
    expected = _numpy(chain.expectations()["transition"])
    return expected.reshape(-1, *expected.shape[-2:]).sum(0)


def _transition_map(counts: np.ndarray, order: np.ndarray) -> Panel:
    order = order[:MOST_STATES]
    total = counts.sum(1, keepdims=True)
    matrix = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)[np.ix_(order, order)]

    def paint(axes) -> None:
        figures.heat(axes, matrix, [str(k) for k in order])
        if len(order) <= MOST_NUMBERS:
            figures.numbers(axes, matrix)
        axes.set_xlabel("to state")
        axes.set_ylabel("from state")

    caption = (
        "How often each state (row) is followed by each other (column) in the fitted model: a row sums to 1. The order "
        "is by share."
    )
    side = 4.8 if len(order) > 8 else 3.4
    return Panel("svg", figures.draw(paint, height=side, width=side + 0.9), caption, "Transitions")
