"""What a fitted model says, as tables: clusters, states or topics, from the parameters, in the units of the data.

All is read off the prior p(z) and the likelihood p(x | z), so that it holds for whatever model has them. What the data
are (scaling, names, words) is `model.schema`, which a fit sets; without one, x is in the model's own coordinates.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Dirichlet, Distribution

from latentia.batch import Frame
from latentia.distributions import Chain, Joint, OneHot
from latentia.distributions.columns import ByColumn
from latentia.distributions.latents import named
from latentia.distributions.observed import expected, plain

MOST_COLUMNS, MOST_ROWS, MOST_STATES, WORDS = 6, 40, 12, 8
"""Of a table that is to be read; what is left out is said."""
MOST_NAMES, LEAST_SHARE = 2, 0.005
OF_COLUMNS = (
    "Of numbers mean ± standard deviation in the units of the data, of counts the mean, of categories the likeliest "
    "with their probabilities, of yes or no that of yes."
)
ENDS = 1e-3
"""The chance that a chain ends at any step, where the share of time that it spends in each state is asked for: a
stationary distribution knows nothing of states that are passed through once, and need not exist."""


class Table(NamedTuple):
    """Rows under a head: names, then numbers, and where there are `words`, those last."""

    title: str
    head: list[str]
    rows: list[list[str]]
    caption: str = ""
    words: bool = False


@dataclass(frozen=True, repr=False)
class Summary:
    """What a fitted model says. As text by `str`, as HTML in a notebook.

    Attributes:
        title: the model, in one line.
        tables: of its clusters, states, topics or latents.
        remarks: sentences below them: what the fitted parameters give reason to doubt.
        of: "clusters", "states" or "topics"; "" of a model that has none of these.
    """

    title: str
    tables: list[Table]
    remarks: list[str]
    of: str = ""

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        parts = [self.title, *map(_text, self.tables), *self.remarks]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(remark)}</p>" for remark in self.remarks)
        return f"<p><b>{html.escape(self.title)}</b></p>{''.join(map(_html, self.tables))}{notes}"


def _text(table: Table) -> str:
    rows = [table.head, *table.rows]
    width = [max(len(row[j]) for row in rows) for j in range(len(table.head))]
    left = {0, *([len(width) - 1] if table.words else [])}
    lines = [
        "  ".join(
            cell.ljust(size) if j in left else cell.rjust(size) for j, (cell, size) in _sized(row, width)
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * min(size, 60) for size in width))
    return "\n".join([*([table.title] if table.title else []), *lines, *([table.caption] if table.caption else [])])


def _sized(row: list[str], width: list[int]) -> Any:
    return enumerate(zip(row, width, strict=True))


def _html(table: Table) -> str:
    def line(row: list[str], tag: str) -> str:
        left = {0, *([len(row) - 1] if table.words else [])}
        sides = ("left" if j in left else "right" for j in range(len(row)))
        cells = (f'<{tag} style="text-align: {s}">{html.escape(c)}</{tag}>' for s, c in zip(sides, row, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    title = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    body = "".join(line(row, "td") for row in table.rows)
    caption = f"<p>{html.escape(table.caption)}</p>" if table.caption else ""
    return f"<table>{title}<thead>{line(table.head, 'th')}</thead><tbody>{body}</tbody></table>{caption}"


def summarise(model: Any) -> Summary:
    """The summary of a `LatentVariableModel`, see `Summary`."""
    name, schema = type(model).__name__, model.schema
    with torch.no_grad():
        prior = _prior(model)
        tables = _told(prior, model)
    of = "" if schema is None else f", fitted to {schema.describe()}"
    concerns = list(model.concerns()) if hasattr(model, "concerns") else []
    kind, count = _counted(prior)
    groups = f"{count} {kind}, " if kind else ""
    return Summary(f"{name}: {groups}{model.free_parameters():,} free parameters{of}", tables, concerns, kind)


def topics_of(model: Any) -> Tensor | None:
    """The words' probabilities in each topic, (K, V), where z is shares of topics and x their words; else None."""
    with torch.no_grad():
        prior = _prior(model)
        return _topics(prior, model) if isinstance(prior, Dirichlet) else None


