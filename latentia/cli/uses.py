"""What a fitted model is used for: a command for each use."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from latentia.cli.parsing import Parser, Rate, Whole, say, tell
from latentia.cli.runs import (
    add_other,
    add_out,
    add_run,
    add_text,
    chosen_data,
    opened,
    origin_of,
    other_data,
    others,
    texts,
    write,
)
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
        help="the context of all of them, by name (those of held-out data, in turn, if left out); or their class, by "
        "the column that --labels named at the fit",
    )
    parser.add_argument("--seed", type=Whole(0), default=0, help="of every random number")
    add_out(parser)
    _add_decoding(parser)
    _add_diffusing(parser)
    parser.add_argument("--begin", metavar="WORDS", help="the first words of all of them, where the model writes text")
    parsed = parser.parse(arguments)
    from latentia.tasks import generate

    how = _decoding(parsed)
    run = opened(parsed)
    if how is not None or parsed.begin is not None:
        _sentences(run, parsed, how)
        return
    if parsed.mean and run.schema.values == "symbols":
        raise OptionError("--mean: between two symbols there is none; leave it out to draw them")
    count = parsed.grid[0] * parsed.grid[1] if parsed.grid else parsed.n
    if parsed.grid:
        _showable(run, "--grid")
    if run.schema.chroma:
        _colourings(run, parsed)
        return
    given = _given(run, parsed.given, count)
    model = _diffusing(run.model(), parsed)
    drawn, _ = generate(model, count, **given, seed=parsed.seed, mean=parsed.mean)
    if parsed.grid:
        write_sheet(run, drawn.x.unflatten(0, parsed.grid), Path(parsed.out) if parsed.out else run.path / "sample.png")
    else:
        write(run, parsed, drawn.x, drawn.lengths, "sample")
        _show_texts(run, drawn.x, drawn.lengths)


def _colourings(run, parsed: argparse.Namespace) -> None:
    """Held-out grey images coloured in, as a picture beside the truth; or the draws alone, sRGB of 0 to 255."""
    import numpy as np

    from latentia.report.colourings import colourings
    from latentia.tasks import generate

    if parsed.mean or parsed.given:
        raise OptionError(
            "--mean and --given: what is given is a grey image, and the picture has the mean; leave it out"
        )
    say("each draw is given the grey image of a held-out datum")
    data = run.held_out.subset([i % len(run.held_out) for i in range(parsed.n)])
    path = Path(parsed.out) if parsed.out else run.path / "sample.png"
    if path.suffix == ".png":
        found = colourings(run.model(), data, parsed.seed)
        _write_picture(np.stack(list(found.values())), path)
        tell("from the top: " + ", ".join(found))
        return
    drawn, _ = generate(run.model(), len(data), context=data.context.batch(), seed=parsed.seed)
    _write_colours(data.schema, data.context.x, drawn.x, path)


def _write_colours(schema: Any, grey: Any, chroma: Any, path: Path) -> None:
    """Write images in colour, sRGB of 0 to 255, of their grey images and their chroma."""
    from latentia.data import Schema
    from latentia.data.colour import coloured

    images = coloured(grey.numpy(), chroma.numpy(), schema.grid)
    Schema("image", "levels", images.shape[1:], levels=256).write(images, path)
    say(f"wrote {path}")


def _add_decoding(parser: Parser) -> None:
    group = parser.add_argument_group("how words are chosen, by a model that writes text one after another")
    group.add_argument("--temperature", type=Rate(), help="below 1 the probable ones become more so")
    group.add_argument("--top_k", type=Whole(1), help="only so many most probable ones")
    group.add_argument("--top_p", type=Rate(), help="only the fewest that together have this probability (nucleus)")
    group.add_argument("--greedy", action="store_true", help="always the most probable one")
    group.add_argument("--beam", type=Whole(1), metavar="WIDTH", help="the text that a beam search of this width finds")
    group.add_argument("--length_penalty", type=Rate(), help="of the beam search: log p(x) / length^a is compared")


def _add_diffusing(parser: Parser) -> None:
    group = parser.add_argument_group("how a diffusion is drawn from")
    group.add_argument("--steps", type=Whole(1), help="of its network")
    group.add_argument("--guidance", type=Rate(), help="how much the context counts: 1 is the model itself")
    group.add_argument("--method", choices=("ancestral", "ddim"), help="its own conditionals, or the map without noise")


def _diffusing(model: Any, parsed: argparse.Namespace) -> Any:
    """The model, which draws as is asked for."""
    given = {name: getattr(parsed, name) for name in ("steps", "guidance", "method")}
    given = {name: value for name, value in given.items() if value is not None}
    how = getattr(model, "sampling", None)
    for name in given:
        if not hasattr(how, name):
            raise OptionError(f"--{name}: {type(model).__name__} draws without; leave it out")
    if how is not None:
        model.sampling = replace(how, **given)
    return model


def _decoding(parsed: argparse.Namespace):
    """How words are to be chosen; None where nothing is asked for."""
    given = {name: getattr(parsed, name) for name in ("temperature", "top_k", "top_p", "length_penalty")}
    given = {name: value for name, value in given.items() if value is not None}
    if parsed.greedy and parsed.beam:
        raise OptionError("--greedy and --beam: leave one out")
    if "length_penalty" in given and not parsed.beam:
        raise OptionError("--length_penalty is for --beam WIDTH, which is not given")
    if not (given or parsed.greedy or parsed.beam):
        return None
    from latentia.distributions.decoding import Decoding

    if parsed.beam:
        return Decoding("beam", width=parsed.beam, **given)
    return Decoding("greedy" if parsed.greedy else "sample", **given)


def _sentences(run, parsed: argparse.Namespace, how) -> None:
    """Texts whose words are chosen as asked for, or that begin as asked for."""
    from latentia.tasks import completed, written

    for name in ("grid", "mean"):
        if getattr(parsed, name):
            raise OptionError(f"--{name} does not go with options of how words are chosen: leave it out")
    given = {} if parsed.given is None else _given(run, parsed.given, parsed.n)
    if "context" in given:
        raise OptionError("--given a context does not go with options of how words are chosen: leave it out")
    if parsed.begin is None:
        batch = written(run.model(), parsed.n, how, **given, seed=parsed.seed)
    else:
        from latentia.batch import Batch

        begun = texts(run, [parsed.begin]).batch()
        ends = begun.ends - int(run.schema.ends)
        first = Batch.of(begun.x[:, : int(ends)], lengths=ends, **given)
        batch = completed(run.model(), first, how=how, draws=parsed.n, seed=parsed.seed)
    write(run, parsed, batch.x, batch.lengths, "sample")
    _show_texts(run, batch.x, batch.lengths)


def _show_texts(run, x: Any, lengths: Any) -> None:
    """Print text, a line each."""
    if run.schema.kind == "text":
        tell("\n".join(" ".join(words) for words in run.schema.decode(x, None, lengths)))


def _given(run, text: str | None, count: int) -> dict[str, Any]:
    """What each draw is given: a context, or a class where the run has learned from labels."""
    classes, column = run.schema.classes, run.config.data.labels
    if run.schema.context is not None or text is None or not classes:
        return {"context": _context(run, text, count)}
    name, equals, value = text.partition("=")
    if not equals or name.strip() != column:
        raise OptionError(f"--given {text}: write {column}=CLASS, a class being one of {', '.join(classes)}")
    if value.strip() not in classes:
        raise OptionError(f"--given {text}: {column} is one of {', '.join(classes)}")
    from torch import zeros

    known = zeros(1, len(classes))
    known[0, classes.index(value.strip())] = 1
    return {"known": known}


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
    add_text(parser)
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed)
    from latentia.tasks import codes

    model = run.model()
    data = other_data(run, parsed) if others(parsed) else run.held_out
    of = origin_of(run, parsed, data)
    path = Path(parsed.out) if parsed.out else run.path / f"encode{codes.suffix(model, data, of)}"
    codes.write(model, data, path, origin=of)
    say(f"wrote {path}")
    if parsed.text and path.suffix != ".npy":
        tell(path.read_text("utf-8").rstrip("\n"))


def interpolate(arguments: list[str]) -> None:
    """The way from one datum to another: decoded points on the line between their posterior means."""
    parser = Parser("interpolate", str(interpolate.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    add_text(parser)
    parser.add_argument("--start", type=Whole(1), default=1, help="number of the first datum, from 1")
    parser.add_argument("--end", type=Whole(1), default=2, help="number of the other datum, from 1")
    parser.add_argument("--steps", type=Whole(2), default=8, help="how many points, both ends among them")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed)
    from latentia.tasks import interpolate as between

    data = other_data(run, parsed) if others(parsed) else run.held_out
    for name in ("start", "end"):
        if not 1 <= getattr(parsed, name) <= len(data):
            raise OptionError(f"--{name} {getattr(parsed, name)}: there are data 1 to {len(data)}")
    model = run.model()
    pair = data.frozen(run.config.seed).batch([parsed.start - 1, parsed.end - 1], model.anchor.dtype)
    if run.schema.kind == "text":
        from latentia.tasks import homotopy

        x = homotopy(model, pair, steps=parsed.steps)[0]
        write(run, parsed, x, None, "interpolate")
        _show_texts(run, x, None)
        return
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
    from latentia.tasks.complete import errors

    model = run.model()
    data = chosen_data(run, parsed).frozen(parsed.seed)
    whole = data.batch()
    if parsed.hide is None and not bool(whole.hidden.any()):
        raise OptionError("nothing is missing in these data: leave cells empty, or hide a part of them by --hide")
    hidden = torch.zeros_like(whole.hidden) if parsed.hide is None else parsed.hide.mask(data, whole, parsed.seed)
    batch = type(whole).of(whole.x, ~(whole.hidden | hidden), whole.lengths, context=whole.context)
    found = fill(model, batch, sweeps=parsed.sweeps, seed=parsed.seed)
    # between two symbols there is none, so for them a mean means nothing
    symbolic = data.schema.values == "symbols" or data.schema.chroma
    filled = found.draws[0] if parsed.draw or symbolic else found.mean
    dtype = torch.promote_types(filled.dtype, whole.x.dtype)
    x = torch.where(batch.hidden, filled.cpu().to(dtype), whole.x.to(dtype))
    path = _write_filled(run, parsed, data, x, batch)
    _count_filled(batch)
    if parsed.hide is None:
        return
    _completions(run, whole, batch, found, path)
    for line in errors(data.schema, x, whole.x, hidden & whole.observed):
        tell(line)
    if parsed.importance_samples:
        options = {"importance_samples": parsed.importance_samples, "seed": parsed.seed, "progress": True}
        _conditional(conditional_log_likelihood(model, data, _padded_to(hidden, data.x), **options), data)


def _write_filled(run, parsed: argparse.Namespace, data: Any, x: Any, batch: Any) -> Path:
    """The completed data; of a table all columns of its file, in the file's form and with its digits."""
    from latentia.data.joining import FORMS, beside, filled, write_columns

    of, names = origin_of(run, parsed, data), run.schema.names
    path = Path(parsed.out) if parsed.out else run.path / f"complete{of.suffix}"
    if run.schema.chroma:
        path = path if parsed.out else path.with_suffix(".png")
        _write_colours(data.schema, data.context.x, x, path)
        return path
    if run.schema.kind != "table" or not set(names) <= set(of.columns) or path.suffix not in FORMS or not names:
        return write(run, parsed, x, batch.lengths, "complete")
    cells = filled(of, names, run.schema.decode(x), batch.hidden.cpu().numpy())
    columns = beside(replace(of, columns=cells), {}, numbered=not of.all)
    write_columns(columns, path, of.separator)
    say(f"wrote {path}")
    return path


