"""`latentia detect`: what does not belong, and which part of it."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latentia.cli import catalogue
from latentia.cli.parsing import Parser, Whole, say, tell
from latentia.cli.runs import add_other, add_out, add_run, chosen_data, opened, origin_of
from latentia.cli.uses import write_sheet
from latentia.errors import DataError, OptionError


def detect(arguments: list[str]) -> None:
    """What does not belong: rank the data by a score of oddness, in nats, the oddest first."""
    scores, warning = (catalogue.constant("tasks/detect.py", name) for name in ("SCORES", "WARNING"))
    parser = Parser("detect", f"{detect.__doc__} {warning}")
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument(
        "--score",
        choices=scores,
        default="likelihood",
        help="-log p(x); what per-datum inference gains on the encoder; or -log p(x) less the length when compressed",
    )
    parser.add_argument("--outliers", help="other data known to be odd: how well the score tells them apart")
    parser.add_argument("--labels", help="column of a table, or a file with a number for each datum: above 0 is odd")
    parser.add_argument("--importance_samples", type=Whole(1), default=200, help="K, where log p(x) is not exact")
    parser.add_argument("--steps", type=Whole(1), default=100, help="of per-datum inference, for the regret")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    import torch

    from latentia.data.joining import origin
    from latentia.tasks import anomaly_scores, codes
    from latentia.tasks.detect import advice, ranked

    model, data = run.model(), chosen_data(run, parsed, labels=parsed.labels).frozen(parsed.seed)
    name = parsed.data or ("held out" if len(run.parts.test) else "training")
    sets, odd = [(name, data)], _odd(parsed, data)
    if parsed.outliers:
        others = run.other(parsed.outliers, first=parsed.first).frozen(parsed.seed)
        sets.append((parsed.outliers, others))
        odd = torch.tensor([False] * len(data) + [True] * len(others))
    options = {name: getattr(parsed, name) for name in ("score", "importance_samples", "steps", "seed")}
    scores = torch.cat([anomaly_scores(model, part, **options, progress=True) for _, part in sets])
    origins = [origin_of(run, parsed, data)]
    if parsed.outliers:
        origins.append(origin(parsed.outliers, sets[1][1]))
    path = Path(parsed.out) if parsed.out else run.path / f"detect{origins[0].suffix}"
    parts = _parts_of(model, [part for _, part in sets], parsed.seed)
    codes.write_scores(scores, sets, odd, path, origins, parts.columns)
    say(f"wrote {path}")
    if parts.steps:
        beside = path.with_name(f"{path.stem}-steps{path.suffix}")
        codes.write_steps(parts.steps, sets, origins, beside)
        say(f"wrote {beside}, the score of each step")
    order = ranked(scores)
    _oddest(run, sets, order, path)
    _detected(parsed.score, scores, order, sets, odd, origins, parts)
    _usual(run, model, parsed, scores)
    if parsed.score == "likelihood":
        tell(advice(model, data))


class _Parts(NamedTuple):
    """Which part of each datum is odd: of tables the scores of columns, by their names in the file; of sequences those
    of steps, (N, T) of each set."""

    columns: dict[str, list[Any]]
    steps: list[Any]
    names: tuple[str, ...] = ()


CELLS = 100_000
"""Values of a table of which each is scored, where that takes importance samples."""


def _parts_of(model: Any, sets: Sequence[Any], seed: int) -> _Parts:
    from latentia.errors import CapabilityError
    from latentia.model import TractableModel
    from latentia.tasks import column_scores, step_scores

    schema = sets[0].schema
    if schema.kind in ("sequence", "text"):
        try:
            return _Parts({}, [step_scores(model, part, seed=seed) for part in sets])
        except CapabilityError:
            return _Parts({}, [])
    cheap = isinstance(model, TractableModel) or sum(part.x.numel() for part in sets) * schema.event_shape[0] <= CELLS
    if schema.kind != "table" or schema.event_shape[0] < 2 or not cheap:
        return _Parts({}, [])
    values = [row for part in sets for row in column_scores(model, part, seed=seed).tolist()]
    names = schema.names or tuple(f"x{j + 1}" for j in range(schema.event_shape[0]))
    told = {f"score of {name}": [_digits(row[j]) for row in values] for j, name in enumerate(names)}
    return _Parts(told, [], names)


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if value == value else None


def _usual(run, model: Any, parsed: argparse.Namespace, scores: Any) -> None:
    """How high scores are among the data that the model was fitted to, where they cost nothing."""
    from latentia.data import Dataset
    from latentia.errors import RunError
    from latentia.model import TractableModel
    from latentia.tasks import anomaly_scores

    if not isinstance(model, TractableModel):
        return
    try:
        train = run.parts.train
    except (DataError, RunError):
        return  # moved or changed since
    if isinstance(train, Dataset):
        known = anomaly_scores(model, train.subset(slice(0, 2000)), score=parsed.score, seed=parsed.seed)
        known = known[~known.isnan()]
        if len(known):
            bound = float(known.quantile(0.99))
            above = int((scores > bound).sum())
            tell(f"  of the data fitted to, 1 % score above {bound:.2f}; of these {above:,} of {len(scores):,} do")


def _odd(parsed: argparse.Namespace, data: Any) -> Any:
    """Which data are labelled as odd, where that is asked for."""
    if parsed.labels is None:
        return None
    if parsed.outliers:
        raise OptionError("--labels and --outliers both say what is odd: leave one out")
    import torch

    try:
        return torch.tensor([float(label) > 0 for label in data.labels])
    except ValueError as error:
        raise OptionError(f"--labels {parsed.labels}: {error}; odd data have a number above 0, the others 0") from error


def _oddest(run, sets: Sequence[tuple[str, Any]], order: Any, path: Path) -> None:
    """A picture of the oddest images, in rows, the oddest first."""
    import torch

    from latentia.report import pictures

    across = min(16, len(order))
    if pictures.showable(run.schema):
        shown = order[: len(order) // across * across][: 4 * across]
        x = torch.cat([part.x.float() for _, part in sets])[shown]
        write_sheet(run, x.reshape(-1, across, *run.schema.event_shape), path.with_suffix(".png"))


def _detected(
    score: str,
    scores: Any,
    order: Any,
    sets: Sequence[tuple[str, Any]],
    odd: Any,
    origins: Sequence[Any],
    parts: _Parts,
) -> None:
    from latentia.tasks import auroc
    from latentia.tasks.codes import places
    from latentia.tasks.detect import scale

    where = places(sets, origins)
    tell(f"{len(scores):,} data by {score}: {scale(score, sets[0][1])}; the larger the odder")
    tell(f"  median {float(scores.nanmedian()):.2f}")
    if len(order) < len(scores):
        tell(f"  {len(scores) - len(order):,} of which nothing is observed: they have no score, and come last")
    for i in order[:10].tolist():
        tell(f"  {float(scores[i]):12.2f}  {where[i][0]}, row {where[i][1]}{_which(parts, i)}")
    if odd is not None:
        tell(f"AUROC {auroc(scores[~odd], scores[odd]):.4f}: the chance that an odd datum is ranked above another")


def _which(parts: _Parts, i: int) -> str:
    """The part of a datum that is the oddest given the others."""
    if parts.steps:
        rows = [row for part in parts.steps for row in part]
        value = rows[i].nan_to_num(-math.inf)
        return f": most of all step {int(value.argmax()) + 1} ({float(value.max()):.2f})"
    known = []
    for values, name in zip(parts.columns.values(), parts.names, strict=True):
        if values[i] is not None:  # columns have units of their own: by how much more than is usual in each
            known.append((values[i] - statistics.median(v for v in values if v is not None), name))
    return f": most of all {max(known)[1]} ({max(known)[0]:.2f} above its median)" if known else ""
