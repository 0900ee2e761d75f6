"""What a model makes of each datum, written to a file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from latentia.data import Dataset, as_dataset, data_for
from latentia.data.files import atomic_write
from latentia.data.joining import FORMS, Column, Origin, beside, write_columns
from latentia.data.writing import plain
from latentia.distributions import OneHot
from latentia.distributions.structured import Structured
from latentia.errors import DataError, OptionError
from latentia.model import LatentVariableModel
from latentia.tasks.encode import decode_path, encode


def write(
    model: LatentVariableModel, data: Any, path: str | os.PathLike, *, seed: int = 0, origin: Origin | None = None
) -> None:
    """Write the codes of all data, in order, behind what each datum was in its source where `origin` tells.

    .csv, .tsv, .parquet, .jsonl: a row a datum, its number in the source, its columns there, and E_q[z] (for one of K
    values the responsibilities and the cluster). Units and clusters count from 0, as in `cluster` and in the report.
    .npy: E_q[z], (N, *latent). .jsonl, for structured z: a line a datum, with x and its best states.

    Raises:
        OptionError: a suffix that does not fit the model's z.
    """
    data, path = data_for(model, data, seed), Path(path)
    posterior = _of_one(model, data)
    structured = suffix(model, data) == ".jsonl"
    fitting = (".jsonl", ".npy") if structured else (*FORMS, ".npy")
    if path.suffix not in fitting:
        raise OptionError(f"{path}: codes of this model are written as {' or '.join(fitting)}")
    if structured and path.suffix == ".jsonl":
        write_columns(_paths(model, data, seed, origin), path)
        return
    means = encode(model, data, seed=seed)
    if isinstance(means, dict):
        means = torch.cat([part.flatten(1) for part in means.values()], 1)
    if path.suffix == ".npy":
        _write_npy(means, path)
        return
    results = _columns(means.cpu().flatten(1), isinstance(posterior, OneHot))
    _write_beside(results, data, origin, path)


def suffix(model: LatentVariableModel, data: Dataset, origin: Origin | None = None) -> str:
    """How codes are written unless asked otherwise: .jsonl for structured z, such as a path of states; else as the data
    were read, or .csv."""
    posterior = _of_one(model, data)
    if isinstance(posterior, Structured) and not isinstance(posterior, OneHot):
        return ".jsonl"
    return ".csv" if origin is None else origin.suffix


def _of_one(model: LatentVariableModel, data: Dataset) -> Distribution:
    """q(z | x) of a single datum, to see what kind of z there is."""
    if not len(data):
        raise DataError(f"{data.schema.source}: there are no data to encode")
    with torch.no_grad():
        return model.posterior(data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor))


def write_clusters(shares: Tensor, data: Any, path: str | os.PathLike, origin: Origin | None = None) -> None:
    """Write the most probable cluster of all data and p(k | x) (N, K), behind what each datum was in its source, as one
    of `FORMS`; or p(k | x) alone as .npy.

    Raises:
        OptionError: another suffix.
    """
    data, path = as_dataset(data), Path(path)
    if path.suffix == ".npy":
        _write_npy(shares, path)
        return
    _write_beside(_columns(shares.cpu(), True), data, origin, path)


def write_scores(
    scores: Tensor,
    sets: Sequence[tuple[str, Dataset]],
    odd: Tensor | None,
    path: str | os.PathLike,
    origins: Sequence[Origin] | None = None,
    more: dict[str, list[Any]] | None = None,
) -> None:
    """Write a score for each datum of all sets, the largest first, as one of `FORMS`: rank, set, row, score, whether it
    is known to be odd, and what it was in its source. Data without a score (NaN) come last, without a rank.

    Args:
        more: other columns, such as the score of each column of the data, (N,) each.

    Raises:
        OptionError: another suffix.
    """
    where, last = places(sets, origins), scores.isnan()
    # NaN is the largest to a sort
    order = scores.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    order = torch.cat([order[~last[order]], order[last[order]]]).tolist()
    ranks = [None if last[i] else rank for rank, i in enumerate(order, 1)]
    columns: dict[str, list[Any]] = {"rank": ranks, "set": [where[i][0] for i in order]}
    columns["row"] = [where[i][1] for i in order]
    columns["score"] = [None if last[i] else _short(float(scores[i])) for i in order]
    if odd is not None:
        columns["odd"] = [int(odd[i]) for i in order]
    cells = {**_cells_of(sets, origins or []), **(more or {})}
    results = {name: [values[i] for i in order] for name, values in cells.items()}
    separator = origins[0].separator if origins else ","
    write_columns(beside(Origin([], columns), results, numbered=False), path, separator)


def write_steps(
    scores: Sequence[Tensor], sets: Sequence[tuple[str, Dataset]], origins: Sequence[Origin], path: str | os.PathLike
) -> None:
    """Write the score of each step of the sequences of all sets, (N, T) each, in their order: set, row, step, score."""
    columns: dict[str, list[Any]] = {"set": [], "row": [], "step": [], "score": []}
    for values, (name, data), of in zip(scores, sets, origins, strict=True):
        ends = data.batch().ends.tolist()
        for row, line, end in zip(of.numbers, values.tolist(), ends, strict=True):
            columns["set"] += [name] * end
            columns["row"] += [row] * end
            columns["step"] += range(1, end + 1)
            columns["score"] += [_short(value) if value == value else None for value in line[:end]]
    write_columns(columns, path, origins[0].separator)


def places(sets: Sequence[tuple[str, Dataset]], origins: Sequence[Origin] | None = None) -> list[tuple[str, int]]:
    """Where each datum of all sets comes from: the name of the set, and its row there, from 1."""
    numbers = [_rows(data) for _, data in sets] if origins is None else [of.numbers for of in origins]
    return [(name, row) for (name, _), rows in zip(sets, numbers, strict=True) for row in rows]


def _cells_of(sets: Sequence[tuple[str, Dataset]], origins: Sequence[Origin]) -> dict[str, list[Any]]:
    """The cells of all sets, by the names of their columns; None where a set has no such column."""
    names = dict.fromkeys(name for of in origins for name in of.columns)
    return {
        name: [
            cell
            for (_, data), of in zip(sets, origins, strict=True)
            for cell in of.columns.get(name, [None] * len(data))
        ]
        for name in names
    }


def _rows(data: Dataset) -> list[int]:
    return data.rows.tolist() if data.rows is not None else list(range(1, len(data) + 1))


def _write_npy(values: Tensor, path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values.cpu().numpy(), allow_pickle=False)
    atomic_write(path, buffer.getvalue())


def _write_beside(results: dict[str, list[Any]], data: Dataset, origin: Origin | None, path: Path) -> None:
    of = Origin(_rows(data), {}) if origin is None else origin
    write_columns(beside(of, results), path, of.separator)


def _paths(model: LatentVariableModel, data: Dataset, seed: int, origin: Origin | None) -> dict[str, Column]:
    """The best states of each datum, behind x and what else its line in the source has."""
    states, lengths = decode_path(model, data, seed=seed)
    paths = [path[:length] for path, length in zip(states.tolist(), lengths.tolist(), strict=True)]
    of = Origin(_rows(data), {}) if origin is None else origin
    x = {} if {"x", "text", "tokens"} & set(of.columns) else {"x": [plain(value) for value in data.decoded()]}
    return beside(of, {**x, "states": paths})


def _columns(means: Tensor, clusters: bool) -> dict[str, list[Any]]:
    """A column for each unit; of clusters the best one, and then the probability of each."""
    parts = {f"{'p' if clusters else 'z'}{d}": list(map(_short, means[:, d].tolist())) for d in range(means.shape[1])}
    return {"cluster": means.argmax(1).tolist(), **parts} if clusters else dict(parts)


def _short(value: float) -> float:
    """Six digits of it."""
    return float(f"{value:.6g}")
