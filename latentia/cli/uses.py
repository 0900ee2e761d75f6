"""What a fitted model is used for: a command for each use."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentia.cli import catalogue
from latentia.cli.parsing import Parser, Rate, Whole, say, tell
from latentia.cli.runs import add_other, add_out, add_run, chosen_data, opened, other_data, write
from latentia.errors import OptionError


def sample(arguments: list[str]) -> None:
    """Draw new data from a fitted model."""
    parser = Parser("sample", str(sample.__doc__))
    add_run(parser)
    parser.add_argument("--n", type=Whole(1), default=16, help="how many")
    parser.add_argument("--grid", type=_rows_by_columns, metavar="ROWSxCOLUMNS", help="a picture of so many images")
    parser.add_argument("--mean", action="store_true", help="the likelihood's mean instead of a draw from it")
    parser.add_argument(
        "--given",
        metavar="COLUMN=VALUE,...",
        help="the context of all of them, by name; those of held-out data, in turn, if left out",
    )
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    add_out(parser)
    parsed = parser.parse(arguments)
    from latentia.tasks import generate

    run = opened(parsed)
    if parsed.mean and run.schema.values == "symbols":
        raise OptionError("--mean: between two symbols there is none; leave it out to draw them")
    count = parsed.grid[0] * parsed.grid[1] if parsed.grid else parsed.n
    if parsed.grid:
        _showable(run, "--grid")
    context = _context(run, parsed.given, count)
    drawn, _ = generate(run.model(), count, context=context, seed=parsed.seed, mean=parsed.mean)
    if parsed.grid:
        _sheet(run, drawn.x.unflatten(0, parsed.grid), Path(parsed.out) if parsed.out else run.path / "sample.png")
    else:
        write(run, parsed, drawn.x, drawn.lengths, "sample")


def _context(run, text: str | None, count: int):
    """What each draw is given: one for all, as --given says, or those of held-out data."""
    schema = run.schema.context
    if schema is None:
        if text is not None:
            raise OptionError(f"--given: {run.config.model} was fitted without a context")
        return None
    if text is not None:
        from latentia.data.cells import given

        if not schema.categories:
            raise OptionError(f"--given names columns, and the context is {schema.describe()}: leave it out")
        return schema.encode(given(text, schema.names)).batch()
    say("each draw is given the context of a held-out datum; --given COLUMN=VALUE gives one to all")
    context = run.held_out.context
    return context.batch([i % len(context) for i in range(count)])


def encode(arguments: list[str]) -> None:
    """What the model makes of each datum: posterior means, clusters, or the best path of states."""
    parser = Parser("encode", str(encode.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed)
    from latentia.tasks import codes

    model = run.model()
    data = other_data(run, parsed) if parsed.data else run.held_out
    path = Path(parsed.out) if parsed.out else run.path / f"encode{codes.suffix(model, data)}"
    codes.write(model, data, path)
    say(f"wrote {path}")


def interpolate(arguments: list[str]) -> None:
    """The way from one datum to another: decoded points on the line between their posterior means."""
    parser = Parser("interpolate", str(interpolate.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--start", type=Whole(1), default=1, help="number of the first datum, from 1")
    parser.add_argument("--end", type=Whole(1), default=2, help="number of the other datum, from 1")
    parser.add_argument("--steps", type=Whole(2), default=8, help="how many points, both ends among them")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed)
    from latentia.tasks import interpolate as between

    data = other_data(run, parsed) if parsed.data else run.held_out
    for name in ("start", "end"):
        if not 1 <= getattr(parsed, name) <= len(data):
            raise OptionError(f"--{name} {getattr(parsed, name)}: there are data 1 to {len(data)}")
    model = run.model()
    pair = data.frozen(run.config.seed).batch([parsed.start - 1, parsed.end - 1], model.anchor.dtype)
    x = between(model, pair, steps=parsed.steps)
    write(run, parsed, x.reshape(-1, *x.shape[2:]), None, "interpolate")


def complete(arguments: list[str]) -> None:
    """Fill in what is missing: empty cells and NaN, or what --hide takes away, whose log-probability is then known."""
    parser = Parser("complete", str(complete.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--hide", type=Hide, help="top, bottom, left or right of each image, or random:SHARE of values")
    parser.add_argument("--draw", action="store_true", help="one draw from p(missing | observed) instead of its mean")
    parser.add_argument(
        "--sweeps", type=Whole(2), default=200, help="Markov chain steps, where the posterior is not exact"
    )
    parser.add_argument(
        "--importance_samples", type=Whole(0), default=200, help="for log p(hidden | shown); 0 leaves it out"
    )
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    import torch

    from latentia.tasks import complete as fill
    from latentia.tasks import conditional_log_likelihood

    model = run.model()
    data = chosen_data(run, parsed).frozen(parsed.seed)
    whole = data.batch()
    if parsed.hide is None and not bool(whole.hidden.any()):
        raise OptionError("nothing is missing in these data: leave cells empty, or hide a part of them by --hide")
    hidden = torch.zeros_like(whole.hidden) if parsed.hide is None else parsed.hide.mask(data, whole, parsed.seed)
    batch = type(whole).of(whole.x, ~(whole.hidden | hidden), whole.lengths, context=whole.context)
    found = fill(model, batch, sweeps=parsed.sweeps, seed=parsed.seed)
    # between two symbols there is none, so for them a mean means nothing
    filled = found.draws[0] if parsed.draw or data.schema.values == "symbols" else found.mean
    dtype = torch.promote_types(filled.dtype, whole.x.dtype)
    x = torch.where(batch.hidden, filled.cpu().to(dtype), whole.x.to(dtype))
    path = write(run, parsed, x, whole.lengths, "complete")
    if parsed.hide is None:
        return
    _completions(run, whole, batch, found, path)
    if parsed.importance_samples:
        options = {"importance_samples": parsed.importance_samples, "seed": parsed.seed, "progress": True}
        _conditional(conditional_log_likelihood(model, data, _padded_to(hidden, data.x), **options), data)


def _completions(run, whole: Any, batch: Any, found: Any, path: Path) -> None:
    """A picture of the first few: the truth, what is shown, the mean, E[x | z] of four draws of z, and two of x."""
    import torch

    from latentia.report import pictures

    if not pictures.showable(run.schema):
        return
    few, draws = slice(0, 16), [*found.expected[:4].cpu().float(), *found.draws[:2].cpu().float()]
    x = whole.x.float()
    top = pictures.white(run.schema, x.numpy())
    given = torch.where(batch.observed, x, torch.full_like(x, 0.45 * top))
    rows = torch.stack([x, given, found.mean.cpu().float(), *draws])[:, few]
    rows = rows.reshape(*rows.shape[:2], *run.schema.event_shape)
    _sheet(run, rows, path.with_name(f"{path.stem}-sheet.png"), top)


def _error(values: Any) -> float:
    """The standard error of their mean, NaN of a single one."""
    return float(values.std()) / len(values) ** 0.5 if len(values) > 1 else math.nan


def _conditional(found: Any, data: Any) -> None:
    value, entries = found.value, found.entries.double()
    error = _error(value)
    noise = float(found.standard_error.square().sum().sqrt() / len(value))
    tell(
        f"{len(value):,} data: log p(hidden | shown) = {float(value.mean()):.3f} ± {error:.3f} {data.schema.unit}\n"
        f"  {float(value.sum() / entries.sum()):.3f} nats a hidden value, {float(entries.mean()):,.1f} a datum\n"
        + (f"  of the ±, {noise:.3f} is that of importance sampling" if noise else "  exact")
    )


def traverse(arguments: list[str]) -> None:
    """What each active latent dimension does: it goes through its quantiles, the others stay at a datum's mean."""
    parser = Parser("traverse", str(traverse.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--start", type=Whole(1), default=1, help="number of the datum, from 1")
    parser.add_argument("--steps", type=Whole(2), default=9, help="how many quantiles, from 2 %% to 98 %%")
    parser.add_argument("--through", choices=["aggregate", "prior"], default="aggregate", help="the quantiles of which")
    parser.add_argument("--most", type=Whole(1), default=16, help="dimensions to show, the most active first")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    from latentia.report import pictures
    from latentia.tasks import traverse as along

    data = chosen_data(run, parsed)
    if parsed.start > len(data):
        raise OptionError(f"--start {parsed.start}: there are data 1 to {len(data)}")
    options = {"steps": parsed.steps, "through": parsed.through, "dimensions": parsed.most, "seed": run.config.seed}
    found = along(run.model(), data, start=parsed.start - 1, **options)
    x = found.x
    if pictures.showable(run.schema) and (parsed.out is None or parsed.out.endswith(".png")):
        _sheet(run, x, Path(parsed.out) if parsed.out else run.path / "traverse.png")
    else:
        write(run, parsed, x.reshape(-1, *x.shape[2:]), None, "traverse")
    for dimension, values in zip(found.dimensions.tolist(), found.values.tolist(), strict=True):
        tell(f"dimension {dimension}: {values[0]:.2f} to {values[-1]:.2f}")


def cluster(arguments: list[str]) -> None:
    """The clusters of the data, p(k | x), and how well they agree with labels, which the model has never seen."""
    parser = Parser("cluster", str(cluster.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--labels", help="column of a table, or a file with a number for each datum, to compare with")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    from latentia.tasks import agreement, codes, responsibilities
    from latentia.tasks.cluster import classes

    data = chosen_data(run, parsed, labels=parsed.labels)
    shares = responsibilities(run.model(), data)
    path = Path(parsed.out) if parsed.out else run.path / "cluster.csv"
    codes.write_clusters(shares, data, path)
    say(f"wrote {path}")
    if data.labels is None:
        return
    found, named = shares.argmax(-1).cpu(), classes(data)
    tell(
        f"{len(found):,} data in {len(found.unique())} clusters, {len(named.unique())} classes\n"
        f"accuracy {agreement.one_to_one(found, named):.4f} (each class to one cluster at most)\n"
        f"NMI {agreement.v_measure(found, named):.4f}, ARI {agreement.adjusted_rand_index(found, named):.4f}"
    )


def parse(arguments: list[str]) -> None:
    """The tree of a sentence, or of all sentences of the data with how well they agree with those of a treebank, which
    the model has never seen."""
    parser = Parser("parse", str(parse.__doc__))
    add_run(parser)
    parser.add_argument(
        "sentence", nargs="*", help="a sentence, its words apart; those of the data where there is none"
    )
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument(
        "--decode",
        choices=catalogue.constant("tasks/parse.py", "DECODERS"),
        default="risk",
        help="the tree of which most constituents are expected to be right, or the most probable one",
    )
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    from latentia.data.files import atomic_write
    from latentia.tasks import parse as trees_of

    if parsed.sentence:
        if parsed.data is not None:
            raise OptionError("a sentence and --data: give one or the other")
        (tree,) = trees_of(run.model(), run.sentence(" ".join(parsed.sentence)), decode=parsed.decode)
        tell(str(tree))
        return
    data = chosen_data(run, parsed)
    trees = trees_of(run.model(), data, decode=parsed.decode)
    path = Path(parsed.out) if parsed.out else run.path / "parse.txt"
    atomic_write(path, ("\n".join(map(str, trees)) + "\n").encode())
    say(f"wrote {path}")
    if data.trees is not None:
        _tell_agreement(trees, data)


def _tell_agreement(trees: Sequence[Any], data: Any) -> None:
    from latentia.tasks.parse import agreement, gold

    found = agreement(trees, gold(data))
    tell(
        f"{found.sentences:,} sentences; unlabelled spans of two words or more, the whole sentence's left out\n"
        f"sentence F1 {100 * found.sentence:.1f} (1 or 0 for a sentence that has no such span), corpus F1 "
        f"{100 * found.corpus:.1f}: precision {100 * found.precision:.1f}, recall {100 * found.recall:.1f}"
    )
    for label, (share, count) in list(found.labels.items())[:8]:
        tell(f"  {label:6} {100 * share:5.1f} % of {count:,} found")


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
    path = Path(parsed.out) if parsed.out else run.path / "detect.csv"
    codes.write_scores(scores, sets, odd, path)
    say(f"wrote {path}")
    order = ranked(scores)
    _oddest(run, sets, order, path)
    _detected(parsed.score, scores, order, sets, odd)
    if parsed.score == "likelihood":
        tell(advice(model, data))


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
        _sheet(run, x.reshape(-1, across, *run.schema.event_shape), path.with_suffix(".png"))


def _detected(score: str, scores: Any, order: Any, sets: Sequence[tuple[str, Any]], odd: Any) -> None:
    from latentia.tasks import auroc
    from latentia.tasks.codes import places

    where = places(sets)
    unit = "nats per step" if sets[0][1].schema.kind in ("sequence", "text") else "nats"
    tell(f"{len(scores):,} data by {score}, {unit}, the larger the odder: median {float(scores.nanmedian()):.2f}")
    if len(order) < len(scores):
        tell(f"  {len(scores) - len(order):,} of which nothing is observed: they have no score")
    for i in order[:10].tolist():
        tell(f"  {float(scores[i]):12.2f}  {where[i][0]}, row {where[i][1]}")
    if odd is not None:
        tell(f"AUROC {auroc(scores[~odd], scores[odd]):.4f}: the chance that an odd datum is ranked above another")


def gap(arguments: list[str]) -> None:
    """What lies between log p(x) and the bound: what the encoder gives away, and what its family of posteriors does."""
    parser = Parser("gap", str(gap.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--steps", type=Whole(1), default=200, help="of per-datum inference, from the encoder's output")
    parser.add_argument("--lr", type=Rate(), default=0.05, help="of these steps")
    parser.add_argument("--importance_samples", type=Whole(1), default=1000, help="for log p(x) and both bounds")
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    from latentia.tasks import gaps

    data = chosen_data(run, parsed)
    options = {name: getattr(parsed, name) for name in ("steps", "lr", "importance_samples", "seed")}
    found = gaps(run.model(), data, **options, progress=True)
    parts = ("log_marginal", "refined", "amortized", "approximation", "amortization")
    means = {name: float(getattr(found, name).mean()) for name in parts}
    errors = {name: _error(getattr(found, name)) for name in parts}
    if parsed.json:
        known = {name: error if math.isfinite(error) else None for name, error in errors.items()}
        tell(json.dumps({"n": len(data), "units": data.schema.unit, "means": means, "standard_errors": known}))
        return
    labels = ("log p(x)", "ELBO, q refined", "ELBO, the encoder's q", "approximation gap", "amortization gap")
    tell(f"{len(data):,} data; {data.schema.unit}; mean ± standard error over the data")
    for name, label in zip(parts, labels, strict=True):
        tell(f"  {label:22} {means[name]:10.3f} ± {errors[name]:.3f}")


def report(arguments: list[str]) -> None:
    """Write the HTML report of a run again."""
    parser = Parser("report", str(report.__doc__))
    add_run(parser)
    run = opened(parser.parse(arguments))
    say(f"report: {run.report()}")


HALVES = ("top", "bottom", "left", "right")


class Hide:
    """What is taken away from data: a half of each image, or a share of all values at random."""

    def __init__(self, text: str):
        self.text, self.share = text, 0.0
        if text.startswith("random:"):
            with contextlib.suppress(ValueError):
                self.share = float(text.removeprefix("random:"))
        if text not in HALVES and not 0 < self.share < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(HALVES)} or random:SHARE, such as 0.5")

    def mask(self, data: Any, batch: Any, seed: int) -> Any:
        """The shape of the batch's x, True = hidden."""
        import torch

        if self.share:
            generator = torch.Generator().manual_seed(seed)
            return (torch.rand(batch.x.shape, generator=generator) < self.share) & batch.observed
        if data.schema.kind != "image":
            raise OptionError(f"--hide {self.text} is for images, these data are {data.schema.kind}")
        hidden = torch.zeros_like(batch.x, dtype=torch.bool)
        height, width = batch.x.shape[1:3]
        rows = {"top": slice(0, height // 2), "bottom": slice(height // 2, None)}.get(self.text, slice(None))
        columns = {"left": slice(0, width // 2), "right": slice(width // 2, None)}.get(self.text, slice(None))
        hidden[:, rows, columns] = True
        return hidden


def _padded_to(hidden: Any, x: Any) -> Any:
    """A mask of a batch that was cut to its longest sequence, for the data that it came from."""
    import torch

    if hidden.shape == x.shape:
        return hidden
    whole = torch.zeros_like(x, dtype=torch.bool)
    whole[:, : hidden.shape[1]] = hidden
    return whole


def _rows_by_columns(text: str) -> tuple[int, int]:
    try:
        rows, columns = map(int, text.lower().split("x"))
    except ValueError:
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows and of columns, such as 8x12")
    return rows, columns


def _showable(run, option: str) -> None:
    from latentia.report import pictures

    if not pictures.showable(run.schema):
        raise OptionError(f"{option} makes a picture, and these data are {run.schema.describe()}")


def _sheet(run, images: Any, path: Path, top: float | None = None) -> None:
    """Write images (rows, columns, ...) as one PNG file."""
    from latentia.data.files import atomic_write
    from latentia.data.grids import sheet
    from latentia.report import pictures

    if path.suffix != ".png":
        raise OptionError(f"{path}: pictures are written as .png")
    images = images.reshape(*images.shape[:2], *run.schema.event_shape).detach().cpu().double().numpy()
    top = pictures.white(run.schema, images) if top is None else top
    atomic_write(path, sheet(images, top))
    say(f"wrote {path}")