def _prior(model: Any) -> Distribution | None:
    """p(z) of one datum; None where there is none, or none without a context."""
    if not hasattr(model, "prior"):
        return None
    try:
        return model.prior(Frame(1))
    except ValueError:
        return None


def _counted(prior: Distribution | None) -> tuple[str, int]:
    """What there is one of for each value of z, and how many."""
    if isinstance(prior, OneHot | Chain):
        return "clusters" if isinstance(prior, OneHot) else "states", prior.log_potentials["node"].shape[-1]
    return ("topics", prior.event_shape[-1]) if isinstance(prior, Dirichlet) else ("", 0)


def _topics(prior: Dirichlet, model: Any) -> Tensor:
    count = prior.event_shape[-1]
    given: Any = plain(model.likelihood(torch.eye(count).to(model.anchor).unsqueeze(0), Frame(count)))
    return given.probs[0, :, 0]


# ------------------------------------------------------------------------------------------------ by the kind of z


@singledispatch
def _told(prior: Distribution | None, model: Any) -> list[Table]:
    """The tables that suit the prior: of any that is not told of below, the sizes of its latents."""
    if prior is None:
        return []
    if isinstance(prior, Joint):
        sizes = {name: tuple(part.shape[2:]) for name, part in named(prior.sample((1,)), "z").items()}
    else:
        sizes = {"z": tuple(prior.event_shape or prior.batch_shape[1:])}
    rows = [[name, " x ".join(map(str, size)) or "1", f"{math.prod(size):,}"] for name, size in sizes.items()]
    return [Table("Latents", ["latent", "shape", "numbers"], rows)]


@_told.register
def _(prior: OneHot, model: Any) -> list[Table]:
    share = prior.marginals[0]
    count = len(share)
    given = plain(model.likelihood(torch.eye(count).to(share).unsqueeze(0), Frame(count)))
    order = share.argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    head, rows = ["cluster", "share"], [[str(k), _percent(float(share[k]))] for k in order]
    return [_with_emissions("Clusters", head, rows, order, share, given, model.schema)]


@_told.register
def _(prior: Chain, model: Any) -> list[Table]:
    initial, transition = (prior.log_potentials[name].double().exp() for name in ("initial", "transition"))
    initial, transition = initial.reshape(-1, initial.shape[-1])[0], transition.flatten(0, -3)[0]
    count = len(initial)
    going = torch.eye(count).to(transition) - (1 - ENDS) * transition
    share = ENDS * torch.linalg.solve(going.T, initial)
    every = torch.eye(count).to(model.anchor)[None, None]
    given = plain(model.likelihood(every, Frame(1, torch.full((1,), count, device=every.device))))
    order = share.argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    rows = [
        [str(k), _percent(float(share[k])), _percent(float(initial[k])), _steps(float(transition[k, k]))] for k in order
    ]
    head = ["state", "share", "first", "steps"]
    states = _with_emissions("States", head, rows, order, share, given, model.schema)
    said = "share: of the time of a long sequence; first: at step 1; steps: how long it stays, on average."
    return [states._replace(caption=f"{said} {states.caption}"), _transitions(transition, order[:MOST_STATES], count)]


@_told.register
def _(prior: Dirichlet, model: Any) -> list[Table]:
    share, topics = prior.mean[0], _topics(prior, model)
    count = len(share)
    order = share.argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    rows = [[str(k), _percent(float(share[k])), _words(topics[k], model.schema)] for k in order]
    caption = "share: of all words, by the prior; the commonest words first."
    return [Table("Topics", ["topic", "share", "words"], rows, caption + _left_out(count, len(rows), "topics"), True)]


def _transitions(transition: Tensor, order: list[int], count: int) -> Table:
    rows = [[str(i), *(f"{float(transition[i, j]):.2f}" for j in order)] for i in order]
    caption = "From the state of the row to that of the column." + _left_out(count, len(order), "states")
    return Table("Transitions", ["from", *map(str, order)], rows, caption)


def _left_out(count: int, shown: int, what: str) -> str:
    return f" The {shown} largest of {count:,} {what}." if shown < count else ""


def _steps(stay: float) -> str:
    return f"{1 / (1 - stay):,.1f}" if stay < 1 else "for ever"


# ------------------------------------------------------------------------------------------------ what each one emits