def _count_filled(batch: Any) -> None:
    hidden = batch.hidden.flatten(1)
    rows, cells = int(hidden.any(1).sum()), int(hidden.sum())
    tell(f"filled in {cells:,} values of {rows:,} data; the other {len(hidden) - rows:,} data are complete")


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
    write_sheet(run, rows, path.with_name(f"{path.stem}-sheet.png"), top)


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
        write_sheet(run, x, Path(parsed.out) if parsed.out else run.path / "traverse.png")
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
    import torch

    from latentia.data.cells import label
    from latentia.tasks import agreement, codes, responsibilities
    from latentia.tasks.cluster import classes
    from latentia.tasks.profiles import profiles, shown

    data = chosen_data(run, parsed, labels=parsed.labels)
    shares = responsibilities(run.model(), data)
    of = origin_of(run, parsed, data)
    path = Path(parsed.out) if parsed.out else run.path / f"cluster{of.suffix}"
    codes.write_clusters(shares, data, path, of)
    say(f"wrote {path}")
    for one in profiles(shares, data):
        tell(f"cluster {one.cluster}: {one.size:,} data ({one.share:.1%})" + (f": {one.words}" if one.words else ""))
    for line in shown(shares, data, of.numbers):
        tell(line)
    if data.labels is None:
        return
    # a cell may be empty: there is a label to learn from, and none to compare with
    known = torch.tensor([label(one) != "" for one in data.labels])
    found, named = shares.argmax(-1).cpu()[known], classes(data.subset(known))
    tell(
        f"{len(found):,} data in {len(found.unique())} clusters, {len(named.unique())} classes\n"
        f"accuracy {agreement.one_to_one(found, named):.4f} (each class to one cluster at most)\n"
        f"NMI {agreement.v_measure(found, named):.4f}, ARI {agreement.adjusted_rand_index(found, named):.4f}"
    )


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


