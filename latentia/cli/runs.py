"""What the commands on a fitted run share: the run, its data or others, and a file for what comes out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from latentia.cli.parsing import Whole, say
from latentia.errors import OptionError


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory, as `latentia fit` makes them")


def add_other(parser: argparse.ArgumentParser, instead: str) -> None:
    parser.add_argument("--data", help=f"a built-in name or a path, {instead}")
    parser.add_argument("--key", help="name of the array in an .npz or .mat file")
    parser.add_argument("--columns", help="columns of a table, as a,b,c")
    parser.add_argument("--weight", help="column of a table that says how often each row counts")
    parser.add_argument("--context", help="what the model is given, where that is not named as in the run's own data")
    parser.add_argument("--first", type=Whole(1), help="only the first so many data")


def add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text",
        action="append",
        metavar="SENTENCE",
        help="a sentence in the place of --data, several times for several; - reads standard input, one a line",
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", help="file to write; its suffix says how (.csv .npy .png .txt .jsonl)")


def opened(parsed: argparse.Namespace, *of_any: str):
    """The run; options `of_any` are of any data, not only of --data."""
    if getattr(parsed, "text", None) and parsed.data:
        raise OptionError("--text and --data both say which data: leave one out")
    if getattr(parsed, "data", "") is None:
        for name in ("key", "columns", "weight", "context", "first"):
            if getattr(parsed, name) is not None and name not in of_any:
                raise OptionError(f"--{name} says how to read --data, which is not given")
    from latentia.runs.directory import Run

    return Run.open(Path(parsed.run))


def others(parsed: argparse.Namespace) -> bool:
    """Whether other data are asked for than the run's own."""
    return bool(parsed.data or getattr(parsed, "text", None))


def texts(run, given: list[str]):
    """Sentences of the command line or of standard input, read as the run's schema says."""
    from latentia.data.sequences import from_items, read_lines

    if run.schema.kind != "text":
        raise OptionError(f"--text: {run.config.model} was fitted on {run.schema.describe()}, and not on text")
    if given == ["-"]:
        lines = read_lines(sys.stdin.buffer.read(), "standard input")
        import numpy as np

        raw = from_items([text for _, text in lines], "standard input", np.array([line for line, _ in lines]))
    else:
        raw = from_items(given, "--text")
    return run.schema.encode(raw)


def other_data(run, parsed: argparse.Namespace):
    if getattr(parsed, "text", None):
        return texts(run, parsed.text)
    return run.other(parsed.data, **_reading(parsed))


def _reading(parsed: argparse.Namespace) -> dict[str, Any]:
    """How to read --data."""
    options = {name: getattr(parsed, name, None) for name in ("key", "columns", "weight", "context", "first")}
    return {name: value for name, value in options.items() if value is not None}


def chosen_data(run, parsed: argparse.Namespace, labels: str | None = None):
    """The data of --data, with labels where there are some, or the run's held-out data; the first so many."""
    if getattr(parsed, "text", None):
        return texts(run, parsed.text)
    if parsed.data is None:
        if labels is not None:
            raise OptionError("--labels belong to --data, which is not given")
        if not len(run.parts.test):
            say(f"these are {run.evaluated_on}")
        return run.held_out.subset(slice(0, parsed.first))
    return run.other(parsed.data, **_reading(parsed), **({} if labels is None else {"labels": labels}))


def origin_of(run, parsed: argparse.Namespace, data: Any):
    """What the data were in the file that they came from, for results to stand beside. A stream's file is too large."""
    from latentia.data.joining import Origin, origin

    if parsed.data is None and run.config.data.stream:
        return Origin(data.rows.tolist(), {})
    return origin(run.config.data.source if parsed.data is None else parsed.data, data)


RAGGED = ("sequence", "text")


def write(run, parsed: argparse.Namespace, x: Any, lengths: Any, verb: str) -> Path:
    suffix = {"image": ".png", "table": ".csv", "text": ".txt"}.get(run.schema.kind, ".jsonl")
    path = Path(parsed.out) if parsed.out else run.path / f"{verb}{suffix}"
    if run.schema.kind not in RAGGED:
        x = x.reshape(-1, *run.schema.event_shape)  # a mixture sees an image as one row
    run.schema.write(x, path, None, lengths)
    say(f"wrote {path}")
    return path