def _with_emissions(
    title: str, head: list[str], rows: list[list[str]], order: list[int], share: Tensor, given: Any, schema: Any
) -> Table:
    """The rows of clusters or states, with what each of them emits, in `order`."""
    count = len(share)
    left = _left_out(count, len(order), "of them").replace(" of them", "")
    if schema is not None and schema.kind == "image":
        return Table(title, head, rows, f"Their mean images are in the report.{left}")
    inner = getattr(given, "base_dist", given)
    if type(inner).variance is Distribution.variance:  # a writer of texts, say, has none
        return Table(title, head, rows, f"What they are like is for their draws to tell.{left}")
    if isinstance(inner, Categorical):
        return _categories(title, head, rows, order, share, inner.probs, schema, left)
    if isinstance(inner, ByColumn) and schema is not None and schema.kinds:
        return _mixed(title, head, rows, order, share, inner, schema, left)
    mean, variance = (part.reshape(count, -1).double() for part in (expected(given), inner.variance))
    columns = _telling(share.double(), mean, variance)
    names = _names(schema, mean.shape[1])
    scale, shift = _scaling(schema, mean)
    if isinstance(inner, Bernoulli):
        cells = [[f"{float(mean[k, j]):.3f}" for j in columns] for k in order]
        what = "The probability of 1 in each column."
    else:
        centre, spread = mean * scale + shift, variance.sqrt() * scale
        cells = [[_mean(float(centre[k, j]), float(spread[k, j])) for j in columns] for k in order]
        units = "the units of the data" if schema is not None else "the model's coordinates"
        what = f"Mean ± standard deviation of each column, in {units}."
    rest = f" The {len(columns)} of {mean.shape[1]:,} columns that tell most." if len(columns) < mean.shape[1] else ""
    rows = [[*row, *more] for row, more in zip(rows, cells, strict=True)]
    return Table(title, [*head, *(names[j] for j in columns)], rows, f"{what}{rest}{left}")


def _categories(
    title: str,
    head: list[str],
    rows: list[list[str]],
    order: list[int],
    share: Tensor,
    probs: Tensor,
    schema: Any,
    left: str,
) -> Table:
    """Of symbols the commonest; of columns of levels, in each the commonest level."""
    probs = probs.reshape(len(share), -1, probs.shape[-1]).double()
    if bool((probs == probs[:, :1]).all()):  # one distribution for all positions: words
        rows = [[*row, _words(probs[k, 0], schema)] for row, k in zip(rows, order, strict=True)]
        return Table(title, [*head, "emits"], rows, f"The commonest symbols, with their probabilities.{left}", True)
    overall = torch.einsum("k,kdv->dv", share.double(), probs)
    apart = torch.einsum("k,kd->d", share.double(), 0.5 * (probs - overall).abs().sum(-1))
    columns = apart.argsort(descending=True, stable=True)[:MOST_COLUMNS].sort().values.tolist()
    names = _names(schema, probs.shape[1])
    best = probs.max(-1)
    cells = [[f"{int(best.indices[k, j])} ({_percent(float(best.values[k, j]))})" for j in columns] for k in order]
    rest = f" The {len(columns)} of {probs.shape[1]} columns that tell most." if len(columns) < probs.shape[1] else ""
    rows = [[*row, *more] for row, more in zip(rows, cells, strict=True)]
    caption = f"The most probable level of each column, and its probability.{rest}{left}"
    return Table(title, [*head, *(names[j] for j in columns)], rows, caption)


def _mixed(
    title: str,
    head: list[str],
    rows: list[list[str]],
    order: list[int],
    share: Tensor,
    given: ByColumn,
    schema: Any,
    left: str,
) -> Table:
    """Columns of their own kind, each in the words that suit it."""
    count, total = len(share), len(schema.fields)
    apart = torch.stack([_apart(part, where.index(j), share) for part, where, j in _by_column(given, total)])
    columns = apart.argsort(descending=True, stable=True)[:MOST_COLUMNS].sort().values.tolist()
    cells = {j: told_column(given, schema.fields[j], j) for j in columns}
    rows = [[*row, *(cells[j][k] for j in columns)] for row, k in zip(rows, order, strict=True)]
    rest = f" The {len(columns)} of {total:,} columns that tell most." if len(columns) < total else ""
    caption = f"{OF_COLUMNS}{rest}{left if count > len(order) else ''}"
    return Table(title, [*head, *(schema.fields[j].name for j in columns)], rows, caption)