def show(arguments: list[str]) -> None:
    """What a run has found: its model's clusters, states or topics, from the fitted parameters, and how good it is."""
    parser = Parser("show", str(show.__doc__))
    parser.add_argument("run", metavar="RUN", help="run directory, or a file that `model.save` wrote")
    parsed = parser.parse(arguments)
    import latentia

    if Path(parsed.run).is_file():
        tell(str(latentia.load_model(parsed.run).summary()))
        return
    run = latentia.open_run(parsed.run)
    tell(str(run.summary()))
    found = run.evaluation
    if found is not None:
        from latentia.report.quality import headline

        told = headline(found, found["evaluated_on"].startswith("the training data"))
        tell(f"\n{told['name']} {told['value']}, {told['units']}; {told['on']}\n{found['verdict']}")


def report(arguments: list[str]) -> None:
    """Write the HTML report of a run again; of a sweep those of all its members, and the page that links to them."""
    parser = Parser("report", str(report.__doc__))
    parser.add_argument("run", metavar="RUN", help="directory of a run or of a sweep")
    parsed = parser.parse(arguments)
    if (Path(parsed.run) / "sweep.json").exists():
        from latentia.runs.sweep import report as report_sweep

        say(f"report: {report_sweep(Path(parsed.run))}")
        return
    say(f"report: {opened(parsed).report()}")


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


def write_sheet(run, images: Any, path: Path, top: float | None = None) -> None:
    """Write images (rows, columns, ...) as one PNG file."""
    from latentia.report import pictures

    if path.suffix != ".png":
        raise OptionError(f"{path}: pictures are written as .png")
    images = images.reshape(*images.shape[:2], *run.schema.event_shape).detach().cpu().double().numpy()
    _write_picture(images, path, pictures.white(run.schema, images) if top is None else top)


def _write_picture(images: Any, path: Path, top: float = 1.0) -> None:
    from latentia.data.files import atomic_write
    from latentia.data.grids import sheet

    atomic_write(path, sheet(images, top))
    say(f"wrote {path}")
