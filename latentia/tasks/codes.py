"""What a model makes of each datum, written to a file."""

from __future__ import annotations

import csv
import io
import json
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
from latentia.data.writing import plain
from latentia.distributions import OneHot
from latentia.distributions.structured import Structured
from latentia.errors import DataError, OptionError
from latentia.model import LatentVariableModel
from latentia.tasks.encode import decode_path, encode


def write(model: LatentVariableModel, data: Any, path: str | os.PathLike, *, seed: int = 0) -> None:
    """Write the codes of all data, in order.

    .csv: a row a datum, its number in the source and E_q[z] (for one of K values the responsibilities and the
    cluster). Units and clusters count from 0, as in `cluster` and in the report.
    .npy: E_q[z], (N, *latent). .jsonl: for structured z, a line a datum, with x and its best states.

    Raises:
        OptionError: a suffix that does not fit the model's z.
    """
    data, path = data_for(model, data, seed), Path(path)
    posterior = _of_one(model, data)
    fitting = (suffix(model, data), ".npy")
    if path.suffix not in fitting:
        raise OptionError(f"{path}: codes of this model are written as {' or '.join(fitting)}")
    if path.suffix == ".jsonl":
        atomic_write(path, _lines(model, data, seed))
        return
    means = encode(model, data, seed=seed)
    if isinstance(means, dict):
        means = torch.cat([part.flatten(1) for part in means.values()], 1)
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, means.cpu().numpy(), allow_pickle=False)
        atomic_write(path, buffer.getvalue())
        return
    atomic_write(path, _table(means.cpu().flatten(1), data, isinstance(posterior, OneHot)))


def suffix(model: LatentVariableModel, data: Dataset) -> str:
    """How codes are written unless asked otherwise: .jsonl for structured z, such as a path of states; else .csv."""
    posterior = _of_one(model, data)
    return ".jsonl" if isinstance(posterior, Structured) and not isinstance(posterior, OneHot) else ".csv"


def _of_one(model: LatentVariableModel, data: Dataset) -> Distribution:
    """q(z | x) of a single datum, to see what kind of z there is."""
    if not len(data):
        raise DataError(f"{data.schema.source}: there are no data to encode")
    with torch.no_grad():
        return model.posterior(data.batch(slice(0, 1), model.anchor.dtype).to(model.anchor))


def write_clusters(shares: Tensor, data: Any, path: str | os.PathLike) -> None:
    """Write p(k | x) of all data (N, K) and the most probable cluster, as .csv, or p(k | x) alone as .npy.

    Raises:
        OptionError: another suffix.
    """
    data, path = as_dataset(data), Path(path)
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, shares.cpu().numpy(), allow_pickle=False)
        atomic_write(path, buffer.getvalue())
        return
    _check_csv(path)
    atomic_write(path, _table(shares.cpu(), data, True))


def write_scores(
    scores: Tensor, sets: Sequence[tuple[str, Dataset]], odd: Tensor | None, path: str | os.PathLike
) -> None:
    """Write a score for each datum of all sets, the largest first, as .csv: rank, set, row, score, and whether it
    is known to be odd. Data without a score (NaN) come last, without a rank.

    Raises:
        OptionError: another suffix.
    """
    path = Path(path)
    _check_csv(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "set", "row", "score", *([] if odd is None else ["odd"])])
    where, last = places(sets), scores.isnan()
    # NaN is the largest to a sort
    order = scores.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    order = torch.cat([order[~last[order]], order[last[order]]])
    for rank, i in enumerate(order.tolist(), 1):
        known = [] if odd is None else [int(odd[i])]
        score = ["", *where[i], ""] if last[i] else [rank, *where[i], f"{float(scores[i]):.6g}"]
        writer.writerow([*score, *known])
    atomic_write(path, text.getvalue().encode())


def places(sets: Sequence[tuple[str, Dataset]]) -> list[tuple[str, int]]:
    """Where each datum of all sets comes from: the name of the set, and its row there, from 1."""
    return [(name, row) for name, data in sets for row in _rows(data)]


def _rows(data: Dataset) -> list[int]:
    return data.rows.tolist() if data.rows is not None else list(range(1, len(data) + 1))


def _check_csv(path: Path) -> None:
    if path.suffix != ".csv":
        raise OptionError(f"{path}: this is written as .csv")


def _lines(model: LatentVariableModel, data: Dataset, seed: int) -> bytes:
    states, lengths = decode_path(model, data, seed=seed)
    given = data.decoded()
    lines = []
    for x, path, length in zip(given, states.tolist(), lengths.tolist(), strict=True):
        lines.append(json.dumps({"x": plain(x), "states": path[:length]}, ensure_ascii=False))
    return "".join(line + "\n" for line in lines).encode()


def _table(means: Tensor, data: Dataset, clusters: bool) -> bytes:
    rows = _rows(data)
    names = [f"{'p' if clusters else 'z'}{d}" for d in range(means.shape[1])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *names, *(["cluster"] if clusters else [])])
    best = means.argmax(1).tolist()
    for row, values, cluster in zip(rows, means.tolist(), best, strict=True):
        writer.writerow([row, *(f"{value:.6g}" for value in values), *([cluster] if clusters else [])])
    return text.getvalue().encode()