def _by_column(given: ByColumn, total: int) -> Iterator[tuple[Distribution, list[int], int]]:
    """Of each column the part that it is in, the columns of that, and itself."""
    for j in range(total):
        part, where = next((part, where) for part, where in given.parts if j in where)
        yield part, where, j


def _apart(part: Distribution, place: int, share: Tensor) -> Tensor:
    """How far apart a column's clusters or states lie, from 0 to 1: of categories the mean distance in total variation
    from all of them together, of others the share of the variance that lies between them."""
    share = share.double()
    if isinstance(part, Categorical):
        probs = part.probs[..., place, :].reshape(len(share), -1).double()
        return share @ (0.5 * (probs - share @ probs).abs().sum(-1))
    mean, variance = (value[..., place].reshape(-1).double() for value in (part.mean, part.variance))
    between = share @ (mean - share @ mean) ** 2
    return between / (between + share @ variance).clamp(min=1e-300)


def told_column(given: ByColumn, column: Any, j: int) -> list[str]:
    """Column j of the schema's `fields` in each of the K groups that p(x | z = k), batch shape (..., K, D), is of: mean
    and deviation of numbers in the units of the data, the likeliest categories, the probability of yes, a mean count.
    """
    part, place = next((part, where.index(j)) for part, where in given.parts if j in where)
    if isinstance(part, Categorical):
        probs = part.probs[..., place, :].reshape(-1, part.probs.shape[-1]).double()
        return [_likeliest(row, column.names) for row in probs]
    mean, spread = (value[..., place].reshape(-1).double() for value in (part.mean, part.variance.sqrt()))
    if column.kind == "binary":
        return [f"{column.names[1] if column.names else '1'} {_percent(float(value))}" for value in mean]
    if column.kind == "count":
        return [f"{float(value):.3g}" for value in mean]
    mean, spread = mean * column.scale + column.shift, spread * column.scale
    return [_mean(float(m), float(s)) for m, s in zip(mean, spread, strict=True)]


def _likeliest(probs: Tensor, names: tuple[str, ...]) -> str:
    best = probs.argsort(descending=True, stable=True)[:MOST_NAMES].tolist()
    return ", ".join(f"{names[v]} {_percent(float(probs[v]))}" for v in best if probs[v] >= LEAST_SHARE)


def _telling(share: Tensor, mean: Tensor, variance: Tensor) -> list[int]:
    """The columns of whose variance the largest part lies between the clusters, in the data's order."""
    within = share @ variance
    between = share @ (mean - share @ mean) ** 2
    part = between / (within + between).clamp(min=1e-300)
    return part.argsort(descending=True, stable=True)[:MOST_COLUMNS].sort().values.tolist()


def _names(schema: Any, count: int) -> list[str]:
    named = () if schema is None else schema.names
    return list(named) if len(named) == count else [f"x{j + 1}" for j in range(count)]


def _scaling(schema: Any, mean: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = ((1.0,), (0.0,)) if schema is None else (schema.scale or (1.0,), schema.shift or (0.0,))
    return mean.new_tensor(scale), mean.new_tensor(shift)


def _words(probs: Tensor, schema: Any) -> str:
    vocabulary = () if schema is None else schema.vocabulary
    best = probs.topk(min(WORDS, len(probs)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return " ".join(f"{vocabulary[v] if vocabulary else v} {_percent(p)}" for p, v in found if p >= 0.0005)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _mean(mean: float, deviation: float) -> str:
    """Both with as many decimals as the deviation has meaning: two digits of it."""
    if not deviation > 0 or not math.isfinite(deviation) or not math.isfinite(mean):
        return f"{mean:.4g}"
    decimals = 1 - math.floor(math.log10(deviation))
    if decimals > 6 or abs(mean) >= 1e9:
        return f"{mean:.4g} ± {deviation:.2g}"
    decimals = max(decimals, 0)
    return f"{mean:,.{decimals}f} ± {deviation:,.{decimals}f}"
