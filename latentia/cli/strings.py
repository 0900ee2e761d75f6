"""The commands that align and decode."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from latentia.cli.parsing import Parser, Whole, say, tell
from latentia.cli.runs import add_other, add_out, add_run, chosen_data, opened
from latentia.errors import OptionError

SHOWN = 5
"""Data of which what was decoded is shown beside the truth."""


def decode(arguments: list[str]) -> None:
    """What a recording says, or what a sentence is in the other language: the most probable x given its context. Of
    held-out or other data with the truth, how many symbols are wrong.

    One command for both, as it is one question, argmax p(x | context); `latentia align` answers the other one, which
    part of the context each symbol comes from, argmax p(z | x, context).
    """
    parser = Parser("decode", str(decode.__doc__))
    add_run(parser)
    parser.add_argument(
        "source", nargs="*", help=".wav files, or sentences to translate; the run's held-out data where there is none"
    )
    add_other(parser, "instead of the run's own held-out data")
    parser.add_argument("--width", type=Whole(1), default=5, help="strings that the search keeps; 1 is greedy")
    add_out(parser)
    parsed = parser.parse(arguments)
    if parsed.source and parsed.data is not None:
        raise OptionError("sources and --data: give one or the other")
    run = opened(parsed, "first")
    if run.schema.context is None:
        raise OptionError(f"{run.config.model} was fitted without a context: `latentia sample` draws x from it")
    model = run.model()
    if parsed.source:
        tell("\n".join(_lines(run, *_decoded(model, _sources(run, parsed.source), parsed))))
        return
    data = chosen_data(run, parsed)
    assert data.context is not None  # the run's schema has one
    lines = _lines(run, *_decoded(model, data.context.batch(), parsed))
    from latentia.data.files import atomic_write

    path = Path(parsed.out) if parsed.out else run.path / "decode.txt"
    atomic_write(path, ("\n".join(lines) + "\n").encode())
    say(f"wrote {path}")
    _tell_errors(run, data, lines)


def align(arguments: list[str]) -> None:
    """Where in its context each symbol comes from: for each datum a line of j-t, the place in the context and that in
    x, from 0 (the form that tools for word alignments read); symbols from nowhere are left out."""
    parser = Parser("align", str(align.__doc__))
    add_run(parser)
    add_other(parser, "instead of the run's own held-out data")
    add_out(parser)
    parsed = parser.parse(arguments)
    run = opened(parsed, "first")
    from latentia.data.files import atomic_write
    from latentia.tasks.align import align as aligned
    from latentia.tasks.align import pharaoh

    found = aligned(run.model(), chosen_data(run, parsed))
    path = Path(parsed.out) if parsed.out else run.path / "align.txt"
    atomic_write(path, ("\n".join(map(pharaoh, found)) + "\n").encode())
    say(f"wrote {path}")
    words, nowhere = (sum(count) for count in zip(*map(_counted, found), strict=True))
    tell(f"{words:,} symbols of {len(found):,} data aligned; {nowhere:,} come from nowhere")


def _counted(share: Any) -> tuple[int, int]:
    return len(share), int((share.argmax(-1) == 0).sum())


def _decoded(model: Any, context: Any, parsed: argparse.Namespace) -> Any:
    from latentia.tasks import decode as strings_of

    return strings_of(model, context, width=parsed.width)


def _lines(run: Any, x: Any, lengths: Any) -> list[str]:
    return [" ".join(map(str, symbols)) for symbols in run.schema.decode(x.cpu(), None, lengths.cpu())]


def _sources(run: Any, given: list[str]) -> Any:
    """Recordings or sentences of the command line, read as the contexts that the run was fitted with."""
    schema = run.schema.context
    if schema.kind == "text":
        from latentia.data.prose import Prose
        from latentia.data.sequences import from_items

        raw, prose = from_items(given, "the command line"), run.config.data.prose
        return schema.encode(raw if prose == Prose() else prose.apply(raw)).batch()
    from latentia.data.audio import sounds

    return schema.encode(sounds([Path(path) for path in given], "the command line")).batch()


def _tell_errors(run: Any, data: Any, lines: list[str]) -> None:
    from latentia.tasks.decode import error_rate

    lengths = None if data.lengths is None else data.lengths - int(data.schema.ends)
    said = _lines(run, data.x, lengths)
    found = error_rate([line.split() for line in said], [line.split() for line in lines])
    right = sum(one == other for one, other in zip(said, lines, strict=True))
    for one, other in list(zip(said, lines, strict=True))[:SHOWN]:
        tell(f"  {one}\n→ {other}")
    tell(
        f"{found.edits:,} of {found.symbols:,} symbols wrong (put in, left out or changed): {100 * found.rate:.2f} %; "
        f"{right:,} of {len(said):,} without a mistake"
    )
